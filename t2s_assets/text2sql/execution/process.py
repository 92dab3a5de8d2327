"""One worker process as its parent holds it: start, feed, read, watch, kill."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

import duckdb
import pyarrow

from t2s_assets.text2sql.execution import wire
from t2s_assets.text2sql.execution.jobs import Database, Limits, ipc_bytes

WORKER = Path(__file__).with_name("worker.py")
# Starting and loading handle our own data, not the query: generous, so that a busy machine fails nothing.
START_SECONDS = 60.0
LOAD_SECONDS = 60.0
# Between a worker's start on a query and the parent's look at the clock.
GRACE_SECONDS = 0.1
# How often the memory of a worker without an address-space limit is looked at.
WATCH_SECONDS = 0.05
HELLO, LOAD = -1, -2


def resident_bytes(pid: int) -> int:
    """Resident memory of a process in bytes, 0 if it is gone."""
    if sys.platform == "linux":
        try:
            pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
        except (OSError, IndexError):
            return 0
        return int(pages) * os.sysconf("SC_PAGE_SIZE")
    listing = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, text=True)
    return int(listing.stdout.strip() or 0) * 1024


class WorkerProcess:
    """A child that answers frames in order; `pending` holds what it has not answered yet.

    `pending` items are HELLO, LOAD or the index of a job. The clock of the first one runs from `since`.
    """

    def __init__(self, limits: Limits, cwd: str, *, address_space: bool = True) -> None:
        self.limits = limits
        self.key: str | None = None
        self.started_queries = 0
        self.ready = False
        self.watch_memory = False
        self.idle_bytes = 0
        self.protections: tuple[str, ...] = ()
        self.inbox = bytearray()
        self.outbox: deque[memoryview] = deque()
        self.pending: deque[int] = deque([HELLO])
        self.since = time.monotonic()
        site = {str(Path(module.__file__).parent.parent) for module in (duckdb, pyarrow)}
        config = {**vars(limits), "path": sorted(site), "address_space": address_space}
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", str(WORKER), json.dumps(config)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            close_fds=True,
            cwd=cwd,
            env={"LANG": "C.UTF-8", "MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1", "HOME": cwd},
            start_new_session=True,
        )
        self.stdin = self.process.stdin.fileno()
        self.stdout = self.process.stdout.fileno()
        os.set_blocking(self.stdin, False)
        os.set_blocking(self.stdout, False)

    def send(self, item: int, *parts: Any) -> None:
        """Queue a frame, and note `item` as unanswered."""
        self.outbox.extend(memoryview(part) for part in parts)
        if not self.pending:
            self.since = time.monotonic()
        self.pending.append(item)
        self.flush()

    def send_database(self, database: Database, *, wait: bool = False) -> None:
        """Send the tables; with `wait`, a small one is made when a query needs it."""
        streams = [ipc_bytes(relation.data) for relation in database.relations]
        header = json.dumps(
            [
                {"name": relation.name, "columns": relation.columns, "bytes": stream.size}
                for relation, stream in zip(database.relations, streams)
            ]
        ).encode()
        size = 4 + len(header) + sum(stream.size for stream in streams)
        start = (b"L" if wait else b"D") + size.to_bytes(4, "big") + len(header).to_bytes(4, "big") + header
        self.key = database.key
        self.send(LOAD, start, *streams)

    def send_query(self, index: int, sql: bytes, *, flat: bool = False) -> None:
        self.started_queries += 1
        self.send(index, wire.frame(b"F" if flat else b"Q", sql))

    def flush(self) -> None:
        """Write what the pipe takes; a worker that is gone is noticed when its output is read."""
        while self.outbox:
            try:
                written = os.write(self.stdin, self.outbox[0])
            except BlockingIOError:
                return
            except BrokenPipeError:
                self.outbox.clear()
                return
            if written == len(self.outbox[0]):
                self.outbox.popleft()
            else:
                self.outbox[0] = self.outbox[0][written:]

    @property
    def backlog(self) -> int:
        """Bytes that the pipe has not taken yet."""
        return sum(map(len, self.outbox))

    def receive(self) -> bool:
        """Read what is there into `inbox`; False once the worker has closed its end."""
        try:
            data = os.read(self.stdout, 1 << 20)
        except BlockingIOError:
            return True
        self.inbox += data
        return bool(data)

    def answered(self) -> int:
        """Take the first pending item off and start the clock of the next."""
        self.since = time.monotonic()
        return self.pending.popleft()

    @property
    def allowed(self) -> float:
        """Seconds that the first pending item may take."""
        return {HELLO: START_SECONDS, LOAD: LOAD_SECONDS}.get(self.pending[0], self.limits.seconds)

    @property
    def deadline(self) -> float | None:
        """When the first pending item has had its time, on the monotonic clock; None when idle."""
        return self.since + self.allowed + GRACE_SECONDS if self.pending else None

    def over_memory(self) -> bool:
        """Whether a worker without an address-space limit has outgrown the limit on resident memory."""
        if not self.watch_memory or not self.pending or self.pending[0] < 0:
            return False
        if time.monotonic() - self.since < WATCH_SECONDS:
            return False
        return resident_bytes(self.process.pid) > self.idle_bytes + self.limits.memory_mb * 2**20

    def kill(self) -> int:
        """Kill the worker with its process group; returns the exit code (negative: a signal)."""
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
        code = self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()
        return code

    def leave(self) -> None:
        """In a forked child: close its copies of the pipes, so that the worker, which is the parent's, sees the parent
        go; and let Popen find out that it is no child of this process."""
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.poll()

    def exit_code(self) -> int:
        """The exit code of a worker that closed its output; it gets a moment to exit, then is killed."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=1.0)
        return self.kill()
