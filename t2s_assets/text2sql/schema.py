"""The schema that a question is asked about: tables, columns and their types."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

ColumnType = Literal["text", "real"]

TABLE = "t"
"""WikiSQL's one table in prompts and completions: real ids would take about a third of the decoding time."""

_FAMILIES = {
    "BIGINT": "integer",
    "BOOLEAN": "boolean",
    "DATE": "date",
    "DECIMAL": "decimal",
    "TIME": "time",
    "TIMESTAMP": "timestamp",
}


@dataclass(frozen=True)
class Column:
    """One column: its SQL name (unquoted) and its type, `text` or `real` (any number).

    `sql_type` is its DuckDB type, which models of SQL text are shown; empty in WikiSQL, which has none.
    """

    name: str
    type: ColumnType
    sql_type: str = ""

    @property
    def shown_type(self) -> str:
        """The type as models of SQL text are shown it: a plain name of the DuckDB type's family."""
        return _FAMILIES.get(self.sql_type.partition("(")[0], self.type)


@dataclass(frozen=True)
class TableSchema:
    """One table as a prompt or a grammar sees it: its SQL name (unquoted) and its columns in order."""

    name: str
    columns: tuple[Column, ...]

    def column_index(self, name: str) -> int | None:
        """Position of the column called `name` ignoring case (SQL identifiers ignore it), or None."""
        folded = name.casefold()
        for i, column in enumerate(self.columns):
            if column.name.casefold() == folded:
                return i
        return None


def one_line(text: str) -> str:
    """`text` without NUL bytes, which no SQL text can carry, and with every run of white space as one space."""
    return " ".join(text.replace("\0", "").split())


def column_names(header: Iterable[str]) -> tuple[str, ...]:
    """SQL names for a table's header cells, unique ignoring case.

    Runs of white space (newlines among them) become one space; a blank cell becomes `column N`; a name that
    is already taken, ignoring case, gets the first free ` (2)`, ` (3)`, ... NUL bytes, which no SQL text can
    carry, are dropped.
    """
    taken: set[str] = set()
    names = []
    for position, cell in enumerate(header, 1):
        base = one_line(str(cell)) or f"column {position}"
        name, suffix = base, 2
        while name.casefold() in taken:
            name, suffix = f"{base} ({suffix})", suffix + 1
        taken.add(name.casefold())
        names.append(name)
    return tuple(names)
