"""How long a training step takes, from a few real ones that change nothing."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Sequence
from typing import Any

from t2s_assets.text2sql.config import TrainingConfig
from t2s_assets.text2sql.prompts import IGNORED

_SHARE = 0.05


def timed_step(trainer: Any, lengths: Sequence[int], config: TrainingConfig, *, timed: int = 6) -> float:
    """Seconds of one optimizer step, from `timed` real forward and backward passes after two to warm up; fewer, but
    one at least, where they would take more than a twentieth of the run's budget.

    The batches are drawn from the training set as training draws them, spread over its lengths. Weights, optimizer
    and random state are as before afterwards.
    """
    import torch

    states = random.getstate(), torch.get_rng_state()
    # With shared schemas neighbours already stand together, and their order is not by length.
    order = list(range(len(lengths)))
    if config.questions_a_table == 1:
        order.sort(key=lengths.__getitem__)
    model, seconds = trainer.model, []
    at_most = _SHARE * 60 * config.budget_minutes if config.budget_minutes else math.inf
    for i in range(timed + 2):
        # One batch of neighbours at each of `timed` evenly spaced places.
        at = max(0, min(len(order) - config.batch_size, int((i % timed + 0.5) / timed * len(order))))
        rows = [trainer.train_dataset[j] for j in order[at : at + config.batch_size]]
        batch = trainer._prepare_inputs(trainer.data_collator(rows))
        started = time.perf_counter()
        trainer.training_step(model, batch, (batch["labels"] != IGNORED).sum())
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
        model.zero_grad(set_to_none=True)
        if i >= 2 and sum(seconds) > at_most:
            break
    trainer._metrics["train"].clear()
    trainer._total_train_tokens = 0
    random.setstate(states[0])
    torch.set_rng_state(states[1])
    return sum(seconds[2:]) / len(seconds[2:]) * config.gradient_accumulation
