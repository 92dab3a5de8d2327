"""The training script as a job on a Ray cluster, which here is two nodes on this machine."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from t2s_assets.definitions import build_definitions
from t2s_assets.text2sql import evaluation, training
from t2s_assets.text2sql.errors import T2SError
from t2s_assets.text2sql.processes import launching
from t2s_assets.text2sql.storage import read_json
from t2s_assets_tests.processes import wait_for
from t2s_assets_tests.projects import ProjectFiles
from t2s_assets_tests.trainable import add_experiment, add_towns, prepare

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def ray_node() -> Iterator[str]:
    """The address of the head of two Ray nodes that live as long as these tests; one has a resource named `box`."""
    from ray.cluster_utils import Cluster

    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    # Its workers import this checkout, and sum in one order.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_MODE", "disabled")  # a token would be left in the home folder
        head = {"num_cpus": 2, "include_dashboard": True, "dashboard_host": "127.0.0.1", "dashboard_port": port}
        cluster = Cluster(head_node_args=head)
        try:
            cluster.add_node(**head)
            cluster.add_node(num_cpus=2, resources={"box": 1})
            cluster.wait_for_nodes()
            yield f"http://127.0.0.1:{port}"
        finally:
            cluster.shutdown()


@pytest.fixture(scope="module")
def towns(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, ray_node: str) -> ProjectFiles:
    files = add_towns(ProjectFiles(tmp_path_factory.mktemp("ray")), tiny_base)
    launch = {"engine": "ray", "address": ray_node, "cpus": 2, "python": sys.executable}
    two: dict[str, Any] = {"batch_size": 2, "processes": 2, "group_by_length": False}
    add_experiment(files, tiny_base, "tiny", launch=launch, evaluation={"latency_questions": 2, "processes": 2}, **two)
    add_experiment(files, tiny_base, "here", **two)
    add_experiment(files, tiny_base, "endless", launch=launch, **two | {"max_steps": 1_000_000})
    add_experiment(files, tiny_base, "broken", launch=launch, lora={"targets": ["no_such_layer"]}, **two)
    add_experiment(files, tiny_base, "boxed", launch=launch | {"resources": {"box": 1}}, **two)
    prepare(files, "tiny", "here", "endless", "broken", "boxed")
    return files


def test_dagster_trains_and_evaluates_on_the_cluster(towns: ProjectFiles) -> None:
    job = build_definitions(towns.project).resolve_job_def("towns_retrain")
    with dg.DagsterInstance.ephemeral() as instance:
        selection = [dg.AssetKey(["towns", name]) for name in ("adapter", "predictions")]
        done = job.execute_in_process(instance=instance, partition_key="tiny", asset_selection=selection)
        assert done.success
        said = [e.user_message for e in instance.all_logs(done.run_id)]
    assert "18 examples, 4 steps of 4; 8,192 of 133,696 parameters are trained" in said  # the script's, over Pipes
    assert "2 ranks share the questions" in said
    facts = read_json(towns.project.path("towns", "adapter", "tiny") / "manifest.json", made_by="")
    assert facts["world_size"] == 2
    here = training.run(towns.project, "towns", "here")
    assert facts["data_version"] == here["data_version"]
    assert (towns.project.path("towns", "predictions", "tiny") / "base.parquet").exists()


def test_the_command_does_it_without_dagster(towns: ProjectFiles, capfd: pytest.CaptureFixture[str]) -> None:
    facts = training.run(towns.project, "towns", "tiny", force=True)
    assert facts["world_size"] == 2
    assert "adapter of" in capfd.readouterr().out
    assert evaluation.run(towns.project, "towns", "tiny")["questions"] == {"test": 6, "validation": 6}


def test_it_runs_on_the_node_that_has_what_it_reserves(towns: ProjectFiles, ray_node: str) -> None:
    from ray.job_submission import JobSubmissionClient
    from ray.util.state import list_nodes

    assert training.run(towns.project, "towns", "boxed")["world_size"] == 2
    ran_on = {j.driver_node_id for j in JobSubmissionClient(ray_node).list_jobs() if "towns/boxed" in j.entrypoint}
    assert ran_on == {node.node_id for node in list_nodes(ray_node) if "box" in node.resources_total}


def test_a_job_that_fails_says_so(towns: ProjectFiles, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(T2SError, match=r"training of towns/broken failed: Ray job \w+ is FAILED"):
        training.run(towns.project, "towns", "broken")
    assert "no_such_layer" in capfd.readouterr().out


def test_a_command_that_is_terminated_stops_its_job(towns: ProjectFiles, ray_node: str) -> None:
    from ray.job_submission import JobStatus, JobSubmissionClient

    folders = {"T2S_CONFIGS": str(towns.project.configs), "T2S_STORAGE": str(towns.project.storage)}
    child = subprocess.Popen(
        [sys.executable, "-m", "t2s_assets.cli", "train", "towns/endless"],
        env={**os.environ, **folders},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    for said in child.stdout:
        if said.startswith("step 2/"):
            break
    child.terminate()
    child.stdout.read()
    assert child.wait(60) == 128 + signal.SIGTERM

    def statuses() -> set[Any]:
        jobs = JobSubmissionClient(ray_node).list_jobs()
        return {job.status for job in jobs if "towns/endless" in job.entrypoint}

    wait_for(lambda: statuses() == {JobStatus.STOPPED}, seconds=60, what="the job to be stopped")


def test_a_job_whose_log_is_lost_is_waited_for(
    towns: ProjectFiles, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from ray.job_submission import JobSubmissionClient

    async def lost(client: Any, id: str) -> AsyncIterator[str]:
        yield "the first line\n"
        raise ConnectionResetError("the connection is closed")

    monkeypatch.setattr(JobSubmissionClient, "tail_job_logs", lost)
    assert training.run(towns.project, "towns", "tiny", force=True)["world_size"] == 2
    assert "is lost (ConnectionResetError: the connection is closed); waiting for its end" in capfd.readouterr().out


def test_errors_of_the_cluster_are_told(towns: ProjectFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.job_submission import JobStatus, JobSubmissionClient

    def fails(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("Request failed with status code 500")

    with monkeypatch.context() as patch:
        patch.setattr(JobSubmissionClient, "submit_job", fails)
        with pytest.raises(T2SError, match=r"does not take the job \(RuntimeError: .*500\); see .*launch\.cpus"):
            training.run(towns.project, "towns", "endless")
    ids: list[str] = []
    submit = JobSubmissionClient.submit_job
    monkeypatch.setattr(launching, "_RAY_SECONDS", 0.1)
    with monkeypatch.context() as patch:
        patch.setattr(JobSubmissionClient, "submit_job", lambda *a, **k: ids.append(submit(*a, **k)) or ids[0])
        patch.setattr(JobSubmissionClient, "tail_job_logs", fails)
        patch.setattr(JobSubmissionClient, "get_job_status", fails)
        with pytest.raises(T2SError, match=r"Ray no longer says how job \w+ is \(RuntimeError"):
            training.run(towns.project, "towns", "endless")
    client = JobSubmissionClient(towns.project.experiment("towns", "endless").launch.address)  # type: ignore[union-attr]
    wait_for(lambda: client.get_job_status(ids[0]) == JobStatus.STOPPED, seconds=60, what="the job to be stopped")
