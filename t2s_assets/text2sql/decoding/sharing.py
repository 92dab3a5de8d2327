"""Which rows are decoded together, and which side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from t2s_assets.text2sql.decoding.rows import Row

_SMALLEST_CLASS = 64
_WHOLE = 16

_ANSWER = 20
"""Tokens that an answer feeds, about."""


@dataclass
class Batch:
    """Rows of like length, which share a cache, so that one long prompt does not size everybody's."""

    rows: list[Row] = field(default_factory=list)

    @property
    def capacity(self) -> int:
        """Cache positions that hold the longest row with its completion."""
        return -(-max(row.room for row in self.rows) // _WHOLE) * _WHOLE


def share_out(rows: Sequence[Row], lanes: int) -> list[list[Batch]]:
    """For each of `lanes`, or fewer where rows are few, the batches that it decodes in turn.

    Each has about as many tokens to feed. Questions on one table follow one another, so that their schema is fed once,
    or twice where two lanes share the table. The same rows are always shared out the same way.
    """
    ordered = sorted(rows, key=lambda row: (_class(row), row.shared, row.prefix, len(row.prompt)))
    weights, before = [], None
    for row in ordered:
        weights.append(len(row.prompt) + _ANSWER - (row.shared if row.prefix == before else 0))
        before = row.prefix
    total = sum(weights)
    shares: list[dict[int, Batch]] = [{} for _ in range(lanes)]
    for row, weight, after in zip(ordered, weights, accumulate(weights)):
        lane = min(lanes - 1, int((after - weight / 2) * lanes / total))
        shares[lane].setdefault(_class(row), Batch()).rows.append(row)
    return [list(batches.values()) for batches in shares if batches]


def _class(row: Row) -> int:
    size = _SMALLEST_CLASS
    while size < row.room:
        size *= 2
    return size
