"""The normal form of SQL text: what it takes for the same, and which clauses it tells apart."""

from __future__ import annotations

import pytest

from t2s_assets.text2sql.schema import Column, TableSchema
from t2s_assets.text2sql.sql.normal_form import differences, normal_form
from t2s_assets.text2sql.sql.resolving import NormalFormError, columns_of
from t2s_assets_tests.text2sql.execution.conftest import RACES, RUNS, TABLE, benign


def _schema(name: str, columns: tuple[tuple[str, str], ...]) -> TableSchema:
    return TableSchema(
        name,
        tuple(Column(n, "text", t.partition(" COLLATE")[0]) for n, t in columns),  # the kind does not matter here
    )


SCHEMAS = [_schema(r.name, r.columns) for r in (RACES, RUNS, TABLE)]

SAME = [
    (
        "SELECT r.name FROM races r JOIN runs u ON r.id = u.race_id WHERE u.seconds > 3 AND r.city = 'Oslo'",
        "select NAME from \"runs\", races where 'Oslo' = city and race_id = id and 3.0 < seconds",
    ),
    (
        "WITH a AS (SELECT id, city AS c FROM races) SELECT c FROM a WHERE id = 1",
        "SELECT x.town FROM (SELECT races.id, races.city AS town FROM races) x WHERE x.id = 1",
    ),
    (
        "SELECT city, count(*) AS n FROM races GROUP BY city ORDER BY n DESC",
        "SELECT city, count(1) FROM races GROUP BY 1 ORDER BY 2 DESC",
    ),
    (
        "SELECT city, count(*) AS n FROM races GROUP BY city ORDER BY -n, (city)",
        "SELECT city AS c, count(*) FROM races GROUP BY city ORDER BY -count(*), c",
    ),
    ("SELECT -id AS id FROM races ORDER BY id + 1", "SELECT -id AS n FROM races ORDER BY races.id + 1"),
    ("SELECT -id AS id FROM races ORDER BY id", "SELECT -id AS n FROM races ORDER BY n"),
    (
        "SELECT DISTINCT ON (c) city AS c, name FROM races ORDER BY lower(c)",
        "SELECT DISTINCT ON (races.city) city, name FROM races ORDER BY lower(races.city)",
    ),
    (
        "SELECT city AS c FROM races UNION SELECT club FROM runs ORDER BY lower(c)",
        "SELECT city FROM races UNION SELECT club FROM runs ORDER BY lower(city)",
    ),
    (
        "SELECT a.id FROM races a JOIN races b USING (id) ORDER BY -id",
        "SELECT a.id FROM races a JOIN races b ON a.id = b.id ORDER BY -a.id",
    ),
    ("SELECT a.name FROM races a, races b WHERE a.id < b.id", "SELECT b.name FROM races a, races b WHERE b.id < a.id"),
    (
        "SELECT name FROM races WHERE starts BETWEEN DATE '2024-01-01' AND '2024-12-31'",
        "SELECT name FROM races WHERE starts <= '2024-12-31' AND starts >= '2024-01-01'",
    ),
    ("SELECT name FROM races LEFT JOIN runs ON id = race_id", "SELECT name FROM runs RIGHT JOIN races ON race_id = id"),
    ("SELECT city FROM races UNION SELECT club FROM runs", "SELECT club FROM runs UNION SELECT city FROM races"),
    ("SELECT city FROM races WHERE id IN (1, 2)", "SELECT city FROM races WHERE id IN (2, 1)"),
    ("SELECT city FROM races WHERE id = 1 OR fee > 2", "SELECT city FROM races WHERE (2 < fee) OR (1 = id)"),
    (
        "SELECT name FROM races r WHERE EXISTS (SELECT 1 FROM runs u WHERE u.race_id = r.id)",
        "SELECT name FROM races WHERE EXISTS (SELECT 1 FROM runs WHERE id = race_id)",
    ),
    ("SELECT name FROM races ORDER BY fee LIMIT 1", "SELECT name FROM races ORDER BY fee ASC FETCH FIRST 1 ROWS ONLY"),
    ("SELECT * FROM runs", "SELECT race_id, runner, seconds, finished_at, club FROM runs AS x"),
    ("SELECT id + 1 FROM races WHERE NOT id = 2", "SELECT 1 + id FROM races WHERE id <> 2"),
    (
        "SELECT name FROM races WHERE opens_at IN (TIMESTAMP '2024-01-01') AND (DATE '2024-01-01') < starts",
        "SELECT name FROM races WHERE opens_at IN ('2024-01-01') AND starts > '2024-01-01'",
    ),
    (
        "WITH x AS (SELECT starts AS d FROM races) SELECT d FROM x WHERE d = DATE '2024-01-01'",
        "WITH x AS (SELECT starts AS d FROM races) SELECT d FROM x WHERE d = '2024-01-01'",
    ),
    ("SELECT name FROM races WHERE fee > 1.50 AND id = 1e3", "SELECT name FROM races WHERE fee > 1.5 AND id = 1000"),
    ("SELECT -0.0", "SELECT 0"),
    ("SELECT starts + INTERVAL 1 DAY FROM races", "SELECT INTERVAL '1' DAY + starts FROM races"),
    (
        "SELECT city FROM races UNION BY NAME SELECT club AS city FROM runs",
        "SELECT CITY FROM races UNION BY NAME SELECT r.club AS City FROM runs AS r",
    ),
    ("SELECT fee / NULLIF(2.0, 0), id / NULLIF((-2), 0.0) FROM races", "SELECT fee / 2, id / -2 FROM races"),
    ("SELECT name FROM races LIMIT 50%", "SELECT name FROM races LIMIT 50.0 PERCENT"),
    ("SELECT name FROM races WHERE id >= fee", "SELECT name FROM races WHERE fee <= id"),
    ("SELECT city, name FROM races GROUP BY city, name", "SELECT city, name FROM races GROUP BY name, city"),
    ("WITH x AS (SELECT city AS Town FROM races) SELECT Town FROM x", "SELECT y FROM (SELECT city AS y FROM races)"),
    ("(SELECT name, fee FROM races) ORDER BY fee LIMIT 2", "SELECT name, fee FROM races ORDER BY 2 LIMIT 2"),
    ("(SELECT name FROM races LIMIT 2)", "SELECT name FROM races LIMIT 2"),
    ("(SELECT name FROM races) LIMIT 2 OFFSET 1", "SELECT name FROM races LIMIT 2 OFFSET 1"),
    (
        "(SELECT city FROM races UNION SELECT club FROM runs) ORDER BY city LIMIT 2",
        "SELECT city FROM races UNION SELECT club FROM runs ORDER BY city LIMIT 2",
    ),
    (
        "SELECT a.id FROM races a, races b, races c, races d WHERE a.fee < b.fee AND b.fee < c.fee AND c.fee < d.fee",
        "SELECT d.id FROM races a, races b, races c, races d WHERE d.fee < c.fee AND c.fee < b.fee AND b.fee < a.fee",
    ),
]

DIFFERENT = [
    ("SELECT name FROM races WHERE id = 1", "SELECT name FROM races WHERE id = 2", ["value"]),
    ("SELECT name FROM races WHERE city = 'Oslo'", "SELECT name FROM races WHERE city = 'oslo'", ["value"]),
    ("SELECT name FROM races LIMIT 1", "SELECT name FROM races LIMIT 2", ["value"]),
    ("SELECT fee / NULLIF(id, 0) FROM races", "SELECT fee / id FROM races", ["SELECT"]),
    ("SELECT fee / NULLIF(0, 0) FROM races", "SELECT fee / 0 FROM races", ["SELECT"]),
    ("SELECT fee / NULLIF(2, 1) FROM races", "SELECT fee / 2 FROM races", ["SELECT"]),
    ("SELECT name FROM races LIMIT 50", "SELECT name FROM races LIMIT 50%", ["LIMIT"]),
    (
        "SELECT name FROM races FETCH FIRST 5 ROWS ONLY",
        "SELECT name FROM races FETCH FIRST 5 ROWS WITH TIES",
        ["LIMIT"],
    ),
    (
        "SELECT name FROM races WHERE id = 9007199254740993",
        "SELECT name FROM races WHERE id = 9007199254740992",
        ["value"],
    ),
    ("SELECT DATE '2024-01-01'", "SELECT '2024-01-01'", ["SELECT"]),
    (
        "SELECT name FROM races WHERE city = '2024-01-01'",
        "SELECT name FROM races WHERE city = DATE '2024-01-01'",
        ["WHERE"],
    ),
    (
        "SELECT name FROM races WHERE starts = '2024-01-01 10:00:00'",
        "SELECT name FROM races WHERE starts = TIMESTAMP '2024-01-01 10:00:00'",
        ["WHERE"],
    ),
    (
        "SELECT name FROM races WHERE id = 1",
        "SELECT city FROM races WHERE id > 1 ORDER BY 1 LIMIT 2",
        ["SELECT", "WHERE", "ORDER BY", "LIMIT"],
    ),
    (
        "SELECT count(*) FROM races",
        "SELECT count(*) FROM races JOIN runs ON id = race_id GROUP BY city HAVING count(*) > 1",
        ["FROM", "GROUP BY", "HAVING"],
    ),
    ("SELECT name FROM races ORDER BY id", "SELECT name FROM races ORDER BY id DESC", ["ORDER BY"]),
    (
        "SELECT name AS x, city FROM races ORDER BY lower(x)",
        "SELECT name, city AS x FROM races ORDER BY lower(x)",
        ["ORDER BY"],
    ),
    (
        "SELECT DISTINCT ON (x) name AS x, city FROM races",
        "SELECT DISTINCT ON (x) name, city AS x FROM races",
        ["SELECT"],
    ),
    (
        "(SELECT name AS x, city FROM races) ORDER BY lower(x)",
        "(SELECT name, city AS x FROM races) ORDER BY lower(x)",
        ["ORDER BY"],
    ),
    ("SELECT name, city FROM races", "SELECT city, name FROM races", ["SELECT"]),
    ("SELECT name FROM races", "SELECT DISTINCT name FROM races", ["SELECT"]),
    (
        "SELECT name FROM races EXCEPT SELECT club FROM runs",
        "SELECT club FROM runs EXCEPT SELECT name FROM races",
        ["set operation"],
    ),
    (
        "SELECT city FROM races UNION SELECT club FROM runs",
        "SELECT city FROM races UNION ALL SELECT club FROM runs",
        ["set operation"],
    ),
    (
        "SELECT city AS x FROM races UNION ALL BY NAME SELECT club AS x FROM runs",
        "SELECT city AS x FROM races UNION ALL BY NAME SELECT club AS y FROM runs",
        ["set operation"],
    ),
    (
        "SELECT name, city FROM races UNION ALL BY NAME SELECT city, name FROM races",
        "SELECT city, name FROM races UNION ALL BY NAME SELECT name, city FROM races",
        ["set operation"],
    ),
    (
        "SELECT starts + INTERVAL 1 MONTH + INTERVAL 1 DAY FROM races",
        "SELECT starts + INTERVAL 1 DAY + INTERVAL 1 MONTH FROM races",
        ["SELECT"],
    ),
    (
        "SELECT name FROM races LEFT JOIN runs ON id = race_id",
        "SELECT name FROM races JOIN runs ON id = race_id",
        ["FROM"],
    ),
    (
        "SELECT a.name FROM races a, races b WHERE a.id < b.id",
        "SELECT b.name FROM races a, races b WHERE a.id < b.id",
        ["WHERE"],
    ),
    (
        "SELECT name FROM races r WHERE fee = (SELECT max(fee) FROM races i WHERE i.city = r.city)",
        "SELECT name FROM races r WHERE fee = (SELECT max(fee) FROM races i WHERE i.city = i.city)",
        ["WHERE"],
    ),
    ("SELECT fee + fee + id FROM races", "SELECT fee + id FROM races", ["SELECT"]),
    ("SELECT 1 FROM races LEFT JOIN runs ON true", 'SELECT 1 FROM "table" LEFT JOIN runs ON true', ["FROM"]),
    ("(SELECT name FROM races LIMIT 3) LIMIT 2", "SELECT name FROM races LIMIT 2", ["SELECT", "FROM"]),
    ("SELECT name FROM races", "SELECT nam FROM races", ["unparsable"]),
    ("SELECT name FROM races", "DROP TABLE races", ["unparsable"]),
    ("SELECT name FROM races", "SELECT name FROM races; SELECT name FROM races", ["unparsable"]),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_the_same_in_other_words(one: str, other: str) -> None:
    assert normal_form(one, SCHEMAS) == normal_form(other, SCHEMAS)
    assert differences(other, one, SCHEMAS) == []


@pytest.mark.parametrize(("gold", "predicted", "kinds"), DIFFERENT)
def test_what_differs_is_named(gold: str, predicted: str, kinds: list[str]) -> None:
    assert differences(predicted, gold, SCHEMAS) == kinds


def test_what_analysts_write_has_a_normal_form_of_its_own() -> None:
    """Apart from bare VALUES. Queries that differ have forms that differ."""
    queries = [q for q in benign() if not q.startswith("VALUES")]
    forms = [normal_form(q, SCHEMAS) for q in queries]
    assert len(set(forms)) == len(forms)


@pytest.mark.parametrize(
    "sql", ["", "SELEC 1", "SELECT 1; SELECT 2", "SELECT x FROM races", "SELECT a.id FROM races b"]
)
def test_what_has_none(sql: str) -> None:
    with pytest.raises(NormalFormError):
        normal_form(sql, SCHEMAS)


def test_columns_of_a_query() -> None:
    sql = "WITH x AS (SELECT city AS c, fee FROM races) SELECT c, max(seconds) FROM x, runs GROUP BY c"
    assert columns_of(sql, SCHEMAS) == {("races", "city"), ("races", "fee"), ("runs", "seconds")}
    assert columns_of("SELECT count(*) FROM races", SCHEMAS) == set()
