"""Tables in files: DuckDB and SQLite databases, CSV and Parquet. Opened read-only, with SQL of our own alone.

Nothing a model wrote runs here: rows are copied (up to a cap) and handed to the executor. DuckDB's extensions
are never loaded, SQLite is read by Python's own module, and a DuckDB view that reads other files is refused.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from t2s_assets.text2sql.errors import DataError
from t2s_assets.text2sql.query import identifier, string_literal
from t2s_assets.text2sql.schema import ColumnType
from t2s_assets.text2sql.user_tables import Content, Source, UserTable, from_rows, of_tables, row_cap

_SUFFIXES = {".csv": "csv", ".tsv": "csv", ".txt": "csv", ".parquet": "parquet", ".pq": "parquet"}
_NO_EXTENSIONS = {"autoinstall_known_extensions": "false", "autoload_known_extensions": "false"}


def open_file(path: Path) -> Source:
    """The tables of a data file; what kind it is, its first bytes say, and for CSV its suffix.

    Raises:
        DataError: it is missing, unreadable, or none of the four kinds.
    """
    try:
        if path.is_dir():
            raise DataError(f"{path} is a folder; give a DuckDB, SQLite, CSV or Parquet file")
        with path.open("rb") as f:
            head = f.read(16)
    except FileNotFoundError as e:
        raise DataError(f"{path}: no such file; give a DuckDB, SQLite, CSV or Parquet file") from e
    except (OSError, ValueError) as e:
        raise DataError(f"{path} cannot be read ({e})") from e
    if head.startswith(b"SQLite format 3\0"):
        return _sqlite(path)
    if head[8:12] == b"DUCK":
        return _duckdb(path)
    kind = "parquet" if head.startswith(b"PAR1") else _SUFFIXES.get(path.suffix.lower())
    if kind == "parquet":
        return of_tables(str(path), [_parquet(path)])
    if kind == "csv":
        return of_tables(str(path), [_csv(path)])
    raise DataError(
        f"{path}: neither a DuckDB, SQLite or Parquet file by its first bytes, nor .csv, .tsv or .txt by its name"
    )


# ------------------------------------------------------------------------------------------------ DuckDB's types

_INTEGERS = {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER"}
_FLOATS = {"FLOAT", "DOUBLE", "UBIGINT", "HUGEINT", "UHUGEINT", "BIGNUM"}


def _kept_as(duckdb_type: str) -> tuple[ColumnType, str]:
    """(our type, the DuckDB type of the copy): numbers stay exact where they can, all else becomes text."""
    if duckdb_type in _INTEGERS:
        return "real", "BIGINT"
    if duckdb_type in _FLOATS:
        return "real", "DOUBLE"
    if duckdb_type.startswith("DECIMAL"):
        return "real", duckdb_type
    return "text", "VARCHAR"


def _described(connection: duckdb.DuckDBPyConnection, relation: str) -> list[tuple[str, ColumnType, str]]:
    """(name, our type, copy's type) of a relation's columns."""
    rows = connection.execute(f"DESCRIBE SELECT * FROM {relation}").fetchall()
    return [(row[0], *_kept_as(row[1])) for row in rows]


def _copied(
    connection: duckdb.DuckDBPyConnection, relation: str, columns: list[tuple[str, ColumnType, str]]
) -> Content:
    casts = ", ".join(f"CAST({identifier(n)} AS {kept}) AS c{i}" for i, (n, _, kept) in enumerate(columns))
    cap = row_cap(len(columns))
    data = connection.sql(f"SELECT {casts} FROM {relation} LIMIT {cap + 1}").to_arrow_table()
    return Content(data.slice(0, cap), tuple(kept for *_, kept in columns), data.num_rows > cap)


def _table(
    name: str | tuple[str, ...], columns: list[tuple[str, ColumnType, str]], read: Callable[[], Content], where: str
) -> UserTable:
    return UserTable.of(name, [c[0] for c in columns], [c[1] for c in columns], read, where=where)


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:3]) or type(error).__name__


# ----------------------------------------------------------------------------------------------------- databases


def _connect(path: Path) -> duckdb.DuckDBPyConnection:
    """A read-only connection in which no view of the file can reach another file."""
    try:
        return duckdb.connect(str(path), read_only=True, config={**_NO_EXTENSIONS, "enable_external_access": "false"})
    except duckdb.Error as e:
        raise DataError(f"{path} cannot be opened as a DuckDB database ({_reason(e)})") from e


def _duckdb(path: Path) -> Source:
    with closing(_connect(path)) as connection:
        found = connection.execute(
            "SELECT table_schema, table_name FROM information_schema.tables "
            "WHERE table_catalog = current_database() ORDER BY table_schema <> 'main', table_schema, table_name"
        ).fetchall()
    names = {t if s == "main" else f"{s}.{t}": (s, t) for s, t in found}

    def opened(name: str) -> UserTable:
        relation = ".".join(identifier(part) for part in names[name])
        with closing(_connect(path)) as connection:
            try:
                columns = _described(connection, relation)
            except duckdb.Error as e:
                raise DataError(f"{path}: table {name!r} cannot be read ({_reason(e)})") from e
        schema, table = names[name]
        known_as = (table,) if schema == "main" else (schema, table)
        return _table(known_as, columns, partial(_duckdb_rows, path, relation, columns), str(path))

    return Source(str(path), tuple(names), opened)


def _duckdb_rows(path: Path, relation: str, columns: list[tuple[str, ColumnType, str]]) -> Content:
    with closing(_connect(path)) as connection:
        try:
            return _copied(connection, relation, columns)
        except duckdb.Error as e:
            raise DataError(f"{path}: {relation} cannot be read ({_reason(e)})") from e


def _sqlite_connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
    connection.text_factory = lambda data: data.decode("utf-8", "replace")
    return connection


def _sqlite_query(path: Path, sql: str) -> list[tuple[Any, ...]]:
    try:
        with closing(_sqlite_connect(path)) as connection:
            return connection.execute(sql).fetchall()
    except sqlite3.Error as e:
        raise DataError(f"{path} cannot be read as a SQLite database ({_reason(e)})") from e


def _sqlite(path: Path) -> Source:
    found = _sqlite_query(
        path,
        "SELECT name FROM sqlite_master WHERE type IN ('table', 'view') AND substr(name, 1, 7) <> 'sqlite_' "
        "ORDER BY name",
    )
    names = tuple(row[0] for row in found)

    def opened(name: str) -> UserTable:
        info = _sqlite_query(path, f"PRAGMA table_info({string_literal(name)})")
        header = [row[1] for row in info]
        kinds = [_affinity(row[2]) or _stored_kind(path, name, row[1]) for row in info]
        return UserTable.of(name, header, kinds, partial(_sqlite_rows, path, name, kinds), where=str(path))

    return Source(str(path), names, opened)


def _affinity(declared: str) -> ColumnType | None:
    """Our type for a declared one, by SQLite's rules (https://sqlite.org/datatype3.html#determination_of_column_affinity);
    None where none is declared. Dates and times, which SQLite files under NUMERIC, are stored as text."""
    name = declared.upper()
    if not name:
        return None
    if "INT" in name:
        return "real"
    if any(word in name for word in ("CHAR", "CLOB", "TEXT", "BLOB", "DATE", "TIME")):
        return "text"
    return "real"


def _stored_kind(path: Path, table: str, column: str) -> ColumnType:
    """`real` for a column without a declared type that holds numbers and NULLs alone, at least one number."""
    rows = _sqlite_query(path, f"SELECT DISTINCT typeof({identifier(column)}) FROM {identifier(table)}")
    stored = {row[0] for row in rows} - {"null"}
    return "real" if stored and stored <= {"integer", "real"} else "text"


def _sqlite_rows(path: Path, name: str, kinds: list[ColumnType]) -> Content:
    rows = _sqlite_query(path, f"SELECT * FROM {identifier(name)} LIMIT {row_cap(len(kinds)) + 1}")
    return from_rows(rows, kinds)


# --------------------------------------------------------------------------------------------------- CSV, Parquet


def _literal_path(path: Path) -> str:
    """The path as a DuckDB string in which no character is a wildcard."""
    return string_literal(re.sub(r"([\[*?])", r"[\1]", str(path.absolute())))


def _parquet(path: Path) -> UserTable:
    def with_columns(work: Callable[[duckdb.DuckDBPyConnection, str], Any]) -> Any:
        relation = f"read_parquet([{_literal_path(path)}])"
        with closing(duckdb.connect(config=_NO_EXTENSIONS)) as connection:
            try:
                return work(connection, relation)
            except duckdb.Error as e:
                raise DataError(f"{path} cannot be read as Parquet ({_reason(e)})") from e

    columns = with_columns(_described)
    return _table(path.stem, columns, lambda: with_columns(lambda c, r: _copied(c, r, columns)), str(path))


# Plain decimal numbers, perhaps with thousands separators. "007" is a code, not a number.
_NUMBER = r"\s*[-+\x{2212}]?((0|[1-9]\d*|[1-9]\d{0,2}(,\d{3})+)(\.\d*)?|\.\d+)([eE][-+]?\d{1,3})?\s*"


def _csv(path: Path) -> UserTable:
    """A CSV whose first line holds the column names. A column is `real` when every non-empty cell of the rows
    read spells a number; thousands separators are understood, leading zeros mean a code."""
    with closing(duckdb.connect(config=_NO_EXTENSIONS)) as connection:
        read = f"read_csv([{_literal_path(path)}], header = true, all_varchar = true, null_padding = true)"
        try:
            relation = connection.sql(f"SELECT * FROM {read}")
            cap = row_cap(len(relation.columns))
            found = relation.limit(cap + 1).to_arrow_table()
        except duckdb.Error as e:
            raise DataError(f"{path} cannot be read as CSV with a header line ({_reason(e)})") from e
        header = found.column_names
        if found.num_columns == 0 or not path.read_bytes()[:1]:
            raise DataError(f"{path} is empty; a CSV needs a header line with the column names")
        raw = found.slice(0, cap).rename_columns([f"c{i}" for i in range(len(header))])
        connection.register("raw", raw)
        tests = ", ".join(
            f"coalesce(bool_and(regexp_full_match(c{i}, {string_literal(_NUMBER)})) FILTER (trim(c{i}) <> ''), false)"
            for i in range(len(header))
        )
        numeric = connection.execute(f"SELECT {tests} FROM raw").fetchall()[0]
        casts = ", ".join(
            f"TRY_CAST(replace(replace(c{i}, ',', ''), chr(8722), '-') AS DOUBLE) AS c{i}" if is_number else f"c{i}"
            for i, is_number in enumerate(numeric)
        )
        data = connection.sql(f"SELECT {casts} FROM raw").to_arrow_table()
    kinds: list[ColumnType] = ["real" if n else "text" for n in numeric]
    types = tuple("DOUBLE" if n else "VARCHAR" for n in numeric)
    content = Content(data, types, found.num_rows > cap)
    return UserTable.of(path.stem, header, kinds, lambda: content, where=str(path))


def from_arrow(data: pa.Table, name: str) -> UserTable:
    """A table that is already in memory. Raises DataError when it has no columns."""
    if data.num_columns == 0:
        raise DataError(f"table {name!r} has no columns; a question needs at least one to ask about")
    header = [str(n) for n in data.column_names]
    plain = data.slice(0, row_cap(data.num_columns) + 1).rename_columns([f"c{i}" for i in range(len(header))])
    with closing(duckdb.connect(config=_NO_EXTENSIONS)) as connection:
        connection.register("given", plain)
        columns = _described(connection, "given")
        content = _copied(connection, "given", columns)
    return UserTable.of(name, header, [c[1] for c in columns], lambda: content, where="table")
