"""Batches in which questions on one table share the tokens of its schema.

A prompt is mostly its table's schema. Here a batch is one row of tokens: for each table the schema once, and behind it
its questions, each with its SQL. A mask lets every question see its schema and itself alone, and positions count on
from the schema, so that each question's loss and gradient are what they are by itself; only the schema is not computed
again. This is the training counterpart of prefix sharing in decoding (Hydragen, Juravsky et al. 2024,
arXiv:2402.05099). A row carries no padding but up to a multiple of PAD_TO tokens.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from t2s_assets.text2sql.prompts import IGNORED
from t2s_assets.text2sql.training.cost import PAD_TO

Row = dict[str, list[int]]


def order(tables: Sequence[str], *, questions_a_table: int, seed: int) -> list[int]:
    """All examples, by index, such that up to `questions_a_table` of one table follow each other; seeded.

    Batches cut from it mix tables, and with them gradients; which examples meet depends on `seed` alone.
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
    return [index for group in groups for index in group]


def shared_row(examples: Sequence[Mapping[str, Any]]) -> Row:
    """Examples with `input_ids`, `labels` and `table` as one row.

    The row has lists of equal length: `input_ids`; `labels`, IGNORED but on answers; `position_ids`; `groups`, the
    number of the schema that a token belongs to; `branches`, 0 on a schema's tokens, else the question's number.
    """
    row: Row = {name: [] for name in ("input_ids", "labels", "position_ids", "groups", "branches")}

    def add(tokens: list[int], labels: list[int], *, start: int, group: int, branch: int) -> None:
        row["input_ids"] += tokens
        row["labels"] += labels
        row["position_ids"] += range(start, start + len(tokens))
        row["groups"] += [group] * len(tokens)
        row["branches"] += [branch] * len(tokens)

    by_table: dict[str, list[Mapping[str, Any]]] = {}
    for example in examples:
        by_table.setdefault(example["table"], []).append(example)
    for number, members in enumerate(by_table.values()):
        shared = _shared_tokens(members)
        add(members[0]["input_ids"][:shared], [IGNORED] * shared, start=0, group=number, branch=0)
        for branch, member in enumerate(members, 1):
            add(member["input_ids"][shared:], member["labels"][shared:], start=shared, group=number, branch=branch)
    return row


def _shared_tokens(members: Sequence[Mapping[str, Any]]) -> int:
    """How many first tokens are the same for all. One token before the first label stays with its question, whose
    last prompt token predicts the answer's first."""
    prompts = [sum(label == IGNORED for label in m["labels"]) for m in members]
    first, limit = members[0]["input_ids"], max(0, min(prompts) - 1)
    return next((i for i in range(limit) if any(m["input_ids"][i] != first[i] for m in members)), limit)


def largest_row(examples: Sequence[Mapping[str, Any]], batch_size: int) -> tuple[int, int]:
    """(tokens, labelled tokens) of the longest row among batches of `batch_size`, and of the one with most labels."""
    rows = [shared_row(examples[at : at + batch_size]) for at in range(0, len(examples), batch_size)]
    labelled = [sum(label != IGNORED for label in row["labels"]) for row in rows]
    return max(len(row["input_ids"]) for row in rows), max(labelled)


class SharedSchemas:
    """The collator of such batches: `input_ids`, `labels` and `position_ids` of shape (1, tokens), and the additive
    attention mask of shape (1, 1, tokens, tokens) in `dtype`."""

    def __init__(self, *, pad_token: int, dtype: Any) -> None:
        self.pad_token, self.dtype = pad_token, dtype

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        import torch

        row = shared_row(examples)
        length = len(row["input_ids"])
        width = -(-length // PAD_TO) * PAD_TO
        fill = {"input_ids": self.pad_token, "labels": IGNORED, "position_ids": 0, "groups": -1, "branches": 0}
        tensors = {n: torch.tensor([*row[n], *[value] * (width - length)]) for n, value in fill.items()}
        groups, branches = tensors.pop("groups"), tensors.pop("branches")
        related = groups[:, None] == groups[None, :]
        visible = related & ((branches[None, :] == 0) | (branches[:, None] == branches[None, :]))
        visible &= torch.ones(width, width, dtype=torch.bool).tril()
        mask = torch.zeros(width, width, dtype=self.dtype).masked_fill_(~visible, torch.finfo(self.dtype).min)
        return {name: values[None] for name, values in tensors.items()} | {"attention_mask": mask[None, None]}
