"""Value grounding: a text value that no row holds becomes the nearest value that one does, where that is clear."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable

from sqlglot import exp
from sqlglot.errors import SqlglotError

from t2s_assets.text2sql.query import names_given
from t2s_assets.text2sql.sql.parsing import parsed

LIKENESS = 0.8
"""The least likeness (Ratcliff and Obershelp's, 0 to 1) of a value and the stored one that replaces it."""

MARGIN = 0.05
"""How much less like it the second nearest stored value must be."""

MAX_VALUES = 20_000
"""Columns with more different values are left alone: comparing takes about 10 microseconds a value."""


class Stored:
    """The text cells of a column, for finding the one that a value means.

    `ignores_case` is how SQL compares them: as the collation NOCASE does, or exactly.
    """

    def __init__(self, cells: Iterable[str], *, ignores_case: bool) -> None:
        self._compared: Callable[[str], str] = str.lower if ignores_case else str
        self._there: set[str] = set()
        self._spellings: dict[str, str | None] = {}  # None for texts that stand there in several
        for cell in cells:
            compared = self._compared(cell)
            if compared not in self._there:
                self._there.add(compared)
                text = _text(cell)
                self._spellings[text] = None if text in self._spellings else cell

    def nearest(self, value: str) -> str | None:
        """The cell that `value` means, or None where it equals one already, none is near, or two are."""
        if self._compared(value) in self._there:
            return None
        wanted = _text(value)
        text = wanted if wanted in self._spellings else self._likest(wanted)
        return None if text is None else self._spellings[text]

    def _likest(self, wanted: str) -> str | None:
        matcher = difflib.SequenceMatcher(b=wanted, autojunk=False)
        found: list[tuple[float, str]] = []
        for text in self._spellings:
            matcher.set_seq1(text)
            if matcher.real_quick_ratio() >= LIKENESS - MARGIN and matcher.quick_ratio() >= LIKENESS - MARGIN:
                found.append((matcher.ratio(), text))
        found.sort(reverse=True)
        if not found or found[0][0] < LIKENESS or (len(found) > 1 and found[1][0] > found[0][0] - MARGIN):
            return None
        return found[0][1]


Cells = Callable[[str], Stored | None]
"""What is stored in the column of a name; None for a name that is no text column, or one of too many values."""


def ground(sql: str, cells: Cells) -> str:
    """`sql` with the values of `column = 'text'` grounded in the column's cells; `sql` itself where nothing changes.

    A value that equals no cell is replaced by the one that differs in case and white space at either end alone, else by
    the nearest that is at least `LIKENESS` like it, if no other is within `MARGIN` of that. Names that the query itself
    gives may stand for other values than a column's, and are left alone. SQL that does not parse is returned as it is.
    """
    tree, tests = text_comparisons(sql)
    changed = False
    for column, value in tests:
        stored = cells(column)
        if stored is not None and (nearest := stored.nearest(value.name)) is not None:
            value.replace(exp.Literal.string(nearest))
            changed = True
    return tree.sql(dialect="duckdb") if tree is not None and changed else sql


def text_comparisons(sql: str) -> tuple[exp.Expression | None, list[tuple[str, exp.Literal]]]:
    """A query's tree, None where it does not parse, and each `column = 'text'` in it.

    Those over names that the query itself gives, which may stand for other values than a column's, are left out.
    """
    try:
        (tree,) = parsed(sql)
    except (SqlglotError, RecursionError, ValueError):  # of another number of statements
        return None, []
    given = names_given(tree)
    sides = [(test.left, test.right) for test in tree.find_all(exp.EQ)]
    return tree, [
        (column.name, value)
        for column, value in sides
        if isinstance(column, exp.Column)
        and isinstance(value, exp.Literal)
        and value.is_string
        and column.name.casefold() not in given
    ]


def _text(cell: str) -> str:
    """What cells are likened by."""
    return cell.strip().casefold()
