"""How many threads forward passes use while other processes want the cores too.

The threads of a product wait for the slowest of them, two hundred times in a forward pass. Where another process takes
a core, all of them stand still for as long as it is away, and one thread alone is more than twice as fast as two.
"""

from __future__ import annotations

import time

import torch

_FREE = 0.8
"""A pass whose thread had a core for less of its time was kept waiting. On idle cores it has one for 0.99 of the time,
beside one busy process for two thirds. (Threads that wait for one another spin, and so have one.)"""

_SHORTEST, _LONGEST = 0.25, 16.0
"""Seconds until more threads are tried again: at first, and at most after several tries in vain."""


class Pace:
    """A context for each forward pass, which runs on as many of torch's threads as get a core.

    A pass that was kept waiting halves the threads of those after it, down to one. After a while twice as many are
    tried again, and after twice as long when that was in vain. Outside, and for who else uses torch, nothing changes.
    """

    def __init__(self) -> None:
        self._most = self._now = 0
        self._patience, self._until = _SHORTEST, 0.0

    def __enter__(self) -> None:
        most = torch.get_num_threads()
        if most != self._most:
            self._most = self._now = most
        self._began, self._worked = time.monotonic(), time.thread_time()
        if self._now < most and self._began >= self._until:
            self._now = min(most, 2 * self._now)
        if self._now < most:
            torch.set_num_threads(self._now)

    def __exit__(self, *_: object) -> None:
        if self._now < self._most:
            torch.set_num_threads(self._most)
        ended = time.monotonic()
        if time.thread_time() - self._worked < _FREE * (ended - self._began):
            self._now = max(1, self._now // 2)
            self._until = ended + self._patience
            self._patience = min(2 * self._patience, _LONGEST)
        elif self._now == self._most:
            self._patience = max(self._patience / 2, _SHORTEST)
