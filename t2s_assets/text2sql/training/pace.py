"""A run within a wall-clock budget, planned anew after each step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import TrainerCallback

from t2s_assets.text2sql.training.clock import Clock, steps_that_fit

Log = Callable[[str], None]

# The first measurement counts as so many steps. The mean of a step's seconds looks back half as far as it is to look
# ahead, but no less than this: batches go from long to short and back, and no two take the same.
_FIRST_COUNTS, _LOOKS_BACK = 6, 10
# A plan that differs so much from the one told last is told.
_WORTH_TELLING = 0.1


class Pace(TrainerCallback):
    """Keeps a budgeted run's number of steps to what the budget has room for, as steps turn out to take.

    Before each step's learning rate is asked for, the plan gets its `share`: with n steps left of which one was just
    done, the run is nearer to its end by 1/n of what was left. So it ends at 1 with the last step, without a jump
    when n changes.
    """

    def __init__(self, clock: Clock, budget_seconds: float, log: Log) -> None:
        self.clock, self.budget_seconds, self.log = clock, budget_seconds, log
        self._mark = 0.0
        self._between: float | None = None
        self._told = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._mark = self.clock.seconds
        self._told = state.max_steps

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._between = self._lap()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._between is not None:  # else it counts as a part of the next step
            self._between += self._lap()

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        plan, done = self.clock.plan, state.global_step + 1
        counts = min(_FIRST_COUNTS + done, max(_LOOKS_BACK, (state.max_steps - done) // 2))
        plan["seconds_a_step"] += (self._lap() - plan["seconds_a_step"]) / counts
        if self._between is not None:
            plan["seconds_an_evaluation"], self._between = self._between, None
        left = steps_that_fit(
            done,
            self.budget_seconds - self.clock.seconds,
            step=plan["seconds_a_step"],
            evaluation=plan["seconds_an_evaluation"],
            every=args.eval_steps,
        )
        # Clocks of ranks differ, and ranks of other plans would drift apart or wait for each other for ever.
        left = rank_zeros(left, args.device)
        plan["share"] += (1 - plan["share"]) / (left + 1)
        plan["max_steps"] = state.max_steps = done + left
        self._tell(state)

    def _lap(self) -> float:
        before, self._mark = self._mark, self.clock.seconds
        return self._mark - before

    def _tell(self, state: Any) -> None:
        if abs(state.max_steps - self._told) > max(1, _WORTH_TELLING * self._told):
            self.log(
                f"the budget has room for {state.max_steps:,} steps, not {self._told:,}: a step takes "
                f"{self.clock.plan['seconds_a_step']:.2f} s now"
            )
            self._told = state.max_steps


def rank_zeros(value: int, device: Any) -> int:
    """`value` of rank 0, for all ranks; each has to ask. Without ranks, `value`."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return value
    shared = torch.tensor(value, device=device)
    torch.distributed.broadcast(shared, src=0)
    return int(shared.item())
