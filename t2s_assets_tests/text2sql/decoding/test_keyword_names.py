"""Every word that DuckDB or sqlglot knows, as the name of a table and of a column, as the grammars spell it."""

from __future__ import annotations

from typing import Any

import duckdb
import pytest
from sqlglot.dialects.duckdb import DuckDB

from t2s_assets.text2sql.decoding import Request
from t2s_assets.text2sql.decoding.grammar import GuideFactory
from t2s_assets.text2sql.decoding.select_grammar import spellings
from t2s_assets.text2sql.execution import check_sql
from t2s_assets.text2sql.query import RESERVED_NAMES, table_identifier
from t2s_assets.text2sql.schema import Column, TableSchema

PARSERS = (DuckDB.Parser.FUNCTIONS, DuckDB.Parser.FUNCTION_PARSERS, DuckDB.Parser.NO_PAREN_FUNCTION_PARSERS)
WORDS = sorted(
    {word for (word,) in duckdb.connect().execute("SELECT keyword_name FROM duckdb_keywords()").fetchall()}
    | {word.lower() for word in DuckDB.Tokenizer.KEYWORDS if word.isidentifier()}
    | {word.lower() for parser in PARSERS for word in parser}
    | RESERVED_NAMES
)
SOME = [word for at, word in enumerate(WORDS) if at % 5 == 0 or word in RESERVED_NAMES]
WORDLISTS = pytest.mark.parametrize("words", [SOME, pytest.param(WORDS, marks=pytest.mark.slow)], ids=["some", "all"])
COLUMN_FORMS = (
    "SELECT COUNT({0}) FROM t WHERE {0} = 'b' GROUP BY {0} ORDER BY {0} DESC",
    "SELECT u.{0} FROM t AS u JOIN t AS v ON u.{0} = v.{0} WHERE NOT u.{0} LIKE 'a' AND u.{0} IS NULL",
    "SELECT CASE WHEN {0} = 'b' THEN {0} END, {0} || zz FROM t WHERE {0} IN (SELECT {0} FROM t) LIMIT 3",
    "SELECT zz AS {0} FROM t WHERE ({0} = 'b' OR {0} > 'a') AND {0} BETWEEN 'a' AND {0}",
    "SELECT ROW_NUMBER() OVER (PARTITION BY {0} ORDER BY {0}), STRING_AGG(DISTINCT {0}, ', ') OVER () FROM t",
)
TABLE_FORMS = (
    "SELECT {0}.x, COUNT(x) FROM {0} WHERE {0}.x = 'b' GROUP BY {0}.x",
    "SELECT {0}.* FROM t JOIN {0} ON {0}.x = t.x CROSS JOIN {0} AS v ORDER BY {0}.x",
    "SELECT u.x FROM t, {0} AS u WHERE u.x IN (SELECT x FROM {0} LIMIT 1) UNION SELECT x FROM {0}",
    "WITH {0} AS (SELECT x FROM t) SELECT {0}.x FROM {0}",
)


@pytest.fixture(scope="module")
def guides(tokenizer: Any) -> GuideFactory:
    return GuideFactory(tokenizer, frozenset([0]), len(tokenizer))


def refusals(
    forms: tuple[str, ...], word: str, tables: dict[str, list[str]], connection: duckdb.DuckDBPyConnection
) -> list[str]:
    found = []
    for form in forms:
        sql = form.format(spellings(word)[0])
        try:
            check_sql(sql, tables)
            connection.execute(f"EXPLAIN {sql}")
        except Exception as e:  # the guard, sqlglot and DuckDB each have their own
            found.append(f"{sql}: {e}")
    return found


def test_the_words_are_many_and_most_stay_bare() -> None:
    assert len(WORDS) > 1000
    assert sum(len(spellings(word)) == 2 for word in WORDS) > 900


@WORDLISTS
def test_any_word_as_a_column(words: list[str]) -> None:
    problems = []
    with duckdb.connect() as connection:
        for word in words:
            quoted = spellings(word)[-1]
            connection.execute(f"CREATE OR REPLACE TABLE t ({quoted} VARCHAR, zz VARCHAR)")
            problems += refusals(COLUMN_FORMS, word, {"t": [word, "zz"]}, connection)
    assert not problems


@WORDLISTS
def test_any_word_as_a_table(words: list[str]) -> None:
    problems = []
    with duckdb.connect() as connection:
        connection.execute("CREATE TABLE t (x VARCHAR)")
        for word in words:
            quoted = spellings(word)[-1]
            connection.execute(f"CREATE TABLE IF NOT EXISTS {quoted} (x VARCHAR)")
            problems += refusals(TABLE_FORMS, word, {"t": ["x"], word: ["x"]}, connection)
    assert not problems


def test_what_is_written_is_in_the_grammar(guides: GuideFactory, tokenizer: Any) -> None:
    refused = []
    for at in range(0, len(WORDS), 60):
        schemas = tuple(TableSchema(word, (Column(word, "text"),)) for word in WORDS[at : at + 60])
        start = guides.guide(Request("", "", schemas, "select"))
        for word in WORDS[at : at + 60]:
            table, column = table_identifier(word), spellings(word)[0]
            sql = f"SELECT {table}.{column}, COUNT(*) FROM {table} WHERE {column} = 'a' GROUP BY {table}.{column}"
            ids = [*start.forced(), *tokenizer(sql).input_ids]
            try:
                start.accept(*ids)
                start.undo(len(ids))
            except Exception as e:
                refused.append(f"{sql}: {e}")
    assert not refused
