"""Keys and values of prompt beginnings, so that the second question on a table pays only for its question."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch

from t2s_assets.text2sql.plain_text import encode

States = list[tuple[torch.Tensor, torch.Tensor]]

_SHORTEST = 8
"""Beginnings of fewer tokens are recomputed: looking them up would cost as much."""


class PrefixCache:
    """Least-recently-used store of what `Buffers.read` gives, of at most `limit` bytes in all."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.size = 0
        self._entries: OrderedDict[tuple[int, ...], tuple[States, int]] = OrderedDict()
        self._too_large: set[tuple[int, ...]] = set()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, tokens: tuple[int, ...]) -> States | None:
        """The states of exactly these tokens, or None."""
        entry = self._entries.get(tokens)
        if entry is None:
            return None
        self._entries.move_to_end(tokens)
        return entry[0]

    def put(self, tokens: tuple[int, ...], states: States) -> None:
        """Keep the states of these tokens, and forget the least recently used ones that no longer fit."""
        size = sum(tensor.numel() * tensor.element_size() for pair in states for tensor in pair)
        if size > self.limit:
            self._too_large.add(tokens)
            return
        if tokens in self._entries:
            return
        self._entries[tokens] = states, size
        self.size += size
        self._shrink()

    def worth_keeping(self, tokens: tuple[int, ...]) -> bool:
        """Whether states of these tokens can be kept."""
        return len(tokens) >= _SHORTEST and self.limit > 0 and tokens not in self._too_large

    def resize(self, limit: int) -> None:
        """Keep at most `limit` bytes from now on."""
        if limit > self.limit:
            self._too_large.clear()
        self.limit = limit
        self._shrink()

    def clear(self) -> None:
        self._entries.clear()
        self._too_large.clear()
        self.size = 0

    def _shrink(self) -> None:
        while self.size > self.limit:
            _, (_, freed) = self._entries.popitem(last=False)
            self.size -= freed


def shared_lengths(tokenizer: Any, prompts: list[str], questions: list[str], ids: list[list[int]]) -> list[int]:
    """For each prompt, how many first tokens do not depend on its question.

    They are the tokens of the text before the question, less those that its first word changes. 0 where the
    prompt does not hold the question.
    """
    heads = []
    for prompt, question in zip(prompts, questions, strict=True):
        # A prompt may show the question with its white space normalised.
        at = max(prompt.rfind(text) if text else -1 for text in (question, " ".join(question.split())))
        heads.append(prompt[: max(at, 0)])
    distinct = list(dict.fromkeys(heads))
    tokens = dict(zip(distinct, encode(tokenizer, distinct), strict=True))
    lengths = []
    for head, full in zip(heads, ids, strict=True):
        shared = 0
        # The last token of a prompt is always fed, because its logits are what is asked for.
        for ours, theirs in zip(tokens[head], full[:-1]):
            if ours != theirs:
                break
            shared += 1
        lengths.append(shared)
    return lengths
