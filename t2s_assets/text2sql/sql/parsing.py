"""DuckDB's SQL as sqlglot's trees, of texts that nobody vouches for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlglot import exp
from sqlglot.dialects.duckdb import DuckDB

_STEPS_A_TOKEN = 100
"""Tokens of usual SQL are looked at once or twice. sqlglot goes back for a word that may be a type, twice as often with
each bracket around it: DATE(DATE(... 23 deep would take it minutes."""
_STEPS = 1_000


def parsed(sql: str) -> list[exp.Expression]:
    """The statements in a text, without empty ones.

    Raises:
        SqlglotError: it does not parse.
        RecursionError: it is nested too deep, or in a way that takes sqlglot too long.
    """
    dialect = DuckDB()
    trees = _Parser(dialect=dialect).parse(dialect.tokenize(sql), sql)
    return statements(trees)


def statements(trees: Iterable[exp.Expression | None]) -> list[exp.Expression]:
    """Those of a text's trees that state something: not what is empty, or a comment alone, behind a semicolon."""
    return [tree for tree in trees if tree is not None and not isinstance(tree, exp.Semicolon)]


class _Parser(DuckDB.Parser):
    _left = _STEPS

    def parse(self, raw_tokens: Any, sql: str) -> Any:
        self._left = _STEPS_A_TOKEN * len(raw_tokens) + _STEPS
        return super().parse(raw_tokens, sql)

    def _advance(self, times: int = 1) -> None:
        self._left -= 1
        if self._left < 0:
            raise RecursionError
        super()._advance(times)

    def _warn_unsupported(self) -> None:
        """Nothing: the warning would show the text to a terminal, and what it is about becomes no query here."""
