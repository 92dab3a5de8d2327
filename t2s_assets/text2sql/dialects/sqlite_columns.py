"""Which table's columns a query of SQLite names, the affinity of a value, and what a database's rows say about it.

A value's affinity decides how SQLite compares it: https://sqlite.org/datatype3.html#affinity_of_expressions
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from sqlglot import exp

from t2s_assets.text2sql.execution.guard import visible_ctes
from t2s_assets.text2sql.query import identifier
from t2s_assets.text2sql.schema import Column, TableSchema
from t2s_assets.text2sql.sql.names import folded

Affinity = Literal["text", "number", "none", "unknown"]

LOOSE = "UNKNOWN"
"""The type, in a schema, of a column whose values SQLite keeps otherwise than their copy's type says: text beside
numbers in a column of dates, or whole numbers beside others."""

UNTYPED = {"VARCHAR": "TEXT", "BIGINT": "INTEGER"}
"""By its copy's type, the type in a schema of a column that holds such values alone but has another affinity."""

TEXT_OF_NUMBERS = "NCHAR"
"""The type, in a schema, of a column of text alone that is declared as numbers (DATE, DECIMAL): of a text that it is
compared with, SQLite makes the number that it spells."""

ADDED = "t2s_added"
"""Of a cast that the translation wrote."""

Holds = Callable[[str], bool]
"""Whether a DuckDB query for counterexamples finds none in the rows."""


def no_rows(sql: str) -> bool:
    """In place of rows, where there are none to look at: nothing is known to hold."""
    return False


@dataclass(frozen=True)
class Source:
    """What stands in a FROM: a table, or a sub-query or CTE, whose `schema` is None."""

    alias: str
    schema: TableSchema | None
    query: exp.Expression | None

    def column(self, name: str) -> Column | None:
        """Its table's column of that name."""
        columns = self.schema.columns if self.schema else ()
        return next((c for c in columns if folded(c.name) == folded(name)), None)

    def output(self, name: str) -> exp.Expression | None:
        """What its sub-query selects under that name."""
        selects = self.query.selects if isinstance(self.query, exp.Select) else ()
        return next((s.unalias() for s in selects if folded(s.alias_or_name) == folded(name)), None)

    def may_have(self, name: str) -> bool:
        """Whether it has a column of that name, or is of columns that are not known."""
        if self.schema is not None:
            return self.column(name) is not None
        return not isinstance(self.query, exp.Select) or self.query.is_star or self.output(name) is not None


def sources(select: exp.Select, schemas: Sequence[TableSchema]) -> list[Source]:
    """What a SELECT reads, in its order."""
    first = select.args.get("from_")
    nodes = [first.this] if first is not None else []
    nodes += [join.this for join in select.args.get("joins") or ()]
    by_name = {folded(s.name): s for s in schemas}
    return [_source(node, by_name) for node in nodes]


def _source(node: exp.Expression, by_name: dict[str, TableSchema]) -> Source:
    alias = folded(node.alias_or_name)
    if not isinstance(node, exp.Table):
        return Source(alias, None, None if node.alias_column_names else node.unnest())
    if folded(node.name) in visible_ctes(node):
        return Source(alias, None, _cte(node))
    return Source(alias, by_name.get(folded(node.name)), None)


def _cte(table: exp.Table) -> exp.Expression | None:
    around: exp.Expression | None = table
    while around is not None:
        listed = around.args.get("with_")
        for cte in listed.expressions if isinstance(listed, exp.With) else ():
            if folded(cte.alias) == folded(table.name):
                return None if cte.args["alias"].columns else cte.this
        around = around.parent
    return None


def source_of(column: exp.Column, schemas: Sequence[TableSchema]) -> tuple[exp.Select, Source] | None:
    """The SELECT and what it reads that a column is of; None where that cannot be told."""
    for select in _selects_around(column):
        found = sources(select, schemas)
        if column.table:
            found = [s for s in found if s.alias == folded(column.table)]
        else:
            found = [s for s in found if s.may_have(column.name)]
            if len(found) > 1 and not _is_joined_by(column.name, select):
                return None
        if found:
            return select, found[0]
    return None


def _is_joined_by(name: str, select: exp.Select) -> bool:
    joins = select.args.get("joins") or ()
    return any(folded(n.name) == folded(name) for join in joins for n in join.args.get("using") or ())


def _selects_around(node: exp.Expression) -> Iterator[exp.Select]:
    around = node.parent
    while around is not None:
        if isinstance(around, exp.Select):
            yield around
        around = around.parent


def base_of(column: exp.Column, schemas: Sequence[TableSchema]) -> tuple[TableSchema, Column] | None:
    """The table and its column that a name is, where it is one of a table."""
    found = source_of(column, schemas)
    if found is None or found[1].schema is None:
        return None
    of_table = found[1].column(column.name)
    return (found[1].schema, of_table) if of_table else None


def affinity(node: exp.Expression, schemas: Sequence[TableSchema]) -> Affinity:
    """Of a value: a column's is that of its type, a cast's what it casts to, other expressions have none."""
    node = node.unnest()
    if isinstance(node, exp.Cast):
        if node.meta_get(ADDED):
            return "none"
        return "text" if node.to.is_type(*exp.DataType.TEXT_TYPES) else "number"
    if isinstance(node, exp.Select):
        return affinity(node.selects[0].unalias(), schemas) if node.selects else "unknown"
    if not isinstance(node, exp.Column):
        return "unknown" if isinstance(node, exp.Query) else "none"
    found = source_of(node, schemas)
    if found is None:
        return "unknown"
    if (of_table := found[1].column(node.name)) is not None:
        if of_table.sql_type in (LOOSE, TEXT_OF_NUMBERS, *UNTYPED.values()):
            return "unknown"
        return "text" if of_table.type == "text" else "number"
    selected = found[1].output(node.name)
    return affinity(selected, schemas) if selected is not None else "unknown"


def always(value: exp.Expression, test: Callable[[str], str], schemas: Sequence[TableSchema], holds: Holds) -> bool:
    """Whether a test, SQL of the value's SQL, is true of the value in every row where it is not NULL.

    Only of a value of one table's columns, or of none, can that be asked; the query's conditions are not looked at.
    """
    alone = _standing_alone(value, schemas)
    if alone is None:
        return False
    text, table = alone
    rows = f" FROM {identifier(table)}" if table else ""
    return holds(f"SELECT 1{rows} WHERE NOT COALESCE({text} IS NULL OR ({test(text)}), FALSE) LIMIT 1")


def _origin(value: exp.Expression, schemas: Sequence[TableSchema]) -> exp.Expression:
    """What a value is one of, for all its rows: of an extreme, a sub-query's value and its column, what those take."""
    value = value.unnest()
    if isinstance(value, (exp.Max, exp.Min)) and not value.expressions:
        return _origin(value.this, schemas)
    if isinstance(value, exp.Select) and len(value.selects) == 1:
        return _origin(value.selects[0].unalias(), schemas)
    if isinstance(value, exp.Column) and (found := source_of(value, schemas)) is not None and not found[1].schema:
        selected = found[1].output(value.name)
        return _origin(selected, schemas) if selected is not None else value
    return value


def _standing_alone(value: exp.Expression, schemas: Sequence[TableSchema]) -> tuple[str, str] | None:
    """A value as DuckDB SQL over one table, and the table's name, empty where it needs none."""
    value = _origin(value, schemas)
    if value.find(exp.Query, exp.AggFunc, exp.Window):
        return None
    found = [base_of(column, schemas) for column in value.find_all(exp.Column)]
    bases = [base for base in found if base is not None]
    tables = {table.name for table, _ in bases}
    if len(bases) < len(found) or len(tables) > 1:
        return None
    alone = value.copy()
    for column, (_, of_table) in zip(list(alone.find_all(exp.Column)), bases):
        column.set("table", None)
        column.set("this", exp.to_identifier(of_table.name, quoted=True))
    return exp.Paren(this=alone).sql("duckdb"), next(iter(tables), "")
