"""What is copied of large tables: the columns that a query names, and every column where it may read any."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from t2s_assets.text2sql.execution import Job, Relation, SqlExecutor
from t2s_assets.text2sql.tables import user_tables
from t2s_assets.text2sql.tables.asked import Asked, asked_about
from t2s_assets.text2sql.tables.copies import Copies
from t2s_assets.text2sql.tables.sources import UserDatabase, as_table, open_source
from t2s_assets.text2sql.tables.table_files import from_arrow
from t2s_assets.text2sql.tables.user_tables import Content, UserTable, Wanted
from t2s_assets_tests.text2sql.execution.conftest import RACES, RUNS, TABLE, benign

ROWS, WIDTH = 400_000, 40
"""Of each table: 16 million cells, where ten are copied."""

MORE = ", ".join(f"(i * {k}) % 97 AS m{k}" for k in range(5, WIDTH))
LARGE = f"""
CREATE TABLE sales AS SELECT
    i AS id, i % 1000 AS "Shop", 'Region ' || (i % 7) AS "Reg""ion", CAST(i % 500 AS DOUBLE) / 4 AS amount,
    i % 3 AS day, {MORE} FROM range({ROWS}) AS r(i);
"""
OTHERS = f"""
CREATE TABLE visits AS SELECT
    i * 2 AS id, i % 10 AS "Shop", i % 11 AS seconds, CAST(i % 300 AS DOUBLE) AS amount,
    i % 5 AS day, {MORE} FROM range({ROWS}) AS r(i);
CREATE TABLE shops AS SELECT i AS id, 'Shop ' || i AS name FROM range(1000) AS r(i);
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two large tables and a small one in DuckDB, and the first in SQLite and Parquet."""
    found = tmp_path_factory.mktemp("large")
    with duckdb.connect(str(found / "shop.duckdb")) as db:
        db.execute(LARGE + OTHERS)
        db.execute(f"COPY sales TO '{found}/sales.parquet'")
    numbers = f"WITH RECURSIVE r(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM r WHERE i + 1 < {ROWS}) SELECT i FROM r"
    with closing(sqlite3.connect(found / "shop.sqlite")) as lite:
        lite.execute(f"CREATE TEMP TABLE r AS {numbers}")
        lite.executescript(LARGE.replace(f"range({ROWS}) AS r(i)", "r"))
    return found


@pytest.fixture(scope="module")
def database(folder: Path) -> UserDatabase:
    return open_source(db=folder / "shop.duckdb").database()


@pytest.fixture(scope="module")
def executor() -> Iterator[SqlExecutor]:
    with SqlExecutor(workers=1) as executor:
        yield executor


def copied(asked: Asked, sql: str) -> dict[str, set[str]]:
    """The columns that are copied of each table."""
    return {r.name: {name for name, _ in r.columns} for r in asked.database_for(sql).relations}


NARROW = [
    ("SELECT count(*) FROM sales", None),
    ("SELECT sum(amount), max(id) FROM Sales", {"amount", "id"}),
    ('SELECT count(*) FROM sales WHERE "REG""ion" = \'Region 3\'', {'Reg"ion'}),
    ("SELECT s.ID % 2 AS odd, avg(AMOUNT) FROM sales AS s GROUP BY ALL ORDER BY ALL", {"id", "amount"}),
    ("WITH big(n, a) AS (SELECT shop, amount FROM sales WHERE m39 > 3) SELECT n, sum(a) FROM big GROUP BY n ORDER BY n",
     {"Shop", "amount", "m39"}),
    ("SELECT x FROM (SELECT m7 FROM sales) AS s(x) ORDER BY x DESC LIMIT 1", {"m7"}),
    ("SELECT max(rowid) FROM sales WHERE m8 >= 0", {"m8"}),
    ("SELECT m9, count(*) FILTER (WHERE m10 > 4) FROM sales GROUP BY m9 HAVING sum(m11) > 9 ORDER BY m9",
     {"m9", "m10", "m11"}),
    ("SELECT m12 FROM sales QUALIFY row_number() OVER (PARTITION BY m13 ORDER BY id) = 1 ORDER BY 1",
     {"m12", "m13", "id"}),
]  # fmt: skip


@pytest.mark.parametrize(("sql", "columns"), NARROW)
def test_a_large_table_is_counted_and_added_up_whole(
    folder: Path, database: UserDatabase, executor: SqlExecutor, sql: str, columns: set[str] | None
) -> None:
    asked = asked_about(database, "sql")
    outcome = executor.run_one(asked.database_for(sql), sql)
    with duckdb.connect(str(folder / "shop.duckdb"), read_only=True) as db:
        assert list(outcome.rows) == db.execute(sql).fetchall(), outcome.message
    assert asked.rows_copied_for(sql) is None
    (found,) = copied(asked, sql).values()
    assert found == columns or (columns is None and len(found) == 1)


JOINS = [
    ("SELECT count(*), sum(s.amount), sum(v.amount) FROM sales s JOIN visits v ON s.id = v.id",
     {"id", "amount"}, {"id", "amount"}),
    ("SELECT sum(seconds) FROM sales JOIN visits USING (id)", {"id"}, {"id", "seconds"}),
    ('SELECT count(*) FROM sales WHERE id IN (SELECT id FROM visits WHERE "SHOP" = 3)', {"id", "Shop"}, {"id", "Shop"}),
    ("SELECT (SELECT max(visits.id) FROM visits WHERE day = 2) - max(sales.id) FROM sales",
     {"id", "day"}, {"id", "day"}),
]  # fmt: skip


@pytest.mark.parametrize(("sql", "sales", "visits"), JOINS)
def test_a_name_is_copied_of_all_tables_that_have_it(
    folder: Path, database: UserDatabase, executor: SqlExecutor, sql: str, sales: set[str], visits: set[str]
) -> None:
    asked = asked_about(database, "sql")
    outcome = executor.run_one(asked.database_for(sql), sql)
    with duckdb.connect(str(folder / "shop.duckdb"), read_only=True) as db:
        assert list(outcome.rows) == db.execute(sql).fetchall(), outcome.message
    assert asked.rows_copied_for(sql) is None and copied(asked, sql) == {"sales": sales, "visits": visits}


@pytest.mark.parametrize("file", ["shop.sqlite", "sales.parquet", "frame"])
def test_of_other_sources_too(folder: Path, executor: SqlExecutor, file: str) -> None:
    with duckdb.connect(str(folder / "shop.duckdb"), read_only=True) as db:
        query = 'SELECT count(*), sum(amount), min("Reg""ion") FROM sales WHERE "Shop" < 500'
        expected = db.execute(query).fetchall()
        frame = as_table(db.sql("FROM sales").to_arrow_table(), "sales") if file == "frame" else None
    table = frame or open_source(db=folder / file).table("sales")
    for gold, name in (("sql", "sales"), ("sketch", "t")):
        asked, sql = asked_about(table, gold), query.replace("FROM sales", f"FROM {name}")
        outcome = executor.run_one(asked.database_for(sql), sql)
        assert (list(outcome.rows), asked.rows_copied_for(sql)) == (expected, None), outcome.message


EVERY = [
    "SELECT * FROM sales LIMIT 1",
    "SELECT s.* FROM sales AS s LIMIT 1",
    'SELECT * EXCLUDE ("Shop") FROM sales LIMIT 1',
    "SELECT count(sales.*) FROM sales",
    "SELECT max(*) FROM (SELECT id FROM sales)",
    "FROM sales LIMIT 1",
    "SELECT sales FROM sales LIMIT 1",
    "SELECT count(s) FROM sales AS s",
    "SELECT count(DISTINCT \"SALES\") FROM sales WHERE id < 5",
    "SELECT count(DISTINCT \"it's\") FROM sales AS 'It''s' WHERE id < 5",
    "SELECT sales FROM 'sales' LIMIT 1",
    "SELECT x FROM sales AS s(x) LIMIT 1",
    "SELECT x FROM (sales) AS s(x) LIMIT 1",
    "SELECT count(*) FROM sales NATURAL JOIN visits",
]  # fmt: skip


@pytest.mark.parametrize("sql", EVERY)
def test_every_column_is_copied_where_a_query_may_read_it_without_its_name(database: UserDatabase, sql: str) -> None:
    asked = asked_about(database, "sql")
    assert {len(columns) for columns in copied(asked, sql).values()} == {WIDTH}
    assert asked.rows_copied_for(sql) == 10_000_000 // WIDTH // (2 if "visits" in sql else 1)


def test_a_small_table_is_copied_as_it_is(database: UserDatabase) -> None:
    tables = {t.name: t for t in database.tables}
    found = Copies(typed=True).of("SELECT name FROM shops JOIN sales ON shops.id = sales.id", tables)
    assert found["shops"] is tables["shops"] and found.keys() == {"shops", "sales"}


def table_of(relation: Relation) -> UserTable:
    names, types = zip(*relation.columns)

    def read(wanted: Wanted) -> Content:
        chosen = [relation.data.column(name) for name in wanted.of(names)]
        data = pa.Table.from_arrays(chosen, [str(at) for at in range(len(chosen))])
        cap = wanted.rows(len(chosen))
        return Content(data.slice(0, cap), tuple(wanted.of(types)), data.num_rows > cap)

    return UserTable.of(relation.name, names, ["text"] * len(names), read, where="here", sql_types=types)


def test_a_query_gives_what_it_gives_on_all_columns(executor: SqlExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked() -> Asked:
        return asked_about(UserDatabase("races", tuple(map(table_of, (TABLE, RACES, RUNS)))), "sql")

    queries = [
        *benign(),
        "SELECT count(r) FROM races AS r",
        "SELECT races FROM races ORDER BY races",
        "SELECT runner FROM runs WHERE runs = runs ORDER BY ALL",
        "SELECT count(*) FROM (SELECT id AS race_id, name FROM races) NATURAL JOIN runs",
        "SELECT a, b FROM races AS r(a, b) ORDER BY ALL",
        "SELECT rowid, name FROM races ORDER BY ALL",
        "SELECT count(*), count() FROM races, runs",
        "SELECT seconds FROM races",
        "SELECT t.id.field FROM races AS t",
        "SELECT COLUMNS('i.*') FROM races",
    ]
    whole = executor.run([Job(asked().database, sql) for sql in queries])
    monkeypatch.setattr(user_tables, "MAX_ROWS", 1)
    large = asked()
    found = executor.run([Job(large.database_for(sql), sql) for sql in queries])
    for one, other in zip(whole, found):
        assert (other.status, other.columns, other.types, other.rows) == (one.status, one.columns, one.types, one.rows)


def test_what_is_copied_is_kept_while_it_serves_and_let_go_of_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "two.duckdb"
    with duckdb.connect(str(path)) as db:
        for name in ("one", "two"):
            db.execute(f"CREATE TABLE {name} AS SELECT i AS a, i AS b, i AS c, i AS d FROM range(6) r(i)")
    monkeypatch.setattr(user_tables, "MAX_ROWS", 2)
    monkeypatch.setattr(user_tables, "MAX_CELLS", 18)
    tables = {t.name: t for t in open_source(db=path).database().tables}
    copies = Copies(typed=True)

    def of(sql: str) -> tuple[list[str], int]:
        (part,) = copies.of(sql, tables).values()
        return list(part.header), part.typed_content.data.num_rows

    assert of("SELECT a FROM one") == (["a"], 6)
    assert of("SELECT b FROM one") == (["a", "b"], 6)
    kept = copies.of("SELECT a FROM one", tables)["one"]
    assert copies.of("SELECT count(*) FROM one", tables)["one"] is kept
    assert of("SELECT c, d FROM one") == (["c", "d"], 6)  # of all four not all rows would be copied
    assert of("SELECT * FROM one") == (["a", "b", "c", "d"], 4)
    assert of("SELECT a FROM one") == (["a"], 6)
    held = copies.of("SELECT a FROM one", tables)["one"]
    assert of("SELECT a FROM two") == (["a"], 6)
    assert copies.of("SELECT a FROM one", tables)["one"] is not held


def test_further_columns_of_long_texts_do_not_cut_what_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(user_tables, "MAX_ROWS", 2)
    monkeypatch.setattr(user_tables, "MAX_TEXT", 40)
    table = from_arrow(pa.table({"a": ["seven b"] * 5, "b": ["seven b"] * 5, "n": [1, 2, 3, 4, 5]}), "t")
    copies = Copies(typed=True)
    for name in ("a", "b"):
        (part,) = copies.of(f"SELECT {name} FROM t", {"t": table}).values()
        assert (part.header, part.typed_content.truncated) == ((name,), False)
    (part,) = copies.of("SELECT a, b FROM t", {"t": table}).values()
    assert (part.typed_content.data.num_rows, part.typed_content.truncated) == (2, True)


def test_a_table_of_few_rows_and_much_text_loads_by_the_columns_that_are_named(
    executor: SqlExecutor, tmp_path: Path
) -> None:
    path = tmp_path / "documents.duckdb"
    with duckdb.connect(str(path)) as db:
        db.execute("CREATE TABLE documents AS SELECT i AS id, repeat(chr(97 + i::INT % 9), 10_000) AS body "
                   "FROM range(40_000) r(i)")  # fmt: skip
    asked = asked_about(open_source(db=path).database(), "sql")
    sql = "SELECT count(*), max(id) FROM documents"
    outcome = executor.run_one(asked.database_for(sql), sql)
    assert (outcome.rows, asked.rows_copied_for(sql)) == (((40_000, 39_999),), None), outcome.message


def test_notes_are_of_the_columns_that_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a column that stands elsewhere in what is copied than in the table, and of all its rows."""
    monkeypatch.setattr(user_tables, "MAX_ROWS", 2)
    path = tmp_path / "prices.csv"
    path.write_text("name;height;price\n" + "K2;1;9,50\nk2;2;9,50\nLhotse;3;n/a\nNuptse;4;1,234\n" * 3)
    asked = asked_about(open_source(db=path).table(), "sketch")
    for ran in (True, False):
        (note,) = asked.notes_for("SELECT max(price) FROM t", ran=ran)
        assert note.startswith("column \"price\" is text because of '9,50' in row 1 (9 of 9 cells are numbers)")
    assert asked.notes_for("SELECT max(height) FROM t", ran=True) == ()
