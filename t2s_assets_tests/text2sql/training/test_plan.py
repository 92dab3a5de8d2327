"""Plans: what they say, what they refuse, and the shipped experiments on the hardware that their files name."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from t2s_assets.text2sql import training
from t2s_assets.text2sql.base_models import Placement
from t2s_assets.text2sql.config import Experiment, TrainingConfig
from t2s_assets.text2sql.errors import ConfigError, ModelError, StorageError
from t2s_assets.text2sql.storage import Project
from t2s_assets.text2sql.training import plan
from t2s_assets.text2sql.training.cost import Memory, Shape
from t2s_assets_tests.projects import ProjectFiles
from t2s_assets_tests.trainable import add_experiment, add_towns, prepare

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
SMOLLM2 = Shape(49_152, 576, 1536, 30, 9, 3, 64, tied=True)
CPU = Placement("cpu", "float32", "sdpa", "none")


def shipped(name: str, **changes: Any) -> Experiment:
    config = Project(CONFIGS, CONFIGS).experiment("wikisql", name)
    sections = {n: getattr(config, n).model_copy(update=v) if isinstance(v, dict) else v for n, v in changes.items()}
    return config.model_copy(update=sections)


@pytest.mark.parametrize(
    ("name", "memory_gb", "least"), [("tinyllama", 24, 8), ("qwen-coder-1.5b", 24, 8), ("tinyllama-mps", 16, 3)]
)
def test_shipped_experiments_fit_the_hardware_they_name(name: str, memory_gb: float, least: float) -> None:
    """From shapes alone: neither weights nor the device are here."""
    config = shipped(name)
    made = plan.for_another_machine(config, plan.placement_elsewhere(config), memory_gb)
    assert made.memory is not None
    assert least < made.memory.gb < memory_gb
    assert made.described().startswith(f"plan: {config.hardware.device}, bfloat16")


def test_a_plan_for_another_machine_needs_its_device() -> None:
    config = shipped("tinyllama", hardware={"device": "auto"})
    with pytest.raises(ConfigError, match=r"hardware.device: auto is the device of this machine; .* cuda, mps or cpu"):
        plan.placement_elsewhere(config)


def test_what_does_not_fit_names_the_fields_that_make_it_fit() -> None:
    config = shipped("tinyllama", training={"batch_size": 64})
    with pytest.raises(ConfigError) as caught:
        plan.for_another_machine(config, plan.placement_elsewhere(config), 24)
    said = str(caught.value)
    assert "training.batch_size: 64 and prompt.max_length: 384 do not fit" in said
    fits = int(said.split("use training.batch_size: ")[1].split()[0])
    assert "training.gradient_checkpointing: true" in said
    for batch, ok in ((fits, True), (fits + 1, False)):
        changed = shipped("tinyllama", training={"batch_size": batch})
        try:
            plan.for_another_machine(changed, plan.placement_elsewhere(changed), 24)
            assert ok
        except ConfigError:
            assert not ok


def test_an_adapter_over_the_limit_names_a_rank_under_it() -> None:
    config = shipped("tinyllama", lora={"rank": 32})
    with pytest.raises(ConfigError, match=r"lora.rank: 32 makes an adapter of 101.0 MB; .* Use lora.rank: 31 or less"):
        plan.for_another_machine(config, plan.placement_elsewhere(config), 80)


def test_a_disk_too_small_for_checkpoints_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 10_000_000

    monkeypatch.setattr(plan.shutil, "disk_usage", lambda path: Usage)
    with pytest.raises(StorageError, match=r"checkpoints need 0.23 GB and 0.01 GB are free; .*keep_checkpoints"):
        plan.before_loading(
            shipped("smollm2-cpu"), SMOLLM2, CPU, longest=256, longest_completion=60, work=tmp_path / "x" / "y"
        )


@pytest.mark.parametrize(
    ("limit", "used", "cached"),
    [
        ("memory.max", "memory.current", ("inactive_file", "active_file")),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", ("total_inactive_file", "total_active_file")),
    ],
    ids=["version 2", "version 1"],
)
def test_a_container_has_what_its_limit_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, used: str, cached: tuple[str, str]
) -> None:
    """Of 8 MB, 5 are used, 2 of them by cached files."""
    monkeypatch.setattr(plan, "_CGROUP", tmp_path)
    (tmp_path / limit).parent.mkdir(exist_ok=True)
    (tmp_path / limit).write_text("8000000\n")
    (tmp_path / used).write_text("5000000\n")
    stat = (tmp_path / limit).parent / "memory.stat"
    stat.write_text(f"anon 3000000\n{cached[0]} 1500000\n{cached[1]} 500000\n")
    assert plan.available_memory_gb("cpu") == pytest.approx(0.005)
    (tmp_path / used).write_text("12000000\n")
    assert plan.available_memory_gb("cpu") == 0.0
    for unlimited in ("max\n", "9223372036854771712\n"):
        (tmp_path / limit).write_text(unlimited)
        assert plan.available_memory_gb("cpu") > 0.05


def test_another_family_of_models_is_trained_without_a_memory_plan(tmp_path: Path) -> None:
    """Pythia's config.json has all the fields of a Llama's."""
    from transformers import GPTNeoXConfig

    GPTNeoXConfig(vocab_size=600).save_pretrained(str(tmp_path))
    assert plan.shape_in(tmp_path) is None
    made = plan.before_loading(shipped("smollm2-cpu"), None, CPU, longest=9, longest_completion=3)
    assert "its memory is not told" in made.described()


def test_a_local_base_cannot_be_planned_elsewhere() -> None:
    with pytest.raises(ModelError, match="use source: hub"):
        plan.shape_without_weights(shipped("smollm2-cpu"))


def test_the_command_says_time_memory_device_and_size_and_trains_nothing(
    project_files: ProjectFiles, tiny_base: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    files = add_towns(project_files, tiny_base, max_steps=60, eval_steps=10, save_steps=10)
    prepare(files, "tiny")
    said: list[str] = []
    training.show_plan(files.project, "towns", "tiny", log=said.append)
    assert any(line.startswith("plan: cpu, float32; memory") and "adapter 0." in line for line in said), said
    assert any(line.startswith("plan: 60 steps of ") and "6 evaluations" in line for line in said), said
    assert not files.project.path("towns", "adapter", "tiny").exists()
    assert list(files.project.path("towns", "checkpoints", "tiny").glob("*/*")) == []


def test_a_plan_looks_for_room_where_checkpoints_will_be(
    project_files: ProjectFiles, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not where a plan, which writes none, has its temporary files."""
    files = add_towns(project_files, tiny_base)
    prepare(files, "tiny")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    full = temporary
    usage = SimpleNamespace(disk_usage=lambda path: SimpleNamespace(free=0 if path.is_relative_to(full) else 1e12))
    monkeypatch.setattr(plan, "shutil", usage)
    training.show_plan(files.project, "towns", "tiny", log=[].append)
    full = files.project.storage
    with pytest.raises(StorageError, match=f"^{re.escape(str(full))}.*: checkpoints need"):
        training.show_plan(files.project, "towns", "tiny", log=[].append)


def test_memory_is_planned_for_the_threads_that_train(
    project_files: ProjectFiles, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that torch has, not the machine's cores: a process may be bound to fewer, or told to use fewer."""
    import torch

    from t2s_assets.text2sql.training import trainer as trainers

    files = add_towns(project_files, tiny_base)
    prepare(files, "tiny")
    threads: list[int] = []
    planned, lanes = plan.before_loading, trainers.Lanes

    def before_loading(*args: Any, **kwargs: Any) -> plan.Plan:
        threads.append(kwargs["threads"])
        return planned(*args, **kwargs)

    def lanes_of(model: Any, count: int) -> Any:
        threads.append(count)
        return lanes(model, count)

    monkeypatch.setattr(plan, "before_loading", before_loading)
    monkeypatch.setattr(trainers, "Lanes", lanes_of)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        training.show_plan(files.project, "towns", "tiny", log=[].append)
    finally:
        torch.set_num_threads(before)
    assert threads == [3, 3]


def test_a_run_that_cannot_fit_is_refused_before_its_weights_are_loaded(
    project_files: ProjectFiles, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = add_towns(project_files, tiny_base)
    prepare(files, "tiny")
    monkeypatch.setattr(plan, "available_memory_gb", lambda device: 0.3)
    monkeypatch.setattr("t2s_assets.text2sql.base_models.load_model", lambda *a: pytest.fail("weights were loaded"))
    with pytest.raises(ConfigError, match=r"of 0.3 GB available .* do not fit"):
        training.train(files.project, "towns", "tiny", log=lambda line: None)
    add_experiment(files, tiny_base, "big", lora={"rank": 512, "alpha": 8})
    prepare(files, "big")
    add_towns(files, tiny_base, targets={"adapter_mb": 1.0})
    with pytest.raises(ConfigError, match=r"rank: 512 makes .*; the limit is 1 MB\. .* or raise .*targets"):
        training.train(files.project, "towns", "big", log=lambda line: None)


def test_adapter_and_checkpoints_of_any_family_are_counted_before_training(
    project_files: ProjectFiles, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted in the loaded model, as from shapes for the families that have them."""
    files = add_towns(project_files, tiny_base)
    prepare(files, "tiny")

    def refusal(error: type[Exception]) -> str:
        with pytest.raises(error) as refused:
            training.train(files.project, "towns", "tiny", log=lambda line: None)
        return str(refused.value)

    def counted(error: type[Exception]) -> str:
        told = refusal(error)
        with monkeypatch.context() as patch:
            patch.setattr(plan, "shape_in", lambda folder: None)
            assert refusal(error) == told
        return told

    with monkeypatch.context() as patch:
        patch.setattr(plan, "shutil", SimpleNamespace(disk_usage=lambda folder: SimpleNamespace(free=1e4)))
        assert "checkpoints need" in counted(StorageError)
    add_towns(files, tiny_base, targets={"adapter_mb": 0.001})
    assert "makes an adapter of" in counted(ConfigError)


@pytest.mark.parametrize(
    ("accumulation", "ranks", "an_epoch", "seen"),
    [
        (1, 1, 3, {0: 0, 1: 4, 2: 8, 3: 10, 4: 14, 7: 24}),
        (2, 1, 2, {1: 8, 2: 10, 3: 18, 4: 20}),
        (1, 2, 2, {1: 8, 2: 10, 3: 18}),
        (3, 2, 1, {1: 10, 5: 50}),
    ],
)
def test_the_last_step_of_an_epoch_sees_the_rows_that_are_left(
    accumulation: int, ranks: int, an_epoch: int, seen: dict[int, int]
) -> None:
    """Ten rows in batches of four."""
    rows = plan.Rows([5] * 10, examples=20)
    settings = TrainingConfig(epochs=1, batch_size=4, gradient_accumulation=accumulation)
    assert rows.steps_an_epoch(settings, ranks) == an_epoch
    assert {steps: rows.seen(steps, settings, ranks) for steps in seen} == seen
    assert (rows.examples_each, rows.tokens_each) == (2, 5)


def test_a_plan_tells_memory_in_gigabytes() -> None:
    parts = Memory(runtime=1e9, weights=2.5e9, adapter=0.0, activations=3.3e9, logits=0.6e9, unused=0.2e9)
    where = Placement("cuda", "bfloat16", "sdpa", "nf4")
    made = plan.Plan(where, parts, available_gb=80.0, adapter_mb=12.34)
    assert made.described() == (
        "plan: cuda, bfloat16, 4-bit NF4 base; memory 7.6 GB of 80.0 GB available (weights 2.5, activations 3.3, "
        "logits 0.6); adapter 12.3 MB"
    )
