"""Passes of a fused model side by side, one thread each.

A product of matrices that two threads share waits for the slower one at its end, fifty times a layer, and each finds
what the other wrote in the other's cache. Passes that are independent wait for each other at the end of a round.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import torch
from torch import Tensor

from t2s_assets.text2sql.training.arena import Pages
from t2s_assets.text2sql.training.fused import Fused, Lane


class Lanes:
    """Runs the passes of a step, and turns what they find into the adapter's gradients.

    Sums are formed in the order of the passes, whatever thread is done first: the same passes on as many threads give
    the same gradients.
    """

    def __init__(self, model: Fused, threads: int) -> None:
        self.model, self.threads = model, threads
        self.pages = Pages()
        self._lanes: list[Lane] = []
        self._used = 0
        self._gradients_wait = False
        self._pool = ThreadPoolExecutor(threads, "lane")

    def run(self, rounds: Sequence[Sequence[Mapping[str, Any]]], *, backward: bool) -> Tensor:
        """The sum of the losses of all passes; with `backward` their gradients wait for `spread`.

        Passes of a round run at the same time. Their number is at most that of threads, which they share evenly.
        """
        self._gradients_wait = False
        self._each(self.model.joints, lambda joint: joint.renew())
        self._used = max(len(passes) for passes in rounds)
        self._lanes += [Lane(self.model, self.pages) for _ in range(len(self._lanes), self._used)]
        for lane in self._lanes:
            lane.clear()
        losses: list[Tensor] = []
        for passes in rounds:

            def one(number: int, part: Mapping[str, Any], threads: int = self.threads // len(passes)) -> Tensor:
                torch.set_num_threads(threads)
                return self.model.loss(part, self._lanes[number], backward=backward)

            try:
                losses += self._all(one, range(len(passes)), passes)
            finally:
                # The next round may have one lane in place of two, and then that one needs what both had.
                for lane in self._lanes:
                    lane.arena.release()
        self._gradients_wait = backward
        return torch.stack(losses).sum()

    def spread(self, factor: float) -> None:
        """Add the gradients of the last `run`, `factor` times, to those of the adapter.

        Raises:
            RuntimeError: no gradients wait, since nothing ran with `backward` after the last `spread`.
        """
        if not self._gradients_wait:
            raise RuntimeError("Lanes.spread: no gradients wait; call run(..., backward=True) before each spread")
        self._gradients_wait = False
        lanes = self._lanes[: self._used]

        def one(number: int) -> None:
            first, *others = (lane.gradients[number] for lane in lanes)
            for other in others:
                first.merge(other)
            self.model.joints[number].spread(first, factor)

        self._each(range(len(self.model.joints)), one)

    def _each(self, items: Sequence[Any], do: Callable[[Any], None]) -> None:
        """`do` for all items, which do not touch each other, on all threads."""

        def share(number: int) -> None:
            torch.set_num_threads(1)
            for item in items[number :: self.threads]:
                do(item)

        self._all(share, range(self.threads))

    def _all(self, do: Callable[..., Any], *items: Iterable[Any]) -> list[Any]:
        """What `do` returns for each, all at the same time. An error is raised when no other is at work any more: who
        catches it may use the same memory again."""
        futures = [self._pool.submit(do, *arguments) for arguments in zip(*items)]
        wait(futures)
        return [future.result() for future in futures]
