"""What one forward pass feeds, and attention over it: rows of different lengths, without padding.

On a CPU attention is written out as two products and a softmax: PyTorch's fused kernel takes three to four times as
long for rows as short as these. Where the scores would need much memory, and on other devices, the kernel is used.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

# Rows with at most this many pending tokens attend together in one padded call; longer ones (prompts) are
# grouped by length, because padding them to each other would cost more than the calls save.
_SHORT = 8

# A CPU's softmax is several times faster over rows of a multiple of this.
_WHOLE = 16

# Scores of one group that are written out at most (64 MiB in float32); a long prompt has more.
_SCORES = 2**24


@dataclass(frozen=True)
class Span:
    """Tokens that one row feeds in a step: `count` tokens for slot `slot` from position `start`."""

    slot: int
    start: int
    count: int


@dataclass(frozen=True)
class _Group:
    """Rows that attend together.

    `tokens` (n, w): index of each query in the flat sequence, 0 where a row has fewer than w; `slots`: a slice or
    index of the n slots; `length`: key positions to look at; `mask` (n, 1, shared * w, length), True where a query
    may look, the w queries repeated for each of the heads that share a key head; `whole`: the group is the flat
    sequence itself, so nothing has to be picked out of it.
    """

    tokens: Tensor
    slots: slice | Tensor
    length: int
    mask: Tensor
    whole: bool

    @cached_property
    def added(self) -> Tensor:
        """What is added to the scores: -inf where a query may not look and else 0, float32."""
        return torch.zeros(self.mask.shape, device=self.mask.device).masked_fill_(~self.mask, -torch.inf)

    def of(self, buffer: Tensor) -> Tensor:
        """The group's part of (slots, key heads, capacity, size) keys or values."""
        seen = buffer[:, :, : self.length]
        return seen[self.slots] if isinstance(self.slots, slice) else seen.index_select(0, self.slots)


@dataclass(frozen=True)
class Step:
    """One forward pass over the pending tokens of all rows, as index tensors on the model's device."""

    positions: Tensor  # (tokens,)
    slots: Tensor  # (tokens,)
    points: Tensor  # indices of the tokens whose logits are wanted
    groups: tuple[_Group, ...]
    places: Tensor  # (tokens,), where each token is among the queries of all groups
    only: Span | None  # the span of a step that has one


def _group(spans: list[tuple[Span, int]], total: int, shared: int, device: torch.device) -> _Group:
    """A group for spans in the order of their slots, each with the flat index of its first token, of `total`."""
    slots = [span.slot for span, _ in spans]
    counts = torch.tensor([span.count for span, _ in spans])[:, None]
    starts = torch.tensor([span.start for span, _ in spans])[:, None]
    offsets = torch.tensor([offset for _, offset in spans])[:, None]
    columns = torch.arange(int(counts.max()))
    real = columns < counts
    tokens = (offsets + columns) * real
    limit = (starts + columns) * real  # last key position that a query may look at
    # Whole rows of scores; a slot's capacity is a multiple too.
    length = -(-int((starts + counts).max()) // _WHOLE) * _WHOLE
    mask = torch.arange(length) <= limit[:, None, :, None]
    together = slots[-1] - slots[0] + 1 == len(slots)
    return _Group(
        tokens=tokens.to(device),
        slots=slice(slots[0], slots[-1] + 1) if together else torch.tensor(slots, device=device),
        length=length,
        mask=mask.repeat(1, 1, shared, 1).to(device),
        whole=tokens.flatten().tolist() == list(range(total)),
    )


def plan(spans: list[Span], points: list[int], shared: int, device: torch.device) -> Step:
    """The step that feeds `spans`, in this order in the flat sequence, and wants the logits after `points`.

    `shared` is how many query heads share a key head (`supported.heads_sharing_a_key`).
    """
    offsets, total = [], 0
    for span in spans:
        offsets.append(total)
        total += span.count
    placed = list(zip(spans, offsets, strict=True))
    short = [item for item in placed if item[0].count <= _SHORT]
    long = sorted((item for item in placed if item[0].count > _SHORT), key=lambda item: -item[0].count)
    gathered = [short] if short else []
    while long:
        size = sum(1 for span, _ in long if span.count * 4 >= long[0][0].count * 3)
        gathered.append(long[:size])
        long = long[size:]
    groups, places, before = [], torch.zeros(total, dtype=torch.long), 0
    for members in gathered:
        members.sort(key=lambda item: item[0].slot)
        group = _group(members, total, shared, device)
        groups.append(group)
        rows, width = group.tokens.shape
        for row, (span, offset) in enumerate(members):
            at = before + row * width
            places[offset : offset + span.count] = torch.arange(at, at + span.count)
        before += rows * width
    return Step(
        positions=torch.cat([torch.arange(s.start, s.start + s.count) for s in spans]).to(device),
        slots=torch.cat([torch.full((s.count,), s.slot) for s in spans]).to(device),
        points=torch.tensor(points, device=device),
        groups=tuple(groups),
        places=places.to(device),
        only=spans[0] if len(spans) == 1 else None,
    )


def attend(step: Step, queries: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> Tensor:
    """Attention of (tokens, heads, size) queries over the cache's buffers, as the step says; of the same shape.

    Query heads that share a key head are laid out as further query positions of it, so that keys and values
    are never repeated (grouped-query attention, Ainslie et al. 2023).
    """
    heads, size = queries.shape[1:]
    key_heads = key.shape[1]
    scale = size**-0.5 if scaling is None else scaling
    outputs = []
    for group in step.groups:
        rows, width = group.tokens.shape
        q = queries if group.whole else queries.index_select(0, group.tokens.flatten())
        q = q.view(rows, width, key_heads, heads // key_heads, size).permute(0, 2, 3, 1, 4)
        q = q.reshape(rows, key_heads, -1, size)
        written_out = q.device.type == "cpu" and q.shape[:-1].numel() * group.length <= _SCORES
        o = (_written_out if written_out else _fused)(q, group.of(key), group.of(value), group, scale)
        o = o.view(rows, key_heads, heads // key_heads, width, -1).permute(0, 3, 1, 2, 4)
        o = o.reshape(rows * width, heads, -1)
        if group.whole:
            return o
        outputs.append(o)
    return (outputs[0] if len(outputs) == 1 else torch.cat(outputs)).index_select(0, step.places)


def _fused(q: Tensor, k: Tensor, v: Tensor, group: _Group, scale: float) -> Tensor:
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=group.mask, scale=scale)


def _written_out(q: Tensor, k: Tensor, v: Tensor, group: _Group, scale: float) -> Tensor:
    # Matrices that lie apart in memory take several times as long to multiply as to copy.
    keys, values = k.contiguous().flatten(0, 1), v.contiguous().flatten(0, 1)
    scores = torch.bmm(q.flatten(0, 1), keys.transpose(1, 2)).view(*q.shape[:-1], group.length)
    # By way of float32 in two casts: a fraction of the time of a CPU's softmax over bfloat16.
    shares = torch.softmax(torch.add(group.added, scores.float(), alpha=scale), -1).to(q.dtype)
    return torch.bmm(shares.flatten(0, 1), values)
