"""The wall clock of a training, its plan, and the steps that still fit into a budget."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from t2s_assets.text2sql.storage import write_json

Log = Callable[[str], None]

PLAN = "plan.json"
"""The file with a clock's plan: beside the checkpoints when it is made, and in each checkpoint as it was then."""


class Clock:
    """Seconds trained, over all the sessions of one training, and the run's plan.

    The plan holds `max_steps`, and what a clock decided on the way: with a budget, `rates` (the learning rate's factor
    of each step), `share` (how much of the run is over, 0 to 1) and what steps and evaluations take. What the manifest
    tells of all sessions is in it too: the sum of losses, the seconds of steps, the peak of memory. Each checkpoint
    holds the plan of its moment, so that a resumed run goes on from both.
    """

    def __init__(self, path: Path, *, replay: dict[str, Any] | None = None, log: Log = lambda line: None) -> None:
        """`path`: where the plan is or will be. `replay`: an adapter's `schedule.json`, in place of the clock.

        A plan that is not JSON counts as none, and `log` is told.
        """
        self.path = path
        self.plan: dict[str, Any] = _plan_in(path, log) or dict(replay or {})
        self.replay = replay
        if replay is not None and replay["rates"]:
            self.plan["max_steps"] = replay["steps"]  # a clock decided when it was over
        self._started = time.monotonic()

    @classmethod
    def of(cls, work: Path, checkpoint: Path | None, *, replay: dict[str, Any] | None, log: Log) -> Clock:
        """The clock of a training in `work` that goes on from `checkpoint`, or begins."""
        clock = cls(work / PLAN, replay=replay, log=log)
        if checkpoint is not None and (checkpoint / PLAN).exists():
            clock.plan = json.loads((checkpoint / PLAN).read_text())
        return clock

    @property
    def seconds(self) -> float:
        """Seconds trained until now."""
        return self.plan.get("seconds", 0.0) + time.monotonic() - self._started

    def schedule(self, steps: int, planned: int) -> dict[str, Any]:
        """What the clock decided in a training of `steps` steps: all that another one needs to do the same.

        `rates` is empty where no clock had a part in the learning rate.
        """
        if self.replay is not None:
            return self.replay
        rates = self.plan.get("rates", [])[:steps]
        return {
            "max_steps": planned,
            "steps": steps,
            "scored_questions": self.plan.get("scored_questions"),
            "rates": rates,
        }

    def save(self, path: Path | None = None) -> None:
        """Write the plan with the seconds until now, to `path` or beside the checkpoints."""
        self.plan["seconds"] = self.seconds
        self._started = time.monotonic()
        write_json(path or self.path, self.plan)


def _plan_in(path: Path, log: Log) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except ValueError as e:
        log(f"{path} is passed over: it is not JSON ({e})")
        return {}


def steps_that_fit(done: int, seconds: float, *, step: float, evaluation: float, every: int) -> int:
    """How many steps after the first `done` fit into `seconds`, of `step` seconds each.

    An evaluation, of `evaluation` seconds, follows each step that is a multiple of `every`, and the last one.
    """
    left, fit = seconds - evaluation, 0
    for evaluations in range(math.ceil(max(0.0, left) / max(step, 1e-9) / every) + 2):
        to_next = (done // every + evaluations + 1) * every - done
        room = math.floor((left - evaluations * evaluation) / max(step, 1e-9))
        fit = max(fit, min(room, to_next))
        if room <= to_next:
            break
    return fit


def warm_then_cosine(done: float, steps: int, warmup: float) -> float:
    """The learning rate's factor after `done` of `steps` steps: linear over `warmup` of the run, then half a cosine
    that ends at zero."""
    if done < warmup * steps:
        return (done + 1) / (warmup * steps + 1)
    share = (min(1.0, done / max(1, steps)) - warmup) / max(1e-9, 1 - warmup)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, share))))
