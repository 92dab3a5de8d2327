"""What questions are put to: which rows their SQL runs on."""

from __future__ import annotations

from pathlib import Path

import pytest

from t2s_assets.text2sql.execution import Job, SqlExecutor
from t2s_assets.text2sql.tables import user_tables
from t2s_assets.text2sql.tables.asked import asked_about
from t2s_assets.text2sql.tables.sources import open_source
from t2s_assets_tests.own_data import write_duckdb


@pytest.fixture
def library(tmp_path: Path) -> user_tables.UserDatabase:
    return open_source(db=write_duckdb(tmp_path / "library.duckdb")).database()


def test_tables_are_made_once_however_many_questions_are_asked(library: user_tables.UserDatabase) -> None:
    first, second = (asked_about(library, "sql").database for _ in range(2))
    assert first.key == second.key and len(first.relations) == 3
    assert all(a is b for a, b in zip(first.relations, second.relations))
    books = next(t for t in library.tables if t.name == "books")
    alone = asked_about(books, "sql").database
    assert alone.relations[0] is next(r for r in first.relations if r.name == "books")
    assert alone.key != first.key
    assert books.database("t") is books.database("t") is not books.database("t", typed=True)


@pytest.mark.parametrize(
    ("sql", "named"),
    [
        ("SELECT title FROM Books", {"books"}),
        ("SELECT name FROM authors WHERE id IN (SELECT author_id FROM books)", {"authors", "books"}),
        ("WITH books AS (SELECT * FROM books) SELECT title FROM books", {"books"}),
        ("SELECT 1", set()),
        ("no SQL", {"authors", "books", "Loans"}),
    ],
)
def test_a_query_gets_the_tables_that_it_names(library: user_tables.UserDatabase, sql: str, named: set[str]) -> None:
    assert {r.name for r in asked_about(library, "sql").database_for(sql).relations} == named


def test_queries_over_other_tables_of_one_database_run_together(library: user_tables.UserDatabase) -> None:
    counts = {"authors": 4, "books": 6, "Loans": 5}
    queries = [f"SELECT count(*) FROM {name}" for name in counts] + ["SELECT count(*) FROM authors, Loans", "SELECT 1"]
    asked = asked_about(library, "sql")
    with SqlExecutor(workers=1) as executor:
        outcomes = executor.run([Job(asked.database_for(sql), sql) for sql in queries])
    assert [outcome.rows for outcome in outcomes] == [((n,),) for n in (*counts.values(), 20, 1)]


def test_tables_of_a_query_share_what_is_copied(
    library: user_tables.UserDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All six books are read where a query reads nothing else, and half of them beside another large table."""
    books = next(t for t in library.tables if t.name == "books")
    monkeypatch.setattr(user_tables, "MAX_ROWS", 2)
    monkeypatch.setattr(user_tables, "MAX_CELLS", 6 * len(books.columns))
    asked = asked_about(library, "sql")
    alone = "SELECT count(*) FROM (SELECT * FROM books)"
    joined = f"{alone} WHERE EXISTS (SELECT 1 FROM Loans)"
    with SqlExecutor(workers=1) as executor:
        for _ in range(2):  # in turns: what is copied is the query's own
            outcomes = executor.run([Job(asked.database_for(sql), sql) for sql in (alone, joined)])
            assert [outcome.rows for outcome in outcomes] == [((6,),), ((3,),)]
    assert [asked.rows_copied_for(sql) for sql in (alone, joined)] == [None, 3]
    assert asked.database_for(alone).relations[0] is asked.database_for(alone).relations[0]
    assert books.typed_content.data.num_rows == 2
    assert all(relation.data.num_rows == 2 for relation in asked.database.relations)


def test_only_a_cut_table_that_is_read_is_told(
    library: user_tables.UserDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    books = next(t for t in library.tables if t.name == "books")
    monkeypatch.setattr(user_tables, "MAX_ROWS", 4)
    monkeypatch.setattr(user_tables, "MAX_CELLS", 5 * len(books.columns))
    asked = asked_about(library, "sql")
    assert asked.rows_copied_for("SELECT name FROM authors") is None
    assert asked.rows_copied_for("SELECT books.* FROM authors JOIN books ON author_id = authors.id") == 5
    assert asked.rows_copied_for("SELECT * FROM books") == 5
    one = asked_about(books, "sketch")
    assert (one.database_for("SELECT * FROM t").relations[0].name, one.rows_copied_for("SELECT * FROM t")) == ("t", 5)
    assert one.rows_copied_for("SELECT 1") is one.rows_copied_for("SELECT title FROM t") is None
