"""Random walks under the guide of SELECT: whatever ends, binds, over several databases."""

from __future__ import annotations

from typing import Any

import duckdb
import pytest

from t2s_assets.text2sql.decoding.grammar import GuideFactory
from t2s_assets.text2sql.decoding.scopes import Scopes
from t2s_assets.text2sql.execution import check_sql
from t2s_assets_tests.text2sql.decoding.walks import DATABASES, EOS, connected, walk, word_tokenizer


@pytest.fixture(scope="module")
def words() -> Any:
    return word_tokenizer()


@pytest.fixture(scope="module")
def guides(words: Any) -> GuideFactory:
    return GuideFactory(words, frozenset([EOS]), len(words))


def test_whatever_ends_binds_and_passes_the_guard(guides: GuideFactory, words: Any) -> None:
    ended = 0
    for schemas in DATABASES.values():
        with connected(schemas) as connection:
            for seed in range(12):
                found = walk(guides, words, schemas, seed)
                assert found.stuck is None
                if found.sql is not None:
                    check_sql(found.sql, None)
                    connection.execute(f"EXPLAIN {found.sql}")
                    ended += 1
    assert ended >= 5


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
