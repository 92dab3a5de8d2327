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

from t2s_assets.text2sql.decoding.buffers import Buffers
from t2s_assets.text2sql.decoding.steps import Step, attend

_NAME = "t2s_ragged"

_step: ContextVar[Step] = ContextVar("t2s_ragged_step")


class RaggedCache(Cache):
    """`Buffers` as transformers' models write to a cache."""

    def __init__(self, buffers: Buffers) -> None:
        super().__init__(layers=[])
        self._buffers = buffers

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the step's keys and values, (1, heads, tokens, size); returns the layer's whole buffers."""
        keys, values = key_states[0].transpose(0, 1), value_states[0].transpose(0, 1)
        return self._buffers.store(_step.get(), layer_idx, keys, values)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0


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


def forward(model: PreTrainedModel, tokens: list[int], step: Step, buffers: Buffers) -> torch.Tensor:
    """Feed the step's tokens; the logits after each of its points, float32 of shape (points, vocabulary)."""
    device = step.positions.device
    token = _step.set(step)
    try:
        output = model(
            input_ids=torch.tensor([tokens], device=device),
            position_ids=step.positions[None],
            past_key_values=RaggedCache(buffers),
            use_cache=True,
            logits_to_keep=step.points,
        )
    finally:
        _step.reset(token)
    return output.logits[0].float()
