"""Trainings that are killed, told to stop, or fail, and how they go on from their last checkpoint."""

from __future__ import annotations

import errno
import io
import math
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from t2s_assets.text2sql import training
from t2s_assets.text2sql.errors import StorageError, T2SError
from t2s_assets.text2sql.processes.stopping import Stopped, StopSignal
from t2s_assets.text2sql.storage import Project, file_hash
from t2s_assets.text2sql.training import checkpoints as training_checkpoints
from t2s_assets.text2sql.training import plan, progress, resumable, training_run
from t2s_assets_tests.processes import kill_all, on_a_terminal, processes_with, wait_for
from t2s_assets_tests.projects import ProjectFiles
from t2s_assets_tests.trainable import add_experiment
from t2s_assets_tests.training_runs import Make, break_off, checkpoints, stop_at, stop_when, train, whole_checkpoint
from t2s_assets_tests.warm import WarmPython

pytestmark = pytest.mark.usefixtures("one_thread")

LONG = {"max_steps": 8, "lora": {"rank": 4, "alpha": 8, "dropout": 0.1}}
FUSED = LONG | {"lora": {"rank": 4, "alpha": 8, "dropout": 0.0}}
BOTH = pytest.mark.parametrize("long", [LONG, FUSED], ids=["transformers' layers", "fused layers"])
# Where layers are nothing to what is tested: the trainer's own are then one more case.
FUSED_FIRST = pytest.mark.parametrize(
    "long", [pytest.param(LONG, marks=pytest.mark.slow), FUSED], ids=["transformers' layers", "fused layers"]
)


# -------------------------------------------------------------------------------------- checkpoints to go on from


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


def test_the_adapter_of_a_4_bit_base_is_float32_from_the_first_step(towns: ProjectFiles, experiment: Make) -> None:
    """TRL makes it bfloat16, and reading a checkpoint float32: a run that was broken off would compute otherwise."""
    from safetensors.torch import load_file

    settings = {"max_steps": 4, "hardware": {"device": "cpu", "dtype": "bfloat16", "quantization": "nf4"}}
    whole, _ = train(towns, experiment(**settings))
    name = experiment(**settings)
    break_off(towns, name, 4)
    weights = load_file(checkpoints(towns, name)[2] / "adapter_model.safetensors")
    assert {str(w.dtype) for w in weights.values()} == {"torch.float32"}
    assert train(towns, name)[0]["data_version"] == whole["data_version"]


def test_the_newest_checkpoint_stays_whatever_the_clock_says(
    towns: ProjectFiles, experiment: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    seal = training_checkpoints.seal

    def ahead(folder: Path) -> None:
        """The clock is an hour ahead until step 4, and then put right."""
        seal(folder)
        if training_checkpoints.step_of(folder) <= 4:
            os.utime(folder, (time.time() + 3600,) * 2)

    monkeypatch.setattr(training_checkpoints, "seal", ahead)
    name = experiment(**FUSED, best="last", eval_steps=8, keep_checkpoints=2)
    break_off(towns, name, 8)
    assert sorted(checkpoints(towns, name)) == [4, 6]


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


# --------------------------------------------------------------------------------------------------------- killed


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
    assert resumed["examples_a_second"] > 0 and resumed["tokens_a_second"] > 0  # though this one had no step left
    assert list(folder.parent.glob(f".{name}.*")) == []


def test_killed_it_goes_on_to_the_adapter_of_an_unbroken_run(towns: ProjectFiles, experiment: Make) -> None:
    settings = LONG | {"max_steps": 100, "eval_steps": 10, "save_steps": 10}
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
    assert resumed["steps"] == 100


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


def test_a_training_that_broke_off_goes_on_after_one_of_other_settings(
    towns: ProjectFiles, tiny_base: Path, experiment: Make
) -> None:
    whole, _ = train(towns, experiment(**FUSED))
    name = experiment(**FUSED)
    break_off(towns, name, 6)
    add_experiment(towns, tiny_base, name, **FUSED | {"max_steps": 2})
    train(towns, name)
    add_experiment(towns, tiny_base, name, **FUSED)
    resumed, lines = train(towns, name)
    assert "going on from checkpoint-4" in lines
    assert resumed["data_version"] == whole["data_version"]


def test_a_forced_training_that_broke_off_goes_on_when_forced_again(towns: ProjectFiles, experiment: Make) -> None:
    name = experiment(**LONG)
    whole, _ = train(towns, name)
    with pytest.raises(KeyboardInterrupt):
        training.train(towns.project, "towns", name, force=True, log=stop_at(6, []))
    kept, lines = train(towns, name)
    assert (kept, lines[0].partition("; ")[2]) == (whole, "--force goes on from checkpoint-4 of one that broke off")
    resumed, lines = train(towns, name, force=True)
    assert "going on from checkpoint-4" in lines
    assert resumed["data_version"] == whole["data_version"]
    assert train(towns, name)[1][0].endswith("; --force trains again")


def test_speed_and_memory_are_told_of_all_sessions(
    towns: ProjectFiles, experiment: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = experiment(**FUSED)
    with monkeypatch.context() as patch:
        patch.setattr(progress, "peak_memory_gb", lambda device: 7000.0)
        patch.setattr(resumable, "time", SimpleNamespace(monotonic=lambda: 1000 * time.monotonic()))
        break_off(towns, name, 8)
    started = time.monotonic()
    resumed, lines = train(towns, name)
    assert "going on from checkpoint-6" in lines
    assert resumed["peak_memory_gb"] == 7000.0
    assert resumed["examples_seen"] / resumed["examples_a_second"] > time.monotonic() - started


# --------------------------------------------------------------------------------------------------- told to stop


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


@FUSED_FIRST
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


@FUSED_FIRST
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


@pytest.mark.parametrize("end", ["SIGTERM", "SIGINT", "the launcher's death"])
def test_the_command_ends_when_it_is_told_to_or_nobody_waits_for_it(
    towns: ProjectFiles, experiment: Make, end: str
) -> None:
    name = experiment(max_steps=100_000, eval_steps=1000, save_steps=1000)
    launcher = subprocess.Popen(["sleep", "600"])
    environment = training.environment(towns.project, towns.project.experiment("towns", name))
    environment["T2S_LAUNCHER"] = str(launcher.pid)
    child = WarmPython(["-m", "t2s_assets.text2sql.training", f"towns/{name}"], environment=os.environ | environment)
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
    child = on_a_terminal(towns, "train", f"towns/{name}")
    assert child.stdout is not None
    for said in child.stdout:
        if said.startswith("step 10/"):
            break
    os.killpg(child.pid, signal.SIGINT)
    rest = child.stdout.read()
    assert child.wait(60) == 130
    assert len(re.findall(r"^error: stopped by SIGINT after step \d+; its checkpoint is kept", rest, re.MULTILINE)) == 1
    assert "KeyboardInterrupt" not in rest and "Traceback" not in rest
    assert len(checkpoints(towns, name)) == 1 and whole_checkpoint(towns, name)


SWALLOWED = """
import os, signal, time
from t2s_assets.text2sql import base_models
from t2s_assets.text2sql.errors import ModelError
from t2s_assets.text2sql.training.entry import main

def interrupted(base):
    {interrupted}

base_models.load_tokenizer = interrupted
raise SystemExit(main())
"""


TURNED = """
    try:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)
    except KeyboardInterrupt:
        raise {error}("could not be imported")
"""
FORGOTTEN = """
    class Destroyed:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(60)

    Destroyed()
    time.sleep(60)
"""


@pytest.mark.parametrize(
    "interrupted",
    [
        TURNED.format(error="ImportError"),
        TURNED.format(error="ModelError"),
        FORGOTTEN,
    ],
)
def test_an_interrupt_that_does_not_arrive_as_one_ends_it_all_the_same(
    towns: ProjectFiles, experiment: Make, tmp_path: Path, interrupted: str
) -> None:
    """Imports turn one into their own error, as transformers' of a model's module; destructors cannot raise it."""
    name = experiment()
    script = tmp_path / "swallowed.py"
    script.write_text(SWALLOWED.format(interrupted=interrupted.strip()))
    environment = training.environment(towns.project, towns.project.experiment("towns", name))
    child = WarmPython([str(script), f"towns/{name}"], environment=os.environ | environment)
    said = child.stdout.read()
    assert child.wait(60) == 1 and "Traceback" not in said
    wanted = "error: stopped by SIGINT at once; the same command goes on from its last checkpoint, where there is one"
    assert re.findall("^error: .*$", said, re.MULTILINE) == [wanted]


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
        child = on_a_terminal(towns, "train", f"towns/{name}", *options)
        assert child.stdout is not None
        said = next(line for line in child.stdout if begun in line or not line)
        started = time.monotonic()
        os.killpg(child.pid, signal.SIGINT)
        rest = said + child.stdout.read()
        assert child.wait(60) == 130
    assert time.monotonic() - started < 20  # torchrun kills after 30 s, and this machine may be busy
    goes_on = "" if options else "; the same command goes on from its last checkpoint, where there is one"
    assert re.findall("^error: .*$", rest, re.MULTILINE) == [f"error: stopped by SIGINT at once{goes_on}"]
    assert "KeyboardInterrupt" not in rest and "Traceback" not in rest
    assert not processes_with(f"T2S_LAUNCHER={child.pid}")
    assert checkpoints(towns, name) == {}


# -------------------------------------------------------------------------------------------------------- storage


def fill_up(path: Path) -> None:
    with path.open("wb", buffering=0) as out:
        for size in (100_000, 4_096):
            try:
                while True:
                    out.write(b"x" * size)
            except OSError:
                continue


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


def test_a_training_that_goes_on_needs_no_room_for_the_checkpoints_it_has(
    towns: ProjectFiles, experiment: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = experiment()
    nearly_full = SimpleNamespace(disk_usage=lambda folder: SimpleNamespace(free=1e4))
    with monkeypatch.context() as patch, pytest.raises(StorageError, match="checkpoints need"):
        patch.setattr(plan, "shutil", nearly_full)
        train(towns, name)
    break_off(towns, name, 4)
    monkeypatch.setattr(plan, "shutil", nearly_full)
    assert "going on from checkpoint-2" in train(towns, name)[1]


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


def test_storage_that_cannot_be_written_is_told(towns: ProjectFiles, experiment: Make) -> None:
    name = experiment()
    beside = towns.project.path("towns", "checkpoints", name)
    beside.parent.mkdir(parents=True, exist_ok=True)
    beside.write_text("a file where a folder should be")
    with pytest.raises(StorageError, match=rf"{name} cannot be written .*T2S_STORAGE"):
        train(towns, name)
