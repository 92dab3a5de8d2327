"""What a dataset's questions are answered with: WikiSQL's sketch (sketch.py) or SQL text (text.py).

Both modules have the functions and constants of `Gold`; everything else of the platform asks `prepare.gold_of` for
them and does not know which kind it has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from t2s_assets.text2sql.execution import Database, Outcome
from t2s_assets.text2sql.schema import TableSchema
from t2s_assets.text2sql.storage import Project

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
