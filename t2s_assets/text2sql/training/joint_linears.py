"""Linear layers with LoRA that read the same input, as one, and their gradients.

Query, key and value are one product, gate and up another, and so are their LoRA matrices: A's are stacked, and B's
stand in a block-diagonal matrix, whose zeros cost less than the passes over memory that they save. The base's weights
are frozen and get no gradient. Used by `fused`.

LoRA's part is computed first, and the base's product adds to it before it is rounded. The other way round, as PEFT has
it, bfloat16 rounds the base's output to its 8 bits, and what a young adapter adds is mostly less than half the last of
them: the sum rounds back to the output without it, and training learns as if it had taken smaller steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

Take = Callable[[tuple[int, ...]], Tensor]
"""Gives an uninitialised tensor of a shape, of the type that products take."""


@dataclass
class Joint:
    """Linear layers of one input: x W' + b, and scale (x A') B' of those that are adapted.

    `weight` (outputs of all, inputs) and `bias` (outputs of all,) are frozen. For each adapted layer, in their order:
    `a` (rank, inputs), `b` (its outputs, rank), and `places`, its first output and the first after it. `scales`
    (ranks of all, 1) holds each layer's scale once for each of its ranks, float32.
    """

    weight: Tensor
    bias: Tensor | None
    a: tuple[Parameter, ...]
    b: tuple[Parameter, ...]
    places: tuple[tuple[int, int], ...]
    scales: Tensor
    # LoRA's matrices as products take them, (ranks, inputs) with the scales and (ranks, outputs): `renew` makes them.
    down: Tensor = field(init=False)
    up: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.down = self.weight.new_empty(len(self.scales), self.weight.shape[1])
        self.up = self.weight.new_zeros(len(self.scales), len(self.weight))
        self.renew()

    @classmethod
    def of(cls, modules: Sequence[Any]) -> Joint:
        """The linear layers `modules`, with PEFT's LoRA around them or without.

        Where they are several, their weights become parts of the joint one, so that no product reads another copy.
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
        return cls(weight, bias, tuple(a), tuple(b), tuple(places), torch.tensor(scales)[:, None])

    def renew(self) -> None:
        """Take over what an optimizer made of A and B."""
        if self.a:
            with torch.no_grad():
                self.down.copy_(torch.cat(self.a).mul_(self.scales))
                for block, b in zip(self._blocks(self.up), self.b):
                    block.copy_(b.t())

    def forward(self, x: Tensor, out: Tensor, keep: Take) -> Tensor | None:
        """Into `out` (tokens, outputs of all) what the layers make of `x` (tokens, inputs).

        Returns what `backward` needs besides x, in memory that `keep` gives.
        """
        narrow = None
        if self.a:
            narrow = torch.mm(x, self.down.t(), out=keep((len(x), len(self.down))))
            torch.mm(narrow, self.up, out=out).addmm_(x, self.weight.t())
        else:
            torch.mm(x, self.weight.t(), out=out)
        if self.bias is not None:
            out.add_(self.bias)
        return narrow

    def backward(
        self, dy: Tensor, x: Tensor, narrow: Tensor | None, dx: Tensor | None, gradients: Gradients, take: Take
    ) -> None:
        """Into `dx` the gradient of x, unless None, and into `gradients` those of LoRA's matrices."""
        if narrow is None:
            if dx is not None:
                torch.mm(dy, self.weight, out=dx)
            return
        dnarrow = torch.mm(dy, self.up.t(), out=take(narrow.shape))
        gradients.add(
            torch.mm(dnarrow.t(), x, out=take(self.down.shape)), torch.mm(narrow.t(), dy, out=take(self.up.shape))
        )
        if dx is not None:
            torch.mm(dnarrow, self.down, out=dx).addmm_(dy, self.weight)

    def _blocks(self, matrix: Tensor) -> list[Tensor]:
        """Of a matrix (ranks of all, outputs of all) each adapted layer's own block."""
        rows = matrix.split([len(a) for a in self.a])
        return [block[:, start:end] for block, (start, end) in zip(rows, self.places)]

    def spread(self, sums: Gradients, factor: float) -> None:
        """Add to the gradients of A and B what `sums` hold, `factor` times."""
        if not self.a:
            return
        parts = [*(sums.down * self.scales).split([len(a) for a in self.a])]
        parts += [block.t() for block in self._blocks(sums.up)]
        for parameter, part in zip([*self.a, *self.b], parts):
            part = torch.mul(part, factor, out=torch.empty(parameter.shape))
            parameter.grad = part if parameter.grad is None else parameter.grad.add_(part)


class Gradients:
    """Sums, in float32, of the gradients of a joint's `down` and `up` over passes."""

    def __init__(self, joint: Joint) -> None:
        self.down, self.up = torch.empty(joint.down.shape), torch.empty(joint.up.shape)
        self.clear()

    def clear(self) -> None:
        """Start over."""
        self._begun = False

    def add(self, down: Tensor, up: Tensor) -> None:
        """A pass' gradients."""
        if self._begun:
            self.down.add_(down)
            self.up.add_(up)
        else:
            self.down.copy_(down)
            self.up.copy_(up)
            self._begun = True

    def merge(self, other: Gradients) -> None:
        """The sums of other passes."""
        if other._begun:
            self.add(other.down, other.up)
