"""What becomes of a file's column types: WikiSQL's two, or DuckDB's own where data keep theirs."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import duckdb

from t2s_assets.text2sql.query import string_literal
from t2s_assets.text2sql.schema import ColumnType

_INTEGERS = {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER"}
_FLOATS = {"FLOAT", "DOUBLE", "UBIGINT", "HUGEINT", "UHUGEINT", "BIGNUM"}
# A point in time is kept as its UTC, to microseconds.
_KEPT = {"BOOLEAN": "BOOLEAN", "DATE": "DATE", "TIME": "TIME", "TIMESTAMP": "TIMESTAMP"}
_KEPT |= dict.fromkeys(("TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS", "TIMESTAMP WITH TIME ZONE"), "TIMESTAMP")

# Plain decimal numbers, perhaps with thousands separators. "007" is a code, not a number.
_NUMBER = r"\s*[-+\x{2212}]?((0|[1-9]\d*|[1-9]\d{0,2}(,\d{3})+)(\.\d*)?|\.\d+)([eE][-+]?\d{1,3})?\s*"
_TEXT_PATTERNS = {
    "BIGINT": r"\s*[-+]?(0|[1-9]\d{0,17})\s*",
    "DATE": r"\s*\d{4}-\d{2}-\d{2}\s*",
    "TIMESTAMP": r"\s*\d{4}-\d{2}-\d{2}[ T]\d{2}:\d{2}(:\d{2}(\.\d{1,6})?)?\s*",
    "BOOLEAN": r"(?i)\s*(true|false)\s*",
}


@dataclass(frozen=True)
class Kept:
    """A column as it is kept: our type, the DuckDB type of the copy, and `sql_type` where types are kept."""

    name: str
    type: ColumnType
    kept: str
    sql_type: str = ""


@dataclass(frozen=True)
class TypeRules:
    """With `typed`, columns keep their DuckDB type where it has a place in the copy; else they are text or numbers."""

    typed: bool

    def _kept(self, name: str, type: ColumnType, kept: str) -> Kept:
        return Kept(name, type, kept, kept if self.typed else "")

    def of_duckdb(self, name: str, duckdb_type: str) -> Kept:
        """Numbers stay exact where they can; what has no plain counterpart (lists, intervals, ...) becomes text."""
        if duckdb_type in _INTEGERS:
            return self._kept(name, "real", "BIGINT")
        if duckdb_type in _FLOATS:
            return self._kept(name, "real", "DOUBLE")
        if duckdb_type.startswith("DECIMAL"):
            return self._kept(name, "real", duckdb_type)
        if self.typed and duckdb_type in _KEPT:
            return self._kept(name, "text", _KEPT[duckdb_type])
        return self._kept(name, "text", "VARCHAR")

    def of_sqlite(self, name: str, declared: str, stored: Callable[[], set[str]]) -> Kept:
        """By SQLite's affinity; `stored` tells the storage classes that the column's values have.

        SQLite has no dates and no booleans: they stay the text and the numbers that they are stored as.
        """
        found = stored() if self.typed or not declared else set()
        numeric = bool(found) and found <= {"integer", "real"}
        kind: ColumnType = _affinity(declared) or ("real" if numeric else "text")
        whole = self.typed and kind == "real" and found <= {"integer"}
        return self._kept(name, kind, "BIGINT" if whole else "DOUBLE" if kind == "real" else "VARCHAR")

    def of_text(self, connection: duckdb.DuckDBPyConnection, relation: str, header: Sequence[str]) -> list[Kept]:
        """Types of the text columns c0, c1, ... of `relation`, by what all of their non-empty cells spell."""
        numbers = _all_match(connection, relation, len(header), _NUMBER)
        found = [self._kept(n, "real", "DOUBLE") if is_number else None for n, is_number in zip(header, numbers)]
        for kept, pattern in _TEXT_PATTERNS.items() if self.typed else ():
            tests = _all_match(connection, relation, len(header), pattern, cast=kept)
            found = [
                self._kept(n, "real" if kept == "BIGINT" else "text", kept) if fits else old
                for n, fits, old in zip(header, tests, found)
            ]
        return [column or self._kept(n, "text", "VARCHAR") for n, column in zip(header, found)]

    def casts(self, columns: Sequence[Kept]) -> list[str]:
        """SQL that turns the text columns c0, c1, ... into their types."""
        plain = {
            "VARCHAR": "c{0} AS c{0}",
            "DOUBLE": "TRY_CAST(replace(replace(c{0}, ',', ''), chr(8722), '-') AS DOUBLE) AS c{0}",
        }
        return [
            plain.get(c.kept, f"TRY_CAST(nullif(trim(c{{0}}), '') AS {c.kept}) AS c{{0}}").format(i)
            for i, c in enumerate(columns)
        ]


def _all_match(
    connection: duckdb.DuckDBPyConnection, relation: str, width: int, pattern: str, *, cast: str = ""
) -> list[bool]:
    """Whether every non-empty cell of each text column matches, and casts; False for a column without any."""
    tests = []
    for i in range(width):
        test = f"regexp_full_match(c{i}, {string_literal(pattern)})"
        test += f" AND TRY_CAST(trim(c{i}) AS {cast}) IS NOT NULL" if cast else ""
        tests.append(f"coalesce(bool_and({test}) FILTER (trim(c{i}) <> ''), false)")
    return list(connection.execute(f"SELECT {', '.join(tests)} FROM {relation}").fetchall()[0])


def _affinity(declared: str) -> ColumnType | None:
    """Our type for a declared one, by SQLite's rules (https://sqlite.org/datatype3.html#determination_of_column_affinity);
    None where none is declared. Dates and times, which SQLite files under NUMERIC, are stored as text."""
    name = declared.upper()
    if not name:
        return None
    if "INT" in name:
        return "real"
    if re.search("CHAR|CLOB|TEXT|BLOB|DATE|TIME", name):
        return "text"
    return "real"
