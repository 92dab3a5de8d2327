"""Compiled loops against what PyTorch's autograd makes of the same formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from t2s_assets.text2sql.training import kernels
from t2s_assets.text2sql.training.kernels import array

pytestmark = pytest.mark.parametrize(
    ("dtype", "near"), [(torch.float32, 2e-6), (torch.bfloat16, 2.0**-8)], ids=["float32", "bfloat16"]
)


def drawn(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(math.prod(shape))).to(dtype)


def assert_near(mine: Tensor, exact: Tensor, near: float) -> None:
    torch.testing.assert_close(mine.float(), exact, rtol=near, atol=near)


@pytest.mark.parametrize("shape", [(7, 40), (3, 1), (1, 577)])
def test_norms(dtype: torch.dtype, near: float, shape: tuple[int, int]) -> None:
    x, added, weight, dy = (drawn(*s, dtype=dtype) for s in (shape, shape, shape[1:], shape))
    out, total, inverse = torch.empty_like(x), torch.empty(shape), torch.empty(shape[0])
    exact = (x.float() + added.float()).requires_grad_()
    normed = F.rms_norm(exact, shape[1:], weight.float(), 1e-5)
    normed.backward(dy.float())
    kernels.add_rms_norm(array(x), array(added), array(weight), 1e-5, array(total), array(out), array(inverse))
    assert_near(total, exact.detach(), 2e-6)
    assert_near(out, normed.detach(), near * 4)
    again, of_it = torch.empty_like(x), torch.empty_like(inverse)
    kernels.rms_norm(array(total), array(weight), 1e-5, array(again), array(of_it))
    assert torch.equal(again, out) and torch.equal(of_it, inverse)
    dx, rounded = torch.full(shape, 0.5), torch.empty_like(x)
    kernels.rms_norm_back(array(dy), array(total), array(weight), array(inverse), array(dx), array(rounded))
    assert_near(dx - 0.5, exact.grad, 1e-5)
    assert torch.equal(rounded, dx.to(dtype))


@pytest.mark.parametrize("scale", [1, 30, 200])
def test_swiglu(dtype: torch.dtype, near: float, scale: float) -> None:
    both, dy = drawn(5, 74, dtype=dtype) * scale, drawn(5, 37, dtype=dtype)
    exact = both.float().requires_grad_()
    gate, up = exact.chunk(2, dim=1)
    gated = F.silu(gate) * up
    gated.backward(dy.float())
    # Rows may go on: what stands there is others'.
    out, wide = torch.full((5, 40), torch.nan, dtype=dtype), F.pad(both, (0, 3), value=torch.nan)
    kernels.swiglu(array(wide), 37, array(out))
    assert_near(out[:, :37], gated.detach(), near)
    kernels.swiglu_back(array(dy), array(wide))
    assert_near(wide[:, :74], exact.grad, near * 2)
    assert out[:, 37:].isnan().all() and wide[:, 74:].isnan().all()


def test_softmax_of_the_keys_a_query_looks_at(dtype: torch.dtype, near: float) -> None:
    rows, heads, shared, width, length = 3, 2, 2, 5, 24
    scores, dy = (drawn(rows * heads, shared * width, length, dtype=dtype) * 8 for _ in range(2))
    looks_at = torch.randint(1, length + 1, (rows, width), generator=torch.Generator().manual_seed(0))
    hidden = torch.arange(length) >= looks_at[:, None, None, :, None].expand(rows, heads, shared, width, 1)
    exact = scores.float().requires_grad_()
    shares = exact.masked_fill(hidden.reshape(scores.shape), -torch.inf).softmax(-1)
    shares.backward(dy.float())
    kernels.softmax(array(scores), array(looks_at))
    assert_near(scores, shares.detach(), near)
    assert (scores.masked_select(hidden.reshape(scores.shape)) == 0).all()
    kernels.softmax_back(array(dy), array(scores), array(looks_at))
    assert_near(dy, exact.grad, near * 8)


def test_cross_entropy(dtype: torch.dtype, near: float) -> None:
    logits, targets = drawn(6, 301, dtype=dtype) * 9 - 40, torch.tensor([0, 300, 7, 7, 150, 2])
    exact = logits.float().requires_grad_()
    theirs = F.cross_entropy(exact, targets, reduction="none")
    theirs.sum().backward()
    losses = torch.empty(6)
    kernels.cross_entropy(array(logits), array(targets), array(losses))
    assert_near(losses, theirs.detach(), 2e-6)
    assert_near(logits, exact.grad, near)


def test_heads_are_turned_and_come_back(dtype: torch.dtype, near: float) -> None:
    """As transformers' rotary embedding turns them; an entry taken twice gets both gradients."""
    tokens, heads, turned, queries, size, scale = 4, 5, 4, 2, 6, 0.25
    entries = drawn(tokens * heads, size, dtype=dtype)
    angles = torch.rand(tokens, size // 2, generator=torch.Generator().manual_seed(1)) * 6
    exact = entries.float().requires_grad_()
    x = exact.view(tokens, heads, size)
    half = torch.cat([-x[..., size // 2 :], x[..., : size // 2]], -1)
    wide = torch.cat([angles, angles], -1)[:, None]
    rotated = torch.cat([(x * wide.cos() + half * wide.sin())[:, :turned], x[:, turned:]], 1)
    factors = torch.ones(heads)
    factors[:queries] = scale
    sources = torch.tensor([3, 0, 19, 4, 7, 7, 12])
    wanted = (rotated * factors[:, None]).view(-1, size)[sources]
    dy = drawn(len(sources), size, dtype=dtype)
    wanted.backward(dy.float())
    turning = array(angles.cos()), array(angles.sin()), np.array([queries, turned]), scale
    out = torch.empty_like(dy)
    kernels.take_heads(array(entries), array(sources), *turning, array(out))
    assert_near(out, wanted.detach(), near)
    places = sources.argsort(stable=True)
    starts = torch.zeros(len(entries) + 1, dtype=torch.long)
    starts[1:] = sources.bincount(minlength=len(entries)).cumsum(0)
    back = torch.full((tokens, heads * size + 2), torch.nan, dtype=dtype)
    kernels.give_heads_back(array(dy), array(starts), array(places), *turning, array(back))
    assert_near(back[:, : heads * size].reshape(entries.shape), exact.grad, near * 2)
    assert back[:, heads * size :].isnan().all()


def test_heads_stand_side_by_side(dtype: torch.dtype, near: float) -> None:
    x, out = drawn(7, 3, dtype=dtype), torch.full((2, 8), torch.nan, dtype=dtype)
    kernels.put_heads(array(x), np.array([6, 0, 2, 5]), array(out))
    assert torch.equal(out[:, :6], x[[6, 0, 2, 5]].view(2, 6))
    assert out[:, 6:].isnan().all()


def test_rows_that_are_not_there_are_zero(dtype: torch.dtype, near: float) -> None:
    x, out = drawn(3, 5, dtype=dtype), torch.empty(4, 5, dtype=dtype)
    kernels.take_rows(array(x), np.array([2, 3, 0, 2]), array(out))
    assert torch.equal(out, torch.stack([x[2], torch.zeros(5, dtype=dtype), x[0], x[2]]))


@pytest.mark.parametrize("negative", [False, True])
def test_what_is_not_a_number_stays_so(dtype: torch.dtype, near: float, negative: bool) -> None:
    """A loss that is NaN ends a training: no loop may turn it into a number, whatever its sign bit."""
    x = drawn(2, 64, dtype=dtype)
    x[0, 40] = math.nan
    if negative:  # its bits: torch drops the sign of a bfloat16 that is NaN
        bits = x.view(torch.int16 if dtype == torch.bfloat16 else torch.int32)
        bits[0, 40] |= torch.iinfo(bits.dtype).min
    out, inverse = torch.empty_like(x), torch.empty(2)
    kernels.rms_norm(array(x), array(torch.ones(64, dtype=dtype)), 1e-5, array(out), array(inverse))
    assert out[0].isnan().all() and not out[1].isnan().any()
    gated = torch.empty(2, 32, dtype=dtype)
    kernels.swiglu(array(x), gated.shape[1], array(gated))
    assert gated.isnan().nonzero().tolist() == [[0, 8]]
    scores = x.clone().view(1, 2, 64)
    kernels.softmax(array(scores), np.array([[64, 64]]))
    assert scores[0, 0].isnan().all() and not scores[0, 1].isnan().any()
    losses = torch.empty(2)
    kernels.cross_entropy(array(x), np.array([3, 3]), array(losses))
    assert losses.isnan().tolist() == [True, False]
