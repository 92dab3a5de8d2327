"""The grammar: it accepts every gold query, and whatever it allows is SQL that runs."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
import sqlglot
from hypothesis import given, settings
from hypothesis import strategies as st

from t2s_assets.text2sql.datasets.wikisql import SourceQuestion, read_wikisql
from t2s_assets.text2sql.decoding import Request
from t2s_assets.text2sql.decoding.grammar import GuideFactory
from t2s_assets.text2sql.decoding.spelt_numbers import numbers_in
from t2s_assets.text2sql.errors import ModelError
from t2s_assets.text2sql.query import cased_as_in, from_sql, identifier, table_identifier, to_sql
from t2s_assets.text2sql.schema import Column, TableSchema, column_names

EOS = frozenset([0])


@pytest.fixture(scope="session")
def guides(tokenizer: Any) -> GuideFactory:
    return GuideFactory(tokenizer, EOS, len(tokenizer) + 24)


def accepts(guides: GuideFactory, tokenizer: Any, schema: TableSchema, question: str, sql: str) -> bool:
    """Whether the canonical tokens of `sql`, then EOS, are what the grammar allows."""
    guide = guides.guide(Request("", question, schema))
    try:
        guide.accept(*tokenizer(sql).input_ids)
    except ModelError:
        return False
    return guide.ended or bool(guide.allowed()[0])


def walk(guides: GuideFactory, tokenizer: Any, schema: TableSchema, question: str, seed: int) -> str:
    """SQL written by choosing among the allowed tokens at random."""
    draw = random.Random(seed)
    guide = guides.guide(Request("", question, schema))
    written = guide.forced()
    while not guide.ended:
        token = draw.choice(np.flatnonzero(guide.allowed()).tolist())
        if token in EOS:
            break
        guide.accept(token)
        written += [token, *guide.forced()]
    return tokenizer.decode(written)


def table(names: list[str], types: str, name: str = "t") -> TableSchema:
    """A table with one column for each name; `types` holds `t` or `r` for each, and is repeated."""
    return TableSchema(
        name,
        tuple(Column(n, "text" if types[i % len(types)] == "t" else "real") for i, n in enumerate(column_names(names))),
    )


@pytest.mark.parametrize("one_of", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_every_gold_query_of_wikisql_is_accepted(
    guides: GuideFactory, tokenizer: Any, wikisql_archive: Path, one_of: int
) -> None:
    source = read_wikisql(wikisql_archive)
    schemas = {(t.split, t.id): t.schema("t") for t in source.tables if t.split != "train"}

    def refused(question: SourceQuestion) -> str | None:
        schema = schemas[question.split, question.table_id]
        sql = to_sql(cased_as_in(question.text, question.query, schema), schema)
        return None if accepts(guides, tokenizer, schema, question.text, sql) else sql

    asked = [question for question in source.questions if question.split != "train"][::one_of]
    assert len(asked) > 2_000
    with ThreadPoolExecutor(2) as pool:  # llguidance works outside the interpreter's lock
        assert [sql for sql in pool.map(refused, asked) if sql is not None] == []


TEXT = st.text(st.characters(blacklist_categories=["Cs"]), max_size=30)


@given(
    names=st.lists(TEXT, min_size=1, max_size=6),
    types=st.text("tr", min_size=1, max_size=6),
    question=st.one_of(TEXT, st.sampled_from(["what's 1,990 or ''x'' at −3.50e2?", "50%", ""])),
    name=st.sampled_from(["t", "select", 'odd "name"', "Table 1"]),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=60, deadline=None)
def test_whatever_the_grammar_allows_parses_binds_and_runs(
    guides: GuideFactory, tokenizer: Any, names: list[str], types: str, question: str, name: str, seed: int
) -> None:
    schema = table(names, types, name)
    sql = walk(guides, tokenizer, schema, question, seed)
    sqlglot.parse_one(sql, read="duckdb")
    columns = ", ".join(f"{identifier(c.name)} {'DOUBLE' if c.type == 'real' else 'VARCHAR'}" for c in schema.columns)
    with duckdb.connect() as connection:
        connection.execute(f"CREATE TABLE {table_identifier(name)} ({columns})")
        connection.execute(sql).fetchall()
    query = from_sql(sql, schema)
    assert all(not isinstance(c.value, str) or (c.value in question and c.value) for c in query.conditions)


def test_names_that_begin_like_others_can_all_be_written(guides: GuideFactory, tokenizer: Any) -> None:
    schema = table(["a", "a b", "a b c", "ab", 'a"', 'a""b', "a b c d"], "t")
    for column in schema.columns:
        sql = f"SELECT {identifier(column.name)} FROM t WHERE {identifier(column.name)} = 'x y'"
        assert accepts(guides, tokenizer, schema, "which x y?", sql)
    assert not accepts(guides, tokenizer, schema, "which x y?", 'SELECT "a c" FROM t')


def test_two_thousand_columns(guides: GuideFactory, tokenizer: Any) -> None:
    schema = table([f"column {i % 50} {'x' * (i // 50)}" for i in range(2000)], "tr")
    for column in schema.columns[::97]:
        assert accepts(guides, tokenizer, schema, "what?", f"SELECT COUNT({identifier(column.name)}) FROM t")
    assert from_sql(walk(guides, tokenizer, schema, "which 12?", 3), schema)


@pytest.mark.parametrize(
    ("sql", "allowed"),
    [
        ('SELECT MAX("Name") FROM t', True),
        ('SELECT SUM("Name") FROM t', False),  # does not bind on text
        ('SELECT AVG("Year") FROM t', True),
        ('SELECT "Name" FROM t WHERE "Name" > \'who is\'', True),
        ('SELECT "Name" FROM t WHERE "Name" = \'who was\'', False),  # no span of the question
        ('SELECT "Name" FROM t WHERE "Name" = \'\'', False),
        ('SELECT "Name" FROM t WHERE "Name" = \'is \'', False),  # ends in white space
        ("SELECT \"Name\" FROM t WHERE \"Name\" = 'O''Brien'", True),
        ("SELECT \"Name\" FROM t WHERE \"Name\" = 'o''brien'", False),  # spans are as typed
        ('SELECT "Name" FROM t WHERE "Year" < 1990', True),
        ('SELECT "Name" FROM t WHERE "Year" < 199', False),
        ('SELECT "Name" FROM t WHERE "Year" = \'1,990\'', False),  # a string on a number
        ('SELECT "Name" FROM t WHERE ' + " AND ".join(['"Year" = 1990'] * 4), True),
        ('SELECT "Name" FROM t WHERE ' + " AND ".join(['"Year" = 1990'] * 5), False),
        ('SELECT "Other" FROM t', False),
        ('SELECT "Name" FROM t WHERE', False),
    ],
)
def test_what_is_allowed(guides: GuideFactory, tokenizer: Any, sql: str, allowed: bool) -> None:
    schema = table(["Name", "Year"], "tr")
    assert accepts(guides, tokenizer, schema, "who is O'Brien of 1,990?", sql) is allowed


@pytest.mark.parametrize(
    ("question", "numbers"),
    [
        ("in 1,990 or 12?", {"1990", "12"}),
        ("1996-97", {"1996", "97"}),
        ("at −3.50", {"3.5", "-3.5", "3.50", "-3.50"}),
        ("over 1.0 or 007.0", {"1", "1.0", "7"}),
        ("id 9007199254740993", {"9007199254740993"}),
        ("12,345,678,901,234,567,890", {"12345678901234567890"}),
        ("0.1234567890123456789", {"0.1234567890123456789"}),
        ("at -" + "123456789" * 4, {"-" + "123456789" * 4}),
        ("a .357 average, 2.50e-3", {"0.357", "0.0025", "2.5"}),
        ("no.50, #7 and 29,500%", {"50", "7", "29500"}),
        ("none", set()),
    ],
)
def test_numbers_of_a_question(question: str, numbers: set[str]) -> None:
    assert numbers <= set(numbers_in(question))
    assert {"9007199254740992", "007.0"}.isdisjoint(numbers_in(question))
    assert bool(numbers) == bool(numbers_in(question))


def test_numbers_may_be_written_as_they_are_spelt_and_no_other(guides: GuideFactory, tokenizer: Any) -> None:
    schema, question = table(["Name", "Height"], "tr"), "who is over 1.90 of 9007199254740993?"

    def allowed(number: str) -> bool:
        return accepts(guides, tokenizer, schema, question, f'SELECT "Name" FROM t WHERE "Height" > {number}')

    assert all(map(allowed, ("1.9", "1.90", "9007199254740993")))
    assert not any(map(allowed, ("1.900", "9007199254740992")))


def test_a_guide_goes_back_where_it_was(guides: GuideFactory, tokenizer: Any) -> None:
    guide = guides.guide(Request("", "who is it in 1990?", table(["Name", "Year"], "tr")))
    guide.accept(*tokenizer('SELECT "Name" FROM t WHERE "').input_ids)
    before = guide.allowed()
    tokens = tokenizer('Year" = 1990').input_ids
    guide.accept(*tokens)
    assert not np.array_equal(guide.allowed(), before)
    guide.undo(len(tokens))
    np.testing.assert_array_equal(guide.allowed(), before)


def test_rows_beyond_the_tokenizer_are_never_allowed(guides: GuideFactory, tokenizer: Any) -> None:
    allowed = guides.guide(Request("", "who?", table(["Name"], "t"))).allowed()
    assert allowed.size == len(tokenizer) + 24
    assert not allowed[len(tokenizer) :].any()


def test_slow_tokenizers_are_refused(tokenizer: Any) -> None:
    class Slow:
        is_fast = False

    with pytest.raises(ModelError, match="fast tokenizer"):
        GuideFactory(Slow(), EOS, len(tokenizer))
