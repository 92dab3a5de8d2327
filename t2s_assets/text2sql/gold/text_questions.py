"""Questions with gold of SQL text, and the databases that they are about, as prepared (text.py makes them)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from t2s_assets.text2sql.dialects.reading import SqlTextError, read_sql, shape
from t2s_assets.text2sql.execution import Database, Outcome, Relation
from t2s_assets.text2sql.gold.protocol import Compared, Verdict
from t2s_assets.text2sql.results import result_fingerprints
from t2s_assets.text2sql.schema import TableSchema
from t2s_assets.text2sql.sql import normal_form
from t2s_assets.text2sql.sql.resolving import NormalFormError, columns_of
from t2s_assets.text2sql.tables.user_tables import python_values

_SAMPLED_ROWS = 1_000


@dataclass(frozen=True)
class TableFile:
    """One table of a database as prepared, with its rows in a Parquet file."""

    schema: TableSchema
    types: tuple[str, ...]
    path: Path

    @cached_property
    def data(self) -> pa.Table:
        """The rows, read once."""
        return pq.read_table(self.path)

    @property
    def relation(self) -> Relation:
        """The table for execution; text compares to the letter, as DuckDB does."""
        return Relation(self.schema.name, tuple(zip((c.name for c in self.schema.columns), self.types)), self.data)


@dataclass(frozen=True)
class OwnDatabase:
    """A database as prepared, or those of its tables that a question's line names."""

    name: str
    tables: tuple[TableFile, ...]

    @property
    def schemas(self) -> tuple[TableSchema, ...]:
        """The tables under their own names."""
        return tuple(t.schema for t in self.tables)

    @cached_property
    def sample_rows(self) -> tuple[tuple[tuple[Any, ...], ...], ...]:
        """The first rows of each table."""
        sampled = (t.data.slice(0, _SAMPLED_ROWS).columns for t in self.tables)
        return tuple(tuple(zip(*map(python_values, columns))) for columns in sampled)

    @cached_property
    def database(self) -> Database:
        """All tables for execution."""
        return Database.of(*(t.relation for t in self.tables))

    @property
    def prompted(self) -> Database:
        """Generated SQL runs on what gold runs on: names are the real ones."""
        return self.database


@dataclass(frozen=True)
class TextQuestion:
    """A question with its gold as DuckDB SQL; `tables` are those that its prompt shows (none: all)."""

    id: str
    split: str
    table_id: str
    text: str
    sql: str
    tables: tuple[str, ...] = ()
    where: str = ""

    def shown(self, about: OwnDatabase) -> tuple[TableSchema, ...]:
        """The tables that its prompt may show."""
        return tuple(s for s in about.schemas if not self.tables or s.name in self.tables)

    def columns(self, about: OwnDatabase) -> set[tuple[str, str]]:
        """The columns of base tables that its gold names, empty where it has no normal form."""
        try:
            return columns_of(self.sql, about.schemas)
        except NormalFormError:
            return set()

    def completion(self, about: OwnDatabase) -> str:
        """What the model learns to write."""
        return self.sql

    def verdict(self, text: str, about: OwnDatabase) -> Verdict:
        """Whether generated text has the gold's normal form, and where not.

        A gold without a normal form, which `sql` counts, is matched only by its own text in the style of completions;
        the clause in which other text differs from it is not known.
        """
        try:
            written = read_sql(text, "duckdb", about.schemas)
            aggregate = shape(written).aggregate
        except SqlTextError as e:
            return Verdict(None, str(e), None, False, ["unparsable"])
        if self.sql in (written, text.strip()):
            return Verdict(written, "", aggregate, True, [])
        try:
            normal_form.normal_form(self.sql, about.schemas)
        except NormalFormError:
            return Verdict(written, "", aggregate, False, ["no normal form"])
        try:
            normal_form.normal_form(written, about.schemas)
        except NormalFormError as e:
            return Verdict(None, str(e), None, False, ["unparsable"])
        errors = normal_form.differences(written, self.sql, about.schemas)
        return Verdict(written, "", aggregate, not errors, errors)

    def compared(self, outcome: Outcome, truth: dict[str, Any]) -> Compared:
        """A result against the gold's: in order where the gold has an outermost ORDER BY, else as bags."""
        mine = fingerprint(outcome, truth["ordered"])
        right = mine is not None and mine == truth["fingerprint"]
        return Compared(mine, right, right and not truth["degenerate"])


def fingerprint(outcome: Outcome, ordered: bool) -> str | None:
    """A result as it is compared: with the order of its rows, or as a bag; None where there is none to compare."""
    return result_fingerprints(outcome, fold=False)[0 if ordered else 1]
