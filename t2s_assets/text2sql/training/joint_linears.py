"""Linear layers with LoRA that read the same input, as one, with the derivatives written out.

Query, key and value are one product, gate and up another, and so are their LoRA matrices: A's are stacked, and B's
stand in a block-diagonal matrix, whose zeros cost less than the passes over memory that they save. The base's weights
are frozen and get no gradient. Used by `fused`.

LoRA's part is computed first, and the base's product adds to it before it is rounded. The other way round, as PEFT has
it, bfloat16 rounds the base's output to its 8 bits, and what a young adapter adds is mostly less than half the last of
them: the sum rounds back to the output without it, and training learns as if it had taken smaller steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from t2s_assets.text2sql.training.arena import empty


@dataclass(frozen=True)
class Joint:
    """Linear layers of one input: x W' + b, and scale (x A') B' of those that are adapted.

    `weight` (outputs of all, inputs) and `bias` (outputs of all,) are frozen. For each adapted layer, in their order:
    `a` (rank, inputs), `b` (its outputs, rank), and `places`, its first output and the first after it. `scales`
    (ranks of all, 1) holds each layer's scale once for each of its ranks, float32.
    """

    weight: Tensor
    bias: Tensor | None
    a: tuple[Tensor, ...]
    b: tuple[Tensor, ...]
    places: tuple[tuple[int, int], ...]
    scales: Tensor | None

    @classmethod
    def of(cls, modules: Sequence[Any]) -> Joint:
        """The linear layers `modules`, with PEFT's LoRA around them or without.

        Where they are several, their weights become parts of the joint one: none is in memory twice.
        """
        bases = [getattr(module, "base_layer", module) for module in modules]
        weight = bases[0].weight.data if len(bases) == 1 else torch.cat([base.weight.data for base in bases])
        biases = [base.bias for base in bases]
        bias, a, b, places, scales, end = None, [], [], [], [], 0
        if any(each is not None for each in biases):
            bias = torch.cat([weight.new_zeros(len(m.weight)) if m.bias is None else m.bias.data for m in bases])
        for module, base in zip(modules, bases):
            start, end = end, end + len(base.weight)
            base.weight.data = weight[start:end]
            if hasattr(module, "lora_A"):
                (name,) = module.active_adapters
                a.append(module.lora_A[name].weight)
                b.append(module.lora_B[name].weight)
                places.append((start, end))
                scales += [module.scaling[name]] * len(a[-1])
        return cls(weight, bias, tuple(a), tuple(b), tuple(places), torch.tensor(scales)[:, None] if a else None)

    def __call__(self, x: Tensor, *, lasting: bool = False) -> Tensor:
        """(tokens, outputs of all) for `x` (tokens, inputs) of the weight's type.

        `lasting`: what takes them keeps them for its backward half, and so they belong in the arena.
        """
        return _Linears.apply(x, self, lasting, *self.a, *self.b)


class _Linears(Function):
    """`Joint`'s outputs; float32 gradients for A and B."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, joint: Joint, lasting: bool, *lora: Tensor) -> Tensor:
        out = empty((len(x), len(joint.weight)), x.dtype) if lasting else x.new_empty(len(x), len(joint.weight))
        ctx.joint = joint
        if lora:
            down = torch.cat(joint.a).mul_(joint.scales).to(x.dtype)
            up = x.new_zeros(len(down), len(joint.weight))
            for block, b in zip(_blocks(up, joint), joint.b):
                block.copy_(b.t())
            narrow = torch.mm(x, down.t(), out=empty((len(x), len(down)), x.dtype))
            ctx.save_for_backward(x, narrow, down, up)
            torch.mm(narrow, up, out=out).addmm_(x, joint.weight.t())
            return out if joint.bias is None else out.add_(joint.bias)
        if joint.bias is None:
            return torch.mm(x, joint.weight.t(), out=out)
        return torch.addmm(joint.bias, x, joint.weight.t(), out=out)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
        joint = ctx.joint
        if not joint.a:
            return (dy @ joint.weight if ctx.needs_input_grad[0] else None), None, None
        x, narrow, down, up = ctx.saved_tensors
        dnarrow = dy @ up.t()
        dx = (dnarrow @ down).addmm_(dy, joint.weight) if ctx.needs_input_grad[0] else None
        da = (dnarrow.t() @ x).float().mul_(joint.scales).split([len(a) for a in joint.a])
        db = [block.t() for block in _blocks((narrow.t() @ dy).float(), joint)]
        return dx, None, None, *da, *db


def _blocks(matrix: Tensor, joint: Joint) -> list[Tensor]:
    """Of a matrix (ranks of all, outputs of all) each adapted layer's own block."""
    rows = matrix.split([len(a) for a in joint.a])
    return [block[:, start:end] for block, (start, end) in zip(rows, joint.places)]
