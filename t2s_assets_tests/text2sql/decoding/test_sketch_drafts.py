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


@pytest.mark.parametrize(
    ("guessed", "following", "written", "whole"),
    [
        # The column tested, whatever was selected; and which one comes second.
        ('SELECT "Player" FROM t WHERE "', "Go", 'SELECT "Club"', """ FROM t WHERE "Goals" > 20"""),
        (
            """SELECT "Club" FROM t WHERE "Away team" = 'x AND y' AND \"""",
            "Year",
            'SELECT "Club" FROM t WHERE "Goals" > 20 AND ',
            '"Year" = 20',
        ),
        ('SELECT COUNT("', "Go", "SELECT ", '"Goals" FROM t'),
        # The operator and the value of a column, but of no other.
        ('SELECT "Year" FROM t WHERE "Goals"', " <", 'SELECT "Club" FROM t WHERE "Goals"', " < 20"),
        ('SELECT "Year" FROM t WHERE "Year"', " <", 'SELECT "Club" FROM t WHERE "Goals"', " > 20"),
        (
            """SELECT "Year" FROM t WHERE "Player" = '""",
            "Lio",
            'SELECT "Club" FROM t WHERE "Player"',
            " = 'Lionel Messi'",
        ),
        (
            """SELECT "Year" FROM t WHERE "Date" = '""",
            "Lio",
            'SELECT "Club" FROM t WHERE "Player"',
            " = 'O''Higgins'",
        ),
        # Whether it goes on, or ends.
        ("""SELECT "Year" FROM t WHERE "Goals" > 20""", "", """SELECT "Club" FROM t WHERE "Goals" > 20""", None),
        (
            """SELECT "Player" FROM t WHERE "Club" = 'a' AND "Goals" > 20""",
            " AND",
            """SELECT "Player" FROM t WHERE "Club" = 'a' AND "Goals" > 20""",
            """ AND "Year" = """,
        ),
        # Nothing of a value that has not ended, of a number's beginning, or of a part of a character.
        ("""SELECT "Year" FROM t WHERE "Goals" >""", " ", """SELECT "Club" FROM t WHERE "Goals" > 20""", ""),
        (
            """SELECT "Year" FROM t WHERE "Club" = '""",
            "\ufffd",
            """SELECT "Club" FROM t WHERE "Club" = """,
            "'O''Higgins'",
        ),
        (
            """SELECT "Year" FROM t WHERE "Club" = 'O""",
            "''",
            """SELECT "Year" FROM t WHERE "Club" = 'O""",
            "''Higgins'",
        ),
    ],
)
def test_what_the_model_says_along_a_wrong_guess_comes_first(
    guessed: str, following: str, written: str, whole: str | None
) -> None:
    question = "Which player of the club O'Higgins scored more than 20 goals against Lionel Messi?"
    draft = SketchDraft(question, SCHEMA)
    before = draft.continuation(written)
    draft.learn(guessed, following)
    after = draft.continuation(written)
    assert after == written if whole is None else after.startswith(written + whole)
    nothing = (" > 20", " = 'O''Higgins'", "''Higgins'", "", "'O''Higgins'")  # is learnt for this place
    assert (after == before) == (whole in nothing)


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


def test_a_row_learns_from_the_points_that_it_did_not_come_to(tokenizer: Any) -> None:
    """With "Club" chosen in place of "Player", the model's word on what it would test counts."""
    asked = request(SCHEMA, "Which player of the club O'Higgins scored more than 20 goals?")
    eos = frozenset([tokenizer.eos_token_id])

    def guessed_after(likeliest: str) -> str:
        ids, selected = encode(tokenizer, [asked.prompt, 'SELECT "Club"'])
        row = Row(0, asked, ids, shared=0, limit=200)
        row.guide = GuideFactory(tokenizer, eos, len(tokenizer)).guide(asked)
        row.draft = Drafter(tokenizer, eos).draft(asked, ids)
        row.start(0)
        row.feed(200)
        likeliest_tokens = [encode(tokenizer, [likeliest])[0][0]] * len(row.points)
        row.choose(lambda number, refused=None: (selected[len(row.written)], 0.0), eos, likeliest_tokens)
        assert tokenizer.decode(row.written).startswith('SELECT "C')
        row.feed(200)
        return tokenizer.decode([token for point in row.points for token in point.segment])

    assert ' WHERE "Player"' in guessed_after("?")
    assert ' WHERE "Goals" > 20' in guessed_after("Goals")


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


@pytest.mark.parametrize("spelt", [1, 30, 45], ids=["in the first word", "up to a column", "in the value"])
def test_a_text_spelt_by_other_tokens_is_gone_on_with(tokenizer: Any, spelt: int) -> None:
    """A young model's first tokens of a value, say, are seldom those of its training."""
    asked = request(SCHEMA, "Which player of the club O'Higgins scored?")
    drafter = Drafter(tokenizer, frozenset([tokenizer.eos_token_id]))
    sql = """SELECT "Player" FROM t WHERE "Club" = 'O''Higgins'"""
    written = [*(encode(tokenizer, [letter])[0][0] for letter in sql[:spelt])]
    assert written != encode(tokenizer, [sql])[0][:spelt] and tokenizer.decode(written) == sql[:spelt]
    draft = drafter.draft(asked, encode(tokenizer, [asked.prompt])[0])
    while len(tokenizer.decode(written)) < len(sql):
        token = draft.guess(written, 8, None)  # eight guesses in, none is a copy
        assert token is not None
        written.append(token)
    assert tokenizer.decode(written) == sql


@pytest.mark.parametrize("written", ["Sure", 'SELECT "Player", "Club'])
def test_what_is_no_sketch_has_no_guess_of_one(tokenizer: Any, written: str) -> None:
    """Without a grammar, a model may write anything."""
    asked = request(SCHEMA, "Which player of the club O'Higgins scored?")
    draft = Drafter(tokenizer, frozenset([0])).draft(asked, encode(tokenizer, [asked.prompt])[0])
    assert draft.guess(encode(tokenizer, [written])[0], 8, None) is None


def test_a_line_s_end_that_a_tokenizer_takes_for_a_space() -> None:
    """As T5's is built."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pieces = ["\u2581", "\u2581WHERE", "\u2581=", *"\"'?.=", '\u2581"', "\u2581'", "\u2581?", *"WHERE", "x"]
    built = Tokenizer(models.Unigram([("<unk>", 0.0), *((p, -float(len(pieces) - len(p))) for p in pieces)], unk_id=0))
    built.normalizer = normalizers.Replace(Regex(r"\s+"), " ")
    built.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=built, unk_token="<unk>")
    assert encode(tokenizer, ["\n"]) == encode(tokenizer, [" "])
    drafter = Drafter(tokenizer, frozenset())
    assert tokenizer.convert_ids_to_tokens(drafter.hints)[0] == "\u2581WHERE"


def test_within_a_text_sentencepiece_puts_no_space_of_its_own() -> None:
    """As Llama's first tokenizers are built."""
    from tokenizers import Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    vocabulary = {name: id for id, name in enumerate(["<unk>", *bytes_, "\u2581", *"=ry", "ry", "\u2581=", "\u2581ry"])}
    merges = [("r", "y"), ("\u2581", "="), ("\u2581", "ry")]
    built = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    built.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    taken_away = decoders.Strip(" ", 1, 0)
    built.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), taken_away]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=built, unk_token="<unk>")
    assert tokenizer.convert_ids_to_tokens(encode(tokenizer, ["ry ="])[0]) == ["\u2581ry", "\u2581="]
    drafter = Drafter(tokenizer, frozenset())
    assert tokenizer.convert_ids_to_tokens(drafter.tokens_within("ry =")) == ["ry", "\u2581="]
    assert tokenizer.convert_ids_to_tokens(drafter.tokens_within(" = ry")) == ["\u2581=", "\u2581ry"]
    space = tokenizer.convert_tokens_to_ids("\u2581=")
    assert (tokenizer.decode([space]), drafter.text_within(space)) == ("=", " =")


def test_copies_end_where_a_sketch_has_no_idea(tokenizer: Any) -> None:
    """A wrong copy is likely to be followed by wrong ones, so a pass has few."""
    asked = request(SCHEMA, "what what what what what what what what what what what what?")
    drafter = Drafter(tokenizer, frozenset([0]))
    ids = encode(tokenizer, [asked.prompt])[0]
    draft = drafter.draft(replace(asked, kind="select"), ids)
    what = encode(tokenizer, [" what what what"])[0]
    assert draft.guess(what, 0, None) is not None
    assert draft.guess(what, 8, None) is None
