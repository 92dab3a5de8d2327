"""Tables of Python rows, read in blocks."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from t2s_assets.text2sql.tables import python_rows, user_tables
from t2s_assets.text2sql.tables.python_rows import from_rows
from t2s_assets.text2sql.tables.sources import open_source
from t2s_assets.text2sql.tables.user_tables import Cells, Wanted

TYPES = ["VARCHAR", "DOUBLE", "BIGINT"]
ROWS: list[tuple[Any, ...]] = [
    ("a", 1.5, 1),
    (2, 2**60, 2.0),
    (None, "3,000.5", None),
    ("d", "none", "4.5"),
    ("e", "", "7"),
    ("f", "lost", 2**62),
    ("g", None, 1),
]
CELLS = {
    "0": ["a", "2", None, "d", "e", "f", "g"],
    "1": [1.5, float(2**60), 3000.5, None, None, None, None],
    "2": [1, 2, None, None, 7, 2**62, 1],
}


@pytest.mark.parametrize("block", [1, 2, 3, 7, 100])
def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(python_rows, "_BLOCK", block)
    whole = from_rows(ROWS, TYPES, Wanted(typed=True, tables=1))
    assert whole.data.to_pydict() == CELLS and not whole.truncated
    assert whole.made_null == {1: Cells(2, "none", 4), 2: Cells(1, "4.5", 4)}
    monkeypatch.setattr(user_tables, "MAX_CELLS", 5 * len(TYPES))
    cut = from_rows(ROWS, TYPES, Wanted(typed=True, tables=1))
    assert cut.data.to_pydict() == {name: cells[:5] for name, cells in CELLS.items()} and cut.truncated
    assert cut.made_null == {1: Cells(1, "none", 4), 2: Cells(1, "4.5", 4)}
    assert not from_rows(ROWS[:5], TYPES, Wanted(typed=True, tables=1)).truncated
    empty = from_rows([], TYPES, Wanted(typed=True, tables=1))
    assert (empty.data.num_rows, empty.data.num_columns, empty.truncated) == (0, 3, False)


@pytest.mark.parametrize("block", [1, 2, 100])
def test_much_text_is_cut_to_fewer_rows(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(python_rows, "_BLOCK", block)
    monkeypatch.setattr(user_tables, "MAX_ROWS", 3)
    monkeypatch.setattr(user_tables, "MAX_TEXT", 30)
    cut = from_rows([("ten bytes.", "x", 1)] * 6, TYPES, Wanted(typed=True, tables=1))
    assert (cut.data.num_rows, cut.truncated) == (3, True)
    assert cut.made_null == {1: Cells(3, "x", 1)}


def test_no_more_rows_are_asked_for_than_are_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(user_tables, "MAX_ROWS", 3)
    rows = iter([("a", 1.0, 1)] * 10)
    assert from_rows(rows, TYPES, Wanted(typed=True, tables=None)).truncated
    assert len(list(rows)) == 6  # the fourth says that there are more


def test_a_table_of_sqlite_is_copied_as_others_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(user_tables, "MAX_ROWS", 2)
    path = tmp_path / "long.sqlite"
    with closing(sqlite3.connect(path)) as lite:
        lite.execute("CREATE TABLE a (n INTEGER, s TEXT)")
        lite.executemany("INSERT INTO a VALUES (?, ?)", [(n, f"text {n}") for n in range(6)])
        lite.commit()
    table = open_source(db=path).table()
    for first in (table.content, table.typed_content):
        assert (first.data.num_rows, first.truncated) == (2, True)
    assert (table.alone.content.data.num_rows, table.alone.content.truncated) == (6, False)
    assert not table.part([0, 1], among=1).typed_content.truncated
    monkeypatch.setattr(user_tables, "MAX_CELLS", 10)
    cut = open_source(db=path).table()
    assert (cut.alone.content.data.num_rows, cut.alone.content.truncated) == (5, True)
    assert cut.part([0, 1], among=2).typed_content.data.num_rows == 2


def test_an_index_of_sqlite_changes_nothing_about_which_rows_are_the_first(tmp_path: Path) -> None:
    path = tmp_path / "runs.sqlite"
    with closing(sqlite3.connect(path)) as lite:
        lite.executescript(
            "CREATE TABLE runs (day TEXT UNIQUE, metres INTEGER); CREATE VIEW late AS SELECT * FROM runs"
        )
        lite.executemany("INSERT INTO runs VALUES (?, 5)", [("2024",), ("2023",), ("2022",)])
        lite.commit()
    source = open_source(db=path)
    for part in ([0], [0, 1]):
        days = source.table("runs").part(part, among=1).typed_content.data.column(0).to_pylist()
        assert days == ["2024", "2023", "2022"]
    assert source.table("late").content.data.num_rows == 3
