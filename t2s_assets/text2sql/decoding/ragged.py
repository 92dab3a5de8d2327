"""Keys, values and attention for rows of different lengths, without padding.

A step feeds every row the tokens it has pending, one after another in one flat sequence of shape (1, tokens):
embeddings, projections and MLPs, where the arithmetic is, see no padding at all, and a row may feed one token
(a chosen one), several (a chosen one and what the grammar forced after it) or hundreds (its prompt). Only
attention looks at rows: each row owns a slot of the buffers, and its tokens sit at slot positions 0, 1, ...,
so a row is dropped, moved or rewound by changing its length. The idea is that of iteration-level scheduling
(Yu et al. 2022, "Orca") with a dense cache.

transformers calls the attention through its `AttentionInterface`, so any model that uses it (Llama, Qwen,
Mistral, ...) works unchanged, with a PEFT adapter merged or not.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from transformers import AttentionInterface, PreTrainedModel
from transformers.cache_utils import Cache

from t2s_assets.text2sql.decoding.steps import Step, attend
from t2s_assets.text2sql.errors import ModelError

_NAME = "t2s_ragged"

_step: ContextVar[Step] = ContextVar("t2s_ragged_step")


class RaggedCache(Cache):
    """Keys and values of `slots` rows of up to `capacity` tokens, allocated when the first layer writes."""

    def __init__(self, slots: int, capacity: int) -> None:
        super().__init__(layers=[])
        self.slots = slots
        self.capacity = capacity
        self.buffers: list[tuple[torch.Tensor, torch.Tensor]] = []

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the step's keys and values, (1, heads, tokens, size); returns the layer's whole buffers."""
        return self.store(_step.get(), layer_idx, key_states[0].transpose(0, 1), value_states[0].transpose(0, 1))

    def store(
        self, step: Step, layer: int, key_states: torch.Tensor, value_states: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write a step's keys and values, (tokens, heads, size); returns the layer's whole buffers."""
        while len(self.buffers) <= layer:
            shape = (self.slots, key_states.shape[1], self.capacity)
            self.buffers.append(
                (
                    key_states.new_zeros(*shape, key_states.shape[2]),
                    value_states.new_zeros(*shape, value_states.shape[2]),
                )
            )
        keys, values = self.buffers[layer]
        if step.only is not None:
            slot, where = step.only.slot, slice(step.only.start, step.only.start + step.only.count)
            keys[slot, :, where] = key_states.transpose(0, 1)
            values[slot, :, where] = value_states.transpose(0, 1)
        else:
            keys[step.slots, :, step.positions] = key_states
            values[step.slots, :, step.positions] = value_states
        return keys, values

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` positions of one slot to another."""
        for buffers in self.buffers:
            for buffer in buffers:
                buffer[target, :, :length] = buffer[source, :, :length]

    def read(self, slot: int, length: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """A copy of a slot's first `length` positions, a (heads, length, size) pair for each layer."""
        return [(k[slot, :, :length].clone(), v[slot, :, :length].clone()) for k, v in self.buffers]

    def write(self, slot: int, states: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Put what `read` gave at the start of a slot."""
        if not self.buffers:
            for keys, values in states:
                shape = (self.slots, keys.shape[0], self.capacity)
                self.buffers.append((keys.new_zeros(*shape, keys.shape[2]), values.new_zeros(*shape, values.shape[2])))
        for buffers, pair in zip(self.buffers, states, strict=True):
            for buffer, state in zip(buffers, pair, strict=True):
                buffer[slot, :, : state.shape[1]] = state


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """`attend` as transformers calls it: (1, heads, tokens, size) queries, over the cache's buffers."""
    return attend(_step.get(), query[0].transpose(0, 1), key, value, scaling)[None], None


AttentionInterface.register(_NAME, _attend)


def heads_sharing_a_key(config: Any) -> int:
    """How many query heads share one key head in a model of this (text) configuration."""
    return config.num_attention_heads // (getattr(config, "num_key_value_heads", None) or config.num_attention_heads)


def check_model(model: PreTrainedModel) -> None:
    """Refuse a model whose attention `_attend` does not reproduce. Raises `ModelError`."""
    config = model.config.get_text_config(decoder=True)
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if other := sorted(kinds - {"full_attention"}):
        raise ModelError(
            f"decoding: model type {config.model_type!r} has layers of kind {other}; only full attention can "
            "be decoded. Choose a base model with full attention in every layer"
        )
    for field in ("attn_logit_softcapping", "sliding_window"):
        if getattr(config, field, None) and getattr(config, f"use_{field}", True):
            raise ModelError(
                f"decoding: model type {config.model_type!r} sets {field}={getattr(config, field)!r}; "
                "its attention cannot be decoded. Choose a base model without it"
            )


@contextmanager
def ragged_attention(model: PreTrainedModel) -> Iterator[None]:
    """Let the model attend through `_attend` within the block, and as before after it."""
    config = model.config.get_text_config(decoder=True)
    before = config._attn_implementation
    config._attn_implementation = _NAME
    try:
        yield
    finally:
        config._attn_implementation = before


def forward(model: PreTrainedModel, tokens: list[int], step: Step, cache: RaggedCache) -> torch.Tensor:
    """Feed the step's tokens; the logits after each of its points, float32 of shape (points, vocabulary)."""
    device = step.positions.device
    token = _step.set(step)
    try:
        output = model(
            input_ids=torch.tensor([tokens], device=device),
            position_ids=step.positions[None],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=step.points,
        )
    finally:
        _step.reset(token)
    return output.logits[0].float()
