"""What is copied of a user's tables for a query: small ones as they are, and of large ones the columns that it names,
so that more of their rows are copied.

A query reads a column by its name, which then stands in the text, or every column at once: by a star, a whole row, a
NATURAL JOIN, or new names for all columns of a table. Of a name all tables have their columns, so that it means what it
means to the user's database. A column that is not copied is not there at all: no query reads it as NULL.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from sqlglot import exp

from t2s_assets.text2sql.execution import RefusedSQL, check_sql
from t2s_assets.text2sql.execution.lexer import checked_tokens
from t2s_assets.text2sql.execution.lexer import folded as folded_token
from t2s_assets.text2sql.sql.names import folded
from t2s_assets.text2sql.tables.user_tables import UserTable, Wanted

_QUERIES = (exp.Select, exp.SetOperation)


class Copies:
    """The tables of a query after another, as they are copied: with real types (`typed`), or as text and numbers.

    What was copied of large tables is kept for the next query and let go of where that reads other tables. A query that
    names further columns gets them beside those that are there, as far as all rows of them are copied: those after it
    then find them.
    """

    def __init__(self, *, typed: bool) -> None:
        self._typed = typed
        self._kept: dict[int, _Copy] = {}

    def of(self, sql: str, tables: Mapping[str, UserTable]) -> dict[str, UserTable]:
        """Those of `tables`, by their names in the query, that it reads: their `rows` are what is copied of them. All,
        with their first rows, where the query is none that may run.

        Raises:
            DataError: only a schema was given, or the rows cannot be read.
        """
        try:
            tree = check_sql(sql, {n: [*(c.name for c in t.columns), *t.header] for n, t in tables.items()})
        except RefusedSQL:
            return dict(tables)
        read = {folded(table.name) for table in tree.find_all(exp.Table)}
        found = {name: table for name, table in tables.items() if folded(name) in read}
        large = {name: table for name, table in found.items() if table.is_large(typed=self._typed)}
        names = _names(sql, tree)
        kept, self._kept = self._kept, {}
        for name, table in large.items():
            copy = self._copy(table, _columns(table, names), len(large), kept.pop(id(table), None))
            self._kept[id(table)] = copy
            found[name] = copy.part
        return found

    def _copy(self, table: UserTable, columns: frozenset[int], among: int, kept: _Copy | None) -> _Copy:
        if kept is not None and kept.among == among:
            rows = kept.part.rows(typed=self._typed)
            if columns == kept.columns or (columns < kept.columns and not rows.truncated):
                return kept
            more = columns | kept.columns
            if not rows.truncated and rows.data.num_rows <= Wanted(self._typed, among).rows(len(more)):
                copy = _Copy(table, more, among, table.part(sorted(more), among=among))
                if not copy.part.rows(typed=self._typed).truncated:
                    return copy
        return _Copy(table, columns, among, table.part(sorted(columns or self._least(table)), among=among))

    def _least(self, table: UserTable) -> frozenset[int]:
        """The column that takes the least room, for a query that only counts rows."""
        sizes = [column.nbytes for column in table.rows(typed=self._typed).data.columns]
        return frozenset([sizes.index(min(sizes))])


@dataclass(frozen=True)
class _Copy:
    """A `part` of a `table`: some columns, of so many rows as are copied of a large table `among` so many."""

    table: UserTable
    columns: frozenset[int]
    among: int
    part: UserTable


def _columns(table: UserTable, names: frozenset[str] | None) -> frozenset[int]:
    """The positions of a table's columns of those names, as prompts show them or the user wrote them; None for all."""
    return frozenset(
        position
        for position, (column, own) in enumerate(zip(table.columns, table.header, strict=True))
        if names is None or not names.isdisjoint((folded(column.name), folded(own)))
    )


def _names(sql: str, tree: exp.Expression) -> frozenset[str] | None:
    """All names in a checked query, folded; None where it may read columns without their names."""
    tokens = checked_tokens(sql)
    if any(not isinstance(s.parent, exp.Count) or any(s.args.values()) for s in tree.find_all(exp.Star)):
        return None
    if any(a.columns and not isinstance(a.parent.this, _QUERIES) for a in tree.find_all(exp.TableAlias)):
        return None
    # A table's name stands where it is given, as a string too (FROM t AS 'r'), and before a dot; elsewhere it is a row.
    given = Counter(folded(node.name) for node in tree.find_all(exp.Table, exp.TableAlias))
    pairs = itertools.pairwise([*tokens, ("mark", ";")])
    alone = Counter(folded_token(*token) for token, after in pairs if after != ("mark", "."))
    names = frozenset(folded_token(kind, text) for kind, text in tokens if kind in ("word", "quoted"))
    return None if "natural" in names or any(alone[name] > given[name] for name in given) else names
