"""Any SELECT: what people ask is accepted, names not there or not in scope are refused, and all that ends binds."""

from __future__ import annotations

import random
import re
from collections import defaultdict
from typing import Any

import duckdb
import numpy as np
import pytest
import sqlglot
from hypothesis import given, settings
from hypothesis import strategies as st

from t2s_assets.text2sql.decoding import Request
from t2s_assets.text2sql.decoding.grammar import GuideFactory
from t2s_assets.text2sql.decoding.scopes import kinds
from t2s_assets.text2sql.decoding.select_grammar import CLOCK, DAYS, select_grammar
from t2s_assets.text2sql.dialects.reading import styled
from t2s_assets.text2sql.errors import PromptError
from t2s_assets.text2sql.execution import check_sql
from t2s_assets.text2sql.plain_text import encode, protect
from t2s_assets.text2sql.query import identifier, table_identifier
from t2s_assets.text2sql.schema import Column, TableSchema, column_names
from t2s_assets_tests.text2sql.decoding.select_queries import DDL, OUT_OF_SCOPE, QUERIES, SCOPED, SHOP, WRONG
from t2s_assets_tests.tiny import tiny_tokenizer

EOS = frozenset([0])
TABLES = {schema.name: [c.name for c in schema.columns] for schema in SHOP}


@pytest.fixture(scope="module")
def guides(tokenizer: Any) -> GuideFactory:
    return GuideFactory(tokenizer, EOS, len(tokenizer))


@pytest.fixture(scope="module")
def shop() -> Any:
    with duckdb.connect() as connection:
        connection.execute(DDL)
        yield connection


def as_completion(sql: str, schemas: tuple[TableSchema, ...]) -> str:
    """In the style of training's completions, which is what the grammar has to accept."""
    return styled(sqlglot.parse_one(sql, read="duckdb"), schemas)


def accepts(guides: GuideFactory, tokenizer: Any, sql: str, schemas: tuple[TableSchema, ...] = SHOP) -> bool:
    guide = guides.guide(Request("", "", schemas, "select"))
    for token in tokenizer(sql).input_ids:
        if not (guide.allowed()[token] and guide.admits(token)):
            return False
        guide.accept(token)
    return guide.ended or bool(guide.allowed()[0] and guide.admits(0))


@pytest.mark.parametrize("sql", QUERIES + SCOPED)
def test_what_people_ask_is_accepted_as_the_guard_accepts_it(
    guides: GuideFactory, tokenizer: Any, shop: Any, sql: str
) -> None:
    written = as_completion(sql, SHOP)
    check_sql(written, TABLES)
    shop.execute(f"EXPLAIN {written}")
    assert accepts(guides, tokenizer, written), written
    assert as_completion(written, SHOP) == written


@pytest.mark.parametrize("sql", WRONG)
def test_what_is_not_there_is_refused(guides: GuideFactory, tokenizer: Any, sql: str) -> None:
    assert not accepts(guides, tokenizer, sql)


@pytest.mark.parametrize("sql", OUT_OF_SCOPE)
def test_what_is_out_of_scope_is_refused(guides: GuideFactory, tokenizer: Any, shop: Any, sql: str) -> None:
    with pytest.raises(duckdb.Error):
        shop.execute(f"EXPLAIN {sql}")
    assert not accepts(guides, tokenizer, as_completion(sql, SHOP))


@pytest.mark.parametrize(
    ("several", "one"),
    [
        ("SELECT price FROM products", "SELECT price FROM products LIMIT 1"),
        ("SELECT price FROM products LIMIT 2", "SELECT MAX(price) FROM products LIMIT 2"),
        ("SELECT SUM(price) FROM products GROUP BY title", "SELECT SUM(price) FROM products"),
        ("SELECT SUM(price) OVER () FROM products", "SELECT SUM(price) OVER () FROM products LIMIT 1"),
        ("SELECT price FROM products UNION SELECT stock FROM products", "SELECT 2.5"),
    ],
)
@pytest.mark.parametrize(
    "around", ["SELECT title FROM products WHERE price > ({})", "SELECT city, ({}) FROM customers"]
)
def test_a_value_comes_of_one_row_whatever_the_tables_hold(
    guides: GuideFactory, tokenizer: Any, shop: Any, around: str, several: str, one: str
) -> None:
    with shop.cursor() as connection:
        connection.execute("BEGIN")
        connection.execute("INSERT INTO products VALUES (1, 'Pen', 'Desk', 2, 3), (2, 'Ink', 'Desk', 4, 5)")
        connection.execute("INSERT INTO customers (city) VALUES ('Oslo')")
        assert len(connection.execute(around.format(one)).fetchall()) <= 2
        with pytest.raises(duckdb.Error, match="More than one row"):
            connection.execute(around.format(several)).fetchall()
        connection.execute("ROLLBACK")
    assert accepts(guides, tokenizer, as_completion(around.format(one), SHOP))
    assert not accepts(guides, tokenizer, as_completion(around.format(several), SHOP))


@pytest.mark.parametrize(
    "literal", ["2024-2-30", "2023-2-29", "2024-13-5", "2024-1-5 25:00", "2024-1-5 10:60", "2024-1"]
)
def test_no_day_that_duckdb_cannot_read(guides: GuideFactory, tokenizer: Any, shop: Any, literal: str) -> None:
    with pytest.raises(duckdb.ConversionException):
        shop.execute(f"SELECT CAST('{literal}' AS TIMESTAMP)")
    assert not accepts(guides, tokenizer, f'SELECT "id" FROM orders WHERE "order_date" > \'{literal}\'')


@pytest.mark.parametrize(("pattern", "type_"), [(DAYS, "DATE"), (DAYS, "TIMESTAMP"), (CLOCK, "TIME")])
def test_duckdb_reads_every_day_and_time_that_may_be_written(shop: Any, pattern: str, type_: str) -> None:
    @given(literal=st.from_regex(re.compile(pattern, re.ASCII), fullmatch=True))
    @settings(max_examples=200, deadline=None)
    def reads(literal: str) -> None:
        shop.execute(f"SELECT CAST('{literal}' AS {type_})")
        assert all(kinds.begins_temporal(literal[:end]) for end in range(len(literal)))
        assert kinds.begins_temporal(f"{literal}'") == kinds.spelt_temporal(literal)

    reads()


@pytest.mark.parametrize("like", ["LIKE 'a!' ESCAPE '!'", "LIKE 'a' ESCAPE '!!'", "LIKE LOWER(name) ESCAPE '!'"])
def test_no_pattern_that_may_end_with_its_escape(guides: GuideFactory, tokenizer: Any, like: str) -> None:
    assert not accepts(guides, tokenizer, f'SELECT "name" FROM customers WHERE "name" {like}')


def test_a_case_is_not_all_null(guides: GuideFactory, tokenizer: Any) -> None:
    case = 'SELECT LOWER(CASE WHEN "id" > 3 THEN NULL ELSE {} END) FROM orders'
    assert accepts(guides, tokenizer, case.format("'a'"))
    assert not accepts(guides, tokenizer, case.format("NULL"))


def test_random_walks_parse_and_bind(guides: GuideFactory, tokenizer: Any, shop: Any) -> None:
    # Uniform walks spend themselves in made-up names, so these prefer what followed the last six tokens in real SQL.
    followers: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for sql in QUERIES:
        ids = [*tokenizer(as_completion(sql, SHOP)).input_ids, 0]
        for at, token in enumerate(ids):
            followers[tuple(ids[max(0, at - 6) : at])].append(token)
    draw = random.Random(5)
    finished = 0
    for _ in range(60):
        guide = guides.guide(Request("", "", SHOP, "select"))
        written = guide.forced()
        while not guide.ended and len(written) < 120:
            allowed = guide.allowed()
            likely = [t for t in followers[tuple(written[-6:])] if allowed[t]]
            rest = np.flatnonzero(allowed).tolist()
            tried = draw.sample(likely, len(likely)) + draw.sample(rest, len(rest))
            token = next((token for token in tried if guide.admits(token)), None)
            if token is None or token in EOS:
                break
            guide.accept(token)
            written += [token, *guide.forced()]
        if not guide.ended and not (guide.allowed()[0] and guide.admits(0)):
            continue
        finished += 1
        sql = tokenizer.decode(written)
        check_sql(sql, None)
        shop.execute(f"EXPLAIN {sql}")
    assert finished >= 10


NAME = st.text(st.characters(blacklist_categories=["Cs", "Cc"]), min_size=1, max_size=20)


@given(names=st.lists(NAME, min_size=1, max_size=6), tables=st.lists(NAME, min_size=1, max_size=3))
@settings(max_examples=12, deadline=None)
def test_any_name_survives(guides: GuideFactory, tokenizer: Any, names: list[str], tables: list[str]) -> None:
    columns = tuple(Column(name, "text") for name in column_names(names))
    schemas = tuple(TableSchema(name, columns) for name in column_names(tables))
    with duckdb.connect() as connection:
        for schema in schemas:
            declared = ", ".join(f"{identifier(c.name)} VARCHAR" for c in columns)
            connection.execute(f"CREATE TABLE {identifier(schema.name)} ({declared})")
        for schema in schemas:
            for column in columns:
                table, name = table_identifier(schema.name), identifier(column.name)
                sql = f"SELECT {table}.{name}, COUNT({name}) FROM {table} WHERE {name} = 'a''b' GROUP BY {table}.{name}"
                assert accepts(guides, tokenizer, sql, schemas)
                assert accepts(guides, tokenizer, as_completion(sql, schemas), schemas)
                connection.execute(as_completion(sql, schemas))


def test_names_that_begin_like_others_and_like_keywords(guides: GuideFactory, tokenizer: Any) -> None:
    names = ["a", "ab", "a b", 'a"', "Description", "DISTINCT", "When", "order", "Wert", "user", "IS", "E", "n"]
    schemas = (TableSchema("t", tuple(Column(n, "text") for n in names)), TableSchema("t2", (Column("x", "real"),)))
    for name in names:
        sql = f"SELECT COUNT({identifier(name)}), MAX(t.{identifier(name)}) FROM t WHERE NOT {identifier(name)} = 'x'"
        assert accepts(guides, tokenizer, sql, schemas)
        assert accepts(guides, tokenizer, as_completion(sql, schemas), schemas)
    assert accepts(guides, tokenizer, "SELECT COUNT(Description) FROM t", schemas)
    assert not accepts(guides, tokenizer, "SELECT user FROM t", schemas)  # bare, it is the session's user
    assert not accepts(guides, tokenizer, "SELECT t.x FROM t", schemas)


def test_a_wide_schema(guides: GuideFactory, tokenizer: Any) -> None:
    wide = tuple(
        TableSchema(f"table_{i}", tuple(Column(f"column {i} {j}", "text") for j in range(100))) for i in range(20)
    )
    assert accepts(guides, tokenizer, 'SELECT "column 7 42" FROM table_7 WHERE "column 7 1" = \'x\'', wide)
    assert not accepts(guides, tokenizer, 'SELECT "column 7 142" FROM table_7', wide)


def test_a_grammar_needs_tables_and_columns(guides: GuideFactory) -> None:
    with pytest.raises(PromptError, match="at least one table"):
        select_grammar([])
    with pytest.raises(PromptError, match="a sketch has one table"):
        guides.guide(Request("", "", SHOP))


def test_tables_may_be_called_as_special_tokens_are() -> None:
    tokenizer = tiny_tokenizer(special=("<|start|>",))
    schema = TableSchema("<|end|>", (Column("<|start|>", "text", "VARCHAR"), Column("n", "real", "BIGINT")))
    guide = GuideFactory(tokenizer, EOS, len(tokenizer)).guide(Request("", "?", schema, "select"))
    sql = 'SELECT MAX("<|start|>") FROM "<|end|>" WHERE n > 5'
    guide.forced()
    for token in encode(tokenizer, [protect(tokenizer, sql)])[0]:
        assert guide.allowed()[token] and guide.admits(token)
        guide.accept(token)
        assert guide.forced() == []
    assert guide.allowed()[0] and guide.admits(0)
