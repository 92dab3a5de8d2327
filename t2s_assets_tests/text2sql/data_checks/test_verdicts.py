"""What prepared data must be for anything to be trained or scored, from real datasets that are and are not so."""

from __future__ import annotations

from typing import Any

import pytest

from t2s_assets.text2sql import prepare
from t2s_assets.text2sql.data_checks import verdicts
from t2s_assets_tests.own_data import QUESTIONS, add_library
from t2s_assets_tests.projects import SHOP, ProjectFiles, question

silent = [].append
BROKEN = [(f"Which is broken, {i}?", "SELEC name FROM authors") for i in range(20)]


def made(files: ProjectFiles, dataset: str) -> dict[str, Any]:
    """The manifest of `sql`."""
    for make in (prepare.make_tables, prepare.make_questions):
        make(files.project, dataset, silent)
    return prepare.make_sql(files.project, dataset, silent)


@pytest.mark.parametrize(("sound", "passed"), [(11, False), (12, True)])
def test_a_twentieth_of_a_split_s_gold_may_fail(project_files: ProjectFiles, sound: int, passed: bool) -> None:
    tables, questions = SHOP["train"]
    more = [question("fruit", f"name them all, {i} times", 0) for i in range(sound)]
    project_files.dataset("shop", SHOP | {"train": (tables, [*questions, *more])})
    found = verdicts.gold_runs(made(project_files, "shop"))
    assert found.passed == passed
    assert f"1 of {8 + sound} in train, 0 of 2 in validation, 0 of 3 in test" in found.message
    assert ("at most 5% of a split may fail" in found.message) != passed


@pytest.mark.parametrize(("broken", "passed"), [(5, True), (6, False)])
def test_a_fifth_of_one_s_own_questions_may_be_left_out(project_files: ProjectFiles, broken: int, passed: bool) -> None:
    assert len(QUESTIONS) == 22
    add_library(project_files, [*QUESTIONS, *BROKEN[:broken]])
    found = verdicts.gold_runs(made(project_files, "library"))
    assert found.passed == passed
    assert f"{broken} of {22 + broken} questions are left out" in found.message
    assert ("wrong dialect or database" in found.message) != passed


def test_gold_must_give_its_result_again(project_files: ProjectFiles) -> None:
    project_files.dataset("shop")
    made(project_files, "shop")
    agreement = prepare.gold_against_gold(project_files.project, "shop", silent)
    found = verdicts.gold_matches_itself(agreement)
    assert found.passed and "all 5 gold queries" in found.message
    found = verdicts.gold_matches_itself({"n": 15, "wrong": [f"test-{i}" for i in range(11)]})
    assert not found.passed and "11 of 15 gold" in found.message and found.message.count("test-") == 10


def test_where_no_gold_runs_nothing_matches(project_files: ProjectFiles) -> None:
    project_files.dataset("shop", {"train": SHOP["train"]})
    made(project_files, "shop")
    agreement = prepare.gold_against_gold(project_files.project, "shop", silent)
    assert agreement == {"n": 0, "wrong": []}
    found = verdicts.gold_matches_itself(agreement)
    assert not found.passed and "nothing can be scored; give these splits questions" in found.message


def test_what_is_in_two_splits_is_listed() -> None:
    assert verdicts.splits_disjoint([]).passed
    found = verdicts.splits_disjoint([f"t{i}" for i in range(12)])
    assert not found.passed and "12 tables or questions are in two splits" in found.message
    assert "t9, ..." in found.message
