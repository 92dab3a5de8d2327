"""CSV whose types are tried by whole columns, beside a plain reader that looks at one cell after the other."""

from __future__ import annotations

import datetime
import gzip
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from t2s_assets.text2sql.errors import DataError
from t2s_assets.text2sql.tables import text_columns
from t2s_assets.text2sql.tables.asked import asked_about
from t2s_assets.text2sql.tables.csv_files import csv_table
from t2s_assets.text2sql.tables.sources import open_source
from t2s_assets.text2sql.tables.user_tables import UserTable

_MISSING = {"n/a", "na", "null", "none", "-", "–", "—", "?"}
_SPACES = " \u00a0\u1680\u2000\u2003\u202f\u205f\u3000"
"""Some of Unicode's spaces (its category Zs), which DuckDB's trim() takes off."""
_AROUND = " \t\n\f\r"
"""What may stand beside a number."""


def _boolean(cell: str) -> bool | None:
    return {"true": True, "false": False}.get(cell.strip(_SPACES).lower())


def _timestamp(cell: str) -> datetime.datetime | None:
    if not re.fullmatch(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d(:\d\d(\.\d{1,6})?)?", cell.strip(" "), re.ASCII):
        return None
    try:
        return datetime.datetime.fromisoformat(cell.strip(" "))
    except ValueError:
        return None


def _date(cell: str) -> datetime.date | None:
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", cell.strip(" "), re.ASCII):
        return None
    try:
        return datetime.date.fromisoformat(cell.strip(" "))
    except ValueError:
        return None


def _whole(most: int) -> Callable[[str], int | None]:
    def read(cell: str) -> int | None:
        if not re.fullmatch(r"[-+]?(0|[1-9]\d*)", cell.strip(_AROUND), re.ASCII):
            return None
        number = int(cell)
        return number if -most - (most < 2**63) <= number <= most else None

    return read


def _float(cell: str) -> float | None:
    digits = cell.strip(_AROUND).replace("−", "-")
    whole, point, rest = re.fullmatch(r"[-+]?([^.eE]*)(\.?)(.*)", digits, re.DOTALL).groups()  # type: ignore[union-attr]
    if "," in whole and not re.fullmatch(r"[1-9]\d{0,2}(,\d{3})+", whole, re.ASCII):
        return None
    if not re.fullmatch(r"0|[1-9][\d,]*" if whole else "", whole, re.ASCII):
        return None
    fraction = re.fullmatch(r"(\d*)([eE][-+]?\d{1,3})?", rest, re.ASCII)
    if fraction is None or (not whole and not (point and fraction[1])) or (fraction[1] and not point):
        return None
    return float(digits.replace(",", ""))


READERS: dict[str, Callable[[str], Any]] = {
    "BOOLEAN": _boolean,
    "TIMESTAMP": _timestamp,
    "DATE": _date,
    "BIGINT": _whole(2**63 - 1),
    "HUGEINT": _whole(10**38 - 1),
    "DOUBLE": _float,
}


@dataclass(frozen=True)
class Plainly:
    """A column as it should be read: its type, its cells with that type, and those that became NULL, by their rows."""

    sql_type: str
    cells: list[Any]
    made_null: list[tuple[int, str]]


def plainly(cells: list[str | None]) -> Plainly:
    """What docs/cli.md says of types, a cell at a time."""
    for kind, read in READERS.items():
        values, lost, fits = [], [], True
        for row, cell in enumerate(cells, 1):
            bare = "" if cell is None else cell.strip(_SPACES)
            value = None
            if bare.lower() in _MISSING and kind != "BOOLEAN":
                lost.append((row, cell))
            elif cell is not None and bare:
                value = read(cell)
                fits = fits and value is not None
            values.append(value)
        if fits and any(value is not None for value in values):
            return Plainly(kind, values, lost if kind != "BOOLEAN" else [])  # type: ignore[arg-type]
    return Plainly("VARCHAR", list(cells), [])


def opened(path: Path, columns: list[list[str]]) -> UserTable:
    """The table of a CSV in which each cell is quoted; what is empty stands there without quotes."""
    with path.open("w", newline="", encoding="utf-8") as f:
        f.write(",".join(f"h{i}" for i in range(len(columns))) + "\n")
        for row in zip(*columns):
            f.write(",".join(f'"{cell}"' if cell else "" for cell in row) + "\n")
    return open_source(db=path).table()


def check(table: UserTable, columns: list[list[str]]) -> None:
    plain, typed = table.content, table.typed_content
    for position, written in enumerate(columns):
        cells = [cell or None for cell in written]
        wanted = plainly(cells)
        number = wanted.sql_type in ("BIGINT", "HUGEINT", "DOUBLE")
        column = table.columns[position]
        assert (column.sql_type, column.type) == (wanted.sql_type, "real" if number else "text"), cells
        assert typed.types[position] == wanted.sql_type
        assert plain.types[position] == (wanted.sql_type if number else "VARCHAR")
        assert typed.data.column(position).to_pylist() == wanted.cells
        lost = dict(wanted.made_null)
        as_text = wanted.cells if number else [None if row in lost else cell for row, cell in enumerate(cells, 1)]
        assert plain.data.column(position).to_pylist() == as_text
        for content in (plain, typed):
            null = content.made_null.get(position)
            assert (null and (null.count, null.row, null.first)) == (
                (len(lost), *wanted.made_null[0]) if lost else None
            )


_DIGITS = st.integers(-(10**38) + 1, 10**38 - 1) | st.integers(-(2**63) - 2, 2**63 + 1) | st.integers(-2000, 2000)
_FLOATS = st.one_of(
    st.floats(-1e9, 1e9).map(repr),
    st.floats(-1e12, 1e12).map("{:,.3f}".format),
    st.sampled_from([".5", "1.", "-.25", "1e3", "2E-7", "−3.5", "1,234", "12,345,678"]),
)
_DATES = st.dates(datetime.date(1, 1, 1)).map(str)
_TIMES = st.datetimes().map(lambda at: at.isoformat(" ")) | st.datetimes().map(lambda at: at.isoformat("T", "minutes"))
_KINDS: dict[str, st.SearchStrategy[str]] = {
    "whole": _DIGITS.map(str),
    "small": st.integers(-9, 99).map(str),
    "signed": st.integers(0, 99).map("+{}".format),
    "code": st.integers(0, 999).map("0{:03}".format),
    "float": _FLOATS,
    "separated": st.integers(1000, 10**15).map("{:,}".format),
    "date": _DATES,
    "no date": st.sampled_from(["2023-02-29", "2024-13-01", "2024-1-2", "01/02/2024", "1.2.2024"]),
    "time": _TIMES,
    "truth": st.sampled_from(["true", "false", "True", "FALSE"]),
    "missing": st.sampled_from(["N/A", "na", "NULL", "None", "-", "–", "—", "?"]),
    "empty": st.sampled_from(["", "", " ", "\u00a0"]),
    "word": st.sampled_from(["Oslo", "nan", "inf", "$5", "5 %", "0x10", "1_000", "1,23", "²", "٣", "1e9999"]),
    "long": st.integers(10**38, 10**40).map(str),
}
_PADS = st.sampled_from(["", "", "", "", " ", "\u3000"])


@st.composite
def _columns(draw: st.DrawFn) -> list[list[str]]:
    rows = draw(st.integers(1, 7))

    def column() -> list[str]:
        kinds = draw(st.lists(st.sampled_from(sorted(_KINDS)), min_size=1, max_size=2, unique=True))
        kinds += draw(st.lists(st.sampled_from(["missing", "empty"]), max_size=2))
        cells = draw(st.lists(st.one_of([_KINDS[kind] for kind in kinds]), min_size=rows, max_size=rows))
        # Only what no number stands beside is padded with a space that is not ASCII's.
        return [f"{draw(_PADS)}{cell}" if cell.strip(_SPACES).lower() in _MISSING else cell for cell in cells]

    # The first column is always a word, so that no row is empty.
    return [["w"] * rows, *(column() for _ in range(draw(st.integers(1, 5))))]


@pytest.mark.parametrize("first", [1, 1_000])
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(columns=_columns())
@example(columns=[["w"] * 3, ["9223372036854775807", "9223372036854775808", "-9223372036854775808"]])
@example(columns=[["w"] * 2, ["\t5", "5\n"]])
@example(columns=[["w"] * 3, ["2024-02-29", "-", "2023-02-29"]])
@example(columns=[["w"] * 2, ["\ttrue", "false"]])
@example(columns=[["w"] * 3, ["true", "?", "false"], ["true", "", "false"]])
@example(columns=[["w"] * 3, ["", "N/A", "7"], ["", "", "x"], ["NA", "?", "2024-01-02 03:04"]])
@example(columns=[["w"] * 2, ["1", "\tN/A"], ["1", "\u3000N/A\u00a0"]])
def test_columns_are_what_a_plain_reader_takes_them_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: int, columns: list[list[str]]
) -> None:
    monkeypatch.setattr(text_columns, "_FIRST", first)
    check(opened(tmp_path / "t.csv", columns), columns)


@pytest.mark.parametrize("last", ["x", "1.5", "12345678901234567890", "007", "N/A", "2024-01-02"])
def test_the_last_of_many_cells_decides(tmp_path: Path, last: str) -> None:
    rows = 3 * text_columns._FIRST
    columns = [[str(i) for i in range(rows)], ["" for _ in range(rows - 1)], ["7" for _ in range(rows - 1)]]
    columns = [columns[0], columns[1] + [last], columns[2] + [last]]
    check(opened(tmp_path / "t.csv", columns), columns)


def test_texts_are_held_once(tmp_path: Path) -> None:
    table = opened(tmp_path / "t.csv", [["Oslo", "Bergen"], ["1", "2"], ["2024-01-02", "2024-01-03"]])
    plain, typed = table.content.data, table.typed_content.data
    for position in (0, 1):
        ours = [[b and b.address for b in data.column(position).chunk(0).buffers()] for data in (plain, typed)]
        assert ours[0] == ours[1]
    assert plain.column(2).type != typed.column(2).type


def test_notes_of_a_csv_with_cells_that_are_missing_late(tmp_path: Path) -> None:
    rows = 2 * text_columns._FIRST
    cells = [str(i) for i in range(rows)]
    cells[rows - 5], cells[rows - 2] = "N/A", " ? "
    table = opened(tmp_path / "t.csv", [["w"] * rows, cells])
    (note,) = asked_about(table, "sketch").notes_for("SELECT MAX(h1) FROM t", ran=False)
    assert note == f"column \"h1\" holds numbers; 2 other cells count as NULL, the first 'N/A' in row {rows - 4:,}"


@pytest.mark.parametrize(
    "text",
    [
        "\na;b\n1;x\n2;y\n",
        "\ufeff\r\n  \r\na;b\r\n1;x\r\n2;y\r\n",
        "sep=;\r\na;b\r\n1;x\r\n2;y\r\n",
        '\ufeff"SEP=;"\n\na;b\n1;x\n2;y\n',
    ],
)
@pytest.mark.parametrize("suffix", [".csv", ".csv.gz"])
def test_what_stands_above_the_header_is_no_row(tmp_path: Path, text: str, suffix: str) -> None:
    path = tmp_path / f"t{suffix}"
    path.write_bytes(gzip.compress(text.encode()) if suffix == ".csv.gz" else text.encode())
    table = open_source(db=path).table()
    assert [(c.name, c.sql_type) for c in table.columns] == [("a", "BIGINT"), ("b", "VARCHAR")]
    assert [tuple(row.values()) for row in table.content.data.to_pylist()] == [(1, "x"), (2, "y")]


def test_the_delimiter_that_a_sep_line_says_is_the_delimiter(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("sep=|\na,1|b,2\n1,5|2,5\n")
    assert open_source(db=tmp_path / "t.csv").table().header == ("a,1", "b,2")


def test_decimal_commas_in_every_column_do_not_hide_the_delimiter(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("net;tax\n1,50;0,25\n12,50;1,5\n")
    table = open_source(db=tmp_path / "t.csv").table()
    assert table.header == ("net", "tax")
    assert [tuple(row.values()) for row in table.content.data.to_pylist()] == [("1,50", "0,25"), ("12,50", "1,5")]


def test_a_title_with_another_delimiter_in_it_is_no_header(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("Sales; 2024\na,b\n1,2\n")
    with pytest.raises(DataError, match=r"more cells than the header's 1.*remove lines that stand above the header"):
        open_source(db=tmp_path / "t.csv").table()


@pytest.mark.parametrize("delimiter", [",", ";"])
def test_blanks_behind_every_delimiter_are_none_of_the_cells(tmp_path: Path, delimiter: str) -> None:
    path = tmp_path / "people.csv"
    lines = ["name, city, metres", 'Ann, "Oslo", 1.7', "Bob,  Oslo, 1.9", "Cid, , 1.8", "Dan,Rome,"]
    path.write_text("\n".join(line.replace(",", delimiter) for line in lines) + "\n")
    table = csv_table(path)
    assert table.header == ("name", "city", "metres")
    assert table.content.data.to_pydict() == {
        "c0": ["Ann", "Bob", "Cid", "Dan"],
        "c1": ["Oslo", "Oslo", None, "Rome"],
        "c2": [1.7, 1.9, 1.8, None],
    }


def test_a_blank_that_the_header_has_not_belongs_to_its_cell(tmp_path: Path) -> None:
    path = tmp_path / "notes.csv"
    path.write_text("name,note, more\nAnn, indented, x\nBob,plain,y\n")
    assert csv_table(path).content.data.to_pydict()["c1"] == [" indented", "plain"]


def test_a_row_too_long_to_read_is_not_printed_whole(tmp_path: Path) -> None:
    path = tmp_path / "long.csv"
    path.write_text("name,body\na," + "x" * 3_000_000 + "\n")
    with pytest.raises(DataError, match="Maximum line size") as raised:
        open_source(db=path).table()
    assert "a,xxx" in str(raised.value) and len(str(raised.value)) < 1_000
