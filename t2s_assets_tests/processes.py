"""Processes that a test started, found by a value in their environment: children of children and orphans too."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def processes_with(value: str) -> dict[int, str]:
    """Command lines by process id of the living processes whose environment holds `value`. Reads Linux' /proc."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if value.encode() in (folder / "environ").read_bytes() and int(folder.name) != os.getpid():
                found[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ").strip()
        except OSError:  # it ended meanwhile, or is not ours
            continue
    return found


def ancestors(pid: int) -> dict[int, str]:
    """Command lines by process id of a process, its parent, and so on up."""
    found = {}
    while pid > 1:
        folder = Path(f"/proc/{pid}")
        found[pid] = (folder / "cmdline").read_text().replace("\0", " ").strip()
        # The name in brackets may hold spaces; after it come the state and the parent.
        pid = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
    return found


def kill_all(value: str) -> None:
    """SIGKILL to every process whose environment holds `value`, until none is left."""

    def none_left() -> bool:
        for pid in processes_with(value):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        return not processes_with(value)

    wait_for(none_left, seconds=30, what="the killed processes to end")


def wait_for(ready: Callable[[], T], *, seconds: float, what: str, every: float = 0.1) -> T:
    """The first true value of `ready()`. Raises TimeoutError."""
    end = time.monotonic() + seconds
    while not (found := ready()):
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds:.0f} s for {what}")
        time.sleep(every)
    return found
