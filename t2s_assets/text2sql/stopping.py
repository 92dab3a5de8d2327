"""A rank and those around it: which one it is, SIGTERM from a scheduler, Ctrl-C, a launcher that is gone."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType

from t2s_assets.text2sql.errors import T2SError

LAUNCHER = "T2S_LAUNCHER"
"""In a rank's environment: the processes that wait for the end of all ranks, with commas between their ids."""

_CHECK_SECONDS = 2.0


def is_main() -> bool:
    """Whether this process is rank 0, the one that speaks and writes."""
    return int(os.environ.get("RANK", 0)) == 0


class Stopped(T2SError):
    """Training was told to stop, and did after writing a checkpoint."""


class StopSignal:
    """Whether this process was told to stop. SIGTERM and SIGINT are then no longer the end of it at once.

    Schedulers send SIGTERM. SIGINT comes from Ctrl-C and from a run that is terminated in Dagster, through torchrun.
    """

    def __init__(self) -> None:
        self.reason: str | None = None

    def install(self) -> None:
        """Catch both signals, and watch launchers where there are some. Only in a process' main thread."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._told)
        when_launcher_is_gone(self._left_alone)

    def _told(self, number: int, frame: FrameType | None) -> None:
        self.reason = self.reason or signal.Signals(number).name

    def _left_alone(self, launcher: int) -> None:
        self.reason = self.reason or f"the end of the process that launched it ({launcher})"


def when_launcher_is_gone(act: Callable[[int], None]) -> None:
    """Call `act` with the process id of the first launcher that has ended, from a thread; never where there is none.

    A killed launcher cannot stop its children, and a retry would find them at the same files.
    """
    launchers = [int(pid) for pid in os.environ.get(LAUNCHER, "").split(",") if pid]
    if not launchers:
        return

    def watch() -> None:
        while not (gone := [pid for pid in launchers if not _alive(pid)]):
            time.sleep(_CHECK_SECONDS)
        act(gone[0])

    threading.Thread(target=watch, daemon=True, name="launcher").start()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
