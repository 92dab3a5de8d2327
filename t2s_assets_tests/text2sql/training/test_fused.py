"""Fused layers against transformers' and PEFT's own, on the same weights and examples."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, Qwen2Config

from t2s_assets.text2sql.training import fused, output_loss
from t2s_assets.text2sql.training.arena import Arena
from t2s_assets.text2sql.training.flat_batches import FlatBatches, flat_pass, parts_within
from t2s_assets.text2sql.training.joint_linears import Joint
from t2s_assets.text2sql.training.trainer import BudgetTrainer

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def model_of(config: Any, *, targets: list[str], dtype: torch.dtype = torch.float32) -> Any:
    """A LoRA model with random weights everywhere, B included, which starts at zero otherwise."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(3)
    base = AutoModelForCausalLM.from_config(config).to(dtype)
    for name, p in base.named_parameters():
        if p.ndim == 1:
            torch.nn.init.normal_(p, 0.5 if "norm" in name else 0.0, 0.3)
    model = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, target_modules=targets, task_type="CAUSAL_LM"))
    for name, p in model.named_parameters():
        if "lora_" in name:
            p.data = torch.randn(p.shape) * 0.2
    return model


def config_of(kind: type, **settings: Any) -> Any:
    shape = {"hidden_size": 48, "intermediate_size": 80, "num_attention_heads": 6, "num_key_value_heads": 2}
    return kind(vocab_size=300, num_hidden_layers=3, sliding_window=None, **(shape | settings))


def examples(*lengths: int, tables: str = "") -> list[dict[str, Any]]:
    """Random examples; those on one table (a letter each) begin with the same six tokens."""
    draw = torch.Generator().manual_seed(11)
    schemas = {t: torch.randint(1, 300, (6,), generator=draw).tolist() for t in sorted(set(tables))}
    made = []
    for length, table in zip(lengths, tables or "a" * len(lengths)):
        ids = (schemas[table] if tables else []) + torch.randint(1, 300, (length,), generator=draw).tolist()
        answer = max(2, length // 3)
        made.append(
            {"input_ids": ids, "labels": [-100] * (len(ids) - answer) + ids[len(ids) - answer :], "table": table}
        )
    return made


def alone(model: Any, asked: list[dict[str, Any]]) -> tuple[float, dict[str, torch.Tensor]]:
    """Sum of the losses, and gradients, each example by itself through transformers and PEFT."""
    total = torch.zeros(())
    for e in asked:
        logits = model(input_ids=torch.tensor([e["input_ids"]]), use_cache=False).logits[0, :-1].float()
        labels = torch.tensor(e["labels"][1:])
        total = total + torch.nn.functional.cross_entropy(logits, labels, ignore_index=-100, reduction="sum")
    total.backward()
    return total.item(), taken(model)


def together(
    model: Any, asked: list[dict[str, Any]], *, share: bool = False, arena: Arena | None = None
) -> tuple[float, dict[str, torch.Tensor]]:
    """The same through the fused layers, as one flat sequence."""
    base = model.get_base_model()
    batch = flat_pass(asked, pad_token=0, share=share)
    with fused.rows_attend(base, batch["rows"], arena):
        out = base.model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False)
    labels = batch["labels"][0, 1:]
    wanted = labels != -100
    loss = output_loss.output_loss(out.last_hidden_state[0, :-1][wanted], base.lm_head.weight, labels[wanted])
    loss.backward()
    return loss.item(), taken(model)


def taken(model: Any) -> dict[str, torch.Tensor]:
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def assert_same(ours: Any, theirs: Any, *, rel: float) -> None:
    assert ours[0] == pytest.approx(theirs[0], rel=rel)
    assert ours[1].keys() == theirs[1].keys() and ours[1]
    for name, gradient in theirs[1].items():
        size = gradient.abs().max().item()
        torch.testing.assert_close(ours[1][name], gradient, rtol=0, atol=rel * 10 * size, msg=name)


@pytest.mark.parametrize("kind", [LlamaConfig, Qwen2Config, MistralConfig])
@pytest.mark.parametrize("settings", [{}, {"num_key_value_heads": 6}, {"tie_word_embeddings": True}], ids=str)
def test_losses_and_gradients_are_transformers_own(kind: type, settings: dict[str, Any]) -> None:
    model = model_of(config_of(kind, **settings), targets=TARGETS)
    assert fused.why_not(model.get_base_model(), lora_dropout=0.0) is None
    asked = examples(9, 31, 5, 17, 3)
    theirs = alone(model, asked)
    fused.fuse(model.get_base_model())
    assert_same(together(model, asked), theirs, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", [LlamaConfig, Qwen2Config])
def test_an_arena_changes_nothing_pass_after_pass(kind: type, dtype: torch.dtype) -> None:
    model = model_of(config_of(kind), targets=TARGETS, dtype=dtype)
    fused.fuse(model.get_base_model())
    arena = Arena()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype != torch.float32):
        for lengths in ((9, 31, 5), (40, 3), (9, 31, 5), (2,)):
            asked = examples(*lengths)
            plain, mine = together(model, asked), together(model, asked, arena=arena)
            assert mine[0] == plain[0] and mine[1].keys() == plain[1].keys()
            assert all(torch.equal(mine[1][name], plain[1][name]) for name in plain[1])


def test_what_is_kept_lies_in_the_arena() -> None:
    model = model_of(config_of(LlamaConfig), targets=TARGETS)
    fused.fuse(model.get_base_model())
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    arena, kept = Arena(), {}  # holds the tensors, so that no address is used twice

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in parameters:
            kept[tensor.data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        together(model, examples(*[40] * 8), arena=arena)
    chunks = {chunk.data_ptr() for chunk in arena._chunks}
    sizes = [(t.untyped_storage().data_ptr() in chunks, t.nbytes) for t in kept.values()]
    assert sum(size for inside, size in sizes if inside) > 0.7 * sum(size for _, size in sizes)


def test_layers_without_an_adapter_stay_plain_linear_layers() -> None:
    model = model_of(config_of(LlamaConfig), targets=["q_proj", "down_proj"])
    asked = examples(9, 12)
    theirs = alone(model, asked)
    fused.fuse(model.get_base_model())
    ours = together(model, asked)
    assert_same(ours, theirs, rel=1e-5)
    assert all("q_proj" in n or "down_proj" in n for n in ours[1])


def test_bfloat16_is_as_near_as_its_rounding() -> None:
    model = model_of(config_of(LlamaConfig), targets=TARGETS, dtype=torch.bfloat16)
    exact = model_of(config_of(LlamaConfig), targets=TARGETS)
    asked = examples(9, 31, 5)
    loss, gradients = alone(exact, asked)
    fused.fuse(model.get_base_model())
    with torch.autocast("cpu", torch.bfloat16):
        ours = together(model, asked)
    assert ours[0] == pytest.approx(loss, rel=0.02)
    for name, gradient in gradients.items():
        likeness = torch.nn.functional.cosine_similarity(ours[1][name].flatten(), gradient.flatten(), dim=0)
        assert likeness > 0.99, name
        assert ours[1][name].dtype == torch.float32


@pytest.mark.parametrize("bias", [False, True])
def test_bfloat16_does_not_round_a_young_adapter_away(bias: bool) -> None:
    """A LoRA part of an eighth of the last bit of the output is there in the mean over many outputs."""
    torch.manual_seed(0)
    base = torch.nn.Linear(64, 96, bias=bias)
    model = get_peft_model(torch.nn.Sequential(base), LoraConfig(r=4, lora_alpha=4, target_modules=["0"]))
    layer = model.base_model.model[0]
    layer.base_layer.to(torch.bfloat16)
    with torch.no_grad():
        layer.lora_B.default.weight.normal_(std=2.0**-13)
    x = torch.randn(4096, 64).bfloat16()
    with torch.no_grad():
        exact = layer.base_layer.float()(x.float())
        added = layer.lora_B.default(layer.lora_A.default(x.float()))
    layer.base_layer.to(torch.bfloat16)
    out = Joint.of([layer])(x).float()
    assert added.std() < exact.std() * 2.0**-8 / 8
    there = ((out - exact) * added).sum() / added.square().sum()
    assert there.item() == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("tables", ["aabba", "aaaaa", "abcde"])
def test_shared_schemas_leave_each_questions_loss_and_gradient(tables: str) -> None:
    model = model_of(config_of(LlamaConfig), targets=TARGETS)
    asked = examples(9, 31, 5, 17, 3, tables=tables)
    theirs = alone(model, asked)
    fused.fuse(model.get_base_model())
    assert_same(together(model, asked, share=True), theirs, rel=1e-5)


def test_a_poisoned_neighbour_changes_nothing() -> None:
    """No example's loss depends on what stands beside it in the flat sequence."""
    model = model_of(config_of(LlamaConfig), targets=TARGETS)
    fused.fuse(model.get_base_model())
    first, second, poison = examples(9, 12, 12)
    silent = {"labels": [-100] * 18}
    losses = [
        together(model, [first, n | {"labels": silent["labels"][: len(n["labels"])]}])[0] for n in (second, poison)
    ]
    assert losses[0] == losses[1] == pytest.approx(together(model, [first])[0], rel=1e-6)


def test_outside_of_rows_the_model_answers_as_before() -> None:
    """Generating during training takes transformers' attention, with its cache."""
    model = model_of(config_of(LlamaConfig), targets=TARGETS).eval()
    ids = torch.tensor([examples(12)[0]["input_ids"]])
    with torch.inference_mode():
        before = model(input_ids=ids).logits
        fused.fuse(model.get_base_model())
        torch.testing.assert_close(model(input_ids=ids).logits, before, rtol=1e-4, atol=1e-4)
        cached = model(input_ids=ids[:, :-1], use_cache=True)
        last = model(input_ids=ids[:, -1:], past_key_values=cached.past_key_values).logits
    torch.testing.assert_close(last[:, -1], before[:, -1], rtol=1e-4, atol=1e-4)


def test_the_loss_is_cross_entropy_whatever_the_chunks() -> None:
    torch.manual_seed(0)
    hidden = torch.randn(300, 16, requires_grad=True)  # more than two chunks of rows
    weight, targets = torch.randn(50, 16), torch.randint(0, 50, (300,))
    ours = output_loss.output_loss(hidden, weight, targets)
    (mine,) = torch.autograd.grad(ours * 0.5, hidden)
    theirs = torch.nn.functional.cross_entropy(hidden @ weight.t(), targets, reduction="sum")
    (wanted,) = torch.autograd.grad(theirs * 0.5, hidden)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)
    torch.testing.assert_close(mine, wanted, rtol=1e-4, atol=1e-6)


def test_what_cannot_be_fused_is_said() -> None:
    def why(config: Any, dropout: float = 0.0) -> str | None:
        return fused.why_not(LlamaForCausalLM(config), lora_dropout=dropout)

    assert why(config_of(LlamaConfig)) is None
    assert "lora.dropout is 0.1" in (why(config_of(LlamaConfig), 0.1) or "")
    assert "activation is gelu" in (why(config_of(LlamaConfig, hidden_act="gelu")) or "")
    assert "dropout 0.1" in (why(config_of(LlamaConfig, attention_dropout=0.1)) or "")
    assert "sliding window" in (why(_sliding()) or "")
    other = config_of(LlamaConfig)
    other.model_type = "gpt2"
    assert "gpt2" in (why(other) or "")


def _sliding() -> Any:
    config = config_of(LlamaConfig)
    config.sliding_window = 8
    return config


def test_a_batch_goes_through_in_passes_of_few_tokens() -> None:
    asked = examples(20, 20, 20, 50, 10)
    assert [len(p) for p in parts_within(asked, 45, share=False)] == [2, 1, 1, 1]
    batch = FlatBatches(pad_token=0, share=False, pass_tokens=45)(asked)
    assert [p["input_ids"].shape[1] for p in batch["passes"]] == [64, 32, 64, 32]
    assert (batch["labels"] != -100).sum() == sum(x != -100 for e in asked for x in e["labels"])


def test_passes_count_a_shared_schema_once() -> None:
    asked = examples(20, 20, 20, tables="aab")
    alone = len(asked[0]["input_ids"])
    assert [len(p) for p in parts_within(asked, 2 * alone - 1, share=True)] == [2, 1]
    assert [len(p) for p in parts_within(asked, 2 * alone - 1, share=False)] == [1, 1, 1]
    assert len(FlatBatches(pad_token=0, share=True, pass_tokens=2 * alone - 1)(asked)["passes"]) == 2


def test_two_passes_that_would_go_backward_together_are_refused() -> None:
    batch = FlatBatches(pad_token=0, share=False, pass_tokens=45)(examples(20, 50))
    assert len(batch["passes"]) == 2
    with pytest.raises(RuntimeError, match="the arena holds one pass"):
        BudgetTrainer.compute_loss(None, None, batch)  # type: ignore[arg-type]


def test_rows_are_grouped_by_what_they_cost() -> None:
    """Rows of like lengths attend together; a long one apart from many short ones, and few short ones with it."""

    def widths(*lengths: int) -> list[tuple[int, int]]:
        groups = flat_pass(examples(*lengths), pad_token=0, share=False)["rows"].groups
        return [group.queries.shape for group in groups]

    assert widths(*[32] * 8) == [(8, 32)]
    assert widths(250, *[39] * 26) == [(1, 250), (27, 39)]  # the last fills the sequence up
    assert widths(64, 32) == [(2, 64)]
