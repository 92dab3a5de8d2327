"""Guesses at what the model will write, which one forward pass can check several of.

A guess that the model would not have chosen is thrown away, so guesses change the number of forward passes
and never the answer (speculative decoding, Leviathan et al. 2023). A sketch is guessed as text (`sketch_drafts`);
where that has no idea, and for any SELECT, tokens are copied from the prompt (Saxena 2023, "Prompt lookup decoding").
"""

from __future__ import annotations

from typing import Any

import numpy as np

from t2s_assets.text2sql.decoding.sketch_drafts import SketchDraft
from t2s_assets.text2sql.decoding.types import Request
from t2s_assets.text2sql.plain_text import decode, encode, protect

_LONGEST_MATCH = 3

_MOST_COPIED = 8
"""Guesses in a pass up to which copies are added: under half are right, and what follows a wrong one is waste."""

# The likelier of the ways a sketch can go on, best first: most queries have a condition, most conditions are
# equalities, most selections have no aggregate; a string begins or ends.
_HINTS = (" WHERE", ' "', " =", " '", "'", '"')


class Drafter:
    """Makes the drafts of requests for one tokenizer."""

    def __init__(self, tokenizer: Any, eos: frozenset[int]) -> None:
        self.tokenizer = tokenizer
        # EOS is never guessed: nothing follows that could be checked in the same pass.
        self.eos = eos
        self._before = encode(tokenizer, ["\n"])[0]
        self._before_text = decode(tokenizer, self._before)
        self.hints = [self.tokens_within(text)[0] for text in _HINTS]
        self.ends = {self.tokens_within(text)[0]: self.hints[4] for text in ("?", ".", " ?")}

    def tokens_within(self, text: str) -> list[int]:
        """The tokens of a text that goes on with another. At a text's start, SentencePiece puts a space of its own."""
        tokens, before = encode(self.tokenizer, ["\n" + text])[0], self._before
        # Tokenizers to which a line's end is a space are seen as they come.
        return tokens[len(before) :] if tokens[: len(before)] == before else encode(self.tokenizer, [text])[0]

    def text_within(self, token: int) -> str:
        """What a token spells that stands behind another: at a text's start, SentencePiece takes a space away."""
        return decode(self.tokenizer, [*self._before, token])[len(self._before_text) :]

    def draft(self, request: Request, prompt: list[int]) -> Draft:
        """What guesses the completion of `prompt`, the tokens of the request's."""
        sketch = None
        if request.kind == "sketch" and len(request.schemas) == 1:
            sketch = SketchDraft(request.question, request.schemas[0])
        return Draft(self, prompt, sketch)


class Draft:
    """Guesses for one request."""

    def __init__(self, drafter: Drafter, prompt: list[int], sketch: SketchDraft | None) -> None:
        self._drafter, self._prompt, self._sketch = drafter, prompt, sketch
        self._whole: list[int] = []
        self._without_idea: list[int] | None = None

    @property
    def of_sketch(self) -> bool:
        """Whether more is known than what the prompt says."""
        return self._sketch is not None

    def guess(self, written: list[int], guessed: int, allowed: np.ndarray | None) -> int | None:
        """The likeliest token after `written`, or None without a guess.

        The last `guessed` of the tokens written are guesses of the same forward pass. `allowed` marks what the
        grammar allows.
        """
        token = self._next_of_sketch(written)
        if token is not None and token not in self._drafter.eos:
            # A tokenizer may know tokens that the model does not.
            if allowed is None or (token < len(allowed) and allowed[token]):
                return token
        return self._copied(written, allowed) if guessed < _MOST_COPIED else None

    def learn(self, written: list[int], following: int) -> None:
        """What the model would write after tokens that were guessed, and then were not its own."""
        if self._sketch is not None:
            text = "" if following in self._drafter.eos else self._drafter.text_within(following)
            self._sketch.learn(decode(self._drafter.tokenizer, written).lstrip(" "), text)
            self._without_idea = None

    def _next_of_sketch(self, written: list[int]) -> int | None:
        if self._sketch is None:
            return None
        if not self._goes_on(written) and written != self._without_idea:
            tokenizer = self._drafter.tokenizer
            text = decode(tokenizer, written)
            sql = text.lstrip(" ")
            whole = text[: len(text) - len(sql)] + self._sketch.continuation(sql)
            # A question may spell special tokens, which are text in its SQL.
            self._whole = encode(tokenizer, [protect(tokenizer, whole)])[0]
            if not self._goes_on(written) and whole.startswith(text) and (rest := whole[len(text) :]):
                # A model may spell a text by other tokens than training did, and a young one often does.
                self._whole = [*written, *self._drafter.tokens_within(protect(tokenizer, rest))]
            self._without_idea = None if self._goes_on(written) else list(written)
        return self._whole[len(written)] if self._goes_on(written) else None

    def _goes_on(self, written: list[int]) -> bool:
        """Whether the sketch as it was last guessed begins with what is written, and goes on."""
        return len(self._whole) > len(written) and self._whole[: len(written)] == written

    def _copied(self, written: list[int], allowed: np.ndarray | None) -> int | None:
        """What follows in the prompt where it last had the tokens just written, or how a sketch usually goes on."""
        prompt, eos, ends = self._prompt, self._drafter.eos, self._drafter.ends
        for size in range(min(_LONGEST_MATCH, len(written)), 0, -1):
            tail = written[-size:]
            for at in range(len(prompt) - size - 1, -1, -1):
                if prompt[at : at + size] != tail:
                    continue
                token = prompt[at + size]
                if token not in eos and (allowed is None or (allowed[token] and token not in ends)):
                    return token
                end = ends.get(token)
                if end is not None and allowed[end]:
                    return end
        if allowed is None:
            return None
        return next((token for token in self._drafter.hints if allowed[token]), None)
