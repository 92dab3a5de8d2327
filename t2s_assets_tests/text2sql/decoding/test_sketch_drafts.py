"""Guesses at a sketch: what they say, that nothing upsets them, and how many forward passes they save."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t2s_assets.text2sql.decoding.drafts import Drafter
from t2s_assets.text2sql.decoding.grammar import GuideFactory
from t2s_assets.text2sql.decoding.rows import Row
from t2s_assets.text2sql.decoding.sketch_drafts import SketchDraft
from t2s_assets.text2sql.plain_text import encode
from t2s_assets.text2sql.schema import Column, TableSchema
from t2s_assets_tests.tiny import request

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"

SCHEMA = TableSchema(
    "t",
    (
        Column("Player", "text"),
        Column("Club", "text"),
        Column("Goals", "real"),
        Column("Year", "real"),
        Column("Away team", "text"),
        Column("Away team score", "text"),
        Column("Date", "text"),
    ),
)

START = "SELECT "


@pytest.mark.parametrize(
    ("question", "written", "whole"),
    [
        (
            "Which player of Real Madrid scored more than 20 goals?",
            "",
            """SELECT "Player" FROM t WHERE "Goals" > 20""",
        ),
        (
            "What is the highest year when the club is O'Higgins?",
            "",
            """SELECT MAX("Year") FROM t WHERE "Club" = 'O''Higgins'""",
        ),
        ("When the club is O'Higgins, what is the year?", "", """SELECT "Year" FROM t WHERE "Club" = 'O''Higgins'"""),
        (
            "Name the club with goals less than 3 and year of 2004",
            "",
            """SELECT "Club" FROM t WHERE "Goals" < 3 AND "Year" = 2004""",
        ),
        (
            "What was the away team score on July 16, 2011?",
            "",
            """SELECT "Away team score" FROM t WHERE "Date" = 'July 16, 2011'""",
        ),
        (
            "what is the club of lionel messi?",
            """SELECT "Club" FROM t WHERE "Player" = 'lio""",
            """SELECT "Club" FROM t WHERE "Player" = 'lionel messi'""",
        ),
        ("Which clubs?", """SELECT COUNT(""", """SELECT COUNT("Club") FROM t WHERE "Player" = """),
        (
            "Which club in 2004?",
            """SELECT "Club" FROM t WHERE "Year" < 2004""",
            """SELECT "Club" FROM t WHERE "Year" < 2004""",
        ),
        ("Which club?", """SELECT "Club" FROM t WHERE "Goals" > """, """SELECT "Club" FROM t WHERE "Goals" > """),
        ("", "", """SELECT "Player" FROM t WHERE "Club" = """),
        ("¿Qué club ganó Raúl?", "", """SELECT "Club" FROM t WHERE "Player" = 'Raúl'"""),
    ],
)
def test_what_is_guessed(question: str, written: str, whole: str) -> None:
    assert SketchDraft(question, SCHEMA).continuation(written) == whole


@given(
    question=st.text(alphabet="aZ 0.,-'\"()%é\n\u2019?", max_size=30),
    names=st.lists(
        st.text(alphabet="aZ 0.\"'%é(", min_size=1, max_size=8), min_size=1, max_size=4, unique_by=str.lower
    ),
    written=st.text(alphabet="SELCTFROMWHAND\"'=<> ()t0aé", max_size=40),
    real=st.booleans(),
)
@settings(max_examples=400, deadline=None)
def test_nothing_upsets_it_and_what_is_written_stays(question: str, names: list[str], written: str, real: bool) -> None:
    schema = TableSchema("t", tuple(Column(name, "real" if real else "text") for name in names))
    draft = SketchDraft(question, schema)
    draft.continuation(written)  # anything may stand there
    whole = draft.continuation("")
    assert whole.startswith("SELECT ")
    for end in range(len(whole)):
        assert draft.continuation(whole[:end]).startswith(whole[:end])


def test_a_wide_table_has_no_more_conditions_than_a_query_may() -> None:
    years = TableSchema("t", tuple(Column(f"Sales {number}", "real") for number in range(2000)))
    whole = SketchDraft("what is the sales in 2004?", years).continuation("")
    assert whole.count(" AND ") == 3 and whole.count(" WHERE ") == 1


def test_no_sum_of_text_is_guessed() -> None:
    whole = SketchDraft("What is the total of the players?", SCHEMA).continuation("SELECT SUM(")
    assert whole.startswith('SELECT SUM("Goals")')


@pytest.fixture(scope="module")
def passes() -> ModuleType:
    """The benchmark that walks along gold SQL."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        spec = importlib.util.spec_from_file_location("passes_benchmark", BENCHMARKS / "passes.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(BENCHMARKS))
    return module


def walk(passes: ModuleType, tokenizer: Any, asked: Any, sql: str, guesses: int) -> tuple[int, int]:
    eos = tokenizer.eos_token_id
    ids, gold = encode(tokenizer, [asked.prompt, sql])
    row = Row(0, asked, ids, shared=0, limit=len(gold) + 32)
    row.guide = GuideFactory(tokenizer, frozenset([eos]), len(tokenizer)).guide(asked)
    row.draft = Drafter(tokenizer, frozenset([eos])).draft(asked, ids)
    row.start(0)
    walked = passes.walked(row, gold, guesses, eos)
    assert walked is not None and row.written == gold
    return walked


def test_a_sketch_that_is_guessed_whole_takes_one_pass(passes: ModuleType, tokenizer: Any) -> None:
    asked = request(SCHEMA, "Which player of the club O'Higgins scored more than 20 goals?")
    sql = """SELECT "Player" FROM t WHERE "Club" = 'O''Higgins'"""
    alone, nothing_wrong = walk(passes, tokenizer, asked, sql, 0)
    assert alone > 10 and nothing_wrong == 0
    # The model ends where the guess goes on to the goals.
    assert walk(passes, tokenizer, asked, sql, 200)[0] == 1


def test_where_the_model_differs_the_guess_follows_it(passes: ModuleType, tokenizer: Any) -> None:
    asked = request(SCHEMA, "Which player of the club O'Higgins scored more than 20 goals?")
    sql = """SELECT COUNT("Player") FROM t WHERE "Club" = 'O''Higgins'"""
    took, wrong = walk(passes, tokenizer, asked, sql, 200)
    assert took == 2  # the aggregate is the model's
    assert wrong > 10


def test_fewer_guesses_than_there_is_room_for(passes: ModuleType, tokenizer: Any) -> None:
    asked = request(SCHEMA, "Which player of the club O'Higgins scored more than 20 goals?")
    sql = """SELECT "Player" FROM t WHERE "Club" = 'O''Higgins'"""
    took = [walk(passes, tokenizer, asked, sql, guesses)[0] for guesses in (0, 2, 4, 8, 16)]
    assert took == sorted(took, reverse=True) and took[0] > took[2] > took[4]


def test_special_tokens_in_a_question_are_text(tokenizer: Any) -> None:
    asked = request(SCHEMA, "Which player of the club Ends<|end|>Here?")
    drafter = Drafter(tokenizer, frozenset([0]))
    draft = drafter.draft(asked, encode(tokenizer, [asked.prompt])[0])
    written = encode(tokenizer, ["""SELECT "Player" FROM t WHERE "Club" = 'Ends"""])[0]
    while (token := draft.guess(written, 0, None)) is not None and len(written) < 100:
        assert token != 0
        written.append(token)
    assert tokenizer.decode(written).endswith("Ends<|end|>Here'")


def test_copies_end_where_a_sketch_has_no_idea(tokenizer: Any) -> None:
    """A wrong copy is likely to be followed by wrong ones, so a pass has few."""
    asked = request(SCHEMA, "what what what what what what what what what what what what?")
    drafter = Drafter(tokenizer, frozenset([0]))
    ids = encode(tokenizer, [asked.prompt])[0]
    draft = drafter.draft(replace(asked, kind="select"), ids)
    what = encode(tokenizer, [" what what what"])[0]
    assert draft.guess(what, 0, None) is not None
    assert draft.guess(what, 8, None) is None
