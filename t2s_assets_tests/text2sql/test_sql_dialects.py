"""What other dialects mean, kept in DuckDB: SQLite beside DuckDB, for others the documented value."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import duckdb
import pytest

from t2s_assets.text2sql.schema import Column, TableSchema
from t2s_assets.text2sql.sql_text import read_sql

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


Databases = tuple[sqlite3.Connection, duckdb.DuckDBPyConnection]


def _means_the_same(databases: Databases, sql: str) -> None:
    lite, duck = databases
    written = read_sql(sql, "sqlite", SCHEMAS)
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
