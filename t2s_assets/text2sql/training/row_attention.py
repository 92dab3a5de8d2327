"""Attention over the rows of a flat sequence of tokens, without padding the sequence. Used by `fused`.

Rows of like lengths attend together, as one batched product. Which entry of a token's query, key and value stands
where in that product is the same in every layer, so it is worked out once for a pass (`Layout`), and a layer moves
them with one `index_select` in either direction. Query heads that share a key head (Ainslie et al. 2023) are further
queries of it: keys and values are never repeated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from t2s_assets.text2sql.training.arena import empty, kept


@dataclass(frozen=True)
class RowGroup:
    """Rows of a flat sequence of T tokens that attend alike.

    `queries` (rows, width): index of each query token, T where a row has fewer; `keys` (rows, length): of each key
    token, 0 where a row has fewer; `mask` (rows, width, length): what is added to the scores, -inf where a query may
    not look and else 0. A query that is absent looks at its row's first key.
    """

    queries: Tensor
    keys: Tensor
    mask: Tensor


@dataclass(frozen=True)
class Rows:
    """How a flat sequence of `tokens` tokens attends: each token is a query of one row of one of the groups."""

    tokens: int
    groups: tuple[RowGroup, ...]


class Heads(NamedTuple):
    """Query heads, key heads, and a head's size."""

    queries: int
    keys: int
    size: int


@dataclass(frozen=True)
class _Part:
    """A group as layers take it: `count` entries that are queries, then its keys, then its values.

    `entries`: which entries of the sequence these are; `asked`: which heads of attention's output the queries are, or
    the one after them where a query is absent; `added`: which of the sequence's key and value entries the last two are;
    `mask` (rows * key heads, shared * width, length); `start`: its first entry among those of all groups; `first`: its
    first query among theirs.
    """

    entries: Tensor
    asked: Tensor
    added: Tensor
    mask: Tensor
    count: int
    start: int
    first: int

    def split(self, entries: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (n, shared * width, size), keys and values (n, length, size) of the group's entries."""
        n, wide, length = self.mask.shape
        rest = (len(entries) - self.count) // 2
        queries, keys, values = entries.split([self.count, rest, rest])
        return queries.view(n, wide, -1), keys.view(n, length, -1), values.view(n, length, -1)


class Layout:
    """How `rows` attend with `heads`, in `dtype`: where each head of each token stands.

    An entry is one head of a token's query, key or value: the sequence has (T, heads + 2 * key heads) of them.
    """

    def __init__(self, rows: Rows, heads: Heads, dtype: torch.dtype) -> None:
        tokens = rows.tokens
        self.heads, self.tokens = heads, tokens
        each, shared = heads.queries + 2 * heads.keys, heads.queries // heads.keys
        query, key = torch.arange(heads.queries).view(1, heads.keys, shared, 1), torch.arange(heads.keys).view(1, -1, 1)
        self.parts: list[_Part] = []
        self.total = self.answers = 0
        # Where each entry's gradient stands among all groups' entries, and each token's output among their queries.
        self.places = torch.empty(tokens * each, dtype=torch.long)
        self.output = torch.empty(tokens * heads.queries, dtype=torch.long)
        uses = torch.zeros(tokens, dtype=torch.long)
        for group in rows.groups:
            count, width, length = group.mask.shape
            present = (group.queries < tokens)[:, None, None].expand(count, heads.keys, shared, width).flatten()
            seen = (group.mask == 0).any(1)
            uses.index_add_(0, group.keys[seen], torch.ones(int(seen.sum()), dtype=torch.long))
            asked = (group.queries[:, None, None] * heads.queries + query).flatten()
            queries = (group.queries[:, None, None] * each + query).flatten()
            keys = (group.keys[:, None] * each + heads.queries + key).flatten()
            entries = torch.cat([queries, keys, keys + heads.keys])
            real = torch.cat([present, *[seen[:, None].expand(count, heads.keys, length).flatten()] * 2])
            stand = torch.arange(len(entries))
            self.places[entries[real]] = self.total + stand[real]
            self.output[asked[present]] = self.answers + stand[: len(asked)][present]
            added = (group.keys[:, None] * 2 * heads.keys + key).flatten()
            mask = group.mask.to(dtype)[:, None, None].expand(count, heads.keys, shared, width, length)
            self.parts.append(
                _Part(
                    entries=torch.where(real, entries, 0),
                    asked=torch.where(present, asked, tokens * heads.queries),
                    added=torch.cat([added, added + heads.keys]),
                    mask=mask.reshape(count * heads.keys, shared * width, length),
                    count=len(asked),
                    start=self.total,
                    first=self.answers,
                )
            )
            self.total += len(entries)
            self.answers += len(asked)
        self.once = bool((uses == 1).all())
        self._turns: tuple[Tensor, Tensor, Tensor] | None = None

    def turns(self, cos: Tensor, sin: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
        """Cosine, sine and its negative (T, heads + key heads, size / 2) for `cos`, `sin` (T, size / 2).

        Those of query heads hold the scores' scale too. The same in every layer: made once.
        """
        if self._turns is None:
            factor = cos.new_ones(1, self.heads.queries + self.heads.keys, 1)
            factor[:, : self.heads.queries] = scale
            self._turns = cos[:, None] * factor, sin[:, None] * factor, -sin[:, None] * factor
        return self._turns

    def collected(self, gradients: Tensor) -> Tensor:
        """(T, heads + 2 * key heads, size) from the gradients of all groups' entries."""
        heads = self.heads
        found = gradients.index_select(0, self.places).view(self.tokens, -1, heads.size)
        if not self.once:
            # Questions on one table add to the same schema's keys: in float32, whatever their number.
            sums = gradients.new_zeros(self.tokens * 2 * heads.keys, heads.size, dtype=torch.float32)
            for part in self.parts:
                behind = part.start + part.count
                sums.index_add_(0, part.added, gradients[behind : behind + len(part.added)].float())
            found[:, heads.queries :] = sums.view(self.tokens, -1, heads.size)
        return found


class _Attend(Function):
    """Rotary embedding (Su et al. 2021) and scaled dot-product attention of (T, heads + 2 * key heads, size)."""

    @staticmethod
    def forward(ctx: Any, entries: Tensor, layout: Layout, cos: Tensor, sin: Tensor, back: Tensor) -> Tensor:
        turned = layout.heads.queries + layout.heads.keys
        _rotate(entries[:, :turned], cos, sin)
        entries = entries.view(-1, layout.heads.size)
        context, saved = entries.new_empty(layout.answers, layout.heads.size), []
        with torch.autocast(entries.device.type, enabled=False):
            for part in layout.parts:
                into = empty((len(part.entries), layout.heads.size), entries.dtype)
                taken = torch.index_select(entries, 0, part.entries, out=into)
                query, key, value = part.split(taken)
                scores = torch.baddbmm(part.mask, query, key.transpose(1, 2))
                # By way of float32 in two casts: half the time of a CPU's softmax over bfloat16.
                weights = kept(torch.softmax(scores.float(), -1), query.dtype)
                torch.bmm(weights, value, out=context[part.first : part.first + part.count].view_as(query))
                saved += [taken, weights]
        ctx.layout, ctx.cos, ctx.back = layout, cos, back
        ctx.save_for_backward(*saved)
        out = empty((len(layout.output), layout.heads.size), entries.dtype)
        return torch.index_select(context, 0, layout.output, out=out).view(layout.tokens, -1)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
        layout, saved = ctx.layout, ctx.saved_tensors
        gradients = dy.new_empty(layout.total, layout.heads.size)
        # An absent query's is zero.
        asked = torch.cat([dy.view(-1, layout.heads.size), dy.new_zeros(1, layout.heads.size)])
        for part, taken, weights in zip(layout.parts, saved[::2], saved[1::2]):
            query, key, value = part.split(taken)
            dquery, dkey, dvalue = part.split(gradients[part.start : part.start + len(taken)])
            do = asked.index_select(0, part.asked).view_as(query)
            dweights = torch.bmm(do, value.transpose(1, 2))
            dscores = torch.ops.aten._softmax_backward_data(dweights, weights, -1, weights.dtype)
            torch.bmm(dscores, key, out=dquery)
            torch.bmm(dscores.transpose(1, 2), query, out=dkey)
            torch.bmm(weights.transpose(1, 2), do, out=dvalue)
        found = layout.collected(gradients)
        _rotate(found[:, : layout.heads.queries + layout.heads.keys], ctx.cos, ctx.back)
        return found, None, None, None, None


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> None:
    """Turn x (T, heads, size) in place."""
    first, second = x.chunk(2, dim=-1)
    before = first.clone()
    # A product that is added is not rounded by itself.
    first.mul_(cos).addcmul_(second, sin, value=-1)
    second.mul_(cos).addcmul_(before, sin)


def attend(qkv: Tensor, layout: Layout, cos: Tensor, sin: Tensor, scale: float) -> Tensor:
    """Attention's output (T, heads * size) of queries, keys and values side by side, which it overwrites.

    `qkv` (T, (heads + 2 * key heads) * size) before the rotary embedding, whose `cos` and `sin` are (T, size / 2).
    """
    return _Attend.apply(qkv.view(len(qkv), -1, layout.heads.size), layout, *layout.turns(cos, sin, scale))
