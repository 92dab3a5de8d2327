"""Joint linear layers against their formulas, in memory where NaN stood before."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model

from t2s_assets.text2sql.training.joint_linears import Gradients, Joint

TOKENS = 64


# The first are those of query, key and value of SmolLM2, for which oneDNN reads behind a row's entries.
@pytest.mark.parametrize(("inputs", "outputs", "rank"), [(576, (576, 192, 192), 16), (50, (33, 70), 3), (64, (96,), 4)])
@pytest.mark.parametrize("adapted", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_stood_in_memory_counts_nothing(
    inputs: int, outputs: tuple[int, ...], rank: int, adapted: bool, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    plain = torch.nn.Sequential(*[torch.nn.Linear(inputs, each, bias=False) for each in outputs])
    targets = [str(at) for at in range(len(outputs))] if adapted else ["0"]
    model = get_peft_model(plain, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets))
    layers = list(model.base_model.model) if adapted else [model.base_model.model[0].base_layer, *plain[1:]]
    for name, weight in model.named_parameters():
        if "lora_" in name:
            weight.data = torch.randn(weight.shape) * 0.1
        else:
            weight.data = weight.data.to(dtype)
    weight = torch.cat([layer.weight.data for layer in layers]).float()
    added = [layer.get_delta_weight("default") for layer in layers] if adapted else []
    whole = weight + torch.cat(added) if adapted else weight
    joint = Joint.of(layers)
    assert torch.equal(torch.cat([layer.weight.data for layer in layers]).float(), weight), "the model keeps its own"

    x, dy = torch.randn(TOKENS, inputs).to(dtype), torch.randn(TOKENS, len(weight)).to(dtype)
    wide_x, wide_dy = (torch.full((TOKENS, n), torch.nan, dtype=dtype) for n in (joint.wide_input, joint.wide_output))
    wide_x[:, :inputs], wide_dy[:, : len(weight)] = x, dy
    out, dx = torch.empty(TOKENS, len(weight), dtype=dtype), torch.empty(TOKENS, inputs, dtype=dtype)
    gradients = Gradients(joint)
    with torch.inference_mode():
        joint.forward(wide_x, out)
        joint.backward(wide_dy, wide_x, dx, gradients, lambda shape: torch.empty(shape, dtype=dtype))

    near = 2e-5 if dtype == torch.float32 else 2e-2
    for got, wanted in ((out, x.float() @ whole.t()), (dx, dy.float() @ whole)):
        assert (got.float() - wanted).norm() < near * wanted.norm()
    if adapted:
        joint.spread(gradients, 1.0)
        at = 0
        for layer, size in zip(layers, outputs):
            a, b, scale = layer.lora_A.default.weight, layer.lora_B.default.weight, layer.scaling["default"]
            given = dy[:, at : at + size].float()
            at += size
            for parameter, wanted in (
                (a, scale * (given @ b).t() @ x.float()),
                (b, scale * given.t() @ (x.float() @ a.t())),
            ):
                assert (parameter.grad - wanted).norm() < near * wanted.norm()
