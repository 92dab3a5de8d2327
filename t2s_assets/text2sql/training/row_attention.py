"""Attention over the rows of a flat sequence of tokens, without padding the sequence. Used by `fused`.

Rows of like lengths attend together, as one batched product. Which head of a token's query, key and value stands
where in that product is the same in every layer, so it is worked out once for a pass (`Layout`), and a layer moves
heads with one loop in either direction, which turns them too (rotary embedding). Query heads that share a key head
(Ainslie et al. 2023) are further queries of it: keys and values are never repeated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from t2s_assets.text2sql.training import kernels
from t2s_assets.text2sql.training.joint_linears import Take
from t2s_assets.text2sql.training.kernels import array

Indices = np.ndarray[Any, Any]


@dataclass(frozen=True)
class RowGroup:
    """Rows of a flat sequence of T tokens that attend alike.

    `queries` (rows, width): index of each query token, T where a row has fewer; `keys` (rows, length): of each key
    token, 0 where a row has fewer; `looks_at` (rows, width): how many of the row's first keys a query looks at. A
    query that is absent looks at its row's first key.
    """

    queries: Tensor
    keys: Tensor
    looks_at: Tensor


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
    """A group as layers take it: of the entries of all groups those from `start` on, first `count` queries (from
    `first` on among those of all groups), then keys, then values.

    `entries`: which entries of the sequence these are; `asked`: which heads of attention's output the queries are, or
    the one after them where a query is absent; `shape`: (rows * key heads, shared * width, length) of its scores.
    """

    entries: Indices
    asked: Indices
    looks_at: Indices
    shape: tuple[int, int, int]
    count: int
    start: int
    first: int

    def split(self, entries: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (n, shared * width, size), keys and values (n, length, size) of the group's entries."""
        n, wide, length = self.shape
        rest = (len(entries) - self.count) // 2
        queries, keys, values = entries.split([self.count, rest, rest])
        return queries.view(n, wide, -1), keys.view(n, length, -1), values.view(n, length, -1)


class Layout:
    """How `rows` attend with `heads`: where each head of each token stands.

    An entry is one head of a token's query, key or value: the sequence has (T, heads + 2 * key heads) of them. Rotary
    embedding turns queries and keys by the angles whose cosines and sines (T, size / 2) are given, float32.
    """

    def __init__(self, rows: Rows, heads: Heads, cos: Tensor, sin: Tensor, scale: float) -> None:
        tokens = rows.tokens
        self.heads = heads
        each, shared = heads.queries + 2 * heads.keys, heads.queries // heads.keys
        self.turning = array(cos), array(sin), np.array([heads.queries, heads.queries + heads.keys]), scale
        query, key = torch.arange(heads.queries).view(1, heads.keys, shared, 1), torch.arange(heads.keys).view(1, -1, 1)
        self.parts: list[_Part] = []
        self.total = self.answers = 0
        # Where each token's output stands among all groups' queries, and which of their entries are real.
        output = torch.empty(tokens * heads.queries, dtype=torch.long)
        taken, real = [], []
        for group in rows.groups:
            (count, width), length = group.queries.shape, group.keys.shape[1]
            present = (group.queries < tokens)[:, None, None].expand(count, heads.keys, shared, width).flatten()
            seen = torch.arange(length) < group.looks_at.amax(1, keepdim=True)
            asked = (group.queries[:, None, None] * heads.queries + query).flatten()
            queries = (group.queries[:, None, None] * each + query).flatten()
            keys = (group.keys[:, None] * each + heads.queries + key).flatten()
            entries = torch.cat([queries, keys, keys + heads.keys])
            real.append(torch.cat([present, *[seen[:, None].expand(count, heads.keys, length).flatten()] * 2]))
            taken.append(torch.where(real[-1], entries, 0))
            output[asked[present]] = self.answers + torch.arange(len(asked))[present]
            self.parts.append(
                _Part(
                    entries=array(taken[-1]),
                    asked=array(torch.where(present, asked, tokens * heads.queries)),
                    looks_at=array(group.looks_at.contiguous()),
                    shape=(count * heads.keys, shared * width, length),
                    count=len(asked),
                    start=self.total,
                    first=self.answers,
                )
            )
            self.total += len(entries)
            self.answers += len(asked)
        self.output = array(output)
        self.starts, self.places = _where(torch.cat(taken), torch.cat(real), tokens * each)

    def attend(self, qkv: Tensor, out: Tensor, keep: Take, take: Take) -> list[Tensor]:
        """Into `out` (T, heads * size or more) attention's output for queries, keys and values side by side.

        Returns what `back` needs, in memory that `keep` gives; `take` gives what is needed until this returns.
        """
        size = self.heads.size
        entries = array(qkv.view(-1, size))
        context, kept = take((self.answers, size)), []
        for part in self.parts:
            taken = keep((len(part.entries), size))
            kernels.take_heads(entries, part.entries, *self.turning, array(taken))
            query, key, value = part.split(taken)
            weights = torch.bmm(query, key.transpose(1, 2), out=keep(part.shape))
            kernels.softmax(array(weights), part.looks_at)
            torch.bmm(weights, value, out=context[part.first : part.first + part.count].view_as(query))
            kept += [taken, weights]
        kernels.put_heads(array(context), self.output, array(out))
        return kept

    def back(self, dy: Tensor, kept: list[Tensor], dqkv: Tensor, take: Take) -> None:
        """Into `dqkv` (T, heads of each * size or more) the gradient of `attend`'s queries, keys and values, where its
        output's is `dy` (T, heads * size)."""
        size = self.heads.size
        gradients, given = take((self.total, size)), array(dy.view(-1, size))
        for part, taken, weights in zip(self.parts, kept[::2], kept[1::2]):
            query, key, value = part.split(taken)
            dquery, dkey, dvalue = part.split(gradients[part.start : part.start + len(taken)])
            do = take((part.count, size))
            kernels.take_rows(given, part.asked, array(do))
            do = do.view_as(query)
            dscores = torch.bmm(do, value.transpose(1, 2), out=take(part.shape))
            kernels.softmax_back(array(dscores), array(weights), part.looks_at)
            torch.bmm(dscores, key, out=dquery)
            torch.bmm(dscores.transpose(1, 2), query, out=dkey)
            torch.bmm(weights.transpose(1, 2), do, out=dvalue)
        kernels.give_heads_back(array(gradients), self.starts, self.places, *self.turning, array(dqkv))


def _where(taken: Tensor, real: Tensor, entries: int) -> tuple[Indices, Indices]:
    """For each of `entries` entries, where it was taken to: `places[starts[i] : starts[i + 1]]`."""
    places = real.nonzero()[:, 0]
    found = taken[places]
    places = places[found.argsort(stable=True)]
    starts = torch.zeros(entries + 1, dtype=torch.long)
    starts[1:] = found.bincount(minlength=entries).cumsum(0)
    return array(starts), array(places)
