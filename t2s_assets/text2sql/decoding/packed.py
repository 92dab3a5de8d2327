"""A Llama-like model laid out for decoding on a CPU.

The layers' arithmetic is transformers', with less around it: weights are stored once in the blocked layout that
oneDNN multiplies from (`torch.nn.functional.linear` reads them row by row, or reorders them at each call), matrices
that read the same input are one, and a layer is a few calls instead of a tree of modules.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch.nn import functional as F

from t2s_assets.text2sql.decoding.buffers import Buffers
from t2s_assets.text2sql.decoding.steps import Step, attend

_ARCHITECTURES = ("LlamaForCausalLM", "Qwen2ForCausalLM")

Tensors = Mapping[str, torch.Tensor]

_USUAL_TOKENS = 8
"""Tokens of a forward pass that the layout is chosen for; others are multiplied from the same layout."""


class _Linear:
    """Linear layers over the same input, as one; the output is theirs, one after another."""

    def __init__(self, tensors: Tensors, *names: str) -> None:
        weight = torch.cat([tensors[f"{name}.weight"] for name in names])
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight, _USUAL_TOKENS)
        biases = [tensors[f"{name}.bias"] for name in names if f"{name}.bias" in tensors]
        self._bias = torch.cat(biases) if biases else None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "none", [], "")


class _Norm:
    def __init__(self, tensors: Tensors, name: str, epsilon: float) -> None:
        self._weight, self._eps = tensors[f"{name}.weight"], epsilon

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(x, self._weight.shape, self._weight, self._eps)


class _Layer:
    """One decoder layer over a flat sequence of shape (tokens, hidden)."""

    def __init__(self, tensors: Tensors, at: str, config: Any) -> None:
        attention, mlp, epsilon = f"{at}.self_attn", f"{at}.mlp", config.rms_norm_eps
        self._before_attention = _Norm(tensors, f"{at}.input_layernorm", epsilon)
        self._before_mlp = _Norm(tensors, f"{at}.post_attention_layernorm", epsilon)
        self._qkv = _Linear(tensors, *(f"{attention}.{name}_proj" for name in "qkv"))
        self._out = _Linear(tensors, f"{attention}.o_proj")
        self._gate_up = _Linear(tensors, f"{mlp}.gate_proj", f"{mlp}.up_proj")
        self._down = _Linear(tensors, f"{mlp}.down_proj")
        self._size = _head_size(config)
        self._scale = self._size**-0.5
        self._queries, self._keys = config.num_attention_heads, config.num_key_value_heads

    def __call__(
        self,
        x: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        step: Step,
        cache: Buffers,
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


class _Config(SimpleNamespace):
    """A model's config.json, as far as decoding asks for it."""

    def get_text_config(self, decoder: bool = False) -> _Config:
        return self


# What `packed_from` needs of a config.json; transformers leaves out what it would assume itself.
_READ = (
    "hidden_size",
    "hidden_act",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "rms_norm_eps",
    "vocab_size",
    "max_position_embeddings",
)


class _Rotary:
    """The angles of rotary position embedding (Su et al. 2021), unscaled."""

    def __init__(self, config: Any) -> None:
        size = _head_size(config)
        exponents = torch.arange(0, size, 2, dtype=torch.int64).float() / size
        self._frequencies = 1.0 / (config.rope_parameters["rope_theta"] ** exponents)

    def __call__(self, x: torch.Tensor, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines (1, tokens, size) for positions (1, tokens), in the type of `x`."""
        angles = positions[..., None].float() * self._frequencies
        angles = torch.cat((angles, angles), -1)
        return angles.cos().to(x.dtype), angles.sin().to(x.dtype)


def _head_size(config: Any) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


class PackedModel:
    """A model of one of `_ARCHITECTURES` on a CPU, for `Decoder` alone. It keeps copies of the weights, so let go of
    the original, and make it anew after a change of them."""

    def __init__(self, config: Any, generation_config: Any, tensors: Tensors, rotary: Any) -> None:
        """`tensors`: weights by the names that transformers gives them; `rotary`: positions to cosines and sines."""
        self.config, self.generation_config = config, generation_config
        self._embed, self._rotary = tensors["model.embed_tokens.weight"], rotary
        self.device, self.dtype = torch.device("cpu"), self._embed.dtype
        layers = range(config.num_hidden_layers)
        self._layers = [_Layer(tensors, f"model.layers.{index}", config) for index in layers]
        self._norm = _Norm(tensors, "model.norm", config.rms_norm_eps)
        self._head = _Linear(tensors, "model.embed_tokens" if config.tie_word_embeddings else "lm_head")

    def logits(self, tokens: list[int], step: Step, cache: Buffers) -> torch.Tensor:
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
    if not _can_be(model.config, model.dtype):
        return model
    projections = [module for name, module in model.named_modules() if name.endswith(("_proj", "lm_head"))]
    # Adapters and quantised bases have layers of their own kinds.
    if any(type(module) is not torch.nn.Linear or module.weight.dtype != model.dtype for module in projections):
        return model
    with torch.no_grad():
        tensors = {name: p.detach() for name, p in model.state_dict().items()}
        return PackedModel(model.config, model.generation_config, tensors, model.model.rotary_emb)


def packed_from(folder: Path, dtype: torch.dtype) -> PackedModel | None:
    """What `packed` makes of the model that transformers would load from `folder`, without importing its models,
    which takes longer than all else at a start. None where only transformers can load it."""
    from safetensors.torch import load_file

    settings = json.loads((folder / "config.json").read_text())
    rope = settings.get("rope_parameters") or {}
    plain_rope = rope.get("rope_type") == "default" and rope.get("partial_rotary_factor", 1.0) == 1.0
    known = plain_rope and "rope_theta" in rope and all(settings.get(name) is not None for name in _READ)
    config = _Config(**settings)
    if not known or settings.get("architectures", [""])[0] not in _ARCHITECTURES or not _can_be(config, dtype):
        return None
    tensors: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(file)
    if any(tensor.dtype != dtype for tensor in tensors.values()):
        return None
    config.tie_word_embeddings = "lm_head.weight" not in tensors
    generation = folder / "generation_config.json"
    ends = (json.loads(generation.read_text()) if generation.is_file() else settings).get("eos_token_id")
    with torch.no_grad():
        return PackedModel(config, SimpleNamespace(eos_token_id=ends), tensors, _Rotary(config))


def _can_be(config: Any, dtype: torch.dtype) -> bool:
    if config.hidden_act != "silu" or not torch.backends.mkldnn.is_available():
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())
