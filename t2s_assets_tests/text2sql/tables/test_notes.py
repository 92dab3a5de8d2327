"""Lines about columns whose cells are not all that they seem to be."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb
import pytest

from t2s_assets.text2sql.execution import Job, SqlExecutor
from t2s_assets.text2sql.tables.asked import asked_about
from t2s_assets.text2sql.tables.sources import open_source

Answered = Callable[..., tuple[list[Any], tuple[str, ...]]]


def csv_of(path: Path, cells: list[str], name: str = "n") -> Path:
    path.write_text(f"who,{name}\n" + "".join(f'p{i},"{cell}"\n' for i, cell in enumerate(cells)), encoding="utf-8")
    return path


def lite(path: Path, declared: str, cells: list[Any]) -> Path:
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"CREATE TABLE t (who TEXT, n {declared})")
        db.executemany("INSERT INTO t VALUES ('x', ?)", [(cell,) for cell in cells])
        db.commit()
    return path


@pytest.fixture(scope="module")
def answered() -> Iterator[Answered]:
    """The first column of a query's result, and its notes."""
    with SqlExecutor(workers=1) as executor:

        def answer(path: Path, sql: str, gold: str = "sketch") -> tuple[list[Any], tuple[str, ...]]:
            asked = asked_about(open_source(db=path).table(), gold)  # type: ignore[arg-type]
            (outcome,) = executor.run([Job(asked.database_for(sql), sql)])
            assert outcome.ok, outcome.message
            return [row[0] for row in outcome.rows], asked.notes_for(sql, ran=True)

        yield answer


@pytest.mark.parametrize("marker", ["N/A", "n/a", "NA", "NULL", "null", "None", "-", "–", "—", "?", " - "])
@pytest.mark.parametrize("gold", ["sketch", "sql"])
def test_a_missing_number_is_null_and_said(answered: Answered, tmp_path: Path, marker: str, gold: str) -> None:
    path = csv_of(tmp_path / "t.csv", ["3", marker, "12", marker, ""])
    table = "t"
    rows, notes = answered(path, f"SELECT MAX(n) FROM {table}", gold)
    assert rows == [12]
    assert notes == (f"column \"n\" holds numbers; 2 other cells count as NULL, the first '{marker}' in row 2",)
    assert answered(path, f"SELECT who FROM {table}", gold)[1] == ()
    assert len(answered(path, f"SELECT * FROM {table}", gold)[1]) == 1


def test_a_missing_date_is_null_and_said(answered: Answered, tmp_path: Path) -> None:
    path = csv_of(tmp_path / "t.csv", ["2024-01-02", "NA", "2023-12-31"])
    for gold in ("sketch", "sql"):
        rows, notes = answered(path, "SELECT MAX(n) FROM t", gold)
        assert [str(row) for row in rows] == ["2024-01-02"]
        assert notes == ("column \"n\" holds dates; 1 other cell counts as NULL, 'NA' in row 2",)


@pytest.mark.parametrize("cells", [["a", "NA", "b"], ["true", "?", "false"], ["NA", "NA"], ["3", "maybe", "12"]])
def test_other_columns_keep_such_cells(answered: Answered, tmp_path: Path, cells: list[str]) -> None:
    assert answered(csv_of(tmp_path / "t.csv", cells), "SELECT n FROM t")[0] == cells


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        (["3", "x", "12"], "'x' in row 2 (2 of 3 cells are numbers)"),
        (["3", "N/A", "x", "12"], "'x' in row 3 (2 of 3 cells are numbers)"),
        (["$9.50", "$10.50"], "'$9.50' in row 1 (2 of 2 cells are numbers)"),
        (["1", "9.50 €", "-£3"], "'9.50 €' in row 2 (3 of 3 cells are numbers)"),
        (["9%", "10%"], "'9%' in row 1 (2 of 2 cells are numbers)"),
        (["1.234,50", "2,5", "?"], "'1.234,50' in row 1 (2 of 2 cells are numbers)"),
        (["3", "(3.50)"], "'(3.50)' in row 2 (2 of 2 cells are numbers)"),
        (["01/02/2024", "28.1.2023"], "'01/02/2024' in row 1 (2 of 2 cells are dates)"),
    ],
)
@pytest.mark.parametrize(
    "sql",
    [
        "SELECT MAX(n) FROM t",
        "SELECT MIN(n) FROM t",
        "SELECT who FROM t ORDER BY n",
        "SELECT who FROM t WHERE n > '2'",
        "SELECT who FROM t WHERE n BETWEEN '1' AND '2'",
    ],
)
def test_numbers_that_are_compared_as_text_are_said(
    answered: Answered, tmp_path: Path, cells: list[str], said: str, sql: str
) -> None:
    notes = answered(csv_of(tmp_path / "t.csv", cells), sql)[1]
    assert notes == (f'column "n" is text because of {said}, so it is compared letter by letter',)


@pytest.mark.parametrize(
    ("cells", "sql"),
    [
        (["3", "x", "12"], "SELECT n FROM t WHERE n = '3'"),
        (["3", "x", "12"], "SELECT MAX(TRY_CAST(n AS DOUBLE)) FROM t"),
        (["3", "x", "12"], "SELECT COUNT(n) FROM t"),
        (["3", "x", "y"], "SELECT MAX(n) FROM t"),
        (["007", "012"], "SELECT MAX(n) FROM t"),
        (["2024-01-02", "2023-12-31"], "SELECT MAX(n) FROM t"),
        (["", ""], "SELECT MAX(n) FROM t"),
    ],
)
def test_nothing_is_said_where_letters_are_right(
    answered: Answered, tmp_path: Path, cells: list[str], sql: str
) -> None:
    assert answered(csv_of(tmp_path / "t.csv", cells), sql)[1] == ()


def test_text_of_a_database_is_looked_at_once_its_rows_were_copied(tmp_path: Path) -> None:
    with duckdb.connect(tmp_path / "t.duckdb") as db:
        db.execute("CREATE TABLE t AS SELECT unnest(['3', '12']) AS n")
    asked = asked_about(open_source(db=tmp_path / "t.duckdb").table(), "sketch")
    sql = "SELECT MAX(n) FROM t"
    assert asked.notes_for(sql, ran=False) == ()
    (note,) = asked.notes_for(sql, ran=True)
    assert note == 'column "n" is text (2 of 2 cells are numbers), so it is compared letter by letter'


def test_a_word_in_a_number_column_of_sqlite_is_said(answered: Answered, tmp_path: Path) -> None:
    rows, notes = answered(lite(tmp_path / "t.sqlite", "REAL", [1.5, "oops", 2]), "SELECT MAX(n) FROM t")
    assert rows == [2.0]
    assert notes == ("column \"n\" holds numbers; 1 other cell counts as NULL, 'oops' in row 2",)


def test_ids_beside_a_word_stay_exact(answered: Answered, tmp_path: Path) -> None:
    path = lite(tmp_path / "t.sqlite", "INTEGER", [9007199254740993, "bad", 9007199254740992, "1,000"])
    rows, notes = answered(path, "SELECT n FROM t")
    assert rows == [9007199254740993, None, 9007199254740992, 1000]
    assert "'bad' in row 2" in notes[0]


def test_a_column_is_that_of_its_own_table(tmp_path: Path) -> None:
    csv_of(tmp_path / "a.csv", ["3", "N/A"])
    csv_of(tmp_path / "b.csv", ["4", "NA"], name="N")
    asked = asked_about(open_source(db=tmp_path).database(), "sql")
    joined = "SELECT MAX({}) FROM a AS x JOIN b AS y ON x.who = y.who"
    assert "'N/A'" in asked.notes_for(joined.format("x.n"), ran=True)[0]
    (note,) = asked.notes_for(joined.format("y.n"), ran=True)
    assert note.startswith('column "N" holds numbers') and "'NA'" in note
    assert asked.notes_for("SELECT n FROM (SELECT 1 AS n) AS z", ran=True) == ()


@pytest.mark.parametrize(
    ("declared", "stored", "value", "cell"),
    [
        ("TIMESTAMP", "2024-03-01 00:00:00", "2024-03-01", "2024-03-01 00:00:00"),
        ("TIMESTAMPTZ", "2024-03-01 00:00:00+00", "2024-03-01 00:00:00", "2024-03-01 00:00:00+00"),
        ("DATE", "2024-03-01", "2024-3-1", "2024-03-01"),
        ("BOOLEAN", "true", "yes", "true"),
    ],
)
def test_values_written_otherwise_than_the_cells_are_said(
    answered: Answered, tmp_path: Path, declared: str, stored: str, value: str, cell: str
) -> None:
    path = tmp_path / "t.duckdb"
    with duckdb.connect(str(path)) as db:
        db.execute(f"CREATE TABLE t AS SELECT NULL::{declared} AS n UNION ALL SELECT '{stored}'::{declared}")
        found = db.execute(f"SELECT count(*) FROM t WHERE n = '{value}'").fetchall()
    rows, notes = answered(path, f"SELECT COUNT(*) FROM t WHERE n = '{value}'")
    assert (found, rows) == ([(1,)], [0])
    (note,) = notes
    assert f"written as '{cell}', compared letter by letter here with '{value}'" in note
    rows, notes = answered(path, f"SELECT COUNT(*) FROM t WHERE n = '{cell}'")
    assert (rows, notes) == ([1], ())
    # Real types compare as the database does.
    assert answered(path, f"SELECT COUNT(*) FROM t WHERE n = '{value}'", "sql") == ([1], ())


def test_a_truth_value_of_no_row_is_written_as_the_others(answered: Answered, tmp_path: Path) -> None:
    path = csv_of(tmp_path / "t.csv", ["False", "False"])
    assert answered(path, "SELECT COUNT(*) FROM t WHERE n = 'true'") == ([0], ())


@pytest.mark.parametrize(
    ("declared", "values", "highest", "as_text"),
    [
        ("ENUM('small', 'medium', 'large')", ["small", "large"], "large", "small"),
        ("INTERVAL", ["9 days", "10 days"], "10 days", "9 days"),
        ("INTEGER[]", ["[9]", "[10]"], "[10]", "[9]"),
    ],
)
@pytest.mark.parametrize("kind", ["duckdb", "parquet"])
@pytest.mark.parametrize("gold", ["sketch", "sql"])
def test_what_sorts_otherwise_than_its_text_is_said(
    answered: Answered,
    tmp_path: Path,
    declared: str,
    values: list[str],
    highest: str,
    as_text: str,
    kind: str,
    gold: str,
) -> None:
    path = tmp_path / f"t.{kind}"
    rows = ", ".join(f"('{value}'::{declared})" for value in values)
    with duckdb.connect(str(path) if kind == "duckdb" else ":memory:") as db:
        db.execute(f"CREATE TABLE t AS SELECT n FROM (VALUES {rows}) AS v(n)")
        assert db.execute("SELECT max(n)::VARCHAR FROM t").fetchall() == [(highest,)]
        if kind == "parquet":
            db.execute(f"COPY t TO '{path}'")
            if declared.startswith("ENUM"):
                declared = db.execute(f"SELECT typeof(n) FROM '{path}'").fetchall()[0][0]
    found, notes = answered(path, "SELECT MAX(n) FROM t", gold)
    assert found == [as_text]
    said = (
        f'column "n" is {declared} in your data, which sorts it as such; here it is text and compared letter by letter'
    )
    assert notes == (() if declared == "VARCHAR" else (said,))  # Parquet holds an ENUM as its text
    assert answered(path, f"SELECT COUNT(n) FROM t WHERE n = '{as_text}'", gold) == ([1], ())


@pytest.mark.parametrize("gold", ["sketch", "sql"])
def test_commas_read_as_thousands_are_said_where_semicolons_delimit(
    answered: Answered, tmp_path: Path, gold: str
) -> None:
    path = tmp_path / "t.csv"
    path.write_text("who;n;m;k\na;1,234;1,234;1,234\nb;2,500;2,500,000;5.5\nc;3;4;1,234.5\n")
    rows, notes = answered(path, "SELECT SUM(n) FROM t", gold)
    assert rows == [3737]
    assert notes == (
        'in column "n" a comma was read as a thousands separator (1,234 is 1234); where it is a decimal comma, write a '
        "point instead",
    )
    for other in ("who", "SUM(m)", "SUM(k)"):
        assert answered(path, f"SELECT {other} FROM t", gold)[1] == ()
    path.write_text('who,n\na,"1,234"\nb,"2,500"\n')
    assert answered(path, "SELECT SUM(n) FROM t", gold) == ([3734], ())
