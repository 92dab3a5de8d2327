"""One process at a time where two would get into each other's way."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from t2s_assets.text2sql.errors import T2SError


@contextmanager
def only_one(
    lock: Path, doing: str, log: Callable[[str], None], *, note: str = "", wait_seconds: float = 90
) -> Iterator[None]:
    """Hold the file `lock` while the block lasts; the system frees it when the process dies.

    `doing` is what its holder does, in words, and `note` what else an error says of that. Waits a while, since what a
    Dagster run that died has started ends by itself within seconds.

    Raises:
        T2SError: another process holds it still.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a+") as file:
        end, told = time.monotonic() + wait_seconds, False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                file.seek(0)
                holder = file.read().strip() or "unknown"
                if time.monotonic() > end:
                    raise T2SError(f"process {holder} is {doing} already{note}; wait for it or stop it") from None
                if not told:
                    log(f"process {holder} is {doing}; waiting up to {wait_seconds:.0f} s for it")
                    told = True
                time.sleep(0.5)
        file.seek(0)
        file.truncate()
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield
