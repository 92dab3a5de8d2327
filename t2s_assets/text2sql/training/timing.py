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
# Steps before the timed ones. Where nothing is cached, kernels and with `compile` layers are compiled in the first:
# seconds to minutes, once.
_WARM_UP = 2


def timed_step(trainer: Any, lengths: Sequence[int], config: TrainingConfig, *, timed: int = 6) -> float:
    """Seconds of one optimizer step, from `timed` real forward and backward passes; fewer, but one at least, where
    they would take more than a twentieth of the run's budget.

    The batches are drawn from the training set as training draws them, spread over its lengths. Weights, optimizer
    and random states, the device's too, are as before afterwards.
    """
    import torch

    from t2s_assets.text2sql.training.pace import rank_zeros

    kind = trainer.args.device.type
    device = torch.get_device_module(kind) if kind != "cpu" else None
    states = random.getstate(), torch.get_rng_state(), device.get_rng_state() if device else None
    # With shared schemas neighbours already stand together, and their order is not by length.
    order = list(range(len(lengths)))
    if config.questions_a_table == 1:
        order.sort(key=lengths.__getitem__)
    model, seconds = trainer.model, []
    at_most = _SHARE * 60 * config.budget_minutes if config.budget_minutes else math.inf
    for i in range(-_WARM_UP, timed):
        # One batch of neighbours at each of `timed` evenly spaced places.
        at = max(0, min(len(order) - config.batch_size, int((i % timed + 0.5) / timed * len(order))))
        rows = [trainer.train_dataset[j] for j in order[at : at + config.batch_size]]
        batch = trainer._prepare_inputs(trainer.data_collator(rows))
        started = time.perf_counter()
        with trainer.as_in_training():
            trainer.training_step(model, batch, (batch["labels"] != IGNORED).sum())
        if device:
            device.synchronize()
        took = time.perf_counter() - started
        model.zero_grad(set_to_none=True)
        if i < 0:
            continue
        seconds.append(took)
        # Ranks exchange gradients in a step: one whose clock let it leave would be waited for.
        if rank_zeros(int(sum(seconds) > at_most), trainer.args.device):
            break
    trainer._metrics["train"].clear()
    trainer._total_train_tokens = 0
    random.setstate(states[0])
    torch.set_rng_state(states[1])
    if device:
        device.set_rng_state(states[2])
    return sum(seconds) / len(seconds) * config.gradient_accumulation
