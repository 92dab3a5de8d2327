"""Answers scored beside their gold: every verdict that a row of predictions holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from t2s_assets.text2sql.config import EvaluationConfig
from t2s_assets.text2sql.evaluation.scoring import Scorer, score
from t2s_assets.text2sql.prepare import load_questions, load_sql, load_tables
from t2s_assets.text2sql.prompt_datasets import load_prompts
from t2s_assets_tests.projects import ProjectFiles
from t2s_assets_tests.trainable import add_towns, prepare


@pytest.fixture(scope="module")
def towns(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> ProjectFiles:
    files = add_towns(ProjectFiles(tmp_path_factory.mktemp("scoring")), tiny_base, max_steps=2)
    prepare(files, "tiny")
    return files


# test-1: which river does Soria lie on?  test-3: the largest number of people.  test-6: all the towns.
VERDICTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "the gold itself": (
        "test-1",
        """SELECT "River" FROM t WHERE "Town" = 'Soria'""",
        {"em": True, "ex": True, "ex_strict": True, "valid": True, "errors": []},
    ),
    "written otherwise": (
        "test-1",
        """select River from T where ("town" = 'SORIA')""",
        {"em": True, "ex": True, "ex_strict": True, "valid": True},
    ),
    "right by luck": (
        "test-1",
        """SELECT "River" FROM t WHERE "People" < 40000""",
        {"em": False, "ex": True, "ex_strict": True, "valid": True, "errors": ["WHERE column"]},
    ),
    "a wrong column": (
        "test-1",
        """SELECT "Town" FROM t WHERE "Town" = 'Soria'""",
        {"em": False, "ex": False, "ex_strict": False, "valid": True, "errors": ["SELECT column"]},
    ),
    "runs but says more than the sketch": (
        "test-3",
        'SELECT "People" FROM t ORDER BY "People" DESC LIMIT 1',
        {"em": False, "ex": True, "valid": True, "parsed": None, "errors": ["unparsable"]},
    ),
    "no such column": (
        "test-1",
        'SELECT "Mayor" FROM t',
        {"em": False, "ex": False, "valid": False, "parsed": None, "errors": ["unparsable"]},
    ),
    "no SQL": ("test-1", "the Duero", {"em": False, "ex": False, "ex_strict": False, "valid": False}),
    "nothing": ("test-1", "", {"em": False, "ex": False, "valid": False}),
    "reaches for files": (
        "test-1",
        "SELECT * FROM read_csv('/etc/passwd')",
        {"em": False, "ex": False, "valid": False},
    ),
    "an aggregate": (
        "test-3",
        'SELECT MIN("People") FROM t',
        {"em": False, "ex": False, "valid": True, "errors": ["aggregate"], "predicted_aggregate": "MIN"},
    ),
    "all rows in their order": ("test-6", 'SELECT "Town" FROM t', {"em": True, "ex": True, "ex_strict": True}),
    "more rows than are shown": (
        "test-6",
        'SELECT a."Town" FROM t a, t b',
        {"em": False, "ex": False, "ex_strict": False, "valid": True},
    ),
    "all rows in another order": (
        "test-6",
        'SELECT "Town" FROM t ORDER BY "Town"',
        {"em": False, "ex": False, "ex_strict": True, "valid": True},
    ),
}


@pytest.fixture(scope="module")
def scored(towns: ProjectFiles) -> dict[str, dict[str, Any]]:
    """The rows of the answers above, scored in one go each way a run would."""
    project = towns.project
    questions = {q.id: q for q in load_questions(project, "towns", ["test"])}
    tables = load_tables(project, "towns", ["test"])
    found = {}
    for name, (id, sql, _) in VERDICTS.items():
        answer = {"text": sql, "logprob": -1.0, "n_tokens": 9, "forward_passes": 4, "finished": True}
        (found[name],) = score(project, "towns", [questions[id]], tables, {id: answer}, [].append)
    return found


@pytest.mark.parametrize("name", VERDICTS)
def test_a_verdict(scored: dict[str, dict[str, Any]], name: str) -> None:
    _, sql, wanted = VERDICTS[name]
    row = scored[name]
    assert {k: row[k] for k in wanted} == wanted
    assert row["sql"] == sql
    assert (row["unparsed_because"] == "") == (row["parsed"] is not None)


def test_what_ran_shows_its_rows_and_what_did_not_why(scored: dict[str, dict[str, Any]]) -> None:
    assert scored["the gold itself"]["result"] == scored["the gold itself"]["gold_result"] == '[["Duero"]]'
    assert scored["no such column"]["result"].startswith(scored["no such column"]["status"] + ": ")
    assert "Mayor" in scored["no such column"]["result"]
    shown, _, more = scored["more rows than are shown"]["result"].partition("]] and ")
    assert (shown.count("["), more) == (1 + 5, "4 rows more")


def test_the_completions_of_training_score_as_gold(towns: ProjectFiles) -> None:
    """What the model learns to write is what the evaluation counts as right, for every test question."""
    project = towns.project
    questions = load_questions(project, "towns", ["test"])
    completions = {r["id"]: r["completion"] for r in load_prompts(project, "towns", "tiny")["test"]}
    answers = {
        i: {"text": text, "logprob": -1.0, "n_tokens": 9, "forward_passes": 4, "finished": True}
        for i, text in completions.items()
    }
    tables = load_tables(project, "towns", ["test"])
    rows = score(project, "towns", questions, tables, answers, [].append)
    gold = load_sql(project, "towns", ["test"])
    assert [r["gold_sql"] for r in rows] == [gold[q.id]["sql"] for q in questions]
    assert all(r["em"] and r["ex"] and r["valid"] for r in rows)


def test_an_answer_that_is_right_by_luck_fails_the_test_suite(towns: ProjectFiles) -> None:
    project = towns.project
    (question,) = [q for q in load_questions(project, "towns", ["test"]) if q.id == "test-1"]
    tables = load_tables(project, "towns", ["test"])
    found = {}
    for name in ("the gold itself", "right by luck", "a wrong column"):
        answer = {"text": VERDICTS[name][1], "logprob": -1.0, "n_tokens": 9, "forward_passes": 4, "finished": True}
        with Scorer(project, "towns", ["test"], tables, [].append) as scorer:
            rows = scorer.score([question], {question.id: answer})
            (row,) = scorer.with_suite([question], rows, EvaluationConfig(test_suite_copies=5))
        found[name] = (row["ex"], row["test_suite"])
    assert found == {
        "the gold itself": (True, True),
        "right by luck": (True, False),
        "a wrong column": (False, False),
    }


def test_verdicts_of_the_test_suite_are_each_question_s_own(towns: ProjectFiles) -> None:
    """Of three in one go: one that means the gold, and two that copies are to tell apart."""
    project = towns.project
    said = ("all rows in their order", "right by luck", "runs but says more than the sketch")
    answers = {
        VERDICTS[name][0]: {"text": VERDICTS[name][1], "logprob": -1.0, "n_tokens": 9, "forward_passes": 4}
        | {"finished": True}
        for name in said
    }
    questions = [q for q in load_questions(project, "towns", ["test"]) if q.id in answers]
    tables = load_tables(project, "towns", ["test"])
    with Scorer(project, "towns", ["test"], tables, [].append) as scorer:
        for asked in (questions, questions[::-1]):
            rows = scorer.score(asked, answers)
            suite = scorer.with_suite(asked, rows, EvaluationConfig(test_suite_copies=5))
            assert {r["id"]: r["test_suite"] for r in suite} == {"test-1": False, "test-3": True, "test-6": True}
        none = scorer.with_suite(asked, rows, EvaluationConfig(test_suite_copies=0))
        assert [r["test_suite"] for r in none] == [None] * 3
