"""What a question is put to when a model is used: one table, for models of WikiSQL's sketch; or all tables of a
database under their own names, for models of SQL text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from sqlglot import exp

from t2s_assets.text2sql import checking
from t2s_assets.text2sql.decoding.grounding import text_comparisons
from t2s_assets.text2sql.errors import PromptError
from t2s_assets.text2sql.execution import Database, RefusedSQL, check_sql
from t2s_assets.text2sql.schema import TABLE, TableSchema
from t2s_assets.text2sql.stored_text import spellings
from t2s_assets.text2sql.tables.notes import notes
from t2s_assets.text2sql.tables.unsaid import unsaid
from t2s_assets.text2sql.tables.user_tables import UserDatabase, UserTable, large_tables, rows_copied, tables_of


class Asked(Protocol):
    """What prompts, checks and execution need of it."""

    @property
    def schemas(self) -> tuple[TableSchema, ...]:
        """The tables as prompt and grammar show them."""

    @property
    def sample_rows(self) -> Sequence[Sequence[Sequence[Any]]] | None:
        """The first rows of each of `schemas`; None where only a schema was given."""

    @property
    def database(self) -> Database:
        """The rows that generated SQL may read. Raises DataError where only a schema was given."""

    def database_for(self, sql: str) -> Database:
        """The tables of `database` that a query names. Raises DataError where only their schema was given."""

    def rows_copied_for(self, sql: str) -> int | None:
        """How many rows of the first cut table that a query names are in `database`; None where all are."""

    def notes_for(self, sql: str, *, ran: bool, question: str = "") -> tuple[str, ...]:
        """What people should know of a query: what it leaves out of the question, where models of that kind cannot say
        it (`unsaid`), and of the columns that it uses (`notes`)."""

    def checked(self, text: str) -> tuple[str, str | None]:
        """(SQL with the user's names, None), or (SQL, what is wrong with it)."""


def asked_about(given: UserTable | UserDatabase, gold: Literal["sketch", "sql"]) -> Asked:
    """`given` as a model of that kind is asked about it.

    Raises:
        PromptError: a model of single tables is asked about several, or tables share a name.
    """
    if gold == "sql":
        return NamedTables(tables_of(given))
    if isinstance(given, UserDatabase):
        raise PromptError(
            f"{given.name} holds {len(given.tables)} tables, and this model was trained on questions about one; "
            f"choose one of {', '.join(t.name for t in given.tables)}"
        )
    return OneTable(given)


@dataclass(frozen=True)
class OneTable:
    """One table, called `t` in prompts."""

    table: UserTable

    @property
    def schemas(self) -> tuple[TableSchema, ...]:
        """The table as `t`."""
        return (self.table.schema(TABLE),)

    @property
    def sample_rows(self) -> Sequence[Sequence[Sequence[Any]]] | None:
        """Its first rows, as text."""
        rows = self.table.sample_rows
        return None if rows is None else [rows]

    @property
    def database(self) -> Database:
        """Its rows as `t`, as text and numbers."""
        return self.table.database(TABLE)

    def database_for(self, sql: str) -> Database:
        """Its rows, whatever the query."""
        return self.database

    def rows_copied_for(self, sql: str) -> int | None:
        """How many of its rows are copied, where that is not all."""
        return rows_copied([self.table.content])

    def notes_for(self, sql: str, *, ran: bool, question: str = "") -> tuple[str, ...]:
        """See `unsaid.unsaid` and `notes.notes`."""
        names = [self.table.name, *self.table.header]
        return (
            *unsaid(question, sql, names, self._held(sql, ran)),
            *notes(sql, {TABLE: self.table}, typed=False, ran=ran),
        )

    def _held(self, sql: str, ran: bool) -> Callable[[str], bool]:
        """Whether a text that a query compares a column with is in it, as far as that is known."""

        def held(text: str) -> bool:
            content = self.table.looked_at(typed=False, ran=ran)
            if content is None or content.truncated:
                return True
            columns = {value.name: column for column, value in text_comparisons(sql)[1]}
            return text not in columns or bool(spellings(self.table, content, columns[text], text))

        return held

    def checked(self, text: str) -> tuple[str, str | None]:
        """See `checking.checked`."""
        return checking.checked(text, self.table)


@dataclass(frozen=True)
class NamedTables:
    """Tables under their own names, with their real types."""

    tables: tuple[UserTable, ...]

    @property
    def schemas(self) -> tuple[TableSchema, ...]:
        """The tables as they are called."""
        return tuple(t.schema(t.path[-1]) for t in self.tables)

    @property
    def sample_rows(self) -> Sequence[Sequence[Sequence[Any]]] | None:
        """The first rows of each."""
        found = [t.typed_sample_rows for t in self.tables]
        return None if any(rows is None for rows in found) else [rows for rows in found if rows is not None]

    @property
    def database(self) -> Database:
        """The first rows of all tables."""
        return _database(self.tables, among=None)

    def database_for(self, sql: str) -> Database:
        """The rows of the tables that the query names."""
        named = named_in(sql, self.tables)
        return _database(named, among=large_tables(named))

    def rows_copied_for(self, sql: str) -> int | None:
        """How many rows are copied of the first table that was cut, of those that the query names."""
        named = named_in(sql, self.tables)
        among = large_tables(named)
        return rows_copied(t.rows(typed=True, among=among) for t in named)

    def notes_for(self, sql: str, *, ran: bool, question: str = "") -> tuple[str, ...]:
        """See `notes.notes`: SQL text says anything."""
        return notes(sql, {t.path[-1]: t for t in self.tables}, typed=True, ran=ran)

    def checked(self, text: str) -> tuple[str, str | None]:
        """See `checking.checked_over`."""
        return checking.checked_over(text, self.tables)


def named_in(sql: str, tables: Sequence[UserTable]) -> tuple[UserTable, ...]:
    """The tables that a query may read; all where it is none that may run."""
    try:
        tree = check_sql(sql, None)
    except RefusedSQL:
        return tuple(tables)
    named = {node.name.lower() for node in tree.find_all(exp.Table)}
    return tuple(t for t in tables if t.path[-1].lower() in named)


def _database(tables: Sequence[UserTable], *, among: int | None) -> Database:
    """The tables together, `among` of which are large. The same rows are hashed once, whatever they stand with."""
    parts = [t.database(t.path[-1], typed=True, among=among) for t in tables]
    return Database("+".join(p.key for p in parts), tuple(r for p in parts for r in p.relations))
