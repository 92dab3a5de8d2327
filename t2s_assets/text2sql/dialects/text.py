"""What other dialects than SQLite mean by text and its patterns, where sqlglot writes something else for DuckDB."""

from __future__ import annotations

import re
from collections.abc import Sequence

from sqlglot import exp
from sqlglot.dialects.bigquery import BigQuery
from sqlglot.dialects.clickhouse import ClickHouse
from sqlglot.dialects.hive import Hive
from sqlglot.dialects.mysql import MySQL
from sqlglot.dialects.oracle import Oracle
from sqlglot.dialects.postgres import Postgres
from sqlglot.dialects.presto import Presto
from sqlglot.dialects.tsql import TSQL

from t2s_assets.text2sql.dialects.value_types import DialectError, Kind, is_of, operand_kinds
from t2s_assets.text2sql.schema import TableSchema
from t2s_assets.text2sql.sql.sqlglot_errors import sqlglot_errors


def write_text(tree: exp.Query, dialect: str, schemas: Sequence[TableSchema]) -> None:
    """Strings, casts to them, what joins and compares them. Raises DialectError for what DuckDB has not."""
    for node in list(tree.find_all(exp.National)):
        node.replace(exp.Literal.string(node.name))
    _write_lengths(tree, dialect)
    _write_patterns(tree, dialect)
    _write_by_kind(tree, dialect, schemas)
    if is_of(dialect, Oracle):
        _write_concatenations(tree)


def _write_lengths(tree: exp.Query, dialect: str) -> None:
    """LENGTH of text: a copy has no columns of bytes, for which sqlglot writes a CASE."""
    for node in list(tree.find_all(exp.Length)):
        if node.args.get("binary"):
            node.set("binary", None)
            if is_of(dialect, MySQL):  # of text too it counts bytes
                node.replace(exp.Anonymous(this="STRLEN", expressions=[node.this]))


# Patterns --------------------------------------------------------------------------------------------------


def _write_patterns(tree: exp.Query, dialect: str) -> None:
    for node in list(tree.find_all(exp.Like, exp.ILike)):
        pattern = node.expression
        if is_of(dialect, TSQL) and pattern.is_string and "[" in pattern.name:
            raise DialectError(f"LIKE of a class of characters has no DuckDB counterpart: {node.sql(dialect)}")
        escaped = is_of(dialect, Postgres, MySQL, BigQuery, Hive, ClickHouse) and "\\" in pattern.name
        if escaped and pattern.is_string and not isinstance(node.parent, exp.Escape):
            node.replace(exp.Escape(this=node.copy(), expression=exp.Literal.string("\\")))
    for node in tree.find_all(exp.SimilarTo):
        pattern = node.expression
        if not pattern.is_string or isinstance(node.parent, exp.Escape):
            raise DialectError(f"SIMILAR TO of no text, or with ESCAPE, has no DuckDB counterpart: {node.sql(dialect)}")
        node.set("expression", exp.Literal.string(_regular_expression(pattern.name)))


_PART = re.compile(r"\\(.)|(\[[^\]]*\])|(.)", re.DOTALL)
_OF_LIKE = {"%": ".*", "_": ".", ".": r"\.", "^": r"\^", "$": r"\$"}


def _regular_expression(pattern: str) -> str:
    """A pattern of standard SQL's SIMILAR TO as DuckDB reads one: as a regular expression for the whole text."""

    def part(found: re.Match[str]) -> str:
        escaped, characters, other = found.groups()
        if escaped is not None:
            return re.escape(escaped)
        return characters or _OF_LIKE.get(other, other)

    return _PART.sub(part, pattern)


# By the kind of values -------------------------------------------------------------------------------------

_CUTTING = (Postgres, MySQL, TSQL, Oracle, Presto)
"""Where a cast to VARCHAR(n) keeps the first n characters; DuckDB keeps all."""

_LONGEST: dict[Kind, int] = {"whole": 20, "real": 24, "temporal": 26, "boolean": 5}
"""Characters of the longest value of a kind."""


def _write_by_kind(tree: exp.Query, dialect: str, schemas: Sequence[TableSchema]) -> None:
    asked = [node for node in tree.find_all(exp.Cast, exp.Convert, exp.Add) if _needs_kinds(node, dialect)]
    if not asked:
        return
    with sqlglot_errors(DialectError, "its values cannot be told to be text or numbers: "):
        kinds = operand_kinds(tree, asked, dialect, schemas)
    for node, found in reversed(list(zip(asked, kinds))):  # the text of a node is told as it stood, so inner ones first
        if isinstance(node, exp.Add):
            if found == ("text", "text"):
                node.replace(exp.DPipe(this=node.this, expression=node.expression))
            continue
        longest = _LONGEST.get(found[0])
        if longest is not None and (
            _width(node) >= longest or (is_of(dialect, TSQL, Oracle) and found[0] != "temporal")
        ):
            continue  # SQL Server and Oracle do not cut numbers
        text = node.this if found == ("text",) and type(node) is exp.Cast else node
        node.replace(exp.Left(this=text.copy(), expression=exp.Literal.number(_width(node))))


def _needs_kinds(node: exp.Expression, dialect: str) -> bool:
    if isinstance(node, exp.Add):
        numbers = any(isinstance(side, exp.Literal) and not side.is_string for side in (node.left, node.right))
        return is_of(dialect, TSQL) and not numbers
    return is_of(dialect, *_CUTTING) and _target(node).is_type(*exp.DataType.TEXT_TYPES) and _width(node) > 0


def _target(node: exp.Expression) -> exp.DataType:
    """The type that a Cast or Convert makes."""
    found = node.this if isinstance(node, exp.Convert) else node.args["to"]
    assert isinstance(found, exp.DataType)
    return found


def _width(node: exp.Expression) -> int:
    width = next((p.name for p in _target(node).expressions), "")
    return int(width) if width.isdecimal() else 0


# Oracle ----------------------------------------------------------------------------------------------------


def _write_concatenations(tree: exp.Query) -> None:
    """NULL is the empty text to Oracle, so that `||` joins what there is."""
    for node in list(tree.find_all(exp.DPipe, exp.Concat)):
        if isinstance(node.parent, exp.DPipe):
            continue
        parts = list(node.flatten()) if isinstance(node, exp.DPipe) else node.expressions
        joined = exp.Concat(expressions=[part.copy() for part in parts], safe=True, coalesce=True)
        some = any(part.is_string and part.name for part in parts)
        node.replace(joined if some else exp.Nullif(this=joined, expression=exp.Literal.string("")))
    for node in tree.find_all(exp.Greatest, exp.Least):
        node.set("ignore_nulls", False)
