"""An experiment's ranks as a Dagster step: torchrun as a subprocess, or the same command as a job on a Ray cluster."""

from __future__ import annotations

import multiprocessing
import os

import dagster as dg

from t2s_assets.text2sql.config import Experiment, RayLaunch
from t2s_assets.text2sql.processes.launching import ray_is_missing, ray_job, refusal
from t2s_assets.text2sql.processes.stopping import LAUNCHER


def run_ranks(
    context: dg.AssetExecutionContext,
    pipes: dg.PipesSubprocessClient,
    config: Experiment,
    line: list[str],
    variables: dict[str, str],
) -> None:
    """Run a command line where the experiment's `launch` says, its messages in the run's log.

    Raises:
        T2SError: what the rank refused, where it is the only one.
        ConfigError: the experiment wants Ray, and dagster-ray is not installed.
    """
    if not isinstance(config.launch, RayLaunch):
        with refusal(line) as told:
            pipes.run(command=line, env=variables | told | {LAUNCHER: _launchers()}, context=context)
        return
    try:
        from dagster_ray import PipesRayJobClient
    except ImportError as e:
        raise ray_is_missing("dagster-ray") from e
    client = PipesRayJobClient(address=config.launch.address)
    client.run(context=context, submit_job_params=ray_job(config.launch, line, variables))


def _launchers() -> str:
    """The value of LAUNCHER for a step's ranks: this process, and the run's worker where that started it.

    A worker that is killed alone leaves its step behind, and the run's retry would find it training. A process that
    multiprocessing did not start belongs to whoever did, such as a shell that may end before it.
    """
    worker = multiprocessing.parent_process()
    return ",".join(str(pid) for pid in (os.getpid(), worker and worker.pid) if pid)
