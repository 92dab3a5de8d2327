"""How long a training step takes, from a few real ones that change nothing."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from typing import Any

from t2s_assets.text2sql.config import TrainingConfig
from t2s_assets.text2sql.prompts import IGNORED


def timed_step(trainer: Any, lengths: Sequence[int], config: TrainingConfig, *, timed: int = 6) -> float:
    """Seconds of one optimizer step, from `timed` real forward and backward passes after two to warm up.

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
    trainer._metrics["train"].clear()
    trainer._total_train_tokens = 0
    random.setstate(states[0])
    torch.set_rng_state(states[1])
    return sum(seconds[2:]) / timed * config.gradient_accumulation
