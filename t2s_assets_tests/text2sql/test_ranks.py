"""Trainings and evaluations in several processes and on several nodes, held against those in one process."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from t2s_assets.text2sql import adapters, base_models, evaluation, training
from t2s_assets.text2sql.errors import T2SError
from t2s_assets.text2sql.evaluation import predictions
from t2s_assets.text2sql.processes import launching
from t2s_assets.text2sql.prompt_datasets import make_prompts
from t2s_assets.text2sql.reports import report
from t2s_assets.text2sql.storage import read_json
from t2s_assets_tests.hosts import Host, two_hosts
from t2s_assets_tests.processes import kill_all, on_a_terminal, processes_with
from t2s_assets_tests.projects import ProjectFiles
from t2s_assets_tests.trainable import add_experiment, add_towns, prepare
from t2s_assets_tests.warm import WarmPython

Make = Callable[..., str]

# Six examples a step, in batches of three however many ranks share them: each validation batch weighs alike then, and
# 18 examples make three whole steps. (A step that the data do not fill is filled by ranks with repeated examples, and
# left short by one process.) The training loss is logged at every tenth step, as the mean of ten.
PLAIN: dict[str, Any] = {
    **{"group_by_length": False, "batch_size": 3, "eval_examples": 6, "learning_rate": 0.003},
    **{"max_steps": 20, "eval_steps": 10, "save_steps": 10},
}


pytestmark = pytest.mark.usefixtures("one_thread")


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
    """The experiment that one process, this one, has trained."""
    name = experiment("one", gradient_accumulation=2, **PLAIN)
    assert training.train(towns.project, "towns", name, log=[].append)["world_size"] == 1
    return name


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Host]]:
    with two_hosts(tmp_path_factory.mktemp("hosts")) as made:
        yield made


def curve(files: ProjectFiles, name: str) -> dict[str, list[float]]:
    """Losses in the order of their steps."""
    history = read_json(files.project.path("towns", "adapter", name) / "trainer_state.json", made_by="")["log_history"]
    return {n: [h[n] for h in history if n in h] for n in ("loss", "eval_loss")}


def assert_same_curve(files: ProjectFiles, name: str, other: str) -> None:
    wanted, got = curve(files, name), curve(files, other)
    for losses in wanted.values():
        assert len(losses) == 2 and losses[1] < losses[0] - 0.1  # it learns: other batches or rates would show
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
    two = training.run(towns.project, "towns", experiment("two", processes=2, **PLAIN))
    assert two["world_size"] == 2
    assert two["examples_seen"] == 120
    assert_same_curve(towns, one, "two")
    assert_same_adapter(towns, one, "two")


@pytest.mark.slow
def test_sharded_over_two_ranks_the_base_gives_the_same_adapter(
    towns: ProjectFiles, experiment: Make, one: str
) -> None:
    name = experiment("sharded", processes=2, sharding="fsdp", **PLAIN)
    facts = training.run(towns.project, "towns", name)
    assert facts["world_size"] == 2
    assert_same_curve(towns, one, name)
    assert_same_adapter(towns, one, name)
    adapter = adapters.open_adapter(towns.project.path("towns", "adapter", name), made_by="")
    model, _ = adapters.load_tuned(adapter, towns.project, base_models.place(adapter.experiment.hardware))
    assert not [n for n, _ in model.named_parameters() if "lora" in n]


@pytest.mark.slow
def test_a_rank_that_was_killed_is_named(towns: ProjectFiles, experiment: Make) -> None:
    name = experiment("killed", **PLAIN | {"max_steps": 10_000, "processes": 2})
    child = on_a_terminal(towns, "train", f"towns/{name}")
    assert child.stdout is not None
    assert next((line for line in child.stdout if line.startswith("step 20/")), None) is not None
    (killed,) = processes_with("LOCAL_RANK=1")
    os.kill(killed, signal.SIGKILL)
    said = child.communicate()[0]
    assert child.returncode == 1 and "Traceback" not in said, said
    errors = re.findall("^error: .*$", said, re.MULTILINE)
    assert f"error: rank 1 (process {killed}) was killed, as the system does where memory runs out" in errors
    assert any(e.startswith("error: another rank is gone, whose own messages say why") for e in errors)


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_a_sharded_training_goes_on_from_its_checkpoint(
    towns: ProjectFiles, experiment: Make, capfd: pytest.CaptureFixture[str], end: signal.Signals
) -> None:
    settings = PLAIN | {"max_steps": 150, "processes": 2, "sharding": "fsdp"}
    name, whole = experiment(f"sharded-{end.name}", **settings), experiment("sharded-whole", **settings)
    child = on_a_terminal(towns, "train", f"towns/{name}")
    assert child.stdout is not None
    assert next((line for line in child.stdout if line.startswith("step 20/")), None) is not None
    if end == signal.SIGKILL:
        kill_all(f"T2S_CONFIGS={towns.project.configs}")
    else:
        child.send_signal(end)  # to the command alone
    said = child.communicate()[0]
    assert end == signal.SIGKILL or re.search(
        r"^error: stopped by .* after step \d+; its checkpoint", said, re.MULTILINE
    )
    capfd.readouterr()
    facts = training.run(towns.project, "towns", name)
    assert "going on from checkpoint-" in capfd.readouterr().out
    assert facts["data_version"] == training.run(towns.project, "towns", whole)["data_version"]


@pytest.mark.slow
def test_two_nodes_train_together(towns: ProjectFiles, experiment: Make, one: str) -> None:
    """Two launches of the same command, as on two machines; they meet at the endpoint."""
    rendezvous = {"endpoint": f"localhost:{free_port()}", "id": "a-test", "timeout_seconds": 240}
    name = experiment("nodes", launch={"engine": "torchrun", "nodes": 2, "rendezvous": rendezvous}, **PLAIN)
    config = towns.project.experiment("towns", name)
    environment = {**os.environ, **training.environment(towns.project, config)}
    line = training.command("towns", name, config)
    nodes = [subprocess.Popen(line, env=environment) for _ in range(2)]
    assert [node.wait(500) for node in nodes] == [0, 0]
    assert read_json(towns.project.path("towns", "adapter", name) / "manifest.json", made_by="")["world_size"] == 2
    assert_same_curve(towns, one, name)


def train_on(hosts: list[Host], files: ProjectFiles, name: str) -> list[subprocess.Popen[str]]:
    """`t2s train` on each host, as a person starts it there."""
    command = [sys.executable, "-m", "t2s_assets.cli", "train", f"towns/{name}"]
    folders = {"T2S_CONFIGS": str(files.project.configs), "T2S_STORAGE": str(files.project.storage)}
    return [host.start(command, {**os.environ, **folders, launching.NODE: str(i)}) for i, host in enumerate(hosts)]


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["c10d", "static"])
def test_two_hosts_train_together(
    towns: ProjectFiles, experiment: Make, one: str, hosts: list[Host], backend: str
) -> None:
    """Each has a name, an address and a loopback of its own; only the folders are shared."""
    rendezvous = {"endpoint": "node0:29500", "id": "a-test", "backend": backend, "timeout_seconds": 240}
    name = experiment(f"hosts-{backend}", launch={"engine": "torchrun", "nodes": 2, "rendezvous": rendezvous}, **PLAIN)
    nodes = train_on(hosts, towns, name)
    said = [node.communicate(timeout=500)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], said
    assert read_json(towns.project.path("towns", "adapter", name) / "manifest.json", made_by="")["world_size"] == 2
    assert_same_curve(towns, one, name)


@pytest.mark.slow
def test_a_training_goes_on_after_one_of_its_hosts_was_lost(
    towns: ProjectFiles, experiment: Make, hosts: list[Host]
) -> None:
    rendezvous = {"endpoint": "node0:29500", "id": "another-test", "timeout_seconds": 240}
    launch = {"engine": "torchrun", "nodes": 2, "rendezvous": rendezvous}
    settings = PLAIN | {"max_steps": 150}
    name = experiment("lost", launch=launch, **settings)
    first, second = train_on(hosts, towns, name)
    assert first.stdout is not None
    seen = next((line for line in first.stdout if line.startswith("step 20/")), None)
    assert seen is not None
    kill_all(f"{launching.NODE}=1")
    said, _ = first.communicate(timeout=120)
    second.communicate()
    assert first.returncode == 1, said
    errors = re.findall("^error: .*$", said, re.MULTILINE)
    assert len(errors) == 2 and "Traceback" not in said, said
    assert errors[0].startswith("error: another rank is gone, whose own messages say why, or cannot be reached (")
    assert not processes_with(f"T2S_CONFIGS={towns.project.configs}")
    nodes = train_on(hosts, towns, name)
    told = [node.communicate(timeout=500)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], told
    assert "going on from checkpoint-" in told[0]
    unbroken = training.run(towns.project, "towns", experiment("not-lost", processes=2, **settings))
    facts = read_json(towns.project.path("towns", "adapter", name) / "manifest.json", made_by="")
    assert facts["data_version"] == unbroken["data_version"]


def train_in_ranks(files: ProjectFiles, name: str) -> tuple[dict[str, Any], str]:
    """The manifest that two ranks leave, and what they say: with torchrun's variables, without its new interpreters."""
    address = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    environment = os.environ | training.environment(files.project, files.project.experiment("towns", name)) | address
    line = ["-m", "t2s_assets.text2sql.training", f"towns/{name}"]
    ranks = [WarmPython(line, environment=environment | {"RANK": i, "LOCAL_RANK": i}) for i in ("0", "1")]
    said = ranks[0].stdout.read()
    assert [rank.wait(60) for rank in ranks] == [0, 0], said + ranks[1].stdout.read()
    return read_json(files.project.path("towns", "adapter", name) / "manifest.json", made_by=""), said


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


BY_ANSWERS = PLAIN | {"batch_size": 1, "max_steps": 6, "eval_steps": 3, "save_steps": 3, "best": "ex"}


@pytest.fixture(scope="module")
def by_answers(towns: ProjectFiles, experiment: Make) -> dict[str, Any]:
    """What two ranks that nobody stopped leave, with answers at each evaluation."""
    return train_in_ranks(towns, experiment("by-answers", processes=2, **BY_ANSWERS))[0]


TOLD = """
import os, signal
from t2s_assets.text2sql.training.entry import main
from t2s_assets.text2sql.training.{module} import {owner}

real, calls = {owner}.{method}, 0

def told(*args, **kwargs):
    global calls
    calls += 1
    if os.environ["RANK"] == "1" and calls == {call}:
        os.kill(os.getpid(), signal.SIGTERM)
    return real(*args, **kwargs)

{owner}.{method} = told
raise SystemExit(main())
"""


@pytest.mark.parametrize(
    ("module", "owner", "method", "call"),
    [
        ("trainer", "BudgetTrainer", "prediction_step", 2),
        pytest.param("selection", "AnswerFigures", "_scored", 1, marks=pytest.mark.slow),
    ],
    ids=["its loss", "its answers"],
)
def test_one_rank_told_to_stop_breaks_off_the_evaluation_of_both(
    towns: ProjectFiles,
    experiment: Make,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    by_answers: dict[str, Any],
    module: str,
    owner: str,
    method: str,
    call: int,
) -> None:
    """Launchers kill what does not end within seconds; evaluations take longer, and the checkpoint comes after them."""
    name = experiment(f"{method.strip('_')}-told", processes=2, **BY_ANSWERS)
    config = towns.project.experiment("towns", name)
    line = training.command("towns", name, config)
    script = tmp_path / "told.py"
    script.write_text(TOLD.format(module=module, owner=owner, method=method, call=call))
    at = line.index("t2s_assets.text2sql.training")
    line[at - 1 : at + 1] = [str(script)]
    with pytest.raises(T2SError, match="training failed"):
        launching.run(config, line, training.environment(towns.project, config), what="training")
    said = capfd.readouterr().out
    assert "stopped by another rank after step 3; its checkpoint is kept" in said
    assert "validation loss" not in said
    resumed, said = train_in_ranks(towns, name)
    assert said.index("going on from checkpoint-3") < said.index("step 3/6  validation loss")
    same = ("data_version", "validation_loss", "validation_ex", "chosen_step", "steps")
    assert {n: resumed[n] for n in same} == {n: by_answers[n] for n in same}


def evaluated(files: ProjectFiles, name: str) -> tuple[list[Any], dict[str, Any]]:
    """The rows of adapter and base, and the report without its timings."""
    rows = [predictions.load_predictions(files.project, "towns", name, kind) for kind in ("predictions", "base")]
    report.make_report(files.project, "towns", name, [].append)
    told = read_json(files.project.path("towns", "report", name) / "report.json", made_by="")
    return rows, {k: v for k, v in told.items() if k != "latency"}


def generated(folder: Path) -> dict[str, list[str]]:
    """The questions whose answers each file holds."""
    return {
        p.name: sorted(json.loads(line)["id"] for line in p.read_text().splitlines()) for p in folder.glob("*.jsonl")
    }


def test_ranks_share_an_evaluation_and_report_the_same(
    towns: ProjectFiles, tiny_base: Path, one: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """In two processes; then as they do it, one after the other and in blocks of three."""
    cache = towns.project.cache("generations")
    evaluation.run(towns.project, "towns", one, [].append)
    alone, kept = evaluated(towns, one), generated(cache)
    shared = {"latency_questions": 2, "processes": 2}
    add_experiment(towns, tiny_base, one, gradient_accumulation=2, evaluation=shared, **PLAIN)
    for path in cache.iterdir():
        path.unlink()
    capfd.readouterr()
    evaluation.run(towns.project, "towns", one, [].append)
    assert "2 ranks share the questions" in capfd.readouterr().out
    assert evaluated(towns, one) == alone
    assert generated(cache) == kept


def test_each_rank_answers_whole_blocks_of_its_own(
    towns: ProjectFiles, one: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("t2s_assets.text2sql.evaluation.generations.BLOCK", 3)
    cache = towns.project.cache("generations")
    for path in cache.glob("*"):  # in larger blocks
        path.unlink()
    predictions.make_predictions(towns.project, "towns", one, [].append)
    alone = predictions.load_predictions(towns.project, "towns", one)
    for path in cache.iterdir():
        path.unlink()
    for rank in (1, 0):
        predictions.answer_share(towns.project, "towns", one, rank=rank, ranks=2, wait=lambda: None, log=[].append)
        if rank == 1:  # as if rank 0 had been killed: what rank 1 has made is kept and joined
            assert sorted(len(ids) for ids in generated(cache).values()) == [3, 6]
    assert sorted(generated(cache)) == sorted(p.name for p in cache.iterdir())
    lines: list[str] = []
    predictions.make_predictions(towns.project, "towns", one, lines.append)
    assert "base: all 6 answers are there already" in lines
    assert predictions.load_predictions(towns.project, "towns", one) == alone
    assert not list(cache.glob("*.rank-*"))


def test_ctrl_c_ends_an_evaluations_ranks_at_once(towns: ProjectFiles, tiny_base: Path, one: str) -> None:
    shared = {"latency_questions": 2, "processes": 2}
    add_experiment(towns, tiny_base, one, gradient_accumulation=2, evaluation=shared, **PLAIN)
    child = on_a_terminal(towns, "evaluate", f"towns/{one}")
    assert child.stdout is not None
    said = next(line for line in child.stdout if "2 ranks share the questions" in line or not line)
    os.killpg(child.pid, signal.SIGINT)
    rest = said + child.stdout.read()
    assert child.wait(60) == 130
    assert "KeyboardInterrupt" not in rest and "Traceback" not in rest
    assert not processes_with(f"T2S_LAUNCHER={child.pid}")
