"""Ranks as a Dagster step: what becomes of them when the processes above them are killed."""

import multiprocessing
import os
import signal
import sys
from pathlib import Path
from typing import Any

import dagster as dg

from t2s_assets.ranks import run_ranks
from t2s_assets.text2sql.config import Experiment
from t2s_assets_tests.processes import kill_all, wait_for

# A rank that says who is to live, and when one of them does not.
RANK = """
import os, sys, time
from pathlib import Path
from t2s_assets.text2sql.processes.stopping import when_launcher_is_gone

folder = Path(sys.argv[1])
def gone(launcher):
    (folder / "gone").write_text(str(launcher))
    os._exit(0)
when_launcher_is_gone(gone)
(folder / "began.new").write_text(os.environ["T2S_LAUNCHER"])
(folder / "began.new").rename(folder / "began")
time.sleep(0 if sys.argv[2] == "ends" else 600)
"""


def step(folder: str, what: str) -> None:
    """A step of Dagster whose ranks are `RANK`."""

    @dg.asset
    def adapter(context: dg.AssetExecutionContext, pipes: dg.PipesSubprocessClient) -> dg.MaterializeResult:
        content: Any = {"description": "d", "base_model": {"source": "folder", "path": "/x"}}
        config = Experiment.model_validate(content | {"training": {"max_steps": 4}})
        run_ranks(context, pipes, config, [sys.executable, "-c", RANK, folder, what], {"T2S_TEST_RANKS": folder})
        return dg.MaterializeResult()

    dg.materialize([adapter], resources={"pipes": dg.PipesSubprocessClient()})


def worker(folder: str) -> None:
    """A run's worker, which has its step run by a process of its own, as Dagster's multiprocess executor has."""
    process = multiprocessing.get_context("forkserver").Process(target=step, args=(folder, "sleeps"))
    process.start()
    process.join()


def test_ranks_end_when_the_worker_of_their_run_is_killed_alone(tmp_path: Path) -> None:
    """The step, an orphan then, waits for them; the run's retry would find them training."""
    run = multiprocessing.get_context("spawn").Process(target=worker, args=(str(tmp_path),))
    run.start()
    try:
        wait_for((tmp_path / "began").exists, seconds=60, what="the rank to begin")
        launchers = [int(pid) for pid in (tmp_path / "began").read_text().split(",")]
        assert launchers[1] == run.pid != launchers[0]
        assert run.pid is not None
        os.kill(run.pid, signal.SIGKILL)
        run.join()
        wait_for((tmp_path / "gone").exists, seconds=60, what="the rank to notice")
        assert (tmp_path / "gone").read_text() == str(run.pid)
    finally:
        kill_all(f"T2S_TEST_RANKS={tmp_path}")


def test_ranks_of_a_step_in_the_worker_itself_do_not_watch_what_started_it(tmp_path: Path) -> None:
    step(str(tmp_path), "ends")
    assert (tmp_path / "began").read_text() == str(os.getpid())
