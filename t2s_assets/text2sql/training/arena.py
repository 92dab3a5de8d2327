"""Memory for a pass through `fused` layers.

What it keeps for its backward half is taken in the forward half, in the same order every time, and is free when the
next pass begins. From the C library's heap, tensors whose sizes differ from pass to pass leave holes, around which the
heap grows; here the next pass starts over at the first byte, so that what a process holds is what its largest pass
took.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence
from contextlib import suppress

import torch
from torch import Tensor

_CHUNK_BYTES = 2**28
_ALIGNED = 64


class Arena:
    """Chunks of memory, given out from the first on until `begin` starts over. Pages cost nothing until written."""

    def __init__(self) -> None:
        self._chunks: list[torch.UntypedStorage] = []
        self._chunk = self._used = 0

    def begin(self) -> None:
        """Start over: the tensors given out so far are about to be overwritten."""
        self._chunk = self._used = 0

    def take(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """An uninitialised tensor."""
        needed = math.prod(shape) * dtype.itemsize
        while self._chunk < len(self._chunks) and self._used + needed > self._chunks[self._chunk].nbytes():
            self._chunk, self._used = self._chunk + 1, 0
        if self._chunk == len(self._chunks):
            self._chunks.append(_pages(max(needed, _CHUNK_BYTES)))
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
