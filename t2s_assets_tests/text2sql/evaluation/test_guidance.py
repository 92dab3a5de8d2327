"""Where the greedy answer returns nothing, or does not bind, the likeliest draw that does takes its place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from t2s_assets.text2sql.config import DecodingConfig
from t2s_assets.text2sql.decoding.grounding import MAX_VALUES, ground
from t2s_assets.text2sql.decoding.types import Completion, Request
from t2s_assets.text2sql.evaluation.guidance import SAMPLES, Content, bound, improved, usable
from t2s_assets.text2sql.execution import Database, Outcome, Relation, SqlExecutor
from t2s_assets.text2sql.schema import Column, TableSchema

SCHEMA = TableSchema("t", (Column("Club", "text"), Column("Year", "real")))
ROWS = [("Ajax", 1990.0), ("Celtic", 1991.0)]
DATABASE = Database.of(Relation.from_rows("t", [("Club", "VARCHAR"), ("Year", "DOUBLE")], ROWS))
CONTENT = Content.of(DATABASE)


def written(text: str, logprob: float) -> Completion:
    return Completion(text, (), logprob, 5, 0, 2, 0.1, 0.1, True)


class Drawing:
    """Stands for a decoder: draw n gives the n-th of its answers, the last one from then on."""

    def __init__(self, answers: Sequence[Completion]) -> None:
        self.answers = answers
        self.asked: list[Request] = []

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        self.asked += requests
        return [self.answers[min(r.draw or 0, len(self.answers)) - 1] for r in requests]


def guided(greedy: str, answers: Sequence[Completion], content: Content | None = CONTENT, **config: bool) -> str:
    decoding = DecodingConfig(execution_guided=True, **config)
    decoder = Drawing(answers)
    with SqlExecutor() as executor:
        found = improved(decoder, [Request("p", "q", SCHEMA)], [written(greedy, -0.1)], [content], decoding, executor)
    assert len(decoder.asked) in (0, SAMPLES)
    return found[0].text


EMPTY = 'SELECT "Year" FROM t WHERE "Club" = \'Ajx\''
GOOD = 'SELECT "Year" FROM t WHERE "Year" < 1991'


def test_the_likeliest_that_returns_something_wins() -> None:
    answers = [written(GOOD, -3.0), written("SELECT nope FROM t", -1.0), written('SELECT MAX("Year") FROM t', -2.0)]
    assert guided(EMPTY, answers) == 'SELECT MAX("Year") FROM t'


def test_an_answer_that_returns_something_stays() -> None:
    assert guided(GOOD, [written('SELECT "Club" FROM t', -0.01)]) == GOOD


def test_without_a_usable_draw_or_rows_the_greedy_answer_stays() -> None:
    assert guided(EMPTY, [written("SELECT nope FROM t", -1.0)]) == EMPTY
    assert guided(EMPTY, [written(GOOD, -1.0)], None) == EMPTY


def test_grounding_comes_before_guidance() -> None:
    assert guided(EMPTY, [written(GOOD, -1.0)], value_grounding=True).endswith("'Ajax'")


@pytest.mark.parametrize(
    ("kinds", "grounded"),
    [
        (["VARCHAR COLLATE NOCASE"], "ajax"),
        (["VARCHAR"], "Ajax"),
        (["VARCHAR", "VARCHAR COLLATE NOCASE"], "Ajax"),  # which of them a query means is not asked
        (["DOUBLE"], "ajax"),
    ],
)
def test_a_value_is_grounded_where_the_columns_collation_finds_no_cell(kinds: list[str], grounded: str) -> None:
    tables = [
        Relation.from_rows(f"t{at}", [("Club", kind)], [("Ajax" if "VARCHAR" in kind else 1.0,), (None,)])
        for at, kind in enumerate(kinds)
    ]
    sql = "SELECT * FROM t0 WHERE Club = '{}'"
    assert ground(sql.format("ajax"), Content.of(Database.of(*tables)).cells) == sql.format(grounded)


def test_the_cells_of_a_column_are_read_once_for_a_database() -> None:
    database = Database.of(Relation.from_rows("t", [("Club", "VARCHAR"), ("Town", "VARCHAR")], [("Ajax", "Bern")] * 3))
    first = Content.of(database).cells("Club")
    assert first is not None and first.nearest("Ajex") is None and first.nearest("Ajaxx") == "Ajax"
    assert Content.of(database).cells("club") is first
    assert Content.of(database).cells("Town") is not first


def test_columns_of_too_many_values_are_left_alone() -> None:
    rows = [(str(number), "same") for number in range(MAX_VALUES + 1)]
    database = Database.of(Relation.from_rows("t", [("Club", "VARCHAR"), ("Town", "VARCHAR")], rows))
    assert Content.of(database).cells("Club") is None
    assert Content.of(database).cells("Town") is not None
    assert Content.of(database).cells("Year") is None


def test_nothing_but_nulls_is_not_usable() -> None:
    assert not usable(Outcome("ok", ("a",), rows=((None,),)))
    assert not usable(Outcome("ok", ("a",)))
    assert usable(Outcome("ok", ("a",), rows=((0,),)))


class DrawingEach:
    """Stands for a decoder: of each prompt, draw n gives the n-th of its answers."""

    def __init__(self, answers: Mapping[str, Sequence[Completion]]) -> None:
        self.answers = answers

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        return [self.answers[r.prompt][(r.draw or 0) - 1] for r in requests]


def test_of_a_batch_each_question_has_its_own_draws_and_their_cost() -> None:
    def year(number: int) -> str:
        return f'SELECT "Year" FROM t WHERE "Year" > {number}'

    cut = replace(written(year(3), -0.1), finished=False)
    slow = replace(written(year(4), -9.0), prefill_seconds=0.5, decode_seconds=2.0, forward_passes=7)
    answers = {name: [written(year(at), -2.0)] * (SAMPLES - 2) + [cut, slow] for at, name in enumerate("abcd")}
    greedy = [EMPTY, GOOD, EMPTY, EMPTY]
    requests = [Request(prompt, "q", SCHEMA) for prompt in "abcd"]
    contents = [CONTENT, CONTENT, None, CONTENT]
    written_ = [written(text, -0.1) for text in greedy]
    with SqlExecutor() as executor:
        config = DecodingConfig(execution_guided=True)
        found = improved(DrawingEach(answers), requests, written_, contents, config, executor)
    assert [c.text for c in found] == [year(0), GOOD, EMPTY, year(3)]
    assert (found[1], found[2]) == (written_[1], written_[2])
    for at in (0, 3):
        # The draws are decoded together: their passes add up, and the slowest decides how long they take.
        assert found[at].forward_passes == 2 + 2 * (SAMPLES - 1) + 7
        assert (found[at].prefill_seconds, found[at].decode_seconds) == (0.1, pytest.approx(0.1 + 2.5))
        assert found[at].logprob == -2.0


PEOPLE = TableSchema("people", (Column("name", "text", "VARCHAR"), Column("born", "text", "DATE")))
TOWNS = TableSchema("towns", (Column("town", "text", "VARCHAR"), Column("people", "real", "BIGINT")))


def told(greedy: str, answers: Sequence[Completion], kind: str = "select") -> tuple[str, list[Request]]:
    decoder = Drawing(answers)
    request = Request("p", "q", (PEOPLE, TOWNS), kind)  # type: ignore[arg-type]
    with SqlExecutor() as executor:
        found = bound(decoder, [request], [written(greedy, -0.1)], executor)
    return found[0].text, decoder.asked


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT town FROM people",  # of another table
        "SELECT p.name FROM people AS q",  # an alias that is not there
        "SELECT town, COUNT(*) FROM towns",  # not grouped
        "SELECT name FROM people WHERE born > 5",  # types that do not go together
        "SELECT town FROM towns WHERE people = (SELECT name, born FROM people)",
    ],
)
def test_what_does_not_bind_gives_way_to_the_likeliest_draw_that_does(sql: str) -> None:
    draws = [written("SELECT nope FROM towns", -0.5), written("SELECT town FROM towns", -1.0), written(sql, -0.2)]
    assert told(sql, draws)[0] == "SELECT town FROM towns"


def test_what_binds_stays_whatever_it_returns() -> None:
    sql = "SELECT name FROM people WHERE born > DATE '2000-01-01'"
    assert told(sql, [written("SELECT town FROM towns", -0.01)]) == (sql, [])


def test_where_no_draw_binds_the_greedy_answer_stays() -> None:
    assert told("SELECT town FROM people", [written("SELECT nope FROM towns", -0.5)])[0] == "SELECT town FROM people"


def test_sketches_bind_by_their_grammar() -> None:
    assert told("SELECT nope FROM people", [written("SELECT town FROM towns", -1.0)], "sketch")[1] == []
