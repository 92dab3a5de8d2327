"""Schemas as text: CREATE TABLE statements of several SQL dialects, and JSON."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import sqlglot
from sqlglot import exp

from t2s_assets.text2sql.errors import DataError
from t2s_assets.text2sql.schema import ColumnType
from t2s_assets.text2sql.tables.python_rows import from_rows
from t2s_assets.text2sql.tables.user_tables import Source, UserTable, of_tables, shortened

_DIALECTS = ("duckdb", "postgres", "mysql", "sqlite", "tsql", "bigquery", "snowflake", "oracle")


def from_ddl(text: str, *, where: str = "--ddl") -> Source:
    """The tables of CREATE TABLE statements in any of several SQL dialects; other statements are passed over.

    Raises:
        DataError: no dialect reads a CREATE TABLE in the text, it creates no table, or a table has no columns.
    """
    if not text.strip():
        raise DataError(f"{where}: the text is empty; give CREATE TABLE name (column type, ...)")
    statements = list(_statements(text))
    creates, error = _creates(text)
    if len(creates) < len(statements):
        # What stands between or behind them in a dump (GO, \restrict, rows to copy, WITHOUT ROWID) keeps sqlglot from
        # reading them.
        creates = _creates_of_each(statements, where)
    if not creates:
        reason = f"it does not parse ({error})" if error else "it creates no table"
        raise DataError(f"{where}: {reason}; give CREATE TABLE name (column type, ...). Got {shortened(text)!r}")
    return of_tables(where, [_created(c, where) for c in creates])


def _creates(text: str) -> tuple[list[exp.Create], str]:
    """What the best of the dialects that read all of a text as SQL with a CREATE TABLE reads, and what the first one
    that does not read it says."""
    errors: list[str] = []
    return _best(_read(text, dialect, errors) for dialect in _DIALECTS), errors[0] if errors else ""


def _read(text: str, dialect: str, errors: list[str]) -> list[exp.Create]:
    """The CREATE TABLEs of a text, none where the dialect does not read all of it, which is added to `errors`."""
    try:
        with _quiet_sqlglot():
            trees = sqlglot.parse(text, read=dialect)
    except (sqlglot.errors.SqlglotError, RecursionError) as e:
        errors.append(str(e).splitlines()[0])
        return []
    return [t for t in trees if isinstance(t, exp.Create) and t.kind == "TABLE" and not _is_partition(t)]


def _best(readings: Iterable[list[exp.Create]]) -> list[exp.Create]:
    """The first of those with the fewest types that their dialect does not know.

    Most dialects take any word for a type: SQL Server's money is a number only to one that knows it.
    """
    best: list[exp.Create] = []
    for creates in readings:
        if creates and (not best or _unknown_types(creates) < _unknown_types(best)):
            best = creates
        if best and not _unknown_types(best):
            break
    return best


def _unknown_types(creates: Sequence[exp.Create]) -> int:
    types = (type for create in creates for type in create.find_all(exp.DataType))
    return sum(type.this == exp.DataType.Type.USERDEFINED for type in types)


def _is_partition(create: exp.Create) -> bool:
    """Whether it makes a part of another table, whose columns it has."""
    return create.find(exp.PartitionedOfProperty) is not None


def _creates_of_each(statements: Sequence[str], where: str) -> list[exp.Create]:
    """The statements as the best dialect reads them that reads all, or else each as the best that reads it."""
    if creates := _best(_read_each(statements, dialect) for dialect in _DIALECTS):
        return creates
    for statement in statements:
        found, error = _creates(statement)
        if not found:
            raise DataError(f"{where}: {shortened(statement)!r} does not parse ({error}); mend or remove it")
        creates += found
    return creates


def _read_each(statements: Sequence[str], dialect: str) -> list[exp.Create]:
    """What a dialect reads of statements, none where it does not read them all."""
    found = [_read(statement, dialect, []) for statement in statements]
    return [create for creates in found for create in creates] if all(found) else []


_NAME = r'(?:"(?:[^"]|"")+"|`[^`]+`|\[[^\]]+\]|[\w$]+)'
_CREATE = re.compile(
    rf"(?:^|;)\s*(create\s+(?:[a-z]+\s+){{0,3}}table\s+(?:if\s+not\s+exists\s+)?{_NAME}(?:\s*\.\s*{_NAME})*\s*\()",
    re.IGNORECASE | re.MULTILINE,
)
_PASSED_OVER = re.compile(r"/\*.*?\*/|\$(\w*)\$.*?\$\1\$", re.DOTALL)
"""Comments, and the bodies of Postgres' functions."""
_TOKEN = re.compile(r"""'(?:[^'\\]|\\.|'')*'|"(?:[^"]|"")*"|`[^`]*`|--[^\n]*|/\*.*?\*/|[()]""", re.DOTALL)


def _statements(text: str) -> Iterator[str]:
    """Each CREATE TABLE that begins a line or follows a semicolon, up to the end of its columns."""
    passed_over = [match.span() for match in _PASSED_OVER.finditer(text)]
    for match in _CREATE.finditer(text):
        if any(start < match.start(1) < end for start, end in passed_over):
            continue
        depth = 0
        for token in _TOKEN.finditer(text, match.end() - 1):
            depth += {"(": 1, ")": -1}.get(token.group(), 0)
            if depth == 0:
                yield text[match.start(1) : token.end()]
                break


@contextmanager
def _quiet_sqlglot() -> Iterator[None]:
    """Without sqlglot's warnings, which a wrong dialect among several gives for nothing."""
    logger = logging.getLogger("sqlglot")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _created(create: exp.Create, where: str) -> UserTable:
    target = create.this
    table = target.this if isinstance(target, exp.Schema) else target
    definitions = target.expressions if isinstance(target, exp.Schema) else []
    columns = [d for d in definitions if isinstance(d, (exp.ColumnDef, exp.Identifier))]
    kinds = [_kind_of(c.args.get("kind")) if isinstance(c, exp.ColumnDef) else "text" for c in columns]
    path = tuple(part.name for part in (table.args.get("db"), table.this) if part is not None)
    types = [_sql_type(c.args.get("kind")) if isinstance(c, exp.ColumnDef) else "VARCHAR" for c in columns]
    return UserTable.of(path, [c.name for c in columns], kinds, where=where, sql_types=types)


_NUMERIC = {*exp.DataType.NUMERIC_TYPES, exp.DataType.Type.YEAR} - {exp.DataType.Type.BIT}


def _kind_of(type: exp.Expression | None) -> ColumnType:
    if not isinstance(type, exp.DataType):
        return "text"
    serial = type.sql(dialect="duckdb").lower().endswith("serial")  # Postgres' own name for a counted integer
    return "real" if serial or type.this in _NUMERIC else "text"


def _sql_type(type: exp.Expression | None) -> str:
    """DuckDB's type for a column declared in any dialect, as a copy of it would have."""
    if _kind_of(type) == "real":
        assert isinstance(type, exp.DataType)
        if type.this in exp.DataType.REAL_TYPES:
            return "DECIMAL(18,3)" if type.is_type("decimal") else "DOUBLE"
        return "BIGINT"
    for name in ("boolean", "date", "time"):
        if isinstance(type, exp.DataType) and type.is_type(name):
            return name.upper()
    is_time = isinstance(type, exp.DataType) and type.this in exp.DataType.TEMPORAL_TYPES
    return "TIMESTAMP" if is_time else "VARCHAR"


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
    wanted = '{"table": NAME, "columns": [{"name": ..., "type": "text" or "real"}]} or {"header": [], "types": []}'
    if not isinstance(record, Mapping):
        raise DataError(f"{where}: a table is {wanted}; got {shortened(json.dumps(record))}")
    name = record.get("table") or record.get("name") or record.get("id") or "data"
    if not isinstance(name, str):
        raise DataError(f"{where}: table: a name is wanted; got {name!r}")
    if "columns" in record:
        columns = record["columns"]
        if not isinstance(columns, list) or not all(_named(c) for c in columns):
            got = shortened(json.dumps(columns))
            raise DataError(f'{where}: columns: a list of {{"name": ..., "type": ...}} is wanted; got {got}')
        header, types = [c["name"] for c in columns], [c.get("type", "text") for c in columns]
    elif "header" in record:
        header, types = record["header"], record.get("types")
        if not _texts(header) or not _texts(types) or len(header) != len(types):
            got = shortened(json.dumps([header, types]))
            raise DataError(f"{where}: header and types: two lists of texts of one length are wanted; got {got}")
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
    read = (
        None
        if rows is None
        else lambda wanted: from_rows(
            map(wanted.of, rows), ["DOUBLE" if k == "real" else "VARCHAR" for k in wanted.of(kinds)], wanted
        )
    )
    return UserTable.of(name, header, kinds, read, where=where, in_memory=True)


def _named(column: Any) -> bool:
    return isinstance(column, Mapping) and isinstance(column.get("name"), str)


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(v, str) for v in value)
