"""Columns of text, as CSV has them, become columns of what all of their cells spell.

Patterns are tried in Arrow, a column at a time and its first cells first, since most columns that are no numbers show
it there. What a pattern takes for a date or a whole number DuckDB then casts, all columns in one query.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from t2s_assets.text2sql.tables.read_limits import Reading
from t2s_assets.text2sql.tables.table_types import Kept, in_arrow
from t2s_assets.text2sql.tables.user_tables import Cells

# Plain decimal numbers, perhaps with thousands separators. "007" is a code, not a number.
NUMBER = r"\s*[-+−]?((0|[1-9]\d*|[1-9]\d{0,2}(,\d{3})+)(\.\d*)?|\.\d+)([eE][-+]?\d{1,3})?\s*"
_PATTERNS = {
    "BOOLEAN": r"(?i)\s*(true|false)\s*",
    "TIMESTAMP": r"\s*\d{4}-\d{2}-\d{2}[ T]\d{2}:\d{2}(:\d{2}(\.\d{1,6})?)?\s*",
    "DATE": r"\s*\d{4}-\d{2}-\d{2}\s*",
    "BIGINT": r"\s*[-+]?(0|[1-9]\d{0,18})\s*",
    "HUGEINT": r"\s*[-+]?(0|[1-9]\d{0,37})\s*",
    "DOUBLE": NUMBER,
}
"""What the cells of each type look like, in RE2's syntax; where two types fit, the first is meant: a DOUBLE would take
ids of over 2^53 for their neighbours."""

MISSING = ("n/a", "na", "null", "none", "-", "–", "—", "?")
"""What says, in lower case, that there is no value."""
_BLANK = r"\p{Zs}*"
_MISSING = rf"(?i){_BLANK}({'|'.join(map(re.escape, MISSING))}){_BLANK}"

_EXACT = {"BIGINT", "HUGEINT"}
_FIRST = 1_000


@dataclass(frozen=True)
class TextColumn:
    """A column of text with its type: its cells as text (missing dates left out) or numbers, and with their real type.

    `made_null` are the cells of a column of numbers or dates that only say that a value is missing.
    """

    column: Kept
    plain: pa.ChunkedArray
    typed: pa.ChunkedArray
    made_null: Cells | None = None

    @property
    def text_bytes(self) -> int:
        """Of its cells that are text in the plain copy."""
        return self.plain.nbytes if pa.types.is_string(self.plain.type) else 0

    def cells(self, typed: bool) -> pa.ChunkedArray:
        """The cells of one of both copies."""
        return self.typed if typed else self.plain


def text_columns(
    connection: duckdb.DuckDBPyConnection, raw: pa.Table, header: Sequence[str], reading: Reading
) -> list[TextColumn]:
    """The columns of `raw`, called as `header` says, by what all of their cells spell that are neither empty nor, in a
    column of numbers or dates, say that a value is missing. In one of truth values "-" or "?" may be a third answer."""
    fitting = [_fitting(cells) for cells in raw.columns]
    kinds, found = dict(enumerate(map(next, fitting))), dict[int, TextColumn]()
    while kinds:
        casts = _cast(connection, raw, {i: kind for i, (kind, _) in kinds.items() if kind != "VARCHAR"}, reading)
        for position, (kind, spelled) in list(kinds.items()):
            cells, cast = raw.column(position), casts.get(position)
            # A NUMBER always casts, unless it is beyond what a DOUBLE holds.
            if cast is None or kind == "DOUBLE" or len(cast) - cast.null_count == spelled:
                found[position] = _kept(header[position], kind, cells, cells if cast is None else cast)
                del kinds[position]
            else:
                kinds[position] = next(fitting[position])
    return [found[position] for position in range(raw.num_columns)]


def _fitting(cells: pa.ChunkedArray) -> Iterator[tuple[str, int]]:
    """The types whose patterns fit, the one that is meant first and text last, with how many cells match."""
    first = cells.slice(0, _FIRST)
    for kind in _PATTERNS:
        if _spelled(first, kind) is not None and (count := _spelled(cells, kind)):
            yield kind, count
    yield "VARCHAR", 0


def _spelled(cells: pa.ChunkedArray, kind: str) -> int | None:
    """How many cells spell a type; None where a cell says something else."""
    match = matches(cells, _PATTERNS[kind])
    count = count_of(match)
    others = cells.filter(pc.invert(match)) if count + cells.null_count < len(cells) else None
    nothing = _BLANK if kind == "BOOLEAN" else rf"{_MISSING}|{_BLANK}"
    return count if others is None or count_of(matches(others, nothing)) == len(others) else None


def _cast(
    connection: duckdb.DuckDBPyConnection, raw: pa.Table, kinds: Mapping[int, str], reading: Reading
) -> dict[int, pa.ChunkedArray]:
    """Columns as their types, by their positions; NULL is what does not cast."""
    if not kinds:
        return {}
    connection.register("raw", raw.select(list(kinds)).rename_columns([f"c{i}" for i in kinds]))
    casts = ", ".join(f"{_cast_of(f'c{i}', kind)} AS c{i}" for i, kind in kinds.items())
    found = reading.arrow(connection.sql(f"SELECT {casts} FROM raw"))
    connection.unregister("raw")
    return dict(zip(kinds, found.columns))


def _cast_of(cell: str, kind: str) -> str:
    if kind == "DOUBLE":
        return f"TRY_CAST(replace(replace({cell}, ',', ''), chr(8722), '-') AS DOUBLE)"
    return f"CAST(TRY_CAST(nullif(trim({cell}), '') AS {kind}) AS {in_arrow(kind)})"


def _kept(name: str, kind: str, cells: pa.ChunkedArray, cast: pa.ChunkedArray) -> TextColumn:
    if kind in ("VARCHAR", "BOOLEAN"):
        return TextColumn(Kept(name, "text", "VARCHAR", kind), cells, cast)
    is_number = kind in _EXACT or kind == "DOUBLE"
    column = Kept(name, "real", kind, kind) if is_number else Kept(name, "text", "VARCHAR", kind)
    missing = matches(cells, _MISSING) if cast.null_count > cells.null_count else None
    made_null = None
    if missing is not None and (count := count_of(missing)):
        first = pc.index(missing, True).as_py()
        made_null = Cells(count, cells[first].as_py(), first + 1)
        cells = cells if is_number else pc.if_else(missing, pa.scalar(None, cells.type), cells)
    return TextColumn(column, cast if is_number else cells, cast, made_null)


def matches(cells: pa.ChunkedArray, pattern: str) -> pa.ChunkedArray:
    """Which cells are a text of a pattern from their first letter to their last."""
    return pc.match_substring_regex(cells, rf"\A(?:{pattern})\z")


def count_of(flags: Any) -> int:
    """How many flags are true."""
    return pc.sum(flags).as_py() or 0
