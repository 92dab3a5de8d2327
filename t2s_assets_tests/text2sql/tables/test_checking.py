"""What is said about generated SQL, and under which names it is shown."""

from __future__ import annotations

import datetime
import re
from pathlib import Path

import pytest

from t2s_assets.text2sql.execution import Database, Relation, SqlExecutor
from t2s_assets.text2sql.tables.checking import checked, checked_over
from t2s_assets.text2sql.tables.sources import from_ddl, open_source
from t2s_assets.text2sql.tables.user_tables import UserTable

PEAKS = UserTable.of(
    ("old", "Peaks of t"), ['First\nname "x"', "Height (m)", "t"], ["text", "real", "text"], where="test"
)
PLAIN = UserTable.of("fruit", ["name", "price"], ["text", "real"], where="test")


@pytest.mark.parametrize(
    ("generated", "shown"),
    [
        ('SELECT "name" FROM t', 'SELECT "name" FROM fruit'),
        ('SELECT MAX("price") FROM t', 'SELECT MAX("price") FROM fruit'),
        (
            'SELECT COUNT("name") FROM t WHERE "name" = \'it\'\'s t\' AND "price" > -1.50',
            'SELECT COUNT("name") FROM fruit WHERE "name" = \'it\'\'s t\' AND "price" > -1.50',
        ),
        ('SELECT "NAME" FROM T', 'SELECT "name" FROM fruit'),
        ("SELECT t.name FROM t WHERE t.price < 3", "SELECT fruit.name FROM fruit WHERE fruit.price < 3"),
        (
            "SELECT name, SUM(price) AS s FROM t GROUP BY name HAVING SUM(price) > 2 ORDER BY s DESC LIMIT 3",
            "SELECT name, SUM(price) AS s FROM fruit GROUP BY name HAVING SUM(price) > 2 ORDER BY s DESC LIMIT 3",
        ),
        ("WITH t AS (SELECT 1 AS a) SELECT a FROM t", "WITH t AS (SELECT 1 AS a) SELECT a FROM t"),
        ("SELECT T.name FROM t AS t", "SELECT T.name FROM fruit AS t"),
        (
            "SELECT t.* FROM t WHERE price = (SELECT MAX(x.price) FROM t AS x WHERE x.name = t.name)",
            "SELECT fruit.* FROM fruit WHERE price = (SELECT MAX(x.price) FROM fruit AS x WHERE x.name = fruit.name)",
        ),
    ],
)
def test_valid_sql_is_shown_with_the_tables_name(generated: str, shown: str) -> None:
    assert checked(generated, PLAIN) == (shown, None)


def test_awkward_names_are_the_users_own_again() -> None:
    sql, problem = checked('SELECT "First name ""x""" FROM t WHERE "t" = \'t\' AND "Height (m)" > 5', PEAKS)
    assert problem is None
    assert sql == ('SELECT "First\nname ""x""" FROM old."Peaks of t" WHERE "t" = \'t\' AND "Height (m)" > 5')


def test_shown_sql_runs_in_the_users_database() -> None:
    table = UserTable.of("Peaks of t", ["First\nname", "Height (m)"], ["text", "real"], where="test")
    sql, problem = checked('SELECT "Height (m)" FROM t WHERE "First name" = \'K2\'', table)
    assert problem is None
    columns = [("First\nname", "VARCHAR"), ("Height (m)", "DOUBLE")]
    relation = Relation.from_rows("Peaks of t", columns, [("K2", 8611.0), ("Lhotse", 8516.0)])
    with SqlExecutor(workers=1) as executor:
        assert executor.run_one(Database.of(relation), sql).rows == ((8611.0,),)


def test_sql_over_several_tables_is_shown_with_their_schemas_and_own_columns() -> None:
    orders = UserTable.of(("sales", "orders"), ["First\nname", "id"], ["text", "real"], where="test")
    staff = UserTable.of("staff", ["First name", "id"], ["text", "real"], where="test")
    generated = 'SELECT "First name" FROM staff WHERE id IN (SELECT id FROM orders WHERE "First name" = \'K\')'
    shown = 'SELECT "First name" FROM staff WHERE id IN (SELECT id FROM sales.orders WHERE "First\nname" = \'K\')'
    assert checked_over(generated, [orders, staff]) == (shown, None)
    assert checked_over("SELECT id FROM orders", [orders]) == ("SELECT id FROM sales.orders", None)
    assert checked_over("select  ID from STAFF", [staff]) == ("select  ID from STAFF", None)
    assert checked_over("SELECT id FROM other", [staff])[1] is not None


@pytest.mark.parametrize(
    ("generated", "problem"),
    [
        ("", "refused"),
        ("the answer is 42", "refused"),
        ("SELECT name FROM t; DROP TABLE t", "refused"),
        ("SELECT * FROM read_csv('x')", "refused"),
        ("SELECT name FROM other", "only the given tables"),
        ('SELECT "colour" FROM t', "no column 'colour' in 'fruit'; there are: name, price"),
        ('SELECT "name" FROM t WHERE "Weight" > 3', "no column 'Weight'"),
        ('SELECT SUM("name") FROM t', "SUM needs numbers, and column 'name' holds text"),
        ('SELECT AVG("name") FROM t', "AVG needs numbers"),
        ("(price) UNION SELECT price FROM t", "what it names cannot be told"),
        (
            'SELECT "name" FROM t WHERE "price" = \'cheap\'',
            "column 'price' holds numbers and is compared with the text 'cheap'",
        ),
    ],
)
def test_sql_that_is_not_valid_is_shown_as_generated_with_the_reason(generated: str, problem: str) -> None:
    sql, said = checked(generated, PLAIN)
    assert sql == generated
    assert said is not None and problem in said


def _with_rows(path: Path) -> UserTable:
    path.write_text("made,sent,paid,note\n2024-03-01,2024-03-01 10:00,true,a\n2024-04-01,2024-04-02 11:30,false,b\n")
    return open_source(db=path).table()


@pytest.mark.parametrize(
    ("test", "problem"),
    [
        ("\"made\" = 'March 1, 2024'", "column 'made' holds dates .*'March 1, 2024'.* write a date like 2024-03-01 in"),
        ("\"made\" < '1/2/2024'", "'made' holds dates"),
        ("\"made\" = '2024'", "'made' holds dates"),
        ("\"sent\" > 'noon'", "'sent' holds points in time .* like 2024-03-01 12:30:00 in the question"),
        ("\"paid\" = 'unpaid'", "'paid' holds truth values .* write true or false in the question"),
    ],
)
def test_text_that_is_no_date_is_not_compared_with_dates(tmp_path: Path, test: str, problem: str) -> None:
    sql = f'SELECT COUNT("note") FROM t WHERE {test}'
    said = checked(sql, _with_rows(tmp_path / "orders.csv"))[1]
    assert said is not None
    assert re.search(problem, said)
    # DuckDB does not run it either.
    types = [("made", "DATE"), ("sent", "TIMESTAMP"), ("paid", "BOOLEAN"), ("note", "VARCHAR")]
    row = (datetime.date(2024, 3, 1), datetime.datetime(2024, 3, 1), True, "a")
    with SqlExecutor(workers=1) as executor:
        assert executor.run_one(Database.of(Relation.from_rows("t", types, [row])), sql).status == "error"
    # A schema alone may be another database's, which reads more dates.
    ddl = from_ddl("CREATE TABLE orders (made DATE, sent TIMESTAMP, paid BOOLEAN, note TEXT)")
    assert checked(sql, ddl.table())[1] is None


@pytest.mark.parametrize(
    "test",
    [
        "\"made\" = '2024-03-01'",
        "\"made\" > '2024-3-1'",
        "\"sent\" > '2024-03-01'",
        "\"paid\" = 'no'",
        "\"note\" = '2024'",
    ],
)
def test_text_that_is_a_date_is_compared_with_dates(tmp_path: Path, test: str) -> None:
    assert checked(f'SELECT COUNT("note") FROM t WHERE {test}', _with_rows(tmp_path / "orders.csv"))[1] is None
