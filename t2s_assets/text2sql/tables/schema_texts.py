"""Schemas as text: CREATE TABLE statements of several SQL dialects, and JSON."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import sqlglot
from sqlglot import exp

from t2s_assets.text2sql.errors import DataError
from t2s_assets.text2sql.schema import ColumnType
from t2s_assets.text2sql.tables.user_tables import Source, UserTable, from_rows, of_tables, shortened

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
            with _quiet_sqlglot():
                trees = sqlglot.parse(text, read=dialect)
        except (sqlglot.errors.SqlglotError, RecursionError) as e:
            first_error = first_error or str(e).splitlines()[0]
            continue
        creates = [t for t in trees if isinstance(t, exp.Create) and t.kind == "TABLE"]
        if creates:
            return of_tables(where, [_created(c, where) for c in creates])
    reason = f"it does not parse ({first_error})" if first_error else "it creates no table"
    raise DataError(f"{where}: {reason}; give CREATE TABLE name (column type, ...). Got {shortened(text)!r}")


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


_NUMERIC = set(exp.DataType.NUMERIC_TYPES) - {exp.DataType.Type.BIT}


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
        None if rows is None else lambda typed: from_rows(rows, ["DOUBLE" if k == "real" else "VARCHAR" for k in kinds])
    )
    return UserTable.of(name, header, kinds, read, where=where, in_memory=True)


def _named(column: Any) -> bool:
    return isinstance(column, Mapping) and isinstance(column.get("name"), str)


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(v, str) for v in value)
