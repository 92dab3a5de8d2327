"""A rank and those around it: which one it is, SIGTERM from a scheduler, a launcher that is gone."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType

from t2s_assets.text2sql.errors import T2SError

LAUNCHER = "T2S_LAUNCHER"
"""In a rank's environment: the process that waits for the end of all ranks."""

_CHECK_SECONDS = 2.0


def is_main() -> bool:
    """Whether this process is rank 0, the one that speaks and writes."""
    return int(os.environ.get("RANK", 0)) == 0


class Stopped(T2SError):
    """Training was told to stop, and did after writing a checkpoint."""


class StopSignal:
    """Whether this process was told to stop. SIGTERM is then no longer the end of it at once."""

    def __init__(self) -> None:
        self.reason: str | None = None

    def install(self) -> None:
        """Catch SIGTERM, and watch the launcher where there is one. Only in a process' main thread."""
        signal.signal(signal.SIGTERM, self._terminated)
        when_launcher_is_gone(self._left_alone)

    def _terminated(self, number: int, frame: FrameType | None) -> None:
        self.reason = self.reason or "SIGTERM"

    def _left_alone(self, launcher: int) -> None:
        self.reason = self.reason or f"the end of the process that launched it ({launcher})"


def when_launcher_is_gone(act: Callable[[int], None]) -> None:
    """Call `act` with the launcher's process id, from a thread, when it has ended; never where there is none.

    A killed launcher cannot stop its children, and a retry would find them at the same files.
    """
    launcher = os.environ.get(LAUNCHER)
    if not launcher:
        return

    def watch() -> None:
        while _alive(int(launcher)):
            time.sleep(_CHECK_SECONDS)
        act(int(launcher))

    threading.Thread(target=watch, daemon=True, name="launcher").start()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
