"""The rules of comparison that docs/agreement.md lists, each from table cells to verdict."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from t2s_assets.text2sql.execution import Job, SqlExecutor
from t2s_assets.text2sql.gold.sketch import Table
from t2s_assets.text2sql.query import Query, to_sql
from t2s_assets.text2sql.results import result_fingerprints
from t2s_assets.text2sql.schema import Column, TableSchema

SCHEMA = TableSchema("t", (Column("Town", "text"), Column("People", "real"), Column("Founded", "text")))
ROWS = (
    ("Lund", "1,990", "1 May 990"),
    ("LUND", "−5", "2 May 990"),
    ("Malmö", "1995.5", "1275"),
    ("Malmo", "12 [a]", "1275"),
    ("Ystad", "2000", ""),
    ("Ystad", "0.1", "1244"),
    ("Ystad", "0.2", "1244"),
)
TABLE = Table("x", "test", ("Town", "People", "Founded"), SCHEMA, ROWS)


@pytest.fixture(scope="module")
def executor() -> Iterator[SqlExecutor]:
    with SqlExecutor(workers=1) as running:
        yield running


@pytest.mark.parametrize(
    ("rule", "sql", "cells"),
    [
        ("both hold", 'SELECT "People" FROM t WHERE "People" > 1990 AND "People" < 2000', [1995.5]),
        ("both hold", 'SELECT "Town" FROM t WHERE "People" = 2000 AND "People" = 1990', []),
        ("a range takes its ends", 'SELECT "People" FROM t WHERE "People" BETWEEN 1990 AND 2000', [1990, 1995.5, 2000]),
        ("> and < leave them out", 'SELECT "People" FROM t WHERE "People" > 1995.5 AND "People" < 2000', []),
        (
            "NULL stands beside values",
            """SELECT "People" FROM t WHERE "Town" > 'LUND' AND "Town" < 'N'""",
            [1995.5, None],
        ),
        ("NULL meets no condition", """SELECT "People" FROM t WHERE "Town" = 'Malmo' AND "People" < 9999""", []),
        ("NULL is not counted", """SELECT COUNT("People") FROM t WHERE "Town" = 'malmo'""", [0]),
        ("thousands separators", 'SELECT "Town" FROM t WHERE "People" = 1990', ["Lund"]),
        ("a Unicode minus", 'SELECT "Town" FROM t WHERE "People" < 0', ["LUND"]),
        ("case", """SELECT "People" FROM t WHERE "Town" = 'lUnD'""", [1990, -5]),
        ("case of accented letters", """SELECT "People" FROM t WHERE "Town" = 'MALMÖ'""", [1995.5]),
        ("accents", """SELECT "People" FROM t WHERE "Town" = 'Malmo'""", [None]),
        ("dates of WikiSQL are text", """SELECT "Town" FROM t WHERE "Founded" = '1 may 990'""", ["Lund"]),
        ("and compare as text", """SELECT "Town" FROM t WHERE "Founded" > '1275'""", ["LUND"]),
        ("an empty cell is text", """SELECT "Town" FROM t WHERE "Founded" = ''""", ["Ystad"]),
    ],
)
def test_what_a_condition_finds(executor: SqlExecutor, rule: str, sql: str, cells: list[object]) -> None:
    outcome = executor.run_one(TABLE.database_as("t"), sql)
    assert [row[0] for row in outcome.rows] == cells, rule


@pytest.mark.parametrize(
    ("rule", "first", "second", "same"),
    [
        ("duplicate rows count", 'SELECT "Town" FROM t', 'SELECT DISTINCT "Town" FROM t', False),
        ("the order of rows counts", 'SELECT "Town" FROM t', 'SELECT "Town" FROM t ORDER BY "People"', False),
        ("an integer equals a decimal", "SELECT 5", "SELECT 5.00", True),
        ("an integer equals a float", 'SELECT count(*) FROM t WHERE "People" > 1990', "SELECT 2.0::DOUBLE", True),
        ("the last bit does not count", "SELECT 0.1::DOUBLE + 0.2::DOUBLE", "SELECT 0.3::DOUBLE", True),
        ("the twelfth digit does", "SELECT 1.00000000001::DOUBLE", "SELECT 1.0::DOUBLE", False),
        ("a date equals itself", "SELECT DATE '2024-05-01'", "SELECT CAST('2024-05-01' AS DATE)", True),
        ("a date is not its text", "SELECT DATE '2024-05-01'", "SELECT '2024-05-01'", False),
        ("a number is not its text", "SELECT 5", "SELECT '5'", False),
        ("NULL is not nothing", 'SELECT "Town" FROM t WHERE "People" > 9999', "SELECT NULL", False),
        ("names of columns do not count", 'SELECT "Town" FROM t', 'SELECT "Town" AS x FROM t', True),
        ("text in any case", "SELECT 'ÅSA'", "SELECT 'åsa'", True),
        ("accents count", "SELECT 'Åsa'", "SELECT 'Asa'", False),
    ],
)
def test_when_two_results_are_one(executor: SqlExecutor, rule: str, first: str, second: str, same: bool) -> None:
    database = TABLE.database_as("t")
    one, other = executor.run([Job(database, first), Job(database, second)])
    assert (one.status, other.status) == ("ok", "ok"), (one.message, other.message)
    assert (result_fingerprints(one)[0] == result_fingerprints(other)[0]) is same, rule


@pytest.mark.parametrize("value", ["−5", "-5", "-5.0", -5, "−5.00"])
def test_a_value_on_a_number_column_is_the_number_that_it_spells(executor: SqlExecutor, value: str | int) -> None:
    sql = to_sql(Query.from_json({"sel": 0, "agg": 0, "conds": [[1, 0, value]]}, width=3), SCHEMA)
    assert executor.run_one(TABLE.database_as("t"), sql).rows == (("LUND",),)
