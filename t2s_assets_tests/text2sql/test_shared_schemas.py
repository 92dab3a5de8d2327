"""Rows of questions that share a schema: every question as if it were alone."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from t2s_assets.text2sql.shared_schemas import collate, shared_rows

SCHEMAS = {"a": [5, 6, 7, 8], "b": [5, 9, 10, 11, 12], "c": [13]}


def examples(*tables: str) -> tuple[list[list[int]], list[list[int]], list[str]]:
    prompts = [[*SCHEMAS[t], 20 + i, 40 + i % 3] for i, t in enumerate(tables)]
    answers = [[60 + i, 61, 2][: 2 + i % 2] for i in range(len(tables))]
    return prompts, answers, list(tables)


def unshared(row: dict[str, list[int]]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Each question of a row with its schema in front: (tokens, labelled tokens)."""
    found = []
    keys = sorted({(g, b) for g, b in zip(row["groups"], row["branches"]) if b})
    for group, branch in keys:
        mine = [i for i, gb in enumerate(zip(row["groups"], row["branches"])) if gb in ((group, 0), (group, branch))]
        assert [row["position_ids"][i] for i in mine] == list(range(len(mine)))
        tokens = tuple(row["input_ids"][i] for i in mine)
        found.append((tokens, tuple(row["labels"][i] for i in mine if row["labels"][i] != -100)))
    return found


@settings(max_examples=60, deadline=None)
@given(
    tables=st.lists(st.sampled_from("abc"), min_size=1, max_size=23),
    examples_a_row=st.integers(1, 9),
    questions_a_table=st.integers(1, 9),
    seed=st.integers(0, 5),
)
def test_every_example_is_in_exactly_one_row(
    tables: list[str], examples_a_row: int, questions_a_table: int, seed: int
) -> None:
    prompts, answers, names = examples(*tables)
    rows = shared_rows(
        prompts, answers, names, examples_a_row=examples_a_row, questions_a_table=questions_a_table, seed=seed
    )
    found = Counter(pair for row in rows for pair in unshared(row))
    assert found == Counter((tuple(p + a), tuple(a)) for p, a in zip(prompts, answers))
    counts = [len(unshared(row)) for row in rows]
    assert counts[:-1] == [examples_a_row] * (len(rows) - 1) and 0 < counts[-1] <= examples_a_row
    for row in rows:
        questions = Counter(g for g, b in {(g, b) for g, b in zip(row["groups"], row["branches"]) if b})
        assert max(questions.values()) <= questions_a_table


def test_a_schema_stands_once_and_the_seed_mixes() -> None:
    prompts, answers, names = examples(*"a" * 8)
    share = lambda n, seed=1: shared_rows(  # noqa: E731
        prompts, answers, names, examples_a_row=8, questions_a_table=n, seed=seed
    )
    assert share(8)[0]["input_ids"].count(5) == 1
    assert share(4)[0]["input_ids"].count(5) == 2
    assert share(8) == share(8) != share(8, seed=2)


def test_a_question_sees_its_schema_and_itself() -> None:
    """Poisoned neighbours: whatever stands in other branches and tables changes no question's logits."""
    prompts, answers, names = examples("a", "a", "b")
    (row,) = shared_rows(prompts, answers, names, examples_a_row=3, questions_a_table=2, seed=0)
    batch = collate([row], pad_token=0, dtype=torch.float32)
    visible = batch["attention_mask"][0, 0] == 0
    assert batch["input_ids"].shape[1] % 16 == 0
    for q, (group, branch) in enumerate(zip(row["groups"], row["branches"])):
        seen = {k for k in range(visible.shape[0]) if visible[q, k]}
        assert seen == {
            k
            for k, (g, b) in enumerate(zip(row["groups"], row["branches"]))
            if k <= q and g == group and b in (0, branch)
        }


def test_loss_and_gradients_are_those_of_the_examples_alone(tiny_base: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32, attn_implementation="sdpa")
    prompts, answers, names = examples(*"aabbaacb")
    (row,) = shared_rows(prompts, answers, names, examples_a_row=8, questions_a_table=3, seed=3)

    def total(inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        labels = inputs.pop("labels")
        logits = model(**inputs, use_cache=False).logits
        return torch.nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100, reduction="sum"
        )

    shared = total(collate([row], pad_token=0, dtype=torch.float32))
    shared.backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    alone = sum(
        total({"input_ids": torch.tensor([p + a]), "labels": torch.tensor([[-100] * len(p) + a])})
        for p, a in zip(prompts, answers)
    )
    assert isinstance(alone, torch.Tensor)
    alone.backward()
    assert shared.item() == pytest.approx(alone.item(), rel=1e-5)
    for name, p in model.named_parameters():
        if p.grad is not None:
            torch.testing.assert_close(gradients[name], p.grad, rtol=1e-3, atol=1e-5)


def test_a_row_is_a_batch() -> None:
    prompts, answers, names = examples("a", "b")
    rows = shared_rows(prompts, answers, names, examples_a_row=1, questions_a_table=1, seed=0)
    with pytest.raises(ValueError, match="got 2"):
        collate(rows, pad_token=0, dtype=torch.float32)
