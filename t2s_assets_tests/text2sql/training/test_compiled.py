"""Compiled layers: what they compute, and how often torch compiles. Programs are traced here, but not made faster."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from t2s_assets.text2sql.config import LoraSettings, TrainingConfig
from t2s_assets.text2sql.errors import ModelError
from t2s_assets_tests.tiny import tiny_model

pytestmark = pytest.mark.usefixtures("one_thread")

VOCABULARY = 90
Batches = list[tuple[int, int, bool]]
# Rows, length, and whether there is padding; without it transformers makes no mask.
PADDED: Batches = [(4, 32, True), (4, 64, True), (3, 48, True), (4, 96, True)]
WHOLE: Batches = [(4, 32, False), (2, 64, False)]


def adapted(layers: int) -> Any:
    """A random Llama with an adapter that does something, the same each time."""
    import torch
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(tiny_model(VOCABULARY, num_hidden_layers=layers), LoraConfig(r=4, target_modules=["q_proj"]))
    draw = torch.Generator().manual_seed(5)
    for name, p in model.named_parameters():
        if "lora_" in name:
            p.data = torch.randn(p.shape, generator=draw) * 0.1
    return model


def batch(rows: int, length: int, padded: bool) -> dict[str, Any]:
    import torch

    ids = torch.randint(5, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(length))
    mask = torch.ones_like(ids)
    if padded:
        mask[0, -3:] = 0
    return {"input_ids": ids, "attention_mask": mask, "labels": ids, "use_cache": False}


def figures(model: Any, batches: Batches) -> list[float]:
    """Each batch's loss and sum of absolute gradients, and the losses of an evaluation."""
    import torch

    found = []
    model.train()
    for shape in batches:
        loss = model(**batch(*shape)).loss
        loss.backward()
        found += [float(loss.detach()), float(sum(p.grad.abs().sum() for p in model.parameters() if p.requires_grad))]
        model.zero_grad()
    model.eval()
    with torch.no_grad():
        return found + [float(model(**batch(*shape)).loss) for shape in batches]


@pytest.fixture
def counters() -> Any:
    import torch
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    return counters


# First and later layers with gradients, and any layer without.
@pytest.mark.parametrize(
    ("batches", "saving", "programs"),
    [
        (PADDED, False, 3),
        pytest.param(PADDED + WHOLE, True, 6, marks=pytest.mark.slow),  # each with a mask and without
    ],
    ids=["", "gradient checkpointing"],
)
def test_a_program_serves_all_layers_and_lengths_and_computes_the_same(
    counters: Any, batches: Batches, saving: bool, programs: int
) -> None:
    from t2s_assets.text2sql.training.compiled import compile_layers

    plain, compiled = adapted(4), adapted(4)
    names = list(compiled.state_dict())
    if saving:
        compiled.gradient_checkpointing_enable({"use_reentrant": False})
    compile_layers(compiled, backend="eager")
    assert list(compiled.state_dict()) == names
    assert figures(compiled, batches) == pytest.approx(figures(plain, batches), rel=1e-5)
    assert counters["stats"]["unique_graphs"] == programs
    assert not counters["graph_break"]


def test_answers_compile_nothing(counters: Any) -> None:
    from t2s_assets.text2sql.training.compiled import as_written, compile_layers

    plain, compiled = adapted(2).eval(), adapted(2).eval()
    compile_layers(compiled, backend="eager")
    asked = {"inputs": batch(2, 20, False)["input_ids"], "max_new_tokens": 4, "do_sample": False}
    with as_written():
        assert compiled.generate(**asked).tolist() == plain.generate(**asked).tolist()
    assert not counters["stats"]["unique_graphs"]
    figures(compiled, PADDED[:1])
    assert counters["stats"]["unique_graphs"]


def test_a_model_without_layers_is_refused() -> None:
    import torch

    from t2s_assets.text2sql.training.compiled import compile_layers

    with pytest.raises(ModelError, match=r"training\.compile: Linear has no decoder layers that could be compiled"):
        compile_layers(torch.nn.Linear(2, 2))


@pytest.mark.parametrize("compile", [False, True])
def test_the_setting_reaches_the_layers(tiny_base: Path, compile: bool) -> None:
    from t2s_assets.text2sql import base_models
    from t2s_assets.text2sql.training.trainer import step_arguments

    placement = base_models.Placement("cpu", "float32", "sdpa", "none")
    base = base_models.BaseModel(tiny_base, "", {})
    model, tokenizer = base_models.load_model(base, placement), base_models.load_tokenizer(base)
    config = TrainingConfig(max_steps=1, compile=compile)
    said: Callable[..., None] = [].append
    how = step_arguments(model, tokenizer, LoraSettings(), config, placement, threads=1, log=said)
    assert how["compiled"] is compile
