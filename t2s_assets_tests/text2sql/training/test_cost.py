"""Costs from shapes, held against what models of these shapes have and what autograd and the system measure."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from t2s_assets.text2sql import training
from t2s_assets.text2sql.base_models import Placement
from t2s_assets.text2sql.config import Experiment, LoraSettings, TrainingConfig
from t2s_assets.text2sql.errors import ModelError
from t2s_assets.text2sql.storage import Project
from t2s_assets.text2sql.training import cost
from t2s_assets.text2sql.training.cost import Shape, fused_layer_bytes, layer_bytes, memory, widest_pass
from t2s_assets.text2sql.training.plan import KNOWN_SHAPES
from t2s_assets_tests.tiny import tiny_model

SMOLLM2 = Shape(49_152, 576, 1536, 30, 9, 3, 64, tied=True)
LORA = LoraSettings(rank=4, alpha=8)
CPU = Placement("cpu", "float32", "sdpa", "none")


def test_parameters_of_published_models() -> None:
    assert SMOLLM2.parameters == 134_515_008
    assert SMOLLM2.adapter_parameters(LoraSettings(rank=16)) == 4_884_480
    assert KNOWN_SHAPES["TinyLlama/TinyLlama-1.1B-Chat-v1.0"].parameters == 1_100_048_384
    assert KNOWN_SHAPES["Qwen/Qwen2.5-Coder-1.5B-Instruct"].parameters == 1_543_714_304


def test_the_adapters_size_is_that_of_a_trained_one() -> None:
    """wikisql/smollm2-cpu's adapter has 19.59 MB."""
    assert cost.adapter_bytes(SMOLLM2, LoraSettings(rank=16)) / 1e6 == pytest.approx(19.59, rel=0.002)


def test_a_shape_is_read_from_a_config() -> None:
    model = tiny_model(600)
    assert Shape.of(model.config.to_dict()).parameters == sum(p.numel() for p in model.parameters())
    with pytest.raises(ModelError, match="num_attention_heads"):
        Shape.of({"model_type": "llama", "vocab_size": 10})
    with pytest.raises(ModelError, match=r"lora.targets: \['c_attn'\] are no linear layers"):
        SMOLLM2.adapter_parameters(LoraSettings(targets=("c_attn",)))


def of_family(model_type: str) -> Any:
    """A model of transformers' own class, without weights."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"hidden_size": 96, "intermediate_size": 160, "num_hidden_layers": 2, "vocab_size": 600}
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = AutoConfig.for_model(model_type, **sizes, **tokens, num_attention_heads=6, num_key_value_heads=2)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize("model_type", cost.COUNTED)
def test_layers_of_each_counted_family_are_those_that_transformers_makes(model_type: str) -> None:
    import torch

    model = of_family(model_type)
    shape = Shape.of(model.config.to_dict())
    layer = model.model.layers[0]
    linears = {n.rsplit(".", 1)[-1]: m for n, m in layer.named_modules() if isinstance(m, torch.nn.Linear)}
    assert {n: (m.in_features, m.out_features) for n, m in linears.items()} == shape.linears
    assert shape.parameters == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("model_type", ["gpt_neox", "phi3", "mixtral", "qwen3", "gemma2", "olmo2", "granite"])
def test_another_family_with_the_same_fields_is_not_counted(model_type: str) -> None:
    described = of_family(model_type).config.to_dict()
    with pytest.raises(ModelError, match=rf"model_type: layers of llama.* are counted; got '{model_type}'"):
        Shape.of(described)


def test_the_products_counted_are_those_that_torch_counts() -> None:
    """Of an unfused model with an adapter, rows of one length, and a label on every token."""
    import torch
    from peft import LoraConfig, get_peft_model
    from torch.utils.flop_counter import FlopCounterMode

    base = tiny_model(600)
    base.set_attn_implementation("eager")  # torch does not count a CPU's fused attention
    shape = Shape.of(base.config.to_dict())
    model = get_peft_model(base, LoraConfig(r=4, target_modules=list(LORA.targets), task_type="CAUSAL_LM"))
    ids = torch.arange(5, 45).repeat(3, 1)
    # Else the first layer's queries, keys and values would need no gradient of their input.
    states = base.get_input_embeddings()(ids).detach().requires_grad_()
    with FlopCounterMode(display=False) as counter:
        model(inputs_embeds=states, labels=ids).loss.backward()
    counted = shape.flops([40] * 3, 120, LORA)
    assert counter.get_total_flops() == pytest.approx(counted, rel=1e-6)
    assert shape.frozen_flops(120, 120) < 0.95 * counted


@pytest.mark.parametrize(
    ("fused", "dropout"),
    [(False, 0.0), (False, 0.1), (True, 0.0)],
    ids=["transformers", "transformers with dropout", "fused"],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("key_heads", [2, 8], ids=["grouped", "all heads"])
def test_what_is_kept_of_a_layer_is_what_autograd_keeps(
    dtype: str, key_heads: int, fused: bool, dropout: float
) -> None:
    import torch
    from peft import LoraConfig, get_peft_model

    from t2s_assets.text2sql.training.flat_batches import flat_pass
    from t2s_assets.text2sql.training.fused import Fused, Lane

    # What a fused pass keeps besides is little beside six layers.
    sizes = {"hidden_size": 128, "intermediate_size": 320, "num_attention_heads": 8}
    sizes["num_hidden_layers"] = 6 if fused else 2
    model = tiny_model(600, **sizes).to(getattr(torch, dtype))
    if key_heads == 8:
        config = model.config
        config.num_key_value_heads = 8
        model = type(model)(config).to(getattr(torch, dtype))
    lora = LoraConfig(r=4, lora_alpha=8, lora_dropout=dropout, target_modules=list(LORA.targets), task_type="CAUSAL_LM")
    model = get_peft_model(model, lora).train()
    base = model.get_base_model()
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, Any] = {}  # holds the tensors, so that no address is used twice

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in parameters:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    rows, width = 4, 64
    shape = Shape.of(model.config.to_dict())
    if fused:
        examples = [{"input_ids": [5] * width, "labels": [-100, *[5] * (width - 1)]}] * rows
        fused_model = Fused(base)
        lane = Lane(fused_model)
        fused_model.loss(flat_pass(examples, pad_token=0, share=False), lane, backward=True)
        measured = lane.arena._used / (rows * width * shape.layers)
        told = fused_layer_bytes(shape, LORA, Placement("cpu", dtype, "sdpa", "none"), width)
        chunks = len(lane.arena._chunks)
        assert chunks == 1
        assert told == pytest.approx(measured, rel=0.05)
        return
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t),
        torch.autocast("cpu", torch.bfloat16, enabled=dtype != "float32"),
    ):
        ids, mask = torch.randint(0, 600, (rows, width)), torch.ones(rows, width, dtype=torch.long)
        mask[0, 40:] = 0
        base.model(input_ids=ids, attention_mask=mask, use_cache=False)
    measured = sum(t.untyped_storage().nbytes() for t in kept.values()) / (rows * width * shape.layers)
    settings = LORA.model_copy(update={"dropout": dropout})
    told = layer_bytes(shape, settings, Placement("cpu", dtype, "sdpa", "none"), width)
    assert told == pytest.approx(measured, rel=0.05)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_where_attention_has_no_kernel_its_weights_are_kept_in_float32(dtype: str) -> None:
    """As on Apple's GPUs, whose training torch leaves to its own mathematics (`_scaled_dot_product_attention_math`)."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    rows, heads, size, width = 2, 8, 16, 64
    shape = replace(SMOLLM2, heads=heads, head_size=size, key_heads=heads)
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        held.append(tensor)
        return tensor

    held: list[torch.Tensor] = []
    q, k, v = (torch.randn(rows, heads, width, size, dtype=getattr(torch, dtype), requires_grad=True) for _ in "qkv")
    mask = torch.ones(rows, 1, width, width, dtype=torch.bool).tril()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t), sdpa_kernel(SDPBackend.MATH):
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    measured = sum(kept.values()) / (rows * width) + heads * size * out.element_size()
    mps, gpu = (layer_bytes(shape, LORA, Placement(d, dtype, "sdpa", "none"), width) for d in ("mps", "cuda"))
    told = mps - gpu + 4 * heads * size * out.element_size()
    assert told == pytest.approx(measured, rel=0.05)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_on_a_gpu_dropout_keeps_a_byte_more_of_each_adapters_input(dropout: float) -> None:
    """By the kernel that CUDA has, which also runs on a CPU where it is asked for by name."""
    import torch
    from peft import LoraConfig, get_peft_model

    rows, size = 64, 256
    base = torch.nn.Sequential(torch.nn.Linear(size, size, bias=False, dtype=torch.bfloat16))
    model = get_peft_model(base, LoraConfig(r=4, target_modules=["0"], lora_dropout=dropout)).train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.forward = lambda x: torch.native_dropout(x, dropout, True)[0]  # type: ignore[method-assign]
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.shape == (rows, size):
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    hidden = torch.randn(rows, size, dtype=torch.bfloat16, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t), torch.autocast("cpu", torch.bfloat16):
        model(hidden)
    measured = sum(t.untyped_storage().nbytes() for t in kept.values()) / (rows * size)

    gpu, inputs = Placement("cuda", "bfloat16", "sdpa", "nf4"), sum(SMOLLM2.linears[t][0] for t in LORA.targets)
    with_it, without = (
        layer_bytes(SMOLLM2, LORA.model_copy(update={"dropout": d}), gpu, 64) / inputs for d in (dropout, 0.0)
    )
    assert with_it - without + 2 == measured  # the copy in 16 bits is kept either way


def test_the_widest_pass_is_that_of_the_worst_batch() -> None:
    assert widest_pass(8, 250, None) == (8, 256)
    assert widest_pass(8, 250, 768) == (3, 256)  # three passes of three, three and two rows
    assert widest_pass(8, 90, 768) == (8, 96)
    assert widest_pass(8, 1000, 768) == (1, 1008)
    assert widest_pass(8, 110, 768) == (8, 96)  # eight of 112 go as four and four


def test_each_setting_moves_the_memory_its_way() -> None:
    base = {"epochs": 1, "batch_size": 8}
    lengths = {"longest": 256, "longest_completion": 64, "threads": 1}
    gpu = Placement("cuda", "bfloat16", "sdpa", "none")

    def need(placement: Placement = gpu, rank: int = 16, **settings: Any) -> float:
        config = TrainingConfig(**(base | settings))
        return memory(SMOLLM2, LoraSettings(rank=rank), config, placement, **lengths).gb

    assert need(batch_size=16) > 1.5 * need()
    assert need(gradient_checkpointing=True) < 0.5 * need()
    assert need(Placement("cuda", "bfloat16", "sdpa", "nf4")) < need()
    assert need(rank=64) > need()
    # On a CPU a batch goes through in passes.
    assert need(CPU, batch_size=64) < 1.25 * need(CPU)


def test_each_lane_takes_memory_up_to_the_number_of_threads() -> None:
    def need(threads: int, longest: int = 256, **settings: Any) -> cost.Memory:
        config = TrainingConfig(**({"epochs": 1, "batch_size": 8} | settings))
        lengths = {"longest": longest, "longest_completion": 64}
        return memory(SMOLLM2, LoraSettings(rank=16), config, CPU, threads=threads, **lengths)

    one, two = need(1), need(2)
    assert two.logits == 2 * one.logits and two.adapter > one.adapter
    # 1,024 tokens, and each lane may be filled up by 32.
    assert two.activations == pytest.approx(one.activations * (1024 + 64) / 1024)
    assert need(2, batch_size=1, longest=200) == need(1, batch_size=1, longest=200)  # too few for two lanes
    assert need(2, batch_size=1, longest=4000).activations > 3 * two.activations


@pytest.mark.parametrize(
    ("said", "changes"),
    [
        ("hardware.quantization is nf4", {"quantization": "nf4"}),
        ("hardware.device is cuda", {"device": "cuda"}),
        ("hardware.dtype is float16", {"dtype": "float16"}),
        ("training.sharding is fsdp", {"sharding": "fsdp"}),
        ("lora.dropout is 0.1", {"dropout": 0.1}),
        ("training.packing is true", {"packing": True}),
        ("training.gradient_checkpointing is true", {"gradient_checkpointing": True}),
        ("training.compile is true", {"compile": True}),
    ],
)
def test_the_setting_that_keeps_layers_from_being_fused_is_named(said: str, changes: dict[str, Any]) -> None:
    def changed(settings: Any) -> Any:
        return settings.model_copy(update={n: v for n, v in changes.items() if n in type(settings).model_fields})

    placement = replace(CPU, **{n: v for n, v in changes.items() if hasattr(CPU, n)})
    assert cost.why_not_fused(LORA, TrainingConfig(epochs=1), CPU) is None
    assert cost.why_not_fused(changed(LORA), changed(TrainingConfig(epochs=1)), placement) == said


def test_a_cuda_build_of_torch_takes_memory_on_a_cpu_too(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def need(placement: Placement, build: str | None) -> float:
        monkeypatch.setattr(torch.version, "cuda", build)
        lengths = {"longest": 256, "longest_completion": 64}
        return memory(SMOLLM2, LORA, TrainingConfig(epochs=1), placement, threads=1, **lengths).gb

    gpu = Placement("cuda", "bfloat16", "sdpa", "nf4")
    assert need(CPU, "13.0") - need(CPU, None) == pytest.approx(0.37)
    assert need(gpu, "13.0") == need(gpu, None)  # a GPU's plan is of the GPU's memory


MEASURE = """
import json, sys
from pathlib import Path
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from datasets import Dataset
from t2s_assets.text2sql.base_models import Placement
from t2s_assets.text2sql.config import LoraSettings, TrainingConfig
from t2s_assets.text2sql.training.clock import Clock
from t2s_assets.text2sql.training.trainer import BudgetTrainer, arguments, step_arguments
from t2s_assets_tests.tiny import tiny_tokenizer

torch.manual_seed(1)
model = LlamaForCausalLM(LlamaConfig(vocab_size=16384, hidden_size=256, intermediate_size=1024, num_hidden_layers=24,
                                     num_attention_heads=8, num_key_value_heads=4, tie_word_embeddings=True))
tokenizer = tiny_tokenizer()
rows = [{"input_ids": [5] * 190, "labels": [-100] * 160 + [6] * 30, "length": 190} for _ in range(16)]
config = TrainingConfig(max_steps=2, batch_size=8, eval_steps=2, save_steps=2)
folder, lora = Path(sys.argv[1]), LoraSettings(rank=16, dropout=0.0 if sys.argv[2] == "fused" else 0.1)
cpu = Placement("cpu", "float32", "sdpa", "none")
trainer = BudgetTrainer(
    model=model,
    args=arguments(config, cpu, folder, max_steps=2, max_length=256),
    processing_class=tokenizer, train_dataset=Dataset.from_list(rows), eval_dataset=Dataset.from_list(rows[:2]),
    clock=Clock(folder / "plan.json"), budget_seconds=None, warmup=0.0,
    **step_arguments(model, tokenizer, lora, config, cpu, threads=1, log=print))
trainer.train()
# Not ru_maxrss: that starts with what the test's own process held when it forked this one.
(peak,) = (int(line.split()[1]) * 1024 / 1e9 for line in open("/proc/self/status") if line.startswith("VmHWM"))
print("MEASURED", json.dumps([peak, model.config.to_dict()]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read as Linux tells it")
@pytest.mark.parametrize("way", [pytest.param("transformers", marks=pytest.mark.slow), "fused"])
def test_the_peak_is_within_a_fifth_of_what_is_measured(tmp_path: Path, way: str) -> None:
    """A model of 34 million weights, trained in a process of its own as the command does it."""
    config = TrainingConfig(max_steps=2, batch_size=8, eval_steps=2, save_steps=2)
    base = {"source": "folder", "path": str(tmp_path)}
    experiment = Experiment.model_validate({"description": "d", "base_model": base, "training": config})
    environment = training.environment(Project(tmp_path, tmp_path), experiment)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path), way],
        env={**os.environ, **environment, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    measured, described = json.loads(done.stdout.split("MEASURED ")[1])
    lora = LoraSettings(rank=16, dropout=0.0 if way == "fused" else 0.1)  # nothing is fused with dropout
    told = memory(Shape.of(described), lora, config, CPU, longest=190, longest_completion=30, threads=1)
    assert told.gb == pytest.approx(measured, rel=0.2)
    assert told.activations > 0.2e9  # else the process itself would be all that is measured


def test_the_known_peak_of_a_real_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """wikisql/smollm2-cpu's first run took whole batches of up to 8 x 256 tokens in one pass, and 6.82 GB."""
    import torch

    monkeypatch.setattr(torch.version, "cuda", None)  # its figures are a CPU build's
    config = TrainingConfig(epochs=1, batch_size=8)
    lengths = {"longest": 256, "longest_completion": 80, "threads": 1}
    lora = LoraSettings(rank=16)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cost, "why_not_fused", lambda *settings: "there were no fused layers")
        assert memory(SMOLLM2, lora, config, CPU, **lengths).gb < 4
        patch.setattr(cost, "PASS_TOKENS", 8 * 256)
        assert memory(SMOLLM2, lora, config, CPU, **lengths).gb == pytest.approx(6.82, rel=0.2)
    bf16 = Placement("cpu", "bfloat16", "sdpa", "none")
    assert memory(SMOLLM2, LoraSettings(rank=16), config, bf16, **lengths).gb < 3
