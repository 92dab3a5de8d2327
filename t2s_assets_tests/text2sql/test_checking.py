"""What is said about generated SQL, and under which names it is shown."""

from __future__ import annotations

import pytest

from t2s_assets.text2sql.checking import checked, checked_over
from t2s_assets.text2sql.execution import Database, Relation, SqlExecutor
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
