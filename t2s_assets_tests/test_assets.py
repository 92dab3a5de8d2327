"""The assets themselves, in this process: what they record, what they repeat, and what stops them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import AutoTokenizer

from t2s_assets.assets import shown
from t2s_assets.definitions import build_definitions
from t2s_assets.text2sql.comparison.champion import CHAMPION
from t2s_assets.text2sql.prompts import encode_example
from t2s_assets.text2sql.reports.presentation import PLOTS
from t2s_assets.text2sql.storage import read_json, write_json
from t2s_assets.text2sql.training import guards
from t2s_assets_tests.projects import ProjectFiles, question
from t2s_assets_tests.trainable import TOWNS, add_experiment, add_towns

ASSETS = ("tables", "questions", "sql", "prompts", "adapter", "predictions", "report", "champion")
CHECKS = {
    "splits_disjoint",
    "gold_runs",
    "gold_matches_itself",
    "examples_sound",
    "adapter_size",
    "em_target",
    "ex_target",
    "latency_target",
}


@dataclass
class Run:
    """One run of a group's job, with what it logged."""

    result: dg.ExecuteInProcessResult
    said: list[str]

    @property
    def materializations(self) -> dict[str, dg.AssetMaterialization]:
        events = self.result.get_asset_materialization_events()
        return {e.asset_key.path[-1]: e.materialization for e in events}

    @property
    def checks(self) -> dict[str, Any]:
        return {c.check_name: c for c in self.result.get_asset_check_evaluations()}

    def value(self, asset: str, name: str) -> Any:
        return self.materializations[asset].metadata[name].value

    @property
    def failure(self) -> str:
        """The error of the step that failed, with its causes."""
        (event,) = [e for e in self.result.all_events if e.event_type_value == "STEP_FAILURE"]
        return event.event_specific_data.error.to_string()


def run(files: ProjectFiles, instance: dg.DagsterInstance, *assets: str, partition: str = "tiny") -> Run:
    job = build_definitions(files.project).resolve_job_def("towns_retrain")
    result = job.execute_in_process(
        instance=instance,
        partition_key=partition,
        asset_selection=[dg.AssetKey(["towns", a]) for a in assets] or None,
        raise_on_error=False,
    )
    return Run(result, [e.user_message for e in instance.all_logs(result.run_id)])


@pytest.fixture(scope="module")
def stored() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture(scope="module")
def towns(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> ProjectFiles:
    return add_towns(ProjectFiles(tmp_path_factory.mktemp("assets")), tiny_base)


@pytest.fixture(scope="module")
def chain(towns: ProjectFiles, stored: dg.DagsterInstance) -> Run:
    """The whole group for one experiment, training among it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        return run(towns, stored)


def test_every_asset_is_made_with_its_version(chain: Run, towns: ProjectFiles) -> None:
    assert chain.result.success
    assert set(chain.materializations) == set(ASSETS)
    for name, materialization in chain.materializations.items():
        folder = Path(materialization.metadata["path"].value)
        manifest = read_json(folder / "manifest.json", made_by="")
        assert materialization.tags["dagster/data_version"] == manifest["data_version"], name
        assert folder.is_relative_to(towns.project.storage / "towns" / name)
        assert materialization.partition == ("tiny" if folder.name == "tiny" else None)


def test_what_was_counted_is_shown(chain: Run) -> None:
    assert {
        n: chain.value(n, "dagster/row_count") for n in ("tables", "questions", "sql", "prompts", "predictions")
    } == {
        "tables": 5,
        "questions": 30,
        "sql": 30,
        "prompts": 30,
        "predictions": 12,
    }
    for name, columns in (
        ("tables", ["id", "split", "header", "columns", "types", "rows"]),
        ("questions", ["id", "split", "table_id", "question", "query"]),
        ("prompts", ["id", "table_id", "prompt", "completion", "prompt_tokens", "completion_tokens"]),
    ):
        schema = chain.value(name, "dagster/column_schema")
        assert [c.name for c in schema.columns] == columns
    assert chain.value("sql", "gold_that_does_not_run") == 0
    assert chain.value("sql", "category_aggregation") == 10
    assert chain.value("prompts", "train_tokens_max") >= chain.value("prompts", "train_tokens_mean") > 0
    assert chain.value("predictions", "test_questions") == chain.value("predictions", "test_of") == 6


def test_figures_of_training_and_report_are_numbers(chain: Run) -> None:
    for name in ("train_loss", "validation_loss", "tokens_a_second", "peak_memory_gb", "trainable_share", "adapter_mb"):
        assert isinstance(chain.value("adapter", name), float), name
    assert chain.value("adapter", "steps") == 4
    assert "torch" in chain.value("adapter", "versions")
    for name in ("em", "ex", "validity", "latency_p95_ms"):
        assert isinstance(chain.value("report", name), float), name
    assert (chain.value("report", "n"), chain.value("report", "of")) == (6, 6)
    assert chain.value("champion", "experiment") == "tiny"
    (candidate,) = chain.value("champion", "candidates").records
    assert (candidate.data["experiment"], candidate.data["n"]) == ("tiny", 6)
    assert candidate.data["ex"] == pytest.approx(chain.value("champion", "validation_ex"), abs=1e-4)


def test_how_a_champion_was_chosen_is_shown_in_tables(tmp_path: Path) -> None:
    content = {
        "experiment": "b",
        "before": "a",
        "validation_ex": {
            "b": {"value": 2 / 3, "low": 0.20765, "high": 0.938, "n": 3},
            "a": {"value": None, "low": 0.0, "high": 1.0, "n": 0},
        },
        "comparisons": [{"won": 9, "lost": 1, "n": 12, "p": 0.021484375, "champion": "a", "challenger": "b"}],
        "left_out": ["c", "d"],
        "rule": "the better one",
    }
    write_json(tmp_path / CHAMPION, content)
    found = shown.metadata("champion", tmp_path, {"experiment": "b", "adapter_version": "v"})
    assert [record.data for record in found["candidates"].records] == [
        {"experiment": "b", "ex": 0.6667, "interval_95": "0.2077-0.9380", "n": 3},
        {"experiment": "a", "ex": None, "interval_95": "", "n": 0},
    ]
    assert [record.data for record in found["comparisons"].records] == [
        {"challenger": "b", "champion": "a", "won": 9, "lost": 1, "n": 12, "p": 0.02148}
    ]
    assert {name: found[name] for name in ("before", "left_out", "rule", "validation_ex", "adapter_version")} == {
        "before": "a",
        "left_out": "c, d",
        "rule": "the better one",
        "validation_ex": 2 / 3,
        "adapter_version": "v",
    }
    write_json(tmp_path / CHAMPION, content | {"before": None, "left_out": [], "validation_ex": {}})
    bare = shown.metadata("champion", tmp_path, {"experiment": "b", "adapter_version": "v"})
    assert (bare["before"], bare["left_out"], "validation_ex" in bare) == ("none", "none", False)


def test_pages_and_pictures_are_inside(chain: Run) -> None:
    assert chain.value("adapter", "loss_curve").startswith("![loss](data:image/png;base64,")
    page = chain.value("report", "page")
    assert page.startswith("# towns/tiny")
    assert page.count("data:image/png;base64,") == len(PLOTS)
    assert len(chain.materializations["predictions"].metadata["first"].records) == 12
    example = chain.value("prompts", "example")
    assert "Which river does Linz lie on?" in example and 'SELECT "River" FROM t WHERE "Town" = \'Linz\'' in example


def test_progress_of_training_is_in_the_log(chain: Run) -> None:
    for wanted in ("tiny on cpu, float32", "4 steps of 4", "step 2/4  validation loss", "adapter of"):
        assert [line for line in chain.said if wanted in line], wanted


def test_checks_are_recorded_with_their_severity(chain: Run) -> None:
    assert set(chain.checks) == CHECKS
    blocking = {"splits_disjoint", "gold_runs", "gold_matches_itself", "examples_sound"}
    for name, check in chain.checks.items():
        wanted = dg.AssetCheckSeverity.ERROR if name in blocking else dg.AssetCheckSeverity.WARN
        assert check.severity == wanted, name
    assert all(chain.checks[name].passed for name in blocking | {"adapter_size"})
    report = chain.checks["em_target"]
    assert (report.metadata["n"].value, report.metadata["of"].value) == (6, 6)
    # A random model trained for four steps misses the target: the check warns, the run went on.
    assert not report.passed


def test_again_nothing_is_trained_and_no_version_changes(
    chain: Run, towns: ProjectFiles, stored: dg.DagsterInstance
) -> None:
    adapter = towns.project.path("towns", "adapter", "tiny") / "adapter_model.safetensors"
    written = adapter.stat().st_mtime_ns
    again = run(towns, stored)
    assert again.result.success
    assert adapter.stat().st_mtime_ns == written
    assert [line for line in again.said if "already trained" in line]
    assert [line for line in again.said if "adapter: all 12 answers are there already" in line]
    versions = [{n: m.tags["dagster/data_version"] for n, m in r.materializations.items()} for r in (chain, again)]
    assert versions[0] == versions[1]


# ------------------------------------------------------------------------------------------------- what stops it


@pytest.fixture
def fresh(project_files: ProjectFiles, tiny_base: Path) -> ProjectFiles:
    """A project of its own, to be spoilt."""
    return add_towns(project_files, tiny_base)


@pytest.fixture
def instance_of_test() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def test_a_table_in_two_splits_is_refused_when_read(fresh: ProjectFiles, instance_of_test: dg.DagsterInstance) -> None:
    tables, questions = TOWNS["dev"]
    leaked = TOWNS["train"][0][0]
    fresh.dataset("towns", TOWNS | {"dev": ([*tables, leaked], questions)}, retrain={"experiment": "tiny"})
    done = run(fresh, instance_of_test)
    assert not done.result.success
    assert done.materializations == {}
    assert "data/dev.tables.jsonl:2: table 'austria' was given before, in train" in done.failure


def test_a_leak_stops_everything_after_the_questions(fresh: ProjectFiles, instance_of_test: dg.DagsterInstance) -> None:
    """A reader that let one through: validation asks about a training table."""
    assert run(fresh, instance_of_test, "tables").result.success
    path = fresh.project.path("towns", "tables") / "source_questions.parquet"
    rows = pq.read_table(path)
    split = ["validation" if i == "train-1" else s for i, s in zip(rows["id"].to_pylist(), rows["split"].to_pylist())]
    pq.write_table(rows.set_column(rows.schema.get_field_index("split"), "split", pa.array(split)), path)
    done = run(fresh, instance_of_test, "questions", "sql", "prompts")
    assert not done.result.success
    assert set(done.materializations) == {"questions"}
    check = done.checks["splits_disjoint"]
    assert not check.passed
    assert (check.metadata["tables_in_two_splits"].value, check.metadata["first"].value) == (1, "austria")


def test_twins_under_two_names_are_counted(fresh: ProjectFiles, instance_of_test: dg.DagsterInstance) -> None:
    tables, questions = TOWNS["dev"]
    twin = TOWNS["train"][0][0] | {"id": "austria again"}
    fresh.dataset("towns", TOWNS | {"dev": ([*tables, twin], questions)}, retrain={"experiment": "tiny"})
    done = run(fresh, instance_of_test, "tables", "questions")
    assert done.result.success
    assert done.checks["splits_disjoint"].metadata["same_content"].value == 1


def with_broken_gold(copies: int) -> dict[str, Any]:
    """TOWNS with one training question that adds up text, and `copies` more that are sound."""
    tables, questions = TOWNS["train"]
    sound = [question("austria", f"Name all the towns, {i} times", 0) for i in range(copies)]
    return TOWNS | {"train": (tables, [*questions, *sound, question("austria", "What do the towns add up to?", 0, 4)])}


def test_gold_that_does_not_run_is_counted_listed_and_kept(
    fresh: ProjectFiles, instance_of_test: dg.DagsterInstance
) -> None:
    fresh.dataset("towns", with_broken_gold(90), retrain={"experiment": "tiny"})
    done = run(fresh, instance_of_test, "tables", "questions", "sql")
    assert done.result.success
    assert done.checks["gold_runs"].passed
    assert done.checks["gold_runs"].metadata["failed_train"].value == 1
    assert done.value("sql", "gold_that_does_not_run") == 1
    assert done.value("sql", "dagster/row_count") == 30 + 91
    (failure,) = done.materializations["sql"].metadata["failures"].records
    assert "SUM" in failure.data["sql"]
    assert failure.data["message"]


def test_much_gold_that_does_not_run_blocks(fresh: ProjectFiles, instance_of_test: dg.DagsterInstance) -> None:
    fresh.dataset("towns", with_broken_gold(0), retrain={"experiment": "tiny"})
    done = run(fresh, instance_of_test, "tables", "questions", "sql", "prompts")
    assert not done.result.success
    assert not done.checks["gold_runs"].passed
    assert "1 of 19 in train" in done.checks["gold_runs"].description
    assert set(done.materializations) == {"tables", "questions", "sql"}


def blocked_by_examples(files: ProjectFiles, instance: dg.DagsterInstance) -> dict[str, Any]:
    """What the check of the prompts found, in a run that was to train too and ends with them."""
    done = run(files, instance, "tables", "questions", "sql", "prompts", "adapter")
    assert not done.result.success
    assert set(done.materializations) == {"tables", "questions", "sql", "prompts"}
    assert not files.project.path("towns", "adapter", "tiny").exists()
    check = done.checks["examples_sound"]
    assert not check.passed
    return {name: found.value for name, found in check.metadata.items()}


def test_an_example_that_ends_twice_is_not_trained_on(
    fresh: ProjectFiles, instance_of_test: dg.DagsterInstance
) -> None:
    """One question's value holds the text of the token that ends SQL."""
    tables, questions = TOWNS["train"]
    poison = question("austria", "How many people live in <|end|>?", 2, 0, [[0, 0, "<|end|>"]])
    fresh.dataset("towns", TOWNS | {"train": (tables, [*questions, poison])}, retrain={"experiment": "tiny"})
    assert blocked_by_examples(fresh, instance_of_test)["EOS inside the completion"] == 1


def test_examples_that_do_not_end_are_not_trained_on(
    fresh: ProjectFiles, instance_of_test: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    def endless(*args: Any) -> dict[str, list[int]]:
        return {n: ids[:-1] for n, ids in encode_example(*args).items()}

    monkeypatch.setattr(guards, "encode_example", endless)
    assert blocked_by_examples(fresh, instance_of_test)["EOS not learnt at the end"] == 18


def test_tokens_that_would_need_new_embeddings_are_not_trained_on(
    fresh: ProjectFiles, instance_of_test: dg.DagsterInstance, tiny_base: Path
) -> None:
    base = shutil.copytree(tiny_base, fresh.root / "base")
    tokenizer = AutoTokenizer.from_pretrained(str(base))
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|sql|>", "<|table|>"]})
    tokenizer.save_pretrained(str(base))
    add_experiment(fresh, base, "tiny")
    found = blocked_by_examples(fresh, instance_of_test)
    assert found["tokens without an embedding in the base model"] == 2


def test_a_source_that_is_gone_leaves_what_was_there(fresh: ProjectFiles, instance_of_test: dg.DagsterInstance) -> None:
    assert run(fresh, instance_of_test, "tables").result.success
    manifest = fresh.project.path("towns", "tables") / "manifest.json"
    before = manifest.read_bytes()
    gone = {"kind": "local", "path": str(fresh.root / "gone.tar.bz2")}
    fresh.yaml("towns", "dataset", {"description": "x", "source": gone, "retrain": {"experiment": "tiny"}})
    done = run(fresh, instance_of_test, "tables")
    assert not done.result.success
    assert "gone.tar.bz2: no such file or folder" in done.failure
    assert manifest.read_bytes() == before
