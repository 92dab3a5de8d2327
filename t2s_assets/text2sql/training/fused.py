"""LoRA training of Llama-like decoders with few, large operations: for CPUs, where every pass over memory counts.

transformers and PEFT write a layer as some sixty operations whose intermediate results autograd keeps and reads
again; LoRA's float32 masters, cast under autocast, add copies of each layer's input. Here a pass goes forward and
backward by itself, without autograd, on the weights of the model given:

- linear layers that read the same input, with their LoRA matrices (`joint_linears`);
- attention over rows of different lengths, without padding (`row_attention`);
- what passes over memory otherwise, compiled (`kernels`);
- the residual stream and its gradient in float32: to bfloat16's rounding they lose more than all products do;
- what is kept for the backward half lies in an `arena`, and so does what only a layer needs in another;
- the output layer with the cross entropy, for labelled tokens only (`output_loss`).

Losses and gradients are those of the model, up to rounding; a test holds them against it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from t2s_assets.text2sql.prompts import IGNORED
from t2s_assets.text2sql.training import kernels
from t2s_assets.text2sql.training.arena import Arena, Pages
from t2s_assets.text2sql.training.joint_linears import Gradients, Joint
from t2s_assets.text2sql.training.kernels import array
from t2s_assets.text2sql.training.output_loss import output_loss
from t2s_assets.text2sql.training.row_attention import Heads, Layout

_FAMILIES = frozenset({"llama", "mistral", "qwen2"})
# Rotary embeddings whose angles transformers changes as sequences grow, by the longest position of a batch.
_CHANGING_ROPES = frozenset({"dynamic", "longrope"})


def why_not(model: PreTrainedModel) -> str | None:
    """What keeps `Fused` from this base model with LoRA, in words; None where nothing does."""
    config = model.config
    if config.model_type not in _FAMILIES:
        return f"model type {config.model_type} is none of {', '.join(sorted(_FAMILIES))}"
    if getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True):
        return "its attention has a sliding window"
    if config.hidden_act != "silu" or config.attention_dropout:
        return f"its activation is {config.hidden_act}, its attention has dropout {config.attention_dropout}"
    if (rope := model.model.rotary_emb.rope_type) in _CHANGING_ROPES:
        return f"its rotary embedding is {rope}, which changes with the length"
    kinds = {type(m).__name__ for m in model.model.layers.modules() if "Linear" in type(m).__name__}
    return None if kinds == {"Linear"} else f"its linear layers are {', '.join(sorted(kinds))}"


class Lane:
    """What one thread has for itself: memory, and sums of the gradients of the passes that it takes.

    What a pass keeps lies in `pages`, which lanes have together; what a layer needs, at the same place in every round.
    """

    def __init__(self, model: Fused, pages: Pages | None = None) -> None:
        self.arena, self.scratch = Arena(pages), (Arena(), Arena())
        self.gradients = [Gradients(joint) for joint in model.joints]

    def clear(self) -> None:
        """Forget the gradients."""
        for each in self.gradients:
            each.clear()


class Fused:
    """A model with a LoRA adapter (the one inside PEFT's wrapper) whose passes run as written here.

    Joins its weights (`Joint.of`) and else leaves it as it was. Call `why_not` first, and `renew` of its joints
    after each change of the adapter.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        config, decoder = model.config, model.model
        self.embeddings, self.head = model.get_input_embeddings().weight.data, model.get_output_embeddings().weight.data
        self.dtype = self.embeddings.dtype
        self.rotary = decoder.rotary_emb
        size = decoder.layers[0].self_attn.head_dim
        self.heads = Heads(config.num_attention_heads, config.num_key_value_heads, size)
        self.scale = decoder.layers[0].self_attn.scaling
        self.layers = [_Layer(layer) for layer in decoder.layers]
        self.norm = _Norm(decoder.norm)
        self.joints = [joint for layer in self.layers for joint in layer.joints]
        # As wide as any layer wants the gradient of the residual stream.
        self.wide = max(joint.wide_output for layer in self.layers for joint in (layer.out, layer.down))

    def loss(self, part: Mapping[str, Any], lane: Lane, *, backward: bool) -> Tensor:
        """The sum of the losses of a pass that `flat_batches` makes; with `backward`, `lane` gets its gradients."""
        with torch.inference_mode():
            return self._loss(part, lane, backward=backward)

    def _loss(self, part: Mapping[str, Any], lane: Lane, *, backward: bool) -> Tensor:
        ids, labels = part["input_ids"][0], part["labels"][0]
        wanted = (labels[1:] != IGNORED).nonzero()[:, 0]
        targets = labels[1:][wanted]
        cos, sin = (t[0, :, : self.heads.size // 2] for t in self.rotary(torch.empty(0), part["position_ids"]))
        layout = Layout(part["rows"], self.heads, cos.contiguous(), sin.contiguous(), self.scale)
        lane.arena.begin()
        keep = _Memory(lane.arena, self.dtype)
        scratch = [_Memory(arena, self.dtype) for arena in lane.scratch]
        x = keep.exact((len(ids), self.embeddings.shape[1])).copy_(self.embeddings[ids])
        added: Tensor | None = None
        kept = []
        for number, layer in enumerate(self.layers):
            lane.scratch[number % 2].begin()
            # Behind the last attention no other token is looked at.
            only = wanted if layer is self.layers[-1] else None
            x, added, own = layer.forward(x, added, layout, keep, scratch[number % 2], only)
            kept.append(own)
        take = scratch[len(self.layers) % 2]
        lane.scratch[len(self.layers) % 2].begin()
        last = x + added
        normed, inverse = take(last.shape), torch.empty(len(last))
        self.norm.forward(last, normed, inverse)
        if not backward:
            return output_loss(normed, self.head, targets, take)
        gradient = take(last.shape)
        total = output_loss(normed, self.head, targets, take, gradient)
        # The gradient of the residual stream, to which each layer adds, and that rounded: behind the last attention
        # of the tokens that go on, then of all.
        dx, rounded = torch.zeros_like(last), keep((len(last), self.wide))
        self.norm.back(gradient, last, inverse, dx, rounded)
        whole = keep((len(ids), self.wide))
        for number in reversed(range(len(self.layers))):
            lane.scratch[0].begin()
            own = lane.gradients[4 * number : 4 * number + 4]
            layer, first = self.layers[number], number == 0
            dx = layer.backward(dx, rounded, whole, kept.pop(), layout, own, scratch[0], first=first)
            rounded = whole
        return total


class _Memory:
    """Tensors from an arena: of the type that products take, or float32."""

    def __init__(self, arena: Arena, dtype: torch.dtype) -> None:
        self._arena, self._dtype = arena, dtype

    def __call__(self, shape: tuple[int, ...]) -> Tensor:
        return self._arena.take(shape, self._dtype)

    def exact(self, shape: tuple[int, ...]) -> Tensor:
        return self._arena.take(shape, torch.float32)


class _Norm:
    """RMSNorm (Zhang and Sennrich 2019) with a frozen weight."""

    def __init__(self, module: Any) -> None:
        self.weight, self.epsilon = array(module.weight), module.variance_epsilon

    def forward(self, x: Tensor, out: Tensor, inverse: Tensor) -> None:
        kernels.rms_norm(array(x), self.weight, self.epsilon, array(out), array(inverse))

    def of_sum(self, x: Tensor, added: Tensor, total: Tensor, out: Tensor, inverse: Tensor) -> None:
        parts = array(x), array(added), self.weight, self.epsilon, array(total), array(out), array(inverse)
        kernels.add_rms_norm(*parts)

    def back(self, dy: Tensor, x: Tensor, inverse: Tensor, dx: Tensor, rounded: Tensor) -> None:
        kernels.rms_norm_back(array(dy), array(x), self.weight, array(inverse), array(dx), array(rounded))


class _Kept(NamedTuple):
    """What a layer keeps for its backward half: its input `x`, the residual stream `middle` in front of the MLP, what
    both norms give (`normed`, `again`) and the inverses that they multiplied by, what attention keeps and gives
    (`attended`, `seen`), gate and up (`both`) and their product, and the tokens that go on behind attention where these
    are not all. What joint layers read is as wide as they want it, and so is `both`, whose gradient takes its place."""

    x: Tensor
    inverse: Sequence[Tensor]
    normed: Tensor
    attended: list[Tensor]
    seen: Tensor
    middle: Tensor
    again: Tensor
    both: Tensor
    gated: Tensor
    only: Tensor | None


class _Layer:
    """One decoder layer: attention, and the MLP with SwiGLU, each after a norm and around the residual stream."""

    def __init__(self, layer: Any) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.before_attention, self.before_mlp = _Norm(layer.input_layernorm), _Norm(layer.post_attention_layernorm)
        self.qkv = Joint.of([attention.q_proj, attention.k_proj, attention.v_proj])
        self.out = Joint.of([attention.o_proj])
        self.gate_up = Joint.of([mlp.gate_proj, mlp.up_proj])
        self.down = Joint.of([mlp.down_proj])
        self.joints = self.qkv, self.out, self.gate_up, self.down

    def forward(
        self,
        x: Tensor,
        added: Tensor | None,
        layout: Layout,
        keep: _Memory,
        take: _Memory,
        only: Tensor | None,
    ) -> tuple[Tensor, Tensor, _Kept]:
        """For the residual stream `x` + `added` (T, hidden) the same two of what follows, and what `backward` needs.

        The first is in memory that `keep` gives, the second in what `take` gives. After attention the tokens `only` go
        on, where given.
        """
        tokens, hidden = x.shape
        inverse, normed = torch.empty(2, tokens), keep((tokens, self.qkv.wide_input))
        if added is None:
            self.before_attention.forward(x, normed, inverse[0])
        else:
            total = keep.exact(x.shape)
            self.before_attention.of_sum(x, added, total, normed, inverse[0])
            x = total
        qkv = take((tokens, self.qkv.outputs))
        self.qkv.forward(normed, qkv)
        seen = keep((tokens, self.out.wide_input))
        attended = layout.attend(qkv, seen, keep, take)
        before = x
        if only is not None:
            x, seen, tokens = x[only], seen[only], len(only)
            inverse = [inverse[0], torch.empty(tokens)]
        mixed = take((tokens, hidden))
        self.out.forward(seen, mixed)
        middle, again = keep.exact(x.shape), keep((tokens, self.gate_up.wide_input))
        self.before_mlp.of_sum(x, mixed, middle, again, inverse[1])
        both = keep((tokens, self.gate_up.wide_output))
        self.gate_up.forward(again, both[:, : self.gate_up.outputs])
        gated = keep((tokens, self.down.wide_input))
        kernels.swiglu(array(both), self.down.inputs, array(gated))
        out = take((tokens, hidden))
        self.down.forward(gated, out)
        return middle, out, _Kept(before, inverse, normed, attended, seen, middle, again, both, gated, only)

    def backward(
        self,
        dx: Tensor,
        rounded: Tensor,
        whole: Tensor,
        kept: _Kept,
        layout: Layout,
        gradients: list[Gradients],
        take: _Memory,
        *,
        first: bool,
    ) -> Tensor:
        """The gradient (T, hidden) of the layer's input, for `dx`, that of what follows, which it overwrites.

        `rounded` (T, as wide as joint layers want it) is `dx` as products take it, and is overwritten too; `whole`, as
        wide, which may be the same memory, gets that of the result. In the `first` layer nobody asks for a result, and
        it is not that.
        """
        tokens, hidden = kept.middle.shape
        dgated = take((tokens, self.down.inputs))
        self.down.backward(rounded, kept.gated, dgated, gradients[3], take)
        kernels.swiglu_back(array(dgated), array(kept.both))
        dagain = take((tokens, hidden))
        self.gate_up.backward(kept.both, kept.again, dagain, gradients[2], take)
        self.before_mlp.back(dagain, kept.middle, kept.inverse[1], dx, rounded)
        dseen = take((tokens, self.out.inputs))
        self.out.backward(rounded, kept.seen, dseen, gradients[1], take)
        if kept.only is not None:
            dx = torch.zeros_like(kept.x).index_copy_(0, kept.only, dx)
            dseen = dseen.new_zeros(len(kept.x), dseen.shape[1]).index_copy_(0, kept.only, dseen)
        dqkv = take((len(kept.x), self.qkv.wide_output))
        layout.back(dseen, kept.attended, dqkv, take)
        dnormed = None if first else take(kept.x.shape)
        self.qkv.backward(dqkv, kept.normed, dnormed, gradients[0], take)
        if dnormed is not None:
            self.before_attention.back(dnormed, kept.x, kept.inverse[0], dx, whole)
        return dx
