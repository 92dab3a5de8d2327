"""A running batch: rows enter, feed what they have pending, and leave when they end.

A batch of one and a batch of many run the same code. A row that ends makes room for the next one at once
(continuous batching, Yu et al. 2022, "Orca"), so nobody waits for the longest answer of a batch.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from time import perf_counter
from typing import Any

import numpy as np
import torch

from t2s_assets.text2sql.decoding.buffers import Buffers
from t2s_assets.text2sql.decoding.drafts import Drafter
from t2s_assets.text2sql.decoding.grammar import GuideFactory
from t2s_assets.text2sql.decoding.packed import PackedModel
from t2s_assets.text2sql.decoding.prefixes import PrefixCache
from t2s_assets.text2sql.decoding.rows import Row
from t2s_assets.text2sql.decoding.sharing import Batch
from t2s_assets.text2sql.decoding.steps import Span, plan
from t2s_assets.text2sql.decoding.supported import heads_sharing_a_key
from t2s_assets.text2sql.decoding.types import DecodingOptions

_GUESSES_OF_A_SKETCH = 1
"""What a sketch guesses in a large batch, where a token costs what it computes; three in four are right."""


class Lane:
    """Decodes rows in one running batch, on the thread that calls it, and keeps the schemas that they begin with.

    Several may work at the same time, each on a thread of its own: they share the model, the grammars and the drafter.
    """

    def __init__(
        self,
        model: Any,
        options: DecodingOptions,
        eos: frozenset[int],
        guides: GuideFactory | None,
        drafter: Drafter | None,
    ) -> None:
        self.prefixes = PrefixCache(options.prefix_cache_bytes)
        self._model, self._options, self._eos = model, options, eos
        self._guides, self._drafter = guides, drafter
        self._shared_heads = heads_sharing_a_key(model.config.get_text_config(decoder=True))

    def run(
        self,
        batch: Batch,
        finish: Callable[[Row, float], None],
        stopped: threading.Event,
        pace: AbstractContextManager[None],
    ) -> None:
        """Decode the rows of a batch, calling `finish` with each as it ends and when; until `stopped`.

        `pace` is entered for each forward pass.
        """
        waiting = deque(batch.rows)
        # Slot i of the cache belongs to active[i].
        slots = max(1, min(self._options.batch_size, self._options.token_budget // batch.capacity, len(waiting)))
        cache = Buffers(slots, batch.capacity)
        active: list[Row] = []
        while (waiting or active) and not stopped.is_set():
            self._admit(waiting, active, cache)
            with pace:
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

    def _admit(self, waiting: deque[Row], active: list[Row], cache: Buffers) -> None:
        """Fill free slots. A row that shares its prompt's beginning with one just admitted waits for it."""
        leaders: set[tuple[int, ...]] = set()
        followers: list[Row] = []
        while waiting and len(active) < cache.slots:
            row = waiting.popleft()
            prefix, cached = row.prefix, 0
            if self.prefixes.worth_keeping(prefix):
                states = self.prefixes.get(prefix)
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
            if self._guides is not None:
                row.guide = self._guides.guide(row.request)
            if row.request.draw is not None:
                row.draw = torch.Generator().manual_seed(row.request.draw)
            if self._drafter is not None:
                row.draft = self._drafter.draft(row.request, row.prompt)
            row.start(cached)
            active.append(row)
        waiting.extendleft(reversed(followers))

    def _advance(self, active: list[Row], cache: Buffers) -> None:
        """One forward pass: every row feeds what it has pending and chooses its next tokens."""
        guesses = self._options.draft_tokens // len(active)
        fed = [row.feed(max(guesses, self._least(row))) for row in active]
        spans = [Span(slot, row.length, len(tokens)) for slot, (row, tokens) in enumerate(zip(active, fed))]
        offsets = np.cumsum([0, *(len(tokens) for tokens in fed)]).tolist()
        points = [offset + point.offset for row, offset in zip(active, offsets) for point in row.points]
        step = plan(spans, points, self._shared_heads, self._model.device)
        flat = [token for tokens in fed for token in tokens]
        if isinstance(self._model, PackedModel):
            logits = self._model.logits(flat, step, cache)
        else:
            from t2s_assets.text2sql.decoding.ragged import forward

            logits = forward(self._model, flat, step, cache)
        normalisers = logits.logsumexp(-1)
        masks = [point.allowed for row in active for point in row.points]
        if masks[0] is not None:
            allowed = torch.from_numpy(np.stack(masks)).to(logits.device)
            logits = logits.masked_fill(~allowed, -torch.inf)
        chosen = logits.argmax(-1)
        starts = np.cumsum([0, *(len(row.points) for row in active)]).tolist()
        scores = (logits.gather(-1, chosen[:, None])[:, 0] - normalisers).tolist()
        likeliest = chosen.tolist()
        first = list(zip(likeliest, scores))
        now = perf_counter()
        for slot, (row, at) in enumerate(zip(active, starts)):
            row.first = row.first or now
            these = slice(at, at + len(row.points))
            choices = _Choices(first[these], logits[these], normalisers[these], row.draw)
            row.choose(choices, self._eos, likeliest[these])
            if row.keep_prefix:
                self.prefixes.put(row.prefix, cache.read(slot, row.shared))
                row.keep_prefix = False

    def _least(self, row: Row) -> int:
        sketch = row.draft is not None and row.draft.of_sketch
        return _GUESSES_OF_A_SKETCH if sketch and isinstance(self._model, PackedModel) else 0


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
