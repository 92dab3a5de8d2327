"""Fused layers against transformers' and PEFT's own, on the same weights and examples."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, Qwen2Config

from t2s_assets.text2sql.training import arena, cost, fused, output_loss
from t2s_assets.text2sql.training.flat_batches import FlatBatches, flat_pass, parts_within
from t2s_assets.text2sql.training.joint_linears import Joint
from t2s_assets.text2sql.training.lanes import Lanes
from t2s_assets.text2sql.training.shared_schemas import count_tokens

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
    return kind(vocab_size=300, sliding_window=None, **(shape | {"num_hidden_layers": 3} | settings))


def examples(*lengths: int, tables: str = "", schema: int = 6) -> list[dict[str, Any]]:
    """Random examples; those on one table (a letter each) begin with the same `schema` tokens."""
    draw = torch.Generator().manual_seed(11)
    schemas = {t: torch.randint(1, 300, (schema,), generator=draw).tolist() for t in sorted(set(tables))}
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
@pytest.mark.parametrize(
    "changes", [{}, {"num_key_value_heads": 6}, {"tie_word_embeddings": True}, {"head_dim": 16}], ids=str
)
def test_losses_and_gradients_are_transformers_own(kind: type, changes: dict[str, Any]) -> None:
    model = model_of(config_of(kind, **changes), targets=TARGETS)
    assert fused.why_not(model.get_base_model()) is None
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


@pytest.mark.parametrize(
    "targets",
    [["q_proj", "down_proj"], ["q_proj", "v_proj"], ["gate_proj", "up_proj", "down_proj"], ["o_proj"]],
    ids=" ".join,
)
@pytest.mark.parametrize("kind", [LlamaConfig, Qwen2Config])
def test_layers_without_an_adapter_stay_plain_linear_layers(kind: type, targets: list[str]) -> None:
    model = model_of(config_of(kind), targets=targets)
    asked = examples(9, 12)
    theirs = alone(model, asked)
    ours = together(model, asked)
    assert_same(ours, theirs, rel=1e-5)
    assert {n.split(".lora_")[0].rsplit(".", 1)[-1] for n in ours[1]} == set(targets)


@pytest.mark.parametrize("kind", [LlamaConfig, Qwen2Config])  # without bias and with
def test_bfloat16_is_as_near_as_its_rounding(kind: type) -> None:
    model = model_of(config_of(kind), targets=TARGETS, dtype=torch.bfloat16)
    exact = model_of(config_of(kind), targets=TARGETS)
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
    joint = Joint.of([layer])
    joint.forward(torch.nn.functional.pad(x, (0, joint.wide_input - 64)), rounded)
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


def test_the_first_token_of_an_example_is_predicted_by_none() -> None:
    """As in transformers, where it has no token in front of it; in a flat sequence a neighbour's last stands there."""
    model = model_of(config_of(LlamaConfig), targets=TARGETS)
    asked = [e | {"labels": list(e["input_ids"])} for e in examples(9, 12, 4, tables="aba", schema=0)]
    theirs = alone(model, asked)
    for share in (False, True):
        assert_same(together(model, asked, share=share), theirs, rel=1e-5)
    ids = torch.cat([flat_pass(asked, pad_token=0, share=False)["labels"][0], torch.tensor([-100])])
    assert (ids != -100).sum() == sum(len(e["labels"]) - 1 for e in asked)


def test_a_pass_without_labels_has_no_loss_and_no_gradient() -> None:
    model = model_of(config_of(LlamaConfig), targets=TARGETS)
    asked = [e | {"labels": [-100] * len(e["labels"])} for e in examples(9, 12)]
    loss, gradients = together(model, asked)
    assert loss == 0 and gradients and not any(g.any() for g in gradients.values())


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
    def why(config: Any) -> str | None:
        return fused.why_not(LlamaForCausalLM(config))

    assert why(config_of(LlamaConfig)) is None
    assert "activation is gelu" in (why(config_of(LlamaConfig, hidden_act="gelu")) or "")
    assert "dropout 0.1" in (why(config_of(LlamaConfig, attention_dropout=0.1)) or "")
    assert "sliding window" in (why(_sliding()) or "")
    other = config_of(LlamaConfig)
    other.model_type = "gpt2"
    assert "gpt2" in (why(other) or "")


@pytest.mark.parametrize(("rope", "fits"), [("linear", True), ("dynamic", False), ("longrope", False)])
def test_angles_that_change_with_the_length_are_not_fused(rope: str, fits: bool) -> None:
    """transformers sets them by the longest position of a batch, which a flat sequence of rows has not."""
    lists = {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4} if rope == "longrope" else {}
    config = config_of(LlamaConfig, max_position_embeddings=64)
    config.rope_parameters = {"rope_type": rope, "rope_theta": 10000.0, "factor": 2.0, **lists}
    if rope == "longrope":
        config.rope_parameters["original_max_position_embeddings"] = 32
    why = fused.why_not(LlamaForCausalLM(config))
    assert (why is None) == fits and (fits or f"its rotary embedding is {rope}" in (why or ""))


def _sliding() -> Any:
    config = config_of(LlamaConfig)
    config.sliding_window = 8
    return config


def test_a_batch_goes_through_in_passes_of_few_tokens() -> None:
    asked = examples(20, 20, 20, 50, 10)
    assert [len(p) for p in parts_within(asked, 45, share=False)] == [2, 1, 1, 1]
    batch = FlatBatches(pad_token=0, share=False, pass_tokens=45, threads=1)(asked)
    assert [[p["input_ids"].shape[1] for p in passes] for passes in batch["rounds"]] == [[64], [32], [64], [32]]
    assert (batch["labels"] != -100).sum() == sum(x != -100 for e in asked for x in e["labels"])


def test_rounds_of_one_lane_and_of_two_take_the_same_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """What lane 1 kept in one round is there for lane 0 in the next."""
    monkeypatch.setattr(arena, "_CHUNK_BYTES", 2**12)
    model = model_of(config_of(LlamaConfig, num_hidden_layers=30), targets=["q_proj"])
    half, whole = (flat_pass(examples(*lengths), pad_token=0, share=False) for lengths in ((90,), (90, 90)))

    def taken_by(*rounds: list[dict[str, Any]]) -> int:
        lanes = Lanes(fused.Fused(model.get_base_model()), 2)
        lanes.run(rounds, backward=True)
        return lanes.pages.bytes

    two, one = taken_by([half, half]), taken_by([whole])
    assert taken_by([whole], [half, half], [whole]) < 1.25 * max(one, two)


def test_gradients_are_spread_once_and_only_where_they_wait() -> None:
    model = model_of(config_of(LlamaConfig), targets=TARGETS)
    lanes = Lanes(fused.Fused(model.get_base_model()), 1)
    rounds = [[flat_pass(examples(9, 12), pad_token=0, share=False)]]
    lanes.run(rounds, backward=True)
    lanes.spread(1.0)
    found = taken(model)
    for backward in (True, False):
        if not backward:
            lanes.run(rounds, backward=backward)
        with pytest.raises(RuntimeError, match="no gradients wait"):
            lanes.spread(1.0)
    assert found and not taken(model)


def test_an_error_in_one_lane_is_raised_when_the_others_are_done(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(config_of(LlamaConfig), targets=TARGETS)
    lanes = Lanes(fused.Fused(model.get_base_model()), 2)
    part = flat_pass(examples(9, 12), pad_token=0, share=False)
    broken = part | {"input_ids": part["input_ids"] + 1000}  # tokens without an embedding
    done: list[int] = []
    real = fused.Fused.loss

    def slow(*args: Any, **kwargs: Any) -> torch.Tensor:
        if args[1] is part:
            time.sleep(0.2)
        loss = real(*args, **kwargs)
        done.append(1)
        return loss

    monkeypatch.setattr(fused.Fused, "loss", slow)
    with pytest.raises(IndexError):
        lanes.run([[broken, part]], backward=True)
    assert done == [1]
    with pytest.raises(RuntimeError, match="no gradients wait"):
        lanes.spread(1.0)


@pytest.mark.parametrize("threads", [2, 3])
def test_lanes_find_what_one_finds(threads: int) -> None:
    model = model_of(config_of(LlamaConfig), targets=TARGETS)
    asked = examples(9, 31, 5, 17, 3)
    lanes = Lanes(fused.Fused(model.get_base_model()), threads)
    assert_same(together(model, asked, lanes=lanes), alone(model, asked), rel=1e-5)


def held(passes: list[dict[str, Any]]) -> int:
    (length,) = {p["input_ids"].shape[1] for p in passes}
    return len(passes) * length


def test_a_batch_is_shared_out_among_lanes() -> None:
    """Evenly, in passes of one length, each with tokens enough."""
    asked = examples(400, 90, 200, 10, 150, 80, 150)
    for threads, lanes in ((1, 1), (2, 2), (3, 3), (5, 3)):  # beside 400, the fourth and fifth would be half empty
        batch = FlatBatches(pad_token=0, share=False, pass_tokens=1792, threads=threads)(asked)
        (passes,) = batch["rounds"]
        assert len(passes) == lanes
        real = [int((p["labels"] != -100).sum()) for p in passes]
        assert sum(real) == sum(x != -100 for e in asked for x in e["labels"])
        assert held(passes) <= 1.2 * 1080
    small = examples(*[45] * 6)
    for threads in (2, 8):
        (passes,) = FlatBatches(pad_token=0, share=False, pass_tokens=1792, threads=threads)(small)["rounds"]
        assert len(passes) == 2  # 270 tokens are not enough for three


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 500), min_size=1, max_size=16),
    threads=st.integers(1, 4),
    pass_tokens=st.sampled_from([300, 1024, 1792]),
    share=st.booleans(),
)
def test_lanes_hold_no_more_than_is_planned(lengths: list[int], threads: int, pass_tokens: int, share: bool) -> None:
    asked = examples(*lengths, tables="".join("abc"[i // 3 % 3] for i in range(len(lengths))))
    batch = FlatBatches(pad_token=0, share=share, pass_tokens=pass_tokens, threads=threads)(asked)
    longest = max(len(e["input_ids"]) for e in asked)
    limit = max(pass_tokens, longest)
    planned = cost.most_held(limit, pass_tokens, cost.most_lanes(limit, threads))
    parts = parts_within(asked, pass_tokens, share=share)
    assert len(parts) == len(batch["rounds"])
    for part, passes in zip(parts, batch["rounds"]):
        tokens = count_tokens(part, share=share)
        assert held(passes) <= min(planned, max(1.2 * tokens, tokens + 31))


def test_a_table_is_cut_only_where_it_is_longer_than_a_lane() -> None:
    def schemas(lengths: list[int], tables: str, schema: int = 6) -> list[str]:
        """The tables of each lane, by their schemas' first token."""
        asked = examples(*lengths, tables=tables, schema=schema)
        first = {e["input_ids"][0]: e["table"] for e in asked}
        (passes,) = FlatBatches(pad_token=0, share=True, pass_tokens=1792, threads=2)(asked)["rounds"]
        starts = [(p["position_ids"] == 0) & (p["input_ids"] != 0) for p in passes]
        return ["".join(sorted(first[i] for i in p["input_ids"][s].tolist())) for p, s in zip(passes, starts)]

    assert schemas([150] * 4, "aabb") == ["a", "b"]
    # By whole prompts, schema and all, the middle is inside b.
    assert schemas([10] * 10, "aabbbbbbcc", schema=60) == ["b", "ac"]
    assert schemas([150] * 6, "aaaaab") == ["a", "ab"]
    # A little longer than half: two copies of its schema would cost more than the lanes differ by.
    assert schemas([50] * 8, "aaaabbbb", schema=300) == ["a", "b"]
    assert schemas([60, 60, 60, 60, 50, 50, 50, 50], "aaaabbbb", schema=300) == ["a", "b"]


def test_passes_count_a_shared_schema_once() -> None:
    asked = examples(20, 20, 20, tables="aab")
    alone = len(asked[0]["input_ids"])
    assert [len(p) for p in parts_within(asked, 2 * alone - 1, share=True)] == [2, 1]
    assert [len(p) for p in parts_within(asked, 2 * alone - 1, share=False)] == [1, 1, 1]
    assert len(FlatBatches(pad_token=0, share=True, pass_tokens=2 * alone - 1, threads=1)(asked)["rounds"]) == 2


def test_rows_are_grouped_by_what_they_cost() -> None:
    """Rows of like lengths attend together; a long one apart from many short ones, and few short ones with it."""

    def widths(*lengths: int) -> list[tuple[int, int]]:
        groups = flat_pass(examples(*lengths), pad_token=0, share=False)["rows"].groups
        return [group.queries.shape for group in groups]

    assert widths(*[32] * 8) == [(8, 32)]
    assert widths(250, *[39] * 26) == [(1, 256), (27, 48)]  # the last fills the sequence up
    filled = flat_pass(examples(30), pad_token=0, share=False, at_least=300)["rows"].groups
    assert [group.queries.shape for group in filled] == [(6, 64)]  # in rows of 64 at most
    assert widths(64, 32) == [(2, 64)]
