"""The texts in a query beside the cells that they are compared with.

The executor compares text in any case, as WikiSQL does, and most databases to the letter: there 'k2' finds no 'K2'.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow.compute as pc
from sqlglot import exp

from t2s_assets.text2sql.decoding.grounding import text_comparisons
from t2s_assets.text2sql.tables.user_tables import Content, UserTable


@dataclass(frozen=True)
class StoredText:
    """A query whose texts are spelt as the cells that they equal.

    respelt: that changed one. found: a text of it equals a cell. any_case: compared to the letter it may find other
    rows, since cells spell a text in several ways, or not all were looked at.
    """

    sql: str
    respelt: bool = False
    found: bool = False
    any_case: bool = False


def as_stored(sql: str, table: UserTable, content: Content | None) -> StoredText:
    """`sql`, written over `table` as prompts show it, beside its `content`; None where the rows are not read.

    SQL that does not parse is returned as it is.
    """
    tree, tests = text_comparisons(sql)
    if tree is None:
        return StoredText(sql)
    respelt = found = any_case = False
    for column, text in tests:
        if content is None:
            any_case |= any(c.type == "text" for c in table.columns if c.name.casefold() == column.casefold())
            continue
        cells = spellings(table, content, column, text.name)
        found |= bool(cells)
        any_case |= len(cells) > 1 or bool(cells and content.truncated)
        if len(cells) == 1 and cells[0] != text.name:
            text.replace(exp.Literal.string(cells[0]))
            respelt = True
    return StoredText(tree.sql(dialect="duckdb") if respelt else sql, respelt, found, any_case)


def spellings(table: UserTable, content: Content, column: str, text: str) -> list[str]:
    """The different cells of a text column of a table with that `content` which equal `text` in any case."""
    for at, (known, kind) in enumerate(zip(table.columns, content.types)):
        if known.name.casefold() == column.casefold() and kind == "VARCHAR":
            cells = content.data.column(at)
            # Python makes other small letters of İ and of Σ at a word's end than DuckDB and this.
            return cells.filter(pc.equal(pc.utf8_lower(cells), pc.utf8_lower(text))).unique().to_pylist()
    return []
