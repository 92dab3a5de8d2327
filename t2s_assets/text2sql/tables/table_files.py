"""Tables in files: DuckDB and SQLite databases, CSV and Parquet. Opened read-only, with SQL of our own alone.

Columns are `real` (any number) or `text`, as WikiSQL has them, and have their DuckDB type beside it; their rows are
copied as either (table_types.py).

Nothing a model wrote runs here: rows are copied (up to a cap) and handed to the executor. DuckDB's extensions
are never loaded, SQLite is read by Python's own module, and a DuckDB view that reads other files is refused. What a
view or a cell may take is limited (read_limits.py).
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import os
import re
import sqlite3
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import cache, partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from t2s_assets.text2sql.errors import DataError
from t2s_assets.text2sql.query import identifier, parse_number, string_literal
from t2s_assets.text2sql.tables.read_limits import DUCKDB_LIMITS, Reading
from t2s_assets.text2sql.tables.table_types import MISSING, Kept, casts, of_duckdb, of_sqlite, of_text
from t2s_assets.text2sql.tables.user_tables import (
    MAX_TEXT,
    Cells,
    Content,
    Source,
    UserTable,
    check_apart,
    from_rows,
    of_tables,
    row_cap,
    shortened,
)

_SUFFIXES = {".csv": "csv", ".tsv": "csv", ".txt": "csv", ".parquet": "parquet", ".pq": "parquet"}
_JSON_LINES = {".jsonl", ".ndjson"}
_CONFIG = {"autoinstall_known_extensions": "false", "autoload_known_extensions": "false", **DUCKDB_LIMITS}


def open_file(path: Path) -> Source:
    """The tables of a data file; what kind it is, its first bytes say, and for CSV and JSON lines its suffix.

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
    suffix = _unpacked(path).suffix.lower()
    kind = "parquet" if head.startswith(b"PAR1") else _SUFFIXES.get(suffix)
    if kind == "parquet":
        return of_tables(str(path), [_parquet(path)])
    if kind == "csv":
        return of_tables(str(path), [_csv(path)])
    if suffix in _JSON_LINES:
        return of_tables(str(path), [_json_lines(path)])
    raise DataError(
        f"{path}: neither a DuckDB, SQLite or Parquet file by its first bytes, nor .csv, .tsv, .txt, .jsonl or .ndjson "
        "by its name (each perhaps with .gz after it); unpack or convert it"
    )


def _unpacked(path: Path) -> Path:
    """What a file would be called without gzip."""
    return path.with_suffix("") if path.suffix.lower() == ".gz" else path


def open_folder(path: Path) -> Source:
    """The CSV and Parquet files of a folder, each a table called as its file and read when it is asked for; other files
    are passed over.

    Raises:
        DataError: there is none, or two have one name.
    """
    try:
        files = sorted(p for p in path.iterdir() if is_table_of_folder(p))
    except OSError as e:
        raise DataError(f"{path} cannot be read ({e})") from e
    if not files:
        raise DataError(f"{path} is a folder without CSV or Parquet files")
    by_path = {(file.stem,): file for file in files}
    check_apart(str(path), [file.stem for file in files], [file.name for file in files])
    return Source(str(path), tuple(by_path), cache(lambda known_as: open_file(by_path[known_as]).table()))


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
    texts = [f"coalesce(sum(strlen(c{i})), 0)" for i, t in enumerate(types) if t == "VARCHAR"]

    def rows(cap: int) -> str:
        return f"SELECT {casts} FROM {relation} LIMIT {cap + 1}"

    def size(cap: int) -> int:
        sql = f"SELECT {' + '.join(texts)} FROM ({rows(cap)})"
        return int(connection.execute(sql).fetchall()[0][0]) if texts else 0

    cap = row_cap(len(columns), columnar=not typed)
    if (found := size(cap)) > MAX_TEXT:
        cap = row_cap(len(columns))
        found = size(cap)
    reading.check(found)
    data = reading.arrow(connection.sql(rows(cap)))
    return Content(data.slice(0, cap), types, data.num_rows > cap)


def _table(
    name: str | tuple[str, ...],
    columns: list[Kept],
    read: Callable[[bool], Content],
    where: str,
    *,
    in_memory: bool = False,
) -> UserTable:
    return UserTable.of(
        name,
        [c.name for c in columns],
        [c.type for c in columns],
        read,
        where=where,
        sql_types=[c.sql_type for c in columns],
        in_memory=in_memory,
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
        raise DataError(f"{path} cannot be opened as a DuckDB database ({_reason(e)}){_way_out(e)}") from e
    except (RuntimeError, UnicodeError) as e:
        shown = os.fsencode(path).decode("utf-8", "replace")
        raise DataError(f"{shown}: DuckDB opens names in UTF-8 alone ({_reason(e)}); rename the file") from e


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
        raise DataError(f"the DuckDB connection cannot be read ({_reason(e)}); give an open one") from e


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
        return _table(known_as, columns, partial(_duckdb_rows, what, connect, relation, columns), where)

    return Source(where, tuple(full), opened)


@contextmanager
def _duckdb_table(what: str, connect: _Connect) -> Iterator[tuple[duckdb.DuckDBPyConnection, Reading]]:
    with closing(connect()) as connection:
        reading = Reading(what)
        try:
            with reading.on(connection):
                yield connection, reading
        except duckdb.Error as e:
            raise DataError(f"{reading.what} cannot be read ({_reason(e)})") from e


def _duckdb_rows(what: str, connect: _Connect, relation: str, columns: list[Kept], typed: bool) -> Content:
    with _duckdb_table(what, connect) as (connection, reading):
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
    return _scanned(path, f"read_parquet([{_literal_path(path)}], hive_partitioning = false)", "Parquet")


def _json_lines(path: Path) -> UserTable:
    options = "format = 'newline_delimited', sample_size = -1, hive_partitioning = false"
    return _scanned(path, f"read_json([{_literal_path(path)}], {options})", "JSON lines: an object in each")


def _scanned(path: Path, relation: str, kind: str) -> UserTable:
    """A file whose columns' types DuckDB knows."""
    name = _unpacked(path).stem

    def with_columns(work: Callable[[duckdb.DuckDBPyConnection, str, Reading], Any]) -> Any:
        reading = Reading(f"{path}: table {name!r}")
        with closing(duckdb.connect(config=_CONFIG)) as connection:
            connection.execute("SET TimeZone = 'UTC'")
            try:
                with reading.on(connection):
                    return work(connection, relation, reading)
            except duckdb.Error as e:
                raise DataError(f"{path} cannot be read as {kind} ({_reason(e)})") from e

    columns = with_columns(lambda c, r, _: _described(c, r))

    def read(typed: bool) -> Content:
        return with_columns(lambda c, r, reading: _copied(c, r, columns, typed, reading))

    return _table(name, columns, read, str(path))


_CSV_OPTIONS = "header = true, all_varchar = true, null_padding = true"


_BOMS = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_OTHERWISE = "cp1252"
"""What CSV is that is not UTF-8 and says nothing: what spreadsheets write on Windows, Latin-1 for the most part."""


def _csv(path: Path) -> UserTable:
    """A CSV in UTF-8, in UTF-16 with its mark, or in Windows-1252."""
    if not path.stat().st_size:
        raise DataError(f"{path} is empty; a CSV needs a header line with the column names")
    try:
        with _unzipped(path) as f:
            encoding = _BOMS.get(f.read(2))
    except (OSError, EOFError, zlib.error) as e:
        raise DataError(f"{path} cannot be unpacked ({e})") from e
    if encoding is None:
        try:
            return _csv_in_utf8(path, path)
        except UnicodeError:
            encoding = _OTHERWISE
    with TemporaryDirectory(prefix="t2s-csv-") as folder:
        file = Path(folder) / "utf8.csv"
        _convert(path, encoding, file)
        table = _csv_in_utf8(path, file)
    remark = f"{path.name} is not in UTF-8 and was read as Windows-1252; where letters are wrong, convert it to UTF-8"
    return replace(table, remark=remark if encoding == _OTHERWISE else "")


def _unzipped(path: Path) -> IO[bytes]:
    return gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb")


def _convert(path: Path, encoding: str, into: Path) -> None:
    """Writes a text in UTF-8. Raises DataError where it is not of that encoding."""
    reading = Reading(str(path))
    try:
        with (
            io.TextIOWrapper(_unzipped(path), encoding, newline="") as source,  # type: ignore[type-var]
            into.open("w", encoding="utf-8", newline="") as out,
        ):
            while text := source.read(2**20):
                reading.count(len(text))
                if "\0" in text:
                    raise UnicodeError("it holds a NUL")
                out.write(text)
    except (OSError, EOFError, zlib.error) as e:
        raise DataError(f"{path} cannot be converted to UTF-8 ({e})") from e
    except UnicodeError as e:
        raise DataError(
            f"{path} is neither UTF-8, UTF-16 with its mark nor Windows-1252 ({e}); convert it to UTF-8, for instance "
            "by: iconv -f ENCODING -t UTF-8"
        ) from e


def _csv_in_utf8(path: Path, file: Path) -> UserTable:
    """`path`, of which `file` is a copy or itself: its first line holds the column names, and the cells of the rows
    read say what type a column has. Raises UnicodeError where it is not UTF-8."""
    name = _unpacked(path).stem
    reading = Reading(f"{path}: table {name!r}")
    with closing(duckdb.connect(config=_CONFIG)) as connection:
        # One thread reads: DuckDB's parallel reader pads no rows where a quoted cell has a line break.
        options = f"{_CSV_OPTIONS}, parallel = false, hive_partitioning = false"
        try:
            with reading.on(connection):
                relation = connection.sql(f"SELECT * FROM read_csv([{_literal_path(file)}], {options})")
                cap = row_cap(len(relation.columns))
                found = reading.arrow(relation.limit(cap + 1))
                named = _cells_of_the_header(connection, path, file, found)
                found = _without_surplus(path, found, named)
                header = found.column_names
                raw = found.slice(0, cap).rename_columns([f"c{i}" for i in range(len(header))])
                connection.register("raw", raw)
                columns = of_text(connection, "raw", header)
                made_null = _missing(raw, columns)
        except duckdb.Error as e:
            if "not utf-8" in str(e).lower():
                raise UnicodeError(_reason(e)) from e
            raise DataError(f"{path} cannot be read as CSV with a header line ({_reason(e)})") from e

    def read(typed: bool) -> Content:
        reading = Reading(f"{path}: table {name!r}")
        with closing(duckdb.connect(config=_CONFIG)) as connection, reading.on(connection):
            connection.register("raw", raw)
            data = reading.arrow(connection.sql(f"SELECT {', '.join(casts(columns, typed))} FROM raw"))
        types = tuple(c.copied(typed) for c in columns)
        return Content(data, types, found.num_rows > cap, made_null)

    return _table(name, columns, read, str(path), in_memory=True)


def _missing(raw: pa.Table, columns: list[Kept]) -> dict[int, Cells]:
    """The cells of columns of numbers and dates that only say that a value is missing."""
    found = {}
    for position, column in enumerate(columns):
        if column.sql_type in ("VARCHAR", "BOOLEAN"):
            continue
        cells = raw.column(position)
        missing = pc.is_in(pc.utf8_lower(pc.utf8_trim_whitespace(cells)), value_set=pa.array(MISSING))
        if count := pc.sum(missing).as_py():
            first = pc.index(missing, True).as_py()
            found[position] = Cells(count, cells[first].as_py(), first + 1)
    return found


def _cells_of_the_header(connection: duckdb.DuckDBPyConnection, path: Path, file: Path, found: pa.Table) -> int:
    """How many columns the header line names: fewer than DuckDB found, where a row has more cells."""
    if not any(re.fullmatch(r"column\d+", name) for name in found.column_names):
        return found.num_columns
    sniffed = f"SELECT Delimiter, Quote, SkipRows FROM sniff_csv({_literal_path(file)}, {_CSV_OPTIONS})"
    ((delimiter, quote, skipped),) = connection.execute(sniffed).fetchall()
    with io.TextIOWrapper(_unzipped(file), "utf-8-sig", errors="replace", newline="") as lines:  # type: ignore[type-var]
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
                    f"{shortened(', '.join(map(repr, row)))}; put a cell with the delimiter in it in double quotes, "
                    "and remove lines that stand above the header"
                )
    return found.select(range(named))


def from_arrow(data: pa.Table, name: str) -> UserTable:
    """A table that is already in memory. Raises DataError when it has no columns."""
    if data.num_columns == 0:
        raise DataError(f"table {name!r} has no columns; a question needs at least one to ask about")
    header = [str(n) for n in data.column_names]
    plain = data.slice(0, row_cap(data.num_columns, columnar=True) + 1).rename_columns(
        [f"c{i}" for i in range(len(header))]
    )
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
    columns = [replace(c, name=h) for c, h in zip(columns, header)]
    return _table(name, columns, contents.__getitem__, "table", in_memory=True)
