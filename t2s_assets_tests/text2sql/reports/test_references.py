"""What a report is compared with, what it keeps for the next one, and what the comparison says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from t2s_assets.text2sql.comparison.champion import choose_champion
from t2s_assets.text2sql.reports.references import COMPARED, compare, not_compared, verdicts
from t2s_assets.text2sql.reports.report import make_report
from t2s_assets_tests.projects import ProjectFiles
from t2s_assets_tests.scored import prepare_gold, row, save

Reported = Callable[..., dict[str, Any]]


@pytest.fixture
def reported(project_files: ProjectFiles) -> Reported:
    """Gives an experiment predictions, one letter a test question, r for right; returns its report."""
    now = prepare_gold(project_files)

    def report(name: str, tested: str | None = None, *, validated: str = "", gold: str | None = None) -> dict[str, Any]:
        if tested is not None:
            project_files.experiment("towns", name, base=Path("not-loaded"))
            rows = [row(f"t{i:02}", right=v == "r") for i, v in enumerate(tested)]
            rows += [row(f"v{i}", right=v == "r", split="validation") for i, v in enumerate(validated)]
            save(project_files.project, "towns", name, rows, gold=gold or now)
        make_report(project_files.project, "towns", name, [].append)
        return json.loads((folder(project_files, name) / "report.json").read_text())

    return report


def folder(files: ProjectFiles, name: str) -> Path:
    return files.project.path("towns", "report", name)


def content(files: ProjectFiles, name: str) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder(files, name).iterdir() if p.suffix != ".png"}


def own(verdicts_: str, first: int = 0, *, gold: str | None = "g") -> dict[str, Any]:
    rows = [row(f"q{first + i}", right=v == "r") for i, v in enumerate(verdicts_)]
    return verdicts("x", {"data_version": "p", "adapter_version": "a"} | ({"gold_version": gold} if gold else {}), rows)


def test_won_and_lost_questions_are_named() -> None:
    found = compare(own("rrwwr"), own("rwwrw"))
    assert found is not None
    assert (found["won_questions"], found["lost_questions"]) == (["q1", "q4"], ["q3"])
    assert (found["won"], found["lost"], found["n"], found["p"]) == (2, 1, 5, 1.0)
    assert (found["ex"], found["ex_other"], found["verdict"]) == (0.6, 0.4, "no larger than chance")
    difference = found["difference"]
    assert difference["value"] == pytest.approx(0.2) and difference["low"] < 0 < 0.2 < difference["high"]


def test_only_questions_of_both_count() -> None:
    found = compare(own("rrrr"), own("wwww", first=2))
    assert found is not None
    assert (found["n"], found["won_questions"]) == (2, ["q2", "q3"])
    assert compare(own("r"), own("r", first=5)) is None
    assert compare(own("r"), None) is None


@pytest.mark.parametrize(("mine", "theirs"), [("g", "h"), ("g", None), (None, "g"), (None, None)])
def test_questions_of_other_data_are_no_pairs(mine: str | None, theirs: str | None) -> None:
    pair = own("rrr", gold=mine), own("www", gold=theirs)
    assert compare(*pair) is None
    assert "t2s run towns/x" in not_compared("towns", pair[0], {"champion": pair[1], "previous": None})["champion"]
    assert not_compared("towns", own("r"), {"champion": own("w")}) == {}


def test_validation_questions_are_left_out() -> None:
    rows = [row("t"), row("v", split="validation")]
    assert verdicts("x", {"data_version": "p", "adapter_version": "a"}, rows)["right"] == ["t"]


def test_the_first_report_has_nothing_to_compare_with(project_files: ProjectFiles, reported: Reported) -> None:
    assert reported("a", "rw")["comparisons"] == {"previous": None, "champion": None}
    assert "Nothing to compare with" in (folder(project_files, "a") / "report.md").read_text()


def test_a_report_is_compared_with_the_one_before_it(project_files: ProjectFiles, reported: Reported) -> None:
    reported("a", "wwwwwwww")
    found = reported("a", "rrrrrrrw")["comparisons"]["previous"]
    assert (found["won"], found["lost"], found["verdict"]) == (7, 0, "better by more than chance")
    assert found["won_questions"] == [f"t{i:02}" for i in range(7)]
    page = (folder(project_files, "a") / "report.md").read_text()
    line = "EX 87.5 % against 0.0 % (a) on 8 questions, +87.5 points (+40.1 to +97.8): 7 won, 0 lost, p = 0.016, better"
    assert f"{line} by more than chance" in page
    assert "- won: t00, t01" in page
    # The one before the next is this one, not the first.
    assert reported("a", "wrrrrrrw")["comparisons"]["previous"]["lost_questions"] == ["t00"]


def test_made_again_it_is_the_same_byte_for_byte(project_files: ProjectFiles, reported: Reported) -> None:
    reported("a", "rwrw")
    reported("a", "rrww")
    before = content(project_files, "a")
    reported("a")
    assert content(project_files, "a") == before
    assert json.loads(before[COMPARED])["previous"]["right"] == ["t00", "t02"]


def test_a_broken_record_of_the_report_before_is_made_anew(project_files: ProjectFiles, reported: Reported) -> None:
    reported("a", "wwww")
    (folder(project_files, "a") / COMPARED).write_text("{")
    assert reported("a", "rrrr")["comparisons"]["previous"] is None
    assert reported("a", "rrrw")["comparisons"]["previous"]["lost_questions"] == ["t03"]


def test_a_challenger_is_compared_with_the_champion(project_files: ProjectFiles, reported: Reported) -> None:
    reported("old", "rrww", validated="rrrrrrrw" + "w" * 8)
    choose_champion(project_files.project, "towns", [].append)
    assert reported("old")["comparisons"]["champion"] is None
    found = reported("new", "rwwr", validated="r" * 16)["comparisons"]["champion"]
    assert (found["experiment"], found["won_questions"], found["lost_questions"]) == ("old", ["t03"], ["t01"])
    before = content(project_files, "new")
    # Once it serves itself, it stays compared with the one that it took the place of.
    assert choose_champion(project_files.project, "towns", [].append)["experiment"] == "new"
    reported("new")
    assert content(project_files, "new") == before
    # And that one is now the challenger.
    assert reported("old")["comparisons"]["champion"]["experiment"] == "new"


def test_a_report_on_other_data_says_why_it_is_not_compared(project_files: ProjectFiles, reported: Reported) -> None:
    reported("old", "rr", validated="rr")
    choose_champion(project_files.project, "towns", [].append)
    reported("a", "wwww")
    changed = prepare_gold(project_files, answer="Lhotse")
    found = reported("a", "rrrr", gold=changed)
    assert found["comparisons"] == {"previous": None, "champion": None}
    assert found["not_compared"] == {
        "previous": "a was scored on other questions or other gold",
        "champion": "old was scored on other questions or other gold; evaluate again with: t2s run towns/old",
    }
    page = (folder(project_files, "a") / "report.md").read_text()
    assert "Nothing to compare with: a was scored on other questions or other gold." in page
    # The next one on the same data is compared with this one.
    found = reported("a", "rrrw", gold=changed)
    assert found["comparisons"]["previous"]["lost_questions"] == ["t03"]
    assert set(found["not_compared"]) == {"champion"}
