"""A table that a user asks about: the schema as prompts and the grammar see it, the names as the user wrote them, and
the rows where there are any. Types are `real` (any number) or `text` (everything else).
"""

from __future__ import annotations

import decimal
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

from t2s_assets.text2sql.errors import DataError
from t2s_assets.text2sql.execution import Database, Relation
from t2s_assets.text2sql.query import identifier, number_literal, table_identifier
from t2s_assets.text2sql.schema import Column, ColumnType, TableSchema, column_names, one_line

MAX_CELLS = 10_000_000
"""How much is copied of the columns that a query names, of its large tables together; an answer over more says so."""

MAX_ROWS = 100_000
"""Rows of a table that are read before it is known what a query names, for sample values too; and all that are copied
of a CSV among others, and of columns with over `MAX_TEXT` bytes of text. A table of more rows is large."""

MAX_TEXT = 150_000_000
"""Bytes of text in columns of over `MAX_ROWS` rows: the executor's processes hold about twice as much. A table of more
bytes is large too, however few its rows."""

_SAMPLED_ROWS = 1_000
_PLAIN = {"real": "DOUBLE", "text": "VARCHAR"}
_Each = TypeVar("_Each")


@dataclass(frozen=True)
class Cells:
    """Some cells of a column: how many, and the first with its row, counted from 1."""

    count: int
    first: str
    row: int


@dataclass(frozen=True)
class Content:
    """A table's rows as Arrow: VARCHAR columns as strings, numeric ones as numbers; `types` are DuckDB's names.

    `made_null` has, by a column's position, cells of columns of numbers or dates that spell none and became NULL;
    `sorts_otherwise` DuckDB's types of columns that are text here and whose values do not sort as that; `remarks` what
    else to know of a column's cells.
    """

    data: pa.Table
    types: tuple[str, ...]
    truncated: bool = False
    made_null: Mapping[int, Cells] = field(default_factory=dict)
    sorts_otherwise: Mapping[int, str] = field(default_factory=dict)
    remarks: Mapping[int, str] = field(default_factory=dict)

    @property
    def lost(self) -> int:
        """How many cells became NULL."""
        return sum(cells.count for cells in self.made_null.values())


@dataclass(frozen=True)
class Wanted:
    """What is wanted of a table's rows: them as text and numbers alone, or with their real types (`typed`), and as many
    as are copied of so many large `tables` together; None where a query might read any. `columns` are positions, None
    for all."""

    typed: bool
    tables: int | None
    columns: tuple[int, ...] | None = None

    def of(self, each: Sequence[_Each]) -> list[_Each]:
        """Of what there is of each column, that of the wanted ones."""
        return list(each) if self.columns is None else [each[position] for position in self.columns]

    def rows(self, width: int) -> int:
        """How many at most, of a table of `width` columns."""
        return max(row_cap(width), row_cap(width, tables=self.tables))

    @property
    def text(self) -> int:
        """How many bytes of text they may hold, where they are more than `row_cap`."""
        return MAX_TEXT // (self.tables or 1)


def rows_copied(contents: Iterable[Content]) -> int | None:
    """How many rows there are of the first content that was cut; None where none was."""
    return next((c.data.num_rows for c in contents if c.truncated), None)


@dataclass(frozen=True)
class UserTable:
    """One table of a user.

    `path` is its name, after its schema's where that is not the default one; `header` holds the column names as the
    user's database knows them, `columns` the same as prompts show them: in one line, unique ignoring case. `read`
    gives the rows that are wanted; `in_memory`, it takes no time. `remark` is what to know of all its cells.
    """

    path: tuple[str, ...]
    header: tuple[str, ...]
    columns: tuple[Column, ...]
    read: Callable[[Wanted], Content] | None = field(default=None, repr=False, compare=False)
    in_memory: bool = field(default=False, compare=False)
    remark: str = field(default="", compare=False)

    @classmethod
    def of(
        cls,
        name: str | tuple[str, ...],
        header: Sequence[str],
        types: Sequence[ColumnType],
        read: Callable[[Wanted], Content] | None = None,
        *,
        where: str,
        sql_types: Sequence[str] = (),
        in_memory: bool = False,
    ) -> UserTable:
        """From raw names and types; without `sql_types`, DuckDB's types are VARCHAR and DOUBLE.

        Raises DataError for a table without columns; `where` says which one.
        """
        path = (name,) if isinstance(name, str) else name
        if not header:
            raise DataError(f"{where}: table {'.'.join(path)!r} has no columns; a question needs at least one")
        names, kept = column_names(header), sql_types or [_PLAIN[t] for t in types]
        columns = tuple(Column(n, t, s) for n, t, s in zip(names, types, kept, strict=True))
        return cls(path, tuple(header), columns, read, in_memory)

    @property
    def name(self) -> str:
        """The table's name for people and for `--table`."""
        return ".".join(self.path)

    def schema(self, name: str) -> TableSchema:
        """The schema under an SQL name."""
        return TableSchema(name, self.columns)

    @cached_property
    def content(self) -> Content:
        """The first rows as text and numbers, read once. Raises DataError where only a schema was given."""
        return self._content(Wanted(typed=False, tables=None))

    @cached_property
    def typed_content(self) -> Content:
        """The first rows with their real types, read once. Raises DataError where only a schema was given."""
        return self._content(Wanted(typed=True, tables=None))

    def rows(self, *, typed: bool) -> Content:
        """`typed_content` or `content`."""
        return self.typed_content if typed else self.content

    def is_large(self, *, typed: bool) -> bool:
        """Whether `rows` are not all, or more than a process of the executor is sure to hold. Raises DataError where
        only a schema was given."""
        first = self.rows(typed=typed)
        return first.truncated or first.data.nbytes > MAX_TEXT

    def part(self, columns: Iterable[int], *, among: int) -> UserTable:
        """Some columns, by their positions, as a table of their own whose `rows` are as many as are copied of so many
        large tables."""
        chosen = tuple(columns)

        def read(wanted: Wanted) -> Content:
            return self._content(replace(wanted, tables=among, columns=tuple(wanted.of(chosen))))

        header, names = (tuple(each[position] for position in chosen) for each in (self.header, self.columns))
        return replace(self, header=header, columns=names, read=read)

    @cached_property
    def alone(self) -> UserTable:
        """The table with as many `rows` as are copied of all its columns where a query reads no other large one."""
        return self.part(range(len(self.columns)), among=1) if self.is_large(typed=False) else self

    def looked_at(self, *, typed: bool, ran: bool) -> Content | None:
        """The rows for what is said of an answer: those in memory, others only where its query `ran` on a copy of them.
        None too where they cannot be read, which whoever runs the query is told."""
        try:
            return self.rows(typed=typed) if ran or self.in_memory else None
        except DataError:
            return None

    def _content(self, wanted: Wanted) -> Content:
        if self.read is None:
            raise DataError(
                f"table {self.name!r} is only a schema, it has no rows; give a database, CSV or Parquet file"
            )
        return self.read(wanted)

    @property
    def has_rows(self) -> bool:
        """Whether rows were given with the schema, none included."""
        return self.read is not None

    @cached_property
    def sample_rows(self) -> list[tuple[Any, ...]] | None:
        """The first rows as text, for prompts with sample values; None without rows."""
        if not self.has_rows:
            return None
        rows = self.content.data.slice(0, _SAMPLED_ROWS).to_pylist()
        return [tuple(_as_text(v) for v in row.values()) for row in rows]

    @cached_property
    def typed_sample_rows(self) -> list[tuple[Any, ...]] | None:
        """The first rows with their real types, as training with sample values saw them; None without rows."""
        if not self.has_rows:
            return None
        return list(zip(*(python_values(column) for column in self.typed_content.data.slice(0, _SAMPLED_ROWS).columns)))

    @cached_property
    def _databases(self) -> dict[tuple[str, bool], Database]:
        return {}

    def database(self, name: str, *, typed: bool = False) -> Database:
        """`relation` for execution, made once: its key is a hash of all rows."""
        key = name, typed
        if key not in self._databases:
            self._databases[key] = Database.of(self.relation(name, typed=typed))
        return self._databases[key]

    def relation(self, name: str, *, typed: bool = False) -> Relation:
        """`rows` under an SQL name: text compares ignoring case, as WikiSQL's does; or with real types, as it is."""
        content = self.rows(typed=typed)
        types = [t if typed or t != "VARCHAR" else "VARCHAR COLLATE NOCASE" for t in content.types]
        columns = tuple(zip((c.name for c in self.columns), types))
        return Relation(name, columns, content.data.rename_columns([c for c, _ in columns]))

    def own_schema(self) -> TableSchema:
        """The schema as the user's database has it, for SQL that people write."""
        return TableSchema(self.path[-1], tuple(replace(c, name=h) for c, h in zip(self.columns, self.header)))

    def own_relation(self, *, typed: bool) -> Relation:
        """`rows` under the names of `own_schema`."""
        shown = self.relation(self.path[-1], typed=typed)
        columns = tuple(zip(self.header, (t for _, t in shown.columns)))
        return Relation(shown.name, columns, shown.data.rename_columns(list(self.header)))

    def sql_name(self) -> str:
        """The table's name as SQL text."""
        return ".".join(table_identifier(part) for part in self.path)

    def create_table(self, *, typed: bool = True) -> str:
        """The schema as a CREATE TABLE text with the user's names, for people; with real types, or numbers and text."""
        types = [c.sql_type if typed else _PLAIN[c.type] for c in self.columns]
        body = ",\n".join(f"  {identifier(h)} {t}" for h, t in zip(self.header, types))
        return f"CREATE TABLE {self.sql_name()} (\n{body}\n)"


def python_values(column: pa.ChunkedArray) -> list[Any]:
    """A column's values; None for what Python has no date for, such as DuckDB's infinity."""
    try:
        return column.to_pylist()
    except (OverflowError, ValueError):
        return [python_values(column.slice(at, 1))[0] if len(column) > 1 else None for at in range(len(column))]


def _as_text(value: Any) -> str | None:
    if isinstance(value, (int, decimal.Decimal)) and value == int(value):
        return str(int(value))  # a float would round ids of over 15 digits
    if isinstance(value, (float, decimal.Decimal)):
        return number_literal(float(value)) if math.isfinite(value) else None
    return None if value is None else str(value)


@dataclass(frozen=True)
class UserDatabase:
    """All tables of a user's source, for models that answer over several.

    `left_out` says in a line each which tables cannot be opened, and why.
    """

    name: str
    tables: tuple[UserTable, ...]
    left_out: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns of all tables."""
        return tuple(c for t in self.tables for c in t.columns)

    @property
    def has_rows(self) -> bool:
        """Whether rows were given with every schema."""
        return all(t.has_rows for t in self.tables)

    def create_table(self, *, typed: bool = True) -> str:
        """The schemas as CREATE TABLE texts, for people."""
        return ";\n".join(t.create_table(typed=typed) for t in self.tables)


def tables_of(about: UserTable | UserDatabase) -> tuple[UserTable, ...]:
    """The tables asked about."""
    return about.tables if isinstance(about, UserDatabase) else (about,)


@dataclass(frozen=True)
class Source:
    """Where tables come from: their paths, as `UserTable` has them, and each table when it is asked for.

    While `held` lasts, what was read of a file once is not read again for each of its tables.
    """

    where: str
    paths: tuple[tuple[str, ...], ...]
    open: Callable[[tuple[str, ...]], UserTable] = field(repr=False, compare=False)
    held: Callable[[], AbstractContextManager[Any]] = field(default=nullcontext, repr=False, compare=False)

    @property
    def name(self) -> str:
        """What all tables together are called: as their file or folder, where they come from one."""
        path = os.path.abspath(self.where)
        return Path(path).stem if os.path.exists(path) else self.where

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The tables' names for people and for `--table`."""
        return tuple(".".join(path) for path in self.paths)

    def asked(self, name: str | None, *, many: bool) -> UserTable | UserDatabase:
        """What a question is put to: the table called `name`, or, with `many` and no name, all of them."""
        return self.database() if many and name is None else self.table(name)

    def database(self) -> UserDatabase:
        """All tables of the default schema that can be opened.

        Raises:
            DataError: there is no table, none is in a default schema, or none can be opened.
        """
        if not self.paths:
            raise DataError(f"{self.where}: there is no table")
        if not self._default:
            schemas = ", ".join(sorted({path[0] for path in self.paths}))
            raise DataError(
                f"{self.where}: its tables are in several schemas ({schemas}), and a query over several tables names "
                f"none; choose one table with --table; there are: {self._listed}"
            )
        tables, problems = [], []
        with self.held():
            for path in self._default:
                try:
                    tables.append(self.open(path))
                except DataError as e:
                    problems.append(e)
        if not tables:
            raise problems[0]
        return UserDatabase(self.name, tuple(tables), tuple(one_line(str(e)) for e in problems))

    def table(self, name: str | None = None) -> UserTable:
        """The table called `name` (ignoring case), or the only one. Raises DataError that lists the tables."""
        if not self.paths:
            raise DataError(f"{self.where}: there is no table")
        if name is None:
            if len(self.paths) > 1:
                raise DataError(
                    f"{self.where} holds several tables, choose one with --table; there are: {self._listed}"
                )
            return self.open(self.paths[0])
        folded = name.casefold()
        found = (
            [path for path, known in zip(self.paths, self.names) if known == name]
            or [path for path, known in zip(self.paths, self.names) if known.casefold() == folded]
            or [path for path in self._default if path[-1].casefold() == folded]
        )
        if not found:
            raise DataError(f"{self.where}: no table {name!r}; there are: {self._listed}")
        return self.open(found[0])

    @property
    def _default(self) -> tuple[tuple[str, ...], ...]:
        """The tables of the default schema; where there is none in it, of the only other one."""
        default = tuple(path for path in self.paths if len(path) == 1)
        if not default and len({path[0].casefold() for path in self.paths}) == 1:
            return self.paths
        return default

    @property
    def _listed(self) -> str:
        more = f" and {len(self.names) - 50} more" if len(self.names) > 50 else ""
        return ", ".join(self.names[:50]) + more


def of_tables(where: str, tables: Sequence[UserTable]) -> Source:
    """A source of tables that are already here. Raises DataError when two share a name."""
    by_path = {t.path: t for t in tables}
    names = [t.name for t in tables]
    check_apart(where, names, names)
    return Source(where, tuple(by_path), by_path.__getitem__)


def check_apart(where: str, names: Sequence[str], shown: Sequence[str]) -> None:
    """Raise DataError where two tables share a name; it lists them as `shown`."""
    if len({name.casefold() for name in names}) < len(names):
        raise DataError(f"{where}: two tables share a name among {', '.join(shown)}; rename one")


def row_cap(width: int, *, tables: int | None = None) -> int:
    """Rows that are copied of a table of `width` columns: of `tables` that share `MAX_CELLS`; of any, where that is
    None."""
    cells = max(1, MAX_CELLS // max(1, width) // (tables or 1))
    return min(MAX_ROWS, cells) if tables is None else cells


def shortened(text: str) -> str:
    """`text` for an error message."""
    return text if len(text) <= 80 else text[:80] + "..."
