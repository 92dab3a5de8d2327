"""Linear layers with LoRA that read the same input, as one, and their gradients.

Query, key and value are one product, gate and up another, and so are their LoRA matrices: A's are stacked, and B's
stand in a block-diagonal matrix, whose zeros cost less than the passes over memory that they save. The base's weights
are frozen and get no gradient. Used by `fused`.

LoRA's part is a part of the base's product: an input x and its bottleneck x A' stand side by side in memory, and so do
the base's weights and B, so that one product is x W' + (x A') B'. Two products would write the output and read it
again. And as PEFT has it, bfloat16 rounds the base's output to its 8 bits before LoRA's part is added, and what a young
adapter adds is mostly less than half the last of them: the sum rounds back to the output without it, and training
learns as if it had taken smaller steps. The gradient of x is one product in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from t2s_assets.text2sql.training.cost import ROW_ENTRIES, room

Take = Callable[[tuple[int, ...]], Tensor]
"""Gives an uninitialised tensor of a shape, of the type that products take."""


def _clear(x: Tensor, first: int, used: int) -> None:
    """Zeros behind the entries of rows that a product reads, `first` or `used`, in memory that nobody wrote to.

    oneDNN's kernels for AMX multiply by ROW_ENTRIES entries at once. Where a row goes on, they read what stands behind
    the last of a product, and multiply it by zero: a NaN that stands there would be the result.
    """
    start = first if first % ROW_ENTRIES else used
    if start < x.shape[1]:
        x[:, start:].zero_()


@dataclass
class Joint:
    """Linear layers of one input: x W' + b, and scale (x A') B' of those that are adapted.

    `matrix` (`outputs` + `ranks`, at least `inputs` + `ranks`) has the frozen weights of all, to the right of them B's
    and below them A's with their scales, which `renew` puts there; `bias` (`outputs`,) is frozen. For each adapted
    layer, in their order: `a` (rank, inputs), `b` (its outputs, rank), and `places`, its first output and the first
    after it. `scales` (ranks of all, 1) holds each layer's scale once for each of its ranks, float32.
    """

    matrix: Tensor
    inputs: int
    outputs: int
    bias: Tensor | None
    a: tuple[Parameter, ...]
    b: tuple[Parameter, ...]
    places: tuple[tuple[int, int], ...]
    scales: Tensor

    def __post_init__(self) -> None:
        self.ranks = len(self.scales)
        # Entries of a row that holds an input, or an output's gradient, with room for its bottleneck.
        self.wide_input, self.wide_output = room(self.inputs + self.ranks), room(self.outputs + self.ranks)
        self.down = self.matrix[self.outputs :, : self.inputs]
        self.up = self.matrix[: self.outputs, self.inputs : self.inputs + self.ranks]
        self.renew()

    @classmethod
    def of(cls, modules: Sequence[Any]) -> Joint:
        """The linear layers `modules`, with PEFT's LoRA around them or without.

        Their weights become parts of the joint matrix, so that no product reads another copy.
        """
        bases = [getattr(module, "base_layer", module) for module in modules]
        biases = [base.bias for base in bases]
        bias, a, b, places, scales, end = None, [], [], [], [], 0
        if any(each is not None for each in biases):
            zeros = [m.weight.new_zeros(len(m.weight)) if m.bias is None else m.bias.data for m in bases]
            bias = torch.cat(zeros)
        for module, base in zip(modules, bases):
            start, end = end, end + len(base.weight)
            if hasattr(module, "lora_A"):
                (name,) = module.active_adapters
                a.append(module.lora_A[name].weight)
                b.append(module.lora_B[name].weight)
                places.append((start, end))
                scales += [module.scaling[name]] * len(a[-1])
        inputs = bases[0].weight.shape[1]
        matrix = bases[0].weight.data.new_zeros(end + len(scales), room(inputs + len(scales)))
        for base, part in zip(bases, matrix[:end, :inputs].split([len(base.weight) for base in bases])):
            base.weight.data = part.copy_(base.weight.data)
        return cls(matrix, inputs, end, bias, tuple(a), tuple(b), tuple(places), torch.tensor(scales)[:, None])

    def renew(self) -> None:
        """Take over what an optimizer made of A and B."""
        if self.a:
            with torch.no_grad():
                self.down.copy_(torch.cat(self.a).mul_(self.scales))
                for block, b in zip(self._blocks(self.up.t()), self.b):
                    block.copy_(b.t())

    def forward(self, x: Tensor, out: Tensor) -> None:
        """Into `out` (tokens, outputs) what the layers make of the first `inputs` entries of x (tokens, wide_input).

        Behind them x gets the bottlenecks, for `backward`.
        """
        used = self.inputs + self.ranks
        _clear(x, self.inputs, used)
        if self.ranks:
            torch.mm(x[:, : self.inputs], self.down.t(), out=x[:, self.inputs : used])
        torch.mm(x[:, :used], self.matrix[: self.outputs, :used].t(), out=out)
        if self.bias is not None:
            out.add_(self.bias)

    def backward(self, dy: Tensor, x: Tensor, dx: Tensor | None, gradients: Gradients, take: Take) -> None:
        """Into `dx` (tokens, inputs) the gradient of x, unless None, and into `gradients` those of LoRA's matrices.

        x as `forward` left it; the gradient of the output is in the first `outputs` entries of dy (tokens,
        wide_output), behind which the bottlenecks' gradients are put.
        """
        used = self.outputs + self.ranks
        _clear(dy, self.outputs, used)
        if self.ranks:
            given, narrow = dy[:, : self.outputs], x[:, self.inputs : self.inputs + self.ranks]
            dnarrow = torch.mm(given, self.up, out=dy[:, self.outputs : used])
            # Their columns as rows: products take twice as long where they have to turn the narrow one themselves.
            across = take((self.ranks, len(x)))
            down = torch.mm(across.copy_(dnarrow.t()), x[:, : self.inputs], out=take((self.ranks, self.inputs)))
            up = torch.mm(across.copy_(narrow.t()), given, out=take((self.ranks, self.outputs)))
            gradients.add(down, up)
        if dx is not None:
            torch.mm(dy[:, :used], self.matrix[:, : self.inputs], out=dx)

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
        self.down = torch.empty(joint.ranks, joint.inputs)
        self.up = torch.empty(joint.ranks, joint.outputs)
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
