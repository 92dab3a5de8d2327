"""Batches of questions that share a schema: every question as if it were alone."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from t2s_assets.text2sql.config import TrainingConfig
from t2s_assets.text2sql.training import train
from t2s_assets.text2sql.training.shared_schemas import SharedSchemas, TokenCount, largest_row, order, shared_row
from t2s_assets_tests.projects import ProjectFiles
from t2s_assets_tests.trainable import add_experiment, add_towns, prepare

SCHEMAS = {"a": [5, 6, 7, 8], "b": [5, 9, 10, 11, 12], "c": [13]}
Example = dict[str, Any]


def examples(*tables: str) -> list[Example]:
    made = []
    for i, table in enumerate(tables):
        prompt, answer = [*SCHEMAS[table], 20 + i, 40 + i % 3], [60 + i, 61, 2][: 2 + i % 2]
        made.append({"input_ids": prompt + answer, "labels": [-100] * len(prompt) + answer, "table": table})
    return made


def joined(asked: list[Example], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The batch that a model takes."""
    collate = SharedSchemas(pad_token=0, dtype=dtype)
    return collate.with_mask(collate(asked))


def unshared(row: dict[str, list[int]]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Each question of a row with its schema in front: (tokens, labels)."""
    found = []
    for group, branch in sorted({(g, b) for g, b in zip(row["groups"], row["branches"]) if b}):
        mine = [i for i, gb in enumerate(zip(row["groups"], row["branches"])) if gb in ((group, 0), (group, branch))]
        assert [row["position_ids"][i] for i in mine] == list(range(len(mine)))
        found.append((tuple(row["input_ids"][i] for i in mine), tuple(row["labels"][i] for i in mine)))
    return found


@settings(max_examples=60, deadline=None)
@given(tables=st.lists(st.sampled_from("abc"), min_size=1, max_size=12))
def test_a_row_holds_its_examples(tables: list[str]) -> None:
    asked = examples(*tables)
    expected = Counter((tuple(e["input_ids"]), tuple(e["labels"])) for e in asked)
    assert Counter(unshared(shared_row(asked))) == expected


@settings(max_examples=60, deadline=None)
@given(tables=st.lists(st.sampled_from("abc"), min_size=1, max_size=12))
def test_tokens_are_counted_as_examples_are_added(tables: list[str]) -> None:
    asked, shared, plain = examples(*tables), TokenCount(share=True), TokenCount(share=False)
    for end, example in enumerate(asked, 1):
        assert shared.add(example) == len(shared_row(asked[:end])["input_ids"])
        assert plain.add(example) == sum(len(e["input_ids"]) for e in asked[:end])


@settings(max_examples=60, deadline=None)
@given(
    tables=st.lists(st.sampled_from("abcdef"), max_size=30),
    questions_a_table=st.integers(1, 9),
    seed=st.integers(0, 5),
)
def test_the_order_has_every_example_once_and_groups_them(tables: list[str], questions_a_table: int, seed: int) -> None:
    found = order(tables, questions_a_table=questions_a_table, seed=seed)
    assert sorted(found) == list(range(len(tables)))
    for table, count in Counter(tables).items():
        places = [i for i, index in enumerate(found) if tables[index] == table]
        runs = 1 + sum(b - a > 1 for a, b in itertools.pairwise(places))
        assert runs <= -(-count // questions_a_table)


def test_a_schema_stands_once_and_the_seed_mixes() -> None:
    assert shared_row(examples(*"aaaaaaaa"))["input_ids"].count(5) == 1
    assert shared_row(examples(*"abababab"))["input_ids"].count(5) == 2
    tables = list("abcd" * 5)
    assert order(tables, questions_a_table=2, seed=1) == order(tables, questions_a_table=2, seed=1)
    assert order(tables, questions_a_table=2, seed=1) != order(tables, questions_a_table=2, seed=2)


def test_a_question_sees_its_schema_and_itself() -> None:
    asked = examples("a", "a", "b")
    row = shared_row(asked)
    batch = joined(asked, torch.float32)
    visible = batch["attention_mask"][0, 0] == 0
    assert batch["input_ids"].shape[1] % 16 == 0
    for q, (group, branch) in enumerate(zip(row["groups"], row["branches"])):
        seen = {k for k in range(visible.shape[0]) if visible[q, k]}
        expected = enumerate(zip(row["groups"], row["branches"]))
        assert seen == {k for k, (g, b) in expected if k <= q and g == group and b in (0, branch)}


def test_a_batch_is_moved_without_its_mask() -> None:
    """It grows with the tokens, and the mask with their square."""
    asked = examples(*"aaaabbbbcccc")
    collate = SharedSchemas(pad_token=0, dtype=torch.bfloat16)
    batch = collate(asked)
    length = batch["input_ids"].shape[1]
    assert {n: tuple(v.shape) for n, v in batch.items()} == dict.fromkeys(batch, (1, length))
    assert sum(v.nbytes for v in batch.values()) == (3 * 8 + 2 * 2) * length
    made = collate.with_mask(batch)
    assert made["attention_mask"].dtype == torch.bfloat16
    assert set(made["attention_mask"].unique().tolist()) == {0.0, torch.finfo(torch.bfloat16).min}
    assert collate.with_mask(made).keys() == made.keys() == {*batch} - {"groups", "branches"} | {"attention_mask"}


def test_loss_and_gradients_are_those_of_the_examples_alone(tiny_base: Path) -> None:
    from transformers import AutoModelForCausalLM

    # Products in float64; RMSNorm stays in float32 inside.
    model = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float64, attn_implementation="sdpa")
    asked = examples(*"aabbaacb")

    def total(inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        labels = inputs.pop("labels")
        logits = model(**inputs, use_cache=False).logits
        return torch.nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100, reduction="sum"
        )

    shared = total(joined(asked, torch.float64))
    shared.backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    alone = sum(total({n: torch.tensor([e[n]]) for n in ("input_ids", "labels")}) for e in asked)
    assert isinstance(alone, torch.Tensor)
    alone.backward()
    assert shared.item() == pytest.approx(alone.item(), rel=1e-7)
    for name, p in model.named_parameters():
        if p.grad is not None:
            torch.testing.assert_close(gradients[name], p.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dropout", [0.0, 0.1], ids=["fused layers", "transformers' layers"])
def test_training_with_shared_schemas_learns_as_without(
    project_files: ProjectFiles, tiny_base: Path, dropout: float
) -> None:
    """The validation loss of one adapter, which hardly differs from none yet, is the same either way; trained either
    way, it falls."""
    lora = {"rank": 4, "alpha": 8, "dropout": dropout}
    ways = {
        "alone": {"group_by_length": False, "questions_a_table": 1},
        "shared": {"group_by_length": False, "questions_a_table": 4},
    }
    young = {"max_steps": 1, "learning_rate": 1e-12}
    grown = {"max_steps": 12, "learning_rate": 0.01}
    add_towns(project_files, tiny_base)
    found: dict[str, dict[str, Any]] = {}
    for way, order_ in ways.items():
        for age, steps in (("young", young), ("grown", grown)):
            name = f"{way}-{age}"
            add_experiment(project_files, tiny_base, name, batch_size=4, lora=lora, **order_, **steps)
            prepare(project_files, name)
            found[name] = train(project_files.project, "towns", name, log=[].append)
    losses = {name: made["validation_loss"] for name, made in found.items()}
    assert losses["shared-young"] == pytest.approx(losses["alone-young"], rel=1e-4)
    for way in ways:
        assert found[f"{way}-grown"]["examples_seen"] == 44  # two epochs, and two batches
        assert losses[f"{way}-grown"] < 0.9 * losses[f"{way}-young"]
    assert found["alone-grown"]["key"] != found["shared-grown"]["key"]


def test_the_largest_row_is_what_memory_is_planned_for() -> None:
    asked = examples(*"aaaabc")
    rows = [shared_row(asked[:4]), shared_row(asked[4:])]
    assert largest_row(asked, 4) == (
        max(len(r["input_ids"]) for r in rows),
        max(sum(x != -100 for x in r["labels"]) for r in rows),
    )
    assert largest_row(asked, 4)[0] < sum(len(e["input_ids"]) for e in asked[:4])


def test_it_cannot_be_joined_with_what_orders_examples_too() -> None:
    with pytest.raises(ValueError, match="set group_by_length: false"):
        TrainingConfig(epochs=1, questions_a_table=2, group_by_length=True)
