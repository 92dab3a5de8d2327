"""Dates, times and truth values beside text: models of single tables write and compare them as text, where a database
casts the text to the column's type."""

from __future__ import annotations

import re
from functools import cache

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from t2s_assets.text2sql.tables.file_reading import CONFIG
from t2s_assets.text2sql.tables.text_columns import matches

WRITTEN = {
    "BOOLEAN": ("truth values", "true or false"),
    "DATE": ("dates", "a date like 2024-03-01"),
    "TIME": ("times of day", "a time like 12:30:00"),
    "TIMESTAMP": ("points in time", "a time like 2024-03-01 12:30:00"),
}
"""What columns of a DuckDB type hold, and how one is written."""


@cache
def _connection() -> duckdb.DuckDBPyConnection:
    return duckdb.connect(config=CONFIG)


def spells(text: str, sql_type: str) -> bool:
    """Whether DuckDB casts a text to a type of `WRITTEN`."""
    cast = f"SELECT TRY_CAST(? AS {sql_type}) IS NOT NULL"
    return bool(_connection().cursor().execute(cast, [text]).fetchall()[0][0])


def unlike(text: str, sql_type: str, cells: pa.ChunkedArray) -> str | None:
    """The first of the cells where none is written as `text`, a value of `sql_type`, is: digit by digit. Else None."""
    if sql_type == "BOOLEAN" and text.lower() in ("true", "false"):
        return None
    form = re.sub(r"\d", r"\\d", re.escape(text))
    if cells.null_count == len(cells) or pc.any(matches(cells, form)).as_py():
        return None
    return str(cells.drop_null()[0].as_py())
