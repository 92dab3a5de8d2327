"""The one spelling of a SELECT that the grammar of SELECT knows, so that training targets and answers agree."""

from __future__ import annotations

from collections.abc import Sequence

import sqlglot
from sqlglot import exp

from t2s_assets.text2sql.decoding.select_grammar import spellings
from t2s_assets.text2sql.errors import DataError
from t2s_assets.text2sql.schema import TableSchema


def canonical(sql: str, schemas: Sequence[TableSchema]) -> str:
    """`sql` as sqlglot writes DuckDB SQL, with tables and columns spelled as `schemas` spell them.

    Names that the schemas do not have (aliases, CTEs, mistakes) stay as they are. Raises DataError where `sql` is
    not one DuckDB statement.
    """
    try:
        trees = [tree for tree in sqlglot.parse(sql, read="duckdb") if tree is not None]
    except (sqlglot.errors.SqlglotError, RecursionError) as e:
        raise DataError(f"not DuckDB SQL ({str(e).splitlines()[0]}): {sql}") from e
    if len(trees) != 1:
        raise DataError(f"one statement is wanted; got {len(trees)}: {sql}")
    tables = {schema.name.casefold(): schema.name for schema in schemas}
    columns = {column.name.casefold(): column.name for schema in schemas for column in schema.columns}
    own = {a.alias.casefold() for a in trees[0].find_all(exp.TableAlias, exp.Alias) if a.alias}
    for node in list(trees[0].find_all(exp.Table, exp.Column)):
        if isinstance(node, exp.Table):
            _respell(node.this, tables, own)
            continue
        _respell(node.this, columns, own)
        _respell(node.args.get("table"), tables, own)
    for window in trees[0].find_all(exp.WindowSpec):
        for key, value in window.args.items():
            if isinstance(value, str):
                window.set(key, value.upper())
    return trees[0].sql(dialect="duckdb", comments=False)


def _respell(node: exp.Expression | None, names: dict[str, str], own: set[str]) -> None:
    if not isinstance(node, exp.Identifier):
        return
    name = names.get(node.name.casefold())
    if name is not None and (name == node.name or node.name.casefold() not in own):
        node.set("this", name)
        node.set("quoted", bool(node.args.get("quoted")) or name not in spellings(name))
