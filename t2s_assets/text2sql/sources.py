"""The tables that users ask about: a CREATE TABLE text, a JSON schema, a database, a CSV or Parquet file.

Every source comes to `UserTable`: the schema as prompts and the grammar see it, the names as the user wrote them,
and the rows where there are any. Types become `real` (any number) or `text` (everything else).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import sqlglot
from sqlglot import exp

from t2s_assets.text2sql.errors import DataError
from t2s_assets.text2sql.execution import Database, Relation
from t2s_assets.text2sql.query import identifier, number_literal, parse_number, table_identifier
from t2s_assets.text2sql.schema import Column, ColumnType, TableSchema, column_names

MAX_ROWS = 100_000
"""Rows of a table that are copied for `run` and for sample values; an answer over a longer table says so."""

_SAMPLED_ROWS = 1_000


@dataclass(frozen=True)
class Content:
    """A table's rows as Arrow: VARCHAR columns as strings, numeric ones as numbers; `types` are DuckDB's names."""

    data: pa.Table
    types: tuple[str, ...]
    truncated: bool = False


@dataclass(frozen=True)
class UserTable:
    """One table of a user.

    `path` is its name, after its schema's where that is not the default one; `header` holds the column names as the
    user's database knows them, `columns` the same as prompts show them: in one line, unique ignoring case.
    """

    path: tuple[str, ...]
    header: tuple[str, ...]
    columns: tuple[Column, ...]
    read: Callable[[], Content] | None = field(default=None, repr=False, compare=False)

    @classmethod
    def of(
        cls,
        name: str | tuple[str, ...],
        header: Sequence[str],
        types: Sequence[ColumnType],
        read: Callable[[], Content] | None = None,
        *,
        where: str,
    ) -> UserTable:
        """From raw names and types. Raises DataError for a table without columns; `where` says which one."""
        path = (name,) if isinstance(name, str) else name
        if not header:
            raise DataError(f"{where}: table {'.'.join(path)!r} has no columns; a question needs at least one")
        columns = tuple(Column(n, t) for n, t in zip(column_names(header), types, strict=True))
        return cls(path, tuple(header), columns, read)

    @property
    def name(self) -> str:
        """The table's name for people and for `--table`."""
        return ".".join(self.path)

    def schema(self, name: str) -> TableSchema:
        """The schema under an SQL name."""
        return TableSchema(name, self.columns)

    @cached_property
    def content(self) -> Content:
        """The rows, read once. Raises DataError where only a schema was given."""
        if self.read is None:
            raise DataError(f"table {self.name!r} is only a schema, it has no rows; give a database, CSV or Parquet file")
        return self.read()

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

    def database(self, name: str) -> Database:
        """The rows for execution under an SQL name; text compares ignoring case, as in evaluation."""
        content = self.content
        columns = tuple(
            (c.name, t if t != "VARCHAR" else "VARCHAR COLLATE NOCASE") for c, t in zip(self.columns, content.types)
        )
        return Database.of(Relation(name, columns, content.data.rename_columns([c.name for c in self.columns])))

    def sql_name(self) -> str:
        """The table's name as SQL text."""
        return ".".join(table_identifier(part) for part in self.path)

    def create_table(self) -> str:
        """The schema as a CREATE TABLE text with the user's names, for people."""
        kinds = {"real": "DOUBLE", "text": "VARCHAR"}
        body = ",\n".join(f"  {identifier(h)} {kinds[c.type]}" for h, c in zip(self.header, self.columns))
        return f"CREATE TABLE {self.sql_name()} (\n{body}\n)"


def _as_text(value: Any) -> str | None:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return number_literal(value) if value == value and abs(value) != float("inf") else None
    return None if value is None else str(value)


@dataclass(frozen=True)
class Source:
    """Where tables come from: their names, and each table when it is asked for."""

    where: str
    names: tuple[str, ...]
    open: Callable[[str], UserTable] = field(repr=False, compare=False)

    def table(self, name: str | None = None) -> UserTable:
        """The table called `name` (ignoring case), or the only one. Raises DataError that lists the tables."""
        if not self.names:
            raise DataError(f"{self.where}: there is no table")
        listed = ", ".join(self.names[:50]) + (f" and {len(self.names) - 50} more" if len(self.names) > 50 else "")
        if name is None:
            if len(self.names) > 1:
                raise DataError(f"{self.where} holds several tables, choose one with --table; there are: {listed}")
            return self.open(self.names[0])
        exact = [n for n in self.names if n == name] or [n for n in self.names if n.casefold() == name.casefold()]
        if not exact:
            raise DataError(f"{self.where}: no table {name!r}; there are: {listed}")
        return self.open(exact[0])


def of_tables(where: str, tables: Sequence[UserTable]) -> Source:
    """A source of tables that are already here. Raises DataError when two share a name."""
    by_name = {t.name: t for t in tables}
    if len({n.casefold() for n in by_name}) < len(tables):
        raise DataError(f"{where}: two tables share a name among {', '.join(t.name for t in tables)}; rename one")
    return Source(where, tuple(by_name), by_name.__getitem__)


# -------------------------------------------------------------------------------------------- CREATE TABLE text

_DIALECTS = ("duckdb", "postgres", "mysql", "sqlite", "tsql", "bigquery", "snowflake")


def from_ddl(text: str, *, where: str = "--ddl") -> Source:
    """The tables of CREATE TABLE statements in any of several SQL dialects; other statements are passed over.

    Raises:
        DataError: no dialect reads the text, it creates no table, or a table has no columns.
    """
    if not text.strip():
        raise DataError(f"{where}: the text is empty; give CREATE TABLE name (column type, ...)")
    first_error = ""
    for dialect in _DIALECTS:
        try:
            trees = sqlglot.parse(text, read=dialect)
        except (sqlglot.errors.SqlglotError, RecursionError) as e:
            first_error = first_error or str(e).splitlines()[0]
            continue
        creates = [t for t in trees if isinstance(t, exp.Create) and t.kind == "TABLE"]
        if creates:
            return of_tables(where, [_created(c, where) for c in creates])
    reason = f"it does not parse ({first_error})" if first_error else "it creates no table"
    raise DataError(f"{where}: {reason}; give CREATE TABLE name (column type, ...). Got {_short(text)!r}")


def _created(create: exp.Create, where: str) -> UserTable:
    target = create.this
    table = target.this if isinstance(target, exp.Schema) else target
    definitions = target.expressions if isinstance(target, exp.Schema) else []
    columns = [d for d in definitions if isinstance(d, (exp.ColumnDef, exp.Identifier))]
    kinds = [_kind_of(c.args.get("kind")) if isinstance(c, exp.ColumnDef) else "text" for c in columns]
    path = tuple(part.name for part in (table.args.get("db"), table.this) if part is not None)
    return UserTable.of(path, [c.name for c in columns], kinds, where=where)


_SERIAL = {exp.DataType.Type.SERIAL, exp.DataType.Type.BIGSERIAL, exp.DataType.Type.SMALLSERIAL}
_NUMERIC = (set(exp.DataType.NUMERIC_TYPES) | _SERIAL) - {exp.DataType.Type.BIT}


def _kind_of(type: exp.Expression | None) -> ColumnType:
    return "real" if isinstance(type, exp.DataType) and type.this in _NUMERIC else "text"


def kind_of_name(name: str) -> ColumnType | None:
    """`real` or `text` for an SQL type's name, or None where it is no type."""
    if name.strip().lower() in ("real", "number", "numeric"):
        return "real"
    try:
        return _kind_of(exp.DataType.build(name, dialect="duckdb", udt=False))
    except (sqlglot.errors.SqlglotError, ValueError, RecursionError):
        return None


# --------------------------------------------------------------------------------------------------------- JSON


def from_json(content: Any, *, where: str) -> Source:
    """The tables of a JSON schema.

    One table, or a list of them, each `{"table": NAME, "columns": [{"name": ..., "type": ...}]}`, or WikiSQL's
    `{"header": [...], "types": [...]}`; both may hold `"rows"`, a list of lists. Without a name a table is `data`.

    Raises:
        DataError: another shape, an unknown type, a table without columns, a row of another width.
    """
    records = content if isinstance(content, list) else [content]
    return of_tables(where, [_json_table(record, where) for record in records])


def _json_table(record: Any, where: str) -> UserTable:
    wanted = '{"table": NAME, "columns": [{"name": ..., "type": "text" or "real"}]} or {"header": [...], "types": [...]}'
    if not isinstance(record, Mapping):
        raise DataError(f"{where}: a table is {wanted}; got {_short(json.dumps(record))}")
    name = record.get("table") or record.get("name") or record.get("id") or "data"
    if not isinstance(name, str):
        raise DataError(f"{where}: table: a name is wanted; got {name!r}")
    if "columns" in record:
        columns = record["columns"]
        if not isinstance(columns, list) or not all(isinstance(c, Mapping) and isinstance(c.get("name"), str) for c in columns):
            raise DataError(f'{where}: columns: a list of {{"name": ..., "type": ...}} is wanted; got {_short(json.dumps(columns))}')
        header, types = [c["name"] for c in columns], [c.get("type", "text") for c in columns]
    elif "header" in record:
        header, types = record["header"], record.get("types")
        if not _texts(header) or not _texts(types) or len(header) != len(types):
            raise DataError(f"{where}: header and types: two lists of texts of one length are wanted; got {_short(json.dumps([header, types]))}")
    else:
        raise DataError(f"{where}: a table is {wanted}; got the keys {sorted(map(str, record))}")
    kinds: list[ColumnType] = []
    for column, type in zip(header, types):
        kind = kind_of_name(type) if isinstance(type, str) else None
        if kind is None:
            raise DataError(f"{where}: column {column!r}: type: text, real or an SQL type is wanted; got {type!r}")
        kinds.append(kind)
    rows = record.get("rows")
    if rows is not None and (
        not isinstance(rows, list) or not all(isinstance(r, list) and len(r) == len(header) for r in rows)
    ):
        raise DataError(f"{where}: rows: a list of lists of {len(header)} cells each is wanted")
    read = None if rows is None else lambda: from_rows(rows, kinds)
    return UserTable.of(name, header, kinds, read, where=where)


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(v, str) for v in value)


def from_rows(rows: Sequence[Sequence[Any]], kinds: Sequence[ColumnType], *, truncated: bool = False) -> Content:
    """Content of Python rows; in a `real` column what spells no number is NULL, as in evaluation."""
    arrays = []
    for position, kind in enumerate(kinds):
        cells = [row[position] for row in rows[:MAX_ROWS]]
        if kind == "real":
            arrays.append(pa.array([_number(c) for c in cells], type=pa.float64()))
        else:
            arrays.append(pa.array([None if c is None else str(c) for c in cells], type=pa.string()))
    names = [str(i) for i in range(len(kinds))]
    types = tuple("DOUBLE" if k == "real" else "VARCHAR" for k in kinds)
    return Content(pa.Table.from_arrays(arrays, names=names), types, truncated or len(rows) > MAX_ROWS)


def _number(cell: Any) -> float | None:
    if isinstance(cell, (int, float)):
        return float(cell)
    return parse_number(cell) if isinstance(cell, str) else None


def _short(text: str) -> str:
    return text if len(text) <= 80 else text[:80] + "..."


# ----------------------------------------------------------------------------------------------- one or another


def open_source(
    *, ddl: str | None = None, schema: str | Path | None = None, db: str | Path | None = None
) -> Source:
    """The source of exactly one of: CREATE TABLE text or its file, a JSON schema file, a data file.

    Raises:
        DataError: none or several are given, a file is missing or is not what it should be.
    """
    given = {n: v for n, v in (("--ddl", ddl), ("--schema", schema), ("--db", db)) if v is not None}
    if len(given) != 1:
        got = " and ".join(given) or "none"
        raise DataError(f"what is asked about: give exactly one of --ddl, --schema, --db; got {got}")
    if ddl is not None:
        if re.search(r"\bcreate\b", ddl, re.IGNORECASE) or not ddl.strip():
            return from_ddl(ddl)
        return from_ddl(_text_of(Path(ddl), "--ddl", "neither CREATE TABLE text nor a file"), where=ddl)
    if schema is not None:
        path = Path(schema)
        try:
            content = json.loads(_text_of(path, "--schema", "no such file"))
        except ValueError as e:
            raise DataError(f"{path}: not JSON ({e}); docs/cli.md shows what a schema file holds") from e
        return from_json(content, where=str(path))
    from t2s_assets.text2sql.table_files import open_file

    return open_file(Path(str(db)))


def _text_of(path: Path, option: str, otherwise: str) -> str:
    try:
        if not path.is_file():
            raise DataError(f"{option}: {otherwise}: {_short(str(path))!r}")
        return path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as e:  # a very long or NUL-holding "path", no permission, no UTF-8
        raise DataError(f"{option}: {_short(str(path))!r} cannot be read ({e})") from e


def as_table(given: Any, name: str | None = None) -> UserTable:
    """A `UserTable` of what a notebook has at hand.

    That is a UserTable, a Source, CREATE TABLE text, a path to a schema or data file, a JSON schema as a mapping,
    or anything that exports Arrow: a pandas or polars frame, a pyarrow table. `name` chooses among several tables
    and names a frame.

    Raises:
        DataError: it is none of these, or not readable as one.
    """
    if isinstance(given, UserTable):
        return given
    if isinstance(given, Source):
        return given.table(name)
    if isinstance(given, TableSchema):
        return UserTable.of(given.name, [c.name for c in given.columns], [c.type for c in given.columns], where="table")
    if isinstance(given, (Mapping, list)):
        return from_json(given, where="table").table(name)
    if isinstance(given, (str, Path)):
        suffix = Path(given).suffix.lower() if len(str(given)) < 1000 else ""
        if isinstance(given, str) and re.search(r"\bcreate\b", given, re.IGNORECASE) and not Path(given).suffix:
            return from_ddl(given, where="table").table(name)
        if suffix == ".sql":
            return open_source(ddl=str(given)).table(name)
        return (open_source(schema=given) if suffix == ".json" else open_source(db=given)).table(name)
    if hasattr(given, "__arrow_c_stream__"):
        from t2s_assets.text2sql.table_files import from_arrow

        return from_arrow(pa.table(given), name or "data")
    raise DataError(f"a table, schema, path or data frame is wanted; got {type(given).__name__}")
