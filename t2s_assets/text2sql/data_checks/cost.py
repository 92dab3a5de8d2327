"""What a training would take, estimated before it: passes over the data from minutes, or minutes from passes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from t2s_assets.text2sql.config import TrainingConfig
from t2s_assets.text2sql.storage import find_manifest


@dataclass(frozen=True)
class Cost:
    """An estimate of one training.

    tokens: of one pass over the examples, prompts and completions. passes: over them, None where a time budget ends
    the training and no rate is known. minutes: of the steps alone, None without a rate. rate: tokens a second, and
    basis says where that comes from.
    """

    examples: int
    tokens: int
    passes: float | None
    minutes: float | None
    rate: float | None
    basis: str


def training_cost(
    training: TrainingConfig,
    examples: int,
    tokens: int,
    *,
    rate: float | None,
    adapter: Path | None = None,
    nodes: int = 1,
) -> Cost:
    """The cost of training on `examples` with `tokens` in all.

    `rate` is in tokens a second; without it, that of the last training in the folder `adapter` is taken, where there
    is one: the same base on the same machine, one hopes.
    """
    basis = "at the rate given"
    if rate is None and adapter is not None and (trained := find_manifest(adapter, made_by="t2s train")) is not None:
        # An earlier version told 0 of a training that was resumed with no step left.
        rate, basis = trained.get("tokens_a_second") or None, "at the rate of its last training"
    if rate is None:
        basis = "how many passes that makes, --rate tells" if training.budget_minutes else "no rate is known"
    minutes = training.budget_minutes
    if training.epochs is not None:
        passes: float | None = training.epochs
    elif training.max_steps is not None:
        batch = training.batch_size * training.gradient_accumulation * training.processes * nodes
        passes = training.max_steps * batch / examples
    else:
        passes = None if rate is None or minutes is None else minutes * 60 * rate / tokens
    if minutes is None and passes is not None and rate is not None:
        minutes = passes * tokens / rate / 60
    return Cost(examples, tokens, passes, minutes, rate, basis)
