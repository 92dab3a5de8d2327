"""Prompts to SQL: requests are checked, shared out over lanes that decode them, and come back as completions.

On a CPU, two batches are decoded side by side, with half of the threads each. A product of matrices that threads share
waits for the slowest of them, two hundred times in a forward pass, and where another process takes a core, for as long
as it is away.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from t2s_assets.text2sql.decoding.drafts import Drafter
from t2s_assets.text2sql.decoding.grammar import GuideFactory
from t2s_assets.text2sql.decoding.lane import Lane
from t2s_assets.text2sql.decoding.pace import Pace
from t2s_assets.text2sql.decoding.packed import PackedModel
from t2s_assets.text2sql.decoding.prefixes import shared_lengths
from t2s_assets.text2sql.decoding.rows import Row
from t2s_assets.text2sql.decoding.sharing import Batch, share_out
from t2s_assets.text2sql.decoding.supported import check_model
from t2s_assets.text2sql.decoding.types import Completion, DecodingOptions, Request
from t2s_assets.text2sql.errors import ModelError, PromptError
from t2s_assets.text2sql.plain_text import decode, encode

OnResult = Callable[[int, Completion], None]

_ROWS_A_LANE = 24
"""Of fewer rows, each pass would read the weights for too few tokens."""

_LANES = 2
"""Whatever the number of threads, so that it does not decide who shares a batch, which the last bits depend on."""


class Decoder:
    """Decoding of SQL with a causal language model: greedy, except for requests that are drawn.

    `model` is a transformers causal LM, a PEFT model over one, or what `packed` made of one, on the device it is
    to run on, in evaluation mode; `tokenizer` is its tokenizer. Prompts carry their own special tokens, as
    `plain_text.encode` expects. Keys and values of schemas are kept between calls: after a change of the
    model's weights call `forget`. Not for several threads at once. Raises `ModelError` if the model's
    attention cannot be decoded here, no EOS token is known, or the grammar needs a fast tokenizer.
    """

    def __init__(self, model: Any, tokenizer: Any, options: DecodingOptions | None = None) -> None:
        check_model(model)
        self.model = model
        self.tokenizer = tokenizer
        self.options = options or DecodingOptions()
        self._config = model.config.get_text_config(decoder=True)
        self._eos = _eos_ids(model, tokenizer)
        self._drafter = Drafter(tokenizer, self._eos) if self.options.draft_tokens else None
        self._guides = None
        if self.options.grammar == "schema":
            self._guides = GuideFactory(tokenizer, self._eos, self._config.vocab_size)
        self._lanes: list[Lane] = []
        adapts = self.options.fewer_threads_when_busy and isinstance(model, PackedModel)
        self._pace: AbstractContextManager[None] = Pace() if adapts else nullcontext()

    def forget(self) -> None:
        """Drop the kept keys and values, which belong to the weights that computed them."""
        for lane in self._lanes:
            lane.prefixes.clear()

    def forget_tables(self) -> None:
        """`forget`, and drop the kept grammars: the next question is as the first on its tables."""
        self.forget()
        if self._guides is not None:
            self._guides.forget()

    def generate(self, requests: Sequence[Request], *, on_result: OnResult | None = None) -> list[Completion]:
        """Completions in the order of the requests.

        `on_result` is called with the position and the completion of each request as soon as it ends, in the
        order in which they end, one call at a time and perhaps on another thread. Raises `PromptError` if a prompt
        is empty, or exceeds the model's context with its completion, or a request has no schema while the grammar
        is `schema`.
        """
        if not requests:
            return []
        results: list[Completion | None] = [None] * len(requests)

        def finish(row: Row, now: float) -> None:
            completion = results[row.index] = self._completion(row, now)
            if on_result is not None:
                on_result(row.index, completion)

        side_by_side = isinstance(self.model, PackedModel) and len(requests) >= _LANES * _ROWS_A_LANE
        self._decode(share_out(self._rows(requests), _LANES if side_by_side else 1), finish)
        return [completion for completion in results if completion is not None]

    def _decode(self, shares: list[list[Batch]], finish: Callable[[Row, float], None]) -> None:
        """Decode each share in a lane of its own, as many at the same time as there are threads."""
        self._lanes += [self._lane() for _ in range(len(self._lanes), len(shares))]
        for lane in self._lanes:
            lane.prefixes.resize(self.options.prefix_cache_bytes // len(self._lanes))
        stopped, ending = threading.Event(), threading.Lock()

        def one_at_a_time(row: Row, now: float) -> None:
            with ending:
                if stopped.is_set():
                    return
                try:
                    finish(row, now)
                except BaseException:
                    stopped.set()
                    raise

        def run(lane: Lane, share: list[Batch], pace: AbstractContextManager[None]) -> None:
            with torch.inference_mode(), self._attention():
                for batch in share:
                    lane.run(batch, one_at_a_time, stopped, pace)

        threads = torch.get_num_threads()
        if len(shares) == 1 or threads == 1:
            for lane, share in zip(self._lanes, shares):
                run(lane, share, self._pace)
            return

        def alone(number: int) -> None:
            torch.set_num_threads((threads + number) // len(shares))
            run(self._lanes[number], shares[number], nullcontext())

        try:
            with ThreadPoolExecutor(len(shares), "decoding") as pool:
                try:
                    futures = [pool.submit(alone, number) for number in range(len(shares))]
                    wait(futures, return_when=FIRST_EXCEPTION)
                finally:
                    # After an error in one, or Ctrl-C here, the others end with their forward pass.
                    stopped.set()
            for future in futures:
                future.result()
        finally:
            # Threads that start later take the number that was set last, by whichever thread.
            torch.set_num_threads(threads)

    def _lane(self) -> Lane:
        return Lane(self.model, self.options, self._eos, self._guides, self._drafter)

    def _attention(self) -> AbstractContextManager[None]:
        if isinstance(self.model, PackedModel):
            return nullcontext()
        # Only where transformers runs the model: importing its models takes as long as all else at a start.
        from t2s_assets.text2sql.decoding.ragged import ragged_attention

        return ragged_attention(self.model)

    def _rows(self, requests: Sequence[Request]) -> list[Row]:
        """The requests as rows, checked."""
        prompts = [request.prompt for request in requests]
        ids = encode(self.tokenizer, prompts)
        limit = getattr(self._config, "max_position_embeddings", None)
        for index, (request, prompt) in enumerate(zip(requests, ids)):
            if self._guides is not None and not request.schemas:
                raise PromptError(
                    f"decoding: request {index} has no schema, and decoding.grammar: schema needs one; "
                    "give a schema, or set decoding.grammar: none"
                )
            if not prompt:
                raise PromptError(f"decoding: prompt {index} is empty; give the model at least one token")
            if limit and len(prompt) + self.options.max_new_tokens > limit:
                raise PromptError(
                    f"decoding: prompt {index} has {len(prompt)} tokens and max_new_tokens is "
                    f"{self.options.max_new_tokens}, together more than the model's context of {limit}; "
                    "shorten the schema or lower max_new_tokens"
                )
        shared = shared_lengths(self.tokenizer, prompts, [request.question for request in requests], ids)
        return [
            Row(index, request, prompt, shared=length, limit=self.options.max_new_tokens)
            for index, (request, prompt, length) in enumerate(zip(requests, ids, shared))
        ]

    def _completion(self, row: Row, now: float) -> Completion:
        written = row.written[: row.limit]
        cut = len(row.written) - len(written)
        lead = self._guides.lead if self._guides is not None else ""
        return Completion(
            text=decode(self.tokenizer, written, skip_special_tokens=True).removeprefix(lead),
            token_ids=tuple(written),
            logprob=row.logprob,
            n_tokens=len(written) + row.wrote_eos,
            n_forced=row.n_forced - cut,
            forward_passes=row.forward_passes,
            prefill_seconds=row.first - row.started,
            decode_seconds=now - row.first,
            finished=row.finished and not cut,
            stuck=row.stuck,
        )


def _eos_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """Every token that ends a completion: the tokenizer's and those of the generation config."""
    configured = model.generation_config.eos_token_id if model.generation_config is not None else None
    ids = {tokenizer.eos_token_id, *(configured if isinstance(configured, list) else [configured])} - {None}
    if not ids:
        raise ModelError(
            "decoding: neither the tokenizer nor the generation config names an EOS token, so no completion "
            "could end; set the tokenizer's eos_token"
        )
    return frozenset(ids)
