"""One request on its way through the decoder: what it feeds, and what the model's choices make of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from t2s_assets.text2sql.decoding.drafts import Draft
from t2s_assets.text2sql.decoding.guide import Guide
from t2s_assets.text2sql.decoding.types import Request


class Choices(Protocol):
    """The model's choice at each of a row's points."""

    def __call__(self, number: int, refused: int | None = None) -> tuple[int, float] | None:
        """The token chosen at point `number` and its log-probability, none of those refused there so far nor
        `refused`; None where nothing is left."""


@dataclass
class Point:
    """A place where the model chooses: after the token at `offset` of what the row feeds.

    `allowed` marks what it may choose (None: anything); `segment` is the guess with what is forced after it,
    already fed and accepted by the guide, and empty at the last point.
    """

    offset: int
    allowed: np.ndarray | None
    segment: list[int] = field(default_factory=list)


@dataclass
class Row:
    """A request that is being answered. `pending` tokens are written but not yet in the cache, which holds
    `length`."""

    index: int
    request: Request
    prompt: list[int]
    shared: int
    limit: int
    guide: Guide | None = None
    draft: Draft | None = None
    draw: Any = None  # the torch.Generator of a row whose tokens are sampled
    started: float = 0.0
    first: float = 0.0
    length: int = 0
    pending: list[int] = field(default_factory=list)
    keep_prefix: bool = False
    points: list[Point] = field(default_factory=list)
    written: list[int] = field(default_factory=list)
    n_forced: int = 0
    forward_passes: int = 0
    logprob: float = 0.0
    wrote_eos: bool = False
    finished: bool = False
    stuck: bool = False  # nothing that may come next is left

    @property
    def prefix(self) -> tuple[int, ...]:
        """The prompt's tokens that do not depend on its question."""
        return tuple(self.prompt[: self.shared])

    @property
    def room(self) -> int:
        """Cache positions that the prompt and the longest completion take."""
        return len(self.prompt) + self.limit

    @property
    def done(self) -> bool:
        return self.finished or self.stuck or len(self.written) >= self.limit

    def start(self, cached: int) -> None:
        """Feed the prompt after its first `cached` tokens, and whatever the grammar forces after it."""
        self.length = cached
        self.pending = self.prompt[cached:]
        self._force()

    def feed(self, guesses: int) -> list[int]:
        """The tokens for the next forward pass: the pending ones and at most `guesses` guessed ones.

        Tokens that the grammar forces after a guess come with it. Sets `points`.
        """
        tokens = list(self.pending)
        self.points = [Point(len(tokens) - 1, self._allowed())]
        budget = min(guesses, self.limit - len(self.written) - 1)
        while self.draft is not None and len(tokens) - len(self.pending) < budget:
            point = self.points[-1]
            guessed = tokens[len(self.pending) :]
            guess = self.draft.guess(self.written + guessed, len(guessed), point.allowed)
            if guess is None or (self.guide is not None and not self.guide.admits(guess)):
                break
            segment = [guess, *self._accept(guess)]
            if len(self.written) + len(tokens) - len(self.pending) + len(segment) > self.limit:
                self._undo(len(segment))
                break
            point.segment = segment
            tokens += segment
            if self.guide is not None and self.guide.ended:
                break
            self.points.append(Point(len(tokens) - 1, self._allowed()))
        return tokens

    def choose(self, choices: Choices, eos: frozenset[int], likeliest: Sequence[int] = ()) -> None:
        """Take the model's choice at each of `points` in turn, up to the first that was not guessed.

        `likeliest` are the tokens that the model finds likeliest at the points, for the guesses to learn from.
        """
        self.forward_passes += 1
        unread = [len(point.segment) for point in self.points]
        for number, point in enumerate(self.points):
            choice = choices(number)
            if choice is None or point.segment[:1] != [choice[0]]:
                self._learn(number, likeliest)
                self._undo(sum(unread[number:]))
                self.length += point.offset + 1
                while choice is not None and self.guide is not None and not self.guide.admits(choice[0]):
                    choice = choices(number, choice[0])
                if choice is None:
                    self.stuck = True
                    return
                self.logprob += choice[1]
                self._write(choice[0], eos)
                return
            self.logprob += choice[1]
            self.written += point.segment
            self.n_forced += len(point.segment) - 1
            if self.done:
                self.finished = self.guide is not None and self.guide.ended
                return
        # Every point was guessed right, so the last guess ended the text.
        self.finished = True

    def _learn(self, number: int, likeliest: Sequence[int]) -> None:
        """Tell what guesses what the model would write at the points beyond the one where it left the guess."""
        if self.draft is None or not self.draft.of_sketch:
            return
        text = list(self.written)
        for point, following in zip(self.points[number:], likeliest[number + 1 :]):
            text += point.segment
            self.draft.learn(text, following)

    def _write(self, token: int, eos: frozenset[int]) -> None:
        if token in eos:
            self.wrote_eos = self.finished = True
            return
        self.written.append(token)
        self.pending = [token]
        if self.guide is not None:
            self.guide.accept(token)
            self._force()

    def _force(self) -> None:
        if self.guide is None:
            return
        forced = self.guide.forced()
        self.written += forced
        self.pending += forced
        self.n_forced += len(forced)
        self.finished = self.guide.ended

    def _allowed(self) -> np.ndarray | None:
        return None if self.guide is None else self.guide.allowed()

    def _undo(self, count: int) -> None:
        if self.guide is not None:
            self.guide.undo(count)

    def _accept(self, guess: int) -> list[int]:
        if self.guide is None:
            return []
        self.guide.accept(guess)
        return self.guide.forced()
