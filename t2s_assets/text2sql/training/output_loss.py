"""The output layer with the cross entropy, for labelled tokens only, with its gradient.

Logits are made in chunks and never kept, as in Liger Kernel (Hsu et al. 2024, arXiv:2410.10989). Used by `fused`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from t2s_assets.text2sql.training import kernels
from t2s_assets.text2sql.training.cost import LOGITS_ROWS
from t2s_assets.text2sql.training.joint_linears import Take
from t2s_assets.text2sql.training.kernels import array


def output_loss(hidden: Tensor, weight: Tensor, targets: Tensor, take: Take, gradient: Tensor | None = None) -> Tensor:
    """Sum over n tokens of the negative log-likelihood of `targets` (n,), a float32 scalar.

    `hidden` (n, size) are the states that predict them, `weight` (vocabulary, size) the frozen output layer; `take`
    gives memory that is needed until this returns. Into `gradient` (n, size) goes that of `hidden`.
    """
    losses = torch.empty(len(hidden))
    # The same for all chunks: allocated anew, the system would have to find their pages again.
    products = take((min(len(hidden), LOGITS_ROWS), len(weight)))
    for at in range(0, len(hidden), LOGITS_ROWS):
        rows = slice(at, at + LOGITS_ROWS)
        logits = products[: len(hidden[rows])]
        torch.mm(hidden[rows], weight.t(), out=logits)
        kernels.cross_entropy(array(logits), array(targets[rows]), array(losses[rows]))
        if gradient is not None:
            torch.mm(logits, weight, out=gradient[rows])
    return losses.sum()
