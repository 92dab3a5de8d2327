"""Tables in files: DuckDB and SQLite databases, CSV (csv_files.py), Parquet and JSON lines. Opened read-only, with SQL
of our own alone.

Columns are `real` (any number) or `text`, as WikiSQL has them, and have their DuckDB type beside it; their rows are
copied as either (table_types.py).

Nothing a model wrote runs here: rows are copied (up to a cap) and handed to the executor. DuckDB's extensions
are never loaded, SQLite is read by Python's own module, and a DuckDB view that reads other files is refused. What a
view or a cell may take is limited (read_limits.py).
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from t2s_assets.text2sql.errors import DataError
from t2s_assets.text2sql.query import identifier, parse_number, string_literal
from t2s_assets.text2sql.tables.csv_files import csv_table
from t2s_assets.text2sql.tables.file_reading import CONFIG, literal_path, reason, table_of, unpacked
from t2s_assets.text2sql.tables.python_rows import from_rows
from t2s_assets.text2sql.tables.read_limits import Reading
from t2s_assets.text2sql.tables.table_types import Kept, of_duckdb, of_sqlite
from t2s_assets.text2sql.tables.user_tables import (
    Content,
    Source,
    UserTable,
    Wanted,
    check_apart,
    of_tables,
    row_cap,
    shortened,
)

_SUFFIXES = {".csv": "csv", ".tsv": "csv", ".txt": "csv", ".parquet": "parquet", ".pq": "parquet"}
_JSON_LINES = {".jsonl", ".ndjson"}


def open_file(path: Path, *, alone: bool = True) -> Source:
    """The tables of a data file; what kind it is, its first bytes say, and for CSV and JSON lines its suffix.

    `alone` is `csv_table`'s.

    Raises:
        DataError: it is missing, unreadable, or none of these kinds.
    """
    try:
        if path.is_dir():
            raise DataError(f"{path} is a folder; give a DuckDB, SQLite, CSV or Parquet file")
        with path.open("rb") as f:
            head = f.read(16)
    except FileNotFoundError as e:
        if re.search(r"[*?\[]", path.name):
            raise DataError(f"{path}: no such file; for several files give their folder, {path.parent}") from e
        raise DataError(f"{path}: no such file; give a DuckDB, SQLite, CSV, Parquet or JSON lines file") from e
    except (OSError, ValueError) as e:
        raise DataError(f"{path} cannot be read ({e})") from e
    if head.startswith(b"SQLite format 3\0"):
        return _sqlite(path)
    if head[8:12] == b"DUCK":
        return _duckdb(path)
    suffix = unpacked(path).suffix.lower()
    kind = "parquet" if head.startswith(b"PAR1") else _SUFFIXES.get(suffix)
    if kind == "parquet":
        return of_tables(str(path), [_parquet(path)])
    if kind == "csv":
        return of_tables(str(path), [csv_table(path, alone=alone)])
    if suffix in _JSON_LINES:
        return of_tables(str(path), [_json_lines(path)])
    raise DataError(
        f"{path}: neither a DuckDB, SQLite or Parquet file by its first bytes, nor .csv, .tsv, .txt, .jsonl or .ndjson "
        "by its name (each perhaps with .gz after it); unpack or convert it"
    )


def open_folder(path: Path) -> Source:
    """The CSV and Parquet files of a folder, each a table called as its file and read when it is asked for; other files
    are passed over.

    Raises:
        DataError: there is none, or two have one name.
    """
    try:
        entries = sorted(path.iterdir())
        files = [p for p in entries if is_table_of_folder(p)]
        inside = next((p for p in entries if p.is_dir()), None)
    except OSError as e:
        raise DataError(f"{path} cannot be read ({e})") from e
    if not files:
        deeper = inside and (
            f"; the folders in it, such as {inside.name}, are not looked into: give one of them, or bring the parts of "
            "a table together, in DuckDB for instance by COPY (FROM 'FOLDER/**/*.parquet') TO 'one.parquet'"
        )
        raise DataError(f"{path} is a folder without CSV or Parquet files{deeper or ''}")
    names = [unpacked(file).stem for file in files]
    by_path = {(name,): file for name, file in zip(names, files)}
    check_apart(str(path), names, [file.name for file in files])
    return Source(str(path), tuple(by_path), cache(lambda known_as: open_file(by_path[known_as], alone=False).table()))


def is_table_of_folder(path: Path) -> bool:
    """Whether `open_folder` takes a file, by its name, for a table."""
    suffix = unpacked(path).suffix.lower()
    return suffix in _SUFFIXES and suffix != ".txt"


def _described(connection: duckdb.DuckDBPyConnection, relation: str) -> list[Kept]:
    rows = connection.execute(f"DESCRIBE SELECT * FROM {relation}").fetchall()
    return [of_duckdb(row[0], row[1]) for row in rows]


def _copied(
    connection: duckdb.DuckDBPyConnection, relation: str, columns: list[Kept], wanted: Wanted, reading: Reading
) -> Content:
    """The rows up to the cap. Before they are copied DuckDB says how long their texts are: the few that a dictionary or
    a constant holds take next to nothing there, and all of them a copy of thousands of rows at a time."""
    columns = wanted.of(columns)
    types = tuple(c.copied(wanted.typed) for c in columns)
    casts = ", ".join(f"{c.cast(identifier(c.name), wanted.typed)} AS c{i}" for i, c in enumerate(columns))
    texts = [f"coalesce(sum(strlen(c{i})), 0)" for i, t in enumerate(types) if t == "VARCHAR"]

    def rows(cap: int) -> str:
        return f"SELECT {casts} FROM {relation} LIMIT {cap + 1}"

    def size(cap: int) -> tuple[int, int]:
        sql = f"SELECT {' + '.join(texts)}, count(*) FROM ({rows(cap)})"
        return tuple(map(int, connection.execute(sql).fetchall()[0])) if texts else (0, 0)

    cap, fewest = wanted.rows(len(columns)), row_cap(len(columns))
    found, count = size(cap)
    if found > wanted.text:
        # As many as fit where the first are as long as all are, or by a tenth longer.
        cap = max(fewest, count * wanted.text // found * 9 // 10)
        found, _ = size(cap)
    if found > wanted.text and cap > fewest:
        cap = fewest
        found, _ = size(cap)
    reading.check(found)
    data = reading.arrow(connection.sql(rows(cap)))
    otherwise = {i: c.sorts_otherwise for i, c in enumerate(columns) if c.sorts_otherwise}
    return Content(data.slice(0, cap), types, data.num_rows > cap, sorts_otherwise=otherwise)


# ----------------------------------------------------------------------------------------------------- databases


def _connect(path: Path) -> duckdb.DuckDBPyConnection:
    """A read-only connection in which no view of the file can reach another file."""
    try:
        connection = duckdb.connect(str(path), read_only=True, config={**CONFIG, "enable_external_access": "false"})
        connection.execute("SET TimeZone = 'UTC'")
        return connection
    except duckdb.Error as e:
        raise DataError(f"{path} cannot be opened as a DuckDB database ({reason(e)}){_way_out(e)}") from e
    except (RuntimeError, UnicodeError) as e:
        shown = os.fsencode(path).decode("utf-8", "replace")
        raise DataError(f"{shown}: DuckDB opens names in UTF-8 alone ({reason(e)}); rename the file") from e


def _way_out(error: duckdb.Error) -> str:
    if "different configuration" in str(error):
        return "; this process has it open: close that connection, or ask about the connection itself"
    if "lock" in str(error).lower():
        return "; another process has it open: close it there, or copy the file and give the copy"
    return ""


def _duckdb(path: Path) -> Source:
    return _duckdb_source(str(path), lambda: _connect(path))


def from_connection(connection: duckdb.DuckDBPyConnection) -> Source:
    """The tables of a DuckDB database that this process has open. Views read there what its settings let them."""

    def connect() -> duckdb.DuckDBPyConnection:
        cursor = connection.cursor()
        cursor.execute("SET TimeZone = 'UTC'")
        return cursor

    try:
        ((name,),) = connection.cursor().execute("SELECT current_database()").fetchall()
        return _duckdb_source(f"connection to {name}", connect)
    except duckdb.Error as e:
        raise DataError(f"the DuckDB connection cannot be read ({reason(e)}); give an open one") from e


_Connect = Callable[[], duckdb.DuckDBPyConnection]


def _duckdb_source(where: str, connect: _Connect) -> Source:
    with closing(connect()) as connection:
        found = connection.execute(
            "SELECT table_catalog, table_schema, table_name FROM information_schema.tables "
            "WHERE table_catalog = current_database() ORDER BY table_schema <> 'main', table_schema, table_name"
        ).fetchall()

    # DuckDB calls the catalog as the file; in a name of two parts it would be taken for a schema of that name.
    full = {((t,) if s == "main" else (s, t)): ".".join(map(identifier, (c, s, t))) for c, s, t in found}

    def opened(known_as: tuple[str, ...]) -> UserTable:
        relation, name = full[known_as], ".".join(known_as)
        what = f"{where}: table {name!r}"
        with _duckdb_table(what, connect) as (connection, _):
            columns = _described(connection, relation)
        return table_of(known_as, columns, partial(_duckdb_rows, what, connect, relation, columns), where)

    return Source(where, tuple(full), opened, held=lambda: closing(connect()))


@contextmanager
def _duckdb_table(what: str, connect: _Connect) -> Iterator[tuple[duckdb.DuckDBPyConnection, Reading]]:
    with closing(connect()) as connection:
        reading = Reading(what)
        try:
            with reading.on(connection):
                yield connection, reading
        except duckdb.Error as e:
            raise DataError(f"{reading.what} cannot be read ({reason(e)})") from e


def _duckdb_rows(what: str, connect: _Connect, relation: str, columns: list[Kept], wanted: Wanted) -> Content:
    with _duckdb_table(what, connect) as (connection, reading):
        return _copied(connection, relation, columns, wanted, reading)


@contextmanager
def _sqlite_query(path: Path, sql: str, reading: Reading | None = None) -> Iterator[Iterator[tuple[Any, ...]]]:
    """The rows of a query of our own: in a `reading` of one table, or about the file."""
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            about = reading or Reading(str(path))
            with about.on(connection):
                yield about.rows(connection, sql)
    except sqlite3.Error as e:
        if reading is not None:
            raise DataError(f"{reading.what} cannot be read ({reason(e)})") from e
        raise DataError(f"{path} cannot be read as a SQLite database ({reason(e)})") from e


def _sqlite(path: Path) -> Source:
    listed = "SELECT name FROM sqlite_master WHERE type IN ('table', 'view') AND substr(name, 1, 7) <> 'sqlite_'"
    if sqlite3.sqlite_version_info >= (3, 37):  # which tells in what tables a full-text table keeps what it holds
        listed += " AND name NOT IN (SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'shadow')"
    with _sqlite_query(path, f"{listed} ORDER BY name") as names:
        found = tuple(names)

    def opened(known_as: tuple[str, ...]) -> UserTable:
        (name,) = known_as
        reading = Reading(f"{path}: table {name!r}")
        with _sqlite_query(path, f"PRAGMA table_xinfo({string_literal(name)})", reading) as rows:
            # Its last field is 1 for what a virtual table hides, 2 and 3 for generated columns.
            info = [row for row in rows if row[-1] != 1]
        header = [row[1] for row in info]
        columns = [of_sqlite(row[1], row[2], partial(_stored, path, name, row[1], reading)) for row in info]
        if not header:
            raise DataError(f"{path}: table {name!r} has no columns; a question needs at least one")
        return table_of(name, columns, partial(_sqlite_rows, path, name, columns), str(path))

    return Source(str(path), found, opened)


def _stored(path: Path, table: str, column: str, reading: Reading) -> set[str]:
    """SQLite's storage classes of a column's values, `null` left out; text may be `empty`, or a `numeral` that spells a
    number. Which texts there are is known once one is neither and there are numbers."""
    cell, name = identifier(column), identifier(table)
    with _sqlite_query(path, f"SELECT DISTINCT typeof({cell}) FROM {name}", reading) as rows:
        found = {kind for (kind,) in rows} - {"null"}
    if "text" in found:
        found -= {"text"}
        sql = f"SELECT DISTINCT {cell} FROM {name} WHERE typeof({cell}) = 'text'"
        with _sqlite_query(path, sql, reading) as rows:
            for (text,) in rows:
                found.add("empty" if not text else "text" if parse_number(text) is None else "numeral")
                if "text" in found and found & {"integer", "real", "numeral"}:
                    break
    return found


def _sqlite_rows(path: Path, name: str, columns: list[Kept], wanted: Wanted) -> Content:
    columns = wanted.of(columns)
    cells = ", ".join(identifier(c.name) for c in columns)
    # An index that holds all of the columns would give them in its own order, and so other first rows than the table's.
    sql = f"SELECT {cells} FROM {identifier(name)} NOT INDEXED LIMIT {wanted.rows(len(columns)) + 1}"
    with _sqlite_query(path, sql, Reading(f"{path}: table {name!r}")) as rows:
        return from_rows(rows, [c.copied(wanted.typed) for c in columns], wanted)


# ------------------------------------------------------------------------------------------- Parquet, JSON lines


def _parquet(path: Path) -> UserTable:
    return _scanned(path, f"read_parquet([{literal_path(path)}], hive_partitioning = false)", "Parquet")


def _json_lines(path: Path) -> UserTable:
    options = "format = 'newline_delimited', sample_size = -1, hive_partitioning = false"
    kind = "JSON lines: an object in each"
    return _scanned(path, f"read_json([{literal_path(path)}], {options})", kind, sniffed=True)


def _scanned(path: Path, relation: str, kind: str, *, sniffed: bool = False) -> UserTable:
    """A file whose columns' types DuckDB knows, or, where they are `sniffed`, reads all of it for with every query."""
    name = unpacked(path).stem

    def with_columns(work: Callable[[duckdb.DuckDBPyConnection, str, Reading], Any]) -> Any:
        reading = Reading(f"{path}: table {name!r}")
        with closing(duckdb.connect(config=CONFIG)) as connection:
            connection.execute("SET TimeZone = 'UTC'")
            try:
                with reading.on(connection):
                    return work(connection, relation, reading)
            except duckdb.Error as e:
                raise DataError(f"{path} cannot be read as {kind} ({reason(e)})") from e

    columns = with_columns(lambda c, r, _: _described(c, r))

    def copied(connection: duckdb.DuckDBPyConnection, rows: str, reading: Reading, wanted: Wanted) -> Content:
        if sniffed:
            names = [identifier(c.name) for c in wanted.of(columns)]
            kept = f"SELECT {', '.join(names)} FROM {rows} LIMIT {wanted.rows(len(names)) + 1}"
            connection.execute(f"CREATE TEMP TABLE read_once AS {kept}")
            rows = "read_once"
        return _copied(connection, rows, columns, wanted, reading)

    def read(wanted: Wanted) -> Content:
        return with_columns(lambda c, r, reading: copied(c, r, reading, wanted))

    return table_of(name, columns, read, str(path))


def from_arrow(data: pa.Table, name: str) -> UserTable:
    """A table that is already in memory. Raises DataError when it has no columns."""
    if data.num_columns == 0:
        raise DataError(f"table {name!r} has no columns; a question needs at least one to ask about")
    header = [str(n) for n in data.column_names]
    plain = data.rename_columns([f"c{i}" for i in range(len(header))])

    def with_rows(work: Callable[[duckdb.DuckDBPyConnection, Reading], Any]) -> Any:
        reading = Reading(f"table {name!r}")
        with closing(duckdb.connect(config=CONFIG)) as connection:
            try:
                connection.register("given", plain)
                with reading.on(connection):
                    return work(connection, reading)
            except duckdb.Error as e:
                types = ", ".join(f"{h} {t}" for h, t in zip(header, data.schema.types))
                raise DataError(
                    f"table {name!r} cannot be read ({reason(e)}); its columns are {shortened(types)}; turn what "
                    "DuckDB does not know into text or numbers"
                ) from e

    columns = with_rows(lambda c, _: _described(c, "given"))

    def copied(wanted: Wanted) -> Content:
        return with_rows(lambda c, reading: _copied(c, "given", columns, wanted, reading))

    # A frame that cannot be read is told before anything is asked.
    first = {wanted: copied(wanted) for wanted in (Wanted(typed, tables=None) for typed in (False, True))}
    named = [replace(c, name=h) for c, h in zip(columns, header)]
    return table_of(name, named, lambda w: first[w] if w in first else copied(w), "table", in_memory=True)
