"""What is refused before the clock starts: each rule with an example that breaks it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from t2s_assets.text2sql.errors import DataError, ModelError
from t2s_assets.text2sql.plain_text import encode
from t2s_assets.text2sql.prompts import encode_example
from t2s_assets.text2sql.storage import Project, write_manifest
from t2s_assets.text2sql.training import guards
from t2s_assets_tests.tiny import tiny_model, tiny_tokenizer

ROW = {"prompt": 't("Year" real)\nQuestion: when?\nSQL:\n', "completion": 'SELECT "Year" FROM t'}
EOS = "EOS not learnt at the end"


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tiny_tokenizer()


def example(tokenizer: Any, **row: str) -> dict[str, list[int]]:
    prompt, completion = encode(tokenizer, [(ROW | row)["prompt"], (ROW | row)["completion"]])
    return encode_example(prompt, completion, tokenizer.eos_token_id)


def without_eos(e: dict[str, list[int]]) -> dict[str, list[int]]:
    return {n: ids[:-1] for n, ids in e.items()}


def nothing_learnt(e: dict[str, list[int]]) -> dict[str, list[int]]:
    return e | {"labels": [guards.IGNORED] * len(e["labels"])}


def learns_another_token(e: dict[str, list[int]]) -> dict[str, list[int]]:
    labels = list(e["labels"])
    labels[-2] += 1
    return e | {"labels": labels}


def learns_the_prompt(e: dict[str, list[int]]) -> dict[str, list[int]]:
    return e | {"labels": list(e["input_ids"])}


def eos_twice(e: dict[str, list[int]]) -> dict[str, list[int]]:
    return {n: [*ids, ids[-1]] for n, ids in e.items()}


def test_sound_examples_pass(tokenizer: Any) -> None:
    awkward = ROW | {"completion": """SELECT "O'Brien's  (%)" FROM t WHERE "x" = ' a  b ,c' AND "é" = '日本'"""}
    examples = [example(tokenizer), example(tokenizer, **awkward)]
    assert guards.example_problems(examples, [ROW, awkward], tokenizer, max_length=200) == {}


UNLIKE = "label tokens that do not decode to the gold SQL"


@pytest.mark.parametrize(
    ("spoil", "problems"),
    [
        (without_eos, {EOS}),
        (nothing_learnt, {"no token to learn within max_length"}),
        (learns_another_token, {"labels that are not the input's tokens", UNLIKE}),
        (learns_the_prompt, {UNLIKE}),
        (eos_twice, {"EOS inside the completion", UNLIKE}),
    ],
)
def test_a_spoilt_example_is_named(tokenizer: Any, spoil: Callable[..., Any], problems: set[str]) -> None:
    good = example(tokenizer)
    found = guards.example_problems([good, spoil(good)], [ROW, ROW], tokenizer, max_length=200)
    assert found == dict.fromkeys(problems, 1)
    with pytest.raises(DataError, match=r"train examples would spoil training .*: 1.*; prepare again"):
        guards.refuse(found, what="train examples", way_out="prepare again")


def test_truncation_that_takes_the_completion_or_its_end_is_found(tokenizer: Any) -> None:
    whole = example(tokenizer)
    prompt = whole["labels"].count(guards.IGNORED)
    find = lambda limit: guards.example_problems([whole], [ROW], tokenizer, max_length=limit)  # noqa: E731
    assert find(len(whole["labels"])) == {}
    assert find(prompt) == {"no token to learn within max_length": 1}
    assert find(prompt + 2)[EOS] == 1


def test_a_test_table_in_training_is_found() -> None:
    apart = {"train": ["a", "b"], "validation": ["c"], "test": ["d"]}
    assert guards.split_problems(apart) == {}
    assert guards.split_problems(apart | {"test": ["d", "b", "b"]}) == {"test tables in the training set": 1}
    assert guards.split_problems(apart | {"validation": ["a"]}) == {"validation tables in the training set": 1}


def test_data_of_ones_own_may_share_tables(tokenizer: Any, tmp_path: Path) -> None:
    from datasets import Dataset

    rows = [ROW | {"table_id": "a"}]
    data = {"train": Dataset.from_list(rows), "test": Dataset.from_list(rows)}
    assert guards.data_problems(data, tokenizer, max_length=200, apart=False) == {}
    found = guards.data_problems(data, tokenizer, max_length=200, apart=True)
    assert found == {"test tables in the training set": 1}
    project = Project(tmp_path, tmp_path)
    for facts, apart in (({}, True), ({"split_by": "question"}, False)):
        write_manifest(project.path("shop", "questions"), "1", facts)
        assert guards.tables_apart(project, "shop") is apart


def test_tokens_without_an_embedding_are_found(tokenizer: Any) -> None:
    size = len(tokenizer)
    assert guards.token_problems(tokenizer, size) == {}
    added = tiny_tokenizer(special=("<|sql|>", "<|table|>"))
    rows = len(added) - 2
    assert guards.token_problems(added, rows) == {"tokens without an embedding in the base model": 2}


def test_an_adapter_of_more_than_lora_is_refused() -> None:
    lora = [f"base_model.model.model.layers.0.self_attn.q_proj.lora_{x}.weight" for x in "AB"]
    guards.check_adapter_keys(lora)
    with pytest.raises(ModelError, match=r"1 tensors that are no LoRA weights, such as base_model.model.lm_head"):
        guards.check_adapter_keys([*lora, "base_model.model.lm_head.weight"])


def packed(examples: list[dict[str, list[int]]], *, restart: bool) -> dict[str, Any]:
    """One row of joined examples; `restart` counts positions anew for each, as TRL's packing does."""
    import torch

    ids = [i for e in examples for i in e["input_ids"]]
    positions = [p for e in examples for p in range(len(e["input_ids"]))] if restart else list(range(len(ids)))
    return {"input_ids": torch.tensor([ids]), "position_ids": torch.tensor([positions])}


def test_a_poisoned_neighbour_is_noticed_where_packing_leaks(tokenizer: Any) -> None:
    model = tiny_model(len(tokenizer))
    examples = [example(tokenizer)]
    guards.check_packing(model, lambda batch: packed(batch, restart=True), examples)
    with pytest.raises(ModelError, match=r"training.packing: a packed example's logits change .* packing: false"):
        guards.check_packing(model, lambda batch: packed(batch, restart=False), examples)
