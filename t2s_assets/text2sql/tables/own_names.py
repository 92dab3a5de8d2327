"""A query over the names that prompts show, with the names that the user's database knows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from sqlglot import exp
from sqlglot.optimizer.normalize_identifiers import normalize_identifiers
from sqlglot.optimizer.scope import Scope, traverse_scope

from t2s_assets.text2sql.query import table_identifier
from t2s_assets.text2sql.tables.user_tables import UserTable


def with_own_names(tree: exp.Expression, tables: Mapping[str, UserTable]) -> str:
    """The text of a checked query over `tables` (by their names in the query), with each name as the user has it.

    Raises:
        SqlglotError: sqlglot cannot tell what the names stand for.
    """
    tree = tree.copy()
    # Names are looked up in a copy that is `_folded`.
    folded = normalize_identifiers(tree.copy(), dialect="duckdb")
    twins = dict(zip(map(id, folded.walk()), tree.walk()))
    names = _Names({_folded(name): table for name, table in tables.items()})
    for scope in traverse_scope(folded):
        for column in scope.find_all(exp.Column):
            twin = twins[id(column)]
            if own := names.qualifier(column, scope):
                twin.set("table", _identifier(own.path[-1]))
            name = names.own(column, scope)
            if name is not None and name != twin.name:
                twin.set("this", exp.to_identifier(name, quoted=True))
        for join in scope.find_all(exp.Join):
            for shared in join.args.get("using") or ():
                own_names = names.everywhere(shared.name, scope)
                if len(own_names) == 1:
                    twins[id(shared)].replace(exp.to_identifier(own_names.pop(), quoted=True))
        for source in scope.sources.values():
            if own := names.table(source):
                twin = twins[id(source)]
                twin.set("this", _identifier(own.path[-1]))
                if len(own.path) > 1:
                    twin.set("db", _identifier(own.path[0]))
    return tree.sql(dialect="duckdb")


_Source = exp.Expression | Scope


class _Names:
    """What the `_folded` names in a query stand for."""

    def __init__(self, tables: Mapping[str, UserTable]) -> None:
        self._tables = tables
        self._columns: dict[int, dict[str, str | None]] = {}

    def table(self, source: _Source) -> UserTable | None:
        """The user's table that a source is, if it is one."""
        return self._tables.get(source.name) if isinstance(source, exp.Table) else None

    def qualifier(self, column: exp.Column, scope: Scope) -> UserTable | None:
        """The table whose name, and not an alias of it, stands before a column."""
        for around in _around(scope) if column.table else ():
            for alias, source in _sources(around):
                if alias == column.table:
                    return None if isinstance(source, Scope) or source.alias else self.table(source)
        return None

    def own(self, column: exp.Column, scope: Scope) -> str | None:
        """The user's name of a column; None for what the query names itself, and for what is not known."""
        name = column.name
        if not column.table and _is_key(column, scope) and name in (outputs := self._of(scope)):
            return outputs[name]
        for around in _around(scope):
            for alias, source in _sources(around):
                if column.table in ("", alias) and name in (known := self._of(source)):
                    return known[name]
            if not column.table and name in _aliases(around):
                return None
        return None

    def everywhere(self, name: str, scope: Scope) -> set[str]:
        """The user's names of a column in all tables that have it."""
        found = {self._of(source).get(name) for _, source in _sources(scope)}
        return {own for own in found if own is not None}

    def _of(self, source: _Source) -> dict[str, str | None]:
        """The user's name of each column of a source, by its name in the query."""
        if id(source) not in self._columns:
            self._columns[id(source)] = {}  # what a query returns is not known inside it
            self._columns[id(source)] = self._outputs(source) if isinstance(source, Scope) else self._stored(source)
        return self._columns[id(source)]

    def _stored(self, source: exp.Expression) -> dict[str, str | None]:
        table = self.table(source)
        if table is None:
            return {}
        own: dict[str, str | None] = {_folded(c.name): h for c, h in zip(table.columns, table.header)}
        return own | dict.fromkeys(source.alias_column_names)

    def _outputs(self, scope: Scope) -> dict[str, str | None]:
        """As `_of`, of what a query returns."""
        query = scope.expression
        if not isinstance(query, exp.Select):
            found = {name: own for _, source in _sources(scope) for name, own in self._of(source).items()}
            return found | dict.fromkeys(scope.outer_columns)
        found = {}
        for selected in query.expressions:
            if selected.is_star:
                for alias, source in _sources(scope):
                    if not isinstance(selected, exp.Column) or selected.table == alias:
                        found |= self._of(source)
            elif isinstance(selected, exp.Column):
                found[selected.name] = self.own(selected, scope)
            else:
                found[selected.alias] = None
        return found | dict.fromkeys(scope.outer_columns)


def _around(scope: Scope) -> Iterator[Scope]:
    """The queries whose sources a name in `scope` may mean, from the inside: not those around a CTE, of which it sees
    nothing, and no set operation around one of its sides."""
    yield scope
    while scope.parent is not None:
        visible = not scope.is_cte and not isinstance(scope.parent.expression, exp.SetOperation)
        scope = scope.parent
        if visible:
            yield scope


def _sources(scope: Scope) -> list[tuple[str, _Source]]:
    """What a query reads, by alias: its tables and sub-queries; of a set operation, the side that names the columns."""
    if isinstance(scope.expression, exp.SetOperation):
        return [("", scope.set_operation_scopes[0])]
    if not isinstance(scope.expression, exp.Select):
        return [("", inner) for inner in (*scope.derived_table_scopes, *scope.subquery_scopes)]
    return [(alias, scope.sources[alias]) for alias, _ in scope.references if alias in scope.sources]


def _aliases(scope: Scope) -> set[str]:
    query = scope.expression
    return {e.alias for e in query.expressions if isinstance(e, exp.Alias)} if isinstance(query, exp.Select) else set()


def _is_key(column: exp.Column, scope: Scope) -> bool:
    """Whether it alone is a key in the ORDER BY of its query, where a name is first one of the result."""
    order = column.parent.parent if isinstance(column.parent, exp.Ordered) else None
    return isinstance(order, exp.Order) and order.parent is scope.expression


def _folded(name: str) -> str:
    """A name without upper case, which DuckDB ignores in ASCII alone."""
    return normalize_identifiers(exp.to_identifier(name, quoted=True), dialect="duckdb").name


def _identifier(name: str) -> exp.Identifier:
    return exp.to_identifier(name, quoted=table_identifier(name) != name)
