"""What the readers of files share: DuckDB's settings, paths and errors in its words, and a table of kept columns."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from t2s_assets.text2sql.query import string_literal
from t2s_assets.text2sql.tables.read_limits import DUCKDB_LIMITS
from t2s_assets.text2sql.tables.table_types import Kept
from t2s_assets.text2sql.tables.user_tables import Content, UserTable, Wanted

CONFIG = {"autoinstall_known_extensions": "false", "autoload_known_extensions": "false", **DUCKDB_LIMITS}
"""DuckDB's settings: it never loads an extension."""


def literal_path(path: Path) -> str:
    """The path as a DuckDB string in which no character is a wildcard."""
    return string_literal(re.sub(r"([\[*?])", r"[\1]", str(path.absolute())))


def unpacked(path: Path) -> Path:
    """What a file would be called without gzip."""
    return path.with_suffix("") if path.suffix.lower() == ".gz" else path


def reason(error: Exception) -> str:
    """What an error says, in one line; DuckDB's may quote a row of the file, however long."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(line if len(line) <= 300 else line[:300] + "..." for line in lines[:3]) or type(error).__name__


def table_of(
    name: str | tuple[str, ...],
    columns: Sequence[Kept],
    read: Callable[[Wanted], Content],
    where: str,
    *,
    in_memory: bool = False,
) -> UserTable:
    """A table of columns whose types are known, whose rows `read` gives. Raises DataError when it has no columns."""
    return UserTable.of(
        name,
        [c.name for c in columns],
        [c.type for c in columns],
        read,
        where=where,
        sql_types=[c.sql_type for c in columns],
        in_memory=in_memory,
    )
