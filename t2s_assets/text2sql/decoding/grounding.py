"""Value grounding: a text value that no row holds becomes the nearest value that one does, where that is clear."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable

import sqlglot
from sqlglot import exp

Cells = Callable[[str], Iterable[str]]
"""The text cells of the column of a name, in any order; nothing for a name that is no text column."""

LIKENESS = 0.8
"""The least likeness (Ratcliff and Obershelp's, 0 to 1) of a value and the stored one that replaces it."""

MARGIN = 0.05
"""How much less like it the second nearest stored value must be."""

MAX_VALUES = 20_000
"""Columns with more different values are left alone: comparing takes about 10 microseconds a value."""


def ground(sql: str, cells: Cells) -> str:
    """`sql` with the values of `column = 'text'` grounded in the column's cells; `sql` itself where nothing changes.

    Text is compared ignoring case and white space at either end. A value is replaced by the nearest cell that is at
    least `LIKENESS` like it, if no other is within `MARGIN` of that. SQL that does not parse is returned as it is.
    """
    try:
        tree = sqlglot.parse_one(sql, read="duckdb")
    except (sqlglot.errors.SqlglotError, RecursionError):
        return sql
    changed = False
    for test in tree.find_all(exp.EQ):
        column, value = test.left, test.right
        if isinstance(column, exp.Column) and isinstance(value, exp.Literal) and value.is_string:
            stored = nearest(value.name, cells(column.name))
            if stored is not None:
                value.replace(exp.Literal.string(stored))
                changed = True
    return tree.sql(dialect="duckdb") if changed else sql


def nearest(value: str, cells: Iterable[str]) -> str | None:
    """The cell that `value` means, or None where a cell holds it already, none is near, or two are."""
    wanted = value.strip().casefold()
    spellings = {cell.strip().casefold(): cell for cell in cells}
    if wanted in spellings or len(spellings) > MAX_VALUES:
        return None
    matcher = difflib.SequenceMatcher(b=wanted, autojunk=False)
    found: list[tuple[float, str]] = []
    for text in spellings:
        matcher.set_seq1(text)
        if matcher.real_quick_ratio() >= LIKENESS - MARGIN and matcher.quick_ratio() >= LIKENESS - MARGIN:
            found.append((matcher.ratio(), text))
    found.sort(reverse=True)
    if not found or found[0][0] < LIKENESS or (len(found) > 1 and found[1][0] > found[0][0] - MARGIN):
        return None
    return spellings[found[0][1]]
