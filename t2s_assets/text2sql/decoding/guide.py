"""The guides that hold a model to a grammar, and to the scopes of SQL's names."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from llguidance import LLMatcher

from t2s_assets.text2sql.decoding.scopes import Scopes
from t2s_assets.text2sql.errors import ModelError


class Guide:
    """Where one completion stands in its grammar."""

    def __init__(self, matcher: LLMatcher, vocabulary: int) -> None:
        self._matcher = matcher
        self._vocabulary = vocabulary

    @property
    def ended(self) -> bool:
        """Whether the text is complete and nothing can follow it."""
        return self._matcher.is_stopped()

    def allowed(self) -> np.ndarray:
        """Which tokens may come next, a bool for each of the vocabulary; EOS may where the text may end."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        mask = np.unpackbits(bits, count=min(self._vocabulary, bits.size * 8), bitorder="little").view(bool)
        # Rows that a model's embedding has beyond its tokenizer are no tokens.
        return mask if mask.size == self._vocabulary else np.pad(mask, (0, self._vocabulary - mask.size))

    def forced(self) -> list[int]:
        """The tokens that must come next because the grammar leaves one text, already accepted.

        They are tokenised as that text would be in full, less a last token that could still grow.
        """
        tokens = self._matcher.compute_ff_tokens()
        if tokens:
            self.accept(*tokens)
        return tokens

    def admits(self, token: int) -> bool:
        """Whether an allowed token may come next by what the grammar does not know."""
        return True

    def accept(self, *tokens: int) -> None:
        """Move past tokens. Raises `ModelError` if the grammar does not allow them."""
        if not self._matcher.consume_tokens(list(tokens)):
            raise ModelError(f"decoding: the grammar refuses tokens {tokens}: {self._matcher.get_error()}")

    def undo(self, count: int) -> None:
        """Take back the last `count` accepted tokens."""
        if count and not self._matcher.rollback(count):
            raise ModelError(f"decoding: {count} tokens cannot be taken back: {self._matcher.get_error()}")


class ScopedGuide(Guide):
    """A guide in the grammar of SELECT that also admits only what binds, or can still become SQL that binds.

    Masks are the grammar's alone, because thousands of tokens may be in one. So a chosen token is put to `admits`
    before it is accepted, and the next likeliest where it is not. `spelt` gives a token's bytes.
    """

    def __init__(
        self,
        matcher: LLMatcher,
        vocabulary: int,
        scopes: Scopes,
        spelt: Callable[[int], bytes],
        eos: frozenset[int],
    ) -> None:
        super().__init__(matcher, vocabulary)
        self._scopes = scopes
        self._spelt = spelt
        self._eos = eos
        self._texts = [b""]

    def admits(self, token: int) -> bool:
        """Whether the text may go on with an allowed token, and with what the grammar forces after it."""
        text = self._texts[-1]
        if token in self._eos:
            return self._scopes.admits(text, complete=True)
        text += self._spelt(token)
        if not self._scopes.admits(text):
            return False
        super().accept(token)
        forced = self._matcher.compute_ff_tokens()
        ended = not forced and self.ended
        super().undo(1)
        if not forced:
            return not ended or self._scopes.admits(text, complete=True)
        return self._scopes.admits(text + b"".join(map(self._spelt, forced)))

    def accept(self, *tokens: int) -> None:
        super().accept(*tokens)
        for token in tokens:
            self._texts.append(self._texts[-1] + self._spelt(token))

    def undo(self, count: int) -> None:
        super().undo(count)
        del self._texts[len(self._texts) - count :]
