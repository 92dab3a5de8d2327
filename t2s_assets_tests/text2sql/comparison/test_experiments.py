"""Experiments beside one of them: which questions count, what is refused, what is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from t2s_assets.text2sql.comparison.experiments import compare_experiments
from t2s_assets.text2sql.errors import DataError
from t2s_assets.text2sql.storage import read_manifest, write_json, write_manifest
from t2s_assets_tests.projects import ProjectFiles
from t2s_assets_tests.scored import TRAINING, prepare_gold, row, save

Scored = Callable[..., None]


@pytest.fixture
def scored(project_files: ProjectFiles) -> Scored:
    """Gives an experiment predictions, one letter a validation question: r for right and w for wrong; capitals are
    aggregations. `sections` are of its file."""
    now = prepare_gold(project_files)

    def add(
        name: str, verdicts: str, *, test: str = "", gold: str | None = now, first: int = 0, **sections: Any
    ) -> None:
        project_files.experiment("towns", name, base=Path("not-loaded"), **sections)
        rows = [
            row(f"{split[0]}{first + i:02}", right=v in "rR", split=split, category="simple" if v.islower() else "agg")
            for split, letters in (("validation", verdicts), ("test", test))
            for i, v in enumerate(letters)
        ]
        save(project_files.project, "towns", name, rows, gold=gold)

    return add


def compared(files: ProjectFiles, *names: str, split: str = "validation") -> dict[str, Any]:
    return compare_experiments(files.project, "towns", names[0], names[1:], split=split).found


def manifest(files: ProjectFiles, asset: str, name: str, **changes: Any) -> None:
    """Write other facts into a manifest."""
    folder = files.project.path("towns", asset, name)
    facts = read_manifest(folder, made_by="") | changes
    write_manifest(folder, facts.pop("data_version"), facts)


def test_the_difference_is_that_of_the_other_to_the_reference(project_files: ProjectFiles, scored: Scored) -> None:
    scored("a", "rrwwwwwwww")
    scored("b", "rwrrrrrrrw")
    found = compared(project_files, "a", "b")
    (b,) = found["comparisons"]
    assert (b["experiment"], found["reference"], found["n"]) == ("towns/b", "towns/a", 10)
    assert (b["won"], b["lost"], b["p"]) == (7, 1, 0.0703125)
    assert b["won_questions"] == [f"v{i:02}" for i in range(2, 9)] and b["lost_questions"] == ["v01"]
    assert b["difference"]["value"] == pytest.approx(0.6)
    assert b["difference"]["low"] < 0.6 < b["difference"]["high"]
    assert b["verdict"] == "no larger than chance"
    assert [e["overall"]["ex"]["value"] for e in found["experiments"]] == [0.2, 0.8]
    turned = compared(project_files, "b", "a")["comparisons"][0]
    assert (turned["won"], turned["lost"], turned["difference"]["value"]) == (1, 7, pytest.approx(-0.6))


def test_one_comparison_is_not_adjusted_and_several_are(project_files: ProjectFiles, scored: Scored) -> None:
    scored("a", "wwwwwwrr")
    scored("b", "rrrrrrrr")
    scored("c", "wwwwwwrw")
    (alone,) = compared(project_files, "a", "b")["comparisons"]
    assert (alone["p"], alone["p_adjusted"], alone["verdict"]) == (0.03125, 0.03125, "better by more than chance")
    b, c = compared(project_files, "a", "b", "c")["comparisons"]
    assert (b["p"], b["p_adjusted"], b["verdict"]) == (0.03125, 0.0625, "no larger than chance")
    assert (c["p"], c["p_adjusted"]) == (1.0, 1.0)


def test_only_questions_that_all_answered_count_and_a_line_says_so(project_files: ProjectFiles, scored: Scored) -> None:
    scored("a", "rrrrrrww")
    scored("b", "wwwwrr", first=2)
    scored("c", "rrrr", first=3)
    found = compared(project_files, "a", "b", "c")
    assert found["n"] == 4
    assert [e["overall"]["ex"]["n"] for e in found["experiments"]] == [4, 4, 4]
    assert found["comparisons"][0]["won_questions"] == ["v06"]
    assert found["notes"] == [
        "towns/a answered 8 validation questions; compared are the 4 that all answered",
        "towns/b answered 6 validation questions; compared are the 4 that all answered",
    ]
    assert compared(project_files, "a", "b")["n"] == 6


def test_no_question_in_common_is_no_comparison(project_files: ProjectFiles, scored: Scored) -> None:
    scored("a", "rr")
    scored("b", "rr", first=5)
    with pytest.raises(DataError, match=r"no validation question was answered by all \(towns/a 2, towns/b 2\)"):
        compared(project_files, "a", "b")
    with pytest.raises(DataError, match="no test question"):
        compared(project_files, "a", "b", split="test")


def test_each_split_has_its_own_questions(project_files: ProjectFiles, scored: Scored) -> None:
    scored("a", "rw", test="wwr")
    scored("b", "wr", test="rrr")
    assert compared(project_files, "a", "b")["comparisons"][0]["won_questions"] == ["v01"]
    found = compared(project_files, "a", "b", split="test")
    assert found["comparisons"][0]["won_questions"] == ["t00", "t01"]
    assert (found["n"], found["of"], found["split"]) == (3, 3, "test")


def test_categories_are_paired_too(project_files: ProjectFiles, scored: Scored) -> None:
    scored("a", "rrwWRW")
    scored("b", "rwrRRR")
    found = compared(project_files, "a", "b")
    by_category = found["comparisons"][0]["by_category"]
    assert {c: (t["n"], t["won"], t["lost"]) for c, t in by_category.items()} == {"simple": (3, 1, 1), "agg": (3, 2, 0)}
    assert by_category["agg"]["difference"]["value"] == pytest.approx(2 / 3)
    assert found["experiments"][1]["by_category"]["agg"]["ex"]["value"] == 1.0


def test_an_experiment_is_named_once(project_files: ProjectFiles, scored: Scored) -> None:
    scored("a", "rr")
    scored("b", "rr")
    for names in (("a", "a"), ("a", "b", "b")):
        with pytest.raises(DataError, match=f"towns/{names[-1]} is named twice"):
            compared(project_files, *names)


def test_without_predictions_the_next_command_is_told(project_files: ProjectFiles, scored: Scored) -> None:
    scored("a", "rr")
    project_files.experiment("towns", "new", base=Path("not-loaded"))
    with pytest.raises(DataError, match="towns/new has no predictions; make some with: t2s run towns/new"):
        compared(project_files, "a", "new")
    write_manifest(project_files.project.path("towns", "adapter", "new"), "trained", {})
    with pytest.raises(DataError, match="make some with: t2s evaluate towns/new"):
        compared(project_files, "new", "a")


@pytest.mark.parametrize("gold", ["another", None])
def test_verdicts_on_other_data_are_refused_and_named(
    project_files: ProjectFiles, scored: Scored, gold: str | None
) -> None:
    scored("a", "rr")
    scored("b", "rr", gold=gold)
    with pytest.raises(DataError, match=r"^towns/b: scored on other questions.* evaluate again with: t2s run towns/b$"):
        compared(project_files, "a", "b")
    scored("a", "rr", gold="a third")
    with pytest.raises(DataError, match=r"^towns/a, towns/b: .*: t2s run towns/a; t2s run towns/b$"):
        compared(project_files, "a", "b")


def test_what_does_not_say_what_it_was_scored_on_is_no_pair(project_files: ProjectFiles, scored: Scored) -> None:
    scored("a", "rr", gold=None)
    scored("b", "rr", gold=None)
    with pytest.raises(DataError, match=r"^towns/a, towns/b: "):
        compared(project_files, "a", "b")


def test_all_on_the_data_of_before_are_compared_and_a_line_says_so(project_files: ProjectFiles, scored: Scored) -> None:
    scored("a", "rw")
    scored("b", "rr")
    assert compared(project_files, "a", "b")["notes"] == []
    prepare_gold(project_files, answer="Lhotse")
    found = compared(project_files, "a", "b")
    assert found["comparisons"][0]["won"] == 1
    (note,) = found["notes"]
    assert note.startswith("all were scored on other questions, tables or gold than there are now")
    assert note.endswith("t2s run towns/a; t2s run towns/b")


def test_settings_that_are_others_are_named_with_their_values(project_files: ProjectFiles, scored: Scored) -> None:
    scored("a", "rr", lora={"rank": 16, "alpha": 8}, description="one")
    decoding = {"execution_guided": True, "grammar": "schema"}  # the default, said
    scored("b", "rr", lora={"rank": 32, "alpha": 8}, description="another", like="a", decoding=decoding)
    settings = compared(project_files, "a", "b")["comparisons"][0]["settings"]
    assert settings == [
        {"field": "lora.rank", "reference": 16, "other": 32},
        {"field": "decoding.execution_guided", "reference": False, "other": True},
    ]


def test_a_base_of_another_source_has_other_fields(project_files: ProjectFiles, scored: Scored) -> None:
    scored("a", "rr")
    scored("b", "rr", base_model={"source": "hub", "repo": "x/y", "revision": "1"})
    settings = {
        s["field"]: (s["reference"], s["other"])
        for s in compared(project_files, "a", "b")["comparisons"][0]["settings"]
    }
    assert settings == {
        "base_model.source": ("folder", "hub"),
        "base_model.path": ("not-loaded", None),
        "base_model.repo": (None, "x/y"),
        "base_model.revision": (None, "1"),
    }


def test_predictions_without_rows_that_can_be_read_are_told(project_files: ProjectFiles, scored: Scored) -> None:
    scored("a", "rw")
    scored("b", "wr")
    path = project_files.project.path("towns", "predictions", "b") / "predictions.parquet"
    path.write_text("half of it")
    with pytest.raises(DataError, match=r"predictions\.parquet cannot be read \(.*\); .*: t2s evaluate towns/b$"):
        compared(project_files, "a", "b")
    path.unlink()
    with pytest.raises(DataError, match=r"predictions\.parquet is not there; make it with: t2s evaluate towns/b$"):
        compared(project_files, "a", "b")


def test_settings_are_those_that_made_the_predictions(project_files: ProjectFiles, scored: Scored) -> None:
    """Not those that the files have got since."""
    scored("a", "rr")
    scored("b", "rr")
    for name in ("a", "b"):
        folder = project_files.project.path("towns", "adapter", name)
        trained = project_files.project.experiment("towns", name).resolved()
        write_json(folder / "experiment.json", {"experiment": trained})
    manifest(project_files, "predictions", "b", decoding={"max_new_tokens": 64})
    project_files.experiment("towns", "b", base=Path("not-loaded"), lora={"rank": 64, "alpha": 8})
    found = compared(project_files, "a", "b")
    assert found["comparisons"][0]["settings"] == [{"field": "decoding.max_new_tokens", "reference": 128, "other": 64}]
    assert found["notes"] == [
        "towns/b decodes otherwise now than when it was evaluated (decoding.max_new_tokens was 64, is 128); evaluate "
        "again with: t2s evaluate towns/b"
    ]


def test_what_it_takes_is_told(project_files: ProjectFiles, scored: Scored) -> None:
    scored("a", "rr")
    scored("b", "rr")
    manifest(project_files, "predictions", "b", latency_p95_ms=640.0, uses_table_content=["execution_guided"])
    manifest(project_files, "adapter", "b", taken_from="towns/a")
    a, b = compared(project_files, "a", "b")["experiments"]
    assert (a["minutes"], a["adapter_mb"]) == (TRAINING["minutes"], TRAINING["adapter_mb"])
    assert (a["latency_p95_ms"], a["taken_from"], a["uses_table_content"]) == (None, None, [])
    assert (b["latency_p95_ms"], b["taken_from"], b["uses_table_content"]) == (640.0, "towns/a", ["execution_guided"])


def test_what_a_later_training_took_is_not_that_of_these_answers(project_files: ProjectFiles, scored: Scored) -> None:
    scored("a", "rr")
    scored("b", "rr")
    folder = project_files.project.path("towns", "adapter", "b")
    trained = project_files.project.experiment("towns", "b").resolved()
    write_json(folder / "experiment.json", {"experiment": trained | {"lora": {"rank": 99}}})
    write_manifest(folder, "trained since", TRAINING)
    found = compared(project_files, "a", "b")
    assert (found["experiments"][1]["minutes"], found["experiments"][1]["adapter_mb"]) == (None, None)
    assert found["comparisons"][0]["settings"] == [], "nor are its settings"
    (note,) = found["notes"]
    assert note.startswith("towns/b was trained again since it was evaluated")
