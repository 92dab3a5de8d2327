"""Every launch setting changes what is started, and what cannot be started is refused with its field."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from t2s_assets.text2sql import base_models, evaluation, training
from t2s_assets.text2sql.config import Experiment, RayLaunch, Rendezvous, TorchrunLaunch
from t2s_assets.text2sql.errors import ConfigError, StorageError, T2SError
from t2s_assets.text2sql.processes import launching, torchrun
from t2s_assets.text2sql.processes.stopping import Stopped
from t2s_assets.text2sql.storage import Project
from t2s_assets.text2sql.training import cost, entry, plan
from t2s_assets.text2sql.training.reproduce import on_this_machine
from t2s_assets_tests.processes import kill_all, processes_with

PROJECT = Project(Path("/c"), Path("/s"))
MEETING = {"endpoint": "head:29500"}
NODES = {"engine": "torchrun", "nodes": 3, "rendezvous": MEETING}
RAY = {"engine": "ray", "address": "http://head:8265"}


def experiment(launch: dict[str, Any] | None = None, **sections: Any) -> Experiment:
    content: dict[str, Any] = {
        "description": "d",
        "base_model": {"source": "folder", "path": "/x"},
        "training": {"max_steps": 4},
        **sections,
    }
    return Experiment.model_validate(content | ({"launch": launch} if launch else {}))


def started(config: Experiment) -> Any:
    """Everything that decides what is started where."""
    line, variables = training.command("d", "e", config), training.environment(PROJECT, config)
    if isinstance(config.launch, RayLaunch):
        return config.launch.address, launching.ray_job(config.launch, line, variables)
    return line, variables


def test_by_default_torchrun_starts_ranks_on_this_machine() -> None:
    line, variables = started(experiment(training={"max_steps": 4, "processes": 2}))
    assert line[1:] == [
        *("-m", "t2s_assets.text2sql.processes.torchrun", "--standalone", "--nproc_per_node=2"),
        *("-m", "t2s_assets.text2sql.training", "d/e"),
    ]
    assert (variables["T2S_CONFIGS"], variables["T2S_STORAGE"]) == ("/c", "/s")


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("nodes", 2, "--nnodes=2"),
        ("endpoint", "other:1", "--rdzv_endpoint=other:1"),
        ("id", "mine", "--rdzv_id=mine"),
        ("backend", "static", "--rdzv_backend=static"),
        ("timeout_seconds", 30, "--rdzv_conf=join_timeout=30"),
    ],
)
def test_a_setting_of_nodes_reaches_torchrun(
    field: str, value: Any, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("T2S_NODE", "1")
    changed = NODES | {field: value} if field == "nodes" else NODES | {"rendezvous": MEETING | {field: value}}
    assert said in started(experiment(changed))[0]
    assert said not in started(experiment(NODES))[0]


def test_a_static_rendezvous_asks_which_node_this_is(monkeypatch: pytest.MonkeyPatch) -> None:
    config = experiment(NODES | {"rendezvous": MEETING | {"backend": "static"}})
    monkeypatch.setenv("T2S_NODE", "2")
    assert "--node_rank=2" in started(config)[0]
    for wrong in ("3", "", "first"):
        monkeypatch.setenv("T2S_NODE", wrong)
        with pytest.raises(ConfigError, match=rf"static needs T2S_NODE .*0 to 2.*got '{wrong}'"):
            started(config)


@pytest.mark.parametrize("launch", [None, RAY], ids=["torchrun", "ray"])
def test_ranks_report_nothing_to_the_hub(launch: dict[str, Any] | None) -> None:
    """The thread that would, reads the environment while accelerate sets it."""
    code = (
        "import threading; from huggingface_hub.utils import send_telemetry; send_telemetry('t2s'); "
        "print([thread.name for thread in threading.enumerate()])"
    )
    given = {**os.environ, **training.environment(PROJECT, experiment(launch))}
    done = subprocess.run([sys.executable, "-c", code], env=given, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['MainThread']"


@pytest.mark.parametrize(
    ("field", "value", "where", "wanted"),
    [
        ("cpus", 8, "entrypoint_num_cpus", 8),
        ("gpus", 2, "entrypoint_num_gpus", 2),
        ("memory_gb", 1.5, "entrypoint_memory", 1_500_000_000),
        ("resources", {"a100": 1.0}, "entrypoint_resources", {"a100": 1.0}),
    ],
)
def test_what_a_job_reserves_reaches_ray(field: str, value: Any, where: str, wanted: Any) -> None:
    assert started(experiment(RAY | {field: value}))[1][where] == wanted
    assert started(experiment(RAY))[1].get(where) != wanted


def test_a_job_runs_with_the_clusters_python_and_cores() -> None:
    config = experiment(RAY | {"python": "/opt/t2s/bin/python", "cpus": 8}, training={"max_steps": 4, "processes": 2})
    address, job = started(config)
    assert address == "http://head:8265"
    python, _, line = job["entrypoint"].partition(" -m ")
    assert python == "/opt/t2s/bin/python"
    assert line.startswith("t2s_assets.text2sql.processes.torchrun --standalone --nproc_per_node=2")
    assert job["runtime_env"]["env_vars"]["OMP_NUM_THREADS"] == "4"
    # It runs on another machine, where a process with the launcher's number is another or none.
    assert "T2S_LAUNCHER" not in job["runtime_env"]["env_vars"]


def test_an_evaluation_has_processes_of_its_own() -> None:
    assert evaluation.in_this_process(experiment())
    several = experiment(evaluation={"processes": 3})
    assert not evaluation.in_this_process(several)
    assert "--nproc_per_node=3" in evaluation.command("d", "e", several)
    assert not evaluation.in_this_process(experiment(RAY))


def test_every_launch_setting_is_accounted_for() -> None:
    assert set(TorchrunLaunch.model_fields) == {"engine", "nodes", "rendezvous"}
    assert set(Rendezvous.model_fields) == {"endpoint", "id", "backend", "timeout_seconds"}
    assert set(RayLaunch.model_fields) == {"engine", "address", "cpus", "gpus", "memory_gb", "resources", "python"}


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"launch": {"engine": "torchrun", "nodes": 2}}, "need each other; got nodes: 2 and no rendezvous"),
        ({"launch": {"engine": "torchrun", "rendezvous": MEETING}}, "got nodes: 1 and a rendezvous"),
        ({"launch": RAY | {"nodes": 2}}, "nodes"),
        ({"launch": RAY | {"cpus": True}}, "cpus"),
        ({"training": {"max_steps": 4, "sharding": "fsdp"}}, "raise training.processes; got 1 rank"),
        (
            {"training": {"max_steps": 4, "processes": 2, "sharding": "fsdp"}, "hardware": {"quantization": "nf4"}},
            "use quantization: none",
        ),
        (
            {"training": {"budget_minutes": 4, "processes": 2, "sharding": "fsdp"}},
            "does not go with budget_minutes.*give epochs or max_steps",
        ),
        (
            {"training": {"max_steps": 4, "processes": 2, "sharding": "fsdp", "best": "ex"}},
            "does not go with best: ex.*use loss or last",
        ),
    ],
)
def test_what_cannot_be_started_is_refused(sections: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        experiment(**sections)


def test_ranks_of_other_nodes_count_in_the_batch_and_in_the_key() -> None:
    base, placement = (
        base_models.BaseModel(Path("/b"), "b", {}),
        base_models.Placement("cpu", "float32", "sdpa", "none"),
    )
    keys = [training.training_key(c, "p", base, placement) for c in (experiment(), experiment(RAY), experiment(NODES))]
    assert keys[0] == keys[1] != keys[2]
    assert [experiment().ranks, experiment(RAY).ranks, experiment(NODES).ranks] == [1, 1, 3]


def test_shards_make_room_on_a_gpu() -> None:
    """TinyLlama in bfloat16: a rank of eight holds an eighth of the weights, and what is gathered at a time."""
    shape = plan.KNOWN_SHAPES["TinyLlama/TinyLlama-1.1B-Chat-v1.0"]
    hardware = {"device": "cuda", "dtype": "bfloat16"}
    sections = {"hardware": hardware, "prompt": {"max_length": 256}}
    placement = plan.placement_elsewhere(experiment(**sections))
    lengths = {"longest": 256, "longest_completion": 85}

    def planned(**settings: Any) -> cost.Memory:
        config = experiment(training={"max_steps": 4, "processes": 8, "batch_size": 1, **settings}, **sections)
        made = plan.before_loading(config, shape, placement, available_gb=80.0, **lengths)
        assert made.memory is not None
        return made.memory

    whole, part = planned(), planned(sharding="fsdp")
    assert whole.weights == pytest.approx(2.2e9, rel=0.02)
    # An eighth, two layers of 44 million and both embeddings of 66 million weights, 2 bytes each.
    assert part.weights == pytest.approx(2.2e9 / 8 + 2 * (2 * 44e6 + 2 * 65.5e6), rel=0.03)
    assert part.activations == whole.activations
    assert part.adapter == whole.adapter / 8
    tight = (whole.gb + part.gb) / 2
    with pytest.raises(ConfigError, match=r"training\.sharding: fsdp"):
        config = experiment(training={"max_steps": 4, "processes": 8, "batch_size": 1}, **sections)
        plan.before_loading(config, shape, placement, available_gb=tight, **lengths)


def test_it_is_reproduced_on_one_machine_with_as_many_ranks() -> None:
    content = experiment(NODES, training={"max_steps": 4, "processes": 2}).model_dump(mode="json", exclude_unset=True)
    again = Experiment.model_validate(on_this_machine(content))
    assert (again.ranks, again.training.processes, again.launch) == (6, 6, experiment().launch)
    assert on_this_machine(experiment(RAY).model_dump(mode="json", exclude_unset=True))["training"] == {"max_steps": 4}


def test_the_error_of_a_rank_that_is_alone_is_its_launchers(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchrun has nothing to show a traceback of then."""
    line, _ = started(experiment())
    with pytest.raises(T2SError, match=r"^lora\.rank: é$"), launching.refusal(line) as told:
        for name, value in told.items():
            monkeypatch.setenv(name, value)
        assert launching.refused(ConfigError("lora.rank: é")) == 0
    assert launching.refused(ConfigError("too late")) == 1  # a launcher that is gone reads nothing
    with launching.refusal(line):
        pass


@pytest.mark.parametrize("config", [experiment(training={"max_steps": 4, "processes": 2}), experiment(NODES)])
def test_a_rank_among_others_fails_so_that_they_are_ended(
    config: Experiment, capfd: pytest.CaptureFixture[str]
) -> None:
    line, _ = started(config)
    with launching.refusal(line) as told:
        assert told == {}
    assert launching.refused(ConfigError("lora.rank: 0")) == 1
    assert capfd.readouterr().out == "error: lora.rank: 0\n"


def test_the_error_of_any_rank_is_told(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """A disk that is full, or a GPU that is not there, is so on one machine of several."""
    monkeypatch.setenv("RANK", "3")
    assert launching.refused(StorageError("/s: the disk is full")) == 1
    assert capfd.readouterr().out == "error: rank 3: /s: the disk is full\n"
    assert launching.refused(Stopped("stopped by SIGINT after step 4")) == 1  # as all ranks did
    assert capfd.readouterr().out == ""


def test_an_error_that_cannot_be_written_down_is_printed(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The folder for temporary files can be full, too: /dev/full takes no byte."""
    line, _ = started(experiment())
    with launching.refusal(line) as told:
        file = Path(told["T2S_REFUSAL"])
        file.symlink_to("/dev/full")
        monkeypatch.setenv("T2S_REFUSAL", str(file))
        assert launching.refused(StorageError("/s: the disk is full")) == 1
    assert capfd.readouterr().out == "error: /s: the disk is full\n"


def test_an_interrupted_launcher_tells_the_ranks_error_and_ends_as_interrupted(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    line, _ = started(experiment())
    with pytest.raises(KeyboardInterrupt), launching.refusal(line) as told:
        monkeypatch.setenv("T2S_REFUSAL", told["T2S_REFUSAL"])
        assert launching.refused(Stopped("stopped by SIGINT after step 4")) == 0
        raise KeyboardInterrupt
    assert capfd.readouterr().out == "error: stopped by SIGINT after step 4\n"


ORPHANS = """
import signal, subprocess, sys, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print("ready", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("again", [False, True], ids=["after a while", "at the second Ctrl-C"])
def test_no_child_is_left_where_ranks_do_not_end_when_interrupted(again: bool, tmp_path: Path) -> None:
    launcher = f"""
import signal, sys
from t2s_assets.text2sql.processes import launching
from t2s_assets_tests.text2sql.processes.test_launching import ORPHANS, experiment
signal.signal(signal.SIGINT, signal.default_int_handler)
launching._GRACE_SECONDS = {600 if again else 0.5}
try:
    launching.run(experiment(), [sys.executable, "-c", ORPHANS], {{}}, what="it")
except KeyboardInterrupt:
    sys.exit(130)
"""
    mark = f"T2S_TEST={tmp_path}"
    line = [sys.executable, "-c", launcher]
    environment = dict(os.environ, T2S_TEST=str(tmp_path))
    child = subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None and child.stdout.readline() == "ready\n"
        assert len(processes_with(mark)) == 3
        child.send_signal(signal.SIGINT)
        if again:
            with pytest.raises(subprocess.TimeoutExpired):
                child.wait(1)
            child.send_signal(signal.SIGINT)
        assert child.wait(60) == 130
        assert processes_with(mark) == {}
    finally:
        kill_all(mark)


STARTED = """
import os, signal, subprocess, sys
from t2s_assets.text2sql.processes import launching
from t2s_assets_tests.text2sql.processes.test_launching import experiment
real = subprocess.Popen

def popen(*args, **kwargs):
    process = real(*args, **kwargs)
    os.kill(os.getpid(), signal.SIGTERM)
    return process

subprocess.Popen = popen
line = [sys.executable, "-c", "import time; print('ready', flush=True); time.sleep(600)"]
try:
    launching.run(experiment(), line, {}, what="it", goes_on="it goes on")
except launching.Stopped as e:
    print(e, flush=True)
"""


def test_a_command_told_to_stop_as_it_starts_ranks_stops_them(tmp_path: Path) -> None:
    mark = f"T2S_TEST={tmp_path}"
    environment = dict(os.environ, T2S_TEST=str(tmp_path))
    try:
        ended = subprocess.run(
            [sys.executable, "-c", STARTED], env=environment, capture_output=True, text=True, timeout=60
        )
        assert (ended.returncode, ended.stdout) == (0, "stopped by SIGTERM; it goes on\n")
        assert processes_with(mark) == {}
    finally:
        kill_all(mark)


def test_a_command_told_to_stop_after_ctrl_c_waits_for_its_ranks(tmp_path: Path) -> None:
    """A scheduler may follow up with SIGTERM. Ended at once, the command would leave them behind."""
    launcher = """
import signal, sys
from t2s_assets.text2sql.processes import launching
from t2s_assets_tests.text2sql.processes.test_launching import ORPHANS, experiment
signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    launching.run(experiment(), [sys.executable, "-c", ORPHANS], {}, what="it")
except KeyboardInterrupt:
    sys.exit(130)
"""
    mark = f"T2S_TEST={tmp_path}"
    environment = dict(os.environ, T2S_TEST=str(tmp_path))
    child = subprocess.Popen([sys.executable, "-c", launcher], env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None and child.stdout.readline() == "ready\n"
        child.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(1)
        child.send_signal(signal.SIGTERM)
        assert child.wait(60) == 130
    finally:
        kill_all(mark)


STEP = """
import time
from t2s_assets.text2sql.processes.stopping import StopSignal
stop = StopSignal()
stop.install()
try:
    with stop.steps():
        print("in a step", flush=True)
        while stop.reason is None:
            time.sleep(0.01)
        print(stop.reason, flush=True)
        time.sleep(600)
except KeyboardInterrupt:
    print("ended", flush=True)
"""


def test_a_second_signal_ends_a_step_unless_it_is_the_first_one_passed_on() -> None:
    child = subprocess.Popen([sys.executable, "-c", STEP], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stdout.readline() == "in a step\n"
    child.send_signal(signal.SIGTERM)
    assert child.stdout.readline() == "SIGTERM\n"
    child.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(1.5)
    child.send_signal(signal.SIGINT)
    assert child.stdout.read() == "ended\n"
    assert child.wait(60) == 0


@pytest.mark.slow
def test_a_crash_keeps_its_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    line = launching.torchrun(sys.executable, 1, "t2s_assets.text2sql.no_such_module")
    with pytest.raises(T2SError, match=r"^a test failed with status 1; its messages are above$"):
        launching.run(experiment(), line, {}, what="a test")
    assert "No module named t2s_assets.text2sql.no_such_module" in capfd.readouterr().err


def test_torchrun_interrupted_before_it_has_ranks_ends_in_one_word(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.distributed import run

    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "main", interrupted)
    assert torchrun.main() == 130


def test_torchrun_says_what_is_more_than_a_signal_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.distributed import run

    monkeypatch.setattr(run, "main", lambda: None)
    assert torchrun.main() == 0
    logger = logging.getLogger("torch.distributed.elastic.multiprocessing.api")
    said = (
        *("Sending process %s closing signal %s", "failed (exitcode: %s) local_rank: %s (pid: %s) of binary: %s"),
        "Unable to shutdown process %s via %s, forcefully exiting via %s",
    )
    records = [logger.makeRecord(logger.name, logging.WARNING, "", 0, text, (), None) for text in said]
    assert [bool(logger.filter(record)) for record in records] == [False, False, True]


def test_torchrun_tells_of_ranks_that_could_not_tell_themselves(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

    ends = {3: -signal.SIGKILL, 1: 1, 0: -signal.SIGSEGV, 2: 7, 4: -signal.SIGTERM}
    failures = {rank: ProcessFailure(rank, 100 + rank, status, "") for rank, status in ends.items()}

    def failed() -> None:
        raise ChildFailedError("t2s_assets.text2sql.training", failures)

    monkeypatch.setattr(run, "main", failed)
    assert torchrun.main() == 1
    assert capfd.readouterr().out.splitlines() == [
        "error: rank 0 (process 100) was ended by SIGSEGV",
        "error: rank 2 (process 102) ended with status 7",
        "error: rank 3 (process 103) was killed, as the system does where memory runs out",
    ]
    failures = {4: failures[4]}  # the others did not fail, so that this was not torchrun's
    assert torchrun.main() == 1
    assert capfd.readouterr().out == "error: rank 4 (process 104) was ended by SIGTERM\n"


@pytest.mark.parametrize("backend", ["c10d", "static"])
def test_a_node_that_stays_alone_says_so_in_a_line(
    backend: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """It keeps the meeting itself as c10d; as the second of a static one it finds no first."""
    monkeypatch.setenv("T2S_NODE", "1")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"127.0.0.1:{free.getsockname()[1]}"
    meeting = {"endpoint": endpoint, "backend": backend, "timeout_seconds": 3}
    config = experiment({"engine": "torchrun", "nodes": 2, "rendezvous": meeting})
    line, variables = started(config)
    with pytest.raises(T2SError, match=r"^it failed with status 1; its messages are above$"):
        launching.run(config, line, variables, what="it")
    said = "".join(capfd.readouterr())
    assert "Traceback" not in said
    (error,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert re.match(r"error: this node did not meet the others, or lost them \(\w+Error.*\); see that launch\.", error)


SMI = """#!/bin/sh
case "$*" in *driver_version*) printf '{driver}\\n{driver}\\n';; *) printf '2, {name}\\n2, {name}\\n';; esac
"""


@pytest.mark.parametrize(
    ("name", "driver", "given", "wanted"),
    [
        ("NVIDIA GeForce RTX 4090", "535.104.05", {}, {"NCCL_P2P_DISABLE": "1", "NCCL_IB_DISABLE": "1"}),
        ("NVIDIA GeForce RTX 4090", "535.104.05", {"NCCL_P2P_DISABLE": "0"}, {"NCCL_IB_DISABLE": "1"}),
        ("NVIDIA GeForce RTX 4090", "560.35.03", {}, {}),
        ("NVIDIA A100-SXM4-80GB", "535.104.05", {}, {}),
    ],
)
def test_ranks_on_gpus_that_cannot_talk_directly_are_told_so(
    name: str, driver: str, given: dict[str, str], wanted: dict[str, str], tmp_path: Path, monkeypatch: Any
) -> None:
    """What accelerate refuses to start with otherwise. It asks `nvidia-smi`, which this machine may not have."""
    smi = tmp_path / "nvidia-smi"
    smi.write_text(SMI.format(name=name, driver=driver))
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    # As a rank's, which is alone with what it sets.
    monkeypatch.setattr(os, "environ", os.environ.copy())
    for variable in ("NCCL_P2P_DISABLE", "NCCL_IB_DISABLE"):
        os.environ.pop(variable, None)
    os.environ.update(given)
    lines: list[str] = []
    for device in ("cpu", "cuda"):
        entry._meet(experiment(), base_models.Placement(device, "float32", "sdpa", "none"), lines.append)
        found = {n: v for n, v in os.environ.items() if n in ("NCCL_P2P_DISABLE", "NCCL_IB_DISABLE")}
        assert found == (given | wanted if device == "cuda" else given)
    said = [f"{' and '.join(f'{n}=1' for n in wanted)}: these GPUs' driver is too old"] if wanted else []
    assert [line.partition(" for direct")[0] for line in lines] == said
