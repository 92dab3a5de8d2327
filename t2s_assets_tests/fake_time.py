"""A clock that a test moves, for trainings within a budget: no test depends on how fast a machine is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from t2s_assets.text2sql.training import clock as clocks
from t2s_assets.text2sql.training import timing
from t2s_assets.text2sql.training.trainer import BudgetTrainer


class FakeTime:
    """`time.monotonic` of the clock, moved by training steps and evaluations only."""

    def __init__(
        self, patch: pytest.MonkeyPatch, *, timed: float | None, step: Callable[[int], float], evaluation: float
    ) -> None:
        """Seconds: `timed` is what the measurement before the run says (None: it measures), `step` what each takes."""
        self.now, self.steps = 0.0, 0
        real_step, real_loop = BudgetTrainer.training_step, BudgetTrainer.evaluation_loop

        def stepped(trainer: Any, *args: Any, **kwargs: Any) -> Any:
            self.steps += 1
            self.now += step(self.steps)
            return real_step(trainer, *args, **kwargs)

        def evaluated(trainer: Any, *args: Any, **kwargs: Any) -> Any:
            self.now += evaluation
            return real_loop(trainer, *args, **kwargs)

        patch.setattr(BudgetTrainer, "training_step", stepped)
        patch.setattr(BudgetTrainer, "evaluation_loop", evaluated)
        patch.setattr(clocks.time, "monotonic", lambda: self.now)
        if timed is not None:
            patch.setattr(timing, "timed_step", lambda *a, **k: timed)
