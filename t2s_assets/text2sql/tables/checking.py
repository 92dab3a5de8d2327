"""Whether generated SQL is valid over a user's tables, and the same SQL with their own names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlglot import exp
from sqlglot.errors import SqlglotError

from t2s_assets.text2sql.execution import RefusedSQL, check_sql
from t2s_assets.text2sql.query import AGGREGATES, SketchError, from_sql, names_given, parse_number
from t2s_assets.text2sql.schema import TABLE
from t2s_assets.text2sql.sql.normal_form import normal_form
from t2s_assets.text2sql.sql.resolving import NormalFormError
from t2s_assets.text2sql.tables.own_names import with_own_names
from t2s_assets.text2sql.tables.user_tables import UserTable
from t2s_assets.text2sql.tables.written_values import WRITTEN, spells


def checked(text: str, table: UserTable) -> tuple[str, str | None]:
    """(SQL over the user's table, None), or (SQL, what is wrong with it), for text written over `t`."""
    try:
        tree = check_sql(text, {TABLE: [c.name for c in table.columns]})
    except RefusedSQL as e:
        return text, str(e)
    problem = _problem(tree, text, table)
    return (text, problem) if problem is not None else _shown(tree, text, {TABLE: table})


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
    if all(len(t.path) == 1 and t.header == tuple(c.name for c in t.columns) for t in tables):
        return text, None
    return _shown(tree, text, {t.path[-1]: t for t in tables})


def _shown(tree: exp.Expression, text: str, tables: Mapping[str, UserTable]) -> tuple[str, str | None]:
    """(The checked query with the user's names, None), or (`text`, why what it names cannot be told)."""
    try:
        return with_own_names(tree, tables), None
    except SqlglotError as e:
        return text, f"what it names cannot be told: {e}"


def _problem(tree: exp.Expression, text: str, table: UserTable) -> str | None:
    """What the schema says against a query that may run: unknown columns, and types that DuckDB cannot compare."""
    known = {c.name.casefold() for c in table.columns}
    own = names_given(tree, tables=True)
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
        # Of a schema alone, the database that has the rows says what it takes for a date: 'March 1, 2024' in Postgres.
        if column.sql_type in WRITTEN and table.has_rows and not spells(str(condition.value), column.sql_type):
            kind, form = WRITTEN[column.sql_type]
            return (
                f"column {column.name!r} holds {kind} and is compared with the text {condition.value!r}, which is "
                f"none; write {form} in the question"
            )
    return None
