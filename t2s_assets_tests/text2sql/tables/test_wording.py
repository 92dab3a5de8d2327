"""Queries in words."""

from __future__ import annotations

import pytest

from t2s_assets.text2sql.tables.user_tables import UserDatabase, UserTable
from t2s_assets.text2sql.tables.wording import in_words

PEAKS = UserTable.of("peaks", ["Name", "Height (m)"], ["text", "real"], where="test")


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ('SELECT "Name" FROM t', "“Name” in peaks"),
        (
            'SELECT "Height (m)" FROM t WHERE "Name" = \'k2\'',
            "“Height (m)” in peaks, where “Name” is ‘k2’ (in any case)",
        ),
        (
            'SELECT COUNT("Name") FROM t WHERE "Height (m)" > 8000 AND "Height (m)" < 8500.50',
            "how many rows have a “Name” in peaks, where “Height (m)” is over 8000 and “Height (m)” is under 8500.5",
        ),
        ('SELECT MAX("Height (m)") FROM t', "the largest “Height (m)” in peaks"),
        (
            'SELECT MIN("Name") FROM t WHERE "Name" > \'K\'',
            "the alphabetically first “Name” in peaks, where “Name” comes alphabetically after ‘K’",
        ),
        ('SELECT AVG("Height (m)") FROM t', "the average of “Height (m)” in peaks"),
        ('SELECT "Name" FROM t ORDER BY "Name"', None),
        ("no SQL", None),
    ],
)
def test_in_words(sql: str, words: str | None) -> None:
    assert in_words(sql, PEAKS, "sketch") == words


BOOKS = UserTable.of(
    ("lib", "books"), ["title", "price", "out"], ["text", "real", "text"], where="test",
    sql_types=["VARCHAR", "DECIMAL(6,2)", "DATE"],
)  # fmt: skip


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("SELECT title FROM Books", "“title” in lib.books"),
        ('SELECT b."title" FROM books AS b WHERE b.price > 9', "“title” in lib.books, where “price” is over 9"),
        ("SELECT price FROM books WHERE title = 'Sult'", "“price” in lib.books, where “title” is ‘Sult’"),
        (
            "SELECT MAX(out) FROM books WHERE out < '1950-01-01'",
            "the latest “out” in lib.books, where “out” is before ‘1950-01-01’",
        ),
        ("SELECT title FROM books, peaks", None),
        ("SELECT title FROM t", None),
        ('SELECT "Height (m)" FROM peaks', "“Height (m)” in peaks"),
    ],
)
def test_in_words_over_tables_under_their_own_names(sql: str, words: str | None) -> None:
    assert in_words(sql, UserDatabase("library", (PEAKS, BOOKS)), "sql") == words


def test_one_table_under_its_own_name_compares_to_the_letter() -> None:
    assert in_words('SELECT "Name" FROM peaks WHERE "Name" = \'K2\'', PEAKS, "sql") == (
        "“Name” in peaks, where “Name” is ‘K2’"
    )
    assert in_words("SELECT title FROM t WHERE out > '1950'", BOOKS, "sketch") == (
        "“title” in lib.books, where “out” comes alphabetically after ‘1950’"
    )


def test_a_table_called_t_is_what_the_model_was_trained_on() -> None:
    table = UserTable.of("t", ["Name"], ["text"], where="test")
    said = 'SELECT "Name" FROM t WHERE "Name" = \'K2\''
    assert in_words(said, table, "sketch") == "“Name” in t, where “Name” is ‘K2’ (in any case)"
    assert in_words(said, table, "sql") == "“Name” in t, where “Name” is ‘K2’"


def test_whole_numbers_are_told_to_the_last_digit() -> None:
    table = UserTable.of("orders", ["id"], ["real"], where="test")
    said = in_words('SELECT "id" FROM t WHERE "id" = 9007199254740993', table, "sketch")
    assert said == "“id” in orders, where “id” is 9007199254740993"
