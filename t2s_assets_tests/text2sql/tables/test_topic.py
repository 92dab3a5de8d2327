"""Questions that are about something else than the tables, and those that are not."""

from __future__ import annotations

import pytest

from t2s_assets.text2sql.schema import Column, TableSchema
from t2s_assets.text2sql.tables.topic import off_topic


def _schema(*names: str) -> TableSchema:
    return TableSchema("t", tuple(Column(name, "text") for name in names))


PEOPLE = _schema("name", "age", "height_m", "city")


@pytest.mark.parametrize(
    ("question", "schema", "off"),
    [
        ("which players have the most points?", _schema("Points scored", "Player name"), False),
        ("what is the name of it?", _schema("Points scored", "Player name"), True),
        ("what price was first?", _schema("itemPrice"), False),
        ("when was it first seen?", _schema("first_seen"), False),
        ("who is taller than 1.90 m?", PEOPLE, False),
        ("who is the tallest?", PEOPLE, False),
        ("who is the oldest?", PEOPLE, False),
        ("who are older than 40?", PEOPLE, False),
        ("what are the bigger ones?", _schema("Population"), False),
        ("what is over 8,000m?", _schema("n", "m"), False),
        ("what is over 8,000 kg?", _schema("n", "m"), True),
        ("what was in 1990 a?", _schema("a"), True),
        ("who won the super bowl in 1998?", PEOPLE, True),
        ("how many goals did Messi score?", PEOPLE, True),
        ("what is the weather like?", _schema("population", "date"), True),
        ("how many rows are there?", PEOPLE, False),
        ("show the first ten records", PEOPLE, False),
        ("who holds the world record?", PEOPLE, True),
        # Its words are not those of the names whatever it is about.
        ("wie hoch ist der K2?", PEOPLE, False),
        ("qui est le plus grand ?", PEOPLE, False),
    ],
)
def test_what_is_off_topic(question: str, schema: TableSchema, off: bool) -> None:
    assert off_topic(question, [schema]) is off


def test_the_users_name_of_the_table_counts() -> None:
    assert off_topic("how many people are there?", [PEOPLE])
    assert not off_topic("how many people are there?", [PEOPLE], "people")
