"""What SQL of another dialect means where sqlglot writes it as DuckDB SQL of another meaning, or none."""

from __future__ import annotations

from collections.abc import Sequence

import sqlglot
from sqlglot import exp

from t2s_assets.text2sql.dialects.dates import write_dates
from t2s_assets.text2sql.dialects.sqlite_columns import Holds, no_rows
from t2s_assets.text2sql.dialects.sqlite_functions import write_functions, write_likes, write_points_in_time
from t2s_assets.text2sql.dialects.sqlite_groups import write_bare_columns
from t2s_assets.text2sql.dialects.sqlite_values import cast_to, write_cast_of_text, write_values
from t2s_assets.text2sql.dialects.text import write_text
from t2s_assets.text2sql.dialects.value_types import DialectError, Kind, is_zero, operand_kinds, write_around
from t2s_assets.text2sql.query import names_given
from t2s_assets.text2sql.schema import TableSchema
from t2s_assets.text2sql.sql.names import folded
from t2s_assets.text2sql.sql.sqlglot_errors import sqlglot_errors

_TRUNCATING = frozenset({"sqlite", "tsql", "fabric", "hive", "spark", "spark2", "databricks", "clickhouse"})
"""Where a number cast to a whole number loses its decimals; elsewhere, and in DuckDB, it is rounded."""

_PLAIN_DECIMALS = {
    **dict.fromkeys(("mysql", "singlestore", "hive", "spark", "spark2", "databricks"), (10, 0)),
    **dict.fromkeys(("tsql", "fabric", "redshift"), (18, 0)),
    **dict.fromkeys(("presto", "trino", "athena"), (38, 0)),
    "bigquery": (38, 9),
    "teradata": (5, 0),
}
"""Width and scale of DECIMAL without them, where it has some; in other dialects it takes any number."""

_SUNDAY_IS_ONE = frozenset(
    {
        "mysql",
        "singlestore",
        "doris",
        "starrocks",
        "hive",
        "spark",
        "spark2",
        "databricks",
        "bigquery",
        "tsql",
        "fabric",
    }
)
"""Where the days of the week are numbered from 1 for Sunday, not from 0 as in DuckDB."""


def as_meant(tree: exp.Query, dialect: str, schemas: Sequence[TableSchema], holds: Holds = no_rows) -> exp.Query:
    """The tree, of another dialect than DuckDB's, with what it means there and sqlglot alone would lose.

    What SQL of SQLite means hangs on the rows too; `holds` asks them.

    Raises DialectError where that cannot be told, and what sqlglot raises.
    """
    tree = tree.copy()
    _write_applies(tree)
    _write_converts(tree)
    _write_tables(tree, dialect)
    if dialect == "sqlite":
        _write_strings(tree, schemas)
        write_functions(tree)
        write_points_in_time(tree, schemas, holds)
        write_values(tree, schemas, holds)
        write_likes(tree)
    _write_numbers(tree, dialect, schemas, holds)
    _write_weekdays(tree, dialect)
    if dialect != "sqlite":
        write_dates(tree, dialect)
        write_text(tree, dialect, schemas)
    if dialect == "sqlite":
        write_bare_columns(tree, schemas, holds)
    return tree


def used(tree: exp.Expression, schemas: Sequence[TableSchema]) -> list[TableSchema]:
    """The schemas of the tables that a query reads."""
    named = {folded(t.name) for t in tree.find_all(exp.Table)}
    return [s for s in schemas if folded(s.name) in named]


def _write_strings(tree: exp.Query, schemas: Sequence[TableSchema]) -> None:
    """In SQLite, a name in double quotes that is no column is a string.

    https://sqlite.org/quirks.html#double_quoted_string_literals_are_accepted
    """
    columns = {folded(c.name) for s in used(tree, schemas) for c in s.columns}
    given = names_given(tree)
    for column in list(tree.find_all(exp.Column)):
        name = column.this
        if column.table or not isinstance(name, exp.Identifier) or not name.args.get("quoted"):
            continue
        if folded(name.name) not in columns and name.name.casefold() not in given:
            column.replace(exp.Literal.string(name.name))


_DEFAULT_SCHEMAS = {
    "sqlite": "main",
    **dict.fromkeys(("postgres", "redshift", "materialize", "risingwave", "snowflake"), "public"),
    **dict.fromkeys(("tsql", "fabric"), "dbo"),
}
"""The schema in which a dialect's tables are where nothing else is said. A copy's are in none."""


def _write_tables(tree: exp.Query, dialect: str) -> None:
    """Names in the default schema without it. A CTE of the same name would stand in for such a table."""
    default, own = _DEFAULT_SCHEMAS.get(dialect), {folded(cte.alias) for cte in tree.find_all(exp.CTE)}
    for node in tree.find_all(exp.Table, exp.Column):
        table = node.name if isinstance(node, exp.Table) else node.table
        if not node.text("catalog") and folded(node.text("db")) == default and folded(table) not in own:
            node.set("db", None)


def _write_applies(tree: exp.Query) -> None:
    """OUTER APPLY keeps the rows for which its query finds none."""
    for join in tree.find_all(exp.Join):
        if isinstance(join.this, exp.Lateral) and join.this.args.get("cross_apply") is False:
            join.this.set("cross_apply", None)
            join.set("side", "LEFT")
            join.set("on", exp.true())


def _write_converts(tree: exp.Query) -> None:
    """CONVERT without a style is a cast."""
    for node in list(tree.find_all(exp.Convert)):
        if node.args.get("style") is None:
            cast = exp.TryCast if node.args.get("safe") else exp.Cast
            node.replace(cast(this=node.expression, to=node.this))


# Numbers ---------------------------------------------------------------------------------------------------


def _write_numbers(tree: exp.Query, dialect: str, schemas: Sequence[TableSchema], holds: Holds) -> None:
    nodes = list(tree.find_all(exp.Div, exp.IntDiv, exp.Mod, exp.Cast, exp.Avg))
    rules = sqlglot.Dialect.get_or_raise(dialect)
    asked = [node for node in nodes if _needs_kinds(node, dialect, rules)]
    kinds: dict[int, tuple[Kind, ...]] = {}
    if asked:
        with sqlglot_errors(DialectError, "its numbers cannot be told to be whole or not: "):
            kinds = {id(n): k for n, k in zip(asked, operand_kinds(tree, asked, dialect, schemas))}
    # The text of a division is told as it stood, so inner ones come last.
    for node in nodes:
        found = kinds.get(id(node), ())
        if isinstance(node, (exp.Div, exp.IntDiv, exp.Mod)):
            _write_division(node, found, dialect, safe=bool(rules.SAFE_DIVISION))
        elif isinstance(node, exp.Cast) and dialect == "sqlite" and found == ("text",):
            write_cast_of_text(node, schemas, holds)
        elif isinstance(node, exp.Cast):
            _write_cast(node, found, dialect)
        elif dialect in _WHOLE_MEANS and found == ("whole",):
            write_around(_with_window(node), _truncated)


_WHOLE_MEANS = frozenset({"tsql", "fabric"})
"""Where AVG of whole numbers is a whole number."""


def _needs_kinds(node: exp.Expression, dialect: str, rules: sqlglot.Dialect) -> bool:
    if isinstance(node, exp.Cast):
        to_whole = node.to.is_type(*exp.DataType.INTEGER_TYPES) and dialect in _TRUNCATING
        return to_whole or (dialect == "sqlite" and node.to.is_type(*exp.DataType.NUMERIC_TYPES))
    if isinstance(node, exp.Avg):
        return dialect in _WHOLE_MEANS
    if isinstance(node, exp.Mod):
        return dialect == "sqlite"  # its remainder is that of whole numbers
    return isinstance(node, exp.IntDiv) or (isinstance(node, exp.Div) and bool(rules.TYPED_DIVISION))


def _write_division(node: exp.Binary, kinds: tuple[Kind, ...], dialect: str, *, safe: bool) -> None:
    """A division or remainder, of whole numbers where it is in its dialect, and NULL where 0 divides to NULL there."""
    whole = isinstance(node, exp.Div) and bool(kinds) and _is_whole_division(node, kinds, dialect)
    if isinstance(node, exp.Mod) and dialect == "sqlite":
        for name, kind in zip(("this", "expression"), kinds):
            if kind in ("real", "unknown"):
                node.set(name, _truncated(node.args[name]))
    if safe and not _is_nonzero(node.right):
        divisor = node.right.unnest() if isinstance(node.right, exp.Paren) else node.right
        node.set("expression", exp.Nullif(this=divisor, expression=exp.Literal.number(0)))
    sides = {"this": node.left, "expression": node.right}
    if isinstance(node, exp.IntDiv) and not set(kinds) <= {"whole"}:
        # // of DuckDB leaves the decimals of a DOUBLE where they are.
        node.replace(_truncated(exp.Div(**sides)))
    elif isinstance(node, exp.Div):
        node.replace(exp.IntDiv(**sides) if whole else exp.Div(**sides))
    elif isinstance(node, exp.IntDiv) and _is_divisor(node):
        node.replace(exp.Paren(this=node.copy()))  # a function DIV, which sqlglot writes as an operator


def _is_divisor(node: exp.Expression) -> bool:
    """Whether a node is multiplied or divided by, without parentheses around it."""
    return isinstance(node.parent, (exp.Mul, exp.Div, exp.IntDiv, exp.Mod)) and node.parent.expression is node


def _is_whole_division(node: exp.Div, kinds: tuple[Kind, ...], dialect: str) -> bool:
    if "real" in kinds or "temporal" in kinds:
        return False
    if set(kinds) <= ({"whole", "boolean"} if dialect == "sqlite" else {"whole"}):
        return True
    unclear = node.left if kinds[0] != "whole" else node.right
    raise DialectError(
        f"whole numbers divide to a whole number in {dialect}, "
        f"and whether {unclear.sql(dialect)} is one in {node.sql(dialect)} cannot be told"
    )


def _is_nonzero(node: exp.Expression) -> bool:
    node = node.unnest()
    node = node.this if isinstance(node, exp.Neg) else node
    return isinstance(node, exp.Literal) and not node.is_string and not is_zero(node)


def _write_cast(node: exp.Cast, kinds: tuple[Kind, ...], dialect: str) -> None:
    if node.to.is_type(exp.DataType.Type.DECIMAL):
        if dialect == "sqlite" and kinds[0] in ("whole", "real"):
            node.replace(_enclosed(node.this))  # in SQLite a column of decimals takes any number as it is
        elif dialect == "sqlite" or not node.to.expressions:
            width = _PLAIN_DECIMALS.get(dialect)
            node.set("to", exp.DataType.build(f"DECIMAL({width[0]}, {width[1]})" if width else "DOUBLE"))
    elif node.to.is_type(*_LONG_FLOATS.get(dialect, ())):
        node.set("to", exp.DataType.build("DOUBLE"))  # REAL and FLOAT of DuckDB have 7 digits
    elif kinds and kinds[0] == "real":
        _truncate(node)
    elif kinds and kinds[0] in ("text", "unknown") and dialect not in _WHOLE_TEXT:
        if not isinstance(node.this, (exp.TimeToStr, exp.Substring)):  # digits, almost always
            node.set("this", type(node)(this=node.this, to=exp.DataType.build("DOUBLE")))
            _truncate(node)


_LONG_FLOATS = {
    "sqlite": tuple(exp.DataType.REAL_TYPES),
    **dict.fromkeys(("tsql", "fabric", "oracle"), (exp.DataType.Type.FLOAT,)),
}
"""Types that have 15 digits in their dialect."""

_WHOLE_TEXT = frozenset({"tsql", "fabric"})
"""Where text is cast to a whole number only if it is one."""


def _truncate(node: exp.Cast) -> None:
    node.set("this", exp.Trunc(this=node.this))
    node.set("to", exp.DataType.build("BIGINT"))


def _truncated(node: exp.Expression) -> exp.Cast:
    return cast_to(exp.Trunc(this=node), "BIGINT")


def _with_window(node: exp.Expression) -> exp.Expression:
    """An aggregate with its OVER or FILTER."""
    while isinstance(node.parent, (exp.Window, exp.Filter)) and node.parent.this is node:
        node = node.parent
    return node


def _enclosed(node: exp.Expression) -> exp.Expression:
    return exp.Paren(this=node) if isinstance(node, (exp.Binary, exp.Unary)) else node


# Days of the week ------------------------------------------------------------------------------------------


def _write_weekdays(tree: exp.Query, dialect: str) -> None:
    for node in list(tree.find_all(exp.DayOfWeek, exp.Extract, exp.Anonymous)):
        if isinstance(node, exp.Anonymous):
            if node.name.lower() == "weekday" and len(node.expressions) == 1:  # from 0 for Monday
                day = exp.TsOrDsToDate(this=node.expressions[0])
                node.replace(_shifted(exp.DayOfWeekIso(this=day), exp.Sub))
        elif dialect in _SUNDAY_IS_ONE and (
            isinstance(node, exp.DayOfWeek) or node.name.upper() in ("DAYOFWEEK", "DOW", "WEEKDAY", "DW")
        ):
            write_around(node, lambda number: _shifted(number, exp.Add))


def _shifted(node: exp.Expression, operator: type[exp.Binary]) -> exp.Paren:
    return exp.Paren(this=operator(this=node, expression=exp.Literal.number(1)))
