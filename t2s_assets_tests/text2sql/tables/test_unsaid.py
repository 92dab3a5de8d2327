"""What a question asks for and the sketch cannot say."""

from __future__ import annotations

from pathlib import Path

import pytest

from t2s_assets.text2sql.tables.asked import asked_about
from t2s_assets.text2sql.tables.sources import as_table
from t2s_assets.text2sql.tables.unsaid import unsaid

NAMES = ["orders", "Region", "Amount"]
TELLING = [*NAMES, "Points per game", "Best time", "Home or away"]
COUNT = 'SELECT COUNT("Region") FROM t WHERE "Region" = \'EU\''
LARGEST = 'SELECT MAX("Amount") FROM t'
LISTED = 'SELECT "Region" FROM t WHERE "Amount" > 3'
PLAIN = 'SELECT "Region" FROM t'


@pytest.mark.parametrize(
    ("question", "sql", "said", "why"),
    [
        ("how many orders are not from the EU?", COUNT, "not", "excludes nothing"),
        ("how many orders aren't from the EU?", COUNT, "aren't", "excludes nothing"),
        ("How many orders are from everywhere EXCEPT the EU?", COUNT, "EXCEPT", "excludes nothing"),
        ("how many orders are from the EU or the US?", COUNT, "or", "AND alone"),
        ("which regions have an amount of under 3 or more than 7?", LISTED, "or", "AND alone"),
        ("which regions have an amount below $3 or above $7?", LISTED, "or", "AND alone"),
        ("which regions have an amount of at least 3?", LISTED, "at least", "the bound itself"),
        ("which regions have an amount of 3 or more?", LISTED, "or more", "the bound itself"),
        ("which regions have an amount of 3 or above in 2024?", LISTED, "or above", "the bound itself"),
        ("which regions have no more than 3?", LISTED, "no more than", "the bound itself"),
        ("which regions are between 3 and 7?", LISTED, "between", "both bounds"),
        ("what is the total amount per region?", 'SELECT SUM("Amount") FROM t', "per", "groups nothing"),
        ("how many orders did each region have?", COUNT, "each", "groups nothing"),
        ("what are the top 3 regions by amount?", PLAIN, "top 3", "puts nothing in order"),
        ("what are the two largest amounts?", LARGEST, "two largest", "puts nothing in order"),
        ("what is the second-highest amount?", LARGEST, "second-highest", "puts nothing in order"),
        ("which region has the largest amount?", PLAIN, "largest", "does not look for it"),
        ("which region has the largest amount?", LARGEST, "largest", "not whose it is"),
        ("who ordered the least?", 'SELECT MIN("Amount") FROM t', "least", "not whose it is"),
        ("how many different regions are there?", COUNT, "different", "equal values"),
        ("what percentage of orders is from the EU?", COUNT, "percentage of", "several figures"),
        ("how many more orders has the EU than the US?", COUNT, "how many more", "several figures"),
    ],
)
def test_it_is_told(question: str, sql: str, said: str, why: str) -> None:
    (line,) = unsaid(question, sql, NAMES)
    assert line.startswith(f'the question says "{said}", and ')
    assert why in line


@pytest.mark.parametrize(
    ("question", "sql"),
    [
        ("how many orders are from the EU?", COUNT),
        ("what is the largest amount?", LARGEST),
        ("which regions have an amount of more than 3?", LISTED),
        ("how many points per game did they make?", COUNT),  # a column's name
        ("home or away?", 'SELECT "Home or away" FROM t'),
        ("what is the best time?", 'SELECT "Best time" FROM t'),
        ("how many did not qualify?", 'SELECT COUNT("Region") FROM t WHERE "Region" = \'Did not qualify\''),
        ("which amounts are between 3 and 7?", 'SELECT "Amount" FROM t WHERE "Amount" > 3 AND "Amount" < 7'),
        ("what is the region of each order?", PLAIN),  # a list has one for each
        ("what was the top 16 region?", 'SELECT "Region" FROM t WHERE "Region" = \'Top 16\''),
        ("in which westernmost forest is the guest?", PLAIN),
        ("what is the game between Melbourne and Footscray?", PLAIN),
        ("how many are not SQL?", "DROP TABLE t"),
    ],
)
def test_nothing_is_said_of_what_the_sketch_can_say(question: str, sql: str) -> None:
    assert unsaid(question, sql, TELLING) == ()


def test_each_thing_is_told_once_and_in_one_line() -> None:
    lines = unsaid("which 3 largest regions are not in the EU, not ever, or per se?", PLAIN, NAMES)
    assert [line.split('"')[1] for line in lines] == ["not", "or", "3 largest"]


def test_a_text_that_no_row_holds_hides_nothing(tmp_path: Path) -> None:
    path = tmp_path / "orders.csv"
    path.write_text("region,amount\nEU,1\nUS,2\nEU or UK,3\n")
    about = asked_about(as_table(path), "sketch")
    sql = 'SELECT COUNT("amount") FROM t WHERE "region" = \'{}\''
    (line,) = about.notes_for(sql.format("EU or US"), ran=True, question="how many orders from EU or US?")
    assert '"or"' in line
    assert about.notes_for(sql.format("eu or uk"), ran=True, question="how many orders from EU or UK?") == ()
    schema = asked_about(as_table("CREATE TABLE orders (region TEXT, amount REAL)"), "sketch")
    assert schema.notes_for(sql.format("EU or US"), ran=False, question="how many orders from EU or US?") == ()


def test_models_of_sql_text_say_anything() -> None:
    table = as_table("CREATE TABLE orders (region TEXT, amount REAL)")
    question, sql = "which regions are not large?", "SELECT region FROM orders"
    assert asked_about(table, "sql").notes_for(sql, ran=False, question=question) == ()
    (line,) = asked_about(table, "sketch").notes_for('SELECT "region" FROM t', ran=False, question=question)
    assert "not" in line
