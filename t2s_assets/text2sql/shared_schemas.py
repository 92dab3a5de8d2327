"""Training rows in which questions on one table share the tokens of its schema.

A prompt is mostly its table's schema. Here one row of tokens holds, for each of a few tables, the schema once and
behind it several questions, each with its SQL. A mask lets every question see its schema and itself alone, and
positions count on from the schema, so that each question's loss and gradient are what they are by itself; only the
schema is not computed again. This is the training counterpart of prefix sharing in decoding (Hydragen, Juravsky et
al. 2024, arXiv:2402.05099). Rows carry no padding but up to a multiple of 16 tokens.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

Row = dict[str, list[int]]

# Few distinct widths let a CPU's kernels and the allocator be reused from row to row.
_PAD_TO = 16


def shared_rows(
    prompts: Sequence[list[int]],
    answers: Sequence[list[int]],
    tables: Sequence[str],
    *,
    examples_a_row: int,
    questions_a_table: int,
    seed: int,
) -> list[Row]:
    """All examples in rows of `examples_a_row`, the last one maybe shorter.

    `prompts` and `answers` are token ids (an answer ends with EOS), `tables` each example's table. At most
    `questions_a_table` questions stand behind one schema, so that a row, and with it a gradient, mixes tables. Which
    examples meet in a row depends on `seed` alone.

    Each row has lists of equal length: `input_ids`; `labels`, -100 but on answers; `position_ids`; `groups`, the
    number of the schema that a token belongs to; `branches`, 0 on a schema's tokens, else the question's number.
    """
    at_random = random.Random(seed)
    by_table: dict[str, list[int]] = {}
    for index, table in enumerate(tables):
        by_table.setdefault(table, []).append(index)
    groups = []
    for members in by_table.values():
        at_random.shuffle(members)
        groups += [members[i : i + questions_a_table] for i in range(0, len(members), questions_a_table)]
    at_random.shuffle(groups)
    rows: list[list[list[int]]] = [[]]
    room = examples_a_row
    for group in groups:
        while group:
            rows[-1].append(group[:room])
            taken = len(rows[-1][-1])
            group, room = group[taken:], room - taken
            if not room:
                rows.append([])
                room = examples_a_row
    return [_row(row, prompts, answers) for row in rows if row]


def _row(groups: Sequence[Sequence[int]], prompts: Sequence[list[int]], answers: Sequence[list[int]]) -> Row:
    row: Row = {name: [] for name in ("input_ids", "labels", "position_ids", "groups", "branches")}

    def add(tokens: list[int], labels: list[int], *, start: int, group: int, branch: int) -> None:
        row["input_ids"] += tokens
        row["labels"] += labels
        row["position_ids"] += range(start, start + len(tokens))
        row["groups"] += [group] * len(tokens)
        row["branches"] += [branch] * len(tokens)

    for number, members in enumerate(groups):
        shared = _common_prefix([prompts[i] for i in members])
        schema = prompts[members[0]][:shared]
        add(schema, [-100] * shared, start=0, group=number, branch=0)
        for branch, i in enumerate(members, 1):
            question, answer = prompts[i][shared:], answers[i]
            labels = [-100] * len(question) + answer
            add(question + answer, labels, start=shared, group=number, branch=branch)
    return row


def _common_prefix(prompts: Sequence[list[int]]) -> int:
    """How many first tokens all prompts share, one less than the shortest at most: a question is never empty."""
    limit = min(len(p) for p in prompts) - 1
    first = prompts[0]
    return next((i for i in range(limit) if any(p[i] != first[i] for p in prompts)), limit)


def collate(rows: Sequence[Row], *, pad_token: int, dtype: Any) -> dict[str, Any]:
    """One row as the model's input, with its additive attention mask of shape (1, 1, tokens, tokens) in `dtype`.

    Raises:
        ValueError: more than one row; a row is a batch already.
    """
    import torch

    if len(rows) != 1:
        raise ValueError(f"one row is a batch already; got {len(rows)}")
    length = len(rows[0]["input_ids"])
    width = -(-length // _PAD_TO) * _PAD_TO
    fill = {"input_ids": pad_token, "labels": -100, "position_ids": 0, "groups": -1, "branches": 0}
    row = {n: torch.tensor([*rows[0][n], *[value] * (width - length)]) for n, value in fill.items()}
    groups, branches = row.pop("groups"), row.pop("branches")
    causal = torch.ones(width, width, dtype=torch.bool).tril()
    related = groups[:, None] == groups[None, :]
    visible = causal & related & ((branches[None, :] == 0) | (branches[:, None] == branches[None, :]))
    mask = torch.zeros(width, width, dtype=dtype).masked_fill_(~visible, torch.finfo(dtype).min)
    return {name: values[None] for name, values in row.items()} | {"attention_mask": mask[None, None]}
