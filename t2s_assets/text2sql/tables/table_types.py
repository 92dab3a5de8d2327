"""What becomes of a file's column types: WikiSQL's two, or DuckDB's own where data keep theirs."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from t2s_assets.text2sql.schema import ColumnType

_INTEGERS = {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER"}
_WIDE = {"UBIGINT", "HUGEINT", "UHUGEINT"}
"""Integers that a BIGINT may not hold. They become signed, so that a difference may be negative."""
_FLOATS = {"FLOAT", "DOUBLE", "BIGNUM"}
# A point in time is kept as its UTC, to microseconds.
_KEPT = {"BOOLEAN": "BOOLEAN", "DATE": "DATE", "TIME": "TIME", "TIMESTAMP": "TIMESTAMP"}
_KEPT |= dict.fromkeys(("TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS", "TIMESTAMP WITH TIME ZONE"), "TIMESTAMP")


_SORTS_AS_TEXT = {"VARCHAR", "JSON", "UUID", "BLOB", "BIT"}


@dataclass(frozen=True)
class Kept:
    """A column as it is kept: our type, and the DuckDB types of its copy: `plain` for models that know text and
    numbers alone, `sql_type` for those that know real types. `source` is DuckDB's type of the original, where the copy
    has another."""

    name: str
    type: ColumnType
    plain: str
    sql_type: str
    source: str = ""

    @property
    def sorts_otherwise(self) -> str:
        """DuckDB's type of the original where values sort otherwise than their text: an ENUM, an INTERVAL, lists."""
        return "" if self.type == "real" or self.source in _SORTS_AS_TEXT else self.source

    def copied(self, typed: bool) -> str:
        """The DuckDB type of the copy."""
        return self.sql_type if typed else self.plain

    def cast(self, cell: str, typed: bool) -> str:
        """SQL that copies `cell`. A FLOAT becomes the decimal that it is shown as and compares like: 0.1, where the
        nearest DOUBLE of its bits is 0.10000000149."""
        cell = f"CAST({cell} AS VARCHAR)" if self.source == "FLOAT" else cell
        return f"CAST({cell} AS {in_arrow(self.copied(typed))})"


def of_duckdb(name: str, duckdb_type: str) -> Kept:
    """Numbers stay exact where they can; what has no plain counterpart (lists, intervals, ...) becomes text."""
    if duckdb_type in _INTEGERS:
        return Kept(name, "real", "BIGINT", "BIGINT")
    if duckdb_type in _WIDE:
        return Kept(name, "real", "HUGEINT", "HUGEINT")
    if duckdb_type in _FLOATS:
        return Kept(name, "real", "DOUBLE", "DOUBLE", duckdb_type)
    if re.fullmatch(r"DECIMAL\(\d+,\d+\)", duckdb_type):
        return Kept(name, "real", duckdb_type, duckdb_type)
    kept = _KEPT.get(duckdb_type, "VARCHAR")
    return Kept(name, "text", "VARCHAR", kept, duckdb_type if kept == "VARCHAR" else "")


def of_sqlite(name: str, declared: str, stored: Callable[[], set[str]]) -> Kept:
    """By SQLite's affinity and, where any type may be meant, by what is stored.

    `stored` tells the storage classes that the column's values have; text that spells a number is a `numeral`, text
    of no length `empty`. A name of which SQLite knows nothing (STRING, BOOLEAN, UUID, JSON) has the affinity
    NUMERIC, which keeps text as text.
    SQLite has no dates and no booleans: they stay the text and the numbers that they are stored as.
    """
    kind = _affinity(declared)
    found = set() if kind == "text" else stored()
    numbers, others = found & {"integer", "real", "numeral"}, found & {"text", "blob"}
    is_number = {
        "text": False,
        "real": bool(numbers) or not others,
        "unknown": bool(numbers) and not others,
        "none": bool(numbers) and found <= {"integer", "real"},
    }[kind]
    if not is_number:
        return Kept(name, "text", "VARCHAR", "VARCHAR")
    # INTEGER and NUMERIC keep no whole number as text, so that ids beside a word or two stay exact.
    whole = numbers == {"integer"} if kind == "real" else found <= {"integer"}
    number = "BIGINT" if whole else "DOUBLE"
    return Kept(name, "real", number, number)


def in_arrow(sql_type: str) -> str:
    """The DuckDB type in which a column of `sql_type` becomes Arrow, which has no integers of over 64 bits; it is cast
    back where it is loaded. A HUGEINT of 39 digits is an error."""
    return "DECIMAL(38,0)" if sql_type == "HUGEINT" else sql_type


def _affinity(declared: str) -> str:
    """What a declared type says, by SQLite's rules (https://sqlite.org/datatype3.html#determination_of_column_affinity):
    text, real, unknown (a name that is none of numbers), none. Dates and times, which SQLite files under NUMERIC, are
    stored as text."""
    name = declared.upper()
    if not name:
        return "none"
    if "INT" in name:
        return "real"
    if re.search("CHAR|CLOB|TEXT|BLOB|DATE|TIME", name):
        return "text"
    return "real" if re.search("REAL|FLOA|DOUB|NUM|DEC", name) else "unknown"
