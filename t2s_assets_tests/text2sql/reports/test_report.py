"""The report, from predictions made by hand: what it counts, what it says, and that it says it again the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from t2s_assets.text2sql.dataset_config import Targets
from t2s_assets.text2sql.errors import DataError
from t2s_assets.text2sql.evaluation.examination import gold_version
from t2s_assets.text2sql.metrics import ERROR_KINDS
from t2s_assets.text2sql.reports import presentation, report
from t2s_assets.text2sql.storage import write_manifest
from t2s_assets_tests.projects import ProjectFiles
from t2s_assets_tests.scored import LATENCY, TRAINING, prepare_gold, row, save

IMAGES = dict.fromkeys(presentation.PLOTS, "x.png")


def build(
    rows: list[dict[str, Any]],
    base: list[dict[str, Any]] | None = None,
    *,
    of: int | None = None,
    p95: float | None = 200.0,
    adapter_mb: float = 19.6,
    targets: Targets = Targets(em=0.6, ex=0.55),
) -> dict[str, Any]:
    latency = LATENCY | {"total_ms": {} if p95 is None else {"p50": 100.0, "p95": p95, "p99": 900.0}}
    tests = sum(r["split"] == "test" for r in rows)
    predictions = {"adapter_version": "a1", "of": {"test": of or tests, "validation": len(rows) - tests}}
    training = TRAINING | {"adapter_mb": adapter_mb}
    return report.build_report("towns/tiny", rows, base or [], latency, training, predictions, {}, targets)


# -------------------------------------------------------------------------------------------- against the base


def test_what_training_won_is_split_by_how_the_base_failed() -> None:
    base = [
        row("invalid", right=False, valid=False),
        row("wrong-1", right=False),
        row("wrong-2", right=False),
        row("both", right=True),
        row("lost", right=True, sql="SELECT 1"),
        row("neither", right=False, valid=False),
        row("not asked of the tuned one"),
    ]
    tuned = [
        row("invalid"),
        row("wrong-1"),
        row("wrong-2"),
        row("both"),
        row("lost", right=False),
        row("neither", right=False),
        row("not asked of the base"),
    ]
    found = report.baseline(tuned, base)
    assert found["n"] == 6
    assert (found["won_by_validity"], found["won_by_understanding"], found["broken"]) == (1, 2, 1)
    assert (found["ex_test"]["won"], found["ex_test"]["lost"]) == (3, 1)
    assert found["won_by_validity"] + found["won_by_understanding"] == found["ex_test"]["won"]
    assert found["overall"]["validity"]["value"] == pytest.approx(4 / 6)
    assert found["broken_questions"] == [
        {
            "id": "lost",
            "question": "question lost?",
            "gold": 'SELECT "Town" FROM "x"',
            "base": "SELECT 1",
            "tuned": 'SELECT "River" FROM t',
        }
    ]


def test_only_test_questions_are_compared() -> None:
    rows = [row("t"), row("v", split="validation")]
    found = build(rows, [row("t", right=False), row("v", right=False)])
    assert found["baseline"]["n"] == 1


def test_without_a_base_there_is_no_comparison() -> None:
    found = build([row("t")])
    assert found["baseline"] is None
    assert "untrained base" not in presentation.headline(found)
    assert all(line == line.rstrip() for line in presentation.headline(found).splitlines())
    assert "untrained base" not in presentation.page(found, IMAGES)


# --------------------------------------------------------------------------------------------------- counting


def test_measures_have_their_own_denominators() -> None:
    rows = [
        row("1"),
        row("2", gold_degenerate=True, ex_strict=False),
        row("3", right=False),
        row("4", right=False, valid=False),
    ]
    overall = build(rows)["test"]["overall"]
    assert {k: (v["value"], v["n"]) for k, v in overall.items()} == {
        "em": (0.5, 4),
        "ex": (0.5, 4),
        "test_suite": (0.5, 4),
        "ex_strict": (pytest.approx(1 / 3), 3),
        "validity": (0.75, 4),
    }


def test_groups_add_up() -> None:
    rows = [
        row("1", category="simple", aggregate="none", conditions=0),
        row("2", category="filter", aggregate="none", conditions=2, right=False),
        row("3", category="aggregation", aggregate="MAX", conditions=1),
        row("4", category="aggregation", aggregate="COUNT", conditions=1, right=False),
    ]
    test = build(rows)["test"]
    assert {k: (v["ex"]["value"], v["ex"]["n"]) for k, v in test["by_category"].items()} == {
        "simple": (1.0, 1),
        "filter": (0.0, 1),
        "aggregation": (0.5, 2),
    }
    assert {k: v["ex"]["n"] for k, v in test["by_aggregate"].items()} == {"none": 2, "MAX": 1, "COUNT": 1}
    assert {k: v["ex"]["n"] for k, v in test["by_conditions"].items()} == {"1": 2, "0": 1, "2": 1}
    for part in ("by_category", "by_aggregate", "by_conditions"):
        assert sum(v["em"]["n"] for v in test[part].values()) == test["n"] == 4


def test_errors_are_counted_by_slot() -> None:
    rows = [row("1"), row("2", right=False, errors=["aggregate", "value"]), row("3", right=False, errors=["value"])]
    counted = report.error_table(rows)
    assert list(counted) == list(ERROR_KINDS)
    assert {k: v for k, v in counted.items() if v} == {"aggregate": 1, "value": 2}


def test_aggregates_taken_for_others_are_shown() -> None:
    rows = [
        row("1", aggregate="MAX", predicted_aggregate="MAX"),
        row("2", aggregate="MAX", predicted_aggregate="none", right=False),
        row("3", aggregate="MAX", predicted_aggregate="MAX"),
        row("4", aggregate="MAX", predicted_aggregate=None, right=False),
    ]
    assert report.confusion(rows) == {"MAX": {"MAX": 2, "none": 1}}


def test_the_worst_are_wrong_and_sure() -> None:
    rows = [
        row("right", logprob=-0.001),
        row("sure but long", right=False, logprob=-2.0, tokens=100),
        row("sure", right=False, logprob=-0.5, tokens=10),
        row("b unsure", right=False, logprob=-30.0, tokens=10),
        row("a unsure", right=False, logprob=-30.0, tokens=10),
    ]
    worst = report.worst_failures(rows)
    assert [f["id"] for f in worst] == ["sure but long", "sure", "a unsure", "b unsure"]
    assert worst[0] == {
        "id": "sure but long",
        "question": "question sure but long?",
        "gold": 'SELECT "Town" FROM "x"',
        "predicted": 'SELECT "River" FROM t',
        "gold_result": '[["Linz"]]',
        "predicted_result": '[["Danube"]]',
        "errors": ["SELECT column"],
    }
    many = [row(f"{i:03}", right=False) for i in range(50)]
    assert len(report.worst_failures(many)) == 20


# ---------------------------------------------------------------------------------------------------- verdicts


def rights(right: int, wrong: int) -> list[dict[str, Any]]:
    return [row(str(i), right=i < right) for i in range(right + wrong)]


@pytest.mark.parametrize(
    ("name", "met", "missed"),
    [
        ("EM > 60 %", {"rows": rights(61, 39)}, {"rows": rights(60, 40)}),
        ("EX > 55 %", {"rows": rights(56, 44)}, {"rows": rights(55, 45)}),
        ("p95 < 500 ms", {"rows": rights(1, 1), "p95": 499.9}, {"rows": rights(1, 1), "p95": 500.0}),
        ("adapter < 100 MB", {"rows": rights(1, 1), "adapter_mb": 99.9}, {"rows": rights(1, 1), "adapter_mb": 100.0}),
    ],
)
def test_a_target_is_met_or_missed(name: str, met: dict[str, Any], missed: dict[str, Any]) -> None:
    assert build(met.pop("rows"), **met)["targets"][name] is True
    found = build(missed.pop("rows"), **missed)
    assert found["targets"][name] is False
    assert name in presentation.headline(found).splitlines()[-1]
    assert f"**missed**: {name}" in presentation.page(found, IMAGES)


def test_the_datasets_own_target_of_an_adapters_size() -> None:
    found = build(rights(1, 1), adapter_mb=120.0, targets=Targets(adapter_mb=150))["targets"]
    assert found == {"p95 < 500 ms": True, "adapter < 150 MB": True}


def test_nothing_asked_is_no_target_met_or_missed() -> None:
    found = build([row("v", split="validation")], p95=None)
    assert found["test"]["overall"]["em"] == {"value": None, "low": None, "high": None, "n": 0}
    assert found["targets"] == {"EM > 60 %": None, "EX > 55 %": None, "p95 < 500 ms": None, "adapter < 100 MB": True}
    assert "no questions" in presentation.headline(found)
    unmeasured = "not measured: EM > 60 %, EX > 55 %, p95 < 500 ms"
    assert presentation.headline(found).endswith(f"targets    met: adapter < 100 MB; {unmeasured}")
    assert "not measured: EM > 60 %" in presentation.page(found, IMAGES)
    assert "**missed**" not in presentation.page(found, IMAGES)


# ------------------------------------------------------------------------------------------------------- words


def test_a_sample_says_so_wherever_its_figure_stands() -> None:
    found = build(rights(6, 4), of=1234)
    assert (found["test"]["n"], found["test"]["of"], found["test"]["sampled"]) == (10, 1234, True)
    said = "a seeded sample of 10 of 1,234 test questions"
    assert said in presentation.headline(found)
    assert said in presentation.page(found, IMAGES)
    whole = build(rights(6, 4))
    assert whole["test"]["sampled"] is False
    assert "all 10 test questions" in presentation.headline(whole)
    assert "sample" not in presentation.headline(whole)


def test_rates_come_with_their_interval() -> None:
    # Wilson's interval of 8 in 10: 0.4902 to 0.9433.
    assert "80.0 % (49.0-94.3)" in presentation.headline(build(rights(8, 2)))


def test_the_page_shows_which_aggregates_are_taken_for_which() -> None:
    rows = [row("1", aggregate="MAX", predicted_aggregate="none", right=False), row("2", aggregate="none")]
    page = presentation.page(build(rows), IMAGES)
    assert "| gold | MAX | none |\n| --- | --- | --- |\n| MAX | 0 | 1 |\n| none | 0 | 1 |" in page


def test_the_page_lists_what_training_broke() -> None:
    rows, base = [row("a"), row("b", right=False)], [row("a", right=False), row("b", sql="SELECT 1")]
    broken = presentation.page(build(rows, base), IMAGES).partition("## Broken by training")[2]
    assert "**b** question b?" in broken
    assert "- base `SELECT 1`" in broken
    assert "Broken by training" not in presentation.page(build([row("a")], [row("a")]), IMAGES)


def test_conditions_are_listed_in_order() -> None:
    rows = [row(str(i), conditions=n) for i, n in enumerate((1, 1, 1, 10, 2, 2, 0))]
    listed = presentation.page(build(rows), IMAGES).partition("## By number of conditions")[2].splitlines()
    assert [line.split(" | ")[0] for line in listed[4:8]] == ["| 0", "| 1", "| 2", "| 10"]


def test_the_page_cannot_be_broken_by_what_is_in_it() -> None:
    rows = [
        row("1", right=False, question="a | b <script>*x*</script>", sql="SELECT `a`\n\nFROM t | u", result="x" * 900)
    ]
    page = presentation.page(build(rows), IMAGES)
    assert "<script>" not in page
    assert "`` SELECT `a` FROM t | u ``" in page
    assert "x" * 301 not in page


def test_questions_and_answers_stand_on_the_page_as_they_are() -> None:
    rows = [row("q_1", right=False, question="which\n\n# one_of [these](x) is `a\\`?", sql="")]
    page = presentation.page(build(rows), IMAGES)
    assert "**q\\_1** which # one\\_of \\[these\\](x) is \\`a\\\\\\`?\n" in page
    assert "- predicted nothing gives `" in page


def test_the_page_leaves_out_what_is_not_known() -> None:
    found = build([row("v", split="validation")])
    found["latency"] |= {name: {} for name in ("total_ms", "prefill_ms", "decode_ms")} | {"n": 0}
    found["training"] |= {"taken_from": None}
    page = presentation.page(found, IMAGES)
    assert "None" not in page and "taken from" not in page
    assert "| total | no questions | no questions | no questions |" in page
    assert "  latency    no questions\n" in presentation.headline(found)


# ------------------------------------------------------------------------------------------------------- files


@pytest.fixture
def saved(project_files: ProjectFiles) -> ProjectFiles:
    rows = [*rights(6, 4), row("v", split="validation")]
    base = [row(str(i), right=i == 9) for i in range(10)]
    save(project_files.project, "towns", "tiny", rows, base=base, gold=prepare_gold(project_files))
    return project_files


def folder_of(files: ProjectFiles) -> Path:
    return files.project.path("towns", "report", "tiny")


def test_the_folder_holds_report_page_and_plots(saved: ProjectFiles) -> None:
    lines: list[str] = []
    manifest = report.make_report(saved.project, "towns", "tiny", lines.append)
    folder = folder_of(saved)
    assert {p.name for p in folder.iterdir()} == {
        *("report.json", "report.md", "manifest.json", "compared.json"),
        *(f"{name}.png" for name in presentation.PLOTS),
    }
    content = json.loads((folder / "report.json").read_text())
    assert content["version"] == report.REPORT_VERSION
    assert (manifest["em"], manifest["ex"], manifest["n"], manifest["of"]) == (0.6, 0.6, 10, 10)
    assert lines == [presentation.headline(content)]
    page = (folder / "report.md").read_text()
    for name in presentation.PLOTS:
        assert f"({name}.png)" in page
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    inside = presentation.page_with_images(folder)
    assert inside.count("](data:image/png;base64,") == len(presentation.PLOTS)
    assert "Training won 6 questions in EX and lost 1" in page


def test_the_same_predictions_give_the_same_report_whatever_the_timings(
    saved: ProjectFiles, project_files: ProjectFiles
) -> None:
    first = report.make_report(saved.project, "towns", "tiny", [].append)
    before = (folder_of(saved) / "report.json").read_bytes()
    again = report.make_report(saved.project, "towns", "tiny", [].append)
    assert (folder_of(saved) / "report.json").read_bytes() == before
    assert again == first
    rows = [*rights(6, 4), row("v", split="validation")]
    slower = LATENCY | {"total_ms": {"p50": 300.0, "p95": 900.0, "p99": 950.0}, "cold_load_ms": 5000.0}
    base = [row(str(i), right=i == 9) for i in range(10)]
    took = {"latency": slower, "training": TRAINING | {"minutes": 9.0}}
    save(saved.project, "towns", "tiny", rows, base=base, **took, gold=gold_version(saved.project, "towns"))
    timed = report.make_report(saved.project, "towns", "tiny", [].append)
    assert timed["data_version"] == first["data_version"]
    old, new = json.loads(before), json.loads((folder_of(saved) / "report.json").read_text())
    for part in ("latency", "training", "targets"):
        assert old.pop(part) != new.pop(part)
    assert old == new


def test_other_predictions_give_another_version(saved: ProjectFiles) -> None:
    first = report.make_report(saved.project, "towns", "tiny", [].append)
    rows = [*rights(7, 3), row("v", split="validation")]
    save(saved.project, "towns", "tiny", rows, gold=gold_version(saved.project, "towns"))
    assert report.make_report(saved.project, "towns", "tiny", [].append)["data_version"] != first["data_version"]


def test_without_predictions_it_says_what_makes_them(project_files: ProjectFiles) -> None:
    with pytest.raises(DataError, match="t2s evaluate towns/tiny"):
        report.make_report(project_files.project, "towns", "tiny", [].append)


def test_predictions_of_another_adapter_are_not_mixed_with_this_one_s_figures(saved: ProjectFiles) -> None:
    report.make_report(saved.project, "towns", "tiny", [].append)
    before = (folder_of(saved) / "report.json").read_bytes()
    write_manifest(saved.project.path("towns", "adapter", "tiny"), "trained since", {})
    with pytest.raises(DataError, match="is now trained since; evaluate again with: t2s evaluate towns/tiny"):
        report.make_report(saved.project, "towns", "tiny", [].append)
    assert (folder_of(saved) / "report.json").read_bytes() == before


def test_predictions_on_data_that_have_changed_are_not_reported_as_those_on_today_s(saved: ProjectFiles) -> None:
    report.make_report(saved.project, "towns", "tiny", [].append)
    before = (folder_of(saved) / "report.json").read_bytes()
    prepare_gold(saved, trained=2)  # more training questions leave scores as they are
    report.make_report(saved.project, "towns", "tiny", [].append)
    prepare_gold(saved, answer="Lhotse")
    with pytest.raises(DataError, match=r"other questions, tables or gold than there are now.*t2s run towns/tiny"):
        report.make_report(saved.project, "towns", "tiny", [].append)
    assert (folder_of(saved) / "report.json").read_bytes() == before


@pytest.mark.parametrize(
    ("asset", "name", "command"),
    [("predictions", "latency.json", "evaluate"), ("adapter", "trainer_state.json", "train")],
)
def test_a_record_that_is_gone_says_what_writes_it(saved: ProjectFiles, asset: str, name: str, command: str) -> None:
    (saved.project.path("towns", asset, "tiny") / name).unlink()
    with pytest.raises(DataError, match=f"make it with: t2s {command} towns/tiny"):
        report.make_report(saved.project, "towns", "tiny", [].append)
