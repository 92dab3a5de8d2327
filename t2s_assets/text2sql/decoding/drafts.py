"""Guesses at what the model will write, which one forward pass can check several of.

A guess that the model would not have chosen is thrown away, so guesses change the number of forward passes
and never the answer (speculative decoding, Leviathan et al. 2023; drafts copied from the prompt, Saxena 2023,
"Prompt lookup decoding").
"""

from __future__ import annotations

from typing import Any

import numpy as np

_LONGEST_MATCH = 3

# The likelier of the ways a sketch can go on, best first: most queries have a condition, most conditions are
# equalities, most selections have no aggregate; a string begins or ends.
_HINTS = (" WHERE", ' "', " =", " '", "'", '"')


class Drafter:
    """Guesses the next token from the prompt and from how a sketch usually goes on."""

    def __init__(self, tokenizer: Any, eos: frozenset[int]) -> None:
        def first(text: str) -> int:
            # Within a text: at its start, SentencePiece tokenizers put a space of their own.
            return tokenizer("x" + text, add_special_tokens=False).input_ids[1]

        # EOS is never guessed: nothing follows that could be checked in the same pass.
        self._eos = eos
        self._hints = [first(text) for text in _HINTS]
        self._ends = {first(text): self._hints[4] for text in ("?", ".", " ?")}

    def guess(self, prompt: list[int], written: list[int], allowed: np.ndarray | None) -> int | None:
        """The likeliest next token, or None without a guess. `allowed` marks what the grammar allows."""
        for size in range(min(_LONGEST_MATCH, len(written)), 0, -1):
            tail = written[-size:]
            for at in range(len(prompt) - size - 1, -1, -1):
                if prompt[at : at + size] != tail:
                    continue
                token = prompt[at + size]
                if token not in self._eos and (allowed is None or (allowed[token] and token not in self._ends)):
                    return token
                end = self._ends.get(token)
                if end is not None and allowed[end]:
                    return end
        if allowed is None:
            return None
        return next((token for token in self._hints if allowed[token]), None)
