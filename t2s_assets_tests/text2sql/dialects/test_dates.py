"""Functions of dates in other dialects: what they return there, as documented, returned by DuckDB."""

from __future__ import annotations

import datetime as dt
from typing import Any

import duckdb
import pytest

from t2s_assets.text2sql.dialects.reading import SqlTextError, read_sql
from t2s_assets.text2sql.schema import Column, TableSchema

STAFF = TableSchema(
    "staff", (Column("born", "text", "DATE"), Column("hired", "text", "TIMESTAMP"), Column("id", "real", "BIGINT"))
)


def value(sql: str, dialect: str) -> Any:
    """What an expression over one row returns: born 31 December 1990, hired 31 January 2020 at 10:15:30, id 4."""
    with duckdb.connect() as duck:
        duck.execute("CREATE TABLE staff AS SELECT DATE '1990-12-31' born, TIMESTAMP '2020-01-31 10:15:30' hired, 4 id")
        written = read_sql(f"SELECT {sql} FROM staff", dialect, [STAFF])
        ((found,),) = duck.execute(written).fetchall()
        return found


@pytest.mark.parametrize(
    ("dialect", "sql", "wanted"),
    [
        ("mysql", "TIMESTAMPDIFF(YEAR, born, '2024-06-01')", 33),
        ("mysql", "TIMESTAMPDIFF(MONTH, hired, '2021-01-30')", 11),
        ("mysql", "TIMESTAMPDIFF(HOUR, hired, '2020-02-01 09:00:00')", 22),
        ("mysql", "DATEDIFF('2020-02-01', hired)", 1),
        ("bigquery", "TIMESTAMP_DIFF(CAST('2020-02-01 09:00:00' AS DATETIME), hired, DAY)", 0),
        ("bigquery", "DATE_DIFF(DATE '2024-06-01', born, YEAR)", 34),
        ("presto", "DATE_DIFF('day', hired, TIMESTAMP '2020-02-01 09:00:00')", 0),
        ("trino", "DATE_DIFF('year', born, DATE '2024-06-01') / 2", 16),
        ("spark", "TIMESTAMPDIFF(MONTH, hired, TIMESTAMP '2021-01-30 00:00:00')", 11),
        ("databricks", "DATEDIFF(MONTH, hired, TIMESTAMP '2021-01-30 00:00:00')", 11),
        ("databricks", "DATEDIFF(DATE '2020-02-01', hired)", 1),
        ("tsql", "DATEDIFF(year, born, '2024-06-01')", 34),
        ("snowflake", "DATEDIFF('year', born, '2024-06-01')", 34),
    ],
)
def test_distances_count_whole_units_or_boundaries_as_documented(dialect: str, sql: str, wanted: int) -> None:
    assert value(sql, dialect) == wanted


def test_months_between_are_divided_as_a_whole() -> None:
    for dialect in ("oracle", "snowflake", "spark"):
        assert value("FLOOR(MONTHS_BETWEEN(DATE '2024-06-01', born) / 12)", dialect) == 33


@pytest.mark.parametrize(
    ("dialect", "sql", "wanted"),
    [
        ("mysql", "WEEK(born)", 52),
        ("mysql", "EXTRACT(WEEK FROM born)", 52),
        ("mysql", "WEEK(born, 3)", 1),
        ("mysql", "WEEK(born, 5)", 53),
        ("bigquery", "EXTRACT(WEEK FROM born)", 52),
        ("bigquery", "EXTRACT(WEEK(MONDAY) FROM born)", 53),
        ("bigquery", "EXTRACT(ISOWEEK FROM born)", 1),
        ("postgres", "EXTRACT(WEEK FROM born)", 1),
        ("tsql", "DATEPART(iso_week, born)", 1),
        ("tsql", "DATEDIFF(week, '2024-06-01', '2024-06-02')", 1),  # a Saturday and a Sunday
        ("tsql", "DATEDIFF(wk, '2024-06-02', '2024-06-03')", 0),
    ],
)
def test_weeks_begin_where_they_do_in_the_dialect(dialect: str, sql: str, wanted: int) -> None:
    assert value(sql, dialect) == wanted


@pytest.mark.parametrize(
    ("dialect", "format", "wanted"),
    [
        ("postgres", "Mon DD, YYYY", "Jan 31, 2020"),
        ("postgres", "FMMonth YYYY", "January 2020"),
        ("postgres", 'Dy FMDD/FMMM/YY "at" HH12:MI AM', "Fri 31/1/20 at 10:15 AM"),
        ("postgres", "IYYY-IW", "2020-05"),
        ("postgres", "yyyymmdd", "20200131"),
        ("redshift", "Mon", "Jan"),
        ("oracle", "YYYY-MM-DD HH24:MI:SS", "2020-01-31 10:15:30"),
        ("oracle", "DD-Mon-YYYY", "31-Jan-2020"),
        ("snowflake", "MMMM YYYY, MON", "January 2020, Jan"),
    ],
)
def test_formats_of_to_char(dialect: str, format: str, wanted: str) -> None:
    assert value(f"TO_CHAR(hired, '{format}')", dialect) == wanted


@pytest.mark.parametrize(
    ("dialect", "sql", "reason"),
    [
        ("postgres", "TO_CHAR(hired, 'Month')", "'Month' in its format"),  # filled up with blanks
        ("postgres", "TO_CHAR(hired, 'MON')", "'MON' in its format"),
        ("postgres", "TO_CHAR(hired, 'YYYY-Q')", "'Q' in its format"),
        ("postgres", "TO_CHAR(hired, 'D')", "'D' in its format"),
        ("postgres", "TO_CHAR(hired, 'WW')", "'WW' in its format"),
        ("oracle", "TO_CHAR(id, '999.99')", "to_char of a number"),
        ("tsql", "FORMAT(hired, 'hh:mm tt')", "'tt' in a format"),
        ("spark", "DATE_FORMAT(hired, 'yyyy-Q')", "'Q' in a format"),
        ("mysql", "WEEK(born, 1)", "no weeks of that mode"),
        ("mysql", "YEARWEEK(born)", "YEARWEEK"),
        ("tsql", "DATEPART(week, born)", "begin on 1 January"),
        ("bigquery", "EXTRACT(WEEK(TUESDAY) FROM born)", "begin on another day"),
    ],
)
def test_what_duckdb_has_not_is_left_out_with_its_reason(dialect: str, sql: str, reason: str) -> None:
    with pytest.raises(SqlTextError, match=reason):
        read_sql(f"SELECT {sql} FROM staff", dialect, [STAFF])


def test_formats_of_which_all_is_read() -> None:
    assert value("FORMAT(hired, 'dd MMM yyyy')", "tsql") == "31 Jan 2020"
    assert value("DATENAME(weekday, hired)", "tsql") == "Friday"
    assert value("DATE_FORMAT(hired, 'yyyy-MM-dd HH:mm')", "spark") == "2020-01-31 10:15"


def test_formats_of_duckdb_are_left_alone() -> None:
    assert value("STRFTIME(hired, 'Mon %d')", "duckdb") == "Mon 31"
    assert value("DATE_DIFF('year', born, DATE '2024-06-01')", "duckdb") == 34
    assert value("DATE_TRUNC('week', born)", "duckdb") in (dt.date(1990, 12, 31), dt.datetime(1990, 12, 31))
