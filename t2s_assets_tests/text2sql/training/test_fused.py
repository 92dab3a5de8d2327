"""Fused layers against transformers' and PEFT's own, on the same weights and examples."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, Qwen2Config

from t2s_assets.text2sql.training import fused, output_loss
from t2s_assets.text2sql.training.flat_batches import FlatBatches, flat_pass, parts_within
from t2s_assets.text2sql.training.joint_linears import Joint
from t2s_assets.text2sql.training.lanes import Lanes

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
    model: Any, asked: list[dict[str, Any]], *, share: bool = False, lanes: Lanes | None = None
) -> tuple[float, dict[str, torch.Tensor]]:
    """The same through the fused layers, as one flat sequence, or one for each of the lanes' threads."""
    lanes = lanes or Lanes(fused.Fused(model.get_base_model()), 1)
    shares = [asked[at :: lanes.threads] for at in range(lanes.threads)]
    loss = lanes.run([[flat_pass(part, pad_token=0, share=share) for part in shares if part]], backward=True)
    lanes.spread(1.0)
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
    assert_same(together(model, asked), theirs, rel=1e-5)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_pass_leaves_nothing_behind_for_the_next(dtype: torch.dtype, threads: int) -> None:
    """Memory is taken again by passes of other sizes, and sums of gradients start over."""
    model = model_of(config_of(Qwen2Config), targets=TARGETS, dtype=dtype)
    used = Lanes(fused.Fused(model.get_base_model()), threads)
    for lengths in ((9, 31, 5), (40, 3), (9, 31, 5), (2,)):
        asked = examples(*lengths)
        fresh = together(model, asked, lanes=Lanes(fused.Fused(model.get_base_model()), threads))
        again = together(model, asked, lanes=used)
        assert again[0] == fresh[0] and again[1].keys() == fresh[1].keys()
        assert all(torch.equal(again[1][name], fresh[1][name]) for name in fresh[1])


def test_the_adapter_is_read_anew_in_every_step() -> None:
    model = model_of(config_of(LlamaConfig), targets=TARGETS)
    asked = examples(9, 12)
    lanes = Lanes(fused.Fused(model.get_base_model()), 1)
    before = together(model, asked, lanes=lanes)[0]
    for name, p in model.named_parameters():
        if "lora_" in name:
            p.data.mul_(-0.5)
    assert_same(together(model, asked, lanes=lanes), alone(model, asked), rel=1e-5)
    assert before != together(model, asked, lanes=lanes)[0]


def test_gradients_add_to_those_that_are_there() -> None:
    """As in accumulation over steps."""
    model = model_of(config_of(LlamaConfig), targets=TARGETS)
    asked = examples(9, 12, 4)
    once = together(model, asked)[1]
    lanes = Lanes(fused.Fused(model.get_base_model()), 1)
    for factor in (0.25, 0.5):
        lanes.run([[flat_pass(asked, pad_token=0, share=False)]], backward=True)
        lanes.spread(factor)
    for name, gradient in taken(model).items():
        torch.testing.assert_close(gradient, once[name] * 0.75, rtol=1e-5, atol=1e-6)


def test_layers_without_an_adapter_stay_plain_linear_layers() -> None:
    model = model_of(config_of(LlamaConfig), targets=["q_proj", "down_proj"])
    asked = examples(9, 12)
    theirs = alone(model, asked)
    ours = together(model, asked)
    assert_same(ours, theirs, rel=1e-5)
    assert all("q_proj" in n or "down_proj" in n for n in ours[1])


def test_bfloat16_is_as_near_as_its_rounding() -> None:
    model = model_of(config_of(LlamaConfig), targets=TARGETS, dtype=torch.bfloat16)
    exact = model_of(config_of(LlamaConfig), targets=TARGETS)
    asked = examples(9, 31, 5)
    loss, gradients = alone(exact, asked)
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
    rounded = torch.empty(4096, 96, dtype=torch.bfloat16)
    Joint.of([layer]).forward(x, rounded, lambda shape: torch.empty(shape, dtype=torch.bfloat16))
    out = rounded.float()
    assert added.std() < exact.std() * 2.0**-8 / 8
    there = ((out - exact) * added).sum() / added.square().sum()
    assert there.item() == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("tables", ["aabba", "aaaaa", "abcde"])
def test_shared_schemas_leave_each_questions_loss_and_gradient(tables: str) -> None:
    model = model_of(config_of(LlamaConfig), targets=TARGETS)
    asked = examples(9, 31, 5, 17, 3, tables=tables)
    theirs = alone(model, asked)
    assert_same(together(model, asked, share=True), theirs, rel=1e-5)


def test_a_poisoned_neighbour_changes_nothing() -> None:
    """No example's loss depends on what stands beside it in the flat sequence."""
    model = model_of(config_of(LlamaConfig), targets=TARGETS)
    first, second, poison = examples(9, 12, 12)
    silent = {"labels": [-100] * 18}
    losses = [
        together(model, [first, n | {"labels": silent["labels"][: len(n["labels"])]}])[0] for n in (second, poison)
    ]
    assert losses[0] == losses[1] == pytest.approx(together(model, [first])[0], rel=1e-6)


def test_the_model_itself_answers_as_before() -> None:
    """Generating during training takes transformers' layers, whose weights are parts of the joint ones."""
    model = model_of(config_of(LlamaConfig), targets=TARGETS).eval()
    ids = torch.tensor([examples(12)[0]["input_ids"]])
    with torch.inference_mode():
        before = model(input_ids=ids).logits
        fused.Fused(model.get_base_model())
        torch.testing.assert_close(model(input_ids=ids).logits, before, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("dtype", "rel"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
def test_the_loss_is_cross_entropy_whatever_the_chunks(dtype: torch.dtype, rel: float) -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(600, 16).to(dtype), torch.randn(50, 16).to(dtype)  # more than two chunks of rows
    targets = torch.randint(0, 50, (600,))
    mine = torch.empty_like(hidden)
    ours = output_loss.output_loss(hidden, weight, targets, lambda s: torch.empty(s, dtype=dtype), mine)
    exact = hidden.float().requires_grad_()
    theirs = torch.nn.functional.cross_entropy(exact @ weight.float().t(), targets, reduction="sum")
    theirs.backward()
    assert ours.item() == pytest.approx(theirs.item(), rel=rel)
    torch.testing.assert_close(mine.float(), exact.grad, rtol=rel, atol=rel * 5)


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
    assert [[p["input_ids"].shape[1] for p in passes] for passes in batch["passes"]] == [[64], [32], [64], [32]]
    assert (batch["labels"] != -100).sum() == sum(x != -100 for e in asked for x in e["labels"])


@pytest.mark.parametrize("threads", [2, 3])
def test_lanes_find_what_one_finds(threads: int) -> None:
    model = model_of(config_of(LlamaConfig), targets=TARGETS)
    asked = examples(9, 31, 5, 17, 3)
    lanes = Lanes(fused.Fused(model.get_base_model()), threads)
    assert_same(together(model, asked, lanes=lanes), alone(model, asked), rel=1e-5)


def test_a_batch_is_shared_out_among_lanes() -> None:
    """Evenly, in passes of one length, each with tokens enough; neighbours that share a schema stay together."""

    asked = examples(400, 90, 200, 10, 150, 80, 150)
    for threads, lanes in ((1, 1), (2, 2), (3, 3), (5, 5)):
        batch = FlatBatches(pad_token=0, share=False, pass_tokens=1792, threads=threads)(asked)
        (passes,) = batch["passes"]
        assert len(passes) == lanes
        real = [int((p["labels"] != -100).sum()) for p in passes]
        assert sum(real) == sum(x != -100 for e in asked for x in e["labels"])
        assert len({p["input_ids"].shape[1] for p in passes}) == 1
        assert max(p["input_ids"].shape[1] for p in passes) <= -(-max(400, 1080 // lanes + 90) // 32) * 32
    small = examples(90, 90, 90)
    for threads in (2, 8):
        (passes,) = FlatBatches(pad_token=0, share=False, pass_tokens=1792, threads=threads)(small)["passes"]
        assert len(passes) == 2  # 270 tokens are not enough for three
    together_ = examples(*[150] * 4, tables="aabb")
    passes = FlatBatches(pad_token=0, share=True, pass_tokens=1792, threads=2)(together_)["passes"][0]
    alone_ = [flat_pass(part, pad_token=0, share=True) for part in (together_[:2], together_[2:])]
    assert [p["input_ids"].tolist() for p in passes] == [p["input_ids"].tolist() for p in alone_]


def test_passes_count_a_shared_schema_once() -> None:
    asked = examples(20, 20, 20, tables="aab")
    alone = len(asked[0]["input_ids"])
    assert [len(p) for p in parts_within(asked, 2 * alone - 1, share=True)] == [2, 1]
    assert [len(p) for p in parts_within(asked, 2 * alone - 1, share=False)] == [1, 1, 1]
    assert len(FlatBatches(pad_token=0, share=True, pass_tokens=2 * alone - 1)(asked)["passes"]) == 2


def test_rows_are_grouped_by_what_they_cost() -> None:
    """Rows of like lengths attend together; a long one apart from many short ones, and few short ones with it."""

    def widths(*lengths: int) -> list[tuple[int, int]]:
        groups = flat_pass(examples(*lengths), pad_token=0, share=False)["rows"].groups
        return [group.queries.shape for group in groups]

    assert widths(*[32] * 8) == [(8, 32)]
    assert widths(250, *[39] * 26) == [(1, 256), (27, 48)]  # the last fills the sequence up
    assert widths(64, 32) == [(2, 64)]
