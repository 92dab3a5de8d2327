"""Evaluations that others must not meet: one at a time, and none whose launcher is gone; and those told to stop."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from t2s_assets.text2sql import evaluation
from t2s_assets.text2sql.errors import DataError, T2SError
from t2s_assets.text2sql.evaluation import entry
from t2s_assets.text2sql.processes import launching
from t2s_assets_tests.processes import kill_all, processes_with, wait_for
from t2s_assets_tests.projects import ProjectFiles
from t2s_assets_tests.trainable import add_experiment, trained_towns
from t2s_assets_tests.warm import WarmPython

HOLD = (
    "import sys; from t2s_assets.text2sql import evaluation; from t2s_assets.text2sql.storage import Project\n"
    "with evaluation.only_evaluation(Project.find(), 'shop', 'tiny', print):\n"
    "    print('holding', flush=True); sys.stdin.read()\n"
)


@pytest.fixture
def shop(project_files: ProjectFiles, monkeypatch: pytest.MonkeyPatch) -> ProjectFiles:
    """A dataset with two experiments that no adapter was trained for, found by child processes too."""
    project_files.dataset("shop")
    for name in ("tiny", "other"):
        project_files.experiment("shop", name, base=Path("no-model-is-loaded-here"))
    monkeypatch.setenv("T2S_CONFIGS", str(project_files.project.configs))
    monkeypatch.setenv("T2S_STORAGE", str(project_files.project.storage))
    return project_files


@pytest.fixture(scope="module")
def answerable(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> ProjectFiles:
    """A dataset with a trained adapter and 12 questions to answer, 6 of them by the base too."""
    return trained_towns(tmp_path_factory.mktemp("answerable"), tiny_base)


def folders(files: ProjectFiles) -> dict[str, str]:
    return {"T2S_CONFIGS": str(files.project.configs), "T2S_STORAGE": str(files.project.storage)}


@contextmanager
def another_evaluation() -> Iterator[int]:
    """The id of a process that holds the lock of shop/tiny."""
    line = [sys.executable, "-c", HOLD]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "holding\n"
        try:
            yield holder.pid
        finally:
            holder.kill()


def test_one_evaluation_of_an_experiment_at_a_time(shop: ProjectFiles) -> None:
    lines: list[str] = []
    with another_evaluation() as pid:
        with pytest.raises(T2SError, match=f"process {pid} is evaluating shop/tiny already; wait for it or stop it"):
            with evaluation.only_evaluation(shop.project, "shop", "tiny", lines.append, wait_seconds=0.1):
                pass
        with evaluation.only_evaluation(shop.project, "shop", "other", lines.append):
            pass
    assert lines == [f"process {pid} is evaluating shop/tiny; waiting up to 0 s for it"]
    with pytest.raises(DataError, match="t2s prepare shop/tiny"):
        evaluation.run(shop.project, "shop", "tiny", lines.append)


def test_an_evaluation_in_this_process_takes_the_lock(shop: ProjectFiles) -> None:
    class Waits(Exception):
        pass

    def log(line: str) -> None:
        raise Waits(line)

    with another_evaluation() as pid, pytest.raises(Waits, match=f"process {pid} is evaluating shop/tiny"):
        evaluation.run(shop.project, "shop", "tiny", log)


def test_a_rank_ends_with_its_launcher(shop: ProjectFiles) -> None:
    """Here while it waits for another's end: it would go on waiting."""
    with subprocess.Popen(["sleep", "600"]) as launcher, another_evaluation() as pid:
        line = [sys.executable, "-m", entry.MODULE, "shop/tiny"]
        environment = {**os.environ, "T2S_LAUNCHER": str(launcher.pid)}
        with subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, text=True) as rank:
            assert rank.stdout is not None
            assert f"process {pid} is evaluating shop/tiny; waiting" in rank.stdout.readline()
            launcher.kill()
            launcher.wait()
            assert rank.wait(30) == 1
            assert rank.stdout.read() == ""


def test_all_ranks_end_with_their_launcher(shop: ProjectFiles, tmp_path: Path) -> None:
    """The second waits for the first, in torch, and the first for another evaluation."""
    shop.experiment("shop", "tiny", base=Path("no-model-is-loaded-here"), evaluation={"processes": 2})
    said, mark = tmp_path / "said", f"T2S_TEST_MARK={tmp_path}"
    line = [sys.executable, "-m", "t2s_assets.cli", "evaluate", "shop/tiny"]

    def all_wait() -> bool:
        ranks_and_torchrun = [c for c in processes_with(mark).values() if c.endswith(f"{entry.MODULE} shop/tiny")]
        return len(ranks_and_torchrun) == 3 and "waiting up to" in said.read_text()

    with another_evaluation(), said.open("w") as out:
        environment = {**os.environ, "T2S_TEST_MARK": str(tmp_path)}
        with subprocess.Popen(line, env=environment, stdout=out, stderr=out) as launcher:
            try:
                wait_for(all_wait, seconds=180, what="two ranks to wait")
                launcher.kill()
                launcher.wait()
                wait_for(lambda: not processes_with(mark), seconds=60, what="the ranks to end")
            finally:
                kill_all(mark)


TOLD_ANSWERING = """
import os, signal
from t2s_assets.cli import main
from t2s_assets.text2sql import decoding
from t2s_assets.text2sql.evaluation import generations

generations.BLOCK = 4
real, calls = decoding.Decoder.generate, 0

def generate(*args, **kwargs):
    global calls
    calls += 1
    if calls == 2:
        os.kill(os.getpid(), signal.{signal})
    return real(*args, **kwargs)

decoding.Decoder.generate = generate
main()
"""


@pytest.mark.parametrize(
    ("number", "status"),
    [("SIGTERM", 1), ("SIGINT", 130)],
)
def test_a_signal_ends_an_evaluation_with_one_line(
    answerable: ProjectFiles, heard: None, tmp_path: Path, number: str, status: int
) -> None:
    said = f"error: stopped by {number}; whole blocks of answers are kept, and the same command goes on from them\n"
    for path in answerable.project.cache("generations").glob("*"):
        path.unlink()
    script = tmp_path / "told.py"
    script.write_text(TOLD_ANSWERING.format(signal=number))
    mark = f"T2S_TEST_MARK={tmp_path}"
    environment = os.environ | folders(answerable) | {"T2S_TEST_MARK": str(tmp_path)}
    child = WarmPython([str(script), "evaluate", "towns/tiny"], environment=environment, stderr=subprocess.PIPE)
    assert child.stderr is not None
    out, errors = child.stdout.read(), child.stderr.read()
    assert (child.wait(60), errors) == (status, said)
    assert "adapter: generating 12 answers, 0 are there already" in out
    assert not processes_with(mark)
    lines: list[str] = []
    evaluation.run(answerable.project, "towns", "tiny", lines.append)
    assert "adapter: generating 8 answers, 4 are there already" in lines


def test_a_scheduler_ends_an_evaluations_ranks(answerable: ProjectFiles, tiny_base: Path) -> None:
    """It tells the command alone."""
    add_experiment(answerable, tiny_base, "tiny", max_steps=2, evaluation={"latency_questions": 2, "processes": 2})
    for path in answerable.project.cache("generations").glob("*"):
        path.unlink()
    line = [sys.executable, "-m", "t2s_assets.cli", "evaluate", "towns/tiny"]
    with subprocess.Popen(
        line, env={**os.environ, **folders(answerable)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None and child.stderr is not None
        next(said for said in child.stdout if "2 ranks share the questions" in said)
        child.terminate()
        rest, errors = child.communicate(timeout=60)
        assert child.returncode == 1
    assert [line for line in (rest + errors).splitlines() if "rror" in line or "Traceback" in line] == [
        "error: stopped by SIGTERM; whole blocks of answers are kept, and the same command goes on from them"
    ]
    assert not processes_with(f"T2S_LAUNCHER={child.pid}")


ONE_OF_TWO = """
import os, signal, time
import torch.distributed as dist
from t2s_assets.text2sql.evaluation import entry, predictions

rank, real = os.environ["RANK"], predictions.{name}

def ends(*args, **kwargs):
    if rank == "{rank}":
        {ends}
    return real(*args, **kwargs)

predictions.{name} = ends
raise SystemExit(entry.main())
"""


@pytest.mark.parametrize(
    ("name", "rank", "ends", "said"),
    [
        (
            "answer_share",
            1,
            "kwargs['wait'] = lambda: (dist.destroy_process_group(), time.sleep(600))",
            rf"error: another rank is gone, .* \(RuntimeError: .*gloo/transport/.*\); {evaluation.GOES_ON}",
        ),
        (
            "make_predictions",
            0,
            "os.kill(os.getpid(), signal.SIGTERM)",
            r"error: rank 0 \(process \d+\) ended with status 143",
        ),
    ],
    ids=["gone for the other", "told alone"],
)
def test_a_rank_that_ends_alone_is_told_of_in_lines(
    answerable: ProjectFiles,
    tiny_base: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    name: str,
    rank: int,
    ends: str,
    said: str,
) -> None:
    add_experiment(answerable, tiny_base, "tiny", max_steps=2, evaluation={"latency_questions": 2, "processes": 2})
    config = answerable.project.experiment("towns", "tiny")
    script = tmp_path / "ends.py"
    script.write_text(ONE_OF_TWO.format(name=name, rank=rank, ends=ends))
    line = evaluation.command("towns", "tiny", config)
    at = line.index(entry.MODULE)
    line[at - 1 : at + 1] = [str(script)]
    with pytest.raises(T2SError, match="failed with status 1; its messages are above"):
        launching.run(config, line, evaluation.environment(answerable.project, config), what="it")
    told = "".join(capfd.readouterr())
    errors = [line for line in told.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and re.fullmatch(said, errors[0]) and "Traceback" not in told, told
