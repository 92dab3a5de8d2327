"""What a dataset's questions are answered with: WikiSQL's sketch (gold_sketch.py) or SQL text (gold_text.py).

Both modules have the functions and constants of `Gold`; everything else of the platform asks `prepare.gold_of` for
them and does not know which kind it has.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from t2s_assets.text2sql.errors import DataError
from t2s_assets.text2sql.execution import Database, Outcome
from t2s_assets.text2sql.schema import TableSchema
from t2s_assets.text2sql.storage import Project, read_manifest

Log = Callable[[str], None]
Facts = dict[str, Any]


@dataclass(frozen=True)
class Verdict:
    """What generated text means beside the gold.

    parsed: the text as understood, None where it was not, and then `unparsed_because` says why.
    aggregate: what it computes, named as the gold's `aggregate` in `sql`.
    em: exact match. errors: in which parts it differs, of the kind's ERROR_KINDS.
    """

    parsed: str | None
    unparsed_because: str
    aggregate: str | None
    em: bool
    errors: list[str]


@dataclass(frozen=True)
class Compared:
    """A result beside the gold's: its fingerprint, and whether it is right for EX and for EX strict."""

    fingerprint: str | None
    ex: bool
    ex_strict: bool


class AskedAbout(Protocol):
    """What a question is asked about: one table, or a database."""

    @property
    def schemas(self) -> tuple[TableSchema, ...]:
        """The tables as prompts and grammar show them."""

    @property
    def sample_rows(self) -> Sequence[Sequence[Sequence[Any]]]:
        """Rows of each of `schemas`, for prompts with sample values."""

    @property
    def database(self) -> Database:
        """What gold runs on."""

    @property
    def prompted(self) -> Database:
        """What generated SQL runs on: the same rows under the names that prompts show."""


class Question(Protocol):
    """A question of a dataset; `table_id` names what it is asked about."""

    id: str
    split: str
    table_id: str
    text: str

    def shown(self, about: Any) -> tuple[TableSchema, ...]:
        """The tables that its prompt may show."""

    def completion(self, about: Any) -> str:
        """What the model learns to write."""

    def columns(self, about: Any) -> set[tuple[str, str]]:
        """(table, column) of everything that the gold names, for the recall of schema linking."""

    def verdict(self, text: str, about: Any) -> Verdict:
        """Whether generated text means the gold, and where not."""

    def compared(self, outcome: Outcome, truth: Facts) -> Compared:
        """A result against the gold's row of `sql`."""


class Gold(Protocol):
    """A kind of gold."""

    FORMAT: Literal["sketch", "sql"]
    ERROR_KINDS: tuple[str, ...]

    def make_tables(self, project: Project, dataset: str, log: Log) -> Facts:
        """Read the source and write `tables`, and beside it what `make_questions` needs."""

    def make_questions(self, project: Project, dataset: str, log: Log) -> Facts:
        """Write `questions`."""

    def make_sql(self, project: Project, dataset: str, log: Log) -> Facts:
        """Write `sql`: the gold of each question as DuckDB SQL, and what it returns."""

    def load_tables(self, project: Project, dataset: str, splits: Iterable[str] | None = None) -> dict[str, Any]:
        """What questions are asked about, by their `table_id`."""

    def tables_version(self, project: Project, dataset: str, splits: Iterable[str]) -> str:
        """What names the content of the tables that questions of some splits are asked about."""

    def load_questions(self, project: Project, dataset: str, splits: Iterable[str] | None = None) -> list[Any]:
        """The questions in their order."""

    def load_usable(self, project: Project, dataset: str, splits: Iterable[str] | None = None) -> list[Any]:
        """Those of them that train and are scored."""

    def leaks(self, project: Project, dataset: str) -> tuple[list[str], list[tuple[str, str]]]:
        """(what must not be in two splits and is, pairs that are worth a look)."""

    def same_again(self, outcome: Outcome, truth: Facts) -> bool:
        """Whether gold, run once more, gives the result that `sql` has of it."""

    def about(self, project: Project, dataset: str) -> Facts | None:
        """What a report says of the data: how it was split, what was left out."""


def read_prepared(path: Path, dataset: str, **options: Any) -> pa.Table:
    """A Parquet file of `tables`, `questions` or `sql`. Raises DataError where it is not there yet, or is broken."""
    made_by = f"t2s prepare {dataset}"
    if not path.exists():
        raise DataError(f"{path} is not there; make it with: {made_by}")
    try:
        return pq.read_table(path, **options)
    except (pa.ArrowException, OSError) as e:
        raise DataError(f"{path} cannot be read ({e}); make it again with: {made_by}") from e


MADE_OF = "made_of"
_MADE_OF = {"questions": ("tables",), "sql": ("tables", "questions")}


def made_of(project: Project, dataset: str, asset: str) -> Facts:
    """For the manifest of `questions` or `sql`: the data versions of what it is made of."""
    return {MADE_OF: {n: m["data_version"] for n, m in manifests(project, dataset, _MADE_OF[asset]).items()}}


def manifests(project: Project, dataset: str, assets: Iterable[str]) -> dict[str, Facts]:
    """The manifests of assets of a dataset, by name. Raises DataError when one is not there."""
    made_by = f"t2s prepare {dataset}"
    return {asset: read_manifest(project.path(dataset, asset), made_by=made_by) for asset in assets}


def check_made_of(dataset: str, made: Mapping[str, Facts]) -> None:
    """See that `questions` and `sql`, by the manifests in `made`, are of the `tables` and `questions` that there are.

    An earlier version's, which do not say, pass. Raises DataError: gold of other questions would be taken for theirs.
    """
    stale = [
        f"{asset} is of {name} {was}, which is now {made[name]['data_version']}"
        for asset in _MADE_OF
        for name, was in made[asset].get(MADE_OF, {}).items()
        if was != made[name]["data_version"]
    ]
    if stale:
        raise DataError(f"{dataset}: {'; '.join(stale)}; make them again with: t2s prepare {dataset}")


def sql_facts(rows: Sequence[Facts]) -> Facts:
    """What the manifest of `sql` counts of its rows, whatever the kind of gold."""
    return {
        "questions": dict(Counter(r["split"] for r in rows)),
        "category": dict(Counter(r["category"] for r in rows)),
        "aggregate": dict(Counter(r["aggregate"] for r in rows)),
        "conditions": {str(k): v for k, v in sorted(Counter(r["conditions"] for r in rows).items())},
        "gold_that_does_not_run": dict(Counter(r["split"] for r in rows if r["status"] != "ok")),
        "gold_without_an_answer": dict(Counter(r["split"] for r in rows if r["degenerate"])),
    }


def every(log: Log, step: int) -> Callable[[int, int], None]:
    """A progress callback that logs after each `step` things done."""
    shown = 0

    def progress(done: int, total: int) -> None:
        nonlocal shown
        if done - shown >= step:
            shown = done
            log(f"{done:,} of {total:,}")

    return progress
