"""SQL of SQLite returns in DuckDB what SQLite returns, or is left out with a reason that names what is not told."""

from __future__ import annotations

import random
import re
import sqlite3
from collections.abc import Iterator
from typing import Any

import duckdb
import pytest

from t2s_assets.text2sql.dialects.reading import SqlTextError, read_sql
from t2s_assets.text2sql.dialects.sqlite_columns import Holds
from t2s_assets.text2sql.results import normal_cell
from t2s_assets_tests.text2sql.dialects.sqlite_queries import SCHEMAS, WRITTEN, databases, drawn

Engines = tuple[sqlite3.Connection, duckdb.DuckDBPyConnection]


@pytest.fixture(scope="module")
def engines() -> Iterator[Engines]:
    lite, duck = databases()
    yield lite, duck
    lite.close()
    duck.close()


def rows_of(duck: duckdb.DuckDBPyConnection) -> Holds:
    def holds(sql: str) -> bool:
        try:
            return not duck.execute(sql).fetchall()
        except duckdb.Error:
            return False

    return holds


def result(engine: Any, sql: str) -> list[str]:
    """Rows as they are compared; truth is a number in SQLite."""
    cells = [
        [int(c) if isinstance(c, bool) else c for c in row]  # as SQLite has it
        for row in engine.execute(sql).fetchall()
    ]
    found = [repr([(isinstance(c, str), normal_cell(c, fold=False)) for c in row]) for row in cells]
    return found if re.search(r"ORDER BY [^)]*$", sql) else sorted(found)


def agrees(engines: Engines, sql: str) -> bool | None:
    """Whether both engines return the same; None where the query is left out or does not run in DuckDB."""
    lite, duck = engines
    wanted = result(lite, sql)
    try:
        written = read_sql(sql, "sqlite", SCHEMAS, rows_of(duck))
        got = result(duck, written)
    except (SqlTextError, duckdb.Error):
        return None
    return got == wanted


LEFT_OUT = {
    "SELECT name, COUNT(*) FROM student GROUP BY dept_id": "selects name without grouping by it",
    "SELECT student_id, MAX(grade) FROM takes GROUP BY course_id": "rows that have the MAX(grade) differ in it",
    "SELECT name FROM student WHERE STRFTIME('%Y', born) = 2001": "in SQLite those are never equal",
    "SELECT name FROM student WHERE SUBSTR(born, 1, 4) = 2001": "in SQLite those are never equal",
    "SELECT title FROM course WHERE credits > 'abc'": "'abc' is compared with a number",
    "SELECT code / 2 FROM student": "whether CAST(code AS REAL) is one",
    "SELECT title FROM course WHERE credits IN (SELECT code FROM student)": "code is compared with a number",
    "SELECT name FROM student WHERE id IN (SELECT zip FROM student ORDER BY 1 LIMIT 5)": "compares text",
    "SELECT name FROM student WHERE zip IN (SELECT id + 2 FROM course UNION SELECT 9)": "compares text",
    "SELECT COALESCE(name, 0) FROM student": "text in some rows and a number in others",
    "SELECT IIF(gpa > 3, 'good', 0) FROM student": "text in some rows and a number in others",
    "SELECT PRINTF('%.2f', gpa) FROM student": "printf() writes numbers as text",
    "SELECT HEX(name) FROM student": "hex() writes bytes",
}


@pytest.mark.parametrize("sql", WRITTEN)
def test_queries_as_people_write_them(engines: Engines, sql: str) -> None:
    if sql not in LEFT_OUT:
        assert agrees(engines, sql)
        return
    with pytest.raises(SqlTextError, match=re.escape(LEFT_OUT[sql])):
        read_sql(sql, "sqlite", SCHEMAS, rows_of(engines[1]))


@pytest.mark.parametrize("seed", range(3))
def test_no_query_drawn_at_random_returns_another_result(engines: Engines, seed: int) -> None:
    draw = random.Random(seed)
    found: list[bool | None] = []
    for _ in range(400):
        sql = drawn(draw)
        try:
            same = agrees(engines, sql)
        except sqlite3.Error:
            continue
        assert same is not False, (sql, read_sql(sql, "sqlite", SCHEMAS, rows_of(engines[1])))
        found.append(same)
    assert found.count(True) > 0.6 * len(found)


@pytest.mark.parametrize(
    ("sql", "wanted"),
    [
        (
            "SELECT T1.name, COUNT(*) FROM student T1 JOIN takes T2 ON T1.id = T2.student_id GROUP BY T1.id",
            'SELECT T1."name", COUNT(*) FROM student AS T1 JOIN takes AS T2 ON T1."id" = T2."student_id" '
            'GROUP BY T1."id", T1."name"',
        ),
        (
            "SELECT title, MAX(credits) FROM course",
            'SELECT ARG_MAX("title", "credits"), MAX("credits") FROM course',
        ),
        ("SELECT ROUND(AVG(grade) * 100, -2) FROM takes", 'SELECT ROUND(AVG("grade") * 100) FROM takes'),
        ("SELECT dept_name, COUNT(*) FROM student WHERE dept_id = 1", None),
        ("SELECT DATE(born) FROM student", "SELECT STRFTIME(TRY_CAST(\"born\" AS TIMESTAMP), '%Y-%m-%d') FROM student"),
        ("SELECT name FROM student WHERE zip > 9", 'SELECT "name" FROM student WHERE "zip" > \'9\''),
    ],
)
def test_what_is_written(engines: Engines, sql: str, wanted: str | None) -> None:
    wanted = wanted or 'SELECT FIRST("dept_name"), COUNT(*) FROM student WHERE "dept_id" = 1'
    assert read_sql(sql, "sqlite", SCHEMAS, rows_of(engines[1])) == wanted
    assert agrees(engines, sql)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT dept_name, COUNT(*) FROM student WHERE dept_id = 9",
        "SELECT name, MAX(gpa) FROM student WHERE id > 99",
        "SELECT name, MAX(gpa) FROM student WHERE id > 99 GROUP BY dept_id",
    ],
)
def test_no_rows_leave_bare_columns_null(engines: Engines, sql: str) -> None:
    assert agrees(engines, sql)
