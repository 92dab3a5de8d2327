"""Names that come into scope, and no others: what a grammar cannot know about a SELECT.

A context-free grammar allows any alias and any column anywhere. This reads the text that is written so far, whose
syntax the grammar has seen to, and tells whether some query that DuckDB binds goes on from it: every name can still
be a column of a source, of a kind that may stand there, grouped where it must be, and every sub-query has as many
columns as it needs, and one row at most where its value is wanted. So an answer is checked while it is written
(PICARD, Scholak et al. 2021, arXiv:2109.05093; Synchromesh, Poesia et al. 2022, arXiv:2201.11227).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from t2s_assets.text2sql.decoding.scopes.kinds import of_column
from t2s_assets.text2sql.decoding.scopes.names import Schema
from t2s_assets.text2sql.decoding.scopes.queries import Queries
from t2s_assets.text2sql.decoding.scopes.reader import EndOfText, Refused, as_bytes
from t2s_assets.text2sql.decoding.select_grammar import spellings
from t2s_assets.text2sql.schema import TableSchema


class Scopes:
    """The scopes of queries over some tables."""

    def __init__(self, schemas: Sequence[TableSchema]) -> None:
        tables = {as_bytes(s.name): tuple((as_bytes(c.name), of_column(c)) for c in s.columns) for s in schemas}
        known: dict[str, int] = {}
        for columns in tables.values():
            for name, kind in columns:
                known[name] = known.get(name, 0) | kind
        columns_of = _spelt(column.name for schema in schemas for column in schema.columns)
        self._schema = Schema(tables, known, _spelt(schema.name for schema in schemas), columns_of)

    def admits(self, text: bytes, *, complete: bool = False) -> bool:
        """Whether a query that binds begins with `text`, or, with `complete`, is `text`.

        The text is one that the grammar of SELECT allows.
        """
        queries = Queries(text.decode("latin-1"), self._schema, complete=complete)
        try:
            queries.statement()
        except EndOfText:
            return queries.follows() and queries.may_come()
        except Refused:
            return False
        return True


def _spelt(names: Iterable[str]) -> dict[str, frozenset[str]]:
    """The spellings of names, one byte a character."""
    found: dict[str, frozenset[str]] = {}
    for name in names:
        ways = frozenset(way.encode().decode("latin-1") for way in spellings(name))
        found[as_bytes(name)] = found.get(as_bytes(name), frozenset()) | ways
    return found
