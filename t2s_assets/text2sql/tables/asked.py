"""What a question is put to when a model is used: one table, for models of WikiSQL's sketch; or all tables of a
database under their own names, for models of SQL text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from t2s_assets.text2sql.decoding.grounding import text_comparisons
from t2s_assets.text2sql.errors import PromptError
from t2s_assets.text2sql.execution import Database
from t2s_assets.text2sql.schema import TABLE, TableSchema
from t2s_assets.text2sql.tables import checking
from t2s_assets.text2sql.tables.copies import Copies
from t2s_assets.text2sql.tables.notes import notes
from t2s_assets.text2sql.tables.stored_text import spellings
from t2s_assets.text2sql.tables.unsaid import unsaid
from t2s_assets.text2sql.tables.user_tables import UserDatabase, UserTable, rows_copied, tables_of


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
        """Rows that any generated SQL may read. Raises DataError where only a schema was given."""

    def database_for(self, sql: str) -> Database:
        """The tables that a query names, as they are copied for it. Raises DataError where only a schema was given."""

    def rows_copied_for(self, sql: str) -> int | None:
        """How many rows of the first cut table that a query names are in `database_for`; None where all are."""

    def notes_for(self, sql: str, *, ran: bool, question: str = "") -> tuple[str, ...]:
        """What people should know of a query: what it leaves out of the question, where models of that kind cannot say
        it (`unsaid`), and of the columns that it uses (`notes`)."""

    def checked(self, text: str) -> tuple[str, str | None]:
        """(SQL with the user's names, None), or (SQL, what is wrong with it)."""


def asked_about(given: UserTable | UserDatabase, gold: Literal["sketch", "sql"], copies: Copies | None = None) -> Asked:
    """`given` as a model of that kind is asked about it; `copies` are those of the questions before.

    Raises:
        PromptError: a model of single tables is asked about several, or tables share a name.
    """
    if gold == "sql":
        return NamedTables(tables_of(given), copies or Copies(typed=True))
    if isinstance(given, UserDatabase):
        raise PromptError(
            f"{given.name} holds {len(given.tables)} tables, and this model was trained on questions about one; "
            f"choose one of {', '.join(t.name for t in given.tables)}"
        )
    return OneTable(given, copies or Copies(typed=False))


@dataclass(frozen=True)
class OneTable:
    """One table, called `t` in prompts."""

    table: UserTable
    copies: Copies

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
        return self.table.alone.database(TABLE)

    def database_for(self, sql: str) -> Database:
        """See `Copies.of`."""
        return _database(self._copied(sql), typed=False)

    def rows_copied_for(self, sql: str) -> int | None:
        """How many of its rows are copied, where that is not all."""
        return rows_copied(table.content for table in self._copied(sql).values())

    def _copied(self, sql: str) -> dict[str, UserTable]:
        return self.copies.of(sql, {TABLE: self.table})

    def looked_at(self, sql: str, *, ran: bool) -> UserTable:
        """What may be said of a query is said by what is copied for it, where rows are looked at (`UserTable`'s)."""
        looked = self.table.has_rows and (ran or self.table.in_memory)
        return self._copied(sql).get(TABLE, self.table) if looked else self.table

    def notes_for(self, sql: str, *, ran: bool, question: str = "") -> tuple[str, ...]:
        """See `unsaid.unsaid` and `notes.notes`."""
        names = [self.table.name, *self.table.header]
        table = self.looked_at(sql, ran=ran)
        return (
            *unsaid(question, sql, names, self._held(sql, table, ran)),
            *notes(sql, {TABLE: table}, typed=False, ran=ran),
        )

    def _held(self, sql: str, table: UserTable, ran: bool) -> Callable[[str], bool]:
        """Whether a text that a query compares a column with is in it, as far as that is known."""

        def held(text: str) -> bool:
            content = table.looked_at(typed=False, ran=ran)
            if content is None or content.truncated:
                return True
            columns = {value.name: column for column, value in text_comparisons(sql)[1]}
            return text not in columns or bool(spellings(table, content, columns[text], text))

        return held

    def checked(self, text: str) -> tuple[str, str | None]:
        """See `checking.checked`."""
        return checking.checked(text, self.table)


@dataclass(frozen=True)
class NamedTables:
    """Tables under their own names, with their real types."""

    tables: tuple[UserTable, ...]
    copies: Copies

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
        return _database(self._by_name, typed=True)

    def database_for(self, sql: str) -> Database:
        """See `Copies.of`."""
        return _database(self.copies.of(sql, self._by_name), typed=True)

    def rows_copied_for(self, sql: str) -> int | None:
        """How many rows are copied of the first table that was cut, of those that the query names."""
        return rows_copied(table.typed_content for table in self.copies.of(sql, self._by_name).values())

    @property
    def _by_name(self) -> dict[str, UserTable]:
        return {t.path[-1]: t for t in self.tables}

    def notes_for(self, sql: str, *, ran: bool, question: str = "") -> tuple[str, ...]:
        """See `notes.notes`: SQL text says anything."""
        return notes(sql, self._by_name, typed=True, ran=ran)

    def checked(self, text: str) -> tuple[str, str | None]:
        """See `checking.checked_over`."""
        return checking.checked_over(text, self.tables)


def _database(tables: Mapping[str, UserTable], *, typed: bool) -> Database:
    """The tables together. The same rows are hashed once, whatever they stand with."""
    parts = [table.database(name, typed=typed) for name, table in tables.items()]
    return Database("+".join(p.key for p in parts), tuple(r for p in parts for r in p.relations))
