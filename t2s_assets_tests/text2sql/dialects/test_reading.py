"""Gold SQL: other dialects, one style, and what kind of query it is."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings

from t2s_assets.text2sql.dialects.reading import CATEGORIES, SqlTextError, read_sql, reads_the_clock, shape
from t2s_assets.text2sql.execution.functions import CLOCK
from t2s_assets.text2sql.schema import Column, TableSchema
from t2s_assets_tests.text2sql.execution.test_guard import ALMOST_SQL

SCHEMAS = [
    TableSchema(
        "races",
        (Column("id", "real", "BIGINT"), Column("Name", "text", "VARCHAR"), Column("fee", "real", "DOUBLE")),
    ),
    TableSchema("Runs 2", (Column("race_id", "real", "BIGINT"), Column("runner", "text", "VARCHAR"))),
    TableSchema(
        "shoes", (Column("id", "real", "DOUBLE"), Column("size", "real", "BIGINT"), Column("fee", "real", "BIGINT"))
    ),
]


@pytest.mark.parametrize(
    ("dialect", "sql", "wanted"),
    [
        (
            "duckdb",
            'select NAME, count(*) as n -- how many\nfrom Races r join "runs 2" u on r.ID = u.race_id\n group by name',
            'SELECT "Name", COUNT(*) AS n FROM races AS r JOIN "Runs 2" AS u ON r."id" = u."race_id" GROUP BY "Name"',
        ),
        ("sqlite", 'SELECT id FROM races WHERE name = "Bay"', 'SELECT "id" FROM races WHERE "Name" = \'Bay\''),
        ("sqlite", 'SELECT id FROM races WHERE name LIKE "b%"', 'SELECT "id" FROM races WHERE "Name" ILIKE \'b%\''),
        ("sqlite", "SELECT id / 2, fee / 2 FROM races", 'SELECT "id" // 2, "fee" / 2 FROM races'),
        ("postgres", "SELECT count(*) / 2 FROM races", "SELECT COUNT(*) // 2 FROM races"),
        (
            "mysql",
            'SELECT `name` FROM `races` WHERE name = "x" LIMIT 2, 3',
            'SELECT "Name" FROM races WHERE "Name" = \'x\' LIMIT 3 OFFSET 2',
        ),
        ("sqlite", "SELECT id FROM races; -- all of them", 'SELECT "id" FROM races'),
        ("tsql", "SELECT TOP 3 [name] FROM races", 'SELECT "Name" FROM races LIMIT 3'),
        (
            "duckdb",
            "SELECT sum(fee) OVER (ORDER BY id rows between 1 preceding and current row) FROM races",
            'SELECT SUM("fee") OVER (ORDER BY "id" ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) FROM races',
        ),
    ],
)
def test_read_from_its_dialect_and_written_in_one_style(dialect: str, sql: str, wanted: str) -> None:
    assert read_sql(sql, dialect, SCHEMAS) == wanted
    assert read_sql(wanted, "duckdb", SCHEMAS) == wanted


@pytest.mark.parametrize(
    ("sql", "reason"),
    [
        ("SELEC id FROM races", "one SELECT is wanted|does not parse"),
        ("SELECT id FROM", "does not parse as duckdb"),
        ("DROP TABLE races", "one SELECT is wanted; got DROP"),
        ("SELECT 1; SELECT 2", "one SELECT is wanted"),
        ("", "got nothing"),
        ("SELECT * FROM read_csv('x')", "refused"),
        ("SELECT id FROM nowhere", "'nowhere'"),
        ("SELECT id FROM main.races", "refused"),
        ("SELECT VAR_MAP(1) FROM races", "does not parse as duckdb: sqlglot fails on it"),
        ("SELECT DATETIME(1) FROM races", "sqlglot fails on it"),
        ("SELECT id FROM races FETCH FIRST 5 ROWS WITH TIES", "no DuckDB counterpart"),
    ],
)
def test_what_cannot_be_used_says_why(sql: str, reason: str) -> None:
    with pytest.raises(SqlTextError, match=reason):
        read_sql(sql, "duckdb", SCHEMAS)


@given(ALMOST_SQL | ALMOST_SQL.map("SELECT ".__add__) | ALMOST_SQL.map("SELECT * FROM races WHERE ".__add__))
@settings(max_examples=200, deadline=None)
def test_any_text_is_read_or_refused(text: str) -> None:
    for dialect in ("duckdb", "sqlite"):
        try:
            shape(read_sql(text, dialect, SCHEMAS))
        except SqlTextError as error:
            assert str(error)


@pytest.mark.parametrize(
    ("sql", "whole"),
    [
        ("SELECT id / 2 FROM races", True),
        ("SELECT id / 2 FROM shoes", False),
        ("SELECT r.id / 2 FROM shoes AS s, races AS r", True),
        ("SELECT s.id / 2 FROM shoes AS s, races AS r", False),
        ("SELECT races.id / size FROM shoes, races", True),
        ("SELECT x.id / 2 FROM (SELECT fee AS id FROM races) AS x", False),
        ("SELECT x.size / 2 FROM (SELECT size FROM shoes) AS x", True),
        ("WITH races AS (SELECT id FROM shoes) SELECT races.id / 2 FROM races", False),
        ("WITH x(size) AS (SELECT fee FROM races) SELECT x.size / 2 FROM x, shoes", False),
        ("SELECT r.id / 2, fee AS id FROM races AS r", True),
        ('SELECT id / 2 FROM (SELECT id FROM races UNION ALL SELECT race_id FROM "Runs 2") AS x', True),
        ("SELECT id / 2 FROM (SELECT id FROM races UNION ALL SELECT fee FROM races) AS x", False),
        ("SELECT id / 2 FROM (SELECT fee AS id FROM races UNION ALL SELECT id FROM races) AS x", False),
        ('SELECT SUM(n) / 2 FROM (SELECT COUNT(*) AS n FROM races GROUP BY "Name") AS x', False),
        ("SELECT SUM(id) / COUNT(*) FROM races", True),
        ("SELECT ROUND(id) / 2 FROM races", False),
    ],
)
def test_whole_numbers_divide_to_one_only_where_they_are_whole_for_sure(sql: str, whole: bool) -> None:
    assert ("//" in read_sql(sql, "postgres", SCHEMAS)) is whole


@pytest.mark.parametrize(
    ("sql", "unclear"),
    [
        ("SELECT id / 2 FROM races, shoes", "id"),
        ("SELECT fee / 2 FROM shoes, races", "fee"),
        ("WITH x(size) AS (SELECT fee FROM races) SELECT size / 2 FROM x, shoes", "size"),
        ("SELECT 2 / strange(id) FROM races", "STRANGE(id)"),
    ],
)
def test_a_division_that_cannot_be_told_to_be_whole_is_refused(sql: str, unclear: str) -> None:
    with pytest.raises(SqlTextError, match=f"whether {re.escape(unclear)} is one in .* cannot be told"):
        read_sql(sql, "postgres", SCHEMAS)


@pytest.mark.parametrize(
    ("sql", "tables"),
    [
        ("WITH x AS (SELECT id FROM races) SELECT id FROM x", ("races",)),
        ("WITH races AS (SELECT id FROM races WHERE fee > 1) SELECT id FROM races", ("races",)),
        ("WITH a AS (SELECT 1 AS id), b AS (SELECT id FROM a) SELECT id FROM a, b", ()),
        (
            "SELECT id FROM shoes WHERE id IN (WITH shoes AS (SELECT id FROM races) SELECT id FROM shoes)",
            ("races", "shoes"),
        ),
    ],
)
def test_a_cte_hides_a_table_only_where_it_is_seen(sql: str, tables: tuple[str, ...]) -> None:
    assert shape(sql).tables == tables


SCHARP = [
    TableSchema("a", (Column("id", "real", "BIGINT"), Column("Straße", "text", "VARCHAR"))),
    TableSchema(
        "b",
        (
            Column("id", "real", "BIGINT"),
            Column("Strasse", "text", "VARCHAR"),
            Column("größe", "text", "VARCHAR"),
            Column("GRÖSSE", "text", "VARCHAR"),
            Column("ID2", "real", "BIGINT"),
        ),
    ),
    TableSchema("c", (Column("Id", "real", "BIGINT"), Column("id2", "real", "BIGINT"))),
]


@pytest.mark.parametrize(
    ("sql", "wanted"),
    [
        (
            'SELECT a."Straße", b."Strasse" FROM a JOIN b ON a.ID = b.id',
            'SELECT a."Straße", b."Strasse" FROM a JOIN b ON a."id" = b."id"',
        ),
        ('SELECT "sTraße", "STRASSE" FROM a, b', 'SELECT "Straße", "Strasse" FROM a, b'),
        ('SELECT "größe", "GRÖSSE" FROM b', 'SELECT "größe", "GRÖSSE" FROM b'),
        ("SELECT x.id, y.ID, y.iD2 FROM c AS x, b AS y", 'SELECT x."Id", y."id", y."ID2" FROM c AS x, b AS y'),
        ("SELECT id2 FROM b, a", 'SELECT "ID2" FROM b, a'),
        ("SELECT z.ID2 FROM (SELECT id2 FROM c) AS z", 'SELECT z."id2" FROM (SELECT "id2" FROM c) AS z'),
    ],
)
def test_names_are_spelt_as_the_schema_of_their_table_does(sql: str, wanted: str) -> None:
    assert read_sql(sql, "duckdb", SCHARP) == wanted


PEOPLE = TableSchema("people", (Column("age", "real", "BIGINT"), Column("born", "text", "DATE")))


@pytest.mark.parametrize("name", sorted(CLOCK - {"age"}))
def test_every_function_that_tells_the_time_is_known(name: str) -> None:
    assert reads_the_clock(f"SELECT {name}()", [])


@pytest.mark.parametrize(
    ("sql", "clock"),
    [
        ("SELECT born FROM people WHERE born < current_date", True),
        ("SELECT age(born) FROM people", True),
        ("SELECT localtimestamp", True),
        ("SELECT born FROM (SELECT born FROM people WHERE born < now()) AS x", True),
        ("SELECT age(DATE '2024-01-01', born) FROM people", False),
        ('SELECT "age" FROM people WHERE age > 5', False),
        ("SELECT x.age FROM people AS x", False),
        ("SELECT born AS today FROM people ORDER BY today", False),
        ("SELECT 'now' FROM people", False),
        ("SELECT born FROM people WHERE born < 'today'::date", True),
        ("SELECT CAST('now' AS VARCHAR) FROM people", False),
    ],
)
def test_what_reads_the_clock(sql: str, clock: bool) -> None:
    assert reads_the_clock(read_sql(sql, "duckdb", [PEOPLE]), [PEOPLE]) is clock


KINDS = {
    "SELECT name FROM races": ("simple", "none", 0, False),
    "SELECT name FROM races WHERE id = 1 AND NOT fee > 2 OR id IN (3)": ("filter", "none", 3, False),
    "SELECT max(fee) FROM races WHERE id = 1": ("aggregation", "MAX", 1, False),
    "SELECT max(fee), count(*) FROM races": ("aggregation", "several", 0, False),
    "SELECT name FROM races, runs WHERE id = race_id": ("join", "none", 1, False),
    "SELECT name FROM races ORDER BY fee": ("order", "none", 0, True),
    "SELECT name FROM races LIMIT 3": ("order", "none", 0, False),
    "SELECT city, median(fee) FROM races GROUP BY city HAVING count(*) > 1": ("group", "other", 1, False),
    "SELECT name FROM (SELECT name FROM races ORDER BY fee) AS x": ("nested", "none", 0, False),
    "WITH x AS (SELECT name FROM races) SELECT name FROM x": ("nested", "none", 0, False),
    "SELECT name, sum(fee) OVER (ORDER BY id) FROM races": ("window", "none", 0, False),
    "(SELECT id FROM races) UNION SELECT race_id FROM runs ORDER BY 1": ("set operation", "none", 0, True),
    "(SELECT id FROM races ORDER BY 1)": ("order", "none", 0, True),
}


@pytest.mark.parametrize("sql", KINDS)
def test_the_kind_of_a_query(sql: str) -> None:
    found = shape(sql)
    assert (found.category, found.aggregate, found.conditions, found.ordered) == KINDS[sql]


def test_every_category_is_tested() -> None:
    assert {category for category, *_ in KINDS.values()} == set(CATEGORIES)


def test_a_cte_is_no_table_whatever_the_script_of_its_name() -> None:
    assert shape('WITH "Ö" AS (SELECT a FROM t) SELECT a FROM "Ö"').tables == ("t",)
