"""What must hold of the training examples before the clock starts; each rule has its name in the answer.

Everything here is a defect that training would hide: the loss falls, and the model is worth nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from t2s_assets.text2sql.errors import ConfigError, DataError, ModelError
from t2s_assets.text2sql.plain_text import decode, encode
from t2s_assets.text2sql.prompts import IGNORED, encode_example
from t2s_assets.text2sql.storage import Project, read_manifest

_LORA = ("lora_A", "lora_B", "lora_magnitude_vector", "lora_embedding_")


def example_problems(
    examples: Iterable[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]], tokenizer: Any, *, max_length: int
) -> Counter[str]:
    """How many tokenised training examples break which rule. `rows` are the prompts they were made from, in order.

    - the completion mask: some token is learnt, also after truncation to `max_length`;
    - EOS is learnt, once, at the end: without it the model would not stop;
    - only the completion is learnt, and its tokens decode back to the gold SQL.
    """
    problems: Counter[str] = Counter()
    for example, row in zip(examples, rows, strict=True):
        ids, labels = example["input_ids"], example["labels"]
        learnt = [label for label in labels[:max_length] if label != IGNORED]
        if not learnt:
            problems["no token to learn within max_length"] += 1
            continue
        problems["EOS not learnt at the end"] += learnt[-1] != tokenizer.eos_token_id or len(ids) > max_length
        problems["EOS inside the completion"] += tokenizer.eos_token_id in learnt[:-1]
        problems["labels that are not the input's tokens"] += any(
            label not in (IGNORED, token) for label, token in zip(labels, ids)
        )
        gold = learnt[:-1] if learnt[-1] == tokenizer.eos_token_id else learnt
        text = decode(tokenizer, gold)
        problems["label tokens that do not decode to the gold SQL"] += text != row["completion"]
    return +problems


def tables_apart(project: Project, dataset: str) -> bool:
    """Whether each split has tables of its own. Data of one's own say how they were split: it can be by question."""
    return "split_by" not in read_manifest(project.path(dataset, "questions"), made_by=f"t2s prepare {dataset}")


def data_problems(data: Mapping[str, Any], tokenizer: Any, *, max_length: int, apart: bool) -> Counter[str]:
    """The problems of an experiment's prompts (`prompt_datasets.load_prompts`): its training examples, and where the
    splits are to have tables `apart`, those that do not."""
    rows = data["train"].to_list()
    prompts, completions = (encode(tokenizer, [r[n] for r in rows]) for n in ("prompt", "completion"))
    examples = (encode_example(p, c, tokenizer.eos_token_id) for p, c in zip(prompts, completions))
    found = example_problems(examples, rows, tokenizer, max_length=max_length)
    return found + (split_problems({split: data[split]["table_id"] for split in data}) if apart else Counter())


def split_problems(tables: Mapping[str, Iterable[str]]) -> Counter[str]:
    """How many tables of the test and the validation split are in the training set, from each split's table ids."""
    train = set(tables["train"])
    others = [split for split in ("validation", "test") if split in tables]
    return +Counter({f"{split} tables in the training set": len(train & set(tables[split])) for split in others})


def token_problems(tokenizer: Any, embeddings: int) -> Counter[str]:
    """Tokens beyond the base model's `embeddings` rows: they would need new rows, which a LoRA adapter cannot hold."""
    return +Counter({"tokens without an embedding in the base model": max(0, len(tokenizer) - embeddings)})


def check_context(config: Any, longest: int) -> None:
    """Refuse examples of up to `longest` tokens that are longer than the context of a base with this configuration.

    Raises:
        ConfigError: names the setting. Tokens from there on have positions that the base never saw, or that it lacks.
    """
    context = getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)
    if context is not None and longest > context:
        raise ConfigError(
            f"prompt.max_length: the longest example has {longest:,} tokens and the base model's context {context:,}; "
            f"use prompt.max_length: {context} or less, which leaves longer ones out"
        )


def refuse(problems: Mapping[str, int], *, what: str, way_out: str) -> None:
    """Raises DataError when there are problems."""
    if problems:
        listed = ", ".join(f"{rule}: {count:,}" for rule, count in problems.items())
        raise DataError(f"{what} would spoil training ({listed}); {way_out}")


def check_adapter_keys(keys: Iterable[str]) -> None:
    """Raises ModelError when an adapter's weights hold more than LoRA matrices, such as resized embeddings."""
    if other := sorted(k for k in keys if not any(part in k for part in _LORA)):
        raise ModelError(
            f"the adapter would hold {len(other)} tensors that are no LoRA weights, such as {other[0]}: the base's "
            "embeddings or head were changed in training. Train on a base whose tokenizer fits its embeddings"
        )


def packing_leak(model: Any, collate: Any, example: Mapping[str, Any], poisons: Sequence[Mapping[str, Any]]) -> float:
    """How far a neighbour reaches: the greatest change of an example's logits when what is packed before it changes.

    `collate` makes one packed batch of a list of examples, as training does. Beyond rounding, the value is 0 where
    attention keeps examples apart. `poisons` are two neighbours of one length.
    """
    import torch

    if len({len(p["input_ids"]) for p in poisons}) != 1:
        raise ValueError("neighbours of one length are wanted, or positions would differ with them")
    seen = []
    model.eval()
    for poison in poisons:
        batch = collate([poison, example])
        batch = {
            k: v.to(model.device) if torch.is_tensor(v) else v
            for k, v in batch.items()
            if k not in ("labels", "length")
        }
        with torch.inference_mode():
            logits = model(**batch, use_cache=False).logits
        seen.append(logits[0, len(poison["input_ids"]) :][: len(example["input_ids"])].float())
    return float((seen[0] - seen[1]).abs().max())


def check_packing(model: Any, collate: Any, examples: Sequence[Mapping[str, Any]]) -> None:
    """Pack an example behind two neighbours and see that it does not notice. Raises ModelError when it does."""
    first = max((examples[i] for i in range(min(64, len(examples)))), key=lambda e: len(e["input_ids"]))
    example = {n: list(first[n]) for n in ("input_ids", "labels")}
    tokens = model.get_input_embeddings().weight.shape[0]
    poisons = [{n: [(7 * i + k) % tokens for i in range(32)] for n in ("input_ids", "labels")} for k in (1, 11)]
    reach = packing_leak(model, collate, example, poisons)
    # Half of what 16-bit rounding alone can do to a logit of usual size.
    if reach > 0.05:
        raise ModelError(
            f"training.packing: a packed example's logits change by {reach:.3g} with its neighbour, so examples leak "
            "into each other here; set packing: false"
        )
