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
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AttentionInterface, PreTrainedModel
from transformers.cache_utils import Cache

from t2s_assets.text2sql.errors import ModelError

_NAME = "t2s_ragged"

# Rows with at most this many pending tokens attend together in one padded call; longer ones (prompts) are
# grouped by length, because padding them to each other would cost more than the calls save.
_SHORT = 8


@dataclass(frozen=True)
class Span:
    """Tokens that one row feeds in a step: `count` tokens for slot `slot` from position `start`."""

    slot: int
    start: int
    count: int


@dataclass(frozen=True)
class _Group:
    """Rows that attend together.

    `tokens` (n, w): index of each query in the flat sequence, 0 where a row has fewer than w;
    `slots`: a slice or index of the n slots; `length`: key positions to look at; `mask` (n, 1, shared * w,
    length), True where a query may look, the w queries repeated for each of the heads that share a key head;
    `rows`, `columns`, `flat`: where the real queries are, and where their outputs go. `whole`: the group is
    the flat sequence itself, so nothing has to be picked out of it.
    """

    tokens: torch.Tensor
    slots: slice | torch.Tensor
    length: int
    mask: torch.Tensor
    rows: torch.Tensor
    columns: torch.Tensor
    flat: torch.Tensor
    whole: bool


@dataclass(frozen=True)
class Step:
    """One forward pass over the pending tokens of all rows, as index tensors on the model's device."""

    positions: torch.Tensor  # (tokens,)
    slots: torch.Tensor  # (tokens,)
    points: torch.Tensor  # indices of the tokens whose logits are wanted
    groups: tuple[_Group, ...]
    only: Span | None  # the span of a step that has one


_step: ContextVar[Step] = ContextVar("t2s_ragged_step")


def _group(
    spans: list[tuple[Span, int]], slots: slice | list[int], total: int, shared: int, device: torch.device
) -> _Group:
    """A group over `slots` for spans, each with the flat index of its first token, of `total` in the step."""
    order = list(range(slots.start, slots.stop)) if isinstance(slots, slice) else slots
    row_of = {slot: row for row, slot in enumerate(order)}
    width = max(span.count for span, _ in spans)
    length = max(span.start + span.count for span, _ in spans)
    tokens = torch.zeros(len(order), width, dtype=torch.long)
    limit = torch.zeros(len(order), width, dtype=torch.long)  # last key position that a query may look at
    rows, columns, flat = [], [], []
    for span, offset in spans:
        row = row_of[span.slot]
        tokens[row, : span.count] = torch.arange(offset, offset + span.count)
        limit[row, : span.count] = torch.arange(span.start, span.start + span.count)
        rows += [row] * span.count
        columns += range(span.count)
        flat += range(offset, offset + span.count)
    mask = torch.arange(length) <= limit[:, None, :, None]
    return _Group(
        tokens=tokens.to(device),
        slots=slots if isinstance(slots, slice) else torch.tensor(slots, device=device),
        length=length,
        mask=mask.repeat(1, 1, shared, 1).to(device),
        rows=torch.tensor(rows, device=device),
        columns=torch.tensor(columns, device=device),
        flat=torch.tensor(flat, device=device),
        whole=tokens.flatten().tolist() == list(range(total)),
    )


def plan(spans: list[Span], points: list[int], shared: int, device: torch.device) -> Step:
    """The step that feeds `spans`, in this order in the flat sequence, and wants the logits after `points`.

    `shared` is how many query heads share a key head (`heads_sharing_a_key`).
    """
    offsets, total = [], 0
    for span in spans:
        offsets.append(total)
        total += span.count
    placed = list(zip(spans, offsets, strict=True))
    groups = []
    short = [item for item in placed if item[0].count <= _SHORT]
    if short:
        # A slice of slots needs no copy of the cache; slots in it without a short span get an unused query.
        low, high = min(s.slot for s, _ in short), max(s.slot for s, _ in short) + 1
        groups.append(_group(short, slice(low, high), total, shared, device))
    long = sorted((item for item in placed if item[0].count > _SHORT), key=lambda item: -item[0].count)
    while long:
        size = sum(1 for span, _ in long if span.count * 4 >= long[0][0].count * 3)
        together, long = long[:size], long[size:]
        slots = sorted(span.slot for span, _ in together)
        contiguous = slots[-1] - slots[0] + 1 == len(slots)
        where = slice(slots[0], slots[-1] + 1) if contiguous else slots
        groups.append(_group(together, where, total, shared, device))
    return Step(
        positions=torch.cat([torch.arange(s.start, s.start + s.count) for s in spans]).to(device),
        slots=torch.cat([torch.full((s.count,), s.slot) for s in spans]).to(device),
        points=torch.tensor(points, device=device),
        groups=tuple(groups),
        only=spans[0] if len(spans) == 1 else None,
    )


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


def attend(
    step: Step, queries: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None
) -> torch.Tensor:
    """Attention of (tokens, heads, size) queries over the cache's buffers, as the step says; of the same shape.

    Query heads that share a key head are laid out as further query positions of it, so that keys and values
    are never repeated (grouped-query attention, Ainslie et al. 2023).
    """
    heads, key_heads = queries.shape[1], key.shape[1]
    out = None
    for group in step.groups:
        rows, width = group.tokens.shape
        q = queries if group.whole else queries[group.tokens]
        q = q.view(rows, width, key_heads, heads // key_heads, -1).permute(0, 2, 3, 1, 4)
        o = torch.nn.functional.scaled_dot_product_attention(
            q.reshape(rows, key_heads, -1, q.shape[-1]),
            key[group.slots][:, :, : group.length],
            value[group.slots][:, :, : group.length],
            attn_mask=group.mask,
            scale=scaling,
        )
        o = o.view(rows, key_heads, heads // key_heads, width, -1).permute(0, 3, 1, 2, 4)
        o = o.reshape(rows, width, heads, -1)
        if group.whole:
            return o.reshape(rows * width, heads, -1)
        if out is None:
            out = o.new_zeros(queries.shape[0], heads, o.shape[-1])
        out[group.flat] = o[group.rows, group.columns]
    return out


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
