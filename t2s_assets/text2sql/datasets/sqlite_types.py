"""Which columns of a SQLite file keep values otherwise than the type of their copy says: gold of SQLite hangs on it."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from t2s_assets.text2sql.dialects.sqlite_columns import LOOSE, TEXT_OF_NUMBERS, UNTYPED
from t2s_assets.text2sql.errors import DataError
from t2s_assets.text2sql.query import identifier, string_literal
from t2s_assets.text2sql.tables.read_limits import Reading


def kept_otherwise(path: Path, types: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, str]]:
    """By table and column, what such a column is to SQLite: LOOSE, TEXT_OF_NUMBERS, or a type of UNTYPED.

    `types` are the copies'.

    Raises:
        DataError: the file cannot be read.
    """
    with path.open("rb") as file:
        if file.read(16) != b"SQLite format 3\0":
            return {}
    found: dict[str, dict[str, str]] = {}
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            for table, columns in types.items():
                with Reading(f"{path}: table {table!r}").on(connection):
                    info = connection.execute(f"PRAGMA table_xinfo({string_literal(table)})").fetchall()
                    declared = {row[1]: row[2] for row in info}
                    for column, copied in columns.items():
                        kept = _kept(connection, table, column, affinity_of(declared.get(column, "")), copied)
                        if kept:
                            found.setdefault(table, {})[column] = kept
    except sqlite3.Error as e:
        raise DataError(f"{path} cannot be read as a SQLite database ({e})") from e
    return found


def affinity_of(declared: str) -> str:
    """SQLite's affinity of a declared type: https://sqlite.org/datatype3.html#determination_of_column_affinity."""
    name = declared.upper()
    if "INT" in name:
        return "INTEGER"
    if any(part in name for part in ("CHAR", "CLOB", "TEXT")):
        return "TEXT"
    if not name or "BLOB" in name:
        return "BLOB"
    return "REAL" if any(part in name for part in ("REAL", "FLOA", "DOUB")) else "NUMERIC"


def _kept(connection: sqlite3.Connection, table: str, column: str, affinity: str, copied: str) -> str:
    """What a column is to SQLite, empty where it is what its copy is."""
    usual = {"VARCHAR": ("TEXT",), "BIGINT": ("INTEGER", "NUMERIC"), "DOUBLE": ("REAL",)}
    if affinity in usual.get(copied, (affinity,)):
        return ""
    storage = {"VARCHAR": "'text'", "BIGINT": "'integer'", "DOUBLE": "'real'"}[copied]
    others = f"typeof({identifier(column)}) NOT IN ({storage}, 'null')"
    if copied == "DOUBLE":
        others = f"typeof({identifier(column)}) = 'integer'"  # what is no number is NULL in the copy
    if connection.execute(f"SELECT 1 FROM {identifier(table)} WHERE {others} LIMIT 1").fetchone():
        return LOOSE
    if copied == "DOUBLE":
        return "" if affinity != "BLOB" else LOOSE
    return TEXT_OF_NUMBERS if copied == "VARCHAR" and affinity != "BLOB" else UNTYPED[copied]
