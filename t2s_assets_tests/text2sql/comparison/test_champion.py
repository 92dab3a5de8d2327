"""Which experiment serves: by validation questions, and by more than chance."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from t2s_assets.text2sql.comparison.champion import CHAMPION, choose_champion, compare, serving_experiment
from t2s_assets.text2sql.errors import DataError
from t2s_assets.text2sql.storage import read_json, read_manifest, write_manifest
from t2s_assets_tests.projects import ProjectFiles
from t2s_assets_tests.scored import prepare_gold, row, save

Scored = Callable[..., None]


@pytest.fixture
def scored(project_files: ProjectFiles) -> Scored:
    """Gives an experiment predictions on validation questions: one letter each, r for right and w for wrong."""
    now = prepare_gold(project_files)

    def add(name: str, verdicts: str, *, test: str = "", gold: str = now) -> None:
        project_files.experiment("towns", name, base=Path("not-loaded"))
        rows = [row(f"v{i}", right=v == "r", split="validation") for i, v in enumerate(verdicts)]
        rows += [row(f"t{i}", right=v == "r") for i, v in enumerate(test)]
        save(project_files.project, "towns", name, rows, gold=gold)

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


def test_it_stays_where_a_process_was_killed_while_it_put_the_next_one_in_its_place(
    project_files: ProjectFiles, scored: Scored
) -> None:
    scored("old", "w" * 5 + "r" * 20)
    choose(project_files)
    scored("new", "r" * 25)
    folder = project_files.project.path("towns", "champion")
    folder.rename(folder.with_name(".champion.0123abcd.old"))
    assert choose(project_files)["experiment"] == "old"


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


def test_what_was_evaluated_on_other_data_is_left_out(project_files: ProjectFiles, scored: Scored) -> None:
    """The same id may be another question there, so a better score says nothing."""
    scored("now", "rw")
    scored("then", "rr", gold="another")
    lines: list[str] = []
    assert choose_champion(project_files.project, "towns", lines.append)["experiment"] == "now"
    assert lines[0] == "towns/then was evaluated on other data or otherwise; evaluate again with: t2s run towns/then"
    assert choose(project_files)["left_out"] == ["then"]


def test_one_that_serves_stays_until_it_is_compared_on_the_same_data(
    project_files: ProjectFiles, scored: Scored
) -> None:
    scored("old", "r" * 26)
    choose(project_files)
    now = prepare_gold(project_files, answer="Lhotse")
    scored("new", "r" * 26, gold=now)
    chosen = choose(project_files)
    assert (chosen["experiment"], chosen["left_out"], chosen["comparisons"]) == ("old", ["old"], [])
    scored("old", "w" * 6 + "r" * 20, gold=now)
    assert choose(project_files)["experiment"] == "new"


def test_with_predictions_on_other_data_alone_the_champion_is_what_it_was(
    project_files: ProjectFiles, scored: Scored
) -> None:
    scored("old", "rr")
    before = choose(project_files)
    prepare_gold(project_files, answer="Lhotse")
    with pytest.raises(DataError, match="on its data as they are now; make some with: t2s run towns/old"):
        choose(project_files)
    assert read_json(project_files.project.path("towns", "champion") / CHAMPION, made_by="") == before


def test_the_first_champion_is_not_the_one_with_the_fewest_questions(
    project_files: ProjectFiles, scored: Scored
) -> None:
    scored("few", "rr")
    scored("many", "rrrrrrwwww")
    assert choose(project_files)["experiment"] == "many", "as good where both answered"
    shutil.rmtree(project_files.project.path("towns", "champion"))
    scored("fewer_and_better", "rrrrrrr")
    assert choose(project_files)["experiment"] == "fewer_and_better"


def test_one_that_serves_stays_without_its_predictions(project_files: ProjectFiles, scored: Scored) -> None:
    scored("old", "rrrw")
    choose(project_files)
    scored("new", "rrrr")
    shutil.rmtree(project_files.project.path("towns", "predictions", "old"))
    before = read_manifest(project_files.project.path("towns", "champion"), made_by="")
    chosen = choose(project_files)
    assert (chosen["experiment"], chosen["left_out"]) == ("old", ["old"])
    after = read_manifest(project_files.project.path("towns", "champion"), made_by="")
    assert after["adapter_version"] == before["adapter_version"]
    shutil.rmtree(project_files.project.path("towns", "adapter", "old"))
    assert choose(project_files)["experiment"] == "new", "one that can no longer answer serves nobody"


def test_a_file_that_is_being_edited_stops_no_choice(project_files: ProjectFiles, scored: Scored) -> None:
    scored("good", "rr")
    scored("edited", "rr")
    folder = project_files.project.path("towns", "predictions", "edited")
    facts = read_manifest(folder, made_by="")
    write_manifest(folder, facts.pop("data_version"), facts | {"decoding": {}})
    (project_files.project.configs / "towns" / "edited.yaml").write_text("description: [")
    chosen = choose(project_files)
    assert (chosen["experiment"], chosen["left_out"]) == ("good", ["edited"])


def test_predictions_decoded_otherwise_are_left_out(project_files: ProjectFiles, scored: Scored) -> None:
    scored("plain", "rw")
    scored("other", "rr")
    folder = project_files.project.path("towns", "predictions", "other")
    facts = read_manifest(folder, made_by="")
    write_manifest(folder, facts.pop("data_version"), facts | {"decoding": {"grammar": "none"}})
    chosen = choose(project_files)
    assert (chosen["experiment"], chosen["left_out"]) == ("plain", ["other"])


def test_a_broken_record_says_what_writes_it_and_that_does(project_files: ProjectFiles, scored: Scored) -> None:
    scored("good", "rrrw")
    folder = project_files.project.path("towns", "champion")
    folder.mkdir(parents=True)
    (folder / CHAMPION).write_text("{")
    with pytest.raises(DataError, match="make it again with: t2s champion towns"):
        serving_experiment(project_files.project, "towns")
    lines: list[str] = []
    assert choose_champion(project_files.project, "towns", lines.append)["experiment"] == "good"
    assert lines[0].endswith("so one is chosen as if none had")
    assert serving_experiment(project_files.project, "towns") == "good"
