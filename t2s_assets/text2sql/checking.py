"""Whether generated SQL is valid over a user's table, and the same SQL with that table's own names."""

from __future__ import annotations

from collections.abc import Sequence

from sqlglot import exp

from t2s_assets.text2sql.execution import RefusedSQL, check_sql
from t2s_assets.text2sql.query import AGGREGATES, SketchError, from_sql, parse_number, table_identifier
from t2s_assets.text2sql.schema import TABLE
from t2s_assets.text2sql.sql_normal import NormalFormError, normal_form
from t2s_assets.text2sql.tables.user_tables import UserTable


def checked(text: str, table: UserTable) -> tuple[str, str | None]:
    """(SQL over the user's table, None), or (SQL, what is wrong with it), for text written over `t`."""
    try:
        tree = check_sql(text, {TABLE: [c.name for c in table.columns]})
    except RefusedSQL as e:
        return text, str(e)
    problem = _problem(tree, text, table)
    return (_renamed(tree, table) if problem is None else text), problem


def checked_over(text: str, tables: Sequence[UserTable]) -> tuple[str, str | None]:
    """(SQL over the user's tables, None), or (SQL, what is wrong with it), for text written over their own names.

    Valid is what the executor's allow-list lets through and whose names all resolve in the schema.
    """
    schemas = [t.schema(t.path[-1]) for t in tables]
    try:
        tree = check_sql(text, {s.name: [c.name for c in s.columns] for s in schemas})
        normal_form(text, schemas)
    except (RefusedSQL, NormalFormError) as e:
        return text, str(e)
    header = {c.name.casefold(): h for t in tables for c, h in zip(t.columns, t.header) if c.name != h}
    aliases = {alias.alias.casefold() for alias in tree.find_all(exp.Alias)}
    tree = tree.copy()
    for node in list(tree.find_all(exp.Column)):
        if (name := header.get(node.name.casefold())) is not None and node.name.casefold() not in aliases:
            node.set("this", exp.to_identifier(name, quoted=True))
    return (tree.sql(dialect="duckdb") if header else text), None


def _problem(tree: exp.Expression, text: str, table: UserTable) -> str | None:
    """What the schema says against a query that may run: unknown columns, and types that DuckDB cannot compare."""
    known = {c.name.casefold() for c in table.columns}
    own = {a.alias.casefold() for a in tree.find_all(exp.Alias, exp.TableAlias) if a.alias}
    own |= {c.name.casefold() for a in tree.find_all(exp.TableAlias) for c in a.args.get("columns") or ()}
    for column in tree.find_all(exp.Column):
        if not isinstance(column.this, exp.Star) and column.name.casefold() not in known | own:
            return f"no column {column.name!r} in {table.name!r}; there are: {', '.join(c.name for c in table.columns)}"
    try:
        query = from_sql(text, table.schema(TABLE))
    except SketchError:
        return None  # more than the sketch can say is still SQL
    selected = table.columns[query.column]
    if AGGREGATES[query.aggregate] in ("SUM", "AVG") and selected.type == "text":
        return f"{AGGREGATES[query.aggregate]} needs numbers, and column {selected.name!r} holds text"
    for condition in query.conditions:
        column = table.columns[condition.column]
        if column.type == "real" and isinstance(condition.value, str) and parse_number(condition.value) is None:
            return f"column {column.name!r} holds numbers and is compared with the text {condition.value!r}"
    return None


def _renamed(tree: exp.Expression, table: UserTable) -> str:
    """The query's text with the user's names for `t` and for columns that the prompt showed in another form."""
    header = {c.name.casefold(): h for c, h in zip(table.columns, table.header)}
    tree = tree.copy()
    ctes = {cte.alias.casefold() for cte in tree.find_all(exp.CTE)}
    aliases = {alias.alias.casefold() for alias in tree.find_all(exp.Alias)}
    for node in list(tree.find_all(exp.Table, exp.Column)):
        if isinstance(node, exp.Table):
            if node.name.casefold() == TABLE and TABLE not in ctes:
                node.set("this", _identifier(table.path[-1]))
                if len(table.path) > 1:
                    node.set("db", _identifier(table.path[0]))
            continue
        if node.table.casefold() == TABLE and TABLE not in ctes:
            node.set("table", _identifier(table.path[-1]))
        name = header.get(node.name.casefold())
        if name is not None and name != node.name and node.name.casefold() not in aliases:
            node.set("this", exp.to_identifier(name, quoted=True))
    return tree.sql(dialect="duckdb")


def _identifier(name: str) -> exp.Identifier:
    return exp.to_identifier(name, quoted=table_identifier(name) != name)
