"""LoRA training of Llama-like decoders with few, large operations: for CPUs, where every pass over memory counts.

transformers and PEFT write a layer as some sixty operations whose intermediate results autograd keeps and reads
again; LoRA's float32 masters, cast under autocast, add copies of each layer's input. Here a layer is a handful of
`autograd.Function`s with their derivatives written out:

- linear layers that read the same input (query, key, value; gate, up) with their LoRA matrices, as one node: the
  gradients for their common input are accumulated in place. The base's weights are frozen and get no gradient.
- RMSNorm (Zhang and Sennrich 2019), rotary embedding (Su et al. 2021), SwiGLU (Shazeer 2020): one node each.
- attention over rows of different lengths, without padding (`RowGroup`), with keys and values not repeated for the
  query heads that share them (Ainslie et al. 2023).
- what is kept for the backward half lies in an `arena`, and not between other things on the heap.
- the output layer with the cross entropy, for labelled tokens only: their logits are made in chunks and never kept,
  as in Liger Kernel (Hsu et al. 2024, arXiv:2410.10989).

Results are those of the modules replaced, up to rounding; a test holds losses and gradients against them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from transformers import AttentionInterface, PreTrainedModel

from t2s_assets.text2sql.training.arena import Arena, empty, kept, taking_from
from t2s_assets.text2sql.training.cost import LOGITS_ROWS

_FAMILIES = frozenset({"llama", "mistral", "qwen2"})
_NAME = "t2s_fused"


@dataclass(frozen=True)
class RowGroup:
    """Rows of a flat sequence of T tokens that attend alike.

    `queries` (rows, width): index of each query token, T where a row has fewer; `keys` (rows, length): of each key
    token, 0 where a row has fewer; `mask`: what is added to the scores, -inf where a query may not look and else 0,
    (rows, width, length) as it is made, (rows * key heads, shared * width, length) as attention takes it.
    """

    queries: Tensor
    keys: Tensor
    mask: Tensor


@dataclass(frozen=True)
class Rows:
    """How a flat sequence attends: its groups, and `places` (T,), where each token is among all groups' queries."""

    groups: tuple[RowGroup, ...]
    places: Tensor


_rows: ContextVar[Rows] = ContextVar("t2s_fused_rows")


class Projection(NamedTuple):
    """A linear layer, and its LoRA matrices where it has them: x W' + b + scale (x A') B'."""

    weight: Tensor
    bias: Tensor | None
    a: Tensor | None
    b: Tensor | None
    scale: float


class _Linears(Function):
    """Several projections of one input (tokens, inputs) of the compute type; float32 gradients for A and B.

    Their A matrices are stacked: a product with one of a few rows takes nearly as long as with three times as many.
    `lasting`: the outputs are kept for a backward half, and so belong in the arena.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scales: tuple[float, ...], lasting: bool, *tensors: Tensor | None
    ) -> tuple[Tensor, ...]:
        weights, biases, a_s, b_s = (tensors[i::4] for i in range(4))
        outputs = [
            _times(x, weight, bias) if lasting else torch.nn.functional.linear(x, weight, bias)
            for weight, bias in zip(weights, biases)
        ]
        ctx.ranks = [0 if b is None else b.shape[1] for b in b_s]
        ctx.scales = scales
        saved: list[Tensor | None] = [x, *weights]
        if any(ctx.ranks):
            stacked = torch.cat([a.to(x.dtype) for a in a_s if a is not None])
            h = _times(x, stacked)
            scaled = [None if b is None else (b * scale).to(x.dtype) for b, scale in zip(b_s, scales)]
            for y, b, part in zip(outputs, scaled, h.split(ctx.ranks, dim=1)):
                if b is not None:
                    y.addmm_(part, b.t())
            saved += [stacked, h, *scaled]
        ctx.save_for_backward(*saved)
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        count = len(gradients)
        x, *saved = ctx.saved_tensors
        weights, lora = saved[:count], saved[count:]
        dx = None
        if ctx.needs_input_grad[0]:
            dx = gradients[0] @ weights[0]
            for dy, weight in zip(gradients[1:], weights[1:]):
                dx.addmm_(dy, weight)
        if not lora:
            return dx, None, None, *[None] * (4 * count)
        stacked, h, *scaled = lora
        dh = torch.cat([dy @ b for dy, b in zip(gradients, scaled) if b is not None], dim=1)
        da = (dh.t() @ x).float().split(ctx.ranks)
        if dx is not None:
            dx.addmm_(dh, stacked)
        found: list[Tensor | None] = []
        for dy, b, part, a, scale in zip(gradients, scaled, h.split(ctx.ranks, dim=1), da, ctx.scales):
            found += [None] * 4 if b is None else [None, None, a, (part.t() @ dy).t().float().mul_(scale)]
        return dx, None, None, *found


def _times(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W' + b, to be kept."""
    out = empty((x.shape[0], weight.shape[0]), x.dtype)
    return torch.mm(x, weight.t(), out=out) if bias is None else torch.addmm(bias, x, weight.t(), out=out)


def project(x: Tensor, projections: Sequence[Projection], *, lasting: bool = False) -> tuple[Tensor, ...]:
    """Each projection of `x` (tokens, inputs). `lasting`: what takes them keeps them for its backward half."""
    tensors = [t for p in projections for t in (p.weight, p.bias, p.a, p.b)]
    return _Linears.apply(x, tuple(p.scale for p in projections), lasting, *tensors)


class _Norm(Function):
    """RMSNorm of the last dimension, in float32 inside; the weight is frozen."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        size = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        inverse = torch.rsqrt(size.square_().div_(x.shape[-1]).add_(epsilon))
        ctx.save_for_backward(x, weight, inverse)
        return kept(x * inverse, x.dtype).mul_(weight)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None]:
        x, weight, inverse = ctx.saved_tensors
        normed = x * inverse
        g = (dy * weight).float()
        mean = (g * normed).mean(-1, keepdim=True)
        return g.sub_(normed.mul_(mean)).mul_(inverse).to(x.dtype), None, None


class _Rotate(Function):
    """Rotary position embedding of x (tokens, heads, size); cos, sin (tokens, 1, size / 2)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotated(x, cos, sin)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _rotated(dy, cos, sin.neg()), None, None


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    first, second = x[..., :half], x[..., half:]
    out = torch.empty_like(x)
    torch.mul(first, cos, out=out[..., :half]).addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=out[..., half:]).addcmul_(first, sin)
    return out


class _Gated(Function):
    """silu(gate) * up."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        active = torch.ops.aten.silu.out(gate, out=empty(gate.shape, gate.dtype))
        ctx.save_for_backward(gate, up, active)
        return torch.mul(active, up, out=empty(up.shape, up.dtype))

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor]:
        gate, up, active = ctx.saved_tensors
        return torch.ops.aten.silu_backward(dy * up, gate), dy * active


class _Attend(Function):
    """Scaled dot-product attention: q (T, heads, size), k and v (T, key heads, size) to (T, heads, size)."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, scale: float, rows: Rows) -> Tensor:
        sizes = _Sizes(k.shape[1], q.shape[1] // k.shape[1], q.shape[2])
        saved, slots = [], []
        with torch.autocast(q.device.type, enabled=False):
            padded = _with_blank(q * scale)
            for group in rows.groups:
                query = _queries(padded, group, sizes)
                key, value = (_keys(t, group, sizes) for t in (k, v))
                scores = torch.baddbmm(group.mask, query, key.transpose(1, 2))
                # By way of float32 in two casts: half the time of a CPU's softmax over bfloat16.
                weights = kept(torch.softmax(scores.float(), -1), q.dtype)
                slots.append(_slots(torch.bmm(weights, value), group, sizes))
                saved += [query, key, value, weights]
        ctx.scale, ctx.rows, ctx.shape, ctx.sizes = scale, rows, q.shape, sizes
        ctx.save_for_backward(*saved)
        out = empty((q.shape[0], q.shape[1] * q.shape[2]), q.dtype)
        return torch.index_select(torch.cat(slots), 0, rows.places, out=out).view(q.shape)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
        saved, sizes, slots = list(ctx.saved_tensors), ctx.sizes, []
        # Questions on one table add to the same schema's keys: in float32, whatever their number.
        dk, dv = (dy.new_zeros(len(dy), sizes.key_heads * sizes.head, dtype=torch.float32) for _ in range(2))
        padded = _with_blank(dy)
        for group in ctx.rows.groups:
            query, key, value, weights = saved[:4]
            del saved[:4]
            do = _queries(padded, group, sizes)
            dweights = torch.bmm(do, value.transpose(1, 2))
            dscores = torch.ops.aten._softmax_backward_data(dweights, weights, -1, weights.dtype)
            slots.append(_slots(torch.bmm(dscores, key), group, sizes))
            _add_keys(dk, torch.bmm(dscores.transpose(1, 2), query), group, sizes)
            _add_keys(dv, torch.bmm(weights.transpose(1, 2), do), group, sizes)
        dq = torch.cat(slots).index_select(0, ctx.rows.places).mul_(ctx.scale).view(ctx.shape)
        dk, dv = (t.to(dy.dtype).view(len(dy), sizes.key_heads, sizes.head) for t in (dk, dv))
        return dq, dk, dv, None, None


class _Sizes(NamedTuple):
    """Key heads, query heads that share one, and a head's size."""

    key_heads: int
    shared: int
    head: int


def _with_blank(x: Tensor) -> Tensor:
    """x (T, heads, size) as (T + 1, heads * size), the last row zeros: what absent queries point to."""
    flat = x.reshape(x.shape[0], -1)
    return torch.cat([flat, flat.new_zeros(1, flat.shape[1])])


def _queries(padded: Tensor, group: RowGroup, sizes: _Sizes) -> Tensor:
    """(rows * key heads, shared * width, size): query heads that share a key head as further queries of it."""
    rows, width = group.queries.shape
    picked = padded.index_select(0, group.queries.flatten()).view(rows, width, *sizes).permute(0, 2, 3, 1, 4)
    return kept(picked).view(rows * sizes.key_heads, sizes.shared * width, sizes.head)


def _slots(x: Tensor, group: RowGroup, sizes: _Sizes) -> Tensor:
    """The inverse of `_queries`: (rows * width, heads * size)."""
    rows, width = group.queries.shape
    ordered = x.view(rows, sizes.key_heads, sizes.shared, width, sizes.head).permute(0, 3, 1, 2, 4)
    return ordered.reshape(rows * width, -1)


def _keys(x: Tensor, group: RowGroup, sizes: _Sizes) -> Tensor:
    """(rows * key heads, length, size)."""
    rows, length = group.keys.shape
    picked = x.reshape(x.shape[0], -1).index_select(0, group.keys.flatten())
    ordered = picked.view(rows, length, sizes.key_heads, sizes.head).transpose(1, 2)
    return kept(ordered).view(rows * sizes.key_heads, length, sizes.head)


def _add_keys(total: Tensor, x: Tensor, group: RowGroup, sizes: _Sizes) -> None:
    rows, length = group.keys.shape
    ordered = x.view(rows, sizes.key_heads, length, sizes.head).transpose(1, 2).reshape(rows * length, -1)
    total.index_add_(0, group.keys.flatten(), ordered.float())


def _for_heads(group: RowGroup, sizes: _Sizes, dtype: torch.dtype) -> RowGroup:
    rows, width, length = group.mask.shape
    spread = group.mask.to(dtype)[:, None, None].expand(rows, sizes.key_heads, sizes.shared, width, length)
    return replace(group, mask=spread.reshape(rows * sizes.key_heads, sizes.shared * width, length))


class _Loss(Function):
    """Sum of the cross entropy of `hidden` (n, size) through the frozen output layer, against `targets` (n,)."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        total = hidden.new_zeros((), dtype=torch.float32)
        wanted = ctx.needs_input_grad[0]
        gradient = torch.empty_like(hidden) if wanted else None
        with torch.autocast(hidden.device.type, enabled=False):
            for at in range(0, len(hidden), LOGITS_ROWS):
                part, target = hidden[at : at + LOGITS_ROWS], targets[at : at + LOGITS_ROWS, None]
                logits = torch.nn.functional.linear(part, weight).float()
                largest = logits.amax(-1, keepdim=True)
                logits.sub_(largest)
                right = logits.gather(1, target)
                shares = logits.exp_()
                sums = shares.sum(-1, keepdim=True)
                total += (sums.log() - right).sum()
                if gradient is not None:
                    shares.div_(sums).scatter_add_(1, target, torch.full_like(right, -1.0))
                    gradient[at : at + LOGITS_ROWS] = shares.to(hidden.dtype) @ weight
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


def why_not(model: PreTrainedModel, *, lora_dropout: float) -> str | None:
    """What keeps `fuse` from this base model with LoRA, in words; None where nothing does."""
    config = model.config
    if config.model_type not in _FAMILIES:
        return f"model type {config.model_type} is none of {', '.join(sorted(_FAMILIES))}"
    if getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True):
        return "its attention has a sliding window"
    if config.hidden_act != "silu" or config.attention_dropout:
        return f"its activation is {config.hidden_act}, its attention has dropout {config.attention_dropout}"
    if lora_dropout:
        return f"lora.dropout is {lora_dropout}"
    kinds = {type(m).__name__ for m in model.model.layers.modules() if "Linear" in type(m).__name__}
    return None if kinds == {"Linear"} else f"its linear layers are {', '.join(sorted(kinds))}"


def fuse(model: PreTrainedModel) -> None:
    """Let a model with a LoRA adapter (the model inside PEFT's wrapper) run its layers as written here.

    Attention does so within `rows_attend` only; elsewhere, as in generating with a cache, it stays transformers' own.
    Call `why_not` first.
    """
    for layer in model.model.layers:
        for norm in (layer.input_layernorm, layer.post_attention_layernorm):
            _replace(norm, _norm_forward)
        _replace(layer.mlp, _mlp_forward)
        _replace(layer.self_attn, _attention_forward)
    _replace(model.model.norm, _norm_forward)


def _replace(module: torch.nn.Module, forward: Any) -> None:
    module.forward = forward.__get__(module)  # type: ignore[method-assign]


def _norm_forward(self: Any, hidden_states: Tensor) -> Tensor:
    return _Norm.apply(hidden_states, self.weight, self.variance_epsilon)


def _mlp_forward(self: Any, x: Tensor) -> Tensor:
    flat = x.reshape(-1, x.shape[-1])
    gate, up = project(flat, [_projection(self.gate_proj), _projection(self.up_proj)], lasting=True)
    (out,) = project(_Gated.apply(gate, up), [_projection(self.down_proj)])
    return out.view(x.shape)


def _attention_forward(
    self: Any, hidden_states: Tensor, position_embeddings: tuple[Tensor, Tensor], **kwargs: Any
) -> tuple[Tensor, None]:
    if self.config._attn_implementation != _NAME:
        return type(self).forward(self, hidden_states, position_embeddings, **kwargs)
    x = hidden_states[0]
    q, k, v = project(x, [_projection(p) for p in (self.q_proj, self.k_proj, self.v_proj)])
    half = self.head_dim // 2
    cos, sin = (t[0, :, None, :half] for t in position_embeddings)
    q, k, v = (t.view(len(x), -1, self.head_dim) for t in (q, k, v))
    out = _Attend.apply(_Rotate.apply(q, cos, sin), _Rotate.apply(k, cos, sin), v, self.scaling, _rows.get())
    (out,) = project(out.view(len(x), -1), [_projection(self.o_proj)])
    return out[None], None


def _projection(module: Any) -> Projection:
    if not hasattr(module, "lora_A"):
        return Projection(module.weight, module.bias, None, None, 1.0)
    base, (name,) = module.base_layer, module.active_adapters
    a, b = module.lora_A[name].weight, module.lora_B[name].weight
    return Projection(base.weight, base.bias, a, b, module.scaling[name])


def _unreachable(*args: Any, **kwargs: Any) -> Any:
    raise RuntimeError("the attention of a fused model is called through its own forward")


AttentionInterface.register(_NAME, _unreachable)


@contextmanager
def rows_attend(model: PreTrainedModel, rows: Rows, arena: Arena | None = None) -> Iterator[None]:
    """Within the block the model takes flat sequences (1, T) and attends as `rows` says, without a mask.

    What a forward pass keeps is in `arena`, where given: the next block with it overwrites that. On a CPU only.
    transformers makes no mask for an attention that it does not know by name.
    """
    config = model.config
    before, dtype = config._attn_implementation, model.model.norm.weight.dtype
    heads, key_heads = config.num_attention_heads, config.num_key_value_heads
    sizes = _Sizes(key_heads, heads // key_heads, 0)
    rows = replace(rows, groups=tuple(_for_heads(g, sizes, dtype) for g in rows.groups))
    model.config._attn_implementation = _NAME
    token = _rows.set(rows)
    try:
        with nullcontext() if arena is None else taking_from(arena):
            yield
    finally:
        _rows.reset(token)
        model.config._attn_implementation = before
