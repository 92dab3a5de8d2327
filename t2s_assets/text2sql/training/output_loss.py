"""The output layer with the cross entropy, for labelled tokens only, with its derivative written out.

Logits are made in chunks and never kept, as in Liger Kernel (Hsu et al. 2024, arXiv:2410.10989). Used by `fused`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from t2s_assets.text2sql.training.arena import empty
from t2s_assets.text2sql.training.cost import LOGITS_ROWS


class _Loss(Function):
    """Sum of the cross entropy of `hidden` (n, size) through the frozen output layer, against `targets` (n,)."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        total = hidden.new_zeros((), dtype=torch.float32)
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        most = (min(len(hidden), LOGITS_ROWS), len(weight))
        # The same for all chunks: allocated anew, the system would have to find their pages again.
        products, exact = empty(most, hidden.dtype), empty(most, torch.float32)
        with torch.autocast(hidden.device.type, enabled=False):
            for at in range(0, len(hidden), LOGITS_ROWS):
                part, target = hidden[at : at + LOGITS_ROWS], targets[at : at + LOGITS_ROWS, None]
                rounded, logits = products[: len(part)], exact[: len(part)]
                logits.copy_(torch.mm(part, weight.t(), out=rounded))
                logits.sub_(logits.amax(-1, keepdim=True))
                right = logits.gather(1, target)
                shares = logits.exp_()
                sums = shares.sum(-1, keepdim=True)
                total += (sums.log() - right).sum()
                if gradient is not None:
                    shares.div_(sums).scatter_add_(1, target, torch.full_like(right, -1.0))
                    torch.mm(rounded.copy_(shares), weight, out=gradient[at : at + LOGITS_ROWS])
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, None, None]:
        (gradient,) = ctx.saved_tensors
        return (None if gradient is None else gradient * dy.to(gradient.dtype)), None, None


def output_loss(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Sum over n tokens of the negative log-likelihood of `targets` (n,), a float32 scalar.

    `hidden` (n, size) are the states that predict them, `weight` (vocabulary, size) the frozen output layer.
    """
    return _Loss.apply(hidden, weight, targets)
