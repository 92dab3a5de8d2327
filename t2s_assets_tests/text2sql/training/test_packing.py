"""Packed rows: what TRL makes of the examples, and that steps, figures and memory are those of the rows.

`training.packing` asks for flash_attention_2, which needs CUDA. Below the config's rules a CPU packs too: positions
that begin anew keep examples apart in sdpa.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from t2s_assets.text2sql import base_models
from t2s_assets.text2sql.base_models import Placement
from t2s_assets.text2sql.prompts import IGNORED
from t2s_assets.text2sql.training import cost, plan
from t2s_assets.text2sql.training.cost import Shape
from t2s_assets.text2sql.training.training_run import TrainingRun
from t2s_assets_tests.projects import ProjectFiles
from t2s_assets_tests.trainable import add_experiment

pytestmark = pytest.mark.usefixtures("one_thread")

EXAMPLES = 18
MAX_LENGTH = 256


@pytest.fixture
def packed_run(towns: ProjectFiles, tiny_base: Path, tmp_path: Path) -> Callable[..., tuple[TrainingRun, list[str]]]:
    """Makes a training run with packing on this CPU, and the list of what it says."""

    def make(*, packing: bool = True, **training: Any) -> tuple[TrainingRun, list[str]]:
        on_cpu = {"device": "cpu", "dtype": "float32"}
        add_experiment(towns, tiny_base, "tiny", hardware=on_cpu, prompt={"max_length": MAX_LENGTH}, **training)
        config = towns.project.experiment("towns", "tiny")
        packed = config.training.model_copy(update={"packing": packing})
        config = config.model_copy(update={"training": packed})
        base = base_models.fetch(config.base_model, towns.project)
        lines: list[str] = []
        where = base_models.place(config.hardware), "key", tmp_path / "work", lines.append
        return TrainingRun(towns.project, "towns", "tiny", config, base, *where), lines

    return make


def test_rows_hold_every_example_whole_and_none_is_longer_than_allowed(packed_run: Callable[..., Any]) -> None:
    run, _ = packed_run(batch_size=1)
    train_set = run._prepared(None)[0].train_dataset
    assert set(train_set.column_names) == {"input_ids", "labels", "seq_lengths"}
    assert len(train_set) < EXAMPLES / 2
    alone, _ = packed_run(batch_size=1, packing=False)
    wanted = Counter(tuple(ids) for ids in alone._prepared(None)[0].train_dataset["input_ids"])
    found: Counter[tuple[int, ...]] = Counter()
    for row in train_set:
        assert len(row["input_ids"]) == len(row["labels"]) == sum(row["seq_lengths"]) <= MAX_LENGTH
        at = 0
        for length in row["seq_lengths"]:
            found[tuple(row["input_ids"][at : at + length])] += 1
            at += length
    assert found == wanted


def test_a_packed_run_ends_with_an_adapter_and_the_figures_of_its_examples(
    packed_run: Callable[..., Any], towns: ProjectFiles
) -> None:
    run, lines = packed_run(max_steps=None, epochs=2, batch_size=2)
    manifest = run.train("version")
    rows = int(next(line for line in lines if "packed in" in line).split("packed in ")[1].split()[0])
    assert f"{EXAMPLES} examples packed in {rows} rows, {manifest['steps']} steps of 2" in "\n".join(lines)
    assert manifest["steps"] == 2 * -(-rows // 2)
    assert manifest["epochs"] == 2.0
    assert manifest["examples_seen"] == 2 * EXAMPLES
    tokens = sum(run._prepared(None)[0].train_dataset.map(lambda row: {"n": len(row["input_ids"])})["n"])
    a_second = manifest["tokens_a_second"] / manifest["examples_a_second"]
    assert a_second == pytest.approx(tokens / EXAMPLES, rel=0.01)
    assert (towns.project.path("towns", "adapter", "tiny") / "adapter_model.safetensors").is_file()


def test_steps_of_packed_rows_are_timed(packed_run: Callable[..., Any]) -> None:
    run, lines = packed_run(max_steps=60, batch_size=2)
    run.plan()
    assert [line for line in lines if line.startswith("plan: 60 steps of ")]


def test_packed_rows_have_the_loss_of_their_examples(packed_run: Callable[..., Any]) -> None:
    def loss(packing: bool) -> float:
        """Of a labelled token of the training set, before any step."""
        run, _ = packed_run(batch_size=2, packing=packing)
        trainer = run._prepared(None)[0]
        trainer.model.eval()
        total, count = 0.0, 0
        for batch in trainer.get_train_dataloader():
            labelled = int((batch["labels"] != IGNORED).sum())
            with torch.inference_mode():
                total += trainer.compute_loss(trainer.model, batch).item() * labelled
            count += labelled
        return total / count

    assert loss(True) == pytest.approx(loss(False), rel=1e-5)


def test_memory_is_planned_for_the_largest_packed_batch(
    packed_run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU. Rows may be full, and have more to learn than these, but the plan is no multiple of what they need."""
    planned: dict[str, Any] = {}
    real = plan.before_loading

    def before_loading(config: Any, shape: Shape, placement: Placement, **lengths: Any) -> plan.Plan:
        planned.update(config=config, shape=shape, **lengths)
        return real(config, shape, placement, **lengths)

    monkeypatch.setattr(plan, "before_loading", before_loading)
    run, _ = packed_run(batch_size=3)
    batches = list(run._prepared(None)[0].get_train_dataloader())
    tokens = max(batch["input_ids"].numel() for batch in batches)
    labelled = max(int((batch["labels"] != IGNORED).sum()) for batch in batches)
    assert tokens > 2 * MAX_LENGTH

    def memory(rows: int, longest: int, completion: int) -> cost.Memory:
        training = run.config.training.model_copy(update={"batch_size": rows})
        lengths = {"longest": longest, "longest_completion": completion, "threads": 1}
        gpu = Placement("cuda", "bfloat16", "flash_attention_2", "none")
        return cost.memory(planned["shape"], run.config.lora, training, gpu, **lengths)

    needed, told = memory(1, tokens, labelled), memory(3, planned["longest"], planned["longest_completion"])
    assert needed.activations <= told.activations < 1.5 * needed.activations
    assert needed.logits <= told.logits < 3 * needed.logits


def test_the_most_labels_of_a_row_are_as_dense_as_the_densest_examples() -> None:
    assert cost.most_labelled([100, 50], [20, 20], row=300) == 120
