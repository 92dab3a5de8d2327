"""The jobs of one run: which wait, which are done."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from t2s_assets.text2sql.execution.jobs import Database, Job, Outcome
from t2s_assets.text2sql.execution.process import WorkerProcess

# Queries of one database that go to one worker together: large enough to pay for loading it, small enough
# that a single large database still keeps every worker busy.
CHUNK = 64


class Batch:
    """Hands out jobs database by database and collects their outcomes in the jobs' order."""

    def __init__(self, jobs: Iterable[Job], progress: Callable[[int, int], None] | None) -> None:
        self.jobs = list(jobs)
        self._progress = progress
        self._outcomes: list[Outcome | None] = [None] * len(self.jobs)
        self._same: dict[int, list[int]] = {}
        self._schemas: dict[str, dict[str, dict[str, str]]] = {}
        self._done = 0
        first: dict[tuple[str, str], int] = {}
        groups: dict[str, list[int]] = {}
        for index, job in enumerate(self.jobs):
            original = first.setdefault((job.database.key, job.sql), index)
            self._same.setdefault(original, []).append(index)
            if original == index:
                groups.setdefault(job.database.key, []).append(index)
        # Each chunk is of one database; `_alone` are queries that must be the first of a worker.
        self._chunks = deque(
            deque(group[start : start + CHUNK]) for group in groups.values() for start in range(0, len(group), CHUNK)
        )
        self._open: dict[WorkerProcess, deque[int]] = {}
        self._alone: deque[int] = deque()

    @property
    def finished(self) -> bool:
        return self._done == len(self.jobs)

    @property
    def waiting(self) -> bool:
        return bool(self._chunks or self._alone)

    def results(self) -> list[Outcome]:
        return [outcome for outcome in self._outcomes if outcome is not None]

    def schema(self, database: Database) -> dict[str, dict[str, str]]:
        """Its tables' columns with their types."""
        if database.key not in self._schemas:
            self._schemas[database.key] = {relation.name: dict(relation.columns) for relation in database.relations}
        return self._schemas[database.key]

    def next_for(self, worker: WorkerProcess) -> int | None:
        """The next query for this worker, or None."""
        if self._alone and worker.started_queries == 0:
            return self._alone.popleft()
        chunk = self._open.get(worker)
        if not chunk:
            if not self._chunks:
                return None
            chunk = self._open[worker] = self._chunks.popleft()
        return chunk.popleft()

    def left(self, worker: WorkerProcess) -> int:
        """How many queries are set aside for a worker."""
        return len(self._open.get(worker, ()))

    def release(self, worker: WorkerProcess) -> None:
        """Take back what was set aside for a worker that is gone."""
        self.take_back(self._open.pop(worker, ()))

    def take_back(self, indices: Iterable[int]) -> None:
        """Queries, of one database or several, that wait again; they go first."""
        if chunk := deque(indices):
            self._chunks.appendleft(chunk)

    def try_alone(self, index: int) -> None:
        """Let a query wait for a new worker, to be the first that it runs."""
        self._alone.append(index)

    def done(self, index: int, outcome: Outcome) -> None:
        for same in self._same[index]:
            self._outcomes[same] = outcome
            self._done += 1
            if self._progress is not None:
                self._progress(self._done, len(self.jobs))
