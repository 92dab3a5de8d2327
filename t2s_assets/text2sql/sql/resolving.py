"""One query over given tables, its names resolved by sqlglot, and by this module what sqlglot leaves.

Every column gets its table, `*` and USING are written out, positions and aliases in GROUP BY and ORDER BY become what
they stand for.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

from sqlglot import exp
from sqlglot.errors import OptimizeError
from sqlglot.optimizer.annotate_types import annotate_types
from sqlglot.optimizer.qualify import qualify
from sqlglot.optimizer.resolver import Resolver
from sqlglot.optimizer.scope import Scope, traverse_scope
from sqlglot.schema import MappingSchema

from t2s_assets.text2sql.errors import T2SError
from t2s_assets.text2sql.schema import Column, TableSchema
from t2s_assets.text2sql.sql.parsing import parsed
from t2s_assets.text2sql.sql.sqlglot_errors import sqlglot_errors

_COMPARISONS = (exp.EQ, exp.NEQ, exp.LT, exp.LTE, exp.GT, exp.GTE, exp.NullSafeEQ, exp.NullSafeNEQ, exp.Between, exp.In)
_POINTS = (exp.DataType.Type.DATE, exp.DataType.Type.TIMESTAMP, exp.DataType.Type.TIMESTAMPNTZ)
BEHIND = ("order", "limit", "offset")
"""The clauses that may stand behind a SELECT in parentheses, as sqlglot names them."""


class NormalFormError(T2SError):
    """SQL text is not one query over the given tables: unparsable, or it names what they do not have."""


def resolved(sql: str, schemas: Sequence[TableSchema]) -> exp.Query:
    """A query's tree with its names resolved.

    Raises:
        NormalFormError: `sql` is not one query.
        Whatever sqlglot raises where it is none at all, or a name is not in the schemas: see `sqlglot_errors`.
    """
    trees = parsed(sql)
    if len(trees) != 1 or not isinstance(trees[0], exp.Query):
        raise NormalFormError("one SELECT statement is wanted")
    tables = mapping(tuple(schemas))
    tree = qualify(trees[0], schema=tables, dialect="duckdb", quote_identifiers=False)
    for scope in traverse_scope(tree):
        _write_out_keys(scope, tables)
    return tree


def _write_out_keys(scope: Scope, schema: MappingSchema) -> None:
    """Names of selected columns in ORDER BY and DISTINCT ON, which sqlglot leaves, become what they stand for: alone,
    a name is first one of what is selected; in an expression, of a table's columns."""
    query = scope.expression
    if not isinstance(query, exp.Select):
        return
    selected = _selected(query)
    keys = [e for clause in ("order", "distinct") if (found := query.args.get(clause)) for e in _keys(found)]
    for key in keys:
        for column in list(key.find_all(exp.Column)):
            meant = selected.get(column.name.lower())
            if column.table or meant is None:
                continue
            table = None if column is key.unnest() else _table_of(column, scope, schema)
            if table is not None:
                column.set("table", table)
            else:
                column.replace(meant.copy())


def _selected(query: exp.Select) -> dict[str, exp.Expression]:
    """What is selected, by its names."""
    return {e.alias_or_name.lower(): e.unalias() for e in reversed(query.expressions)}


def _keys(clause: exp.Expression) -> list[exp.Expression]:
    """The expressions of an ORDER BY or DISTINCT ON."""
    if isinstance(clause, exp.Distinct):
        return list(clause.args["on"].expressions) if clause.args.get("on") else []
    return [e.this for e in clause.expressions]


def _table_of(column: exp.Column, scope: Scope, schema: MappingSchema) -> exp.Identifier | None:
    """The table that has a column; None too where several have, which DuckDB takes of those that USING joins alone."""
    try:
        return Resolver(scope, schema).get_table(column)
    except OptimizeError:
        return None


def columns_of(sql: str, schemas: Sequence[TableSchema]) -> set[tuple[str, str]]:
    """(table, column), lower-cased, of every column of the given tables that a query names; `*` names them all.

    Raises NormalFormError when `sql` is not one query, or a name in it is not in the schemas.
    """
    found = set()
    with sqlglot_errors(NormalFormError):
        for scope in traverse_scope(resolved(sql, schemas)):
            for column in scope.columns:
                source = scope.sources.get(column.table)
                if isinstance(source, exp.Table):
                    found.add((source.name.lower(), column.name.lower()))
    return found


def in_one(node: exp.Subquery) -> exp.Select:
    """A SELECT in parentheses with what stands behind these in it. An ORDER BY there knows what is selected alone."""
    whole = node.this.copy()
    for name in BEHIND:
        if (clause := node.args.get(name)) is not None:
            whole.set(name, clause.copy())
    selected = _selected(node.this)
    for column in list(whole.args["order"].find_all(exp.Column)) if whole.args.get("order") else ():
        if not column.table and (meant := selected.get(column.name.lower())) is not None:
            column.replace(meant.copy())
    return whole


def drop_casts(tree: exp.Query, schema: MappingSchema) -> None:
    """Leave strings that a comparison casts to the type of its column to DuckDB, which does the same."""
    casts = [c for c in tree.find_all(exp.Cast) if type(c) is exp.Cast and c.to.this in _POINTS and c.this.is_string]
    if not casts:
        return
    annotate_types(tree, schema=schema, dialect="duckdb")
    for cast in casts:
        parent = cast.parent
        while isinstance(parent, exp.Paren):
            parent = parent.parent
        if not isinstance(parent, _COMPARISONS):
            continue
        other = parent.this.unnest()
        if isinstance(parent, exp.Binary) and other is cast:
            other = parent.expression.unnest()
        if isinstance(other, exp.Column) and other.type is not None and other.type.this == cast.to.this:
            cast.replace(cast.this)


@functools.lru_cache(maxsize=64)
def mapping(schemas: tuple[TableSchema, ...], whole: str = "BIGINT") -> MappingSchema:
    """The tables as sqlglot wants them, with `whole` for the type of whole numbers."""

    def sql_type(column: Column) -> str:
        return whole if column.sql_type == "BIGINT" else column.sql_type or ("DOUBLE", "TEXT")[column.type == "text"]

    tables = {
        exp.to_identifier(s.name, quoted=True).sql("duckdb"): {
            exp.to_identifier(c.name, quoted=True).sql("duckdb"): sql_type(c) for c in s.columns
        }
        for s in schemas
    }
    return MappingSchema(tables, dialect="duckdb")
