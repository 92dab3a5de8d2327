"""Files that are small and hide endless work end as errors."""

from __future__ import annotations

import csv
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from t2s_assets.text2sql.errors import DataError
from t2s_assets.text2sql.tables import read_limits
from t2s_assets.text2sql.tables.sources import as_table, open_source

_NUMBERS = "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r{}) SELECT {} FROM r"


def lite(path: Path, *statements: str) -> Path:
    with closing(sqlite3.connect(path)) as db:
        for statement in statements:
            db.execute(statement)
        db.commit()
    return path


def duck(path: Path, *statements: str) -> Path:
    with duckdb.connect(path) as db:
        for statement in statements:
            db.execute(statement)
    return path


@pytest.mark.parametrize("cell", ["n", "'x' || n"])
def test_an_endless_view_of_sqlite_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cell: str) -> None:
    path = lite(tmp_path / "e.sqlite", f"CREATE VIEW v AS {_NUMBERS.format('', cell)}")
    monkeypatch.setattr(read_limits, "MAX_SECONDS", 0.3)
    began = time.monotonic()
    with pytest.raises(DataError, match=r"e\.sqlite: table 'v' takes over 0\.3 seconds to read; if it is a view, "):
        open_source(db=path).table()
    assert time.monotonic() - began < 10


def test_an_endless_view_of_duckdb_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    endless = ["sum(sin(range))", "'x' || sum(sin(range))"]
    path = duck(
        tmp_path / "e.duckdb",
        *(f"CREATE VIEW v{i} AS SELECT {e} AS s FROM range(1000000000000)" for i, e in enumerate(endless)),
    )
    monkeypatch.setattr(read_limits, "MAX_SECONDS", 0.3)
    for name in ("v0", "v1"):
        table = open_source(db=path).table(name)
        with pytest.raises(DataError, match=rf"e\.duckdb: table '{name}' takes over 0\.3 seconds"):
            table.content  # noqa: B018


@pytest.mark.parametrize("kind", ["sqlite", "duckdb", "parquet", "csv", "frame"])
def test_a_table_that_is_too_large_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(read_limits, "MAX_BYTES", 100_000)
    path, where = tmp_path / f"big.{kind}", rf"big\.{kind}: table '(t|big)'"
    frame = pa.table({"a": pa.DictionaryArray.from_arrays(pa.array([0] * 2000, pa.int32()), pa.array(["x" * 100]))})
    if kind == "sqlite":
        generated = "CREATE TABLE t (a INTEGER, b TEXT GENERATED ALWAYS AS (hex(zeroblob(1000))) VIRTUAL)"
        lite(path, generated, f"INSERT INTO t (a) {_NUMBERS.format(' WHERE n < 1000', 'n')}")
    elif kind == "duckdb":
        duck(path, "CREATE VIEW t AS SELECT repeat('x', 1000) AS s FROM range(1000)")
    elif kind == "parquet":
        pq.write_table(frame, path)
    elif kind == "csv":
        path.write_text("a,b\n" + f"{'x' * 100},1\n" * 2000)
    else:
        path, where = None, "table 'data'"  # type: ignore[assignment]
    with pytest.raises(DataError, match=where + r" is too large: up to 0\.0001 GB .*; give a table or a view of fewer"):
        (as_table(frame) if path is None else open_source(db=path).table()).content  # noqa: B018


@pytest.mark.parametrize("cell", ["zeroblob(150000)", "hex(zeroblob(150000))", "zeroblob(1000)"])
def test_large_cells_of_sqlite_are_never_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cell: str) -> None:
    path = lite(
        tmp_path / "b.sqlite",
        "CREATE TABLE n (i TEXT)",
        *["INSERT INTO n VALUES ('x')"] * 200,
        f"CREATE VIEW v AS SELECT CAST({cell} AS BLOB) AS a, i FROM n",
    )
    monkeypatch.setattr(read_limits, "MAX_BYTES", 100_000)
    with pytest.raises(DataError, match=r"b\.sqlite: table 'v' is too large"):
        open_source(db=path).table("v").content  # noqa: B018


def test_a_numeric_column_with_endless_texts_of_sqlite_is_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = lite(
        tmp_path / "m.sqlite",
        "CREATE TABLE t (a STRING)",
        "INSERT INTO t " + _NUMBERS.format(" WHERE n < 2000", "'some text ' || n"),
    )
    assert open_source(db=path).table().content.data.num_rows == 2000
    monkeypatch.setattr(read_limits, "MAX_BYTES", 10_000)
    with pytest.raises(DataError, match=r"table 't' is too large"):
        open_source(db=path).table()


def test_too_little_memory_is_no_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = duck(tmp_path / "m.duckdb", "CREATE TABLE t AS SELECT 1 AS n")
    table = open_source(db=path).table()

    def fails(self: read_limits.Reading, relation: object) -> None:
        raise MemoryError

    monkeypatch.setattr(read_limits.Reading, "arrow", fails)
    with pytest.raises(DataError, match=r"m\.duckdb: table 't' takes too much memory to read"):
        table.content  # noqa: B018


def test_what_fails_after_the_first_rows_names_the_table(tmp_path: Path) -> None:
    cell = "CASE WHEN range < 50000 THEN 1 ELSE CAST('x' || range AS INT) END"
    path = duck(tmp_path / "f.duckdb", f"CREATE VIEW v AS SELECT {cell} AS n FROM range(60000)")
    with pytest.raises(DataError, match=r"f\.duckdb: table 'v' cannot be read \(Conversion Error: .*'x50000'"):
        open_source(db=path).table().content  # noqa: B018


def test_a_header_longer_than_python_reads(tmp_path: Path) -> None:
    path = tmp_path / "wide.csv"
    path.write_text(f"column0,b{'x' * 200_000}\n1,2,3\n")
    before = csv.field_size_limit(131_072)  # other libraries raise it for the whole process
    try:
        with pytest.raises(
            DataError, match=r"wide\.csv: the header line cannot be read \(field larger .* shorter names"
        ):
            open_source(db=path)
    finally:
        csv.field_size_limit(before)
