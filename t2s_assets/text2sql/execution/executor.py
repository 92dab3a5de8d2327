"""A pool of killable workers that run untrusted SQL.

The parent never waits on a worker: it feeds every worker a few queries ahead, reads whichever answers, and
kills the one whose query has had its time. A worker answers in order, so when one dies, the query to charge
is the first that it left unanswered; the others go to its replacement.
"""

from __future__ import annotations

import math
import os
import selectors
import shutil
import signal
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from t2s_assets.text2sql.errors import ExecutionError
from t2s_assets.text2sql.execution import wire
from t2s_assets.text2sql.execution.batch import Batch
from t2s_assets.text2sql.execution.guard import allow_sql
from t2s_assets.text2sql.execution.jobs import Database, Job, Limits, Outcome
from t2s_assets.text2sql.execution.lexer import RefusedSQL, encoded
from t2s_assets.text2sql.execution.process import (
    HELLO,
    LOAD,
    LOAD_SECONDS,
    WATCH_SECONDS,
    WorkerProcess,
    resident_bytes,
)

# Queries that a worker holds beyond the one it runs: enough that it never waits for the parent, even one that another
# of its threads keeps busy.
WINDOW = 32
# Bytes that wait for a worker to take them, beyond which it gets no more: tables may be large.
BACKLOG = 4 * 2**20
# Queries of one small table for which it pays to make it; with fewer, each brings what it needs of it.
FEW = 3
# Limits without which a worker could write files or open connections. RLIMIT_AS has a stand-in.
REQUIRED = ("RLIMIT_FSIZE", "RLIMIT_NOFILE")


def available_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class SqlExecutor:
    """Runs queries in child processes, each within `limits`, each independent of the others.

    A context manager; `close` ends the workers. `workers` is their number at most (default: the cores that
    this process may use, up to 8); they start when first needed. Calls from several threads take turns. A forked
    child of the process has workers of its own.

    Raises ExecutionError when the module itself cannot work: a worker that does not start, or a database
    that does not load within the limits. What a query does is never an exception but an `Outcome`.
    """

    def __init__(
        self,
        *,
        workers: int | None = None,
        limits: Limits = Limits(),
        _guard: bool = True,
        _address_space: bool = True,
    ) -> None:
        # `_guard` and `_address_space` take one protection away so that tests meet those behind it.
        if workers is not None and workers < 1:
            raise ExecutionError(f"workers: must be 1 or more, got {workers}")
        self.limits = limits
        self._size = workers or min(available_cores(), 8)
        self._guard = _guard
        self._address_space = _address_space
        self._renew()
        _LIVING.add(self)

    def _renew(self) -> None:
        """Be as one that has started no worker."""
        self._lock = threading.Lock()
        self._workers: list[WorkerProcess] = []
        self._folders: list[str] = []
        self._finalizer = weakref.finalize(self, _end, self._workers, self._folders)

    def _leave_to_parent(self) -> None:
        """In a forked child: the workers, their folder and a lock that another thread may hold are the parent's. Two
        processes on one worker's pipes would get each other's answers."""
        for worker in self._workers:
            worker.leave()
        if self._finalizer.detach() is None:
            self._lock = threading.Lock()
        else:
            self._renew()

    def __enter__(self) -> SqlExecutor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill the workers and remove their empty directory. The executor cannot be used afterwards."""
        with self._lock:
            self._finalizer()

    def start(self, queries: int) -> None:
        """Start the workers that so many queries keep busy now, for a caller who has to prepare them meanwhile."""
        with self._lock:
            self._must_be_open()
            while len(self._workers) < min(self._size, math.ceil(queries / WINDOW)):
                self._workers.append(self._spawn())

    def run_one(self, database: Database, sql: str) -> Outcome:
        """Run one query."""
        return self.run([Job(database, sql)])[0]

    def run(self, jobs: Sequence[Job], *, progress: Callable[[int, int], None] | None = None) -> list[Outcome]:
        """Run the jobs; outcomes come in the jobs' order.

        Jobs of one database (by its key) run together whatever their order, and jobs with the same database
        and the same text run once. `progress` is called with (jobs done, jobs in all) as they are done.
        """
        with self._lock:
            self._must_be_open()
            batch = Batch(jobs, progress)
            try:
                self._work(batch)
            except BaseException:
                # Workers may hold half-fed queries of this batch, which must not be answered into the next.
                for worker in self._workers:
                    worker.kill()
                self._workers.clear()
                raise
        return batch.results()

    def protections(self) -> tuple[str, ...]:
        """Names of the operating system's limits in force in the workers; starts one if none runs."""
        with self._lock:
            if not self._workers:
                self._workers.append(self._spawn())
            worker = self._workers[0]
            batch = Batch((), None)
            while not worker.ready:
                self._turn(batch)
                worker = self._workers[0]
            return worker.protections

    def _must_be_open(self) -> None:
        if not self._finalizer.alive:
            raise ExecutionError("this SqlExecutor is closed: make a new one")

    # The loop -----------------------------------------------------------------------------------------

    def _work(self, batch: Batch) -> None:
        while True:
            self._feed(batch)
            if batch.finished:
                return
            if not any(worker.pending for worker in self._workers):
                raise AssertionError("queries wait, and no worker has any: a bug in the executor")
            self._turn(batch)

    def _spawn(self) -> WorkerProcess:
        # Made when first needed: a forked child that runs nothing leaves none behind.
        if not self._folders:
            self._folders.append(tempfile.mkdtemp(prefix="t2s-sql-"))
        return WorkerProcess(self.limits, self._folders[0], address_space=self._address_space)

    def _feed(self, batch: Batch) -> None:
        """Give every worker with room its next queries; queries that the guard refuses end here."""
        for worker in self._workers:
            self._fill(worker, batch)
        while batch.waiting and len(self._workers) < self._size:
            self._workers.append(self._spawn())
            self._fill(self._workers[-1], batch)

    def _fill(self, worker: WorkerProcess, batch: Batch) -> None:
        while len(worker.pending) < WINDOW and worker.backlog < BACKLOG:
            index = batch.next_for(worker)
            if index is None:
                return
            job = batch.jobs[index]
            try:
                sql = encoded(job.sql)
                flat = self._guard and allow_sql(job.sql, batch.schema(job.database))
            except RefusedSQL as error:
                batch.done(index, Outcome("refused", message=str(error)))
                continue
            if worker.key != job.database.key:
                worker.send_database(job.database, wait=batch.left(worker) < FEW)
            worker.send_query(index, sql, flat=flat)

    def _turn(self, batch: Batch) -> None:
        """Wait until a worker answers or runs out of time, and act on it."""
        # Of the selectors, the one that opens no file of its own: a turn is short.
        with selectors.PollSelector() as selector:
            for worker in self._workers:
                if worker.pending:
                    selector.register(worker.stdout, selectors.EVENT_READ, worker)
                    if worker.outbox:
                        selector.register(worker.stdin, selectors.EVENT_WRITE, worker)
            for key, events in selector.select(self._patience()):
                worker = key.data
                if worker not in self._workers:
                    continue
                if events & selectors.EVENT_WRITE:
                    worker.flush()
                else:
                    self._read(worker, batch)
        now = time.monotonic()
        for worker in list(self._workers):
            if worker.deadline is not None and now >= worker.deadline:
                # An answer may have come while this process itself was kept waiting.
                self._read(worker, batch)
                if worker in self._workers and worker.deadline is not None and now >= worker.deadline:
                    self._expired(worker, batch)
            elif worker.over_memory():
                worker.kill()
                limit = f"more than {self.limits.memory_mb} MiB of resident memory"
                self._bury(worker, batch, Outcome("memory", message=limit), final=False)

    def _patience(self) -> float:
        """Seconds until the first deadline, or until the next look at memory."""
        deadlines = [worker.deadline for worker in self._workers if worker.deadline is not None]
        wait = max(min(deadlines) - time.monotonic(), 0.0) if deadlines else 0.0
        return min(wait, WATCH_SECONDS) if any(worker.watch_memory for worker in self._workers) else wait

    def _read(self, worker: WorkerProcess, batch: Batch) -> None:
        open_ = worker.receive()
        try:
            while worker.pending and (message := wire.take_frame(worker.inbox, self.limits)) is not None:
                if not self._answer(worker, batch, message):
                    return
        except wire.ProtocolError as error:
            worker.kill()
            self._bury(worker, batch, Outcome("crashed", message=f"the worker {error}"), final=False)
            return
        if not open_:
            self._died(worker, batch)

    def _answer(self, worker: WorkerProcess, batch: Batch, message: dict[str, Any]) -> bool:
        """Take one answer; False if the worker is gone after it."""
        item = worker.pending[0]
        if item in (HELLO, LOAD):
            if message["status"] == "broken":
                reason = wire.said(message)
                worker.kill()
                self._bury(worker, batch, Outcome("crashed", message=reason))
                return False
            # Before the item is taken off, so that a hello that is none is charged to the hello.
            if item == HELLO:
                self._greet(worker, message)
            worker.answered()
            return True
        result = wire.outcome(message, self.limits)
        if result.status in ("memory", "crashed"):
            worker.kill()
            self._bury(worker, batch, result, final=False)
            return False
        worker.answered()
        batch.done(item, result)
        return True

    def _greet(self, worker: WorkerProcess, message: dict[str, Any]) -> None:
        limits = message.get("limits")
        if not isinstance(limits, list) or not all(isinstance(name, str) for name in limits):
            raise wire.ProtocolError("said hello without its limits")
        missing = [name for name in REQUIRED if name not in limits]
        if missing:
            raise ExecutionError(
                f"this system does not let a SQL worker limit itself ({', '.join(missing)}): run where these"
                " resource limits exist, as on Linux and macOS"
            )
        worker.ready = True
        worker.protections = tuple(limits)
        worker.watch_memory = "RLIMIT_AS" not in worker.protections
        if worker.watch_memory:
            worker.idle_bytes = resident_bytes(worker.process.pid)

    # Endings ------------------------------------------------------------------------------------------

    def _expired(self, worker: WorkerProcess, batch: Batch) -> None:
        worker.kill()
        outcome = Outcome("timeout", message=f"took more than {worker.allowed:g} s", seconds=worker.allowed)
        self._bury(worker, batch, outcome)

    def _died(self, worker: WorkerProcess, batch: Batch) -> None:
        code = worker.exit_code()
        if not worker.pending:
            self._workers.remove(worker)
            return
        if -code == signal.SIGXCPU:
            message = f"used more than {self.limits.seconds:g} s of CPU"
            self._bury(worker, batch, Outcome("timeout", message=message, seconds=self.limits.seconds))
            return
        try:
            cause = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with status {code}"
        except ValueError:
            cause = f"was killed by signal {-code}"
        self._bury(worker, batch, Outcome("crashed", message=f"the worker {cause}"), final=False)

    def _bury(self, worker: WorkerProcess, batch: Batch, outcome: Outcome, *, final: bool = True) -> None:
        """Charge the first unanswered item of a worker that is gone, and give the rest back to the batch.

        With `final=False` the query counts only if it was the worker's first: what earlier queries left in
        the process may have killed it, so otherwise it gets one more try, first and alone in a new one.
        """
        self._workers.remove(worker)
        batch.release(worker)
        item = worker.pending[0]
        rest = [index for index in list(worker.pending)[1:] if index >= 0]
        if item == HELLO:
            raise ExecutionError(f"a SQL worker does not start: {outcome.message}")
        if item == LOAD:
            if worker.started_queries > len(rest):
                batch.take_back(rest)
                return
            relations = batch.jobs[rest[0]].database.relations if rest else ()
            size = sum(relation.data.nbytes for relation in relations) / 1e6
            # DuckDB's own advice, in the lines behind the first, is about settings that are locked.
            reason = outcome.message.partition("\n")[0]
            raise ExecutionError(
                f"the tables {[relation.name for relation in relations]} ({size:,.0f} MB) cannot be loaded within"
                f" memory_mb={self.limits.memory_mb} and {LOAD_SECONDS:g} s: {reason}; give tables or views of fewer"
                " columns, of fewer rows, or of shorter cells"
            )
        batch.take_back(rest)
        if final or worker.started_queries == 1 + len(rest):
            batch.done(item, outcome)
        else:
            batch.try_alone(item)


def _end(workers: list[WorkerProcess], folders: list[str]) -> None:
    for worker in workers:
        worker.kill()
    workers.clear()
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


_LIVING: weakref.WeakSet[SqlExecutor] = weakref.WeakSet()


def _leave_all_to_parent() -> None:
    for executor in list(_LIVING):
        executor._leave_to_parent()


os.register_at_fork(after_in_child=_leave_all_to_parent)
