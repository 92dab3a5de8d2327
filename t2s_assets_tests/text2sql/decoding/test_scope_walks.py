"""Random walks under the guide of SELECT over several databases: whatever ends, parses, binds and runs."""

from __future__ import annotations

from typing import Any

import duckdb
import pytest

from t2s_assets.text2sql.decoding.grammar import GuideFactory
from t2s_assets.text2sql.decoding.scopes import Scopes
from t2s_assets.text2sql.evaluation.guidance import empty_tables
from t2s_assets.text2sql.execution import Job, SqlExecutor
from t2s_assets_tests.text2sql.decoding.walks import DATABASES, EOS, connected, walk, word_tokenizer


@pytest.fixture(scope="module")
def words() -> Any:
    return word_tokenizer()


@pytest.fixture(scope="module")
def guides(words: Any) -> GuideFactory:
    return GuideFactory(words, frozenset([EOS]), len(words))


@pytest.mark.parametrize("seeds", [range(24), pytest.param(range(240), marks=pytest.mark.slow)], ids=len)
def test_whatever_ends_parses_binds_and_runs(guides: GuideFactory, words: Any, seeds: range) -> None:
    with_rows = {name: connected(schemas, rows=True) for name, schemas in DATABASES.items()}
    ended = 0
    with SqlExecutor(workers=1) as executor:
        for seed in seeds:
            name = sorted(DATABASES)[seed % len(DATABASES)]
            schemas = DATABASES[name]
            found = walk(guides, words, schemas, seed)
            assert found.stuck is None, (name, seed)
            if found.sql is None:
                continue
            (outcome,) = executor.run([Job(empty_tables(schemas), found.sql)])
            assert outcome.ok, (name, seed, found.sql, outcome)
            try:
                with_rows[name].execute(found.sql).fetchall()
            except duckdb.ConversionException:
                pass  # what a cast makes of a value is up to the value
            except duckdb.InvalidInputException as e:
                assert "Could not parse string" in str(e) or "Division by zero" in str(e), (found.sql, e)
            ended += 1
    assert ended >= len(seeds) / 12


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT day - CURRENT_DATE FROM games",
        "SELECT played - day FROM games",
        "SELECT start - INTERVAL 3 HOUR FROM games",
        "SELECT start - CURRENT_DATE FROM games",
        "SELECT day - start FROM games",
        "SELECT start - start FROM games",
    ],
)
def test_days_and_times_are_subtracted_as_duckdb_does(sql: str) -> None:
    schemas = DATABASES["one"]
    with connected(schemas) as connection:
        try:
            connection.execute(f"EXPLAIN {sql}")
            binds = True
        except duckdb.BinderException:
            binds = False
    assert Scopes(schemas).admits(sql.encode(), complete=True) == binds


def test_days_between_two_dates_go_into_no_sum() -> None:
    scopes = Scopes(DATABASES["one"])
    assert scopes.admits(b"SELECT day - CURRENT_DATE") and scopes.admits(b"SELECT (day - CURRENT_DATE) + ")
    assert not scopes.admits(b"SELECT day - CURRENT_DATE + ")


def test_another_table_s_name_is_no_alias_of_a_table() -> None:
    scopes = Scopes(DATABASES["shared"])
    assert scopes.admits(b"SELECT a.name FROM a AS a JOIN b AS c1 ON", complete=False)
    assert not scopes.admits(b"SELECT c1.name FROM b AS a ")  # the grammar knows columns of `a` alone behind that name
