"""Predictions of a tiny adapter: what is asked, what is kept, and what a verdict means."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from t2s_assets.text2sql import training
from t2s_assets.text2sql.decoding import Decoder, Request
from t2s_assets.text2sql.errors import DataError
from t2s_assets.text2sql.evaluation import examination, kept_scores, predictions
from t2s_assets.text2sql.evaluation import generations as generations_module
from t2s_assets.text2sql.evaluation.scoring import Scorer
from t2s_assets.text2sql.prepare import load_questions, make_questions, make_sql, make_tables
from t2s_assets.text2sql.prompt_datasets import make_prompts
from t2s_assets.text2sql.reports import presentation, report
from t2s_assets.text2sql.schema import Column, TableSchema
from t2s_assets.text2sql.storage import read_manifest
from t2s_assets_tests.own_data import QUESTIONS, add_library
from t2s_assets_tests.projects import ProjectFiles, question, table
from t2s_assets_tests.scored import prepare_gold
from t2s_assets_tests.serving import ONE_EACH
from t2s_assets_tests.trainable import TOWNS, add_experiment, prepare, trained_towns


@pytest.fixture(scope="module")
def towns(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> ProjectFiles:
    """A project with a trained adapter `tiny`, and its predictions."""
    return trained_towns(tmp_path_factory.mktemp("predictions"), tiny_base)


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
    monkeypatch.setattr("t2s_assets.text2sql.evaluation.generations.BLOCK", 4)
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


class Killed(BaseException):
    """What no handler catches, as no handler meets a kill."""


def test_after_a_kill_only_what_is_missing_is_scored(
    towns: ProjectFiles, first: tuple[dict[str, Any], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the middle of scoring, with half a line written, it ends with the same bytes."""
    folder = towns.project.path("towns", "predictions", "tiny")
    before = {name: (folder / name).read_bytes() for name in ("predictions.parquet", "base.parquet")}
    monkeypatch.setattr(kept_scores, "BLOCK", 5)
    score, scored = Scorer.score, []

    def counted(self: Scorer, questions: Any, answers: Any) -> Any:
        if len(scored) == 2:
            raise Killed
        scored.append([(q.id, answers[q.id]["text"]) for q in questions])
        return score(self, questions, answers)

    monkeypatch.setattr(Scorer, "score", counted)
    with pytest.raises(Killed):
        predict(towns, "tiny")
    (kept,) = towns.project.cache("scores").glob("*.jsonl")
    with kept.open("ab") as file:
        file.write('{"key": "0", "row": {"id": "Š'.encode()[:-1])
    killed = scored
    scored = []
    monkeypatch.setattr(
        Scorer, "score", lambda self, q, a: scored.append([(i.id, a[i.id]["text"]) for i in q]) or score(self, q, a)
    )
    _, lines = predict(towns, "tiny")
    assert "adapter: 10 answers are scored already" in lines
    assert [len(part) for part in killed + scored] == [5, 5, 2, 5, 1]
    adapters = [asked for part in killed + scored[:1] for asked in part]
    assert len({id for id, _ in adapters}) == 12
    assert {name: (folder / name).read_bytes() for name in before} == before
    assert not list(towns.project.cache("scores").glob("*"))


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


def test_a_limit_takes_a_seeded_sample(towns: ProjectFiles, tiny_base: Path) -> None:
    def chosen(limit: int | None, seed: int = 17) -> list[str]:
        evaluation = {"test_limit": limit, "validation_limit": 1, "seed": seed}
        add_experiment(towns, tiny_base, "limited", evaluation=evaluation)
        questions = examination.choose_questions(towns.project, "towns", towns.project.experiment("towns", "limited"))
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


def test_looking_at_tables_is_marked_kept_and_timed(
    towns: ProjectFiles, first: tuple[dict[str, Any], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model of two steps answers badly: some of its answers return nothing and are drawn anew."""
    assert first[0]["uses_table_content"] == []
    file = towns.project.configs / "towns" / "guided.yaml"
    file.write_text("description: d\nlike: tiny\ndecoding: {execution_guided: true}\n", encoding="utf-8")
    make_prompts(towns.project, "towns", "guided", [].append)
    training.train(towns.project, "towns", "guided", log=[].append)
    manifest, said = predict(towns, "guided")
    assert manifest["uses_table_content"] == ["decoding.execution_guided"]
    assert "adapter: all 12 answers are there already" in said  # they are those of the experiment without it
    redrawn = manifest["redrawn"]["adapter"]
    assert 0 < redrawn <= 12
    (generated,) = (line for line in said if line.startswith("adapter, drawn anew: generating"))
    assert generated.endswith(" answers, 0 are there already")
    before = {r["id"]: r for r in rows_of(towns, "tiny")}
    rows = rows_of(towns, "guided")
    drawn = [r["id"] for r in rows if r["forward_passes"] > before[r["id"]]["forward_passes"]]
    assert len(drawn) == redrawn
    again, said = predict(towns, "guided")
    assert any(line.startswith("adapter, drawn anew: all") for line in said)
    assert again["data_version"] == manifest["data_version"]

    report.make_report(towns.project, "towns", "guided", [].append)
    folder = towns.project.path("towns", "report", "guided")
    content = json.loads((folder / "report.json").read_text())
    assert content["uses_table_content"] == ["decoding.execution_guided"]
    assert content["training"]["taken_from"] == "towns/tiny"
    mark = "cell values of the tables (decoding.execution_guided)"
    assert f"**These answers read {mark}.**" in (folder / "report.md").read_text()
    lines = presentation.headline(content).splitlines()
    assert f"  reads      {mark}" in lines
    assert any(line.endswith("that of towns/tiny") for line in lines)

    # What a draw takes is part of the latency of the question that needs it.
    asked = examination.Examination.of(towns.project, "towns", "guided")
    slow = next(q for q in asked.everything if q.id in drawn)
    monkeypatch.setitem(asked.chosen, "test", [slow])
    assert predictions.measure_latency(asked, [].append)["forward_passes_a_query"] > before[slow.id]["forward_passes"]


def test_an_adapter_of_older_prompts_is_refused(towns: ProjectFiles, tiny_base: Path) -> None:
    add_experiment(towns, tiny_base, "stale", max_steps=2)
    make_prompts(towns.project, "towns", "stale", [].append)
    training.train(towns.project, "towns", "stale", log=[].append)
    add_experiment(towns, tiny_base, "stale", max_steps=2, prompt={"template": "chat", "max_length": 512})
    make_prompts(towns.project, "towns", "stale", [].append)
    with pytest.raises(DataError, match="train again with: t2s train towns/stale"):
        predict(towns, "stale")


def test_prompts_of_other_data_are_neither_asked_nor_trained_on(tmp_path: Path, tiny_base: Path) -> None:
    """`t2s prepare towns` after an edit of the test questions, and then an evaluation."""
    files = trained_towns(tmp_path, tiny_base)
    tables, questions = TOWNS["test"]
    files.dataset("towns", TOWNS | {"test": (tables, questions[1:])})
    prepare(files)
    for refused in (predictions.make_predictions, training.train, training.run):
        with pytest.raises(DataError, match=r"its prompts are of other data .*t2s prepare towns/tiny"):
            refused(files.project, "towns", "tiny")
    prepare(files, "tiny")
    with pytest.raises(DataError, match=r"the adapter was trained on prompts .*train again"):
        predict(files, "tiny")


def test_an_adapter_of_another_base_is_not_evaluated(tmp_path: Path, tiny_base: Path) -> None:
    files = trained_towns(tmp_path, tiny_base)
    other = shutil.copytree(tiny_base, tmp_path / "moved")
    add_experiment(files, other, "tiny", max_steps=2)
    with pytest.raises(DataError, match=r"base_model.path was .*moved.*train again with: t2s train towns/tiny"):
        predict(files, "tiny")
    # The same weights in another place: the way out trains nothing.
    lines: list[str] = []
    training.train(files.project, "towns", "tiny", log=lines.append)
    assert lines[0].startswith("already trained")
    assert predict(files, "tiny")[0]["questions"] == {"test": 6, "validation": 6}


def test_gold_has_a_version_of_what_is_scored(project_files: ProjectFiles) -> None:
    now = prepare_gold(project_files)
    assert prepare_gold(project_files, trained=3) == now
    assert prepare_gold(project_files, answer="Lhotse") != now
    tables, _ = ONE_EACH["test"]
    asked = [question("test", text, 0) for text in ("Which one?", "And which?")]
    versions = set()
    for questions in (asked, asked[::-1], asked[:1]):
        project_files.dataset("towns", ONE_EACH | {"test": (tables, questions)})
        prepare(project_files)
        versions.add(examination.gold_version(project_files.project, "towns"))
    assert len(versions) == 3
    project_files.dataset("towns", ONE_EACH | {"test": (tables, [*asked, question("test", "A third?", 0)])})
    make_tables(project_files.project, "towns", [].append)
    make_questions(project_files.project, "towns", [].append)
    with pytest.raises(DataError, match=r"`sql` is of other questions, it has no test-.*t2s prepare towns"):
        examination.gold_version(project_files.project, "towns")


def test_another_table_is_another_gold_whatever_its_queries_return(project_files: ProjectFiles) -> None:
    """A wrong answer may be right on one of them."""
    versions = set()
    for note in ("a", "b"):
        asked = {s: ([table(s, ["Peak", "Note"], "tt", [["K2", note]])], [question(s, "Which?", 0)]) for s in ONE_EACH}
        project_files.dataset("towns", asked)
        prepare(project_files)
        versions.add(examination.gold_version(project_files.project, "towns"))
    assert len(versions) == 2


def test_more_training_questions_on_ones_own_databases_leave_scores_comparable(project_files: ProjectFiles) -> None:
    splits = ["train"] * 18 + ["validation"] * 2 + ["test"] * 2
    asked = [{"question": q, "sql": sql, "split": split} for (q, sql), split in zip(QUESTIONS, splits)]
    more = {"question": "Who else?", "sql": "SELECT name FROM authors", "split": "train"}
    versions = []
    for questions in (asked, [*asked, more], [*asked[:-1], more]):
        project = add_library(project_files, questions).project
        for make in (make_tables, make_questions, make_sql):
            make(project, "library", [].append)
        versions.append(examination.gold_version(project, "library"))
    assert versions[0] == versions[1] != versions[2]


def test_gold_of_other_questions_makes_no_prompts(project_files: ProjectFiles, tiny_base: Path) -> None:
    """Ids are places: with a question less, those behind it have the gold of their neighbours."""
    tables, _ = ONE_EACH["test"]
    asked = [question("test", text, 0) for text in ("Which one?", "And which?")]
    project_files.dataset("towns", ONE_EACH | {"test": (tables, asked)})
    prepare(project_files)
    before = read_manifest(project_files.project.path("towns", "sql"), made_by="")["data_version"]
    project_files.dataset("towns", ONE_EACH | {"test": (tables, asked[1:])})
    make_tables(project_files.project, "towns", [].append)
    add_experiment(project_files, tiny_base, "tiny", max_steps=2)
    with pytest.raises(DataError, match=r"questions is of tables \w+, which is now \w+; .*t2s prepare towns"):
        make_prompts(project_files.project, "towns", "tiny", [].append)
    make_questions(project_files.project, "towns", [].append)
    with pytest.raises(DataError, match=r"sql is of tables .*; sql is of questions .*t2s prepare towns"):
        make_prompts(project_files.project, "towns", "tiny", [].append)
    prepare(project_files)
    assert read_manifest(project_files.project.path("towns", "sql"), made_by="")["data_version"] != before
    make_prompts(project_files.project, "towns", "tiny", [].append)


def test_data_made_anew_during_an_evaluation_are_not_scored(
    tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = trained_towns(tmp_path, tiny_base)
    tables, questions = TOWNS["test"]

    def meanwhile(*_: object) -> dict[str, Any]:
        files.dataset("towns", TOWNS | {"test": (tables, questions[1:])})
        prepare(files, "tiny")
        return {}

    monkeypatch.setattr(predictions, "measure_latency", meanwhile)
    with pytest.raises(DataError, match=r"towns/tiny: its data were made anew while it was evaluated; evaluate again"):
        predict(files, "tiny")
    assert not files.project.path("towns", "predictions", "tiny").exists()


def test_prompts_of_other_settings_are_not_evaluated(tmp_path: Path, tiny_base: Path) -> None:
    files = trained_towns(tmp_path, tiny_base)
    add_experiment(files, tiny_base, "tiny", max_steps=2, prompt={"template": "plain", "max_length": 300})
    with pytest.raises(DataError, match=r"prompt.max_length was \d+, is 300"):
        predict(files, "tiny")


def test_other_decoding_makes_no_report_of_these_predictions(
    towns: ProjectFiles, first: tuple[dict[str, Any], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "grammar" not in first[0]["decoding"], "what is not set is not kept, so that later settings change nothing"
    report.make_report(towns.project, "towns", "tiny", [].append)
    file = towns.project.configs / "towns" / "tiny.yaml"
    before = file.read_text()
    try:
        content = yaml.safe_load(before)
        content["decoding"]["max_new_tokens"] = 7
        file.write_text(yaml.safe_dump(content))
        with pytest.raises(DataError, match=r"decoding.max_new_tokens was \d+, is 7.*t2s evaluate towns/tiny"):
            report.make_report(towns.project, "towns", "tiny", [].append)
    finally:
        file.write_text(before)


def test_each_question_is_timed_as_the_first_on_its_tables(
    towns: ProjectFiles, first: tuple[dict[str, Any], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = examination.Examination.of(towns.project, "towns", "tiny")
    forgotten, forget = [], Decoder.forget_tables

    def counted(decoder: Decoder) -> None:
        forgotten.append(decoder)
        forget(decoder)

    monkeypatch.setattr(Decoder, "forget_tables", counted)
    n = predictions.measure_latency(asked, [].append)["n"]
    assert len(forgotten) == n + 1


def test_an_answer_is_kept_for_its_prompt_question_tables_and_kind() -> None:
    schema = TableSchema("t", (Column("a", "text"),))
    one = Request("t(a) Q", "Q", (schema,))
    others = [
        Request("t(a) R", "Q", (schema,)),
        Request("t(a) Q", "R", (schema,)),
        Request("t(a) Q", "Q", (schema,), "select"),
        Request("t(a) Q", "Q", (schema, TableSchema("u", (Column("b", "text"),)))),
        Request("t(a) Q", "Q", (TableSchema("t", (Column("a", "real"),)),)),
    ]
    assert len({generations_module._fingerprint(r) for r in [one, *others]}) == 1 + len(others)


def test_predictions_say_by_which_gold_they_were_scored(
    towns: ProjectFiles, first: tuple[dict[str, Any], list[str]]
) -> None:
    assert first[0]["gold_version"] == examination.gold_version(towns.project, "towns")


def test_a_damaged_record_of_the_adapter_says_what_writes_it(tmp_path: Path, tiny_base: Path) -> None:
    files = trained_towns(tmp_path, tiny_base)
    (files.project.path("towns", "adapter", "tiny") / "experiment.json").unlink()
    with pytest.raises(DataError, match="make it with: t2s train towns/tiny"):
        predict(files, "tiny")


def test_predictions_that_are_not_there_say_how_to_make_them(towns: ProjectFiles) -> None:
    with pytest.raises(DataError, match="t2s evaluate towns/never"):
        rows_of(towns, "never")
