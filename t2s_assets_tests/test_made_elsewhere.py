"""The sensor on a project that the library made: what it reports, what Dagster then calls fresh, and what it leaves."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver
from dagster._core.loader import LoadingContextForTest

from t2s_assets import made_elsewhere
from t2s_assets.assets import shown
from t2s_assets.definitions import build_definitions
from t2s_assets.text2sql import prepare, prompt_datasets
from t2s_assets.text2sql.comparison.champion import choose_champion
from t2s_assets.text2sql.evaluation import predictions
from t2s_assets.text2sql.reports import report
from t2s_assets.text2sql.storage import Project
from t2s_assets_tests.projects import ProjectFiles, question
from t2s_assets_tests.test_definitions import HEAVY
from t2s_assets_tests.trainable import TOWNS, add_experiment, trained_towns

EXPERIMENT = "tiny"
OF_DATA = ("tables", "questions", "sql")
OF_EXPERIMENT = ("prompts", "adapter", "predictions", "report")
ASSETS = (*OF_DATA, *OF_EXPERIMENT, "champion")
EVERYTHING = {f"towns/{a}" + (f"/{EXPERIMENT}" if a in OF_EXPERIMENT else "") for a in ASSETS}
quiet: Callable[[str], None] = [].append


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, one_thread: None) -> ProjectFiles:
    """Everything of one experiment as `t2s run` makes it. Not to be changed."""
    files = trained_towns(tmp_path_factory.mktemp("elsewhere"), tiny_base)
    predictions.make_predictions(files.project, "towns", EXPERIMENT, quiet)
    report.make_report(files.project, "towns", EXPERIMENT, quiet)
    choose_champion(files.project, "towns", quiet)
    return files


@pytest.fixture
def files(made: ProjectFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ProjectFiles:
    """A copy of that, which counts as settled."""
    monkeypatch.setattr(made_elsewhere, "SETTLED_SECONDS", 0.0)
    root = tmp_path / "copy"
    copied = object.__new__(ProjectFiles)
    copied.root, copied.project = root, Project(root / "configs", root / "storage")
    shutil.copytree(made.project.configs, copied.project.configs)
    shutil.copytree(made.project.storage, copied.project.storage)
    return copied


class Dagster:
    """An instance with the definitions of a project, and the sensor that is ticked by hand."""

    def __init__(self, instance: dg.DagsterInstance, files: ProjectFiles) -> None:
        self.instance, self.files = instance, files
        self.cursor: str | None = None
        self.load()

    def load(self) -> None:
        """As *Reload definitions* does."""
        self.definitions = build_definitions(self.files.project)
        self.repository = self.definitions.get_repository_def()

    def tick(self) -> dict[str, set[str]]:
        """What one tick says that it did, by the addresses that it did it with."""
        context = dg.build_sensor_context(
            self.instance, cursor=self.cursor, definitions=self.definitions, resources=self.definitions.resources
        )
        done = self.repository.get_sensor_def("made_elsewhere").evaluate_tick(context)
        assert not done.run_requests and not done.asset_events
        self.cursor = done.cursor or self.cursor
        if done.skip_message == "everything in storage is shown":
            return {}
        parts = (part.split(": ", 1) for part in done.skip_message.split("; "))
        return {did: set(names.split(", ")) for did, names in parts}

    def run(self, *assets: str, partition: str = EXPERIMENT) -> dg.ExecuteInProcessResult:
        return self.repository.get_job("towns_retrain").execute_in_process(
            instance=self.instance,
            partition_key=partition,
            asset_selection=[dg.AssetKey(["towns", a]) for a in assets] or None,
            raise_on_error=False,
        )

    def unfinished_run(self, asset: str, partition: str = EXPERIMENT) -> dg.DagsterRun:
        """A run that has started and is to make an asset."""
        return self.instance.create_run_for_job(
            self.repository.get_job("towns_retrain"),
            asset_selection={dg.AssetKey(["towns", asset])},
            tags={"dagster/partition": partition},
            status=dg.DagsterRunStatus.STARTED,
        )

    def events(self, asset: str, partition: str | None = None) -> list[dg.AssetMaterialization]:
        """The materializations of an asset, the latest first."""
        wanted = dg.AssetRecordsFilter(
            dg.AssetKey(["towns", asset]), asset_partitions=[partition] if partition else None
        )
        return [r.asset_materialization for r in self.instance.fetch_materializations(wanted, limit=1000).records]

    def count(self) -> int:
        return sum(len(self.events(a)) for a in ASSETS)

    def staleness(self, experiment: str = EXPERIMENT) -> dict[str, str]:
        """What the page marks each asset with, by Dagster's own resolver."""
        resolver = CachingStaleStatusResolver(
            self.instance, self.repository.asset_graph, LoadingContextForTest(self.instance)
        )
        return {
            a: resolver.get_status(dg.AssetKey(["towns", a]), experiment if a in OF_EXPERIMENT else None).value
            for a in ASSETS
        }

    def stale(self, experiment: str = EXPERIMENT) -> set[str]:
        found = self.staleness(experiment)
        assert set(found.values()) <= {"FRESH", "STALE"}, found
        return {a for a, status in found.items() if status == "STALE"}

    def check(self, asset: str, name: str, partition: str | None = None) -> Any:
        """The latest evaluation of a check."""
        key = dg.AssetCheckKey(dg.AssetKey(["towns", asset]), name)
        found = self.instance.event_log_storage.get_asset_check_execution_history(key, limit=10)
        evaluations = [r.event.dagster_event.asset_check_evaluation_data for r in found]
        return next((e for e in evaluations if e.partition == partition), None)


@pytest.fixture
def dagster(files: ProjectFiles) -> Iterator[Dagster]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield Dagster(instance, files)


def folder(files: ProjectFiles, asset: str, experiment: str | None = EXPERIMENT) -> Path:
    return files.project.path("towns", asset, experiment if asset in OF_EXPERIMENT else None)


def manifest(files: ProjectFiles, asset: str, experiment: str = EXPERIMENT, **changed: Any) -> dict[str, Any]:
    """An asset's manifest, with facts replaced; None removes one."""
    path = folder(files, asset, experiment) / "manifest.json"
    facts = {k: v for k, v in (json.loads(path.read_text()) | changed).items() if v is not None}
    path.write_text(json.dumps(facts))
    return facts


# ------------------------------------------------------------------------------------------------- what it reports


def test_what_the_library_made_is_shown_as_dagster_s_own_and_fresh(dagster: Dagster, files: ProjectFiles) -> None:
    assert set(dagster.staleness().values()) == {"MISSING"}
    assert dagster.tick() == {"reported": EVERYTHING}
    assert dagster.stale() == set()
    elsewhere = {a: dagster.events(a)[0] for a in ASSETS}
    for asset, event in elsewhere.items():
        assert event.tags["dagster/data_version"] == manifest(files, asset)["data_version"]
        assert event.partition == (EXPERIMENT if asset in OF_EXPERIMENT else None)
        assert event.metadata["made_by"].value == made_elsewhere.MADE_BY
        on_disk = (folder(files, asset) / "manifest.json").stat().st_mtime
        assert event.metadata["on_disk_since"].value <= on_disk + 1

    done = dagster.run()
    assert done.success
    for made_here in (e.materialization for e in done.get_asset_materialization_events()):
        shown_before = elsewhere[made_here.asset_key.path[-1]]
        assert shown_before.metadata.keys() - made_here.metadata.keys() == {"made_by", "on_disk_since"}
        # The run measures anew, and its champion has one that served before.
        others = {"latency_p95_ms", "page", "before"}
        for name, value in made_here.metadata.items():
            assert shown_before.metadata[name] == value or name in others, name
        ours = {k: v for k, v in shown_before.tags.items() if "event_pointer" not in k}
        assert ours == {k: v for k, v in made_here.tags.items() if "event_pointer" not in k}
    assert dagster.stale() == set()
    assert dagster.tick() == {}


def test_what_follows_is_made_in_dagster_as_ever(dagster: Dagster, files: ProjectFiles) -> None:
    for asset in ("report", "champion"):
        shutil.rmtree(folder(files, asset, None))
    assert dagster.tick() == {"reported": EVERYTHING - {"towns/report/tiny", "towns/champion"}}
    done = dagster.run("report", "champion")
    assert done.success
    assert dagster.stale() == set()
    assert dagster.tick() == {}


def test_checks_that_need_no_more_are_of_that_materialization(dagster: Dagster, files: ProjectFiles) -> None:
    dagster.tick()
    found = {
        (asset, name): dagster.check(asset, name, partition)
        for asset, name, partition in (
            ("questions", "splits_disjoint", None),
            ("sql", "gold_runs", None),
            ("sql", "gold_matches_itself", None),
            ("prompts", "examples_sound", EXPERIMENT),
            ("adapter", "adapter_size", EXPERIMENT),
            ("report", "em_target", EXPERIMENT),
            ("report", "latency_target", EXPERIMENT),
        )
    }
    there = {"gold_runs", "adapter_size", "em_target", "latency_target"}
    assert {name for (_, name), check in found.items() if check is not None} == there
    assert found["sql", "gold_runs"].passed and found["adapter", "adapter_size"].passed
    assert not found["report", "em_target"].passed  # a random model
    assert found["report", "em_target"].metadata["n"].value == 6
    wanted = dg.AssetRecordsFilter(dg.AssetKey(["towns", "report"]))
    (record,) = dagster.instance.fetch_materializations(wanted, limit=5).records
    assert found["report", "em_target"].target_materialization_data.storage_id == record.storage_id


def test_nothing_is_told_twice(dagster: Dagster) -> None:
    dagster.tick()
    told = dagster.count()
    assert told == len(ASSETS)
    assert dagster.tick() == {}
    assert dagster.cursor
    assert dagster.tick() == {}
    dagster.cursor = None  # a sensor that was reset
    assert dagster.tick() == {}
    assert dagster.count() == told


def test_a_history_that_was_wiped_is_made_good(dagster: Dagster) -> None:
    dagster.tick(), dagster.tick()
    dagster.instance.wipe_assets([dg.AssetKey(["towns", "champion"]), dg.AssetKey(["towns", "adapter"])])
    of_the_adapter = {"towns/predictions/tiny", "towns/report/tiny"}  # which Dagster would call changed
    assert dagster.tick() == {"reported": {"towns/adapter/tiny", "towns/champion"} | of_the_adapter}
    assert dagster.stale() == set()


def test_what_is_gone_from_disk_keeps_its_history(dagster: Dagster, files: ProjectFiles) -> None:
    dagster.tick()
    shutil.rmtree(folder(files, "report"))
    assert dagster.tick() == {}
    assert len(dagster.events("report", EXPERIMENT)) == 1


def test_an_older_version_that_is_put_back_is_told_again(dagster: Dagster, files: ProjectFiles) -> None:
    """Without its check: Dagster keeps one result without a run for each check and partition."""
    dagster.tick()
    before = manifest(files, "adapter")["data_version"]
    manifest(files, "adapter", data_version="other")
    assert dagster.tick() == {"reported": {"towns/adapter/tiny"}}
    assert dagster.stale() == {"predictions", "report"}
    manifest(files, "adapter", data_version=before)
    assert dagster.tick() == {"reported": {"towns/adapter/tiny"}}
    assert dagster.stale() == set()


# ------------------------------------------------------------------------------------------------------ staleness


def changed_source(files: ProjectFiles) -> None:
    """One more training question about a table that has one more row."""
    tables, questions = TOWNS["train"]
    longer = [{**tables[0], "rows": [*tables[0]["rows"], ["Wels", "Traun", "62000"]]}, *tables[1:]]
    data = TOWNS | {"train": (longer, [*questions, question("austria", "Where is Wels?", 1, 0, [[0, 0, "Wels"]])])}
    files.dataset("towns", data, retrain={"experiment": EXPERIMENT, "cron": "30 2 * * 1"})


def test_new_tables_make_all_that_was_made_of_others_stale_step_by_step(dagster: Dagster, files: ProjectFiles) -> None:
    dagster.tick()
    changed_source(files)
    prepare.make_tables(files.project, "towns", quiet)
    assert dagster.tick() == {"reported": {"towns/tables"}}
    assert dagster.stale() == {"questions", "sql"}
    prepare.make_questions(files.project, "towns", quiet)
    prepare.make_sql(files.project, "towns", quiet)
    assert dagster.tick() == {"reported": {"towns/questions", "towns/sql"}}
    assert dagster.stale() == {"prompts", "predictions"}
    prompt_datasets.make_prompts(files.project, "towns", EXPERIMENT, quiet)
    assert dagster.tick() == {"reported": {"towns/prompts/tiny"}}
    assert dagster.stale() == {"adapter", "predictions"}


def test_what_was_made_of_older_inputs_is_stale_from_the_first_tick(dagster: Dagster, files: ProjectFiles) -> None:
    changed_source(files)
    prepare.make_tables(files.project, "towns", quiet)
    prepare.make_questions(files.project, "towns", quiet)
    prepare.make_sql(files.project, "towns", quiet)
    prompt_datasets.make_prompts(files.project, "towns", EXPERIMENT, quiet)
    assert dagster.tick() == {"reported": EVERYTHING}
    assert dagster.stale() == {"adapter", "predictions"}


def test_what_is_made_again_with_the_same_content_is_fresh_again(dagster: Dagster, files: ProjectFiles) -> None:
    """Another table, of which no question asks: questions and SQL stay, and are of the new tables."""
    dagster.tick()
    tables, questions = TOWNS["train"]
    unasked = {**tables[0], "id": "unasked"}
    files.dataset("towns", TOWNS | {"train": ([*tables, unasked], questions)}, retrain={"experiment": EXPERIMENT})
    prepare.make_tables(files.project, "towns", quiet)
    assert dagster.tick() == {"reported": {"towns/tables"}}
    assert {"questions", "sql"} <= dagster.stale()
    before = manifest(files, "questions")["data_version"]
    prepare.make_questions(files.project, "towns", quiet)
    assert manifest(files, "questions")["data_version"] == before
    assert dagster.tick() == {"reported": {"towns/questions"}}
    assert "questions" not in dagster.stale()
    assert dagster.events("questions")[0].metadata["made_by"].value == made_elsewhere.MADE_AGAIN
    assert dagster.tick() == {}


def copied(files: ProjectFiles, name: str, **of_predictions: Any) -> None:
    """A second experiment whose folders are those of the first one."""
    shutil.copy(files.project.configs / "towns/tiny.yaml", files.project.configs / f"towns/{name}.yaml")
    for asset in OF_EXPERIMENT:
        shutil.copytree(folder(files, asset), folder(files, asset, name))
    manifest(files, "predictions", name, **of_predictions)
    made_of = manifest(files, "report", name)["made_of"]
    version = manifest(files, "predictions", name)["data_version"]
    manifest(files, "report", name, made_of=made_of | {"predictions": version})


def test_a_champion_is_of_the_predictions_that_it_was_chosen_among(dagster: Dagster, files: ProjectFiles) -> None:
    dagster.tick()
    copied(files, "second", data_version="of the second")
    dagster.load()
    assert dagster.tick() == {"reported": {f"towns/{a}/second" for a in OF_EXPERIMENT}}
    assert dagster.stale("second") == {"champion"}
    before = manifest(files, "champion")["data_version"]
    choose_champion(files.project, "towns", quiet)
    assert manifest(files, "champion")["data_version"] == before  # the first one serves still
    assert dagster.tick() == {"reported": {"towns/champion"}}
    assert dagster.stale() == dagster.stale("second") == set()
    assert dagster.tick() == {}


def test_a_champion_older_than_some_predictions_is_stale_from_the_first_tick(
    dagster: Dagster, files: ProjectFiles
) -> None:
    copied(files, "second", data_version="of the second")
    dagster.load()
    dagster.tick()
    assert dagster.stale() == {"champion"}


@pytest.mark.parametrize("version", ["of then", "of another day"])
def test_an_adapter_that_came_before_its_prompts(dagster: Dagster, files: ProjectFiles, version: str) -> None:
    aside = files.root / "aside"
    for asset in ("prompts", "predictions", "report"):
        shutil.move(folder(files, asset), aside / asset)
    shutil.rmtree(folder(files, "champion"))
    manifest(files, "adapter", prompts_version="of then")
    dagster.tick()
    assert dagster.staleness()["adapter"] == "FRESH"
    shutil.move(aside / "prompts", folder(files, "prompts"))
    manifest(files, "prompts", data_version=version)
    again = {"towns/adapter/tiny"} if version == "of then" else set()
    assert dagster.tick() == {"reported": {"towns/prompts/tiny"} | again}
    assert dagster.staleness()["adapter"] == ("FRESH" if version == "of then" else "STALE")
    assert dagster.tick() == {}


def test_manifests_of_an_earlier_version_do_not_say_what_they_are_of(dagster: Dagster, files: ProjectFiles) -> None:
    for asset in ASSETS:
        manifest(files, asset, made_of=None)
    assert dagster.tick() == {"reported": EVERYTHING}
    assert dagster.stale() == set()
    assert dagster.tick() == {}


# --------------------------------------------------------------------------------------------------- Dagster's runs


def test_what_a_run_is_to_make_is_left_to_it(dagster: Dagster) -> None:
    run = dagster.unfinished_run("adapter")
    follows = {"towns/adapter/tiny", "towns/predictions/tiny", "towns/report/tiny", "towns/champion"}
    assert dagster.tick() == {"reported": EVERYTHING - follows, "waiting": follows}
    assert dagster.events("adapter") == []
    assert dagster.tick() == {"waiting": follows}
    dagster.instance.report_run_failed(run)
    assert dagster.tick() == {"reported": follows}
    assert dagster.stale() == set()


def test_a_run_of_another_experiment_holds_nothing_up(dagster: Dagster, files: ProjectFiles) -> None:
    add_experiment(files, Path("no model is loaded"), "other")
    dagster.load()
    dagster.unfinished_run("adapter", "other")
    assert dagster.tick() == {"reported": EVERYTHING}


def test_a_run_that_was_killed_holds_nothing_up_for_ever(dagster: Dagster, monkeypatch: pytest.MonkeyPatch) -> None:
    dagster.unfinished_run("adapter")
    monkeypatch.setattr(made_elsewhere, "SILENT_SECONDS", -1.0)
    assert dagster.tick() == {"reported": EVERYTHING}


def test_between_a_run_s_writing_and_its_event_nothing_is_told(
    dagster: Dagster, files: ProjectFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed_source(files)
    ticks, read = [], shown.metadata

    def metadata(asset: str, *args: Any) -> dict[str, Any]:
        if not ticks:  # the tick reads metadata of what it reports too
            ticks.append(None)
            ticks[0] = dagster.tick()
        return read(asset, *args)

    monkeypatch.setattr(shown, "metadata", metadata)
    assert dagster.run("tables").success
    assert "towns/tables" in ticks[0]["waiting"]
    assert "towns/questions" in ticks[0]["waiting"]  # they come after their inputs
    assert len(dagster.events("tables")) == 1
    monkeypatch.undo()
    monkeypatch.setattr(made_elsewhere, "SETTLED_SECONDS", 0.0)
    assert dagster.tick() == {"reported": EVERYTHING - {"towns/tables"}}
    assert "made_by" not in dagster.events("tables")[0].metadata


# ------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"data_version": 3}', '{"data_version": "1"}', '{"data_version": "1", "made_of": 7}']
)
def test_a_broken_manifest_costs_no_other_one(
    dagster: Dagster, files: ProjectFiles, capfd: pytest.CaptureFixture[str], text: str
) -> None:
    path = folder(files, "adapter") / "manifest.json"
    right = path.read_text()
    path.write_text(text)
    assert dagster.tick() == {"reported": EVERYTHING - {"towns/adapter/tiny"}, "not shown": {"towns/adapter/tiny"}}
    assert dagster.tick() == {"not shown": {"towns/adapter/tiny"}}
    assert "towns/adapter/tiny is not shown: " in capfd.readouterr().err
    path.write_text(right)
    assert dagster.tick()["reported"] >= {"towns/adapter/tiny"}
    assert dagster.stale() == set()


@pytest.mark.parametrize(
    ("asset", "file"),
    [("adapter", "loss.png"), ("report", "report.json"), ("report", "latency.png"), ("champion", "champion.json")],
)
def test_a_folder_that_lacks_something_waits_for_it(
    dagster: Dagster, files: ProjectFiles, asset: str, file: str
) -> None:
    path = folder(files, asset) / file
    content = path.read_bytes()
    path.unlink()
    name = f"towns/{asset}" + ("/tiny" if asset in OF_EXPERIMENT else "")
    assert dagster.tick() == {"reported": EVERYTHING - {name}, "not shown": {name}}
    path.write_bytes(content)
    assert name in dagster.tick()["reported"]
    assert dagster.stale() == set()


def test_a_folder_that_is_being_copied_waits(
    dagster: Dagster, files: ProjectFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(made_elsewhere, "SETTLED_SECONDS", 3600.0)
    for path in files.project.storage.rglob("*"):  # as `cp -a` leaves them
        os.utime(path, (1e9, 1e9))
    assert dagster.tick() == {"waiting": EVERYTHING}
    assert dagster.count() == 0
    monkeypatch.setattr(made_elsewhere, "SETTLED_SECONDS", 0.0)
    assert dagster.tick() == {"reported": EVERYTHING}


def test_a_report_on_other_targets_is_shown_without_checks(dagster: Dagster, files: ProjectFiles) -> None:
    files.dataset("towns", TOWNS, retrain={"experiment": EXPERIMENT}, targets={"em": 0.9})
    dagster.load()
    assert dagster.tick() == {"reported": EVERYTHING}
    assert dagster.check("report", "em_target", EXPERIMENT) is None
    assert dagster.check("adapter", "adapter_size", EXPERIMENT).passed


def test_an_experiment_that_is_not_loaded_is_shown_once_it_is(dagster: Dagster, files: ProjectFiles) -> None:
    dagster.tick()
    copied(files, "second")
    assert dagster.tick() == {}
    dagster.load()
    assert "towns/adapter/second" in dagster.tick()["reported"]


def test_configs_that_cannot_be_read_meanwhile_stop_nothing(dagster: Dagster, files: ProjectFiles) -> None:
    for name in ("dataset", EXPERIMENT):
        (files.project.configs / "towns" / f"{name}.yaml").write_text("{")
    assert dagster.tick() == {"reported": EVERYTHING}


def test_what_takes_too_long_is_left_to_the_next_tick(dagster: Dagster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(made_elsewhere, "TICK_SECONDS", -1.0)
    assert dagster.tick() == {"waiting": EVERYTHING}
    monkeypatch.undo()
    monkeypatch.setattr(made_elsewhere, "SETTLED_SECONDS", 0.0)
    assert dagster.tick() == {"reported": EVERYTHING}


def test_a_tick_imports_no_model_library(files: ProjectFiles, tmp_path: Path) -> None:
    code = (
        "import sys, dagster as dg; from t2s_assets import made_elsewhere; from t2s_assets.definitions import defs\n"
        "made_elsewhere.SETTLED_SECONDS = 0\n"
        f"with dg.DagsterInstance.local_temp({str(tmp_path)!r}) as instance:\n"
        "    context = dg.build_sensor_context(instance, definitions=defs, resources=defs.resources)\n"
        "    done = defs.get_repository_def().get_sensor_def('made_elsewhere').evaluate_tick(context)\n"
        f"print(done.skip_message); print(sorted(set({HEAVY!r}) & set(sys.modules)))"
    )
    folders = {"T2S_CONFIGS": str(files.project.configs), "T2S_STORAGE": str(files.project.storage)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, env={**os.environ, **folders}
    )
    assert done.returncode == 0, done.stderr
    said, heavy = done.stdout.splitlines()[-2:]
    assert "towns/report/tiny" in said
    assert heavy == "[]"


def test_it_is_on_and_asks_for_no_run(dagster: Dagster) -> None:
    sensor = dagster.repository.get_sensor_def("made_elsewhere")
    assert sensor.default_status == dg.DefaultSensorStatus.RUNNING
    assert sensor.minimum_interval_seconds == 30
