"""Training on a tiny base: what an adapter's folder holds, resuming, budgets, and what is refused."""

from __future__ import annotations

import errno
import io
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from t2s_assets.text2sql import adapters, base_models, training
from t2s_assets.text2sql.config import LoraSettings, TrainingConfig
from t2s_assets.text2sql.errors import ConfigError, DataError, ModelError, StorageError, T2SError
from t2s_assets.text2sql.prompt_datasets import make_prompts
from t2s_assets.text2sql.stopping import Stopped, StopSignal
from t2s_assets.text2sql.storage import Project, file_hash, read_json
from t2s_assets.text2sql.trained import find_adapter
from t2s_assets.text2sql.training import checkpoints as training_checkpoints
from t2s_assets.text2sql.training import training_run
from t2s_assets_tests.processes import kill_all, processes_with, wait_for
from t2s_assets_tests.projects import ProjectFiles
from t2s_assets_tests.trainable import TOWNS, add_experiment, add_towns, prepare

Make = Callable[..., str]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def towns(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> ProjectFiles:
    files = add_towns(ProjectFiles(tmp_path_factory.mktemp("training")), tiny_base)
    prepare(files, "tiny")
    return files


@pytest.fixture(scope="module")
def trained(towns: ProjectFiles) -> Path:
    """The folder of an adapter, trained by the command that Dagster runs too."""
    training.run(towns.project, "towns", "tiny")
    return towns.project.path("towns", "adapter", "tiny")


@pytest.fixture
def experiment(towns: ProjectFiles, tiny_base: Path, request: pytest.FixtureRequest) -> Make:
    """Writes an experiment with other settings, makes its prompts, and returns its name."""
    count = 0

    def make(**settings: Any) -> str:
        nonlocal count
        count += 1
        name = f"e{abs(hash(request.node.name)) % 10**8}-{count}"
        add_experiment(towns, tiny_base, name, **settings)
        make_prompts(towns.project, "towns", name, [].append)
        return name

    return make


def train(files: ProjectFiles, name: str, *, force: bool = False) -> tuple[dict[str, Any], list[str]]:
    """The manifest and what was said."""
    lines: list[str] = []
    return training.train(files.project, "towns", name, force=force, log=lines.append), lines


def stop_at(step: int, lines: list[str]) -> Callable[[str], None]:
    """A log that breaks training off when the evaluation of `step` is told."""

    def log(line: str) -> None:
        lines.append(line)
        if line.startswith(f"step {step}/") and "validation" in line:
            raise KeyboardInterrupt

    return log


def break_off(files: ProjectFiles, name: str, step: int) -> list[str]:
    lines: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        training.train(files.project, "towns", name, log=stop_at(step, lines))
    return lines


def checkpoints(files: ProjectFiles, name: str) -> dict[int, Path]:
    found = files.project.path("towns", "checkpoints", name).glob("*/checkpoint-*")
    return {int(p.name.split("-")[1]): p for p in found}


# ------------------------------------------------------------------------------------------ the adapter's folder


def test_the_folder_is_complete(trained: Path) -> None:
    assert {p.name for p in trained.iterdir()} >= {
        "adapter_config.json",
        "adapter_model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "prompt_format.json",
        "trainer_state.json",
        "experiment.json",
        "training.json",
        "loss.png",
        "manifest.json",
    }
    assert (trained / "loss.png").read_bytes().startswith(b"\x89PNG")
    history = read_json(trained / "trainer_state.json", made_by="")["log_history"]
    assert [h["step"] for h in history if "eval_loss" in h] == [2, 4]


def test_only_the_adapter_is_left_behind(trained: Path, towns: ProjectFiles) -> None:
    assert [p.name for p in trained.parent.iterdir() if p.name.startswith(".")] == []
    assert checkpoints(towns, "tiny") == {}


def test_the_manifest_says_what_happened(trained: Path, towns: ProjectFiles) -> None:
    facts = read_json(trained / "manifest.json", made_by="")
    assert facts["data_version"] == file_hash(trained / adapters.WEIGHTS, length=16)
    assert (facts["steps"], facts["planned_steps"], facts["examples_seen"]) == (4, 4, 16)
    assert facts["epochs"] == round(16 / 18, 3)
    assert facts["world_size"] == 1
    assert facts["adapter_mb"] == round((trained / adapters.WEIGHTS).stat().st_size / 1e6, 2)
    assert facts["trainable_share"] == round(facts["trainable_parameters"] / facts["parameters"], 5)
    assert 0 < facts["trainable_share"] < 0.5
    for name in ("train_loss", "validation_loss", "examples_a_second", "tokens_a_second", "peak_memory_gb"):
        assert math.isfinite(facts[name]) and facts[name] > 0, name
    assert set(facts["versions"]) == {
        *("python", "torch", "transformers", "peft", "trl", "bitsandbytes", "datasets", "accelerate"),
        *("numba", "llvmlite"),
    }
    assert set(facts["machine"]) == {"platform", "cpu", "cpu_capability", "threads"}
    assert all(facts["machine"].values())
    assert facts["git_commit"] is None or len(facts["git_commit"].removesuffix("-dirty")) == 40
    prompts = read_json(towns.project.path("towns", "prompts", "tiny") / "manifest.json", made_by="")
    assert facts["prompts_version"] == prompts["data_version"]


def test_the_resolved_settings_are_kept(trained: Path, towns: ProjectFiles) -> None:
    adapter = adapters.open_adapter(trained, made_by="")
    assert adapter.experiment == towns.project.experiment("towns", "tiny")
    kept = read_json(trained / adapters.RESOLVED_CONFIG, made_by="")
    assert kept["placement"] == {"device": "cpu", "dtype": "float32", "attention": "sdpa", "quantization": "none"}


def test_a_finished_training_is_not_repeated(trained: Path, towns: ProjectFiles) -> None:
    before = (trained / adapters.WEIGHTS).stat().st_mtime_ns
    manifest, lines = train(towns, "tiny")
    assert [line for line in lines if line.startswith("already trained")]
    assert (trained / adapters.WEIGHTS).stat().st_mtime_ns == before
    assert manifest["steps"] == 4


def test_forced_again_it_gives_the_same_adapter_to_the_bit(trained: Path, towns: ProjectFiles) -> None:
    before = read_json(trained / "manifest.json", made_by="")
    written = (trained / adapters.WEIGHTS).stat().st_mtime_ns
    manifest, _ = train(towns, "tiny", force=True)
    assert (trained / adapters.WEIGHTS).stat().st_mtime_ns > written
    assert manifest["data_version"] == before["data_version"]


def test_a_changed_setting_trains_again(towns: ProjectFiles, tiny_base: Path, experiment: Make) -> None:
    name = experiment(max_steps=2)
    first, _ = train(towns, name)
    add_experiment(towns, tiny_base, name, max_steps=2, seed=18)
    second, lines = train(towns, name)
    assert not [line for line in lines if line.startswith("already")]
    assert second["key"] != first["key"]
    assert second["data_version"] != first["data_version"]


@pytest.mark.parametrize(
    ("experiment", "prompts", "key"),
    [("smollm2-cpu", "ac9af74f0230d6a7", "92d74329ca55c9ed")],
)
def test_keys_of_trained_experiments_stay(experiment: str, prompts: str, key: str) -> None:
    """A version that adds a field must not train again what is trained; the key is an adapter's that exists."""
    configs = Path(__file__).resolve().parents[3] / "configs"
    config = Project(configs, configs).experiment("wikisql", experiment)
    base = base_models.BaseModel(configs, "01a63a596b2dfb02", {})
    placement = base_models.Placement("cpu", "bfloat16", "sdpa", "none")
    assert training.training_key(config, prompts, base, placement) == key
    given = config.training.model_copy(update={"early_stopping": 3})
    assert training.training_key(config.model_copy(update={"training": given}), prompts, base, placement) != key


def test_prompts_must_be_there(towns: ProjectFiles, tiny_base: Path) -> None:
    add_experiment(towns, tiny_base, "unprepared")
    with pytest.raises(T2SError, match="t2s prepare towns/unprepared"):
        train(towns, "unprepared")


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ({"max_length": 300}, r"prompt\.max_length was 512, is 300"),
        ({"template": "chat"}, r"prompt\.template was plain, is chat"),
    ],
)
def test_prompts_made_with_other_settings_are_refused(
    towns: ProjectFiles, tiny_base: Path, experiment: Make, prompt: dict[str, Any], said: str
) -> None:
    """Before and after a training: else the adapter's records would tell of a prompt that it never saw."""
    name = experiment(max_steps=2)
    folder = towns.project.path("towns", "adapter", name)
    refused = rf"towns/{name}: its prompts were made with other settings \({said}\).*t2s prepare towns/{name}"
    add_experiment(towns, tiny_base, name, max_steps=2, prompt=prompt)
    for start in (training.train, training.launch, training.show_plan):
        with pytest.raises(DataError, match=refused):
            start(towns.project, "towns", name)
    assert not folder.exists()
    add_experiment(towns, tiny_base, name, max_steps=2)
    train(towns, name)
    before = (folder / adapters.RESOLVED_CONFIG).read_bytes()
    add_experiment(towns, tiny_base, name, max_steps=2, prompt=prompt)
    with pytest.raises(DataError, match=refused):
        train(towns, name)
    assert (folder / adapters.RESOLVED_CONFIG).read_bytes() == before
    make_prompts(towns.project, "towns", name, [].append)
    assert not [line for line in train(towns, name)[1] if line.startswith("already")]


def other_base(base: Path, folder: Path) -> Path:
    """The base with one weight changed."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(base, folder)
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][0] += 1
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_prompts_made_with_another_base_are_refused(
    towns: ProjectFiles, tiny_base: Path, experiment: Make, tmp_path: Path
) -> None:
    name = experiment(max_steps=2)
    add_experiment(towns, other_base(tiny_base, tmp_path / "other"), name, max_steps=2)
    with pytest.raises(DataError, match=rf"other settings \(base_model was \w{{16}}, is \w{{16}}\).*towns/{name}"):
        train(towns, name)
    make_prompts(towns.project, "towns", name, [].append)
    assert train(towns, name)[0]["steps"] == 2


def test_prompts_that_do_not_say_with_which_base_are_trained_on(
    towns: ProjectFiles, tiny_base: Path, experiment: Make
) -> None:
    """As versions before this one left them."""
    name = experiment(max_steps=2)
    manifest = towns.project.path("towns", "prompts", name) / "manifest.json"
    content = json.loads(manifest.read_text())
    del content["base_identity"]
    manifest.write_text(json.dumps(content))
    assert train(towns, name)[0]["steps"] == 2
    add_experiment(towns, tiny_base, name, max_steps=2, prompt={"max_length": 300})
    with pytest.raises(DataError, match=r"prompt\.max_length was 512, is 300"):
        train(towns, name)


# ----------------------------------------------------------------------------------------------------- resuming

LONG = {"max_steps": 8, "lora": {"rank": 4, "alpha": 8, "dropout": 0.1}}
FUSED = LONG | {"lora": {"rank": 4, "alpha": 8, "dropout": 0.0}}
BOTH = pytest.mark.parametrize("long", [LONG, FUSED], ids=["transformers' layers", "fused layers"])


def test_a_broken_checkpoint_is_passed_over(towns: ProjectFiles, experiment: Make) -> None:
    whole, _ = train(towns, experiment(**LONG))
    name = experiment(**LONG)
    break_off(towns, name, 6)
    found = checkpoints(towns, name)
    assert sorted(found) == [2, 4]
    state = found[4] / "trainer_state.json"
    state.write_text(state.read_text()[:200])
    resumed, lines = train(towns, name)
    assert "checkpoint-4 is passed over: trainer_state.json is not what was written" in lines
    assert "going on from checkpoint-2" in lines
    assert resumed["data_version"] == whole["data_version"]
    assert resumed["steps"] == 8


@pytest.mark.parametrize("step", [None, 4], ids=["before a checkpoint", "after one"])
def test_a_plan_that_was_not_written_whole_is_passed_over(
    towns: ProjectFiles, experiment: Make, step: int | None
) -> None:
    name = experiment(max_steps=None, budget_minutes=0.15)
    if step is None:
        with pytest.raises(KeyboardInterrupt):
            training.train(towns.project, "towns", name, log=stop_when("planned from"))
    else:
        break_off(towns, name, step)
    (torn,) = towns.project.path("towns", "checkpoints", name).glob("*/plan.json")
    torn.write_bytes(b"")
    manifest, lines = train(towns, name)
    assert [line for line in lines if line.startswith(f"{torn} is passed over: it is not JSON")]
    assert bool([line for line in lines if line.startswith("planned from")]) == (step is None)
    assert manifest["steps"] >= 2


def stop_when(start: str) -> Callable[[str], None]:
    """A log that breaks training off at the line that starts so."""

    def log(line: str) -> None:
        if line.startswith(start):
            raise KeyboardInterrupt

    return log


def kill_when(owner: Any, name: str, *, call: int, after: bool) -> None:
    """In this process, SIGKILL at the given call of `owner.name`: after it returned, or when it was to begin."""
    real, calls = getattr(owner, name), 0

    def patched(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = real(*args, **kwargs)
        if calls == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, patched)


def truncating_save(content: Any, path: Any, *args: Any, **kwargs: Any) -> None:
    """torch.save, interrupted: a part of the optimizer's state is on the disk."""
    from torch.serialization import save

    whole = io.BytesIO()
    save(content, whole)
    Path(path).write_bytes(whole.getvalue()[: whole.tell() // 2])


def train_killed(files: ProjectFiles, name: str, arm: Callable[[], None]) -> None:
    """Train in a child process that `arm` makes die by SIGKILL."""
    child = os.fork()
    if child == 0:
        try:
            arm()
            training.train(files.project, "towns", name, log=lambda line: None)
        finally:
            os._exit(3)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


@BOTH
def test_killed_at_any_point_it_ends_with_the_same_adapter(
    towns: ProjectFiles, experiment: Make, long: dict[str, Any]
) -> None:
    """In the middle of a checkpoint's files, before its seal, in a step, and while the adapter is written."""
    import torch
    from transformers import Trainer

    from t2s_assets.text2sql.training import checkpoints as whole_checkpoints
    from t2s_assets.text2sql.training.trainer import BudgetTrainer

    whole, _ = train(towns, experiment(**long))
    name = experiment(**long)

    def in_the_optimizers_file() -> None:  # of step 2: nothing to go on from
        torch.save = truncating_save
        kill_when(Trainer, "_save_optimizer_and_scheduler", call=1, after=True)

    def before_the_seal() -> None:  # of step 4
        kill_when(whole_checkpoints, "seal", call=2, after=False)

    def in_a_step() -> None:  # the third after step 2
        kill_when(BudgetTrainer, "_mean", call=3, after=True)

    def writing_the_adapter() -> None:
        kill_when(training_run, "write_manifest", call=1, after=False)

    train_killed(towns, name, in_the_optimizers_file)
    assert sorted(checkpoints(towns, name)) == [2]
    train_killed(towns, name, before_the_seal)
    assert sorted(checkpoints(towns, name)) == [2, 4]
    train_killed(towns, name, in_a_step)
    assert sorted(checkpoints(towns, name)) == [2]
    train_killed(towns, name, writing_the_adapter)
    folder = towns.project.path("towns", "adapter", name)
    assert not folder.exists()
    left = list(folder.parent.glob(f".{name}.*.new"))
    assert len(left) == 1
    os.utime(left[0], (0, 0))
    resumed, lines = train(towns, name)
    assert "going on from checkpoint-8" in lines
    assert resumed["data_version"] == whole["data_version"]
    assert (resumed["steps"], resumed["examples_seen"]) == (whole["steps"], whole["examples_seen"])
    assert resumed["train_loss"] == pytest.approx(whole["train_loss"], rel=1e-4)  # of all sessions
    assert list(folder.parent.glob(f".{name}.*")) == []


def test_a_forced_training_that_broke_off_goes_on_when_forced_again(towns: ProjectFiles, experiment: Make) -> None:
    name = experiment(**LONG)
    whole, _ = train(towns, name)
    with pytest.raises(KeyboardInterrupt):
        training.train(towns.project, "towns", name, force=True, log=stop_at(6, []))
    resumed, lines = train(towns, name, force=True)
    assert "going on from checkpoint-4" in lines
    assert resumed["data_version"] == whole["data_version"]


def test_what_a_training_killed_at_its_very_end_leaves_is_no_start(
    towns: ProjectFiles, experiment: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = experiment()
    remove = shutil.rmtree

    def killed(path: Any, *args: Any, **kwargs: Any) -> None:
        if Path(path).parent == towns.project.path("towns", "checkpoints", name):
            raise KeyboardInterrupt
        remove(path, *args, **kwargs)

    for force in (False, True):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(training_run.shutil, "rmtree", killed)
            train(towns, name, force=True)
        assert sorted(checkpoints(towns, name)) == [2, 4]
        _, lines = train(towns, name, force=force)
        assert bool([line for line in lines if line.startswith("already trained")]) != force
        assert not [line for line in lines if line.startswith("going on")]
        assert checkpoints(towns, name) == {}


@BOTH
def test_told_to_stop_it_leaves_a_checkpoint_and_goes_on_from_there(
    towns: ProjectFiles, experiment: Make, long: dict[str, Any]
) -> None:
    settings = long | {"eval_steps": 4, "save_steps": 4}
    whole, _ = train(towns, experiment(**settings))
    name = experiment(**settings)
    stop = StopSignal()
    lines: list[str] = []

    def log(line: str) -> None:
        lines.append(line)
        if line.startswith("step 4/"):
            stop.reason = "SIGTERM"

    with pytest.raises(Stopped, match="stopped by SIGTERM after step 5; its checkpoint is kept"):
        training.train(towns.project, "towns", name, signal=stop, log=log)
    assert sorted(checkpoints(towns, name)) == [4, 5]
    resumed, lines = train(towns, name)
    assert "going on from checkpoint-5" in lines
    assert resumed["data_version"] == whole["data_version"]


@BOTH
@pytest.mark.parametrize("step", [4, 8], ids=["on the way", "the last"])
def test_a_stop_does_not_wait_for_an_evaluation_and_going_on_makes_it(
    towns: ProjectFiles, experiment: Make, monkeypatch: pytest.MonkeyPatch, long: dict[str, Any], step: int
) -> None:
    """Else a launcher that kills after a while would kill what is about to write its checkpoint."""
    settings = long | EVALUATED
    whole, _ = train(towns, experiment(**settings))
    name = experiment(**settings)
    lines = stop_in_step(towns, name, step, monkeypatch)
    assert not [line for line in lines if line.startswith(f"step {step}/8  validation")]
    assert max(checkpoints(towns, name)) == step and whole_checkpoint(towns, name)
    resumed, lines = train(towns, name)
    assert f"going on from checkpoint-{step}" in lines
    assert len([line for line in lines if line.startswith(f"step {step}/8  validation")]) == 1
    assert {n: resumed[n] for n in SAME} == {n: whole[n] for n in SAME}
    assert resumed["train_loss"] == pytest.approx(whole["train_loss"], rel=1e-4)


@pytest.mark.parametrize("step", [4, 8], ids=["on the way", "the last"])
def test_an_evaluation_made_up_for_leaves_its_checkpoint_as_it_is(
    towns: ProjectFiles, experiment: Make, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Killed after it, and then with a full disk at the next step: what was saved before is what there is."""
    from t2s_assets.text2sql.training.trainer import BudgetTrainer

    whole, _ = train(towns, experiment(**EVALUATED))
    name = experiment(**EVALUATED)
    stop_in_step(towns, name, step, monkeypatch)
    before = written(checkpoints(towns, name))
    assert max(checkpoints(towns, name)) == step

    for error in (KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")):
        lines: list[str] = []

        def fails(*args: Any, error: BaseException = error, **kwargs: Any) -> Any:
            raise error

        with monkeypatch.context() as patch, pytest.raises((KeyboardInterrupt, StorageError)):
            patch.setattr(BudgetTrainer, "training_step", fails)
            patch.setattr(training_run, "write_manifest", fails)
            training.train(towns.project, "towns", name, log=lines.append)
        assert len([line for line in lines if line.startswith(f"step {step}/8  validation")]) == 1
        assert written(checkpoints(towns, name)) == before
    resumed, lines = train(towns, name)
    assert f"going on from checkpoint-{step}" in lines
    assert {n: resumed[n] for n in SAME} == {n: whole[n] for n in SAME}


@BOTH
@pytest.mark.parametrize("step", [4, 8], ids=["on the way", "the last"])
def test_an_evaluation_is_broken_off_for_the_checkpoint_and_made_when_going_on(
    towns: ProjectFiles, experiment: Make, monkeypatch: pytest.MonkeyPatch, long: dict[str, Any], step: int
) -> None:
    from t2s_assets.text2sql.training.trainer import BudgetTrainer

    settings = long | EVALUATED
    whole, _ = train(towns, experiment(**settings))
    name, real = experiment(**settings), BudgetTrainer.prediction_step

    def prediction_step(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step == step:
            os.kill(os.getpid(), signal.SIGINT)
        return real(self, *args, **kwargs)

    def broken_off() -> dict[str, tuple[str, int]]:
        stop, lines = StopSignal(), list[str]()
        handlers = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
        try:
            stop.install()
            with monkeypatch.context() as patch, pytest.raises(Stopped, match=f"by SIGINT after step {step}"):
                patch.setattr(BudgetTrainer, "prediction_step", prediction_step)
                training.train(towns.project, "towns", name, signal=stop, log=lines.append)
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        assert not [line for line in lines if line.startswith(f"step {step}/8  validation")]
        assert max(checkpoints(towns, name)) == step and whole_checkpoint(towns, name)
        return written(checkpoints(towns, name))

    assert broken_off() == broken_off()  # the second time it is the one that is made up for
    resumed, lines = train(towns, name)
    assert len([line for line in lines if line.startswith(f"step {step}/8  validation")]) == 1
    assert {n: resumed[n] for n in SAME} == {n: whole[n] for n in SAME}


EVALUATED: dict[str, Any] = {"max_steps": 8, "eval_steps": 4, "save_steps": 4, "best": "loss"}
SAME = ("data_version", "validation_loss", "chosen_step", "steps")


def stop_in_step(files: ProjectFiles, name: str, step: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Train until a signal comes in `step`; what was said."""
    from t2s_assets.text2sql.training.trainer import BudgetTrainer

    real, steps, stop, lines = BudgetTrainer.training_step, 0, StopSignal(), list[str]()

    def training_step(*args: Any, **kwargs: Any) -> Any:
        nonlocal steps
        steps += 1
        stop.reason = "SIGINT" if steps == step else None
        return real(*args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(Stopped, match=f"stopped by SIGINT after step {step}"):
        patch.setattr(BudgetTrainer, "training_step", training_step)
        training.train(files.project, "towns", name, signal=stop, log=lines.append)
    return lines


def written(folders: dict[int, Path]) -> dict[str, tuple[str, int]]:
    """The files of checkpoints: content, and when they were written."""
    files = [p for folder in folders.values() for p in folder.rglob("*") if p.is_file()]
    return {str(p): (file_hash(p), p.stat().st_mtime_ns) for p in files}


def test_two_lanes_train_the_same_adapter_again_to_the_bit(towns: ProjectFiles, experiment: Make) -> None:
    """Whichever is done first."""
    import torch

    from t2s_assets.text2sql.training.lanes import Lanes

    before, lanes = torch.get_num_threads(), []
    real = Lanes.run

    def run(self: Lanes, rounds: Any, **kwargs: Any) -> Any:
        lanes.append(max(len(passes) for passes in rounds))
        return real(self, rounds, **kwargs)

    torch.set_num_threads(2)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Lanes, "run", run)
            found = [train(towns, experiment(**FUSED))[0] for _ in range(2)]
    finally:
        torch.set_num_threads(before)
    assert lanes.count(2) > 8  # some batches are too small
    assert found[0]["data_version"] == found[1]["data_version"]
    assert found[0]["train_loss"] == found[1]["train_loss"]


@pytest.mark.parametrize("end", ["SIGTERM", "SIGINT", pytest.param("the launcher's death", marks=pytest.mark.slow)])
def test_the_command_ends_when_it_is_told_to_or_nobody_waits_for_it(
    towns: ProjectFiles, experiment: Make, end: str
) -> None:
    name = experiment(max_steps=100_000, eval_steps=1000, save_steps=1000)
    launcher = subprocess.Popen(["sleep", "600"])
    environment = training.environment(towns.project, towns.project.experiment("towns", name))
    environment["T2S_LAUNCHER"] = str(launcher.pid)
    line = [sys.executable, "-m", "t2s_assets.text2sql.training", f"towns/{name}"]
    child = subprocess.Popen(line, env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    for said in child.stdout:
        if said.startswith("step 10/"):
            break
    if end.startswith("SIG"):
        child.send_signal(signal.Signals[end])
    else:
        launcher.kill()
        launcher.wait()
    rest = child.stdout.read()
    assert child.wait(60) == 1
    launcher.kill()
    launcher.wait()
    why = end if end.startswith("SIG") else rf"the end of the process that launched it \({launcher.pid}\)"
    assert re.search(rf"error: stopped by {why} after step", rest)
    assert len(checkpoints(towns, name)) == 1
    assert whole_checkpoint(towns, name)


def test_ctrl_c_ends_with_a_checkpoint_and_one_line(towns: ProjectFiles, experiment: Make) -> None:
    """The terminal tells the command and torchrun; torchrun, which must live for that, its rank."""
    name = experiment(max_steps=100_000, eval_steps=1000, save_steps=1000)
    child = on_a_terminal(towns, name)
    assert child.stdout is not None
    for said in child.stdout:
        if said.startswith("step 10/"):
            break
    os.killpg(child.pid, signal.SIGINT)
    rest = child.stdout.read()
    assert child.wait(60) == 130
    assert len(re.findall(r"^error: stopped by SIGINT after step \d+; its checkpoint is kept", rest, re.MULTILINE)) == 1
    assert "KeyboardInterrupt" not in rest
    assert len(checkpoints(towns, name)) == 1 and whole_checkpoint(towns, name)


@pytest.mark.parametrize("where", ["a plan", "loading", "the lock"])
def test_ctrl_c_ends_at_once_what_takes_no_steps(towns: ProjectFiles, experiment: Make, where: str) -> None:
    name = experiment()
    options, begun = (["--plan"], "plan: ") if where == "a plan" else ([], "tiny on cpu")
    holding = ExitStack()
    if where == "the lock":
        begun = "waiting up to"
        folder = towns.project.path("towns", "checkpoints", name)
        holding.enter_context(training_checkpoints.only_trainer(folder, [].append))
    with holding:
        child = on_a_terminal(towns, name, *options)
        assert child.stdout is not None
        said = next(line for line in child.stdout if begun in line or not line)
        started = time.monotonic()
        os.killpg(child.pid, signal.SIGINT)
        rest = said + child.stdout.read()
        assert child.wait(60) == 130
    assert time.monotonic() - started < 20  # torchrun kills after 30 s, and this machine may be busy
    goes_on = "" if options else "; the same command goes on from its last checkpoint, where there is one"
    assert re.findall("^error: .*$", rest, re.MULTILINE) == [f"error: stopped by SIGINT at once{goes_on}"]
    assert "KeyboardInterrupt" not in rest
    assert not processes_with(f"T2S_LAUNCHER={child.pid}")
    assert checkpoints(towns, name) == {}


def on_a_terminal(files: ProjectFiles, name: str, *options: str) -> subprocess.Popen[str]:
    """`t2s train`, in a process group that can be told of Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # it is ignored by what runs in the background
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "t2s_assets.cli", "train", f"towns/{name}", *options],
            env={**os.environ, **training.environment(files.project, files.project.experiment("towns", name))},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
    finally:
        signal.signal(signal.SIGINT, before)


def whole_checkpoint(files: ProjectFiles, name: str) -> bool:
    from t2s_assets.text2sql.training.checkpoints import damage

    return all(damage(folder) is None for folder in checkpoints(files, name).values())


def test_a_full_disk_is_told_and_training_goes_on_when_there_is_room(
    towns: ProjectFiles, experiment: Make, tmp_path: Path
) -> None:
    """On a file system of 8 MB, where that can be mounted: first full before the start, then while training."""
    name = experiment(**LONG)
    small = tmp_path / "small"
    small.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(small)], capture_output=True)
    if done.returncode:
        pytest.skip("mounting a small file system needs root")
    beside = towns.project.path("towns", "checkpoints", name)
    beside.parent.mkdir(parents=True, exist_ok=True)
    beside.symlink_to(small)
    filler = small / "filler"

    def fill(line: str) -> None:
        if line.startswith("step 4/"):
            fill_up(filler)

    try:
        filler.write_bytes(b"x" * 8_000_000)
        with pytest.raises(StorageError, match=r"checkpoints need .* lower training.keep_checkpoints"):
            train(towns, name)
        filler.unlink()
        with pytest.raises(StorageError, match=r"the disk is full .* goes on from the last whole checkpoint"):
            training.train(towns.project, "towns", name, log=fill)
        assert sorted(checkpoints(towns, name)) == [2]
        filler.unlink()
        manifest, lines = train(towns, name)
        assert "going on from checkpoint-2" in lines
        assert manifest["steps"] == 8
    finally:
        subprocess.run(["umount", str(small)], check=True)
        beside.unlink()


def test_storage_moved_to_another_disk_keeps_its_best_checkpoint(
    towns: ProjectFiles, experiment: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full when all steps are done, and the last checkpoint is not the best."""
    monkeypatch.setattr(
        "t2s_assets.text2sql.training.trainer.warm_then_cosine", lambda step, *_: 1.0 if step < 4 else -1.0
    )
    name = experiment(best="loss", max_steps=8, learning_rate=0.05, eval_examples=6, batch_size=6)
    full, roomy = tmp_path / "full", tmp_path / "roomy"
    shutil.copytree(towns.project.storage, full)
    whole, _ = train(towns, name)
    assert whole["chosen_step"] < whole["steps"]

    def no_room(*args: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(StorageError, match="move the storage folder to another disk"):
        patch.setattr(training_run, "write_manifest", no_room)
        training.train(Project(towns.project.configs, full), "towns", name, log=[].append)
    full.rename(roomy)
    lines: list[str] = []
    moved = training.train(Project(towns.project.configs, roomy), "towns", name, log=lines.append)
    assert "going on from checkpoint-8" in lines
    assert moved["chosen_step"] == whole["chosen_step"]
    assert moved["data_version"] == whole["data_version"]


def fill_up(path: Path) -> None:
    with path.open("wb", buffering=0) as out:
        for size in (100_000, 4_096):
            try:
                while True:
                    out.write(b"x" * size)
            except OSError:
                continue


def test_storage_that_cannot_be_written_is_told(towns: ProjectFiles, experiment: Make) -> None:
    name = experiment()
    beside = towns.project.path("towns", "checkpoints", name)
    beside.parent.mkdir(parents=True, exist_ok=True)
    beside.write_text("a file where a folder should be")
    with pytest.raises(StorageError, match=rf"{name} cannot be written .*T2S_STORAGE"):
        train(towns, name)


def test_killed_it_goes_on_to_the_adapter_of_an_unbroken_run(towns: ProjectFiles, experiment: Make) -> None:
    settings = LONG | {"max_steps": 200, "eval_steps": 10, "save_steps": 10}
    whole, _ = train(towns, experiment(**settings))
    name = experiment(**settings)
    config = towns.project.experiment("towns", name)
    environment = training.environment(towns.project, config)
    marker = f"T2S_STORAGE={towns.project.storage}"
    child = subprocess.Popen(
        training.command("towns", name, config),
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(lambda: len(checkpoints(towns, name)) >= 2, seconds=240, what="two checkpoints", every=0.01)
    finally:
        kill_all(marker)
        child.wait()
    assert not towns.project.path("towns", "adapter", name).exists()
    resumed, lines = train(towns, name)
    assert [line for line in lines if line.startswith("going on from checkpoint-")]
    assert resumed["data_version"] == whole["data_version"]
    assert resumed["steps"] == 200


# ------------------------------------------------------------------------------------------------------- budget


def test_a_budget_plans_its_steps_and_goes_on_from_a_checkpoints_plan(towns: ProjectFiles, experiment: Make) -> None:
    name = experiment(max_steps=None, budget_minutes=0.15)
    lines = break_off(towns, name, 4)
    assert [line for line in lines if line.startswith("planned from")]
    plan = json.loads((checkpoints(towns, name)[2] / "plan.json").read_text())
    assert plan["max_steps"] >= 4 and plan["seconds_a_step"] > 0 and plan["seconds"] > 0
    assert len(plan["rates"]) == 3
    manifest, lines = train(towns, name)
    assert not [line for line in lines if line.startswith("planned from")]
    assert "going on from checkpoint-2" in lines
    assert manifest["planned_steps"] == plan["first_steps"]
    schedule = read_json(towns.project.path("towns", "adapter", name) / "schedule.json", made_by="")
    assert schedule["rates"][:3] == plan["rates"]
    assert len(schedule["rates"]) == schedule["steps"] == manifest["steps"]


# ----------------------------------------------------------------------------------------- what settings do


def test_accumulation_and_batch_size_trade_one_for_one(towns: ProjectFiles, experiment: Make) -> None:
    plain = {"group_by_length": False}
    whole, _ = train(towns, experiment(batch_size=4, **plain))
    parts, _ = train(towns, experiment(batch_size=2, gradient_accumulation=2, **plain))
    saving, _ = train(towns, experiment(batch_size=4, gradient_checkpointing=True, **plain))
    assert parts["examples_seen"] == whole["examples_seen"] == 16
    assert parts["train_loss"] == pytest.approx(whole["train_loss"], rel=1e-3)
    assert saving["train_loss"] == pytest.approx(whole["train_loss"], rel=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("c++"), reason="torch.compile needs a compiler")
def test_a_compiled_model_learns_the_same(towns: ProjectFiles, experiment: Make) -> None:
    from torch._dynamo.utils import counters

    settings = {"batch_size": 4, "group_by_length": False, "gradient_checkpointing": True}
    plain, _ = train(towns, experiment(**settings))
    counters.clear()
    name = experiment(**{**settings, "gradient_checkpointing": False}, compile=True)
    compiled, _ = train(towns, name)
    assert counters["stats"]["unique_graphs"] > 0
    assert compiled["train_loss"] == pytest.approx(plain["train_loss"], rel=1e-4)
    adapter = find_adapter(f"towns/{name}", towns.project)
    adapters.load_tuned(adapter, towns.project, base_models.place(adapter.experiment.hardware))


def test_epochs_are_turned_into_steps(towns: ProjectFiles, experiment: Make) -> None:
    manifest, _ = train(towns, experiment(max_steps=None, epochs=0.5))
    assert manifest["steps"] == round(0.5 * 18 / 4)


def test_the_best_checkpoint_becomes_the_adapter(
    towns: ProjectFiles, experiment: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a run that ends worse than it was before, the loss told must be the loss of the adapter kept."""
    # From the middle on the steps go up the slope.
    monkeypatch.setattr(
        "t2s_assets.text2sql.training.trainer.warm_then_cosine", lambda step, *_: 1.0 if step < 4 else -1.0
    )
    settings = {"max_steps": 8, "learning_rate": 0.05, "eval_examples": 6, "batch_size": 6}
    name = experiment(best="loss", **settings)
    told = train(towns, name)[0]["validation_loss"]
    history = read_json(towns.project.path("towns", "adapter", name) / "trainer_state.json", made_by="")
    losses = [h["eval_loss"] for h in history["log_history"] if "eval_loss" in h]
    assert losses[-1] > 1.01 * min(losses)
    assert told == round(min(losses), 5)
    assert validation_loss(towns, name) == pytest.approx(told, rel=1e-3)
    name = experiment(best="last", **settings)
    told = train(towns, name)[0]["validation_loss"]
    assert told == round(losses[-1], 5)
    assert validation_loss(towns, name) == pytest.approx(told, rel=1e-3)


def validation_loss(files: ProjectFiles, name: str) -> float:
    """Mean negative log-likelihood of a completion token over all validation questions, from the saved adapter."""
    import torch

    from t2s_assets.text2sql.plain_text import encode
    from t2s_assets.text2sql.prompt_datasets import load_prompts
    from t2s_assets.text2sql.prompts import encode_example

    adapter = adapters.open_adapter(files.project.path("towns", "adapter", name), made_by="")
    model, tokenizer = adapters.load_tuned(adapter, files.project, base_models.place(adapter.experiment.hardware))
    total, count = 0.0, 0
    for row in load_prompts(files.project, "towns", name)["validation"]:
        prompt, completion = encode(tokenizer, [row["prompt"], row["completion"]])
        example = encode_example(prompt, completion, tokenizer.eos_token_id)
        with torch.inference_mode():
            logits = model(torch.tensor([example["input_ids"]])).logits[0, :-1]
        labels = torch.tensor(example["labels"][1:])
        total += torch.nn.functional.cross_entropy(logits, labels, ignore_index=-100, reduction="sum").item()
        count += int((labels != -100).sum())
    return total / count


@pytest.mark.slow  # test_ranks.py holds the same against one process' accumulated batches, by default
def test_two_ranks_train_like_one_with_their_joint_batch(towns: ProjectFiles, experiment: Make) -> None:
    # Four validation questions: one batch for both, so that both weigh its tokens alike.
    plain = {"group_by_length": False, "eval_examples": 4, "learning_rate": 0.01}
    one, _ = train(towns, experiment(batch_size=4, **plain))
    two = training.run(towns.project, "towns", experiment(batch_size=2, processes=2, **plain))
    assert two["world_size"] == 2
    assert two["examples_seen"] == one["examples_seen"] == 16
    assert two["validation_loss"] == pytest.approx(one["validation_loss"], rel=1e-3)


@pytest.mark.slow
def test_two_ranks_agree_on_a_clocks_decisions(towns: ProjectFiles, experiment: Make) -> None:
    """On steps, rates and the end: each rank has a clock of its own, and by itself would decide otherwise; ranks
    that do not agree wait for each other until the launcher gives up."""
    name = experiment(max_steps=None, budget_minutes=0.1, batch_size=2, processes=2, eval_steps=50, save_steps=50)
    manifest = training.run(towns.project, "towns", name)
    assert manifest["world_size"] == 2
    schedule = read_json(towns.project.path("towns", "adapter", name) / "schedule.json", made_by="")
    assert len(schedule["rates"]) == schedule["steps"] == schedule["max_steps"] == manifest["steps"]
    assert math.isfinite(manifest["validation_loss"])


def test_nf4_trains_on_a_cpu_and_loads_again(towns: ProjectFiles, experiment: Make) -> None:
    import torch

    name = experiment(hardware={"device": "cpu", "dtype": "float32", "quantization": "nf4"}, max_steps=2)
    manifest, lines = train(towns, name)
    assert "nf4" in lines[0]
    slow = "training runs several times slower than it could on this CPU: hardware.quantization is nf4"
    assert lines.count(slow) == 1
    assert math.isfinite(manifest["train_loss"])
    folder = towns.project.path("towns", "adapter", name)
    adapter = adapters.open_adapter(folder, made_by="")
    placement = base_models.place(adapter.experiment.hardware)
    beside, _ = adapters.load_unmerged(adapter, towns.project, placement)
    assert {type(m).__name__ for m in beside.modules()} >= {"Linear4bit"}
    model, tokenizer = adapters.load_tuned(adapter, towns.project, placement)
    with torch.inference_mode():
        logits = model(torch.tensor([tokenizer("SELECT").input_ids])).logits
    assert bool(torch.isfinite(logits).all())


# --------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("eval_steps", [2, 1000], ids=["seen at an evaluation", "seen at the end"])
def test_a_loss_that_is_no_number_leaves_the_old_adapter(
    towns: ProjectFiles, tiny_base: Path, experiment: Make, eval_steps: int
) -> None:
    name = experiment(max_steps=2)
    good, _ = train(towns, name)
    steps = {"eval_steps": eval_steps, "save_steps": eval_steps}
    add_experiment(towns, tiny_base, name, learning_rate=1e30, max_steps=4, **steps)
    with pytest.raises(T2SError, match=r"lower training\.learning_rate"):
        train(towns, name)
    folder = towns.project.path("towns", "adapter", name)
    assert read_json(folder / "manifest.json", made_by="") == good
    assert file_hash(folder / adapters.WEIGHTS, length=16) == good["data_version"]


@pytest.mark.parametrize(
    ("broken", "said"),
    [(4, "the adapter's weights are no finite numbers after step 4"), (3, "the loss is nan at step 4")],
)
def test_what_is_no_number_is_not_kept_in_a_checkpoint(
    towns: ProjectFiles, experiment: Make, monkeypatch: pytest.MonkeyPatch, broken: int, said: str
) -> None:
    """Every rerun would go on from there. In step `broken`, gradients overflow; the loss of that step does not."""
    from t2s_assets.text2sql.training.trainer import BudgetTrainer

    settings = LONG | {"best": "last", "eval_steps": 1000}
    whole, _ = train(towns, experiment(**settings))
    name = experiment(**settings)
    real, steps = BudgetTrainer.training_step, 0

    def training_step(self: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal steps
        steps += 1
        loss = real(self, model, *args, **kwargs)
        for p in model.parameters() if steps == broken else []:
            if p.grad is not None:
                p.grad.fill_(math.inf)
        return loss

    with monkeypatch.context() as patch, pytest.raises(T2SError, match=rf"{said}; lower training\.learning_rate"):
        patch.setattr(BudgetTrainer, "training_step", training_step)
        train(towns, name)
    assert sorted(checkpoints(towns, name)) == [2]
    resumed, lines = train(towns, name)
    assert "going on from checkpoint-2" in lines
    assert resumed["data_version"] == whole["data_version"]


def test_a_refusal_is_one_error_and_no_traceback(
    towns: ProjectFiles, experiment: Make, capfd: pytest.CaptureFixture[str]
) -> None:
    name = experiment(lora={"rank": 4, "alpha": 8, "targets": ["q_proj", "query_key_value"]})
    with pytest.raises(T2SError, match=r"^lora\.targets: \['query_key_value'\] are no linear layers of this base") as e:
        training.run(towns.project, "towns", name)
    assert "'q_proj'" in str(e.value) and "'up_proj'" in str(e.value)
    said = capfd.readouterr()
    assert "query_key_value" not in said.out + said.err  # the command line says it, once
    assert "Traceback" not in said.out + said.err
    assert not towns.project.path("towns", "adapter", name).exists()


def test_packing_is_refused_where_nothing_keeps_the_examples_apart(towns: ProjectFiles, tiny_base: Path) -> None:
    add_experiment(towns, tiny_base, "packed", packing=True)
    with pytest.raises(ConfigError, match=r"packing joins examples in one row.*got attention: auto"):
        train(towns, "packed")
    add_experiment(
        towns, tiny_base, "packed", packing=True, hardware={"device": "cpu", "attention": "flash_attention_2"}
    )
    make_prompts(towns.project, "towns", "packed", [].append)
    with pytest.raises(ModelError, match="flash_attention_2 needs CUDA"):
        train(towns, "packed")


def test_a_dataset_without_validation_questions_is_refused(project_files: ProjectFiles, tiny_base: Path) -> None:
    files = add_towns(project_files, tiny_base)
    files.dataset("towns", TOWNS | {"dev": ([], [])})
    prepare(files, "tiny")
    with pytest.raises(T2SError, match="the validation split has no examples"):
        train(files, "tiny")


# ------------------------------------------------------------------------------------------ reaching the trainer

REACHES: dict[str, tuple[Any, str, Any]] = {
    "batch_size": (3, "per_device_train_batch_size", 3),
    "gradient_accumulation": (5, "gradient_accumulation_steps", 5),
    "learning_rate": (0.002, "learning_rate", 0.002),
    "weight_decay": (0.1, "weight_decay", 0.1),
    "max_grad_norm": (0.5, "max_grad_norm", 0.5),
    "packing": (True, "packing", True),
    "group_by_length": (False, "train_sampling_strategy", "random"),
    "gradient_checkpointing": (True, "gradient_checkpointing", True),
    "compile": (True, "torch_compile", True),
    "seed": (3, "seed", 3),
    "eval_steps": (50, "eval_steps", 50),
    "save_steps": (400, "save_steps", 400),
    "keep_checkpoints": (7, "save_total_limit", 7),
    "best": ("last", "load_best_model_at_end", False),
}
# These change the run around the arguments, and a test above trains with each.
ELSEWHERE = {"epochs", "max_steps", "budget_minutes", "processes", "warmup_ratio", "eval_examples"} | {
    "sharding",  # test_ranks.py
    "early_stopping",  # test_selection.py
    "eval_share",
    "questions_a_table",  # test_shared_schemas.py
}


def test_every_setting_is_accounted_for() -> None:
    assert set(TrainingConfig.model_fields) == set(REACHES) | ELSEWHERE


@pytest.mark.parametrize("field", REACHES)
def test_a_setting_reaches_the_trainer(tmp_path: Path, field: str) -> None:
    from t2s_assets.text2sql.training.trainer import arguments

    value, attribute, wanted = REACHES[field]
    placement = base_models.Placement("cpu", "float32", "sdpa", "none")

    def made(**settings: Any) -> Any:
        config = TrainingConfig(max_steps=9, **settings)
        return getattr(arguments(config, placement, tmp_path, max_steps=9, max_length=99), attribute)

    assert made(**{field: value}) == wanted
    assert made() != wanted


def test_run_and_machine_reach_the_trainer(tmp_path: Path) -> None:
    from t2s_assets.text2sql.training.trainer import arguments

    placement = base_models.Placement("cpu", "bfloat16", "sdpa", "none")
    args = arguments(TrainingConfig(epochs=1), placement, tmp_path, max_steps=9, max_length=99)
    assert (args.max_steps, args.max_length, args.output_dir) == (9, 99, str(tmp_path))
    assert (args.bf16, args.fp16, args.use_cpu) == (True, False, True)
    assert (args.per_device_eval_batch_size, args.data_seed, args.report_to) == (16, 17, [])


# ------------------------------------------------------------------------------------------- inside the trainer


@pytest.fixture(scope="module")
def trainer_of(towns: ProjectFiles, tiny_base: Path) -> Callable[..., Any]:
    """Builds the trainer on made-up examples of lengths 20 to 100, as training builds it on real ones."""
    import torch
    from datasets import Dataset

    from t2s_assets.text2sql.training.clock import Clock
    from t2s_assets.text2sql.training.trainer import BudgetTrainer, arguments, step_arguments

    base = base_models.BaseModel(tiny_base, "", {})
    placement = base_models.Placement("cpu", "float32", "sdpa", "none")

    def build(*, warmup: float = 0.1, adapter: str = "", **settings: Any) -> BudgetTrainer:
        """With `adapter`, "fused" or not, a LoRA adapter with random matrices; the same ones each time."""
        lengths = [20 + 7 * i % 81 for i in range(512)]
        rows = []
        for i, n in enumerate(lengths):
            ids = [5 + (i + 3 * j * j) % 90 for j in range(n)]
            rows.append({"input_ids": ids, "labels": [-100] * (n - 6) + [7, 8, 9, 10, 11, 0], "length": n})
        folder = towns.root / "trainer"
        config = TrainingConfig(max_steps=8, batch_size=8, **settings)
        model, tokenizer = base_models.load_model(base, placement), base_models.load_tokenizer(base)
        how: dict[str, Any] = {}
        if adapter:
            lora = LoraSettings(rank=4, alpha=8)
            how = step_arguments(model, tokenizer, lora, config, placement, threads=1, log=[].append)
        if adapter != "fused":
            how["data_collator"] = None
        trainer = BudgetTrainer(
            model=model,
            args=arguments(config, placement, folder, max_steps=8, max_length=256),
            processing_class=tokenizer,
            train_dataset=Dataset.from_list(rows),
            eval_dataset=Dataset.from_list(rows[:4]),
            clock=Clock(folder / "plan.json"),
            budget_seconds=None,
            warmup=warmup,
            **how,
        )
        draw = torch.Generator().manual_seed(5)
        for name, p in trainer.model.named_parameters():
            if "lora_" in name:
                p.data = torch.randn(p.shape, generator=draw) * 0.1
        return trainer

    return build


def padding(trainer: Any) -> tuple[int, set[int]]:
    """Padded positions of one epoch, and the widths of its batches."""
    batches = list(trainer.get_train_dataloader())
    pads = sum(int((b["attention_mask"] == 0).sum()) for b in batches)
    return pads, {b["input_ids"].shape[1] for b in batches}


def test_batches_of_like_length_pad_less_and_have_few_widths(trainer_of: Callable[..., Any]) -> None:
    grouped, widths = padding(trainer_of(group_by_length=True))
    mixed, mixed_widths = padding(trainer_of(group_by_length=False))
    assert grouped < 0.6 * mixed
    assert all(w % 16 == 0 for w in widths | mixed_widths)


def test_the_loss_is_that_of_the_labelled_tokens(trainer_of: Callable[..., Any]) -> None:
    """Against the model's own loss, which makes logits for every position."""
    import torch

    trainer = trainer_of()
    batch = next(iter(trainer.get_train_dataloader()))
    with torch.inference_mode():
        ours = trainer.compute_loss(trainer.model, batch).item()
        theirs = trainer.model(**{k: v for k, v in batch.items() if k != "length"}).loss.item()
    assert ours == pytest.approx(theirs, rel=1e-5)


def test_a_wide_batch_in_passes_has_the_gradient_of_the_whole(
    trainer_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from t2s_assets.text2sql.training import trainer as trainers

    found = []
    for limit in (10**6, 300):
        monkeypatch.setattr(trainers, "PASS_TOKENS", limit)
        trainer = trainer_of(group_by_length=False)
        batch = next(iter(trainer.get_train_dataloader()))
        widths: list[int] = []
        trainer.model.register_forward_pre_hook(
            lambda m, a, k, w=widths: w.append(k["input_ids"].numel()), with_kwargs=True
        )
        loss = trainer.training_step(trainer.model, batch, (batch["labels"] != -100).sum())
        grads = torch.cat([p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None])
        found.append((loss.item(), grads, widths))
    (loss, grads, widths), (parts_loss, parts_grads, parts_widths) = found
    assert len(widths) == 1 and len(parts_widths) > 1 and max(parts_widths) <= 300
    assert parts_loss == pytest.approx(loss, rel=1e-5)
    assert torch.allclose(grads, parts_grads, rtol=1e-3, atol=1e-5)


def gradients(trainer: Any) -> dict[str, Any]:
    found = {n: p.grad.clone() for n, p in trainer.model.named_parameters() if p.grad is not None}
    trainer.model.zero_grad(set_to_none=True)
    return found


@pytest.mark.parametrize("counted", [True, False], ids=["labels of the whole step counted", "of a batch"])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_fused_steps_leave_the_gradients_of_plain_ones(
    trainer_of: Callable[..., Any], accumulation: int, counted: bool
) -> None:
    """Not only their direction: gradients are clipped at a norm, and accumulated batches weigh as they should."""
    import torch

    found = []
    for way in ("plain", "fused"):
        trainer = trainer_of(adapter=way, gradient_accumulation=accumulation)
        assert (trainer._lanes is not None) == (way == "fused")
        trainer.current_gradient_accumulation_steps = accumulation
        rows = [trainer.train_dataset[i] for i in range(4 * accumulation)]
        labelled = torch.tensor(sum(x != -100 for row in rows for x in row["labels"])) if counted else None
        losses = []
        for at in range(0, len(rows), 4):
            batch = trainer.data_collator(rows[at : at + 4])
            losses.append(trainer.training_step(trainer.model, batch, labelled).item())
        found.append((losses, gradients(trainer)))
    (losses, wanted), (ours, got) = found
    assert ours == pytest.approx(losses, rel=1e-5)
    assert got.keys() == wanted.keys() and len(got) == 28
    for name, gradient in wanted.items():
        assert gradient.abs().max() > 1e-4
        torch.testing.assert_close(got[name], gradient, rtol=1e-3, atol=1e-3 * gradient.abs().max().item(), msg=name)


@pytest.mark.parametrize("way", ["plain", "fused"])
@pytest.mark.parametrize("counted", [True, False])
def test_a_batch_without_labels_changes_nothing(trainer_of: Callable[..., Any], way: str, counted: bool) -> None:
    import torch

    trainer = trainer_of(adapter=way)
    rows = [trainer.train_dataset[i] | {"labels": [-100] * trainer.train_dataset[i]["length"]} for i in range(2)]
    batch = trainer.data_collator(rows)
    trainer.current_gradient_accumulation_steps = 1
    loss = trainer.training_step(trainer.model, batch, torch.tensor(0) if counted else None)
    assert loss.item() == 0 and not any(g.any() for g in gradients(trainer).values())


def test_ranks_exchange_gradients_once_in_an_accumulated_step(
    trainer_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rank 0 of two, whose other rank has no gradients."""
    trainer = trainer_of(adapter="fused", gradient_accumulation=2)
    rows = [trainer.train_dataset[i] for i in range(8)]
    batches = [trainer.data_collator(rows[:4]), trainer.data_collator(rows[4:])]
    for batch in batches:
        trainer.training_step(trainer.model, batch, 48)
    wanted = gradients(trainer)
    sent: list[int] = []

    def reduce(gradient: Any, reduction: str) -> Any:
        assert reduction == "mean"
        sent.append(gradient.numel())
        return gradient / 2

    monkeypatch.setattr(type(trainer.accelerator), "num_processes", 2)
    monkeypatch.setattr(trainer.accelerator, "reduce", reduce)
    for batch, last in zip(batches, (False, True)):
        trainer.accelerator.gradient_state._set_sync_gradients(last)
        trainer.training_step(trainer.model, batch, 48)
    assert sent == [sum(g.numel() for g in wanted.values())]
    for name, gradient in gradients(trainer).items():
        # The loss is of two ranks' labels, so that the mean over ranks is their sum.
        assert gradient.equal(wanted[name]), name


def test_the_rate_warms_up_and_falls_to_zero(trainer_of: Callable[..., Any]) -> None:
    trainer = trainer_of(warmup=0.1)
    trainer.create_optimizer()
    rate = trainer.create_scheduler(100, trainer.optimizer).lr_lambdas[0]
    rates = [rate(step) for step in range(101)]
    assert rates[:11] == sorted(rates[:11])
    assert max(rates) == rates[10] == pytest.approx(1)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[0] < 0.1 and rates[100] == pytest.approx(0, abs=1e-9)
    assert rates[55] == pytest.approx(0.5, abs=0.01)
