"""Which experiment serves: by validation questions, and by more than chance."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from t2s_assets.text2sql.champion import CHAMPION, choose_champion, compare, serving_experiment
from t2s_assets.text2sql.errors import DataError
from t2s_assets.text2sql.storage import read_json, read_manifest, write_manifest
from t2s_assets_tests.projects import ProjectFiles
from t2s_assets_tests.scored import row, save

Scored = Callable[..., None]


@pytest.fixture
def scored(project_files: ProjectFiles) -> Scored:
    """Gives an experiment predictions on validation questions: one letter each, r for right and w for wrong."""
    project_files.dataset("towns")

    def add(name: str, verdicts: str, *, test: str = "") -> None:
        project_files.experiment("towns", name, base=Path("not-loaded"))
        rows = [row(f"v{i}", right=v == "r", split="validation") for i, v in enumerate(verdicts)]
        rows += [row(f"t{i}", right=v == "r") for i, v in enumerate(test)]
        save(project_files.project, "towns", name, rows)

    return add


def choose(files: ProjectFiles) -> dict[str, object]:
    choose_champion(files.project, "towns", [].append)
    return read_json(files.project.path("towns", "champion") / CHAMPION, made_by="")


def test_the_first_champion_is_the_best_on_validation_questions(project_files: ProjectFiles, scored: Scored) -> None:
    scored("good", "rrrw", test="wwww")
    scored("better_on_test_only", "rwww", test="rrrr")
    chosen = choose(project_files)
    assert chosen["experiment"] == "good"
    assert chosen["before"] is None
    assert chosen["validation_ex"]["good"]["value"] == 0.75
    assert chosen["validation_ex"]["good"]["n"] == 4
    assert serving_experiment(project_files.project, "towns") == "good"


def test_among_equals_the_first_name_serves(project_files: ProjectFiles, scored: Scored) -> None:
    scored("b", "rw")
    scored("a", "wr")
    assert choose(project_files)["experiment"] == "a"


def test_it_stays_against_one_that_is_better_by_chance(project_files: ProjectFiles, scored: Scored) -> None:
    scored("old", "w" * 5 + "r" * 20)
    choose(project_files)
    scored("new", "r" * 25)
    chosen = choose(project_files)
    assert chosen["experiment"] == chosen["before"] == "old"
    (comparison,) = chosen["comparisons"]
    # Five questions, all won: p = 2 * 0.5**5.
    assert comparison == {"won": 5, "lost": 0, "n": 25, "p": 0.0625, "champion": "old", "challenger": "new"}


def test_it_goes_when_one_is_better_by_more_than_chance(project_files: ProjectFiles, scored: Scored) -> None:
    scored("old", "w" * 6 + "r" * 20)
    choose(project_files)
    scored("new", "r" * 26)
    chosen = choose(project_files)
    assert (chosen["experiment"], chosen["before"]) == ("new", "old")
    assert chosen["comparisons"][0]["p"] == 0.03125


def test_it_stays_against_one_that_is_worse_by_more_than_chance(project_files: ProjectFiles, scored: Scored) -> None:
    scored("old", "r" * 20)
    choose(project_files)
    scored("new", "w" * 20)
    chosen = choose(project_files)
    assert chosen["experiment"] == "old"
    assert (chosen["comparisons"][0]["won"], chosen["comparisons"][0]["lost"]) == (0, 20)


def test_only_questions_that_both_answered_count() -> None:
    old = {str(i): row(str(i), right=False) for i in range(10)}
    new = {str(i): row(str(i)) for i in range(7, 40)}
    assert compare(old, new) == {"won": 3, "lost": 0, "n": 3, "p": 0.25}


def test_a_champion_whose_config_is_gone_is_replaced(project_files: ProjectFiles, scored: Scored) -> None:
    scored("old", "rr")
    choose(project_files)
    scored("new", "rw")
    (project_files.project.configs / "towns" / "old.yaml").unlink()
    chosen = choose(project_files)
    assert (chosen["experiment"], chosen["before"]) == ("new", "old")


def test_the_same_predictions_give_the_same_version(project_files: ProjectFiles, scored: Scored) -> None:
    scored("only", "rw")
    first = choose_champion(project_files.project, "towns", [].append)
    again = choose_champion(project_files.project, "towns", [].append)
    assert first == again
    assert first["experiment"] == "only"
    assert first["data_version"]


def test_without_predictions_there_is_none(project_files: ProjectFiles) -> None:
    project_files.dataset("towns")
    project_files.experiment("towns", "untrained", base=Path("not-loaded"))
    with pytest.raises(DataError, match="t2s run towns/EXPERIMENT"):
        choose_champion(project_files.project, "towns", [].append)
    assert serving_experiment(project_files.project, "towns") is None


def test_it_names_the_adapter_that_its_predictions_came_from(project_files: ProjectFiles, scored: Scored) -> None:
    """Trained again but not yet evaluated, an adapter is not what was compared."""
    scored("only", "rw")
    project = project_files.project
    predicted_by = read_manifest(project.path("towns", "predictions", "only"), made_by="")["adapter_version"]
    write_manifest(project.path("towns", "adapter", "only"), "trained since", {})
    assert choose_champion(project, "towns", [].append)["adapter_version"] == predicted_by != "trained since"
