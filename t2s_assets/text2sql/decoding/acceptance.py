"""Whether SQL text is what the grammar of SELECT and its scopes let a model write, and where it is not."""

from __future__ import annotations

import bisect
from collections.abc import Sequence

from llguidance import LLMatcher, LLTokenizer

from t2s_assets.text2sql.decoding.scopes import Scopes
from t2s_assets.text2sql.decoding.select_grammar import select_grammar
from t2s_assets.text2sql.errors import PromptError
from t2s_assets.text2sql.schema import TableSchema

_SHOWN = 40


class Acceptance:
    """What may be written about some tables, whatever the tokenizer: tokens are bytes here.

    Raises:
        PromptError: there is no grammar for these tables.
    """

    def __init__(self, schemas: Sequence[TableSchema]) -> None:
        self._start = LLMatcher(LLTokenizer("byte"), select_grammar(schemas), log_level=0)
        if self._start.is_error():
            raise PromptError(f"no grammar for these tables: {self._start.get_error().splitlines()[0]}")
        self._scopes = Scopes(schemas)

    def stops_at(self, sql: str) -> str | None:
        """The text from the first word on that may not be written, cut to 40 characters; None where all may be."""
        text = sql.encode()
        matcher = self._start.deep_copy()
        if matcher.consume_tokens(list(text)) and matcher.is_accepting() and self._scopes.admits(text, complete=True):
            return None
        # Whatever is admitted, all that it begins with is.
        sizes = range(1, self._start.deep_copy().validate_tokens(list(text)) + 1)
        return _from_word(text, bisect.bisect_left(sizes, True, key=lambda size: not self._scopes.admits(text[:size])))


def _from_word(text: bytes, at: int) -> str:
    """The text from the word on that the place is in or behind, as far as it is shown."""
    begun = text[:at].decode(errors="ignore")
    word = len(begun) - len(begun.rsplit(" ", 1)[-1])
    return text.decode()[word : word + _SHOWN]
