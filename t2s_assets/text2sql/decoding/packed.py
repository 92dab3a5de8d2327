"""A Llama-like model laid out for decoding on a CPU.

The layers' arithmetic is transformers', with less around it: weights are stored once in the blocked layout that
oneDNN multiplies from (`torch.nn.functional.linear` reads them row by row, or reorders them at each call), matrices
that read the same input are one, and a layer is a few calls instead of a tree of modules.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from t2s_assets.text2sql.decoding.ragged import RaggedCache
from t2s_assets.text2sql.decoding.steps import Step, attend

_ARCHITECTURES = ("LlamaForCausalLM", "Qwen2ForCausalLM")

_USUAL_TOKENS = 8
"""Tokens of a forward pass that the layout is chosen for; others are multiplied from the same layout."""


class _Linear:
    """Linear layers over the same input, as one; the output is theirs, one after another."""

    def __init__(self, *layers: torch.nn.Linear) -> None:
        weight = torch.cat([layer.weight.detach() for layer in layers])
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight, _USUAL_TOKENS)
        biases = [layer.bias.detach() for layer in layers if layer.bias is not None]
        self._bias = torch.cat(biases) if biases else None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "none", [], "")


class _Norm:
    def __init__(self, norm: Any) -> None:
        self._weight, self._eps = norm.weight.detach(), norm.variance_epsilon

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(x, self._weight.shape, self._weight, self._eps)


class _Layer:
    """One decoder layer over a flat sequence of shape (tokens, hidden)."""

    def __init__(self, layer: Any) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self._before_attention = _Norm(layer.input_layernorm)
        self._before_mlp = _Norm(layer.post_attention_layernorm)
        self._qkv = _Linear(attention.q_proj, attention.k_proj, attention.v_proj)
        self._out = _Linear(attention.o_proj)
        self._gate_up = _Linear(mlp.gate_proj, mlp.up_proj)
        self._down = _Linear(mlp.down_proj)
        self._size, self._scale = attention.head_dim, attention.scaling
        self._queries = attention.q_proj.out_features // self._size
        self._keys = attention.k_proj.out_features // self._size

    def __call__(
        self,
        x: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        step: Step,
        cache: RaggedCache,
        index: int,
        wanted: torch.Tensor | None,
    ) -> torch.Tensor:
        """The layer's output; after its attention only the `wanted` tokens go on, where given."""
        heads = self._qkv(self._before_attention(x)).view(len(x), -1, self._size)
        turning, values = heads.split([self._queries + self._keys, self._keys], 1)
        half = self._size // 2
        turned = torch.addcmul(turning * cos, torch.cat((turning[..., half:], turning[..., :half]), -1), sin)
        queries, keys = turned.split([self._queries, self._keys], 1)
        seen = attend(step, queries, *cache.store(step, index, keys, values), self._scale).reshape(len(x), -1)
        if wanted is not None:
            x, seen = x[wanted], seen[wanted]
        x = x + self._out(seen)
        gate, up = self._gate_up(self._before_mlp(x)).chunk(2, -1)
        return x + self._down(F.silu(gate) * up)


class PackedModel:
    """A model of one of `_ARCHITECTURES` on a CPU, for `Decoder` alone. It keeps copies of the weights, so let go of
    the original, and make it anew after a change of them."""

    def __init__(self, model: Any) -> None:
        self.config, self.generation_config = model.config, model.generation_config
        self.device, self.dtype = model.device, model.dtype
        inner = model.model
        self._embed, self._rotary = inner.embed_tokens.weight.detach(), inner.rotary_emb
        self._layers = [_Layer(layer) for layer in inner.layers]
        self._norm, self._head = _Norm(inner.norm), _Linear(model.lm_head)

    def logits(self, tokens: list[int], step: Step, cache: RaggedCache) -> torch.Tensor:
        """Feed the step's tokens; the logits after each of its points, float32 of shape (points, vocabulary)."""
        x = F.embedding(torch.tensor(tokens), self._embed)
        cos, sin = self._rotary(x, step.positions[None])
        cos, sin = cos[0, :, None], sin[0, :, None].clone()
        # (-b, a) * sin is (b, a) * (-sin, sin): the halves of every head change places, and no sign changes.
        sin[..., : sin.shape[-1] // 2].neg_()
        last = len(self._layers) - 1
        for index, layer in enumerate(self._layers):
            x = layer(x, cos, sin, step, cache, index, step.points if index == last else None)
        return self._head(self._norm(x)).float()


def packed(model: Any) -> Any:
    """`model` as a `PackedModel` where it is of a kind that can be: a merged Llama or Qwen2 in float32, or in bfloat16
    that the processor multiplies, on a CPU with oneDNN. Else `model` itself, whose answers are the same."""
    if type(model).__name__ not in _ARCHITECTURES or model.device.type != "cpu" or model.training:
        return model
    config = model.config
    if config.hidden_act != "silu" or not torch.backends.mkldnn.is_available():
        return model
    if model.dtype != torch.float32 and not (
        model.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    ):
        return model
    projections = [module for name, module in model.named_modules() if name.endswith(("_proj", "lm_head"))]
    # Adapters and quantised bases have layers of their own kinds.
    if any(type(module) is not torch.nn.Linear or module.weight.dtype != model.dtype for module in projections):
        return model
    with torch.no_grad():
        return PackedModel(model)
