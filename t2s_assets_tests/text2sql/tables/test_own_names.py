"""Shown SQL runs in the user's database and gives what the generated one gives in the executor."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from t2s_assets.text2sql.execution import SqlExecutor
from t2s_assets.text2sql.tables.asked import Asked, asked_about
from t2s_assets.text2sql.tables.sources import open_source

# "full name" and "Born in" are shown alike in both tables; each is called otherwise in one of them.
TABLES = """
CREATE SCHEMA old;
CREATE TABLE old.people ("full\nname" VARCHAR, "Born  in" INTEGER, id INTEGER);
CREATE TABLE old.pets ("full name" VARCHAR, owner INTEGER, "Born  in" INTEGER, "Ünit" INTEGER);
INSERT INTO old.people VALUES ('A', 1990, 1), ('B', 1980, 2), ('C', 1970, 3);
INSERT INTO old.pets VALUES ('x', 1, 2001, 5), ('y', 1, 2002, 6), ('z', 2, 1980, 7);
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("own") / "zoo.duckdb"
    with duckdb.connect(str(path)) as connection:
        connection.execute(TABLES)
    return path


@pytest.fixture(scope="module")
def zoo(file: Path) -> Asked:
    return asked_about(open_source(db=file).database(), "sql")


@pytest.fixture(scope="module")
def executor() -> Iterator[SqlExecutor]:
    with SqlExecutor(workers=1) as started:
        yield started


@pytest.mark.parametrize(
    ("generated", "shown"),
    [
        ('SELECT "full name" FROM people ORDER BY 1', 'SELECT "full\nname" FROM old.people ORDER BY 1'),
        ('SELECT "full name" FROM pets ORDER BY 1', 'SELECT "full name" FROM old.pets ORDER BY 1'),
        (
            'SELECT a."Full name", b."full name" FROM People AS a JOIN pets AS B ON b.owner = A.id ORDER BY 2',
            'SELECT a."full\nname", b."full name" FROM old.people AS a JOIN old.pets AS B ON b.owner = A.id ORDER BY 2',
        ),
        (
            'SELECT people."full name" FROM people, pets WHERE owner = id AND pets."full name" = \'z\'',
            'SELECT people."full\nname" FROM old.people, old.pets WHERE owner = id AND pets."full name" = \'z\'',
        ),
        (
            'SELECT "full name" FROM people WHERE id IN (SELECT owner FROM pets WHERE "full name" = \'z\')',
            'SELECT "full\nname" FROM old.people WHERE id IN (SELECT owner FROM old.pets WHERE "full name" = \'z\')',
        ),
        (
            "SELECT owner FROM pets WHERE EXISTS (SELECT 1 FROM people WHERE owner = id AND pets.\"full name\" = 'z')",
            "SELECT owner FROM old.pets WHERE EXISTS(SELECT 1 FROM old.people WHERE owner = id "
            "AND pets.\"full name\" = 'z')",
        ),
        (
            'SELECT id FROM people AS a WHERE EXISTS (SELECT "full name" FROM pets WHERE owner > 9 UNION '
            "SELECT 'q' WHERE \"full name\" = 'B')",
            'SELECT id FROM old.people AS a WHERE EXISTS(SELECT "full name" FROM old.pets WHERE owner > 9 UNION '
            "SELECT 'q' WHERE \"full\nname\" = 'B')",
        ),
        (
            'SELECT x."full name" FROM (SELECT * FROM people) AS x WHERE "born in" > 1975 ORDER BY 1',
            'SELECT x."full\nname" FROM (SELECT * FROM old.people) AS x WHERE "Born  in" > 1975 ORDER BY 1',
        ),
        (
            'WITH people AS (SELECT "full name" FROM people) SELECT "full name" FROM people ORDER BY "full name"',
            'WITH people AS (SELECT "full\nname" FROM old.people) SELECT "full\nname" FROM people '
            'ORDER BY "full\nname"',
        ),
        (
            'WITH X(n, m) AS (SELECT "full name", id FROM people) SELECT n FROM x ORDER BY m',
            'WITH X(n, m) AS (SELECT "full\nname", id FROM old.people) SELECT n FROM x ORDER BY m',
        ),
        (
            'SELECT "full name" FROM people UNION SELECT "full name" FROM pets ORDER BY "full name"',
            'SELECT "full\nname" FROM old.people UNION SELECT "full name" FROM old.pets ORDER BY "full\nname"',
        ),
        (
            '(SELECT "full name" FROM people) ORDER BY "full name" LIMIT 2',
            '(SELECT "full\nname" FROM old.people) ORDER BY "full\nname" LIMIT 2',
        ),
        (
            'SELECT -id AS "full name" FROM people WHERE "full name" <> \'B\' ORDER BY "full name"',
            'SELECT -id AS "full name" FROM old.people WHERE "full\nname" <> \'B\' ORDER BY "full name"',
        ),
        (
            'SELECT p.* EXCLUDE ("full name") FROM people AS p JOIN pets USING ("born in")',
            'SELECT p.* EXCLUDE ("full\nname") FROM old.people AS p JOIN old.pets USING ("Born  in")',
        ),
        (
            'SELECT l."full name" FROM people AS p, LATERAL (SELECT "full name" FROM pets WHERE owner = p.id) AS l '
            "ORDER BY 1",
            'SELECT l."full name" FROM old.people AS p, LATERAL (SELECT "full name" FROM old.pets WHERE owner = p.id) '
            "AS l ORDER BY 1",
        ),
        ("SELECT n FROM people AS z(n) ORDER BY n", "SELECT n FROM old.people AS z(n) ORDER BY n"),
        ('SELECT "Ünit" AS u FROM pets ORDER BY u', 'SELECT "Ünit" AS u FROM old.pets ORDER BY u'),
        ("SELECT v.a FROM (VALUES (1), (2)) AS v(a) ORDER BY a",) * 2,
        ("SELECT 1",) * 2,
    ],
)
def test_shown_sql_has_the_users_names_and_the_same_result(
    file: Path, zoo: Asked, executor: SqlExecutor, generated: str, shown: str
) -> None:
    assert zoo.checked(generated) == (shown, None)
    outcome = executor.run_one(zoo.database_for(generated), generated)
    assert outcome.ok, outcome.message
    with duckdb.connect(str(file), read_only=True, config={"enable_external_access": "false"}) as connection:
        connection.execute("SET autoinstall_known_extensions = false; SET autoload_known_extensions = false")
        assert tuple(connection.execute(shown).fetchall()) == outcome.rows
