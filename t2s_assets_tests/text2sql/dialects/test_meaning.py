"""What other dialects mean, kept in DuckDB: SQLite beside DuckDB, for others the documented value."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator

import duckdb
import pytest

from t2s_assets.text2sql.dialects.reading import SqlTextError, read_sql
from t2s_assets.text2sql.dialects.sqlite_columns import Holds
from t2s_assets.text2sql.schema import Column, TableSchema

ORDERS = TableSchema(
    "orders",
    (
        Column("id", "real", "BIGINT"),
        Column("cust", "real", "BIGINT"),
        Column("amount", "real", "DOUBLE"),
        Column("qty", "real", "BIGINT"),
        Column("day", "text", "VARCHAR"),
        Column("ts", "text", "VARCHAR"),
        Column("note", "text", "VARCHAR"),
    ),
)
CUST = TableSchema(
    "cust", (Column("id", "real", "BIGINT"), Column("name", "text", "VARCHAR"), Column("City", "text", "VARCHAR"))
)
SCHEMAS = [ORDERS, CUST]
ROWS = {
    "orders": [
        (1, 1, 10.5, 3, "2024-01-31", "2024-01-31 10:20:30", "a%b"),
        (2, 1, -7.7, 7, "2024-02-29", "2024-02-29 23:59:59", None),
        (3, 2, None, -5, "2023-12-31", "2023-12-31 00:00:00", "O'Brien"),
        (4, None, 0.0, 0, None, None, ""),
    ],
    "cust": [(1, "Ann", "Oslo"), (2, "bob", None), (3, "Cy", "Rome")],
}


@pytest.fixture(scope="module")
def databases() -> Iterator[tuple[sqlite3.Connection, duckdb.DuckDBPyConnection]]:
    """One database in SQLite and in DuckDB."""
    lite, duck = sqlite3.connect(":memory:"), duckdb.connect()
    for schema in SCHEMAS:
        for engine, names in ((lite, {"BIGINT": "INTEGER", "DOUBLE": "REAL", "VARCHAR": "TEXT"}), (duck, {})):
            columns = ", ".join(f'"{c.name}" {names.get(c.sql_type, c.sql_type)}' for c in schema.columns)
            engine.execute(f"CREATE TABLE {schema.name} ({columns})")
            places = ", ".join("?" for _ in schema.columns)
            engine.executemany(f"INSERT INTO {schema.name} VALUES ({places})", ROWS[schema.name])
    yield lite, duck
    lite.close()
    duck.close()


def rows_of(duck: duckdb.DuckDBPyConnection) -> Holds:
    """Asks the rows of a connection, as preparing asks those of a dataset."""
    return lambda sql: not duck.execute(sql).fetchall()


Databases = tuple[sqlite3.Connection, duckdb.DuckDBPyConnection]


def _means_the_same(databases: Databases, sql: str) -> None:
    lite, duck = databases
    written = read_sql(sql, "sqlite", SCHEMAS, rows_of(duck))
    assert duck.execute(written).fetchall() == lite.execute(sql).fetchall(), written


@pytest.mark.parametrize(
    "test",
    [
        "note LIKE 'A%'",
        "note NOT LIKE 'A%'",
        "NOT note LIKE 'A%'",
        "NOT note NOT LIKE 'A%'",
        "note LIKE 'A!%%' ESCAPE '!'",
        "note NOT LIKE 'A!%%' ESCAPE '!'",
        "note NOT LIKE 'A%' AND qty NOT IN (3) AND qty NOT BETWEEN 1 AND 2",
    ],
)
def test_like_of_sqlite_ignores_case_and_stays_negated(databases: Databases, test: str) -> None:
    _means_the_same(databases, f"SELECT id, {test} FROM orders ORDER BY id")


@pytest.mark.parametrize(
    "value",
    [
        "qty / 2",
        "amount / 2",
        "-qty / 2",
        "qty / -2",
        "qty / 2.0",
        "1.0 * qty / 2",
        "qty % 2 / 2",
        "amount % 2",
        "COALESCE(amount, qty) % 2",
        "-7 / 2 + 7 * 3 / 2",
        "COALESCE(qty, 1) / 2",
        "IFNULL(qty, 0) / 2",
        "NULLIF(qty, 3) / 2",
        "IIF(qty > 3, 7, 5) / 2",
        "CASE WHEN qty > 3 THEN 5 ELSE 2 END / 2",
        "CASE WHEN qty > 3 THEN amount ELSE 0 END / 2",
        "MAX(qty, 1) / 2",
        "ABS(qty) / 2",
        "ROUND(qty) / 2",
        "INSTR(note, 'b') / 2",
        "LENGTH(note) / 2",
        "CAST(qty AS REAL) / 2",
        "CAST(qty AS NUMERIC) / 2",
        "CAST(amount AS DECIMAL(10, 1)) / 2",
        "CAST(SUBSTR(day, 1, 4) AS INTEGER) / 2",
        "STRFTIME('%Y', day) / 2",
        "SUM(qty) OVER () / 2",
        "SUM(qty) OVER (ORDER BY id) / 2",
        "RANK() OVER (ORDER BY id) / 2",
        "LAG(qty, 1, 0) OVER (ORDER BY id) / 2",
        "(SELECT COUNT(*) FROM cust) / 2",
        "(SELECT COUNT(*) FROM cust WHERE cust.id = orders.cust) / 2",
        "qty * 100 / (SELECT COUNT(*) FROM cust)",
        "(qty / 2) / 2.0",
        "(AVG(CASE WHEN qty > 3 THEN amount ELSE 0 END) OVER () + 1) / 2",
        "(1 - CAST(COALESCE(amount, 0) AS REAL)) / 2",
        "(ROUND(CASE WHEN qty > 3 THEN amount ELSE 0 END, 2) - 1) / 2",
        "(100.0 * COALESCE(amount, 0) - 1) / 2",
        "(COALESCE(amount, 0.0) + 1) / 2",
        "(NULLIF(COALESCE(amount, 0), 0) + 1) / 2",
        "(qty / COALESCE(amount, 0) + 1) / 2",
        "(COALESCE(amount, 0) - CASE WHEN qty > 3 THEN amount ELSE 0 END) / 2",
    ],
)
def test_values_divide_in_duckdb_as_in_sqlite(databases: Databases, value: str) -> None:
    _means_the_same(databases, f"SELECT id, {value} FROM orders ORDER BY id")


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT SUM(qty) / COUNT(*) FROM orders",
        "SELECT COALESCE(SUM(qty), 0) / COUNT(*) FROM orders",
        "SELECT SUM(qty = 3) / COUNT(*) FROM orders",
        "SELECT AVG(qty) / 2, SUM(amount) / COUNT(*) FROM orders",
        "SELECT CAST(SUM(qty) AS REAL) / COUNT(*) FROM orders",
        "SELECT SUM(qty) / 2 AS s FROM orders HAVING s > 1",
        "SELECT SUM(qty) AS s FROM orders HAVING s / 2 = 2",
        "SELECT cust FROM orders GROUP BY cust ORDER BY SUM(qty) / 4, cust",
        "SELECT qty / 2, COUNT(*) FROM orders GROUP BY qty / 2 ORDER BY qty / 2",
        "SELECT n / 2 FROM (SELECT COUNT(*) AS n FROM orders) AS t",
        "SELECT n / 2 FROM (SELECT amount AS n FROM orders) AS t ORDER BY n",
        "WITH z AS (SELECT cust, SUM(qty) AS q FROM orders GROUP BY cust) SELECT q / 4 FROM z ORDER BY q",
        "WITH z(q) AS (SELECT COUNT(*) FROM orders) SELECT q / 3, (SELECT q FROM z) / 3 FROM z",
        "SELECT AVG(z) FROM (SELECT qty / 2 AS z FROM orders)",
        "SELECT n / 2 FROM (SELECT qty AS n FROM orders UNION SELECT id FROM cust) AS t ORDER BY n",
        "SELECT o.qty / c.id FROM orders AS o JOIN cust AS c ON o.cust = c.id ORDER BY o.id",
        "SELECT id / 2 FROM orders JOIN cust USING (id) ORDER BY id",
        "SELECT qty / 2 FROM orders UNION ALL SELECT amount FROM orders",
        "SELECT v / 2 FROM (SELECT amount AS v FROM orders UNION ALL SELECT 0) AS t ORDER BY v",
        "SELECT COUNT(*) FROM orders WHERE qty / 2 = 1",
    ],
)
def test_queries_divide_in_duckdb_as_in_sqlite(databases: Databases, sql: str) -> None:
    _means_the_same(databases, sql)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT CASE WHEN qty > 3 THEN 1 ELSE 0.5 END / 2 FROM orders",
        "SELECT COALESCE(amount, 1) / 2 FROM orders",
        "SELECT COALESCE(qty, 0.0) / 2 FROM orders",
        "SELECT (COALESCE(amount, 0) + qty) / 2 FROM orders",
        "SELECT (-ABS(COALESCE(amount, 0)) * 2 + 1) / 2 FROM orders",
        "SELECT (COALESCE(amount, 0) / 2 + 1) / 2 FROM orders",
        "SELECT (SUM(CASE WHEN qty > 3 THEN amount ELSE 0 END) - 1) / 2 FROM orders",
        "SELECT ((SELECT MAX(COALESCE(amount, 0)) FROM orders) - 1) / 2",
        "SELECT (n + 1) / 2 FROM (SELECT COALESCE(amount, 0) AS n FROM orders) AS t",
        "WITH z(n) AS (SELECT SUM(COALESCE(amount, 0)) FROM orders) SELECT (1 - n) / 2 FROM z",
        "SELECT (n + 1) / 2 FROM (SELECT amount AS n FROM orders UNION ALL SELECT 0) AS t",
        "SELECT n / 2 FROM (SELECT 1 AS n UNION SELECT amount FROM orders UNION SELECT 2) AS t",
        "WITH RECURSIVE z(n) AS (SELECT 1 UNION ALL SELECT n + 0.5 FROM z WHERE n < 3) SELECT n / 2 FROM z",
        "SELECT note / 2 FROM orders",
        "SELECT n / 2 FROM (SELECT qty AS n FROM orders UNION ALL SELECT amount FROM orders) AS t",
    ],
)
def test_what_is_whole_in_some_rows_of_sqlite_is_not_divided(sql: str) -> None:
    with pytest.raises(SqlTextError, match="cannot be told"):
        read_sql(sql, "sqlite", SCHEMAS)


@pytest.mark.parametrize(
    ("dialect", "sql", "wanted"),
    [
        ("tsql", "SELECT AVG(qty) FROM orders", 'SELECT CAST(TRUNC(AVG("qty")) AS BIGINT) FROM orders'),
        (
            "tsql",
            "SELECT AVG(qty) OVER (PARTITION BY cust) FROM orders",
            'SELECT CAST(TRUNC(AVG("qty") OVER (PARTITION BY "cust")) AS BIGINT) FROM orders',
        ),
        (
            "tsql",
            "SELECT AVG(amount), AVG(qty) / 2 FROM orders",
            'SELECT AVG("amount"), CAST(TRUNC(AVG("qty")) AS BIGINT) // 2 FROM orders',
        ),
        (
            "postgres",
            "SELECT EXTRACT(year FROM DATE '2024-01-01') / 5",
            "SELECT EXTRACT(YEAR FROM CAST('2024-01-01' AS DATE)) / 5",
        ),
        (
            "postgres",
            "SELECT (DATE '2024-01-09' - DATE '2024-01-01') / 7",
            "SELECT (CAST('2024-01-09' AS DATE) - CAST('2024-01-01' AS DATE)) // 7",
        ),
        (
            "postgres",
            "SELECT o.qty / c.n FROM orders o JOIN LATERAL (SELECT id AS n FROM cust WHERE id = o.cust) c ON TRUE",
            'SELECT o."qty" // c.n FROM orders AS o '
            'JOIN LATERAL (SELECT "id" AS n FROM cust WHERE "id" = o."cust") AS c ON TRUE',
        ),
        (
            "postgres",
            "SELECT qty / n FROM orders o, LATERAL (SELECT AVG(id + qty) FROM cust WHERE id = o.cust) AS c(n)",
            'SELECT "qty" / n FROM orders AS o, '
            'LATERAL (SELECT AVG("id" + "qty") FROM cust WHERE "id" = o."cust") AS c(n)',
        ),
        (
            "tsql",
            "SELECT qty / n FROM orders AS o CROSS APPLY (SELECT COUNT(*) AS n FROM cust WHERE id = o.cust) AS c",
            'SELECT "qty" // n FROM orders AS o, LATERAL (SELECT COUNT(*) AS n FROM cust WHERE "id" = o."cust") AS c',
        ),
        (
            "redshift",
            "SELECT DATEDIFF(day, DATE '2024-01-01', DATE '2024-01-09') / 7",
            "SELECT DATE_DIFF('DAY', CAST(CAST('2024-01-01' AS DATE) AS TIMESTAMP), "
            "CAST(CAST('2024-01-09' AS DATE) AS TIMESTAMP)) // 7",
        ),
        ("redshift", "SELECT MEDIAN(qty) / 2 FROM orders", 'SELECT MEDIAN("qty") / 2 FROM orders'),
        (
            "postgres",
            "SELECT ATAN2(qty, id) / 2, REGR_SLOPE(qty, id) / 2, REGR_COUNT(qty, id) / 2, CORR(qty, id) / 2 "
            "FROM orders",
            'SELECT ATAN2("qty", "id") / 2, REGR_SLOPE("qty", "id") / 2, REGR_COUNT("qty", "id") // 2, '
            'CORR("qty", "id") / 2 FROM orders',
        ),
        (
            "postgres",
            "SELECT AGE(DATE '2024-01-09', DATE '2024-01-01') / 2",
            "SELECT AGE(CAST('2024-01-09' AS DATE), CAST('2024-01-01' AS DATE)) / 2",
        ),
        ("presto", "SELECT TO_UNIXTIME(NULL) / 60", "SELECT EPOCH(NULL) / 60"),
        ("postgres", "SELECT TRUNC(qty) / 2 FROM orders", 'SELECT TRUNC("qty") / 2 FROM orders'),
        ("tsql", "SELECT ROUND(qty, 0) / 2 FROM orders", 'SELECT ROUND("qty", 0) // 2 FROM orders'),
        ("presto", "SELECT ROUND(amount) / 2 FROM orders", 'SELECT ROUND("amount") / 2 FROM orders'),
        ("mysql", "SELECT qty / 2, qty DIV 2 FROM orders", 'SELECT "qty" / 2, "qty" // 2 FROM orders'),
        ("mysql", "SELECT amount DIV 2 FROM orders", 'SELECT CAST(TRUNC("amount" / 2) AS BIGINT) FROM orders'),
    ],
)
def test_divisions_of_other_dialects(dialect: str, sql: str, wanted: str) -> None:
    assert read_sql(sql, dialect, SCHEMAS) == wanted


@pytest.mark.parametrize(
    "value",
    [
        "1 / 0",
        "0.5 / 0",
        "qty / 0",
        "qty / 0.0",
        "qty % 0",
        "7 / qty",
        "7.5 / qty",
        "7 % qty",
        "7 / (qty - 3)",
        "7 / -qty",
        "amount / (SELECT COUNT(*) FROM cust WHERE id > 9)",
    ],
)
def test_zero_divides_to_null_in_duckdb_as_in_sqlite(databases: Databases, value: str) -> None:
    _means_the_same(databases, f"SELECT id, {value} FROM orders ORDER BY id")


@pytest.mark.parametrize(
    ("dialect", "sql", "wanted"),
    [
        ("mysql", "SELECT qty / cust FROM orders", 'SELECT "qty" / NULLIF("cust", 0) FROM orders'),
        ("mysql", "SELECT qty % (cust + 1) FROM orders", 'SELECT "qty" % NULLIF("cust" + 1, 0) FROM orders'),
        ("mysql", "SELECT qty DIV cust FROM orders", 'SELECT "qty" // NULLIF("cust", 0) FROM orders'),
        ("mysql", "SELECT qty / 2.0, qty % -2 FROM orders", 'SELECT "qty" / 2.0, "qty" % -2 FROM orders'),
        ("postgres", "SELECT amount / 2, qty % cust FROM orders", 'SELECT "amount" / 2, "qty" % "cust" FROM orders'),
    ],
)
def test_only_what_may_be_zero_is_asked_to_be_another(dialect: str, sql: str, wanted: str) -> None:
    assert read_sql(sql, dialect, SCHEMAS) == wanted


@pytest.mark.parametrize(
    ("dialect", "sql", "wanted"),
    [
        ("postgres", "ROUND(AVG(amount)::numeric, 4)", 'ROUND(CAST(AVG("amount") AS DOUBLE), 4)'),
        ("postgres", "CAST(amount AS numeric(10, 2))", 'CAST("amount" AS DECIMAL(10, 2))'),
        ("postgres", "qty::decimal / 3", 'CAST("qty" AS DOUBLE) / 3'),
        ("mysql", "CAST(amount AS DECIMAL)", 'CAST("amount" AS DECIMAL(10, 0))'),
        ("tsql", "CAST(amount AS NUMERIC)", 'CAST("amount" AS DECIMAL(18, 0))'),
        ("sqlite", "CAST(amount + 1 AS DECIMAL(10, 2)) * 2", '("amount" + 1) * 2'),
        ("sqlite", "CAST(amount AS REAL)", 'CAST("amount" AS DOUBLE)'),
        ("duckdb", "CAST(amount AS NUMERIC)", 'CAST("amount" AS DECIMAL(18, 3))'),
    ],
)
def test_a_decimal_is_as_wide_as_its_dialect_makes_it(dialect: str, sql: str, wanted: str) -> None:
    assert read_sql(f"SELECT {sql} FROM orders", dialect, SCHEMAS) == f"SELECT {wanted} FROM orders"


@pytest.mark.parametrize(
    "value",
    [
        "CAST(2.7 AS INTEGER), CAST(-2.7 AS INTEGER), CAST('2.7' AS INTEGER), CAST(NULL AS INTEGER)",
        "CAST(amount AS INTEGER)",
        "CAST(amount / 3 AS INT) / 2",
        "CAST(AVG(amount) OVER () AS INTEGER)",
        "CAST(qty AS INTEGER)",
        "CAST(REPLACE('1,234.5', ',', '') AS INTEGER)",
        "CAST(STRFTIME('%Y', day) AS INTEGER) - CAST(SUBSTR(day, 1, 4) AS INTEGER)",
    ],
)
def test_a_cast_to_whole_numbers_truncates_in_duckdb_as_in_sqlite(databases: Databases, value: str) -> None:
    _means_the_same(databases, f"SELECT id, {value} FROM orders ORDER BY id")


@pytest.mark.parametrize(
    ("dialect", "sql", "wanted"),
    [
        ("tsql", "CAST(amount AS INT), CAST(qty AS INT)", 'CAST(TRUNC("amount") AS BIGINT), CAST("qty" AS INT)'),
        ("postgres", "CAST(amount AS INT)", 'CAST("amount" AS INT)'),
        ("tsql", "TRY_CAST(amount AS INT)", 'TRY_CAST(TRUNC("amount") AS BIGINT)'),
        ("tsql", "CAST(REPLACE(note, ',', '') AS INT)", "CAST(REPLACE(\"note\", ',', '') AS INT)"),
        ("spark", "TRY_CAST(note AS INT)", 'TRY_CAST(TRUNC(TRY_CAST("note" AS DOUBLE)) AS BIGINT)'),
    ],
)
def test_what_a_cast_to_whole_numbers_is_written_as(dialect: str, sql: str, wanted: str) -> None:
    assert read_sql(f"SELECT {sql} FROM orders", dialect, SCHEMAS) == f"SELECT {wanted} FROM orders"


@pytest.mark.parametrize(
    "sql",
    [
        'SELECT name FROM cust WHERE name = "Ann"',
        'SELECT name FROM cust WHERE name <> "note" ORDER BY id',
        'SELECT name FROM cust WHERE name <> "cust" ORDER BY id',
        'SELECT name FROM cust AS c WHERE name <> "c" ORDER BY id',
        'SELECT name AS x FROM cust WHERE "x" = "Ann"',
        'SELECT "name" FROM cust ORDER BY "id"',
        'WITH z("note") AS (SELECT name FROM cust) SELECT "note" FROM z ORDER BY "note"',
        'SELECT name FROM cust WHERE id IN (SELECT cust FROM orders WHERE "note" IS NULL)',
        'SELECT "Straße" FROM cust WHERE name LIKE "%N%" ORDER BY id',
    ],
)
def test_text_in_double_quotes_is_what_it_is_in_sqlite(databases: Databases, sql: str) -> None:
    _means_the_same(databases, sql)


SUNDAY, MONDAY = "'2024-01-07'", "'2024-01-08'"


@pytest.mark.parametrize(
    ("dialect", "call", "on_sunday", "on_monday"),
    [
        ("mysql", "DAYOFWEEK({})", 1, 2),
        ("mysql", "WEEKDAY({})", 6, 0),
        ("spark", "DAYOFWEEK({})", 1, 2),
        ("spark", "WEEKDAY({})", 6, 0),
        ("bigquery", "EXTRACT(DAYOFWEEK FROM DATE {})", 1, 2),
        ("tsql", "DATEPART(weekday, CAST({} AS DATE))", 1, 2),
        ("tsql", "DATEPART(dw, CAST({} AS DATE))", 1, 2),
        ("snowflake", "DAYOFWEEK(CAST({} AS DATE))", 0, 1),
        ("postgres", "EXTRACT(dow FROM DATE {})", 0, 1),
        ("postgres", "EXTRACT(isodow FROM DATE {})", 7, 1),
        ("presto", "DAY_OF_WEEK(DATE {})", 7, 1),
        ("duckdb", "WEEKDAY(DATE {})", 0, 1),
    ],
)
def test_days_of_the_week_are_numbered_as_documented(
    databases: Databases, dialect: str, call: str, on_sunday: int, on_monday: int
) -> None:
    written = read_sql(f"SELECT {call.format(SUNDAY)} * 10, {call.format(MONDAY)}", dialect, SCHEMAS)
    assert databases[1].execute(written).fetchall() == [(on_sunday * 10, on_monday)]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT DATETIME(ts), DATETIME('2024-01-01') FROM orders ORDER BY id",
        "SELECT DATETIME(DATETIME(ts)), DATE(DATE(day)) FROM orders ORDER BY id",
        "SELECT DATE(ts), DATE(day) FROM orders WHERE day >= DATE('2024-01-01') OR day IS NULL ORDER BY id",
    ],
)
def test_dates_of_sqlite_are_text(databases: Databases, sql: str) -> None:
    _means_the_same(databases, sql)


def test_a_date_of_sqlite_is_one_where_columns_are() -> None:
    born = TableSchema("people", (Column("born", "text", "DATE"),))
    written = read_sql("SELECT born FROM people WHERE born > DATE('2024-01-01')", "sqlite", [born])
    assert written == 'SELECT "born" FROM people WHERE "born" > CAST(\'2024-01-01\' AS DATE)'


def test_julianday_of_sqlite(databases: Databases) -> None:
    sql = "SELECT 2 * JULIANDAY(ts), JULIANDAY(day) - JULIANDAY('2023-01-01') FROM orders WHERE ts IS NOT NULL"
    lite, duck = databases
    expected = lite.execute(sql).fetchall()
    assert duck.execute(read_sql(sql, "sqlite", SCHEMAS, rows_of(duck))).fetchall() == [
        pytest.approx(row) for row in expected
    ]


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        ("DATE(day, '+1 month')", "sqlglot cannot translate DATE(day, '+1 month')"),
        ("DATETIME(ts, 'start of month')", "sqlglot cannot translate DATETIME(ts, 'start of month')"),
        ("STRFTIME('%Y', day, '+1 day')", "sqlglot cannot translate STRFTIME('%Y', day, '+1 day')"),
        ("STRFTIME('%f', '2024-01-01')", "sqlglot cannot translate STRFTIME('%f'"),
        ("DATE(day)", "reads dates in day, and not all of its texts are dates"),
        ("STRFTIME('%Y', 'now')", "reads the clock"),
        ("STRFTIME('%Y')", "reads the clock"),
        ("DATE('now')", "reads the clock"),
        ("DATE('NOW', '-1 day')", "reads the clock"),
        ("DATE()", "reads the clock"),
        ("DATETIME('now')", "reads the clock"),
        ("JULIANDAY('now') - JULIANDAY(day)", "reads the clock"),
    ],
)
def test_functions_of_dates_that_are_refused_say_why(call: str, reason: str) -> None:
    """Without rows to look at, no column is known to hold dates."""
    with pytest.raises(SqlTextError, match=re.escape(reason)):
        read_sql(f"SELECT {call} FROM orders", "sqlite", SCHEMAS, lambda sql: " FROM " not in sql)


def test_outer_apply_keeps_rows_without_a_match(databases: Databases) -> None:
    sql = (
        "SELECT c.name, o.amount FROM cust c {} APPLY "
        "(SELECT TOP 1 amount FROM orders WHERE orders.cust = c.id ORDER BY orders.id) o ORDER BY c.id"
    )
    for kind, wanted in {
        "OUTER": [("Ann", 10.5), ("bob", None), ("Cy", None)],
        "CROSS": [("Ann", 10.5), ("bob", None)],
    }.items():
        written = read_sql(sql.format(kind), "tsql", SCHEMAS)
        assert databases[1].execute(written).fetchall() == wanted, written


def test_convert_of_sql_server_is_a_cast_and_its_floats_are_long(databases: Databases) -> None:
    sql = "SELECT CONVERT(INT, 2.7), TRY_CONVERT(INT, 'x'), CAST(0.1 AS FLOAT), CONVERT(FLOAT, 0.1)"
    assert databases[1].execute(read_sql(sql, "tsql", SCHEMAS)).fetchall() == [(2, None, 0.1, 0.1)]


def test_a_function_that_divides_is_enclosed(databases: Databases) -> None:
    written = read_sql("SELECT 12 / DIV(7, 2), 2 * DIV(7, 2)", "bigquery", SCHEMAS)
    assert databases[1].execute(written).fetchall() == [(4.0, 6)]


def test_a_percentage_is_left_out_where_it_is_rounded_otherwise() -> None:
    with pytest.raises(SqlTextError, match="percentage"):
        read_sql("SELECT TOP 50 PERCENT name FROM cust", "tsql", SCHEMAS)
    assert read_sql("SELECT name FROM cust LIMIT 50 PERCENT", "duckdb", SCHEMAS).endswith("LIMIT 50 PERCENT")


@pytest.mark.parametrize(
    ("dialect", "sql"),
    [
        ("tsql", "SELECT [dbo].[orders].[id] FROM [dbo].[orders] WHERE qty > 0"),
        ("tsql", "SELECT o.id FROM dbo.orders AS o WHERE o.qty > 0"),
        ("postgres", "SELECT public.orders.id FROM public.orders WHERE orders.qty > 0"),
        ("snowflake", "SELECT id FROM PUBLIC.ORDERS WHERE qty > 0"),
    ],
)
def test_the_default_schema_is_left_away(databases: Databases, dialect: str, sql: str) -> None:
    assert databases[1].execute(read_sql(sql, dialect, SCHEMAS)).fetchall() == [(1,), (2,)]


@pytest.mark.parametrize(
    ("dialect", "sql"),
    [
        ("tsql", "SELECT id FROM sales.orders"),
        ("postgres", "SELECT id FROM dbo.orders"),
        ("postgres", "SELECT id FROM shop.public.orders"),
        ("postgres", "WITH orders AS (SELECT id FROM public.orders WHERE qty > 0) SELECT id FROM public.orders"),
    ],
)
def test_tables_of_other_schemas_are_refused(dialect: str, sql: str) -> None:
    with pytest.raises(SqlTextError, match="refused"):
        read_sql(sql, dialect, SCHEMAS)
