"""Texts of a query beside the cells: the SQL that is shown finds in a user's database what the answer found."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest

from t2s_assets.text2sql.tables.sources import as_table
from t2s_assets.text2sql.tables.stored_text import as_stored
from t2s_assets.text2sql.tables.user_tables import UserTable

CELLS = (
    "Name,Country,Height\nK2,Pakistan,8611\nLhotse,Nepal,8516\nlhotse,NEPAL,8500\nO'Neill,Élan,1\nİstanbul,ΕΛΛΑΣ,2\n"
)


@pytest.fixture
def peaks(tmp_path: Path) -> UserTable:
    (tmp_path / "peaks.csv").write_text(CELLS, encoding="utf-8")
    return as_table(tmp_path / "peaks.csv")


@pytest.mark.parametrize(
    ("test", "stored", "found", "any_case"),
    [
        ("\"Name\" = 'k2'", "\"Name\" = 'K2'", True, False),
        ("\"Name\" = 'K2'", "\"Name\" = 'K2'", True, False),
        ("\"Name\" = 'k2' AND \"Country\" = 'PAKISTAN'", "\"Name\" = 'K2' AND \"Country\" = 'Pakistan'", True, False),
        ("\"Name\" = 'o''neill'", "\"Name\" = 'O''Neill'", True, False),
        ("\"Country\" = 'éLAN'", "\"Country\" = 'Élan'", True, False),
        ("\"Name\" = 'İSTANBUL'", "\"Name\" = 'İstanbul'", True, False),
        ("\"Country\" = 'ΕΛΛΑΣ'", "\"Country\" = 'ΕΛΛΑΣ'", True, False),
        ("\"Name\" = 'lhotse'", "\"Name\" = 'lhotse'", True, True),
        ("\"Name\" = 'k3'", "\"Name\" = 'k3'", False, False),
        ("\"Name\" > 'k2'", "\"Name\" > 'k2'", False, False),
        ('"Height" > 8000.50', '"Height" > 8000.50', False, False),
        ('"Name" = ', '"Name" = ', False, False),
    ],
)
def test_texts_are_spelt_as_the_only_cell_that_they_equal(
    peaks: UserTable, test: str, stored: str, found: bool, any_case: bool
) -> None:
    done = as_stored(f'SELECT "Height" FROM t WHERE {test}', peaks, peaks.content)
    assert done.sql == f'SELECT "Height" FROM t WHERE {stored}'
    assert (done.respelt, done.found, done.any_case) == (stored != test, found, any_case)


def test_the_stored_spelling_finds_the_rows_in_duckdb(peaks: UserTable, tmp_path: Path) -> None:
    done = as_stored('SELECT "Height" FROM peaks WHERE "Name" = \'k2\'', peaks, peaks.content)
    with duckdb.connect() as connection:
        connection.execute(f"CREATE TABLE peaks AS FROM '{tmp_path / 'peaks.csv'}'")
        assert connection.execute(done.sql).fetchall() == [(8611,)]


def test_a_name_that_the_query_gives_is_no_column(peaks: UserTable) -> None:
    sql = 'SELECT x FROM (SELECT MAX("Name") AS "Name", 1 AS x FROM t) WHERE "Name" = \'k2\''
    assert as_stored(sql, peaks, peaks.content).sql == sql


def test_rows_that_are_not_read_leave_it_open(peaks: UserTable) -> None:
    done = as_stored('SELECT "Height" FROM t WHERE "Name" = \'k2\'', peaks, None)
    assert (done.sql[-4:], done.respelt, done.any_case) == ("'k2'", False, True)
    assert not as_stored('SELECT "Height" FROM t WHERE "Height" = 5', peaks, None).any_case
