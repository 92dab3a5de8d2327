"""Values that no row holds become the nearest stored ones, where that is clear."""

from __future__ import annotations

import duckdb
import pytest

from t2s_assets.text2sql.decoding.grounding import Stored, ground

SCHOOLS = ["Northwestern", "Michigan A", "Michigan B", "Yale", " Brown", "Rice", "RICE"]


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        ("Northwestrn", "Northwestern"),
        ("northwestern", None),  # there already, as NOCASE compares
        ("michigan", None),  # two are as near
        ("Stanford", None),  # nothing is near
        ("brown", " Brown"),  # NOCASE does not overlook white space
        ("rice", None),
        ("rise", None),
        ("ricee", "Rice"),  # which is "RICE" too
    ],
)
def test_nearest_where_case_is_ignored(value: str, stored: str | None) -> None:
    assert Stored(SCHOOLS, ignores_case=True).nearest(value) == stored


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        ("Northwestern", None),
        ("northwestern", "Northwestern"),
        ("northwestrn", "Northwestern"),
        (" Yale ", "Yale"),
        ("Brown", " Brown"),
        ("rice", None),  # it may be either
        ("ricee", None),
        ("RICE", None),
    ],
)
def test_nearest_where_cells_are_compared_exactly(value: str, stored: str | None) -> None:
    assert Stored(SCHOOLS, ignores_case=False).nearest(value) == stored


@pytest.mark.parametrize("ignores_case", [True, False])
def test_what_duckdb_finds_is_left_and_what_it_does_not_becomes_what_it_does(ignores_case: bool) -> None:
    kind = "VARCHAR COLLATE NOCASE" if ignores_case else "VARCHAR"
    stored = Stored(SCHOOLS, ignores_case=ignores_case)
    with duckdb.connect() as connection:
        connection.execute(f"CREATE TABLE t (name {kind})")
        connection.executemany("INSERT INTO t VALUES (?)", [[name] for name in SCHOOLS])

        def found(value: str) -> bool:
            return connection.execute(f"SELECT name FROM t WHERE name = '{value}'").fetchone() is not None

        for value in ("yale", "YALE", " Yale", "Yale", "brown", " brown", " Brown", "Brown "):
            assert (stored.nearest(value) is None) == found(value), value
            assert found(stored.nearest(value) or value), value


def test_only_text_equalities_are_grounded() -> None:
    cells = {"Club": Stored(["O'Briens FC", "Ajax"], ignores_case=True)}
    sql = 'SELECT "Club" FROM t WHERE "Club" = \'OBriens FC\' AND "Year" > 1990'
    grounded = ground(sql, cells.get)
    assert grounded == 'SELECT "Club" FROM t WHERE "Club" = \'O\'\'Briens FC\' AND "Year" > 1990'
    for other in ('SELECT "Club" FROM t WHERE "Club" > \'Ajox\'', "SELECT FROM", 'SELECT "Club" FROM t'):
        assert ground(other, cells.get) == other


@pytest.mark.parametrize(
    "sql",
    [
        "WITH low AS (SELECT LOWER(club) AS club FROM t) SELECT COUNT(*) FROM low WHERE club = 'ajax'",
        "WITH low(club) AS (SELECT LOWER(club) FROM t) SELECT COUNT(*) FROM low WHERE club = 'ajax'",
        "SELECT COUNT(*) FROM (SELECT LOWER(club) AS Club FROM t) AS low WHERE low.club = 'ajax'",
    ],
)
def test_names_that_the_query_gives_are_left_alone(sql: str) -> None:
    cells = {"club": Stored(["Ajax"], ignores_case=False)}
    assert ground(sql, cells.get) == sql
    assert ground("SELECT * FROM t WHERE club = 'ajax'", cells.get) == "SELECT * FROM t WHERE club = 'Ajax'"
