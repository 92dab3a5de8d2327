"""Trainings and evaluations in several processes and on several nodes, held against those in one process."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from t2s_assets.text2sql import adapters, base_models, evaluation, predictions, report, training
from t2s_assets.text2sql.prompts import make_prompts
from t2s_assets.text2sql.storage import read_json
from t2s_assets_tests.projects import ProjectFiles
from t2s_assets_tests.trainable import add_experiment, add_towns, prepare

Make = Callable[..., str]

# Four examples a step however many ranks share them; each step's loss is logged, to all digits.
PLAIN: dict[str, Any] = {"group_by_length": False, "eval_examples": 4, "learning_rate": 0.01, "max_steps": 6}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="module")
def towns(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> ProjectFiles:
    files = add_towns(ProjectFiles(tmp_path_factory.mktemp("ranks")), tiny_base)
    prepare(files, "tiny")
    return files


@pytest.fixture(scope="module")
def experiment(towns: ProjectFiles, tiny_base: Path) -> Make:
    """Writes an experiment, makes its prompts, and returns its name."""

    def make(name: str, **settings: Any) -> str:
        add_experiment(towns, tiny_base, name, **settings)
        make_prompts(towns.project, "towns", name, [].append)
        return name

    return make


@pytest.fixture(scope="module")
def one(towns: ProjectFiles, experiment: Make) -> str:
    """The experiment that one process has trained."""
    name = experiment("one", batch_size=4, **PLAIN)
    assert training.run(towns.project, "towns", name)["world_size"] == 1
    return name


def curve(files: ProjectFiles, name: str) -> dict[str, list[float]]:
    """Losses by step: of the validation sample at each evaluation, and the training's mean."""
    history = read_json(files.project.path("towns", "adapter", name) / "trainer_state.json", made_by="")["log_history"]
    return {n: [h[n] for h in history if n in h] for n in ("loss", "eval_loss", "train_loss")}


def assert_same_curve(files: ProjectFiles, name: str, other: str) -> None:
    wanted, got = curve(files, name), curve(files, other)
    assert len(wanted["eval_loss"]) == 3 and len(set(wanted["eval_loss"])) == 3  # it learns: other batches would show
    for kind in wanted:
        assert got[kind] == pytest.approx(wanted[kind], abs=1e-4), kind


def weights(files: ProjectFiles, name: str) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(files.project.path("towns", "adapter", name) / adapters.WEIGHTS)


def assert_same_adapter(files: ProjectFiles, name: str, other: str) -> None:
    wanted, got = weights(files, name), weights(files, other)
    assert {k: v.shape for k, v in got.items()} == {k: v.shape for k, v in wanted.items()}
    for key in wanted:
        assert (wanted[key] - got[key]).abs().max() < 1e-3, key
    assert max(v.abs().max() for k, v in got.items() if "lora_B" in k) > 0.01


def test_two_ranks_have_the_loss_curve_of_one(towns: ProjectFiles, experiment: Make, one: str) -> None:
    two = training.run(towns.project, "towns", experiment("two", batch_size=2, processes=2, **PLAIN))
    assert two["world_size"] == 2
    assert two["examples_seen"] == 24
    assert_same_curve(towns, one, "two")
    assert_same_adapter(towns, one, "two")


def test_sharded_over_two_ranks_the_base_gives_the_same_adapter(
    towns: ProjectFiles, experiment: Make, one: str
) -> None:
    name = experiment("sharded", batch_size=2, processes=2, sharding="fsdp", **PLAIN)
    facts = training.run(towns.project, "towns", name)
    assert facts["world_size"] == 2
    assert_same_curve(towns, one, name)
    assert_same_adapter(towns, one, name)
    adapter = adapters.open_adapter(towns.project.path("towns", "adapter", name), made_by="")
    model, _ = adapters.load_tuned(adapter, towns.project, base_models.place(adapter.experiment.hardware))
    assert not [n for n, _ in model.named_parameters() if "lora" in n]
