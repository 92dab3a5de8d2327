"""The `dagster` commands of the README, as a user types them, on an instance with this checkout's settings."""

from __future__ import annotations

import os
import subprocess
import sys

import dagster as dg
import pytest

from t2s_assets_tests.instance import DATASET, ENDLESS, EXPERIMENT, Instance
from t2s_assets_tests.processes import processes_with

ASSETS = ("tables", "questions", "sql", "prompts", "adapter", "predictions", "report", "champion")


def test_definitions_validate(instance: Instance) -> None:
    done = instance.dagster("definitions", "validate", "-m", "t2s_assets.definitions")
    assert done.returncode == 0, done.stderr
    assert "Validation successful for code location t2s_assets.definitions" in done.stderr + done.stdout


def test_definitions_validate_names_what_is_broken(instance: Instance, tmp_path: os.PathLike[str]) -> None:
    folder = os.path.join(tmp_path, DATASET)
    os.makedirs(folder)
    with open(os.path.join(folder, "dataset.yaml"), "w") as f:
        f.write("description: x\nsource: {kind: bundled, path: here}\n")
    done = instance.dagster("definitions", "validate", "-m", "t2s_assets.definitions", T2S_CONFIGS=str(tmp_path))
    assert done.returncode == 0, done.stderr  # it costs no other dataset
    assert f"{folder}/dataset.yaml" in done.stderr + done.stdout
    assert "source.bundled.path: unknown key" in done.stderr + done.stdout


def test_asset_list(instance: Instance) -> None:
    done = instance.dagster("asset", "list", "-m", "t2s_assets.definitions")
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) == {f"{DATASET}/{a}" for a in ASSETS}
    upstream = instance.dagster("asset", "list", "-m", "t2s_assets.definitions", "--select", f"+key:{DATASET}/sql")
    assert set(upstream.stdout.split()) == {f"{DATASET}/{a}" for a in ("tables", "questions", "sql")}


def test_the_whole_group_is_materialized_with_one_command(instance: Instance) -> None:
    assert instance.made.returncode == 0, instance.made.stderr[-5000:]
    said = instance.made.stderr + instance.made.stdout
    for line in ("loss", "validation loss", "adapter of", "latency of", "95 % intervals", f"champion of {DATASET}"):
        assert line in said, line
    with dg.DagsterInstance.from_ref(dg.DagsterInstance.from_config(str(instance.home)).get_ref()) as stored:
        for asset in ASSETS:
            event = stored.get_latest_materialization_event(dg.AssetKey([DATASET, asset]))
            assert event is not None, asset
            assert event.asset_materialization.tags["dagster/data_version"], asset
            partition = EXPERIMENT if asset in ("prompts", "adapter", "predictions", "report") else None
            assert event.asset_materialization.partition == partition
    for asset in ("prompts", "adapter", "predictions", "report"):
        assert (instance.project.path(DATASET, asset, EXPERIMENT) / "manifest.json").exists()


def test_a_failed_step_and_a_wrong_use_have_their_own_status(instance: Instance) -> None:
    missing = instance.materialize(f"key:{DATASET}/adapter", "--partition", ENDLESS + "x")
    assert missing.returncode == 1
    assert ENDLESS + "x" in missing.stderr + missing.stdout
    unprepared = instance.materialize(f"key:{DATASET}/report", "--partition", ENDLESS)
    assert unprepared.returncode == 1
    assert f"t2s evaluate {DATASET}/{ENDLESS}" in unprepared.stderr + unprepared.stdout
    assert instance.dagster("asset", "materialize", "-m", "t2s_assets.definitions").returncode == 2


def test_an_evaluation_that_is_told_to_stop_says_what_is_kept(instance: Instance) -> None:
    assert instance.made.returncode == 0, instance.made.stderr[-5000:]
    for path in instance.project.cache("generations").glob("*"):
        path.unlink()
    select = ["--select", f"key:{DATASET}/predictions", "--partition", EXPERIMENT]
    with subprocess.Popen(
        [sys.executable, "-m", "dagster", "asset", "materialize", "-m", "t2s_assets.definitions", *select],
        cwd=instance.files.root,
        env=instance.environment | {"T2S_TEST_MARK": "a told evaluation"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as command:
        assert command.stdout is not None
        next(line for line in command.stdout if "adapter: generating" in line)
        command.terminate()
        rest, _ = command.communicate(timeout=120)
    assert command.returncode == 1
    assert "stopped; whole blocks of answers are kept, and the same command goes on from them" in rest
    assert not processes_with("T2S_TEST_MARK=a told evaluation")


def test_the_instance_retries_watches_and_queues(instance: Instance) -> None:
    code = (
        "import dagster as dg, json\n"
        "with dg.DagsterInstance.get() as i:\n"
        "    print(json.dumps([i.run_retries_enabled, i.run_retries_max_retries, i.run_monitoring_enabled,\n"
        "        i.telemetry_enabled, i.nux_enabled, i.global_op_concurrency_default_limit,\n"
        "        i.get_concurrency_config().run_queue_config.max_concurrent_runs]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=instance.files.root, env=instance.environment, capture_output=True, text=True
    )
    assert done.stdout.strip() == "[true, 1, true, false, false, 1, 2]", done.stderr


@pytest.mark.parametrize("name", ["validate", "list"])
def test_no_dagster_home_is_needed_for_a_look(instance: Instance, name: str) -> None:
    environment = {k: v for k, v in instance.environment.items() if k != "DAGSTER_HOME"}
    command = {"validate": ["definitions", "validate"], "list": ["asset", "list"]}[name]
    done = subprocess.run(
        [sys.executable, "-m", "dagster", *command, "-m", "t2s_assets.definitions"],
        cwd=instance.files.root,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
