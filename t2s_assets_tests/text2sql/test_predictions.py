"""Predictions of a tiny adapter: what is asked, what is kept, and what a verdict means."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from t2s_assets.text2sql import predictions, training
from t2s_assets.text2sql.config import EvaluationConfig
from t2s_assets.text2sql.errors import DataError
from t2s_assets.text2sql.prepare import load_questions, load_sql, load_tables
from t2s_assets.text2sql.prompts import load_prompts, make_prompts
from t2s_assets_tests.projects import ProjectFiles
from t2s_assets_tests.trainable import add_experiment, add_towns, prepare


@pytest.fixture(scope="module")
def towns(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> ProjectFiles:
    """A project with a trained adapter `tiny`, and its predictions."""
    files = add_towns(ProjectFiles(tmp_path_factory.mktemp("predictions")), tiny_base, max_steps=2)
    prepare(files, "tiny")
    training.train(files.project, "towns", "tiny", log=[].append)
    return files


@pytest.fixture(scope="module")
def first(towns: ProjectFiles) -> tuple[dict[str, Any], list[str]]:
    """The first evaluation: its manifest and what was said."""
    return predict(towns, "tiny")


def predict(files: ProjectFiles, name: str) -> tuple[dict[str, Any], list[str]]:
    lines: list[str] = []
    return predictions.make_predictions(files.project, "towns", name, lines.append), lines


def rows_of(files: ProjectFiles, name: str, kind: str = "predictions") -> list[dict[str, Any]]:
    return predictions.load_predictions(files.project, "towns", name, kind)


def generations(files: ProjectFiles) -> list[Path]:
    return sorted(files.project.cache("generations").glob("*.jsonl"), key=lambda p: p.stat().st_size)


def test_every_question_gets_a_row_and_the_base_its_own(
    towns: ProjectFiles, first: tuple[dict[str, Any], list[str]]
) -> None:
    manifest, _ = first
    assert manifest["questions"] == manifest["of"] == {"test": 6, "validation": 6}
    rows = rows_of(towns, "tiny")
    assert [r["id"] for r in rows] == [
        q.id for s in ("test", "validation") for q in load_questions(towns.project, "towns", [s])
    ]
    base = rows_of(towns, "tiny", "base")
    assert [r["id"] for r in base] == [r["id"] for r in rows if r["split"] == "test"]
    assert [r["gold_sql"] for r in base] == [r["gold_sql"] for r in rows if r["split"] == "test"]
    for row in rows:
        assert row["sql"] and row["tokens"] > 0 and row["logprob"] < 0
        assert row["valid"] == (row["status"] == "ok")
    assert not list(towns.project.path("towns", "predictions").glob(".*"))


def test_latency_is_of_single_queries_after_a_cold_one(
    towns: ProjectFiles, first: tuple[dict[str, Any], list[str]]
) -> None:
    latency = json.loads((towns.project.path("towns", "predictions", "tiny") / "latency.json").read_text())
    assert latency["n"] == len(latency["each_ms"]) == 1
    assert latency["cold_load_ms"] > 0 and latency["cold_first_ms"] > 0
    parts = latency["prefill_ms"]["p50"] + latency["decode_ms"]["p50"]
    assert 0.5 * latency["total_ms"]["p50"] < parts <= latency["total_ms"]["p50"] + 1
    assert latency["tokens_a_query"] >= latency["forward_passes_a_query"] > 0


def test_asked_again_nothing_is_generated_and_nothing_differs(
    towns: ProjectFiles, first: tuple[dict[str, Any], list[str]]
) -> None:
    manifest, lines = first
    assert [line for line in lines if line.startswith("adapter: generating 12 answers, 0 are there")]
    before = rows_of(towns, "tiny")
    again, lines = predict(towns, "tiny")
    assert "adapter: all 12 answers are there already" in lines
    assert "base: all 6 answers are there already" in lines
    assert again["data_version"] == manifest["data_version"]
    assert rows_of(towns, "tiny") == before


@pytest.mark.parametrize("cut", [b'{"id": "test-1", "text": "SEL', '{"id": "test-1", "text": "Š'.encode()[:-1]])
def test_after_a_kill_only_what_is_missing_is_generated(
    towns: ProjectFiles,
    first: tuple[dict[str, Any], list[str]],
    cut: bytes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A kill leaves whole blocks and perhaps a part of one, half a line, even half a character."""
    monkeypatch.setattr("t2s_assets.text2sql.generations.BLOCK", 4)
    path = generations(towns)[-1]
    path.unlink()
    manifest, _ = predict(towns, "tiny")
    before = rows_of(towns, "tiny")
    lines = path.read_bytes().splitlines(keepends=True)
    assert len(lines) == 12
    path.write_bytes(b"".join(lines[:5]) + cut)
    again, said = predict(towns, "tiny")
    assert "adapter: generating 8 answers, 4 are there already" in said
    assert rows_of(towns, "tiny") == before
    assert again["data_version"] == manifest["data_version"]
    _, said = predict(towns, "tiny")
    assert "adapter: all 12 answers are there already" in said


def test_the_base_is_asked_once_for_all_its_experiments(
    towns: ProjectFiles, tiny_base: Path, first: tuple[dict[str, Any], list[str]]
) -> None:
    add_experiment(towns, tiny_base, "other", max_steps=2, seed=5)
    make_prompts(towns.project, "towns", "other", [].append)
    training.train(towns.project, "towns", "other", log=[].append)
    _, lines = predict(towns, "other")
    assert [line for line in lines if line.startswith("adapter: generating 12 answers")]
    assert "base: all 6 answers are there already" in lines
    assert rows_of(towns, "other", "base") == rows_of(towns, "tiny", "base")


def test_other_decoding_is_another_generation(
    towns: ProjectFiles, tiny_base: Path, first: tuple[dict[str, Any], list[str]]
) -> None:
    add_experiment(
        towns, tiny_base, "tiny", max_steps=2, decoding={"max_new_tokens": 5}, evaluation={"baseline": False}
    )
    _, lines = predict(towns, "tiny")
    assert [line for line in lines if line.startswith("adapter: generating 12 answers, 0 are there")]
    assert not [line for line in lines if line.startswith("base:")]
    assert rows_of(towns, "tiny", "base") == []
    assert max(r["tokens"] for r in rows_of(towns, "tiny")) <= 6
    add_experiment(towns, tiny_base, "tiny", max_steps=2)
    _, lines = predict(towns, "tiny")
    assert "adapter: all 12 answers are there already" in lines


def test_the_test_suite_is_off_without_copies(
    towns: ProjectFiles, tiny_base: Path, first: tuple[dict[str, Any], list[str]]
) -> None:
    assert {r["test_suite"] for r in rows_of(towns, "tiny")} <= {True, False}
    add_experiment(towns, tiny_base, "tiny", max_steps=2, evaluation={"test_suite_copies": 0})
    predict(towns, "tiny")
    assert {r["test_suite"] for r in rows_of(towns, "tiny")} == {None}
    add_experiment(towns, tiny_base, "tiny", max_steps=2)
    predict(towns, "tiny")


def test_an_answer_that_is_right_by_luck_fails_the_test_suite(towns: ProjectFiles) -> None:
    project = towns.project
    (question,) = [q for q in load_questions(project, "towns", ["test"]) if q.id == "test-1"]
    tables = load_tables(project, "towns", ["test"])
    found = {}
    for name in ("the gold itself", "right by luck", "a wrong column"):
        answer = {"text": VERDICTS[name][1], "logprob": -1.0, "n_tokens": 9, "forward_passes": 4, "finished": True}
        rows = predictions.score(project, "towns", [question], tables, {question.id: answer}, [].append)
        config = EvaluationConfig(test_suite_copies=5)
        (row,) = predictions.add_suite_verdicts(project, "towns", [question], tables, rows, config, [].append)
        found[name] = (row["ex"], row["test_suite"])
    assert found == {
        "the gold itself": (True, True),
        "right by luck": (True, False),
        "a wrong column": (False, False),
    }


def test_a_limit_takes_a_seeded_sample(towns: ProjectFiles, tiny_base: Path) -> None:
    def chosen(limit: int | None, seed: int = 17) -> list[str]:
        evaluation = {"test_limit": limit, "validation_limit": 1, "seed": seed}
        add_experiment(towns, tiny_base, "limited", evaluation=evaluation)
        questions = predictions.choose_questions(towns.project, "towns", towns.project.experiment("towns", "limited"))
        assert len(questions["validation"]) == 1
        return [q.id for q in questions["test"]]

    everything = chosen(None)
    assert everything == [q.id for q in load_questions(towns.project, "towns", ["test"])]
    assert chosen(3) == chosen(3)
    assert len(chosen(3)) == 3
    assert [i for i in everything if i in chosen(3)] == chosen(3)
    assert set(chosen(2)) < set(chosen(3)) < set(chosen(4))
    assert len({tuple(chosen(3, seed)) for seed in range(8)}) > 1
    assert chosen(600) == everything


def test_a_sample_is_counted_in_the_manifest(
    towns: ProjectFiles, tiny_base: Path, first: tuple[dict[str, Any], list[str]]
) -> None:
    limits = {"test_limit": 2, "validation_limit": 1, "latency_questions": 1}
    add_experiment(towns, tiny_base, "tiny", max_steps=2, evaluation=limits)
    manifest, lines = predict(towns, "tiny")
    assert (manifest["questions"], manifest["of"]) == ({"test": 2, "validation": 1}, {"test": 6, "validation": 6})
    assert "adapter: all 3 answers are there already" in lines
    add_experiment(towns, tiny_base, "tiny", max_steps=2)
    predict(towns, "tiny")


def test_an_adapter_of_older_prompts_is_refused(towns: ProjectFiles, tiny_base: Path) -> None:
    add_experiment(towns, tiny_base, "stale", max_steps=2)
    make_prompts(towns.project, "towns", "stale", [].append)
    training.train(towns.project, "towns", "stale", log=[].append)
    add_experiment(towns, tiny_base, "stale", max_steps=2, prompt={"template": "chat", "max_length": 512})
    make_prompts(towns.project, "towns", "stale", [].append)
    with pytest.raises(DataError, match="train again with: t2s train towns/stale"):
        predict(towns, "stale")


def test_predictions_that_are_not_there_say_how_to_make_them(towns: ProjectFiles) -> None:
    with pytest.raises(DataError, match="t2s evaluate towns/never"):
        rows_of(towns, "never")


# ---------------------------------------------------------------------------------------------------- verdicts

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
        (found[name],) = predictions.score(project, "towns", [questions[id]], tables, {id: answer}, [].append)
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
    rows = predictions.score(project, "towns", questions, tables, answers, [].append)
    gold = load_sql(project, "towns", ["test"])
    assert [r["gold_sql"] for r in rows] == [gold[q.id]["sql"] for q in questions]
    assert all(r["em"] and r["ex"] and r["valid"] for r in rows)
