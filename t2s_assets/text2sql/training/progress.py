"""What training says as it goes, and when it ends before its last step."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from t2s_assets.text2sql.errors import T2SError
from t2s_assets.text2sql.processes import exchange
from t2s_assets.text2sql.processes.stopping import StopSignal
from t2s_assets.text2sql.records import peak_memory_gb

if TYPE_CHECKING:
    from t2s_assets.text2sql.training.clock import Clock

Log = Callable[[str], None]


class NotFinite(T2SError):
    """The loss became NaN or infinite."""


def check_finite(loss: float, step: int) -> None:
    """Raises NotFinite when `loss` is no number to go on with."""
    if not math.isfinite(loss):
        raise NotFinite(
            f"the loss is {loss} at step {step}; lower training.learning_rate, or use hardware.dtype: float32. "
            "The last good adapter was left as it is"
        )


class Progress(TrainerCallback):
    """Says how training goes, and ends it when it is told to or when its loss is not finite."""

    def __init__(
        self, log: Log, clock: Clock, budget_seconds: float | None, signal: StopSignal | None = None, *, best: str
    ) -> None:
        self.log = log
        self.clock = clock
        self.budget_seconds = budget_seconds
        self.signal = signal or StopSignal()
        self.best = best
        self.stopped: str | None = None
        self._first: tuple[int, float] | None = None

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._look_at_memory(args)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._look_at_memory(args)

    def _look_at_memory(self, args: Any) -> None:
        plan = self.clock.plan
        plan["peak_memory_gb"] = max(plan.get("peak_memory_gb", 0.0), peak_memory_gb(args.device.type))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._look_at_memory(args)
        if control.should_evaluate and self.best != "last":
            control.should_save = True  # or the best one would be known and gone
        if self.told_to_stop():
            self.stopped = f"stopped by {self.signal.reason or 'another rank'} after step {state.global_step}"
            control.should_save = control.should_training_stop = True

    def told_to_stop(self) -> bool:
        """The same on every rank, or one would wait for the others for ever; so every rank calls it."""
        return exchange.summed(self.signal.reason is not None) != [0]

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any) -> None:
        check_finite(logs.get("loss", logs.get("eval_loss", 0.0)), state.global_step)
        if "eval_loss" in logs:
            figures = "".join(
                f"  {n.upper()} {100 * logs[f'eval_{n}']:.1f} %" for n in ("ex", "em") if f"eval_{n}" in logs
            )
            self.log(f"step {state.global_step}/{state.max_steps}  validation loss {logs['eval_loss']:.4f}{figures}")
        elif "loss" in logs:
            self.log(
                f"step {state.global_step}/{state.max_steps}  loss {logs['loss']:.4f}  "
                f"grad {logs.get('grad_norm', float('nan')):.2f}  lr {logs['learning_rate']:.2e}  {self._left(state)}"
            )

    def _left(self, state: Any) -> str:
        now = time.monotonic()
        if self._first is None:
            self._first = state.global_step, now
            return ""
        steps, seconds = state.global_step - self._first[0], now - self._first[1]
        left = seconds / max(1, steps) * (state.max_steps - state.global_step)
        if self.budget_seconds is not None:
            left = min(left, self.budget_seconds - self.clock.seconds)
        return f"{left / 60:.1f} min left"


class EarlyStop(TrainerCallback):
    """Stops after `patience` evaluations without a better figure. Reads the log, so a resumed run counts on."""

    def __init__(self, patience: int, best: str, log: Log, plan: dict[str, Any]) -> None:
        self.patience, self.best, self.log, self.plan = patience, best, log, plan

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._look(state, control)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._look(state, control)

    def _look(self, state: Any, control: Any) -> None:
        sign = -1 if self.best == "loss" else 1
        values = [sign * h[f"eval_{self.best}"] for h in state.log_history if f"eval_{self.best}" in h]
        since = len(values) - 1 - values.index(max(values)) if values else 0
        if since >= self.patience and state.global_step < state.max_steps:
            self.log(
                f"stopped early at step {state.global_step} of {state.max_steps}: {self.best.upper()} was best "
                f"{since} evaluations ago"
            )
            self.plan.setdefault("stopped_early_at", state.global_step)
            control.should_training_stop = True
