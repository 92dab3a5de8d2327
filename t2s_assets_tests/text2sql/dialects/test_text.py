"""Text in other dialects than SQLite: what they return there, as documented, returned by DuckDB."""

from __future__ import annotations

import duckdb
import pytest

from t2s_assets.text2sql.dialects.reading import SqlTextError, read_sql
from t2s_assets.text2sql.schema import Column, TableSchema

STAFF = TableSchema(
    "staff",
    (
        Column("id", "real", "BIGINT"),
        Column("first", "text", "VARCHAR"),
        Column("last", "text", "VARCHAR"),
        Column("hired", "text", "TIMESTAMP"),
        Column("bonus", "real", "DOUBLE"),
    ),
)
ROWS = "(1, 'Ann', 'Lee', TIMESTAMP '2020-01-31 10:15:30', 2.7), (2, 'A_é', NULL, NULL, NULL)"


def rows(sql: str, dialect: str) -> list[tuple[object, ...]]:
    with duckdb.connect() as duck:
        columns = ", ".join(f'"{c.name}" {c.sql_type}' for c in STAFF.columns)
        duck.execute(f"CREATE TABLE staff ({columns}); INSERT INTO staff VALUES {ROWS}")
        return duck.execute(read_sql(sql, dialect, [STAFF])).fetchall()


def column(value: str, dialect: str) -> list[object]:
    """An expression over both rows."""
    return [cell for (cell,) in rows(f"SELECT {value} FROM staff ORDER BY id", dialect)]


@pytest.mark.parametrize(
    ("dialect", "value", "wanted"),
    [
        ("tsql", "CONVERT(VARCHAR(7), hired, 120)", ["2020-01", None]),
        ("tsql", "CAST(first AS VARCHAR(2))", ["An", "A_"]),
        ("postgres", "first::varchar(2)", ["An", "A_"]),
        ("postgres", "hired::varchar(10)", ["2020-01-31", None]),
        ("mysql", "CAST(id + 1233 AS CHAR(2))", ["12", "12"]),
        ("oracle", "CAST(first AS VARCHAR2(1))", ["A", "A"]),
        ("presto", "CAST(first AS VARCHAR(1))", ["A", "A"]),
        ("duckdb", "CAST(first AS VARCHAR(1))", ["Ann", "A_é"]),
    ],
)
def test_a_cast_to_some_characters_keeps_no_more(dialect: str, value: str, wanted: list[object]) -> None:
    assert column(value, dialect) == wanted


def test_a_cast_that_cuts_nothing_off_is_left_alone() -> None:
    assert read_sql("SELECT CAST(id AS VARCHAR(20)) FROM staff", "postgres", [STAFF]) == (
        'SELECT CAST("id" AS TEXT) FROM staff'
    )
    assert read_sql("SELECT CAST(id AS VARCHAR(10)) FROM staff", "tsql", [STAFF]) == (
        'SELECT CAST("id" AS TEXT) FROM staff'
    )


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("first + ' ' + last", ["Ann Lee", None]),
        ("N'x' + first + ISNULL(last, '')", ["xAnnLee", "xA_é"]),
        ("'#' + CAST(id AS VARCHAR(10)) + CONVERT(VARCHAR(4), YEAR(hired))", ["#12020", None]),
        ("id + id", [2, 4]),
        ("id + bonus", [3.7, None]),
    ],
)
def test_plus_of_sql_server_joins_text_and_adds_numbers(value: str, wanted: list[object]) -> None:
    assert column(value, "tsql") == wanted


def test_joined_text_of_sql_server_is_grouped_by() -> None:
    sql = "SELECT first + ' ' + last, COUNT(*) FROM staff GROUP BY first + ' ' + last ORDER BY first + ' ' + last"
    assert rows(sql, "tsql") == [(None, 1), ("Ann Lee", 1)]


@pytest.mark.parametrize(
    ("dialect", "test", "wanted"),
    [
        ("postgres", r"first LIKE 'A\_%'", [False, True]),
        ("postgres", r"NOT first ILIKE 'a\_%'", [True, False]),
        ("mysql", r"first LIKE 'A\_%'", [False, True]),
        ("bigquery", r"first LIKE 'A\\_%'", [False, True]),
        ("oracle", r"first LIKE 'A\_%'", [False, False]),
        ("postgres", r"first LIKE 'A!_%' ESCAPE '!'", [False, True]),
        ("postgres", "first SIMILAR TO '(A|B)n%'", [True, False]),
        ("postgres", r"first NOT SIMILAR TO 'A\__'", [True, False]),
        ("postgres", "first SIMILAR TO 'A.%'", [False, False]),
        ("postgres", "first SIMILAR TO '[A-C]n{2}'", [True, False]),
    ],
)
def test_patterns(dialect: str, test: str, wanted: list[object]) -> None:
    assert column(test if dialect == "postgres" else f"CASE WHEN {test} THEN 1 ELSE 0 END", dialect) == wanted


@pytest.mark.parametrize(
    ("dialect", "test"),
    [("tsql", "first LIKE '[AB]%'"), ("tsql", "first LIKE 'A[_]%'"), ("postgres", "first SIMILAR TO last")],
)
def test_patterns_that_duckdb_has_not_are_left_out(dialect: str, test: str) -> None:
    with pytest.raises(SqlTextError, match="has no DuckDB counterpart"):
        read_sql(f"SELECT id FROM staff WHERE {test}", dialect, [STAFF])


@pytest.mark.parametrize(("dialect", "wanted"), [("mysql", 4), ("bigquery", 3), ("snowflake", 3), ("postgres", 3)])
def test_length_of_text(dialect: str, wanted: int) -> None:
    assert column("LENGTH(first)", dialect) == [3, wanted]


def test_null_is_no_text_to_oracle() -> None:
    assert column("first || ' ' || last", "oracle") == ["Ann Lee", "A_é "]
    assert column("CONCAT(last, last)", "oracle") == ["LeeLee", None]
    assert column("GREATEST(bonus, 2)", "oracle") == [2.7, None]
