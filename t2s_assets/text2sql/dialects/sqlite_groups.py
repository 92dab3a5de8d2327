"""Columns of SQLite that are neither grouped nor aggregated, written for DuckDB, which knows no such bare columns.

SQLite takes their values from some row of each group: where the query has one MIN or MAX, from a row that has it, else
from any (https://sqlite.org/lang_select.html#bareagg). The result is defined where the rows to choose from agree, and
only then is it written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sqlglot import exp

from t2s_assets.text2sql.dialects.sqlite_columns import Holds, source_of, sources
from t2s_assets.text2sql.dialects.value_types import DialectError
from t2s_assets.text2sql.schema import TableSchema
from t2s_assets.text2sql.sql.names import folded


def write_bare_columns(tree: exp.Query, schemas: Sequence[TableSchema], holds: Holds) -> None:
    """Group by bare columns, or take them from the row of the extreme.

    Raises DialectError where rows to choose from differ.
    """
    selects = list(tree.find_all(exp.Select))
    # A sub-query is written before what stands around it, and a CTE before what reads it.
    selects.reverse()
    selects.sort(key=lambda s: s.find_ancestor(exp.CTE) is None)
    for select in selects:
        if select.args.get("group") or _aggregates(select):
            _write(_Grouped(select, schemas, tree), holds)


def _write(grouped: _Grouped, holds: Holds) -> None:
    grouped.write_stars()
    bare = grouped.bare()
    if not bare:
        return
    distinct = list({column.sql("duckdb"): column for column in bare}.values())
    if holds(grouped.differing(distinct)):
        grouped.group_by(bare, distinct)
        return
    extreme = grouped.extreme()
    if extreme is not None and holds(grouped.differing_at(extreme, distinct)):
        for column in bare:
            column.replace(_at(extreme, column, holds(grouped.null_at(extreme, column))))
        return
    names = ", ".join(column.sql("sqlite") for column in distinct)
    where = "rows of one group" if grouped.keys else "rows"
    where = f"rows that have the {extreme.sql('sqlite')}" if extreme is not None else where
    raise DialectError(f"selects {names} without grouping by it, and {where} differ in it or cannot be looked at alone")


def _at(extreme: exp.Max | exp.Min, column: exp.Column, never_null: bool) -> exp.Expression:
    """A column's value in the row of the extreme; ARG_MAX passes over rows in which it is NULL."""
    name = f"ARG_{'MAX' if isinstance(extreme, exp.Max) else 'MIN'}{'' if never_null else '_NULL'}"
    return exp.Anonymous(this=name, expressions=[column.copy(), extreme.this.copy()])


def _own(node: exp.Expression, select: exp.Select) -> Iterator[exp.Expression]:
    """The nodes of a clause that are of no sub-query in it."""
    yield from node.walk(prune=lambda n: n is not select and isinstance(n, exp.Query))


def _clauses(select: exp.Select) -> Iterator[exp.Expression]:
    yield from select.selects
    yield from (select.args[name] for name in ("having", "order") if select.args.get(name))


def _aggregates(select: exp.Select) -> list[exp.Expression]:
    return [
        node
        for clause in _clauses(select)
        for node in _own(clause, select)
        if isinstance(node, exp.AggFunc) and not _is_windowed(node)
    ]


def _is_windowed(node: exp.Expression) -> bool:
    while isinstance(node.parent, (exp.Filter, exp.IgnoreNulls, exp.RespectNulls)):
        node = node.parent
    return isinstance(node.parent, exp.Window) and node.parent.this is node


@dataclass
class _Grouped:
    """A SELECT that makes groups."""

    select: exp.Select
    schemas: Sequence[TableSchema]
    tree: exp.Query

    @property
    def keys(self) -> list[exp.Expression]:
        """What it groups by, positions and aliases as what they stand for."""
        group = self.select.args.get("group")
        return [self._meant(key) for key in group.expressions] if group else []

    def _meant(self, key: exp.Expression) -> exp.Expression:
        selects = self.select.selects
        if isinstance(key, exp.Literal) and key.is_int and 0 < int(key.name) <= len(selects):
            return selects[int(key.name) - 1].unalias()
        if isinstance(key, exp.Column) and not key.table and source_of(key, self.schemas) is None:
            return next((s.unalias() for s in selects if folded(s.alias) == folded(key.name)), key)
        return key

    def write_stars(self) -> None:
        """Name the columns of tables that a * stands for."""
        for star in [s for s in self.select.selects if s.is_star and not isinstance(s, exp.Func)]:
            read = sources(self.select, self.schemas)
            if isinstance(star, exp.Column):
                read = [s for s in read if s.alias == folded(star.table)]
            elif any(join.args.get("using") for join in self.select.args.get("joins") or ()):
                continue
            if read and all(s.schema for s in read):
                columns = [
                    exp.column(exp.to_identifier(c.name, quoted=True), table=exp.to_identifier(s.alias, quoted=False))
                    for s in read
                    if s.schema
                    for c in s.schema.columns
                ]
                at = self.select.expressions.index(star)
                self.select.set("expressions", [*self.select.selects[:at], *columns, *self.select.selects[at + 1 :]])

    def bare(self) -> list[exp.Column]:
        """The columns, each time that one is named, that are of no group and of no aggregate."""
        keys = {self._identity(key) for key in self.keys}
        aliases = {folded(s.alias) for s in self.select.selects if s.alias}
        found = []
        for clause in _clauses(self.select):
            for node in self._outside(clause, keys):
                named = isinstance(node, exp.Column) and not node.table and folded(node.name) in aliases
                of_alias = named and (isinstance(clause, exp.Order) or source_of(node, self.schemas) is None)
                if isinstance(node, exp.Column) and not node.is_star and clause is not None:
                    if clause in self.select.selects or not of_alias:
                        found.append(node)
        return found

    def _outside(self, clause: exp.Expression, keys: set[str]) -> Iterator[exp.Expression]:
        """The nodes of a clause outside of aggregates, sub-queries and what is grouped by."""

        def ends(node: exp.Expression) -> bool:
            aggregate = isinstance(node, (exp.AggFunc, exp.Filter)) and not _is_windowed(node)
            return aggregate or isinstance(node, exp.Query) or self._identity(node) in keys

        for node in clause.walk(prune=ends):
            if not ends(node):
                yield node

    def _identity(self, node: exp.Expression) -> str:
        """An expression as text that is the same however its columns are qualified."""
        node = node.unnest().copy() if node.parent is None else node.unnest()
        told = node.copy()
        pairs = zip(list(told.find_all(exp.Column)), list(node.find_all(exp.Column)))
        for copied, column in pairs:
            found = source_of(column, self.schemas)
            if found is not None:
                copied.set("table", exp.to_identifier(found[1].alias, quoted=True))
            if isinstance(copied.this, exp.Identifier):
                copied.set("this", exp.to_identifier(folded(copied.name), quoted=True))
        return told.sql("duckdb")

    def extreme(self) -> exp.Max | exp.Min | None:
        """The one MIN or MAX, by which SQLite then chooses the row."""
        found = [node for node in _aggregates(self.select) if isinstance(node, (exp.Max, exp.Min))]
        texts = {node.sql() for node in found}
        plain = len(texts) == 1 and not isinstance(found[0].parent, exp.Filter)
        return found[0] if plain and not isinstance(found[0].this, exp.Distinct) else None

    def differing(self, columns: Sequence[exp.Column]) -> str:
        """A query for groups in which one of the columns has more than one value."""
        rows = self._rows([])
        rows.set("expressions", [exp.Literal.number(1)])
        if self.keys:
            rows.set("group", exp.Group(expressions=[_parenthesised(key) for key in self.keys]))
        rows.set("having", exp.Having(this=exp.or_(*(_several(column) for column in columns))))
        return self._asked(rows)

    def differing_at(self, extreme: exp.Max | exp.Min, columns: Sequence[exp.Column]) -> str:
        """A query for groups in which one of the columns has more than one value where the extreme is, or some value
        and no extreme."""
        values = [f"v{i}" for i in range(len(columns))]
        several = [_several(exp.column(value)) for value in values]
        none = [f"MAX(m) IS NULL AND COUNT({value}) > 0" for value in values]
        return self._at_extreme(extreme, columns, exp.or_(*several, *none, dialect="duckdb"))

    def null_at(self, extreme: exp.Max | exp.Min, column: exp.Column) -> str:
        """A query for groups in which a column is NULL where the extreme is."""
        return self._at_extreme(extreme, [column], exp.condition("COUNT(v0) < COUNT(m)", dialect="duckdb"))

    def _at_extreme(self, extreme: exp.Max | exp.Min, columns: Sequence[exp.Column], test: exp.Expression) -> str:
        """A query for groups whose rows with the extreme, or all of them where there is none, pass a test of the
        columns v0, v1, ... and the extreme m."""
        values = [exp.alias_(column.copy(), f"v{i}") for i, column in enumerate(columns)]
        keys = [exp.alias_(key.copy(), f"k{i}") for i, key in enumerate(self.keys)]
        over = exp.Window(this=extreme.copy(), partition_by=[key.copy() for key in self.keys])
        rows = self._rows([*values, *keys, exp.alias_(extreme.this.copy(), "x"), exp.alias_(over, "m")])
        found = exp.select("1").from_(rows.subquery("found")).where("x IS NOT DISTINCT FROM m", dialect="duckdb")
        if keys:
            found = found.group_by(*(key.alias for key in keys))
        return self._asked(found.having(test))

    def _rows(self, selected: Sequence[exp.Expression]) -> exp.Select:
        """The rows that the groups are made of."""
        kept = {name: self.select.args.get(name) for name in ("from_", "joins", "where")}
        rows = exp.Select(expressions=list(selected))
        for name, value in kept.items():
            if value:
                rows.set(name, [v.copy() for v in value] if isinstance(value, list) else value.copy())
        return rows

    def _asked(self, query: exp.Select) -> str:
        """A query's text with the CTEs that it may read."""
        listed = self.tree.args.get("with_")
        if isinstance(listed, exp.With) and self.select.find_ancestor(exp.With) is None:
            query.set("with_", listed.copy())
        return query.limit(1).sql("duckdb")

    def group_by(self, bare: Sequence[exp.Column], distinct: Sequence[exp.Column]) -> None:
        """Make the columns, of one value in each group, part of what it groups by; without groups, take the first."""
        group = self.select.args.get("group")
        if group is None:
            for column in bare:
                column.replace(exp.First(this=column.copy()))
            return
        for column in distinct:
            group.append("expressions", column.copy())


def _parenthesised(key: exp.Expression) -> exp.Expression:
    """A key that is no position."""
    return key.copy() if isinstance(key, exp.Column) else exp.Paren(this=key.copy())


def _several(column: exp.Column) -> exp.Expression:
    """That a column has more than one value, NULL counted as one."""
    text = column.sql("duckdb")
    test = f"COUNT(DISTINCT {text}) + MAX(CASE WHEN {text} IS NULL THEN 1 ELSE 0 END) > 1"
    return exp.maybe_parse(test, dialect="duckdb")
