"""Dealing questions out: by the coarsest unit that is fair, the same every time, and nothing in two splits."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from t2s_assets.text2sql.dataset_config import SplitSettings
from t2s_assets.text2sql.gold.splits import GRAINS, Dealt, deal

SHARES = SplitSettings()


def _asked(count: int, *, databases: int = 1, tables: int = 1) -> list[Dealt]:
    return [
        Dealt(f"q{i}", f"d{i % databases}", (f"t{i // databases % tables}",), f"SELECT {i}", f"question {i}")
        for i in range(count)
    ]


def test_by_database_where_there_are_several() -> None:
    questions = _asked(200, databases=10)
    splits, grain = deal(questions, SHARES)
    assert grain == "database"
    where = {q.database: splits[q.id] for q in questions}
    assert all(splits[q.id] == where[q.database] for q in questions)
    assert Counter(where.values()) == {"train": 7, "test": 2, "validation": 1}


def test_by_tables_where_questions_share_none() -> None:
    questions = _asked(200, tables=20)
    splits, grain = deal(questions, SHARES)
    assert grain == "tables"
    where = {q.tables: splits[q.id] for q in questions}
    assert all(splits[q.id] == where[q.tables] for q in questions)


def test_by_question_where_one_join_ties_all_tables() -> None:
    questions = [*_asked(100, tables=20), Dealt("all", "d0", tuple(f"t{i}" for i in range(20)), "SELECT *", "all")]
    splits, grain = deal(questions, SHARES)
    assert grain == "question"
    assert 15 <= Counter(splits.values())["test"] <= 25


def test_a_wording_stays_together_within_its_database_alone() -> None:
    questions = [Dealt(f"{d}{i}", d, (f"t{i}",), f"SELECT {i}", f"question {i}") for d in "ab" for i in range(100)]
    splits, grain = deal(questions, SHARES)
    assert grain != "database"
    assert any(splits[f"a{i}"] != splits[f"b{i}"] for i in range(100))
    assert "of one database" in GRAINS["question"]


def test_the_seed_and_nothing_else_decides() -> None:
    questions = _asked(100)
    assert deal(questions, SHARES) == deal(list(reversed(questions)), SHARES)
    assert deal(questions, SHARES)[0] != deal(questions, SplitSettings(seed=18))[0]


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("xyz"), st.integers(0, 9), st.integers(0, 9)), min_size=1)
)
def test_no_gold_and_no_wording_is_in_two_splits(rows: list[tuple[str, str, int, int]]) -> None:
    questions = [Dealt(str(i), d, (t,), f"SELECT {g}", f"Q{w}") for i, (d, t, g, w) in enumerate(rows)]
    splits, grain = deal(questions, SHARES)
    assert grain in GRAINS
    assert set(splits) == {q.id for q in questions}
    for key in (lambda q: (q.database, q.gold), lambda q: (q.database, q.text.casefold())):
        seen: dict[tuple[str, str], str] = {}
        assert all(seen.setdefault(key(q), splits[q.id]) == splits[q.id] for q in questions)
