"""Linear layers in int8 for the short forward passes of decoding on a CPU.

One token, or a few, make a forward pass wait for its weights: as int8 they are a quarter of the bytes. Weights have
one scale a row and 7 bits, activations one scale a pass and 8 bits: with 8 bits in both, the 16-bit sums of AVX2
saturate. A layer goes by the rows of its input alone. Whole prompts, whose first token has activations hundreds of
times larger than the others' ("massive activations", Sun et al. 2024, arXiv:2402.17762), have more than a few, and so
have full batches: they read the full weights. A small batch, or the rest of a prompt after a kept schema, may have few;
the output layer, which sees only the tokens that are asked for, mostly has.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch

from t2s_assets.text2sql.errors import ModelError

SHORT = 16
"""Tokens of the longest forward pass that reads int8 weights."""

_WEIGHT_LIMIT = 63


class Int8Linear(torch.nn.Module):
    """A linear layer with both weights: int8 for inputs of at most `SHORT` rows, the full ones for more."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight = linear.weight.detach()
        scales = weight.abs().amax(1).clamp(min=1e-8) / _WEIGHT_LIMIT
        zeros = torch.zeros(len(scales), dtype=torch.long)
        with warnings.catch_warnings():
            # PyTorch means to move these types into another package; its x86 kernels know no other form so far.
            warnings.simplefilter("ignore")
            quantised = torch.quantize_per_channel(weight, scales.double(), zeros, 0, torch.qint8)
        self._packed = torch.ops.quantized.linear_prepack(quantised, self.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.numel() > SHORT * x.shape[-1]:
            return torch.nn.functional.linear(x, self.weight, self.bias)
        return torch.ops.quantized.linear_dynamic(x, self._packed, False)


def with_int8(model: Any) -> Any:
    """`model`, its linear layers replaced in place. Raises ModelError unless it is in float32 on a CPU that can."""
    if model.device.type != "cpu" or model.dtype != torch.float32:
        raise ModelError(
            f"decoding.weights: int8 is for float32 on a CPU, and this model is {model.dtype} on "
            f"{model.device.type}; set decoding.weights: full"
        )
    if torch.backends.quantized.engine not in ("x86", "fbgemm", "onednn"):
        raise ModelError(
            f"decoding.weights: int8 needs PyTorch's x86 kernels, and here it has {torch.backends.quantized.engine!r}; "
            "set decoding.weights: full"
        )
    for name, module in list(model.named_modules()):
        if type(module) is torch.nn.Linear:
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, Int8Linear(module))
    return model
