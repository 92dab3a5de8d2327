"""The C library's heap, which a CPU's tensors live in."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable


@functools.cache
def _trim() -> Callable[[int], int] | None:
    """glibc's malloc_trim; None with another C library."""
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None


def give_back() -> None:
    """Return the pages that are free in the heap to the system, those between used ones too.

    Tensors of many sizes leave holes, and the heap grows around them. Nothing where the C library has no way to.
    """
    trim = _trim()
    if trim is not None:
        trim(0)
