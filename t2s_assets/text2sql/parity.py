"""Whether a model still answers as it did: what a merge of its adapter is held to.

A merge rounds the sum of two weights to the compute type, and merging has been known to change what a model says
(transformers issue 31293, peft 2321). So the tuned model is asked a few questions before and after.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from t2s_assets.text2sql.adapters import RESOLVED_CONFIG, Adapter
from t2s_assets.text2sql.errors import DataError
from t2s_assets.text2sql.plain_text import encode
from t2s_assets.text2sql.prompt_datasets import load_prompts
from t2s_assets.text2sql.prompts import encode_example
from t2s_assets.text2sql.storage import Project, read_json, read_manifest, write_json

PROBE = "probe.json"
"""Beside the weights: a few validation examples, `prompt` and `completion` each."""
PROBE_EXAMPLES = 32

MOST_CHANGED = 0.02
"""A merge is refused that changes more than this share of the likeliest tokens (rounding to bfloat16 alone was seen to
change 0.6 %) ..."""
MOST_LOSS = 0.02
"""... or the mean loss of a completion's tokens by more than this, in nats, or this share of it where it is over 1."""


@dataclass(frozen=True)
class Said:
    """For each example the likeliest token at each place of its completion, and the mean loss of all of them."""

    tokens: list[list[int]]
    loss: float


@dataclass(frozen=True)
class Parity:
    """What changed between two models: `changed` of `tokens` likeliest tokens, and the loss."""

    tokens: int
    changed: int
    loss_before: float
    loss_after: float

    @property
    def kept(self) -> bool:
        """Whether that is within the bounds."""
        shift = abs(self.loss_after - self.loss_before)
        return self.changed <= MOST_CHANGED * self.tokens and shift <= self._most_loss

    @property
    def _most_loss(self) -> float:
        return MOST_LOSS * max(1.0, self.loss_before)

    def __str__(self) -> str:
        return (
            f"{self.changed} of {self.tokens} likeliest tokens differ (at most {MOST_CHANGED:.0%} may), loss "
            f"{self.loss_before:.4f} before and {self.loss_after:.4f} after (at most {self._most_loss:.2f} apart)"
        )


def save_probe(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Keep the first PROBE_EXAMPLES of `rows` in an adapter's folder."""
    write_json(folder / PROBE, [{n: r[n] for n in ("prompt", "completion")} for r in rows[:PROBE_EXAMPLES]])


def load_probe(adapter: Adapter, project: Project) -> list[dict[str, str]]:
    """The adapter's probe; of one that has none, validation prompts of its project; [] where they are gone too."""
    if (adapter.folder / PROBE).is_file():
        return list(read_json(adapter.folder / PROBE, made_by=adapter.made_by))
    try:
        address = read_json(adapter.folder / RESOLVED_CONFIG, made_by=adapter.made_by).get("address", ["", ""])
        read_manifest(project.path(address[0], "prompts", address[1]), made_by="t2s prepare")
        return load_prompts(project, *address)["validation"].to_list()[:PROBE_EXAMPLES]
    except DataError:
        return []


def said(model: Any, tokenizer: Any, probe: Sequence[dict[str, str]]) -> Said:
    """What the model says along each completion of the probe, each example by itself."""
    import torch

    from t2s_assets.text2sql.decoding.pace import Pace

    pace = Pace() if model.device.type == "cpu" else nullcontext()
    prompts, completions = (encode(tokenizer, [r[n] for r in probe]) for n in ("prompt", "completion"))
    tokens, total, count = [], 0.0, 0
    for prompt, completion in zip(prompts, completions):
        example = encode_example(prompt, completion, tokenizer.eos_token_id)
        ids = torch.tensor([example["input_ids"]], device=model.device)
        with torch.inference_mode(), pace:
            logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].float()
        targets = ids[0, len(prompt) :]
        total += torch.nn.functional.cross_entropy(logits, targets, reduction="sum").item()
        count += len(targets)
        tokens.append(logits.argmax(-1).tolist())
    return Said(tokens, total / max(1, count))


def compare(before: Said, after: Said) -> Parity:
    """What changed."""
    pairs = [pair for a, b in zip(before.tokens, after.tokens) for pair in zip(a, b)]
    return Parity(len(pairs), sum(a != b for a, b in pairs), before.loss, after.loss)
