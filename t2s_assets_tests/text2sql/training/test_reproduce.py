"""Training an adapter again from its folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from t2s_assets.text2sql import training
from t2s_assets.text2sql.errors import DataError
from t2s_assets.text2sql.storage import read_json
from t2s_assets.text2sql.training import entry
from t2s_assets.text2sql.training.reproduce import reproduce
from t2s_assets_tests.fake_time import FakeTime
from t2s_assets_tests.projects import ProjectFiles
from t2s_assets_tests.trainable import add_experiment, add_towns, prepare
from t2s_assets_tests.training_runs import break_off


@pytest.fixture(scope="module")
def towns(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Iterator[ProjectFiles]:
    """An adapter trained by a clock, in this process with one thread: steps took four times as long as was planned,
    and the run was broken off and went on from a checkpoint."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    settings = {"max_steps": None, "budget_minutes": 1, "eval_steps": 10, "save_steps": 10}
    lora = {"rank": 4, "alpha": 8, "dropout": 0.1}
    files = add_towns(ProjectFiles(tmp_path_factory.mktemp("reproduce")), tiny_base, **settings, lora=lora)
    prepare(files, "tiny")

    with pytest.MonkeyPatch.context() as patch:
        FakeTime(patch, timed=0.25, step=lambda n: 1.0, evaluation=1.0)
        break_off(files, "tiny", 20)
        lines: list[str] = []
        training.train(files.project, "towns", "tiny", log=lines.append)
        assert "going on from checkpoint-10" in lines
    torch.set_num_threads(before)
    yield files


def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs the second training here, not in a child: the interpreter's start is most of the time."""
    import torch

    def run(project: Any, dataset: str, experiment: str, *options: str, **variables: str) -> dict[str, Any]:
        assert options[0] == "--replay"
        replay = read_json(Path(options[1]), made_by="")
        torch.set_num_threads(int(variables["OMP_NUM_THREADS"]))
        return training.train(project, dataset, experiment, replay=replay, log=lambda line: None)

    monkeypatch.setattr(entry, "run", run)


def test_a_run_that_a_clock_planned_anew_comes_out_the_same(
    towns: ProjectFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_this_process(monkeypatch)
    folder = towns.project.path("towns", "adapter", "tiny")
    manifest = read_json(folder / "manifest.json", made_by="")
    assert 40 < manifest["steps"] < 60 < manifest["planned_steps"]
    before = {p: p.stat().st_mtime_ns for p in folder.iterdir()}
    lines: list[str] = []
    assert reproduce(towns.project, folder, lines.append)
    assert f"matched: the weights are again {manifest['data_version']}" in lines
    assert not [line for line in lines if line.startswith("differs")]
    assert {p: p.stat().st_mtime_ns for p in folder.iterdir()} == before


def copy_of(towns: ProjectFiles, tmp_path: Path) -> Path:
    return Path(shutil.copytree(towns.project.path("towns", "adapter", "tiny"), tmp_path / "adapter"))


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_another_outcome_is_told_with_what_differs(
    towns: ProjectFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_this_process(monkeypatch)
    folder = copy_of(towns, tmp_path)
    schedule = read_json(folder / "schedule.json", made_by="")
    change(folder / "schedule.json", rates=[0.5 * r for r in schedule["rates"]])
    change(
        folder / "manifest.json", versions=read_json(folder / "manifest.json", made_by="")["versions"] | {"peft": "0"}
    )
    lines: list[str] = []
    assert not reproduce(towns.project, folder, lines.append)
    assert [line for line in lines if line.startswith("differs: peft was 0, is ")]
    assert [line for line in lines if line.startswith("differs: train_loss was ")]
    assert lines[-1].startswith("did not match: the weights were ")


def test_changed_weights_and_changed_data_are_refused(towns: ProjectFiles, tiny_base: Path, tmp_path: Path) -> None:
    folder = copy_of(towns, tmp_path)
    change(folder / "experiment.json", prompts_version="0" * 16)
    with pytest.raises(DataError, match=r"come prompts \w+; the adapter was trained on 0000000000000000"):
        reproduce(towns.project, folder, lambda line: None)
    with (folder / "adapter_model.safetensors").open("ab") as out:
        out.write(b"x")
    with pytest.raises(DataError, match="their manifest says"):
        reproduce(towns.project, folder, lambda line: None)


@pytest.mark.slow
def test_the_command_reproduces_a_run_of_given_length(towns: ProjectFiles, tiny_base: Path) -> None:
    add_experiment(towns, tiny_base, "short", max_steps=3)
    prepare(towns, "short")
    training.run(towns.project, "towns", "short")
    assert reproduce(towns.project, towns.project.path("towns", "adapter", "short"), print)
