"""Names of SQL as DuckDB compares them."""

from __future__ import annotations

import string

_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)


def folded(name: str) -> str:
    """A name as DuckDB compares it: it ignores the case of ASCII letters alone, so that Straße is not STRASSE."""
    return name.translate(_LOWER)
