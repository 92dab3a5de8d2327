"""What goes into decoding and what comes out. Imports no model library, so configuration may use it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from t2s_assets.text2sql.schema import TableSchema

Grammar = Literal["schema", "none"]
Kind = Literal["sketch", "select"]


@dataclass(frozen=True)
class Request:
    """One question to answer.

    `prompt` is the finished model input (no completion); `question` is the text as typed, a substring of the
    prompt; `schema` is the table (or tables) the grammar may name, and may be None only when the grammar is `none`.
    `kind` is what the grammar allows: WikiSQL's `sketch` over one table, or any `select` over all of them. With
    `draw`, the number of a draw, tokens are sampled under the grammar instead of chosen greedily; the same
    requests give the same answers on one machine.
    """

    prompt: str
    question: str
    schema: TableSchema | Sequence[TableSchema] | None
    kind: Kind = "sketch"
    draw: int | None = None

    @property
    def schemas(self) -> tuple[TableSchema, ...]:
        """The tables, in order."""
        if self.schema is None:
            return ()
        return (self.schema,) if isinstance(self.schema, TableSchema) else tuple(self.schema)


@dataclass(frozen=True)
class Completion:
    """What the model wrote for one request.

    `token_ids` are the completion's tokens without EOS; `n_tokens` counts them with it. `n_forced` of them
    had no alternative under the grammar and were never chosen. `logprob` is the sum of natural-log
    probabilities of the chosen tokens, EOS included, under the model's own softmax, before any grammar mask.
    `prefill_seconds` is wall time from the row's admission to its first chosen token, `decode_seconds` from
    there to its end; in a batch both include the time spent on the other rows. `finished` is False when
    `max_new_tokens` cut it, or when it was `stuck`: none of the tokens that the grammar allows next may come.
    """

    text: str
    token_ids: tuple[int, ...]
    logprob: float
    n_tokens: int
    n_forced: int
    forward_passes: int
    prefill_seconds: float
    decode_seconds: float
    finished: bool
    stuck: bool = False


@dataclass(frozen=True)
class DecodingOptions:
    """How to decode.

    `grammar`: `schema` allows only SQL that is valid for the request's table, `none` allows any text.
    `max_new_tokens`: completion tokens at most, forced ones included. `batch_size`: rows decoded together at
    most. `token_budget`: cache positions (rows x longest row) of a batch at most, so long prompts shrink it; on a
    CPU two batches are decoded side by side.
    `prefix_cache_bytes`: keys and values of schemas kept for later questions; 0 keeps none. `draft_tokens`:
    guessed tokens verified in one forward pass, shared by its rows; 0 guesses none. Neither of the last two changes
    the answer, but by rounding, and by the weights that a pass reads where they are int8.
    `fewer_threads_when_busy`: on a CPU that other processes use too, one batch takes as many threads as get a core.
    With many threads and float32, their number decides the rounding.
    """

    grammar: Grammar = "schema"
    max_new_tokens: int = 192
    batch_size: int = 48
    token_budget: int = 8192
    prefix_cache_bytes: int = 256 * 1024 * 1024
    draft_tokens: int = 0
    fewer_threads_when_busy: bool = False
