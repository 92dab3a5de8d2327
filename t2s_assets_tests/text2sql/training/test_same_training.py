"""Experiments that are like another: which train, which take its adapter, and what is kept beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from t2s_assets.text2sql import adapters, training
from t2s_assets.text2sql.comparison.champion import CHAMPION
from t2s_assets.text2sql.errors import DataError
from t2s_assets.text2sql.evaluation.examination import Examination
from t2s_assets.text2sql.prompt_datasets import make_prompts
from t2s_assets.text2sql.storage import file_hash, read_json, write_json, write_manifest
from t2s_assets.text2sql.trained import find_adapter, trained
from t2s_assets_tests.projects import ProjectFiles
from t2s_assets_tests.trainable import add_experiment, trained_towns

pytestmark = pytest.mark.usefixtures("one_thread")

TAKES = "towns/tiny trained the same: its adapter is taken; --force trains it here"


@pytest.fixture(scope="module")
def towns(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> ProjectFiles:
    return trained_towns(tmp_path_factory.mktemp("like"), tiny_base)


def write(files: ProjectFiles, name: str, text: str) -> None:
    (files.project.configs / "towns" / f"{name}.yaml").write_text(f"description: d\n{text}\n", encoding="utf-8")


def train(files: ProjectFiles, name: str, text: str = "", *, force: bool = False) -> tuple[dict[str, Any], list[str]]:
    """The manifest and what was said, of an experiment whose file holds `text`."""
    if text:
        write(files, name, text)
    make_prompts(files.project, "towns", name, [].append)
    lines: list[str] = []
    return training.train(files.project, "towns", name, force=force, log=lines.append), lines


def weights(files: ProjectFiles, name: str) -> str:
    return file_hash(files.project.path("towns", "adapter", name) / adapters.WEIGHTS, length=16)


def test_with_other_decoding_the_adapter_is_taken(towns: ProjectFiles) -> None:
    facts, lines = train(towns, "free", "like: tiny\ndecoding: {grammar: none}")
    assert TAKES in lines
    assert not any(line.startswith("step ") for line in lines)
    assert (facts["taken_from"], facts["steps"]) == ("towns/tiny", 2)
    assert facts["data_version"] == weights(towns, "free") == weights(towns, "tiny")
    adapter = find_adapter("towns/free", towns.project)
    assert (adapter.experiment.decoding.grammar, adapter.experiment.decoding.max_new_tokens) == ("none", 24)
    kept = read_json(adapter.folder / adapters.RESOLVED_CONFIG, made_by="")
    assert kept["address"] == ["towns", "free"] and "like" not in kept["experiment"]
    assert adapters.open_adapter(adapter.folder, made_by="").experiment.decoding == adapter.experiment.decoding
    again, lines = train(towns, "free")
    assert again == facts and lines[0].startswith("already trained")


def test_by_way_of_another_that_took_it(towns: ProjectFiles) -> None:
    train(towns, "between", "like: tiny\ndecoding: {max_new_tokens: 8}")
    facts, lines = train(towns, "last", "like: between\nevaluation: {latency_questions: 1}")
    assert TAKES in lines
    assert facts["taken_from"] == "towns/tiny"
    assert towns.project.experiment("towns", "last").decoding.max_new_tokens == 8


@pytest.mark.parametrize("text", ["lora: {rank: 3}", "training: {seed: 3}", "prompt: {template: chat}"])
def test_what_would_train_otherwise_trains(towns: ProjectFiles, text: str) -> None:
    name = f"other{text.count('a')}{len(text)}"
    facts, lines = train(towns, name, f"like: tiny\n{text}")
    assert any(line.startswith("step ") for line in lines)
    assert "taken_from" not in facts
    assert facts["data_version"] != weights(towns, "tiny")


def test_equal_settings_alone_take_nothing(towns: ProjectFiles, tiny_base: Path) -> None:
    add_experiment(towns, tiny_base, "equal", max_steps=2)
    facts, lines = train(towns, "equal")
    assert any(line.startswith("step ") for line in lines) and "taken_from" not in facts
    assert facts["data_version"] == weights(towns, "tiny")


def test_forced_it_trains_here(towns: ProjectFiles) -> None:
    facts, lines = train(towns, "forced", "like: tiny", force=True)
    assert any(line.startswith("step ") for line in lines) and "taken_from" not in facts


def test_weights_that_are_not_their_manifests_are_not_taken(tmp_path: Path, tiny_base: Path) -> None:
    files = trained_towns(tmp_path, tiny_base)
    broken = files.project.path("towns", "adapter", "tiny") / adapters.WEIGHTS
    broken.write_bytes(broken.read_bytes()[:-1])
    facts, lines = train(files, "free", "like: tiny\ndecoding: {grammar: none}")
    assert "taken_from" not in facts and any("so it is not taken" in line for line in lines)


# ------------------------------------------------------------------------------------- a folder that was moved away


def moved_away(folder: Path) -> None:
    """As a process leaves it that was killed while another folder was to take its place."""
    folder.rename(folder.with_name(f".{folder.name}.0123abcd.old"))


def test_an_adapter_that_a_killed_process_moved_away_is_found(towns: ProjectFiles) -> None:
    folder = towns.project.path("towns", "adapter", "tiny")
    version = weights(towns, "tiny")
    for find in (
        lambda: find_adapter("towns/tiny", towns.project).version,
        lambda: find_adapter(folder, towns.project).version,
        lambda: version if "towns/tiny" in trained(towns.project) else None,
    ):
        moved_away(folder)
        assert find() == version
    choose_tiny(towns, version)
    moved_away(towns.project.path("towns", "champion"))
    assert find_adapter("towns", towns.project).version == version


def choose_tiny(files: ProjectFiles, version: str) -> None:
    champion = files.project.path("towns", "champion")
    write_json(champion / CHAMPION, {"experiment": "tiny"})
    write_manifest(champion, "v", {"experiment": "tiny", "adapter_version": version})


def test_an_adapter_that_a_killed_process_moved_away_is_not_trained_again(towns: ProjectFiles) -> None:
    folder = towns.project.path("towns", "adapter", "tiny")
    moved_away(folder)
    assert TAKES in train(towns, "same", "like: tiny\ndecoding: {max_new_tokens: 7}")[1]
    moved_away(folder)
    assert train(towns, "tiny")[1][0].startswith("already trained")


# --------------------------------------------------------------------------------------- settings after training


def test_a_changed_decoding_is_what_answers_and_what_is_kept(tmp_path: Path, tiny_base: Path) -> None:
    files = trained_towns(tmp_path, tiny_base)
    add_experiment(files, tiny_base, "tiny", max_steps=2, decoding={"max_new_tokens": 9})
    assert find_adapter("towns/tiny", files.project).experiment.decoding.max_new_tokens == 9
    folder = files.project.path("towns", "adapter", "tiny")
    assert adapters.open_adapter(folder, made_by="").experiment.decoding.max_new_tokens == 24
    _, lines = train(files, "tiny")
    assert lines[0].startswith("already trained") and lines[1].startswith("settings outside of training have changed")
    assert adapters.open_adapter(folder, made_by="").experiment.decoding.max_new_tokens == 9
    assert len(train(files, "tiny")[1]) == 1


def test_without_its_file_an_adapter_answers_by_its_own_records(tmp_path: Path, tiny_base: Path) -> None:
    files = trained_towns(tmp_path, tiny_base)
    (files.project.configs / "towns" / "tiny.yaml").rename(files.project.configs / "towns" / "new.yaml")
    assert find_adapter("towns/tiny", files.project).experiment.decoding.max_new_tokens == 24


def test_an_adapter_of_other_settings_is_not_evaluated(tmp_path: Path, tiny_base: Path) -> None:
    files = trained_towns(tmp_path, tiny_base)
    Examination.of(files.project, "towns", "tiny")
    add_experiment(files, tiny_base, "tiny", max_steps=2, learning_rate=0.5, lora={"rank": 2})
    with pytest.raises(DataError, match=r"lora.rank was \d+, is 2; training.learning_rate was 0.001, is 0.5\); train"):
        Examination.of(files.project, "towns", "tiny")


def test_a_default_that_a_version_changed_is_no_other_setting(tmp_path: Path, tiny_base: Path) -> None:
    files = trained_towns(tmp_path, tiny_base)
    folder = files.project.path("towns", "adapter", "tiny")
    resolved = read_json(folder / adapters.RESOLVED_CONFIG, made_by="")
    assert "warmup_ratio" not in resolved["experiment"]["training"]
    config = files.project.experiment("towns", "tiny")
    later = config.model_copy(update={"training": config.training.model_copy(update={"warmup_ratio": 0.5})})
    later.training.model_fields_set.discard("warmup_ratio")
    assert adapters.trained_otherwise(adapters.open_adapter(folder, made_by=""), later) == []
