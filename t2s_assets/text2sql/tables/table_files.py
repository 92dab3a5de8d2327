"""Tables in files: DuckDB and SQLite databases, CSV and Parquet. Opened read-only, with SQL of our own alone.

Columns are `real` (any number) or `text`, as WikiSQL has them, and have their DuckDB type beside it; their rows are
copied as either (table_types.py).

Nothing a model wrote runs here: rows are copied (up to a cap) and handed to the executor. DuckDB's extensions
are never loaded, SQLite is read by Python's own module, and a DuckDB view that reads other files is refused. What a
view or a cell may take is limited (read_limits.py).
"""

from __future__ import annotations

import csv
import os
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from t2s_assets.text2sql.errors import DataError
from t2s_assets.text2sql.query import identifier, parse_number, string_literal
from t2s_assets.text2sql.tables.read_limits import DUCKDB_LIMITS, Reading
from t2s_assets.text2sql.tables.table_types import Kept, casts, of_duckdb, of_sqlite, of_text
from t2s_assets.text2sql.tables.user_tables import Content, Source, UserTable, from_rows, of_tables, row_cap, shortened

_SUFFIXES = {".csv": "csv", ".tsv": "csv", ".txt": "csv", ".parquet": "parquet", ".pq": "parquet"}
_CONFIG = {"autoinstall_known_extensions": "false", "autoload_known_extensions": "false", **DUCKDB_LIMITS}


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


def open_folder(path: Path) -> Source:
    """The CSV and Parquet files of a folder, each a table called as its file; other files are passed over.

    Raises:
        DataError: there is none, one is not readable, or two have one name.
    """
    try:
        files = sorted(p for p in path.iterdir() if is_table_of_folder(p))
    except OSError as e:
        raise DataError(f"{path} cannot be read ({e})") from e
    if not files:
        raise DataError(f"{path} is a folder without CSV or Parquet files")
    return of_tables(str(path), [open_file(file).table() for file in files])


def is_table_of_folder(path: Path) -> bool:
    """Whether `open_folder` takes a file, by its name, for a table."""
    return path.suffix.lower() in _SUFFIXES and path.suffix.lower() != ".txt"


def _described(connection: duckdb.DuckDBPyConnection, relation: str) -> list[Kept]:
    rows = connection.execute(f"DESCRIBE SELECT * FROM {relation}").fetchall()
    return [of_duckdb(row[0], row[1]) for row in rows]


def _copied(
    connection: duckdb.DuckDBPyConnection, relation: str, columns: list[Kept], typed: bool, reading: Reading
) -> Content:
    """The rows up to the cap. Before they are copied DuckDB says how long their texts are: the few that a dictionary or
    a constant holds take next to nothing there, and all of them a copy of thousands of rows at a time."""
    types = tuple(c.copied(typed) for c in columns)
    casts = ", ".join(f"{c.cast(identifier(c.name), typed)} AS c{i}" for i, c in enumerate(columns))
    cap = row_cap(len(columns))
    rows = f"SELECT {casts} FROM {relation} LIMIT {cap + 1}"
    texts = [f"coalesce(sum(strlen(c{i})), 0)" for i, t in enumerate(types) if t == "VARCHAR"]
    if texts:
        ((size,),) = connection.execute(f"SELECT {' + '.join(texts)} FROM ({rows})").fetchall()
        reading.check(int(size))
    data = reading.arrow(connection.sql(rows))
    return Content(data.slice(0, cap), types, data.num_rows > cap)


def _table(name: str | tuple[str, ...], columns: list[Kept], read: Callable[[bool], Content], where: str) -> UserTable:
    return UserTable.of(
        name,
        [c.name for c in columns],
        [c.type for c in columns],
        read,
        where=where,
        sql_types=[c.sql_type for c in columns],
    )


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:3]) or type(error).__name__


# ----------------------------------------------------------------------------------------------------- databases


def _connect(path: Path) -> duckdb.DuckDBPyConnection:
    """A read-only connection in which no view of the file can reach another file."""
    try:
        connection = duckdb.connect(str(path), read_only=True, config={**_CONFIG, "enable_external_access": "false"})
        connection.execute("SET TimeZone = 'UTC'")
        return connection
    except duckdb.Error as e:
        raise DataError(f"{path} cannot be opened as a DuckDB database ({_reason(e)})") from e
    except (RuntimeError, UnicodeError) as e:
        shown = os.fsencode(path).decode("utf-8", "replace")
        raise DataError(f"{shown}: DuckDB opens names in UTF-8 alone ({_reason(e)}); rename the file") from e


def _duckdb(path: Path) -> Source:
    with closing(_connect(path)) as connection:
        found = connection.execute(
            "SELECT table_catalog, table_schema, table_name FROM information_schema.tables "
            "WHERE table_catalog = current_database() ORDER BY table_schema <> 'main', table_schema, table_name"
        ).fetchall()

    # DuckDB calls the catalog as the file; in a name of two parts it would be taken for a schema of that name.
    full = {((t,) if s == "main" else (s, t)): ".".join(map(identifier, (c, s, t))) for c, s, t in found}

    def opened(known_as: tuple[str, ...]) -> UserTable:
        relation, name = full[known_as], ".".join(known_as)
        with _duckdb_table(path, name) as (connection, _):
            columns = _described(connection, relation)
        return _table(known_as, columns, partial(_duckdb_rows, path, name, relation, columns), str(path))

    return Source(str(path), tuple(full), opened)


@contextmanager
def _duckdb_table(path: Path, name: str) -> Iterator[tuple[duckdb.DuckDBPyConnection, Reading]]:
    with closing(_connect(path)) as connection:
        reading = Reading(f"{path}: table {name!r}")
        try:
            with reading.on(connection):
                yield connection, reading
        except duckdb.Error as e:
            raise DataError(f"{reading.what} cannot be read ({_reason(e)})") from e


def _duckdb_rows(path: Path, name: str, relation: str, columns: list[Kept], typed: bool) -> Content:
    with _duckdb_table(path, name) as (connection, reading):
        return _copied(connection, relation, columns, typed, reading)


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
            raise DataError(f"{reading.what} cannot be read ({_reason(e)})") from e
        raise DataError(f"{path} cannot be read as a SQLite database ({_reason(e)})") from e


def _sqlite(path: Path) -> Source:
    listed = "SELECT name FROM sqlite_master WHERE type IN ('table', 'view') AND substr(name, 1, 7) <> 'sqlite_'"
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
        return _table(name, columns, partial(_sqlite_rows, path, name, columns), str(path))

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


def _sqlite_rows(path: Path, name: str, columns: list[Kept], typed: bool) -> Content:
    cells = ", ".join(identifier(c.name) for c in columns)
    sql = f"SELECT {cells} FROM {identifier(name)} LIMIT {row_cap(len(columns)) + 1}"
    with _sqlite_query(path, sql, Reading(f"{path}: table {name!r}")) as rows:
        return from_rows(list(rows), [c.copied(typed) for c in columns])


# --------------------------------------------------------------------------------------------------- CSV, Parquet


def _literal_path(path: Path) -> str:
    """The path as a DuckDB string in which no character is a wildcard."""
    return string_literal(re.sub(r"([\[*?])", r"[\1]", str(path.absolute())))


def _parquet(path: Path) -> UserTable:
    def with_columns(work: Callable[[duckdb.DuckDBPyConnection, str, Reading], Any]) -> Any:
        reading = Reading(f"{path}: table {path.stem!r}")
        relation = f"read_parquet([{_literal_path(path)}], hive_partitioning = false)"
        with closing(duckdb.connect(config=_CONFIG)) as connection:
            connection.execute("SET TimeZone = 'UTC'")
            try:
                with reading.on(connection):
                    return work(connection, relation, reading)
            except duckdb.Error as e:
                raise DataError(f"{path} cannot be read as Parquet ({_reason(e)})") from e

    columns = with_columns(lambda c, r, _: _described(c, r))

    def read(typed: bool) -> Content:
        return with_columns(lambda c, r, reading: _copied(c, r, columns, typed, reading))

    return _table(path.stem, columns, read, str(path))


_CSV_OPTIONS = "header = true, all_varchar = true, null_padding = true"


def _csv(path: Path) -> UserTable:
    """A CSV whose first line holds the column names; the cells of the rows read say what type a column has."""
    if not path.stat().st_size:
        raise DataError(f"{path} is empty; a CSV needs a header line with the column names")
    reading = Reading(f"{path}: table {path.stem!r}")
    with closing(duckdb.connect(config=_CONFIG)) as connection:
        # One thread reads: DuckDB's parallel reader pads no rows where a quoted cell has a line break.
        options = f"{_CSV_OPTIONS}, parallel = false, hive_partitioning = false"
        try:
            with reading.on(connection):
                relation = connection.sql(f"SELECT * FROM read_csv([{_literal_path(path)}], {options})")
                cap = row_cap(len(relation.columns))
                found = reading.arrow(relation.limit(cap + 1))
                named = _cells_of_the_header(connection, path, found)
                found = _without_surplus(path, found, named)
                header = found.column_names
                raw = found.slice(0, cap).rename_columns([f"c{i}" for i in range(len(header))])
                connection.register("raw", raw)
                columns = of_text(connection, "raw", header)
        except duckdb.Error as e:
            raise DataError(f"{path} cannot be read as CSV with a header line ({_reason(e)})") from e

    def read(typed: bool) -> Content:
        reading = Reading(f"{path}: table {path.stem!r}")
        with closing(duckdb.connect(config=_CONFIG)) as connection, reading.on(connection):
            connection.register("raw", raw)
            data = reading.arrow(connection.sql(f"SELECT {', '.join(casts(columns, typed))} FROM raw"))
        return Content(data, tuple(c.copied(typed) for c in columns), found.num_rows > cap)

    return _table(path.stem, columns, read, str(path))


def _cells_of_the_header(connection: duckdb.DuckDBPyConnection, path: Path, found: pa.Table) -> int:
    """How many columns the header line names: fewer than DuckDB found, where a row has more cells."""
    if not any(re.fullmatch(r"column\d+", name) for name in found.column_names):
        return found.num_columns
    sniffed = f"SELECT Delimiter, Quote, SkipRows FROM sniff_csv({_literal_path(path)}, {_CSV_OPTIONS})"
    ((delimiter, quote, skipped),) = connection.execute(sniffed).fetchall()
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as lines:
        # Where no cell is quoted, the sniffer has a word for that.
        quote = quote if len(quote) == 1 else '"'
        try:
            header = next(csv.reader(islice(lines, skipped, None), delimiter=delimiter, quotechar=quote), [])
        except csv.Error as e:
            raise DataError(f"{path}: the header line cannot be read ({e}); give its columns shorter names") from e
    return len(header)


def _without_surplus(path: Path, found: pa.Table, named: int) -> pa.Table:
    """The columns that the header names. Raises DataError where a row has something in a cell behind them."""
    for column in found.columns[named:]:
        for number, cell in enumerate(column.to_pylist(), 1):
            if cell is not None and cell.strip():
                row = [c for c in found.slice(number - 1, 1).to_pylist()[0].values() if c is not None]
                raise DataError(
                    f"{path}: row {number} below the header has more cells than the header's {named}: "
                    f"{shortened(', '.join(map(repr, row)))}; put a cell with the delimiter in it in double quotes"
                )
    return found.select(range(named))


def from_arrow(data: pa.Table, name: str) -> UserTable:
    """A table that is already in memory. Raises DataError when it has no columns."""
    if data.num_columns == 0:
        raise DataError(f"table {name!r} has no columns; a question needs at least one to ask about")
    header = [str(n) for n in data.column_names]
    plain = data.slice(0, row_cap(data.num_columns) + 1).rename_columns([f"c{i}" for i in range(len(header))])
    with closing(duckdb.connect(config=_CONFIG)) as connection:
        try:
            connection.register("given", plain)
            columns = _described(connection, "given")
            contents = {}
            for typed in (False, True):
                reading = Reading(f"table {name!r}")
                with reading.on(connection):
                    contents[typed] = _copied(connection, "given", columns, typed, reading)
        except duckdb.Error as e:
            types = ", ".join(f"{h} {t}" for h, t in zip(header, data.schema.types))
            raise DataError(
                f"table {name!r} cannot be read ({_reason(e)}); its columns are {shortened(types)}; turn what DuckDB "
                "does not know into text or numbers"
            ) from e
    return _table(name, [replace(c, name=h) for c, h in zip(columns, header)], contents.__getitem__, "table")
