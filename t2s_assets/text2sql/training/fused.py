"""LoRA training of Llama-like decoders with few, large operations: for CPUs, where every pass over memory counts.

transformers and PEFT write a layer as some sixty operations whose intermediate results autograd keeps and reads
again; LoRA's float32 masters, cast under autocast, add copies of each layer's input. Here a layer is a handful of
`autograd.Function`s with their derivatives written out:

- linear layers that read the same input, with their LoRA matrices (`joint_linears`).
- attention over rows of different lengths, without padding, with its rotary embedding (`row_attention`).
- RMSNorm (Zhang and Sennrich 2019) and SwiGLU (Shazeer 2020).
- what is kept for the backward half lies in an `arena`, and not between other things on the heap.
- the output layer with the cross entropy, for labelled tokens only (`output_loss`).

Results are those of the modules replaced, up to rounding; a test holds losses and gradients against them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from transformers import AttentionInterface, PreTrainedModel

from t2s_assets.text2sql.training.arena import Arena, empty, kept, taking_from
from t2s_assets.text2sql.training.joint_linears import Joint
from t2s_assets.text2sql.training.row_attention import Heads, Layout, Rows, attend

_FAMILIES = frozenset({"llama", "mistral", "qwen2"})
_NAME = "t2s_fused"

_layout: ContextVar[Layout] = ContextVar("t2s_fused_layout")


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


class _Gated(Function):
    """silu(gate) * up, of gate and up side by side: (tokens, 2 * size) to (tokens, size)."""

    @staticmethod
    def forward(ctx: Any, both: Tensor) -> Tensor:
        gate, up = both.chunk(2, dim=1)
        active = torch.ops.aten.silu.out(gate, out=empty(gate.shape, gate.dtype))
        ctx.save_for_backward(both, active)
        return torch.mul(active, up, out=empty(up.shape, up.dtype))

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        both, active = ctx.saved_tensors
        gate, up = both.chunk(2, dim=1)
        dboth = torch.empty_like(both)
        dgate, dup = dboth.chunk(2, dim=1)
        torch.mul(dy, active, out=dup)
        torch.ops.aten.silu_backward.grad_input(dy * up, gate, grad_input=dgate)
        return dboth


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
        attention, mlp = layer.self_attn, layer.mlp
        attention.t2s_joints = (
            Joint.of([attention.q_proj, attention.k_proj, attention.v_proj]),
            Joint.of([attention.o_proj]),
        )
        mlp.t2s_joints = Joint.of([mlp.gate_proj, mlp.up_proj]), Joint.of([mlp.down_proj])
        _replace(mlp, _mlp_forward)
        _replace(attention, _attention_forward)
    _replace(model.model.norm, _norm_forward)


def _replace(module: torch.nn.Module, forward: Any) -> None:
    module.forward = forward.__get__(module)  # type: ignore[method-assign]


def _norm_forward(self: Any, hidden_states: Tensor) -> Tensor:
    return _Norm.apply(hidden_states, self.weight, self.variance_epsilon)


def _mlp_forward(self: Any, x: Tensor) -> Tensor:
    gate_up, down = self.t2s_joints
    flat = x.reshape(-1, x.shape[-1])
    return down(_Gated.apply(gate_up(flat, lasting=True))).view(x.shape)


def _attention_forward(
    self: Any, hidden_states: Tensor, position_embeddings: tuple[Tensor, Tensor], **kwargs: Any
) -> tuple[Tensor, None]:
    if self.config._attn_implementation != _NAME:
        return type(self).forward(self, hidden_states, position_embeddings, **kwargs)
    qkv, output = self.t2s_joints
    cos, sin = (t[0, :, : self.head_dim // 2] for t in position_embeddings)
    return output(attend(qkv(hidden_states[0]), _layout.get(), cos, sin, self.scaling))[None], None


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
    before = config._attn_implementation
    heads = Heads(config.num_attention_heads, config.num_key_value_heads, model.model.layers[0].self_attn.head_dim)
    model.config._attn_implementation = _NAME
    token = _layout.set(Layout(rows, heads, model.model.norm.weight.dtype))
    try:
        with nullcontext() if arena is None else taking_from(arena):
            yield
    finally:
        _layout.reset(token)
        model.config._attn_implementation = before
