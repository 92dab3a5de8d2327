"""The page's own requests: launching a group, and stopping a training that runs."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from t2s_assets.made_elsewhere import MADE_BY
from t2s_assets.text2sql.training.checkpoints import SEAL, step_of
from t2s_assets_tests.instance import DATASET, ENDLESS, EXPERIMENT, Instance
from t2s_assets_tests.processes import ancestors, processes_with, wait_for
from t2s_assets_tests.trainable import prepare

ALL = ("tables", "questions", "sql", "prompts", "adapter", "predictions", "report", "champion")


def training_processes(instance: Instance) -> dict[int, str]:
    found = processes_with(f"T2S_STORAGE={instance.project.storage}")
    return {pid: line for pid, line in found.items() if "t2s_assets.text2sql.training" in line}


def launched_training(instance: Instance) -> str:
    """The id of a run that trains without end and has written a whole checkpoint of its own."""
    prepare(instance.files, ENDLESS)
    before = whole_checkpoints(instance)
    run = instance.launch("adapter", partition=ENDLESS)
    wait_for(lambda: whole_checkpoints(instance) - before, seconds=300, what="a whole checkpoint")
    return run


def whole_checkpoints(instance: Instance) -> set[Path]:
    """Those that are sealed: the folder itself is there long before all that is in it."""
    folder = instance.project.path(DATASET, "checkpoints", ENDLESS)
    return {seal.parent for seal in folder.glob(f"*/checkpoint-*/{SEAL}")}


def test_the_group_is_launched_for_one_experiment(instance: Instance, webserver: str) -> None:
    """After the command line made it, so that nothing is trained twice."""
    assert instance.made.returncode == 0
    adapter = instance.project.path(DATASET, "adapter", EXPERIMENT) / "adapter_model.safetensors"
    written = adapter.stat().st_mtime_ns
    run = instance.launch(*ALL, partition=EXPERIMENT)
    assert instance.finished(run, seconds=400) == "SUCCESS"
    assert adapter.stat().st_mtime_ns == written
    query = """query($key: AssetKeyInput!) { assetNodeOrError(assetKey: $key) { ... on AssetNode {
        groupName kinds owners { ... on TeamAssetOwner { team } } pools
        assetChecksOrError { ... on AssetChecks { checks { name blocking
            executionForLatestMaterialization { status runId } } } } } } }"""
    node = instance.graphql(query, key={"path": [DATASET, "adapter"]})["assetNodeOrError"]
    assert node["groupName"] == DATASET
    assert set(node["kinds"]) == {"pytorch", "huggingface"}
    assert node["owners"] == [{"team": "ml"}]
    assert node["pools"] == ["gpu"]
    (check,) = node["assetChecksOrError"]["checks"]
    assert check == {
        "name": "adapter_size",
        "blocking": False,
        "executionForLatestMaterialization": {"status": "SUCCEEDED", "runId": run},
    }


def test_the_schedule_is_there_and_off(instance: Instance, webserver: str) -> None:
    query = """query($s: RepositorySelector!) { schedulesOrError(repositorySelector: $s) { ... on Schedules { results {
        name cronSchedule scheduleState { status } } } } }"""
    selector = {"repositoryLocationName": "t2s_assets", "repositoryName": "__repository__"}
    found = instance.graphql(query, s=selector)["schedulesOrError"]["results"]
    assert found == [
        {"name": f"{DATASET}_retrain", "cronSchedule": "30 2 * * 1", "scheduleState": {"status": "STOPPED"}}
    ]


@pytest.mark.slow
def test_what_is_made_elsewhere_is_shown_without_being_asked(instance: Instance, webserver: str) -> None:
    """By the daemon and its sensor, within a tick of 30 s and the 10 s after which a folder counts as whole."""
    prepare(instance.files, ENDLESS)
    query = """query($key: AssetKeyInput!, $p: [String!]) { assetNodeOrError(assetKey: $key) { ... on AssetNode {
        assetMaterializations(partitions: $p) { runId
            metadataEntries { label ... on TextMetadataEntry { text } } } } } }"""

    def shown() -> list[dict[str, object]]:
        node = instance.graphql(query, key={"path": [DATASET, "prompts"]}, p=[ENDLESS])["assetNodeOrError"]
        return node["assetMaterializations"]

    (made,) = wait_for(shown, seconds=120, what="the prompts to be shown", every=1)
    assert made["runId"] == ""
    assert {"label": "made_by", "text": MADE_BY} in made["metadataEntries"]


def test_a_stopped_training_leaves_no_process(instance: Instance, webserver: str) -> None:
    run = launched_training(instance)
    running = training_processes(instance)
    assert len(running) >= 2, running  # torchrun and its rank
    query = """mutation($id: String!) { terminateRun(runId: $id) { __typename
        ... on TerminateRunFailure { message } ... on PythonError { message } } }"""
    assert instance.graphql(query, id=run)["terminateRun"]["__typename"] == "TerminateRunSuccess"
    assert instance.finished(run, seconds=120) == "CANCELED"
    wait_for(lambda: not training_processes(instance), seconds=60, what="the training's processes to end")
    # Nor as zombies, whose environment cannot be read.
    wait_for(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in running), seconds=60, what="them to be reaped")
    adapter = instance.project.path(DATASET, "adapter", ENDLESS)
    assert list(adapter.parent.glob(f"*{ENDLESS}*")) == []  # nor a half one beside it
    assert instance.status(run) == "CANCELED"


@pytest.mark.slow
def test_a_run_that_dies_is_run_again_from_its_last_checkpoint(instance: Instance, webserver: str) -> None:
    """As after a machine's crash: monitoring notices, and one retry goes on in the pool's one place."""
    run = launched_training(instance)
    up = ancestors(max(training_processes(instance)))
    for pid, line in up.items():
        if "api grpc" in line or "code-server" in line or "dagster dev" in line:
            break
        os.kill(pid, signal.SIGKILL)
    assert instance.finished(run, seconds=300) == "FAILURE"
    last = max(whole_checkpoints(instance), key=step_of)
    retries = """query($f: RunsFilter!) { runsOrError(filter: $f) { ... on Runs { results { runId status } } } }"""
    wanted = {"tags": [{"key": "dagster/parent_run_id", "value": run}]}

    def retry() -> str | None:
        found = instance.graphql(retries, f=wanted)["runsOrError"]["results"]
        return found[0]["runId"] if found and found[0]["status"] == "STARTED" else None

    again = wait_for(retry, seconds=300, what="the retry to start", every=1)
    logs = """query($id: ID!) { logsForRun(runId: $id) { ... on EventConnection { events {
        ... on MessageEvent { message } } } } }"""

    def resumed() -> bool:
        events = instance.graphql(logs, id=again)["logsForRun"]["events"]
        return any(f"going on from {last.name}" == e.get("message") for e in events)

    try:
        wait_for(resumed, seconds=300, what="the retry to go on", every=1)
    finally:
        instance.graphql("mutation($id: String!) { terminateRun(runId: $id) { __typename } }", id=again)
    assert instance.finished(again, seconds=120) == "CANCELED"
