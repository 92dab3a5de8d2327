"""Tables of Python rows, as SQLite and JSON give them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

import pyarrow as pa

from t2s_assets.text2sql.query import parse_number
from t2s_assets.text2sql.tables.user_tables import Cells, Content, Wanted, row_cap

_BLOCK = 10_000
"""Rows that are in Python at a time: a cell takes several times the room there that it has in Arrow."""

_NUMBERS = {"BIGINT": pa.int64(), "DOUBLE": pa.float64()}


def from_rows(rows: Iterable[Sequence[Any]], types: Sequence[str], wanted: Wanted) -> Content:
    """Content of Python rows, as many as are wanted; in a column of numbers what spells none is NULL, as in evaluation.

    `types` are DuckDB's: DOUBLE, VARCHAR, and BIGINT for columns whose numbers are whole.
    """
    rows = iter(rows)
    most, fewer = wanted.rows(len(types)), row_cap(len(types))
    schema = pa.schema([(str(position), _NUMBERS.get(kept, pa.string())) for position, kept in enumerate(types)])
    blocks, lost = [schema.empty_table()], []
    count = text = 0
    more = False
    while block := list(islice(rows, min(_BLOCK, most - count))):
        columns = [_column(cells, field.type) for cells, field in zip(zip(*block), schema)]
        lost += [(count + row, position, cell) for position, (_, none) in enumerate(columns) for row, cell in none]
        blocks.append(pa.Table.from_arrays([array for array, _ in columns], schema=schema))
        text += sum(array.nbytes for array, _ in columns if pa.types.is_string(array.type))
        count += len(block)
        if text > wanted.text and count > fewer:
            count, more = max(fewer, count - len(block)), True
            break
    data = pa.concat_tables(blocks).combine_chunks().slice(0, count)
    truncated = more or next(rows, None) is not None
    return Content(data, tuple(types), truncated, _made_null(lost, count))


def _column(cells: Sequence[Any], kept: pa.DataType) -> tuple[pa.Array, list[tuple[int, Any]]]:
    """The cells as Arrow, and those that are no number of such a column, with their rows, counted from 1."""
    kinds = set(map(type, cells)) - {type(None)}
    if pa.types.is_string(kept):
        plain = cells if kinds <= {str} else [None if c is None else str(c) for c in cells]
        return pa.array(plain, type=kept), []
    whole = pa.types.is_integer(kept)
    if kinds <= {int if whole else float}:
        return pa.array(cells, type=kept), []
    numbers = [_whole(c) if whole else _number(c) for c in cells]
    none = [(row, c) for row, (n, c) in enumerate(zip(numbers, cells), 1) if n is None and c not in (None, "")]
    return pa.array(numbers, type=kept), none


def _made_null(lost: Iterable[tuple[int, int, Any]], count: int) -> dict[int, Cells]:
    """By the positions of columns, the cells (row, position, cell) that were lost of the first `count` rows."""
    found: dict[int, list[tuple[int, Any]]] = {}
    for row, position, cell in lost:
        if row <= count:
            found.setdefault(position, []).append((row, cell))
    return {position: Cells(len(cells), str(cells[0][1]), cells[0][0]) for position, cells in found.items()}


def _whole(cell: Any) -> int | None:
    """The integer that a cell holds or spells."""
    if isinstance(cell, int):
        return cell
    number = _number(cell)
    return int(number) if number is not None and number.is_integer() and abs(number) < 2**53 else None


def _number(cell: Any) -> float | None:
    if isinstance(cell, (int, float)):
        try:
            return float(cell)
        except OverflowError:  # a whole number of over 308 digits
            return None
    return parse_number(cell) if isinstance(cell, str) else None
