"""Batches as flat sequences of tokens without padding, for `fused`.

The examples of a batch stand one behind the other in a sequence (1, T). Only attention looks at rows: each example is
one, or, with shared schemas (`shared_schemas`), each table's schema is a row and each of its questions another, which
also looks at the schema's keys. T is filled up to a multiple of FLAT_PAD_TO with tokens that attend among themselves,
in short rows, and have no label, so that kernels meet few shapes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from t2s_assets.text2sql.prompts import IGNORED
from t2s_assets.text2sql.training.cost import flat_length, most_held, most_lanes
from t2s_assets.text2sql.training.shared_schemas import TokenCount, count_tokens, shared_row

Example = Mapping[str, Any]

# Scores of a group are filled up to multiples of this: kernels of products are made for each size.
_ALIGN = 16
# What a group costs besides its scores, in scores of one head: its operations in every layer.
_GROUP = 14_000
# Tokens of a row that fills a sequence up, at most: a lane may be filled by hundreds, whose scores nobody needs.
_FILLER = 64


@dataclass(frozen=True)
class _Row:
    """Where a row's queries start and how many they are; the same of keys that it sees in front of its own."""

    start: int
    count: int
    first: int = 0
    before: int = 0


def _group(rows: Sequence[_Row], total: int) -> Any:
    """The RowGroup of `rows` in a sequence of `total` tokens."""
    import torch

    from t2s_assets.text2sql.training.row_attention import RowGroup

    width = -(-max(r.count for r in rows) // _ALIGN) * _ALIGN
    length = -(-max(r.before + r.count for r in rows) // _ALIGN) * _ALIGN
    column, place = torch.arange(width), torch.arange(length)
    start, count, first, before = (torch.tensor([getattr(r, n) for r in rows])[:, None] for n in _Row.__annotations__)
    queries = torch.where(column < count, start + column, total)
    keys = torch.where(place < before, first + place, start + place - before)
    keys = torch.where(place < before + count, keys, 0)
    # An absent query looks at the first key: a row of nothing but hidden keys has no softmax.
    last = torch.where(column < count, before + column, 0)
    return RowGroup(queries, keys, last + 1)


def flat_pass(examples: Sequence[Example], *, pad_token: int, share: bool, at_least: int = 0) -> dict[str, Any]:
    """Examples with `input_ids` and `labels` (and `table`, to `share` schemas) as one sequence of T >= `at_least`.

    `input_ids`, `labels`, `position_ids` of shape (1, T), and `rows`, which says how they attend.
    """
    import torch

    from t2s_assets.text2sql.training.row_attention import Rows

    if share:
        row = shared_row(examples)
    else:
        row = {"input_ids": [], "labels": [], "position_ids": [], "groups": [], "branches": []}
        for number, example in enumerate(examples):
            count = len(example["input_ids"])
            row["input_ids"] += example["input_ids"]
            # Nothing predicts an example's first token; the last of its neighbour stands in front of it.
            row["labels"] += [IGNORED, *example["labels"][1:]]
            row["position_ids"] += range(count)
            row["groups"] += [number] * count
            row["branches"] += [0] * count
    length = len(row["input_ids"])
    filled = flat_length(max(length, at_least))
    rows = _rows(row["groups"], row["branches"])
    rows += [_Row(at, min(_FILLER, filled - at)) for at in range(length, filled, _FILLER)]
    fill = {"input_ids": pad_token, "labels": IGNORED, "position_ids": 0}
    made = {n: torch.tensor([[*row[n], *[value] * (filled - length)]]) for n, value in fill.items()}
    return made | {"rows": Rows(filled, tuple(_group(members, filled) for members in _alike(rows)))}


def _rows(groups: Sequence[int], branches: Sequence[int]) -> list[_Row]:
    """Schemas (branch 0), which see themselves alone, and questions, which see their schema too."""
    schemas: dict[int, _Row] = {}
    rows, at = [], 0
    while at < len(groups):
        number, branch, end = groups[at], branches[at], at
        while end < len(groups) and (groups[end], branches[end]) == (number, branch):
            end += 1
        schema = schemas.get(number) if branch else None
        row = _Row(at, end - at, schema.start, schema.count) if schema else _Row(at, end - at)
        if branch == 0:
            schemas[number] = row
        rows.append(row)
        at = end
    return rows


def _alike(rows: Sequence[_Row]) -> list[list[_Row]]:
    """Rows, by their length, in the groups that cost least: their scores, padding included, and _GROUP for each."""
    rows = sorted(rows, key=lambda r: (-r.count, -r.before))
    # For the first rows of each number: the least cost, and how many of them are in the groups before the last.
    cheapest = [(0, 0)]
    for end in range(1, len(rows) + 1):
        width = length = 0
        ways = []
        for start in range(end - 1, -1, -1):
            width, length = max(width, rows[start].count), max(length, rows[start].before + rows[start].count)
            ways.append((cheapest[start][0] + _GROUP + width * length * (end - start), start))
        cheapest.append(min(ways))
    groups, end = [], len(rows)
    while end:
        start = cheapest[end][1]
        groups.append(list(rows[start:end]))
        end = start
    return groups[::-1]


class FlatBatches:
    """The collator: `labels` (1, T) of the whole batch, and `rounds` of what `flat_pass` makes of examples.

    A round takes examples of up to `pass_tokens` together, or one, and shares them out among passes that run side by
    side: as many as `threads`, of LANE_TOKENS each at least, and fewer where the longest would leave the others to be
    filled up with much. All passes of a batch have one gradient.
    """

    def __init__(self, *, pad_token: int, share: bool, pass_tokens: int, threads: int) -> None:
        self.pad_token, self.share, self.pass_tokens, self.threads = pad_token, share, pass_tokens, threads

    def __call__(self, examples: Sequence[Example]) -> dict[str, Any]:
        import torch

        rounds = []
        for together in parts_within(examples, self.pass_tokens, share=self.share):
            parts, longest = self._shared_out(together)
            # All of one length: kernels are made for each.
            rounds.append([flat_pass(p, pad_token=self.pad_token, share=self.share, at_least=longest) for p in parts])
        return {"labels": torch.cat([p["labels"] for passes in rounds for p in passes], dim=1), "rounds": rounds}

    def _shared_out(self, examples: Sequence[Example]) -> tuple[list[list[Example]], int]:
        """A round's examples by pass, and the tokens of the longest."""
        tokens = count_tokens(examples, share=self.share)
        for lanes in range(most_lanes(tokens, self.threads), 1, -1):
            for longest_table in (math.inf, tokens / lanes) if self.share else (math.inf,):
                parts = _balanced(self._units(examples, longest_table), lanes, share=self.share)
                longest = max(count_tokens(part, share=self.share) for part in parts)
                if len(parts) * flat_length(longest) <= most_held(tokens, self.pass_tokens, lanes):
                    return parts, longest
        return [list(examples)], tokens

    def _units(self, examples: Sequence[Example], longest_table: float) -> list[list[Example]]:
        """What goes into one pass whole: an example, or with `share` all of a table's, whose schema is then computed
        once; a table of over `longest_table` tokens in pieces."""
        if not self.share:
            return [[e] for e in examples]
        by_table: dict[str, list[Example]] = {}
        for e in examples:
            by_table.setdefault(e["table"], []).append(e)
        units = []
        for members in by_table.values():
            pieces = math.ceil(count_tokens(members, share=True) / longest_table)
            units += [members] if pieces <= 1 else _balanced([[e] for e in members], pieces, share=True)
        return units


def _balanced(units: Sequence[list[Example]], count: int, *, share: bool) -> list[list[Example]]:
    """The units in at most `count` parts of like sizes: each, from the longest on, goes where there are fewest tokens
    (longest processing time first, Graham 1969)."""
    parts: list[list[Example]] = [[] for _ in range(count)]
    sizes = [0] * count
    for size, unit in sorted(((count_tokens(u, share=share), u) for u in units), key=lambda pair: -pair[0]):
        least = sizes.index(min(sizes))
        parts[least] += unit
        sizes[least] += size
    return [part for part in parts if part]


def parts_within(examples: Sequence[Example], limit: int, *, share: bool) -> list[list[Example]]:
    """The examples in order, cut into as few parts of at most `limit` tokens (or one example) as fit one by one.

    With `share`, a table's schema counts once in each part.
    """
    parts: list[list[Example]] = []
    count = TokenCount(share=share)
    for example in examples:
        if count.add(example) > limit or not parts:
            parts.append([])
            count = TokenCount(share=share)
            count.add(example)
        parts[-1].append(example)
    return parts
