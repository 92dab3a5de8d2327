"""Python's garbage collector, told to come by less often."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

# New objects between two looks. Python's own 700 means many more looks, at millions of rows that are all in use.
_OBJECTS = 50_000


@contextmanager
def rare_collections() -> Iterator[None]:
    """While many objects are made that stay, such as the tables of WikiSQL or the results of its queries."""
    before = gc.get_threshold()
    gc.set_threshold(_OBJECTS, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
