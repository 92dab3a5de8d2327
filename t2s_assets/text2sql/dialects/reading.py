"""Gold SQL as people write it: read in its dialect, written as DuckDB SQL in one style, and what kind it is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import sqlglot
from sqlglot import exp
from sqlglot.errors import ErrorLevel

from t2s_assets.text2sql.dialects.meaning import DialectError, as_meant, used
from t2s_assets.text2sql.dialects.sqlite_columns import Holds, no_rows
from t2s_assets.text2sql.errors import T2SError
from t2s_assets.text2sql.execution import RefusedSQL, check_sql
from t2s_assets.text2sql.execution.functions import CLOCK
from t2s_assets.text2sql.execution.guard import visible_ctes
from t2s_assets.text2sql.query import names_given, table_identifier
from t2s_assets.text2sql.schema import TableSchema
from t2s_assets.text2sql.sql.names import folded
from t2s_assets.text2sql.sql.parsing import statements
from t2s_assets.text2sql.sql.sqlglot_errors import sqlglot_errors

CATEGORIES = (
    "simple",
    "filter",
    "aggregation",
    "join",
    "order",
    "group",
    "nested",
    "window",
    "set operation",
)
"""From plain to hard; a query belongs to the last one that fits."""

AGGREGATE_NODES = {exp.Max: "MAX", exp.Min: "MIN", exp.Count: "COUNT", exp.Sum: "SUM", exp.Avg: "AVG"}


class SqlTextError(T2SError):
    """Gold SQL cannot be used: it does not parse, does not transpile, or the executor's allow-list refuses it."""


def read_sql(sql: str, dialect: str, schemas: Sequence[TableSchema], holds: Holds = no_rows) -> str:
    """Gold `sql` of a dialect as DuckDB SQL in the style that models learn, over the tables of its database.

    One line, keywords in capitals, names in the schema's spelling, columns in double quotes, no comments. What SQL of
    SQLite means may hang on the rows, which `holds` asks; without it, such SQL is not read.

    Raises:
        SqlTextError: it is not one SELECT, does not parse, has no DuckDB counterpart, or names unknown tables.
    """
    tree = _parsed(sql, dialect)
    for options in tree.find_all(exp.LimitOptions):
        # TOP rounds up what a percentage leaves, LIMIT of DuckDB down.
        is_limit = dialect == "duckdb" and isinstance(options.parent, exp.Limit)
        if options.args.get("with_ties") or (options.args.get("percent") and not is_limit):
            raise SqlTextError("no DuckDB counterpart: FETCH or TOP of a percentage or WITH TIES")
    if dialect != "duckdb":
        tree = _translated(tree, dialect, schemas, holds)
    with sqlglot_errors(SqlTextError):
        written = styled(tree, schemas)
    try:
        check_sql(written, {s.name: [c.name for c in s.columns] for s in schemas})
    except RefusedSQL as e:
        raise SqlTextError(str(e)) from e
    return written


def _parsed(sql: str, dialect: str) -> exp.Query:
    with sqlglot_errors(SqlTextError, f"does not parse as {dialect}: "):
        trees = statements(sqlglot.parse(sql, read=dialect))
    if len(trees) != 1 or not isinstance(trees[0], exp.Query):
        kinds = ", ".join(tree.key.upper() for tree in trees) or "nothing"
        raise SqlTextError(f"one SELECT is wanted; got {kinds}")
    return trees[0]


def _translated(tree: exp.Query, dialect: str, schemas: Sequence[TableSchema], holds: Holds) -> exp.Query:
    with sqlglot_errors(SqlTextError, "no DuckDB counterpart: "):
        try:
            text = as_meant(tree, dialect, schemas, holds).sql(dialect="duckdb", unsupported_level=ErrorLevel.RAISE)
        except DialectError as e:
            raise SqlTextError(str(e)) from e
    try:
        return _parsed(text, "duckdb")
    except SqlTextError as e:
        raise SqlTextError(f"no DuckDB counterpart: sqlglot cannot translate it; its own {e}") from e


def styled(tree: exp.Query, schemas: Sequence[TableSchema]) -> str:
    """A DuckDB tree as text in the style of completions: the one place that says what it is."""
    tables = {folded(s.name): s.name for s in schemas}
    tree = tree.copy()
    columns = _Columns(tree, schemas)
    for node in tree.find_all(exp.Column, exp.Table):
        name = node.this
        if not isinstance(name, exp.Identifier):
            continue
        if isinstance(node, exp.Column):
            real = columns.spelt(node)
            if isinstance(node.args.get("table"), exp.Identifier):
                _spell(node.args["table"], tables)
        else:
            real = None if _is_cte(node) else tables.get(folded(name.name))
        if real is not None:
            quoted = isinstance(node, exp.Column) or table_identifier(real) != real
            node.set("this", exp.to_identifier(real, quoted=quoted))
    for window in tree.find_all(exp.WindowSpec):  # sqlglot keeps the case of `rows between ...`
        for key, value in window.args.items():
            if isinstance(value, str):
                window.set(key, value.upper())
    return tree.sql(dialect="duckdb", comments=False)


class _Columns:
    """The columns of the tables that a query reads, in their spelling."""

    def __init__(self, tree: exp.Query, schemas: Sequence[TableSchema]) -> None:
        read = used(tree, schemas)
        self._all = _Names(c.name for s in read for c in s.columns)
        by_name = {folded(s.name): _Names(c.name for c in s.columns) for s in read}
        self._of: dict[str, list[_Names]] = {}
        for table in tree.find_all(exp.Table):
            if folded(table.name) in by_name and not _is_cte(table):
                self._of.setdefault(folded(table.alias_or_name), []).append(by_name[folded(table.name)])

    def spelt(self, column: exp.Column) -> str | None:
        """The column's name as its table spells it, or as some table does; None where none has it."""
        for names in (*self._of.get(folded(column.table), ()), self._all):
            if (found := names.get(column.name)) is not None:
                return found
        return None


class _Names:
    """Names found by whatever case; one that is spelt as asked comes before others."""

    def __init__(self, names: Iterable[str]) -> None:
        self._spelt = frozenset(given := list(names))
        self._by_fold = {folded(name): name for name in given}

    def get(self, name: str) -> str | None:
        return name if name in self._spelt else self._by_fold.get(folded(name))


def _spell(qualifier: exp.Identifier, tables: dict[str, str]) -> None:
    """A column's table in the schema's spelling; an alias of another name stays as it is."""
    real = tables.get(folded(qualifier.name))
    if real is not None:
        qualifier.set("this", real)
        qualifier.set("quoted", table_identifier(real) != real)


@dataclass(frozen=True)
class Shape:
    """What kind of query SQL text is.

    category: the last of CATEGORIES that fits: `nested` has a sub-query or CTE, `group` GROUP BY or HAVING, `order`
        ORDER BY or LIMIT, `join` two tables or more.
    aggregate: of the outermost SELECT: none, MAX, MIN, COUNT, SUM, AVG, other, or several.
    conditions: comparisons and other tests in all WHERE and HAVING clauses.
    ordered: the whole result has an order (an outermost ORDER BY).
    tables: names of the tables that it reads, lower-cased, sorted.
    """

    category: str
    aggregate: str
    conditions: int
    ordered: bool
    tables: tuple[str, ...]


def shape(sql: str) -> Shape:
    """The shape of DuckDB SQL. Raises SqlTextError where it does not parse."""
    tree = _parsed(sql, "duckdb")
    with sqlglot_errors(SqlTextError):
        return _shape(tree)


def _shape(tree: exp.Query) -> Shape:
    tables = {t.name.casefold() for t in tree.find_all(exp.Table) if not _is_cte(t)}
    clauses = list(tree.find_all(exp.Where, exp.Having))
    fits = {
        "filter": any(isinstance(c, exp.Where) for c in clauses),
        "aggregation": _aggregate(tree) != "none",
        "join": tree.find(exp.Join) is not None,
        "order": any(s.args.get(k) for s in tree.find_all(exp.Query) for k in ("order", "limit")),
        "group": tree.find(exp.Group, exp.Having) is not None,
        "nested": len(list(tree.find_all(exp.Select))) > 1,
        "window": tree.find(exp.Window) is not None,
        "set operation": tree.find(exp.SetOperation) is not None,
    }
    category = next((name for name in reversed(CATEGORIES) if fits.get(name)), "simple")
    conditions = sum(1 for c in clauses for test in _tests(c.this))
    return Shape(category, _aggregate(tree), conditions, is_ordered(tree), tuple(sorted(tables)))


def _is_cte(table: exp.Table) -> bool:
    """Whether a name where a table stands is that of a CTE."""
    return folded(table.name) in visible_ctes(table)


_CLOCK_NODES = (exp.CurrentDate, exp.CurrentTime, exp.CurrentTimestamp, exp.Localtime, exp.Localtimestamp)


def reads_the_clock(sql: str, schemas: Sequence[TableSchema]) -> bool:
    """Whether the result of DuckDB SQL depends on when it runs. Raises SqlTextError where it does not parse."""
    tree = _parsed(sql, "duckdb")
    # A column or an alias of such a name comes before the function.
    names = {folded(c.name) for s in used(tree, schemas) for c in s.columns}
    names |= names_given(tree)
    for node in tree.walk():
        if isinstance(node, _CLOCK_NODES) or _is_cast_of_now(node):
            return True
        if isinstance(node, exp.Anonymous) and node.name.casefold() in CLOCK:
            # Of two points in time, age tells the distance.
            if node.name.casefold() != "age" or len(node.expressions) < 2:
                return True
        if isinstance(node, exp.Column) and not node.table and node.name.casefold() in CLOCK - names:
            return True
    return False


def _is_cast_of_now(node: exp.Expression) -> bool:
    """Whether a node is a date or time that is spelt by a word, as in 'now'::timestamp."""
    if not isinstance(node, exp.Cast) or not node.to.is_type(*exp.DataType.TEMPORAL_TYPES):
        return False
    return node.this.is_string and node.this.name.strip().lower() in ("now", "today", "tomorrow", "yesterday")


def is_ordered(tree: exp.Expression) -> bool:
    """Whether an outermost ORDER BY gives the result an order."""
    while True:
        if tree.args.get("order"):
            return True
        if not isinstance(tree, exp.Subquery):
            return False
        tree = tree.this


def _aggregate(tree: exp.Expression) -> str:
    while isinstance(tree, exp.Subquery):
        tree = tree.this
    found = set()
    for selected in tree.expressions if isinstance(tree, exp.Select) else ():
        for node in selected.find_all(exp.AggFunc):
            if not isinstance(node.parent, exp.Window) and node.parent_select is tree:
                found.add(AGGREGATE_NODES.get(type(node), "other"))
    return "none" if not found else found.pop() if len(found) == 1 else "several"


def _tests(node: exp.Expression) -> list[exp.Expression]:
    """The single tests under AND, OR and NOT; those inside a sub-query belong to its own clauses."""
    found, stack = [], [node]
    while stack:
        node = stack.pop().unnest()
        if isinstance(node, exp.Connector):
            stack += [node.right, node.left]
        elif isinstance(node, exp.Not):
            stack.append(node.this)
        else:
            found.append(node)
    return found
