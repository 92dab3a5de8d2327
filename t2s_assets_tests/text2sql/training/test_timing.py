"""Timed steps: which count, and that ranks whose clocks differ take the same number."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from t2s_assets.text2sql.config import TrainingConfig
from t2s_assets.text2sql.training.timing import timed_step
from t2s_assets_tests.warm import WarmPython


def time_steps(step: Callable[[int], None], *, minutes: float, device: str = "cpu") -> tuple[float, int]:
    """Seconds of a step, and how many were taken, of a trainer whose steps are `step`, called with their number."""
    taken = 0

    def training_step(*args: Any) -> None:
        nonlocal taken
        step(taken)
        taken += 1

    trainer: Any = SimpleNamespace(
        args=SimpleNamespace(device=torch.device(device)),
        model=torch.nn.Linear(2, 2),
        train_dataset=list(range(40)),
        data_collator=lambda rows: {"labels": torch.tensor(rows)},
        training_step=training_step,
        as_in_training=nullcontext,
        _prepare_inputs=lambda batch: batch,
        _metrics={"train": Counter()},
    )
    config = TrainingConfig(max_steps=None, budget_minutes=minutes, batch_size=4)
    return timed_step(trainer, list(range(40)), config), taken


def test_compiling_in_the_first_step_leaves_the_others_their_time() -> None:
    """A twentieth of a budget of 6 s is 0.3."""
    seconds, taken = time_steps(lambda n: time.sleep(0.4 if n == 0 else 0.001), minutes=0.1)
    assert taken == 8 and seconds < 0.2
    seconds, taken = time_steps(lambda n: time.sleep(0.4), minutes=0.1)
    assert taken == 3 and 0.4 <= seconds


def test_the_devices_random_state_is_given_back_and_its_steps_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else dropout, which draws on the device, would hang on how many steps were timed."""
    done: list[Any] = []
    device = SimpleNamespace(
        get_rng_state=lambda: "before", set_rng_state=done.append, synchronize=lambda: done.append("waited")
    )
    monkeypatch.setattr(torch, "get_device_module", {"cuda": device}.__getitem__)
    _, taken = time_steps(lambda n: done.append("step"), minutes=1, device="cuda")
    assert done == ["step", "waited"] * taken + ["before"]


RANK = """
import datetime, sys, time
import torch
import torch.distributed as ranks
from t2s_assets_tests.text2sql.training.test_timing import time_steps

number = int(sys.argv[2])
ranks.init_process_group(
    "gloo", init_method=f"file://{sys.argv[1]}", rank=number, world_size=2, timeout=datetime.timedelta(seconds=60)
)
# Rank 1 finds its share of the budget spent with the first timed step, rank 0 never does.
print("TAKEN", time_steps(lambda n: ranks.all_reduce(torch.ones(1)), minutes=[1, 1e-9][number])[1])
"""


def test_ranks_whose_clocks_differ_take_the_same_steps(tmp_path: Path) -> None:
    """In each of which they exchange gradients: a rank that left would be waited for."""
    script = tmp_path / "rank.py"
    script.write_text(RANK)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    ranks = [
        WarmPython([str(script), str(tmp_path / "meeting"), number], environment=environment) for number in ("0", "1")
    ]
    said = [rank.stdout.read() for rank in ranks]
    assert [rank.wait(60) for rank in ranks] == [0, 0], said
    assert all("TAKEN 8" in text for text in said)
