"""What gold returned, kept on disk by content, so that scoring executes only what is not gold.

One file a dataset, written with `sql`, which executes all gold. A line is one result: a key of everything that decides
it (the database's content, the query's text, the code and the limits of the executor, DuckDB's version), a checksum,
and the answer as a worker sends it. Reading it believes nothing unchecked, as with a worker.

Only gold's results are kept. Gold is trusted, and a whole result does not depend on how busy the machine was, as a
timeout does. Outcomes of predictions are not kept: a process that ran hostile SQL may say anything, and that must not
outlive the run in which it was said. A killed evaluation goes on with the answers that it has
(evaluation/generations.py), which take minutes to hours to make; it executes them once more, which takes seconds, and
writes each question's verdict once.
"""

from __future__ import annotations

import functools
import hashlib
import platform
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import duckdb

from t2s_assets.text2sql.execution import Job, Limits, Outcome, SqlExecutor, wire
from t2s_assets.text2sql.execution.functions import CLOCK
from t2s_assets.text2sql.execution.lexer import RefusedSQL, checked_tokens, folded
from t2s_assets.text2sql.storage import Project, content_hash, file_hash, replacing_file

Log = Callable[[str], None]

SCORED = ("validation", "test")
"""The splits whose gold is kept: predictions are scored on them."""

# Of one result, and of a file. What is larger is executed each time.
MAX_BYTES = 2**16
MAX_FILE_BYTES = 2**26

# A sketch's database is named by its cells as read: these make numbers of them.
_OF_SKETCHES = ("gold/sketch.py", "query.py")

_KEY, _SUM = 32, 16
"""Hexadecimal digits."""


class GoldResults:
    """The results that a dataset's file holds; of those, only what is asked for is parsed.

    What is not there, or not what was written, is executed; `log` says so of a file that cannot be used as it is.
    """

    def __init__(self, path: Path, log: Log, limits: Limits = Limits()) -> None:
        self.path, self._log, self._limits = path, log, limits
        self._lines: dict[bytes, bytes] = {}
        self._found: dict[bytes, Outcome] = {}
        lines = path.read_bytes().splitlines() if path.exists() else []
        for line in lines:
            key, _, rest = line.partition(b" ")
            if len(key) == _KEY and rest[_SUM : _SUM + 1] == b" ":
                self._lines[key] = rest
        if len(self._lines) != len(lines):
            log(f"{path}: left out {len(lines) - len(self._lines):,} lines that are no results of gold")

    @classmethod
    def of(cls, project: Project, dataset: str, log: Log) -> GoldResults:
        """Those of a dataset."""
        return cls(results_path(project, dataset), log)

    def get(self, job: Job) -> Outcome | None:
        """What the job returned, or None where that is not known."""
        key = _key(job, self._limits)
        rest = self._lines.get(key)
        if rest is None or key in self._found:
            return self._found.get(key)
        payload = rest[_SUM + 1 :]
        try:
            if _checksum(key, payload) != rest[:_SUM]:
                raise wire.ProtocolError("is not what was written")
            outcome = wire.outcome(wire.parsed(payload), self._limits)
            if not outcome.ok:
                raise wire.ProtocolError("is none")
        except wire.ProtocolError as error:
            del self._lines[key]
            self._log(f"{self.path}: left out the result {key.decode()}: it {error}")
            return None
        self._found[key] = outcome
        return outcome

    def run(self, executor: SqlExecutor, jobs: Sequence[Job]) -> list[Outcome]:
        """The outcomes of the jobs in their order; the executor, with the same limits, runs what is not known."""
        assert executor.limits == self._limits
        known = [self.get(job) for job in jobs]
        missing = [job for job, outcome in zip(jobs, known) if outcome is None]
        self._log(
            f"executing {len(missing):,} of {len(jobs):,} queries: of the others, the results are known from gold"
        )
        ran = iter(executor.run(missing))
        return [outcome or next(ran) for outcome in known]


def results_path(project: Project, dataset: str) -> Path:
    return project.cache("results") / f"{dataset}.txt"


def keep(path: Path, gold: Iterable[tuple[Job, Outcome]], log: Log, limits: Limits = Limits()) -> None:
    """Write what gold returned, in place of what the file held.

    Left out are what did not run, what reads the clock, and what is too large.
    """
    lines: dict[bytes, bytes] = {}
    size = 0
    for job, outcome in gold:
        key = _key(job, limits)
        if outcome.status != "ok" or key in lines or _reads_the_clock(job.sql):
            continue
        payload = wire.answer(outcome)
        if len(payload) <= MAX_BYTES and size + len(payload) <= MAX_FILE_BYTES:
            size += len(payload)
            lines[key] = b"%s %s %s\n" % (key, _checksum(key, payload), payload)
    with replacing_file(path) as fresh:
        fresh.write_bytes(b"".join(lines.values()))
    log(f"kept the results of {len(lines):,} gold queries, {size / 2**20:.1f} MiB")


def _key(job: Job, limits: Limits) -> bytes:
    digest = hashlib.blake2b(_environment(limits), digest_size=_KEY // 2)
    digest.update(f"{job.database.key}\n{job.sql}".encode(errors="surrogatepass"))
    return digest.hexdigest().encode()


def _checksum(key: bytes, payload: bytes) -> bytes:
    return hashlib.blake2b(key + payload, digest_size=_SUM // 2).hexdigest().encode()


@functools.cache
def _environment(limits: Limits) -> bytes:
    """What decides a result beside the job: all code between it and its outcome, and who runs it."""
    library = Path(__file__).parents[1]
    sources = [*library.glob("execution/*.py"), *library.glob("sql/*.py"), *(library / name for name in _OF_SKETCHES)]
    code = {str(path.relative_to(library)): file_hash(path) for path in sources}
    return content_hash(code, vars(limits), duckdb.__version__, platform.machine()).encode()


def _reads_the_clock(sql: str) -> bool:
    try:
        return any(folded(kind, text) in CLOCK for kind, text in checked_tokens(sql) if kind != "string")
    except RefusedSQL:
        return True
