"""The decoding loop: rows enter a running batch, feed what they have pending, and leave when they end.

A batch of one and a batch of many run the same code. A row that ends makes room for the next one at once
(continuous batching, Yu et al. 2022, "Orca"), so nobody waits for the longest answer of a batch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from time import perf_counter
from typing import Any

import numpy as np
import torch

from t2s_assets.text2sql.decoding.buffers import Buffers
from t2s_assets.text2sql.decoding.drafts import Drafter
from t2s_assets.text2sql.decoding.grammar import GuideFactory
from t2s_assets.text2sql.decoding.packed import PackedModel
from t2s_assets.text2sql.decoding.prefixes import PrefixCache, shared_lengths
from t2s_assets.text2sql.decoding.rows import Row
from t2s_assets.text2sql.decoding.steps import Span, plan
from t2s_assets.text2sql.decoding.supported import check_model, heads_sharing_a_key
from t2s_assets.text2sql.decoding.types import Completion, DecodingOptions, Request
from t2s_assets.text2sql.errors import ModelError, PromptError
from t2s_assets.text2sql.plain_text import encode

OnResult = Callable[[int, Completion], None]

_SMALLEST_CAPACITY = 64


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
        self._shared_heads = heads_sharing_a_key(self._config)
        self._eos = _eos_ids(model, tokenizer)
        self._prefixes = PrefixCache(self.options.prefix_cache_bytes)
        self._drafter = Drafter(tokenizer, self._eos) if self.options.draft_tokens else None
        self._guides = None
        if self.options.grammar == "schema":
            self._guides = GuideFactory(tokenizer, self._eos, self._config.vocab_size)

    def forget(self) -> None:
        """Drop the kept keys and values, which belong to the weights that computed them."""
        self._prefixes.clear()

    def generate(self, requests: Sequence[Request], *, on_result: OnResult | None = None) -> list[Completion]:
        """Completions in the order of the requests.

        `on_result` is called with the position and the completion of each request as soon as it ends, in the
        order in which they end. Raises `PromptError` if a prompt is empty, or exceeds the model's context
        with its completion, or a request has no schema while the grammar is `schema`.
        """
        if not requests:
            return []
        results: list[Completion | None] = [None] * len(requests)

        def finish(row: Row, now: float) -> None:
            completion = results[row.index] = self._completion(row, now)
            if on_result is not None:
                on_result(row.index, completion)

        # Rows of like length share a cache, so that one long prompt does not size everybody's.
        classes: dict[int, list[Row]] = {}
        for row in self._rows(requests):
            capacity = _SMALLEST_CAPACITY
            while capacity < len(row.prompt) + row.limit:
                capacity *= 2
            classes.setdefault(capacity, []).append(row)
        with torch.inference_mode(), self._attention():
            for capacity, rows in sorted(classes.items()):
                # Questions on one table follow one another, and their schema is fed once.
                rows.sort(key=lambda row: (row.shared, row.prefix, len(row.prompt)))
                self._run(deque(rows), requests, capacity, finish)
        return [completion for completion in results if completion is not None]

    def _attention(self) -> AbstractContextManager[None]:
        if isinstance(self.model, PackedModel):
            return nullcontext()
        # Only where transformers runs the model: importing its models takes as long as all else at a start.
        from t2s_assets.text2sql.decoding.ragged import ragged_attention

        return ragged_attention(self.model)

    def _run(
        self,
        waiting: deque[Row],
        requests: Sequence[Request],
        capacity: int,
        finish: Callable[[Row, float], None],
    ) -> None:
        """Decode rows that fit `capacity` cache positions; slot i of the cache belongs to `active[i]`."""
        slots = max(1, min(self.options.batch_size, self.options.token_budget // capacity, len(waiting)))
        cache = Buffers(slots, capacity)
        active: list[Row] = []
        while waiting or active:
            self._admit(waiting, requests, active, cache)
            self._advance(active, cache)
            now = perf_counter()
            for slot in reversed(range(len(active))):
                if not active[slot].done:
                    continue
                finish(active[slot], now)
                last = active.pop()
                if slot < len(active):
                    cache.move(len(active), slot, last.length)
                    active[slot] = last

    def _admit(self, waiting: deque[Row], requests: Sequence[Request], active: list[Row], cache: Buffers) -> None:
        """Fill free slots. A row that shares its prompt's beginning with one just admitted waits for it."""
        leaders: set[tuple[int, ...]] = set()
        followers: list[Row] = []
        while waiting and len(active) < cache.slots:
            row = waiting.popleft()
            prefix, cached = row.prefix, 0
            if self._prefixes.worth_keeping(prefix):
                states = self._prefixes.get(prefix)
                if states is not None:
                    cache.write(len(active), states)
                    cached = len(prefix)
                elif prefix in leaders:
                    followers.append(row)
                    continue
                else:
                    leaders.add(prefix)
                    row.keep_prefix = True
            row.started = perf_counter()
            request = requests[row.index]
            if self._guides is not None:
                row.guide = self._guides.guide(request)
            if request.draw is not None:
                row.draw = torch.Generator().manual_seed(request.draw)
            row.start(cached)
            active.append(row)
        waiting.extendleft(reversed(followers))

    def _advance(self, active: list[Row], cache: Buffers) -> None:
        """One forward pass: every row feeds what it has pending and chooses its next tokens."""
        guesses = max(0, self.options.draft_tokens // len(active))
        fed = [row.feed(self._drafter, guesses) for row in active]
        spans = [Span(slot, row.length, len(tokens)) for slot, (row, tokens) in enumerate(zip(active, fed))]
        offsets = np.cumsum([0, *(len(tokens) for tokens in fed)]).tolist()
        points = [offset + point.offset for row, offset in zip(active, offsets) for point in row.points]
        step = plan(spans, points, self._shared_heads, self.model.device)
        flat = [token for tokens in fed for token in tokens]
        if isinstance(self.model, PackedModel):
            logits = self.model.logits(flat, step, cache)
        else:
            from t2s_assets.text2sql.decoding.ragged import forward

            logits = forward(self.model, flat, step, cache)
        normalisers = logits.logsumexp(-1)
        masks = [point.allowed for row in active for point in row.points]
        if masks[0] is not None:
            allowed = torch.from_numpy(np.stack(masks)).to(logits.device)
            logits = logits.masked_fill(~allowed, -torch.inf)
        chosen = logits.argmax(-1)
        starts = np.cumsum([0, *(len(row.points) for row in active)]).tolist()
        scores = (logits.gather(-1, chosen[:, None])[:, 0] - normalisers).tolist()
        first = list(zip(chosen.tolist(), scores))
        now = perf_counter()
        for slot, (row, at) in enumerate(zip(active, starts)):
            row.first = row.first or now
            these = slice(at, at + len(row.points))
            row.choose(_Choices(first[these], logits[these], normalisers[these], row.draw), self._eos)
            if row.keep_prefix:
                self._prefixes.put(row.prefix, cache.read(slot, row.shared))
                row.keep_prefix = False

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
            Row(index=index, prompt=prompt, shared=length, limit=self.options.max_new_tokens)
            for index, (prompt, length) in enumerate(zip(ids, shared))
        ]

    def _completion(self, row: Row, now: float) -> Completion:
        written = row.written[: row.limit]
        cut = len(row.written) - len(written)
        lead = self._guides.lead if self._guides is not None else ""
        return Completion(
            text=self.tokenizer.decode(written, skip_special_tokens=True).removeprefix(lead),
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


class _Choices:
    """What the model chooses at the points of a row: `first`, and from `logits` what is next where that is refused.

    With `draw`, every choice is drawn when it is asked for, so that guesses which nobody asks about change none.
    """

    def __init__(
        self, first: list[tuple[int, float]], logits: torch.Tensor, normalisers: torch.Tensor, draw: Any
    ) -> None:
        self._first = first
        self._logits = logits
        self._normalisers = normalisers
        self._draw = draw

    def __call__(self, number: int, refused: int | None = None) -> tuple[int, float] | None:
        if refused is None and self._draw is None:
            return self._first[number]
        logits = self._logits[number]
        if refused is not None:
            logits[refused] = -torch.inf
        best = int(logits.argmax())
        if logits[best] == -torch.inf:
            return None
        if self._draw is not None:
            best = int(torch.multinomial(logits.softmax(-1).cpu(), 1, generator=self._draw))
        return best, float(logits[best] - self._normalisers[number])


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
