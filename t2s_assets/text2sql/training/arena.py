"""Memory for a pass through `fused` layers.

What it keeps for its backward half is taken in the forward half, in the same order every time, and is free when the
next pass begins. From the C library's heap, tensors whose sizes differ from pass to pass leave holes, around which the
heap grows; here the next pass starts over at the first byte. Passes side by side take their chunks from the same
`Pages` and give them back before others run, so that what a process holds is what its largest passes took together.
"""

from __future__ import annotations

import math
import mmap
import threading
from collections.abc import Sequence
from contextlib import suppress

import torch
from torch import Tensor

_CHUNK_BYTES = 2**26
# Of the largest tensor that is asked for, at least so many fit a chunk: the end of each stays empty.
_FIT = 8
_ALIGNED = 64


class Pages:
    """The chunks of memory of several arenas, which threads may ask for at the same time."""

    def __init__(self) -> None:
        self.bytes = 0
        self._free: list[torch.UntypedStorage] = []
        self._lock = threading.Lock()

    def take(self, needed: int) -> torch.UntypedStorage:
        """A chunk of at least `needed` bytes: one that was given back, or a new one."""
        with self._lock:
            for at, chunk in enumerate(self._free):
                if chunk.nbytes() >= needed:
                    return self._free.pop(at)
            size = -(-max(_FIT * needed, _CHUNK_BYTES) // _CHUNK_BYTES) * _CHUNK_BYTES
            self.bytes += size
        return _pages(size)

    def give(self, chunks: Sequence[torch.UntypedStorage]) -> None:
        """Chunks that are no longer used; the first of them is the first to be taken again."""
        with self._lock:
            self._free[:0] = chunks


class Arena:
    """Chunks of memory, given out from the first on until `begin` starts over. Pages cost nothing until written."""

    def __init__(self, pages: Pages | None = None) -> None:
        self._pages = pages or Pages()
        self._chunks: list[torch.UntypedStorage] = []
        self._chunk = self._used = 0

    def begin(self) -> None:
        """Start over: the tensors given out so far are about to be overwritten."""
        self._chunk = self._used = 0

    def release(self) -> None:
        """Start over, and leave the chunks to others."""
        self.begin()
        self._pages.give(self._chunks)
        self._chunks = []

    def take(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """An uninitialised tensor."""
        needed = math.prod(shape) * dtype.itemsize
        while self._chunk < len(self._chunks) and self._used + needed > self._chunks[self._chunk].nbytes():
            self._chunk, self._used = self._chunk + 1, 0
        if self._chunk == len(self._chunks):
            self._chunks.append(self._pages.take(needed))
        strides = [math.prod(shape[at + 1 :]) for at in range(len(shape))]
        tensor = torch.empty(0, dtype=dtype)
        tensor.set_(self._chunks[self._chunk], self._used // dtype.itemsize, tuple(shape), tuple(strides))
        self._used += -(-needed // _ALIGNED) * _ALIGNED
        return tensor


def _pages(size: int) -> torch.UntypedStorage:
    # Shared pages, Python's default, are never large ones.
    private = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
    pages = mmap.mmap(-1, size, **private)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without them
            pages.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(pages, dtype=torch.uint8).untyped_storage()
