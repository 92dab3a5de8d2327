"""What Dagster loads: groups, partitions and checks from the config files, and nothing heavy on the way."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from t2s_assets.definitions import build_definitions
from t2s_assets.text2sql.errors import ConfigError
from t2s_assets_tests.projects import ProjectFiles

HEAVY = ("torch", "transformers", "peft", "trl", "datasets", "bitsandbytes", "accelerate", "matplotlib", "pandas")

# asset: its upstream assets, its kinds, whether it has partitions, its checks and whether those block
ASSETS = {
    "tables": ([], {"parquet"}, False, {}),
    "questions": (["tables"], {"parquet"}, False, {"splits_disjoint": True}),
    "sql": (["tables", "questions"], {"duckdb", "parquet"}, False, {"gold_runs": True, "gold_matches_itself": True}),
    "prompts": (["sql"], {"huggingface"}, True, {"examples_sound": True}),
    "adapter": (["prompts"], {"pytorch", "huggingface"}, True, {"adapter_size": False}),
    "predictions": (["adapter", "prompts", "sql"], {"pytorch", "duckdb"}, True, {}),
    "report": (
        ["predictions", "adapter"],
        {"markdown"},
        True,
        {"em_target": False, "ex_target": False, "latency_target": False},
    ),
    "champion": (["predictions", "report"], {"duckdb"}, False, {}),
}
BASE = Path("no-model-is-loaded-here")


@pytest.fixture
def two(project_files: ProjectFiles) -> ProjectFiles:
    """Two datasets: `shop` with a schedule and two experiments, `garden` without a schedule and with one."""
    project_files.dataset("shop", retrain={"experiment": "small", "cron": "15 4 * * 2"})
    project_files.dataset("garden")
    for dataset, name in (("shop", "small"), ("shop", "large"), ("garden", "only")):
        project_files.experiment(dataset, name, base=BASE)
    return project_files


def load(files: ProjectFiles) -> dg.Definitions:
    definitions = build_definitions(files.project)
    dg.Definitions.validate_loadable(definitions)
    return definitions


def assets_of(definitions: dg.Definitions, group: str) -> dict[str, dg.AssetSpec]:
    return {s.key.path[-1]: s for s in definitions.resolve_all_asset_specs() if s.group_name == group}


def definition_of(definitions: dg.Definitions, dataset: str, asset: str) -> dg.AssetsDefinition:
    return definitions.resolve_assets_def(dg.AssetKey([dataset, asset]))


def test_loading_imports_no_model_library(tmp_path: Path) -> None:
    code = (
        "import sys, t2s_assets.definitions as d; d.defs.get_repository_def();"
        f"print(sorted(set({HEAVY!r}) & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env={**os.environ}, check=True
    )
    assert done.stdout.strip() == "[]"


def test_the_shipped_configs_load_as_groups() -> None:
    from t2s_assets.definitions import defs

    groups = {spec.group_name for spec in defs.resolve_all_asset_specs()}
    assert groups == {"mini", "wikisql"}
    assert set(definition_of(defs, "mini", "adapter").partitions_def.get_partition_keys()) >= {"smollm2"}


def test_descriptions_of_the_configs_are_shown(two: ProjectFiles) -> None:
    shop = assets_of(load(two), "shop")
    assert two.project.dataset("shop").description in shop["tables"].description
    for name in ("small", "large"):
        assert f"- `{name}`: {two.project.experiment('shop', name).description}" in shop["adapter"].description


@pytest.mark.parametrize("dataset", ["shop", "garden"])
def test_every_dataset_has_the_same_graph(two: ProjectFiles, dataset: str) -> None:
    definitions = load(two)
    specs = assets_of(definitions, dataset)
    assert set(specs) == set(ASSETS)
    for name, (upstream, kinds, partitioned, _) in ASSETS.items():
        spec = specs[name]
        assert spec.key == dg.AssetKey([dataset, name])
        assert {d.asset_key for d in spec.deps} == {dg.AssetKey([dataset, u]) for u in upstream}, name
        assert spec.kinds == kinds
        assert spec.owners == ["team:ml"]
        assert spec.code_version == "1"
        assert spec.description
        assert (spec.partitions_def is not None) == partitioned


def test_an_experiment_is_a_partition(two: ProjectFiles) -> None:
    definitions = load(two)
    assert assets_of(definitions, "shop")["adapter"].partitions_def.get_partition_keys() == ["large", "small"]
    assert assets_of(definitions, "garden")["adapter"].partitions_def.get_partition_keys() == ["only"]


def test_checks_on_data_block_and_checks_on_targets_warn(two: ProjectFiles) -> None:
    definitions = load(two)
    for name, (_, _, _, checks) in ASSETS.items():
        specs = definition_of(definitions, "shop", name).check_specs
        assert {s.name: s.blocking for s in specs} == checks, name


def test_only_what_runs_a_model_waits_in_the_gpu_pool(two: ProjectFiles) -> None:
    definitions = load(two)
    pools = {name: definition_of(definitions, "shop", name).op.pool for name in ASSETS}
    assert {name for name, pool in pools.items() if pool == "gpu"} == {"adapter", "predictions"}
    assert set(pools.values()) == {"gpu", None}


def test_one_job_a_dataset_holds_its_whole_group(two: ProjectFiles) -> None:
    definitions = load(two)
    for dataset in ("shop", "garden"):
        job = definitions.resolve_job_def(f"{dataset}_retrain")
        assert {k.to_user_string() for k in job.asset_layer.selected_asset_keys} == {f"{dataset}/{a}" for a in ASSETS}
    jobs = {j.name for j in definitions.resolve_all_job_defs() if not j.name.startswith("__")}
    assert jobs == {"shop_retrain", "garden_retrain"}


def test_a_schedule_is_stopped_and_asks_for_its_experiment(two: ProjectFiles) -> None:
    definitions = load(two)
    assert [s.name for s in definitions.schedules] == ["shop_retrain"]
    schedule = definitions.resolve_schedule_def("shop_retrain")
    assert schedule.default_status == dg.DefaultScheduleStatus.STOPPED
    assert (schedule.cron_schedule, schedule.execution_timezone) == ("15 4 * * 2", "UTC")
    assert schedule.description == "Make every asset of shop for 'small', which trains where inputs changed."
    with dg.instance_for_test() as instance:
        context = dg.build_schedule_context(instance, repository_def=definitions.get_repository_def())
        tick = schedule.evaluate_tick(context)
    assert [r.partition_key for r in tick.run_requests] == ["small"]
    assert tick.run_requests[0].tags["dagster/partition"] == "small"


def test_a_new_file_is_a_partition_and_a_new_folder_a_group(two: ProjectFiles) -> None:
    two.experiment("garden", "another", base=BASE)
    two.dataset("library")
    definitions = load(two)
    assert assets_of(definitions, "garden")["report"].partitions_def.get_partition_keys() == ["another", "only"]
    library = assets_of(definitions, "library")
    assert set(library) == set(ASSETS)
    assert library["report"].partitions_def.get_partition_keys() == []


def test_no_dataset_at_all_still_loads(project_files: ProjectFiles) -> None:
    assert list(load(project_files).resolve_all_asset_specs()) == []


def test_the_resource_points_at_the_projects_folders(two: ProjectFiles) -> None:
    folders = load(two).resources["folders"]
    assert folders.project == two.project


def failure(definitions: dg.Definitions, job: str, *, partition: str) -> str:
    """What the first step that fails in a run of a job says."""
    with dg.DagsterInstance.ephemeral() as instance:
        made = definitions.resolve_job_def(job).execute_in_process(
            instance=instance, partition_key=partition, raise_on_error=False
        )
    assert not made.success
    return str(next(e for e in made.all_events if e.event_type_value == "STEP_FAILURE").event_specific_data)


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        ({"description": "x", "source": {"kind": "local", "pth": "a"}}, "source.local.pth: unknown key"),
        ("source: [half", "not readable as YAML"),
    ],
)
def test_a_broken_dataset_costs_no_other_one(
    two: ProjectFiles, content: dict[str, object] | str, wanted: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Its group stays, told by every problem of its file, which the log tells too; what others run goes on."""
    path = two.yaml("shop", "dataset", content)
    definitions = load(two)
    shop = assets_of(definitions, "shop")
    assert set(shop) == set(ASSETS)
    assert shop["adapter"].partitions_def.get_partition_keys() == ["large", "small"]
    told = failure(definitions, "shop_retrain", partition="small")
    for text in (shop["tables"].description, caplog.text, told):
        assert str(path) in text
        assert wanted in text
    told = str(path.parent) + shop["tables"].description.split(str(path.parent))[1]
    assert all(line.endswith("  ") for line in told.splitlines()[:-1])  # Markdown's line break
    for asset in ASSETS:  # whatever is asked for alone fails with it
        alone = dg.materialize(
            [definition_of(definitions, "shop", asset)],
            partition_key="small" if ASSETS[asset][2] else None,
            raise_on_error=False,
        )
        assert wanted in str(next(e for e in alone.all_events if e.is_step_failure).event_specific_data), asset
    garden = [definition_of(definitions, "garden", "tables")]
    assert dg.materialize(garden).success


# A queued run would need a code location that it is from.
@pytest.mark.parametrize("status", [status for status in dg.DagsterRunStatus if status.value != "QUEUED"])
def test_a_schedule_waits_for_its_own_run_to_end(two: ProjectFiles, status: dg.DagsterRunStatus) -> None:
    """Trainings that take longer than the time between ticks do not queue up."""
    definitions = load(two)
    schedule = definitions.resolve_schedule_def("shop_retrain")

    def tick(instance: dg.DagsterInstance) -> Any:
        with dg.build_schedule_context(instance, repository_def=definitions.get_repository_def()) as context:
            return schedule.evaluate_tick(context)

    with dg.instance_for_test() as instance:
        # One that somebody asked for is no run of the schedule.
        instance.add_run(dg.DagsterRun(job_name="shop_retrain", status=dg.DagsterRunStatus.STARTED))
        (request,) = tick(instance).run_requests
        own = dg.DagsterRun(job_name="shop_retrain", status=status, tags=request.tags)
        instance.add_run(own)
        found = tick(instance)
    ended = status.value in ("SUCCESS", "FAILURE", "CANCELED")
    assert len(found.run_requests or []) == ended
    assert found.skip_message == (None if ended else f"run {own.run_id} of this schedule has not ended: {status.value}")


def test_a_schedule_of_an_experiment_that_is_gone_fails_in_words(
    two: ProjectFiles, caplog: pytest.LogCaptureFixture
) -> None:
    """An experiment's file that is renamed while trainings run ends none of them."""
    (two.project.configs / "shop" / "small.yaml").unlink()
    definitions = load(two)
    schedule = definitions.resolve_schedule_def("shop_retrain")
    wanted = "dataset.yaml: retrain.experiment: no experiment 'small'; there are ['large']"
    assert wanted in schedule.description
    assert wanted in caplog.text
    with dg.DagsterInstance.ephemeral() as instance:
        context = dg.build_schedule_context(instance, repository_def=definitions.get_repository_def())
        with pytest.raises(dg.DagsterError, match="evaluation of schedule") as caught:
            schedule.evaluate_tick(context)
    assert wanted in str(caught.value.__cause__)


def test_a_broken_experiment_costs_no_other_one(two: ProjectFiles, caplog: pytest.LogCaptureFixture) -> None:
    """Its partition stays, described by every problem of its file, which the log tells too."""
    path = two.yaml("shop", "wip", {"description": "x", "training": {"epochs": "many"}})
    before = set(assets_of(load(two), "shop")["report"].partitions_def.get_partition_keys())
    assert "wip" in before and len(before) > 1
    described = definition_of(load(two), "shop", "adapter").descriptions_by_key[dg.AssetKey(["shop", "adapter"])]
    assert "problems  \n  base_model" in described  # Markdown's line break
    for text in (described, caplog.text):
        for part in (str(path), "training.epochs", "base_model", "'many'"):
            assert part in text
    prompts = definition_of(load(two), "shop", "prompts")
    made = dg.materialize([prompts], partition_key="wip", raise_on_error=False)
    (failed,) = [e for e in made.all_events if e.event_type_value == "STEP_FAILURE"]
    assert "training.epochs" in str(failed.event_specific_data)


def test_what_is_misnamed_is_told_and_costs_nothing_else(two: ProjectFiles, caplog: pytest.LogCaptureFixture) -> None:
    """Such as the copy that a file manager makes."""
    two.dataset("shop copy")
    two.experiment("shop", "small copy", base=BASE)
    definitions = load(two)
    assert {spec.group_name for spec in definitions.resolve_all_asset_specs()} == {"shop", "garden"}
    adapter = assets_of(definitions, "shop")["adapter"]
    assert adapter.partitions_def.get_partition_keys() == ["large", "small"]
    assert "a dataset's folder name is letters, digits and _, a letter first; got 'shop copy'" in caplog.text
    for text in (adapter.description, caplog.text):
        assert "a file name is letters, digits, _ . and -, not ...; got 'small copy'" in text
    with pytest.raises(ConfigError, match="folder name is letters, digits and _, a letter first; got 'shop copy'"):
        two.project.dataset("shop copy")
    assert two.project.experiment("shop", "small").description  # as a run that goes on reads it


def test_a_dataset_without_targets_has_no_checks_for_them(project_files: ProjectFiles) -> None:
    project_files.dataset("aimless", targets={})
    project_files.dataset("exact", targets={"em": 0.9})
    for dataset in ("aimless", "exact"):
        project_files.experiment(dataset, "only", base=BASE)
    definitions = load(project_files)
    found = {
        dataset: {spec.name for spec in definition_of(definitions, dataset, "report").check_specs}
        for dataset in ("aimless", "exact")
    }
    assert found == {"aimless": {"latency_target"}, "exact": {"em_target", "latency_target"}}
