"""CSV: a header line with the column names, and below it rows whose cells say what type a column has."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import re
import zlib
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from t2s_assets.text2sql.errors import DataError
from t2s_assets.text2sql.query import identifier, string_literal
from t2s_assets.text2sql.tables.file_reading import CONFIG, literal_path, reason, table_of, unpacked
from t2s_assets.text2sql.tables.read_limits import Reading
from t2s_assets.text2sql.tables.text_columns import TextColumn, count_of, matches, text_columns
from t2s_assets.text2sql.tables.user_tables import MAX_TEXT, Content, UserTable, Wanted, row_cap, shortened
from t2s_assets.text2sql.text_encoding import encoding_of, guessed

_OPTIONS = "header = true, all_varchar = true, null_padding = true"
# Bytes of all cells, numbers' as text too. A file with more is copied up to the lower cap, that of tables among others.
_MOST = 400_000_000
_DELIMITERS = (";", "\t", "|", ",")
_SEPARATOR = re.compile(rb'"?sep=(.)"?', re.IGNORECASE)
"""A first line in which Excel is told the delimiter."""

_SHOWN = 100
"""Rows that show whether blanks stand before cells."""

_ONE_COMMA = r"\s*[-+−]?[1-9]\d{0,2},\d{3}\s*"


def csv_table(path: Path, *, alone: bool = True) -> UserTable:
    """A CSV in UTF-8, in UTF-16 with its mark, or in the encoding that its letters tell, and then a remark says so.

    One that is not `alone` may be in memory together with others, and has fewer of its rows there.

    Raises:
        DataError: it is empty, damaged, in another encoding, or a row has more cells than the header.
    """
    if not path.stat().st_size:
        raise DataError(f"{path} is empty; a CSV needs a header line with the column names")
    try:
        with _unzipped(path) as f:
            encoding = encoding_of(f.read(2))
    except (OSError, EOFError, zlib.error) as e:
        raise DataError(f"{path} cannot be unpacked ({e})") from e
    remark = ""
    if encoding == "utf-8-sig":
        try:
            return _in_utf8(path, path, alone)
        except UnicodeError:
            with _unzipped(path) as f:
                encoding = guessed(f)
            remark = (
                f"{path.name} is not in UTF-8 and was read as {_named(encoding)}; where letters are wrong, convert it "
                "to UTF-8"
            )
    with TemporaryDirectory(prefix="t2s-csv-") as folder:
        file = Path(folder) / "utf8.csv"
        _convert(path, encoding, file)
        table = _in_utf8(path, file, alone)
    return replace(table, remark=remark)


def _named(codec: str) -> str:
    return f"Windows-{codec[2:]}" if codec.startswith("cp125") else codec.upper()


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
            f"{path} is not in UTF-8, nor in {_named(encoding)}, which it looks like ({e}); convert it to UTF-8, for "
            "instance by: iconv -f ENCODING -t UTF-8"
        ) from e


def _in_utf8(path: Path, file: Path, alone: bool, delimiter: str | None = None) -> UserTable:
    """`path`, of which `file` is a copy or itself: its first line that is not blank holds the column names, and the
    cells of the rows read say what type a column has. DuckDB tells the `delimiter` where none is given. Raises
    UnicodeError where it is not UTF-8."""
    name = unpacked(path).stem
    skipped, named_delimiter = _above_the_header(path, file)
    delimiter = delimiter or named_delimiter
    reading = Reading(f"{path}: table {name!r}")
    with closing(duckdb.connect(config=CONFIG)) as connection:
        # One thread reads: DuckDB's parallel reader pads no rows where a quoted cell has a line break.
        sniffed = _OPTIONS + (f", skip = {skipped}" if skipped else "")
        sniffed += f", delim = {string_literal(delimiter)}" if delimiter else ""
        options = f"{sniffed}, parallel = false, hive_partitioning = false"
        try:
            with reading.on(connection):
                relation = connection.sql(f"SELECT * FROM read_csv([{literal_path(file)}], {options})")
                width = len(relation.columns)
                cap, fewer = row_cap(width, tables=1 if alone else None), row_cap(width)
                rows = relation.limit(cap + 1)
                found = reading.arrow(rows, enough=lambda count, size: size > _MOST and count > fewer)
                if found.nbytes > _MOST:
                    cap = fewer
                named = _cells_of_the_header(connection, path, file, found, sniffed)
                if named == 1 < found.num_columns and not delimiter:
                    if (table := _otherwise_delimited(path, file, alone, skipped)) is not None:
                        return table
                found = _without_surplus(path, found, named)
                found = _without_blanks_before(connection, path, file, found, sniffed)
                columns = _columns(connection, found.slice(0, cap), reading)
                if cap > fewer and sum(c.text_bytes for c in columns) > MAX_TEXT:
                    cap = fewer
                    columns = _columns(connection, found.slice(0, cap), reading)
                remarks = _of_commas(connection, file, found, columns, sniffed)
        except duckdb.Error as e:
            if "not utf-8" in str(e).lower():
                raise UnicodeError(reason(e)) from e
            raise DataError(f"{path} cannot be read as CSV with a header line ({reason(e)})") from e

    there = found.num_rows

    def read(wanted: Wanted) -> Content:
        chosen = wanted.of(columns)
        most = min(cap, wanted.rows(len(chosen)))
        data = pa.Table.from_arrays([c.cells(wanted.typed) for c in chosen], [f"c{i}" for i in range(len(chosen))])
        types = tuple(c.column.copied(wanted.typed) for c in chosen)
        made_null = {i: c.made_null for i, c in enumerate(chosen) if c.made_null is not None}
        remarked = {i: remarks[p] for i, p in enumerate(wanted.of(range(len(columns)))) if p in remarks}
        return Content(data.slice(0, most), types, there > most, made_null, remarks=remarked)

    return table_of(name, [c.column for c in columns], read, str(path), in_memory=True)


def _above_the_header(path: Path, file: Path) -> tuple[int, str | None]:
    """How many lines stand above the header, which are blank or say `sep=;` as Excel reads it, and the delimiter that
    is said. DuckDB pads rows only of what it is told to skip."""
    delimiter = None
    try:
        with _unzipped(file) as lines:
            for number, line in enumerate(iter(lambda: lines.readline(2**16), b"")):
                text = line.removeprefix(codecs.BOM_UTF8 if number == 0 else b"").strip(b" \r\n")
                said = _SEPARATOR.fullmatch(text) if delimiter is None else None
                if text and said is None:
                    return number, delimiter
                delimiter = said[1].decode("latin-1") if said else delimiter
    except (OSError, EOFError, zlib.error) as e:
        raise DataError(f"{path} cannot be unpacked ({e})") from e
    return 0, None


def _otherwise_delimited(path: Path, file: Path, alone: bool, skipped: int) -> UserTable | None:
    """The table by another delimiter, where that splits the header and rows: numbers with a decimal comma look as if
    commas stood between cells, and the header's names have none."""
    for delimiter in _DELIMITERS:
        if len(_header(path, file, skipped, delimiter, '"')) > 1:
            table = _in_utf8(path, file, alone, delimiter)
            if any(column.null_count < len(column) for column in table.content.data.columns[1:]):
                return table
    return None


def _columns(connection: duckdb.DuckDBPyConnection, found: pa.Table, reading: Reading) -> list[TextColumn]:
    return text_columns(connection, found, found.column_names, Reading(reading.what))


def _of_commas(
    connection: duckdb.DuckDBPyConnection, file: Path, found: pa.Table, columns: list[TextColumn], options: str
) -> dict[int, str]:
    """What to know of numbers such as 1,234 where semicolons stand between cells: whoever writes those may mean 1.234.
    Nothing of columns in which another cell tells (1,234,567 or 1,234.5)."""
    remarks = {}
    for position, (column, cells) in enumerate(zip(columns, found.columns)):
        with_comma = count_of(pc.match_substring(cells, ",")) if column.column.sql_type == "DOUBLE" else 0
        if with_comma and count_of(matches(cells, _ONE_COMMA)) == with_comma:
            remarks[position] = (
                f"in column {identifier(column.column.name)} a comma was read as a thousands separator (1,234 is "
                "1234); where it is a decimal comma, write a point instead"
            )
    return remarks if remarks and _sniffed(connection, file, options)[0] == ";" else {}


def _cells_of_the_header(
    connection: duckdb.DuckDBPyConnection, path: Path, file: Path, found: pa.Table, options: str
) -> int:
    """How many columns the header line names: fewer than DuckDB found, where a row has more cells."""
    if not any(re.fullmatch(r"column\d+", name) for name in found.column_names):
        return found.num_columns
    delimiter, quote, skipped = _sniffed(connection, file, options)
    return len(_header(path, file, skipped, delimiter, quote))


def _without_blanks_before(
    connection: duckdb.DuckDBPyConnection, path: Path, file: Path, found: pa.Table, options: str
) -> pa.Table:
    """The cells without the blanks that stand behind every delimiter, where the header has them too: `name, city`.
    DuckDB takes them from the header and from quoted cells alone, so that a text would be spelt in two ways."""
    if not any(pc.any(pc.starts_with(cells.slice(0, _SHOWN), " ")).as_py() for cells in found.columns[1:]):
        return found
    delimiter, quote, skipped = _sniffed(connection, file, options)
    names = _header(path, file, skipped, delimiter, quote)
    if not all(name.startswith(" ") for name in names[1:]):
        return found
    for position in range(1, found.num_columns):
        cells = pc.utf8_ltrim(found.column(position), characters=" ")
        cells = pc.if_else(pc.equal(cells, pa.scalar("")), pa.scalar(None, cells.type), cells)
        found = found.set_column(position, found.column_names[position], cells)
    return found


def _sniffed(connection: duckdb.DuckDBPyConnection, file: Path, options: str) -> tuple[str, str, int]:
    """The delimiter, the quote and how many lines are skipped."""
    sql = f"SELECT Delimiter, Quote, SkipRows FROM sniff_csv({literal_path(file)}, {options})"
    ((delimiter, quote, skipped),) = connection.execute(sql).fetchall()
    # Where no cell is quoted, the sniffer has a word for that.
    return delimiter, quote if len(quote) == 1 else '"', skipped


def _header(path: Path, file: Path, skipped: int, delimiter: str, quote: str) -> list[str]:
    """The cells of the header line."""
    with io.TextIOWrapper(_unzipped(file), "utf-8-sig", errors="replace", newline="") as lines:  # type: ignore[type-var]
        try:
            return next(csv.reader(islice(lines, skipped, None), delimiter=delimiter, quotechar=quote), [])
        except csv.Error as e:
            raise DataError(f"{path}: the header line cannot be read ({e}); give its columns shorter names") from e


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
