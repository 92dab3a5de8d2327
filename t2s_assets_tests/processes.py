"""Processes that a test started: found by a value in their environment, children of children and orphans too; and one
on a terminal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from t2s_assets_tests.projects import ProjectFiles

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


def on_a_terminal(files: ProjectFiles, *arguments: str) -> subprocess.Popen[str]:
    """A `t2s` command on the project's folders, in a process group that can be told of Ctrl-C."""
    folders = {"T2S_CONFIGS": str(files.project.configs), "T2S_STORAGE": str(files.project.storage)}
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # it is ignored by what runs in the background
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "t2s_assets.cli", *arguments],
            env={**os.environ, **folders},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
    finally:
        signal.signal(signal.SIGINT, before)
