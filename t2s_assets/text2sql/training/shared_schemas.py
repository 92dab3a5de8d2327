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
            # Nothing predicts an example's first token; another's last stands in front of it.
            labels = member["labels"][shared:] if shared else [IGNORED, *member["labels"][1:]]
            add(member["input_ids"][shared:], labels, start=shared, group=number, branch=branch)
    return row


def _shared_tokens(members: Sequence[Mapping[str, Any]]) -> int:
    """How many first tokens are the same for all."""
    shared = _prompt_shared(members[0])
    for member in members[1:]:
        shared = same_tokens(members[0], member, shared)
    return shared


def same_tokens(first: Mapping[str, Any], other: Mapping[str, Any], most: int) -> int:
    """How many first tokens of two examples, `most` at most, are the same and may be shared."""
    most = min(most, _prompt_shared(other))
    ids, others = first["input_ids"], other["input_ids"]
    if ids[:most] == others[:most]:
        return most
    return next(i for i in range(most) if ids[i] != others[i])


def _prompt_shared(example: Mapping[str, Any]) -> int:
    """Tokens that an example may share. One before the first label stays with its question, whose last prompt token
    predicts the answer's first."""
    return max(0, sum(label == IGNORED for label in example["labels"]) - 1)


class TokenCount:
    """Tokens of `shared_row` of the examples added so far, or of the examples one behind the other without `share`."""

    def __init__(self, *, share: bool) -> None:
        self.share, self.tokens = share, 0
        # For each table its first example, how many there are, and how many tokens they share.
        self._tables: dict[str, tuple[Mapping[str, Any], int, int]] = {}

    def add(self, example: Mapping[str, Any]) -> int:
        """One more; the tokens of all."""
        self.tokens += len(example["input_ids"])
        if self.share:
            first, count, shared = self._tables.get(example["table"], (example, 0, _prompt_shared(example)))
            now = same_tokens(first, example, shared)
            self.tokens += max(0, count - 1) * shared - count * now
            self._tables[example["table"]] = first, count + 1, now
        return self.tokens


def count_tokens(examples: Sequence[Mapping[str, Any]], *, share: bool) -> int:
    """Tokens of examples one behind the other, each table's schema once with `share`."""
    count = TokenCount(share=share)
    for example in examples:
        count.add(example)
    return count.tokens


def largest_row(examples: Sequence[Mapping[str, Any]], batch_size: int) -> tuple[int, int]:
    """(tokens, labelled tokens) of the longest row among batches of `batch_size`, and of the one with most labels."""
    rows = [shared_row(examples[at : at + batch_size]) for at in range(0, len(examples), batch_size)]
    labelled = [sum(label != IGNORED for label in row["labels"]) for row in rows]
    return max(len(row["input_ids"]) for row in rows), max(labelled)


class SharedSchemas:
    """The collator of such batches: `input_ids`, `labels`, `position_ids`, `groups` and `branches`, of shape
    (1, tokens). `with_mask` makes of them what a model takes."""

    def __init__(self, *, pad_token: int, dtype: Any) -> None:
        """`dtype`: the mask's, which is the model's."""
        self.pad_token, self.dtype = pad_token, dtype

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        import torch

        row = shared_row(examples)
        length = len(row["input_ids"])
        width = -(-length // PAD_TO) * PAD_TO
        fill = {"input_ids": self.pad_token, "labels": IGNORED, "position_ids": 0, "groups": -1, "branches": 0}
        small = {"groups": torch.int16, "branches": torch.int16}
        return {n: torch.tensor([[*row[n], *[v] * (width - length)]], dtype=small.get(n)) for n, v in fill.items()}

    def with_mask(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """A batch with its additive attention mask, of shape (1, 1, tokens, tokens), in place of `groups` and
        `branches`; one that has a mask as it is.

        The mask is made where the batch is: of 2,000 tokens it has 8 MB in 16 bits, and what it is made of 8 kB.
        """
        import torch

        rest = dict(batch)
        if "groups" not in rest:
            return rest
        groups, branches = rest.pop("groups")[0], rest.pop("branches")[0]
        visible = groups[:, None] == groups
        visible &= (branches == 0) | (branches[:, None] == branches)
        places = torch.arange(len(groups), device=groups.device)
        visible &= places[:, None] >= places
        mask = torch.zeros(visible.shape, dtype=self.dtype, device=visible.device)
        mask.masked_fill_(~visible, torch.finfo(self.dtype).min)
        return rest | {"attention_mask": mask[None, None]}
