"""What kind of values a query in another dialect divides and casts: sqlglot's types, and rules where a dialect differs.

A column of a query has one type in most dialects. In SQLite a value has a type and a column none:
CASE WHEN a THEN 1 ELSE 0.5 END is a whole number in some rows. Such a value is of no kind here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import sqlglot
from sqlglot import exp
from sqlglot.dialects.postgres import Postgres
from sqlglot.dialects.presto import Presto
from sqlglot.dialects.sqlite import SQLite
from sqlglot.dialects.tsql import TSQL
from sqlglot.errors import OptimizeError
from sqlglot.optimizer.annotate_types import TypeAnnotator, annotate_types
from sqlglot.optimizer.qualify import qualify

from t2s_assets.text2sql.errors import T2SError
from t2s_assets.text2sql.schema import TableSchema
from t2s_assets.text2sql.sql.resolving import mapping

Kind = Literal["whole", "real", "text", "boolean", "temporal", "unknown"]


class DialectError(T2SError):
    """What the SQL means in its dialect cannot be told, or not be said in DuckDB SQL."""


_Type = exp.DataType.Type
_Annotate = Callable[[TypeAnnotator, Any], object]
_TAG = "t2s_number"
_REAL_OR_ZERO = _Type.DECFLOAT
"""Of a value of SQLite that is real, or a whole 0. A type of its own, it goes with a value from query to query; all
that sqlglot makes of it and another number is of it too."""
_COLUMNS = "t2s_columns"
"""Of a UNION and the like: a node of each column's type."""


def operand_kinds(
    tree: exp.Query, nodes: Sequence[exp.Expression], dialect: str, schemas: Sequence[TableSchema]
) -> list[tuple[Kind, ...]]:
    """The kinds of the operands of each of the nodes, which are of the tree; `operands` says which those are.

    Raises what sqlglot raises where a name is of no table or of several.
    """
    for number, node in enumerate(nodes):
        node.meta[_TAG] = number
    typed = _typed(tree.copy(), dialect, schemas)
    for node in nodes:
        del node.meta[_TAG]
    found: dict[int, set[tuple[Kind, ...]]] = {}
    for node in typed.walk():
        if node.meta_get(_TAG) is not None:
            found.setdefault(node.meta[_TAG], set()).add(tuple(_kind(operand) for operand in operands(node)))
    # qualify leaves out what stands twice: a selected expression in ORDER BY becomes its name.
    by_text = {nodes[number].sql(): kinds for number, kinds in found.items()}
    each = [found.get(number) or by_text.get(node.sql(), set()) for number, node in enumerate(nodes)]
    unknown: Kind = "unknown"
    return [
        kinds.pop() if len(kinds) == 1 else (unknown,) * max(2, len(operands(node)))
        for node, kinds in zip(nodes, map(set, each))
    ]


def operands(node: exp.Expression) -> list[exp.Expression]:
    """What a node makes its value of: both sides of an operator, what is tested and what with, the columns of a UNION
    by pairs, and of a choice its values and then what it tests them by."""
    if isinstance(node, exp.SetOperation):
        pairs = zip(*(_columns(side.unnest()) for side in (node.left, node.right)))
        return [column for pair in pairs for column in pair]
    if isinstance(node, exp.Case):
        tested = [node.this, *(branch.this for branch in node.args["ifs"])] if node.this is not None else []
        return [*choices(node), *tested]
    if isinstance(node, (exp.If, exp.Coalesce, exp.Greatest, exp.Least)):
        return choices(node)
    names = ("this", "low", "high", "expression", "substr", "query")
    if isinstance(node, (exp.Substring, exp.Replace)):
        names = ("this",)
    if isinstance(node, exp.Convert):  # which has its type first
        names = ("expression",)
    found = [node.args[name] for name in names if isinstance(node.args.get(name), exp.Expression)]
    if isinstance(node, exp.In):
        found += node.expressions
    return [v.expressions[0] if isinstance(v, exp.Distinct) and len(v.expressions) == 1 else v for v in found]


def _typed(tree: exp.Query, dialect: str, schemas: Sequence[TableSchema]) -> exp.Query:
    # SUM of INTEGER is a whole number in PostgreSQL, of BIGINT it is not. The tables do not say which a column was;
    # INTEGER is what most are.
    whole = "INTEGER" if is_of(dialect, Postgres) else "BIGINT"
    tables = mapping(tuple(schemas), whole)
    qualified = qualify(tree, schema=tables, dialect="duckdb", quote_identifiers=False, validate_qualify_columns=False)
    _join_laterals(qualified)
    typed = annotate_types(qualified, schema=tables, expression_metadata=_rules(dialect))
    if is_of(dialect, SQLite):
        _refuse_mixed(typed)
    return typed


def _join_laterals(qualified: exp.Query) -> None:
    """Make subqueries of LATERAL and APPLY plain ones, as sqlglot types the columns of those only."""
    for lateral in list(qualified.find_all(exp.Lateral)):
        subquery, alias = lateral.this, lateral.args.get("alias")
        if isinstance(subquery, exp.Subquery) and isinstance(subquery.this, exp.Query) and alias:
            for value, name in zip(subquery.this.selects, alias.columns):
                value.replace(exp.alias_(value.unalias(), name))
            lateral.replace(exp.Subquery(this=subquery.this, alias=exp.TableAlias(this=alias.this)))


def _refuse_mixed(typed: exp.Query) -> None:
    """Columns whose type is that of their first rows: inside a recursive query, and of VALUES."""
    for operation in typed.find_all(exp.SetOperation):
        cte = operation.parent
        if isinstance(cte, exp.CTE) and isinstance(cte.parent, exp.With) and cte.parent.recursive:
            columns = zip(operation.left.selects, operation.right.selects)
            if any(_is_mixed([side.unalias() for side in both]) for both in columns):
                raise OptimizeError(f"a column of a {operation.key.upper()} has whole numbers and others")
    for values in typed.find_all(exp.Values):
        if any(_is_mixed(column) for column in zip(*(row.expressions for row in values.expressions))):
            raise OptimizeError("a column of VALUES has whole numbers and others")


def is_of(dialect: str, *families: type[sqlglot.Dialect]) -> bool:
    """Whether a dialect is one of these, or one that is made of them."""
    return isinstance(sqlglot.Dialect.get_or_raise(dialect), families)


def _kind(node: exp.Expression) -> Kind:
    if isinstance(node, exp.Subquery) and (columns := _columns(node.unnest())):
        return _kind(columns[0])
    found = node.type or exp.DataType.build("UNKNOWN")
    if found.is_type(*exp.DataType.INTEGER_TYPES):
        return "whole"
    if found.is_type(*exp.DataType.REAL_TYPES):
        return "real"
    if found.is_type(*exp.DataType.TEXT_TYPES):
        return "text"
    if found.is_type(_Type.BOOLEAN):
        return "boolean"
    if found.is_type(_Type.INTERVAL, *exp.DataType.TEMPORAL_TYPES):
        return "temporal"
    return "unknown"


_WHOLE = (exp.Count, exp.DateDiff, exp.TsOrDsDiff, exp.RegrCount)
_REAL = (
    exp.Median,
    exp.Atan2,
    exp.Corr,
    exp.RegrAvgx,
    exp.RegrAvgy,
    exp.RegrIntercept,
    exp.RegrR2,
    exp.RegrSlope,
    exp.RegrSxx,
    exp.RegrSxy,
    exp.RegrSyy,
)


def _rules(dialect: str) -> dict[type[exp.Expr], dict[str, Any]]:
    """sqlglot's rules for a dialect with those in which it errs."""
    found = dict(sqlglot.Dialect.get_or_raise(dialect).EXPRESSION_METADATA)
    rules: dict[type[exp.Expr], _Annotate] = {
        exp.Add: _arithmetic,
        exp.Sub: _arithmetic,
        exp.Mul: _arithmetic,
        exp.Div: _division,
        exp.Nullif: _null_if,
        exp.Anonymous: _call,
        **dict.fromkeys(_WHOLE, lambda annotator, node: _set(annotator, node, _Type.BIGINT)),
        **dict.fromkeys(_REAL, lambda annotator, node: _set(annotator, node, _Type.DOUBLE)),
        exp.TimestampTrunc: lambda annotator, node: _set(annotator, node, _Type.TIMESTAMP),
        **dict.fromkeys((exp.Round, exp.Trunc, exp.Floor, exp.Ceil, exp.Pow), _real_of_real),
    }
    if is_of(dialect, Postgres):
        real = (exp.Round, exp.Trunc, exp.Floor, exp.Ceil, exp.Pow, exp.Extract)
        rules |= dict.fromkeys(real, lambda annotator, node: _set(annotator, node, _Type.DOUBLE))
        rules |= {exp.Sum: _sum_of_postgres}
    if is_of(dialect, TSQL, Presto):
        rules |= {exp.Round: lambda annotator, node: annotator._annotate_by_args(node, "this")}
    if is_of(dialect, Presto):
        rules |= {exp.TimeToUnix: lambda annotator, node: _set(annotator, node, _Type.DOUBLE)}
    if is_of(dialect, TSQL):
        rules |= {exp.Avg: lambda annotator, node: annotator._annotate_by_args(node, "this")}
        rules |= {exp.Convert: lambda annotator, node: _set(annotator, node, node.this), exp.Add: _sum_of_sql_server}
    if is_of(dialect, SQLite):
        rules |= dict.fromkeys((exp.Round, exp.Pow), lambda annotator, node: _set(annotator, node, _Type.DOUBLE))
        rules |= dict.fromkeys((exp.Case, exp.If, exp.Coalesce, exp.Greatest, exp.Least, exp.Lag, exp.Lead), _choice)
        rules |= {exp.Neg: _number_of_sqlite, exp.Abs: _number_of_sqlite}
        rules |= {exp.Sum: _sum_of_sqlite, exp.Cast: _cast_of_sqlite}
        rules |= {exp.Replace: lambda annotator, node: _set(annotator, node, _Type.VARCHAR)}
        rules |= {exp.Collate: lambda annotator, node: _set(annotator, node, node.this.type)}
        rules |= dict.fromkeys((exp.Union, exp.Intersect, exp.Except), _set_operation)
    return found | {node: {"annotator": rule} for node, rule in rules.items()}


def _set(annotator: TypeAnnotator, node: exp.Expression, kind: exp.DataType | _Type | None) -> None:
    annotator._set_type(node, kind)  # sqlglot's own rules for dialects call it


def _arithmetic(annotator: TypeAnnotator, node: exp.Binary) -> None:
    kinds = {_kind(node.left), _kind(node.right)}
    if isinstance(node, exp.Sub) and node.left.is_type(_Type.DATE) and node.right.is_type(_Type.DATE):
        _set(annotator, node, _Type.BIGINT)
    elif "temporal" in kinds:
        annotator._annotate_binary(node)
    elif "real" in kinds:
        _set(annotator, node, _of_real_and_other(node))
    elif kinds <= {"whole", "boolean"}:
        _set(annotator, node, _Type.BIGINT)
    else:  # the number in a text is known when the query runs
        _set(annotator, node, _Type.UNKNOWN)


def _sum_of_sql_server(annotator: TypeAnnotator, node: exp.Add) -> None:
    """`+` joins text too."""
    if _kind(node.left) == _kind(node.right) == "text":
        _set(annotator, node, _Type.VARCHAR)
    else:
        _arithmetic(annotator, node)


def _of_real_and_other(node: exp.Binary) -> _Type:
    sides = (node.left, node.right)
    if not any(_may_be_zero(side) for side in sides) or any(_is_real(side) for side in sides):
        return _Type.DOUBLE
    if isinstance(node, exp.Div) and not _may_be_zero(node.left):
        return _Type.DOUBLE  # a whole 0 divides to NULL
    if all(_may_be_zero(side) for side in sides):
        return _REAL_OR_ZERO
    is_product = isinstance(node, (exp.Mul, exp.Div)) and {"whole", "boolean"} & {_kind(side) for side in sides}
    return _REAL_OR_ZERO if is_product else _Type.UNKNOWN


def _may_be_zero(node: exp.Expression) -> bool:
    return bool(node.is_type(_REAL_OR_ZERO))


def _is_real(node: exp.Expression) -> bool:
    return _kind(node) == "real" and not _may_be_zero(node)


def _division(annotator: TypeAnnotator, node: exp.Div) -> None:
    _arithmetic(annotator, node)
    if not node.args.get("typed") and node.is_type(_Type.BIGINT):
        _set(annotator, node, _Type.DOUBLE)


def _real_of_real(annotator: TypeAnnotator, node: exp.Expression) -> None:
    """Of a whole number, dialects make a whole number or none, and so does DuckDB."""
    of_real = _REAL_OR_ZERO if _may_be_zero(node.this) else _Type.DOUBLE
    _set(annotator, node, of_real if _kind(node.this) == "real" else _Type.UNKNOWN)


def _null_if(annotator: TypeAnnotator, node: exp.Nullif) -> None:
    is_real = _may_be_zero(node.this) and is_zero(node.expression)
    _set(annotator, node, _Type.DOUBLE if is_real else node.this.type)


def _call(annotator: TypeAnnotator, node: exp.Anonymous) -> None:
    _set(annotator, node, _Type.INTERVAL if node.name.lower() == "age" else _Type.UNKNOWN)


def _sum_of_postgres(annotator: TypeAnnotator, node: exp.Sum) -> None:
    annotator._annotate_by_args(node, "this")
    if node.is_type(_Type.BIGINT):
        _set(annotator, node, _Type.DECIMAL)
    elif _kind(node) == "whole":
        _set(annotator, node, _Type.BIGINT)


def _sum_of_sqlite(annotator: TypeAnnotator, node: exp.Sum) -> None:
    annotator._annotate_by_args(node, "this", promote=True)
    if node.is_type(_Type.BOOLEAN):
        _set(annotator, node, _Type.BIGINT)
    elif _kind(node) == "text":
        _set(annotator, node, _Type.UNKNOWN)


def _number_of_sqlite(annotator: TypeAnnotator, node: exp.Expression) -> None:
    """Of text it is a number, of which kind the text says; ABS makes it real."""
    of_text = _Type.DOUBLE if isinstance(node, exp.Abs) else _Type.UNKNOWN
    _set(annotator, node, of_text if _kind(node.this) == "text" else node.this.type)


def _cast_of_sqlite(annotator: TypeAnnotator, node: exp.Cast) -> None:
    """A cast to NUMERIC leaves numbers as they are and makes a number of either kind of text."""
    if not node.to.is_type(_Type.DECIMAL):
        _set(annotator, node, node.to)
    else:
        _set(annotator, node, node.this.type if _kind(node.this) in ("whole", "real") else _Type.UNKNOWN)


def _choice(annotator: TypeAnnotator, node: exp.Expression) -> None:
    values = choices(node)
    annotator._annotate_by_args(node, *values)
    _set(annotator, node, _of_choice(node.type, values))


def _set_operation(annotator: TypeAnnotator, node: exp.SetOperation) -> None:
    """The columns of a UNION and the like, each a choice between those of its sides."""
    columns = []
    pairs = zip(_columns(node.left.unnest()), _columns(node.right.unnest()))
    for (name, kind), values in zip(annotator._setop_column_types[id(node)], pairs):
        column = exp.Placeholder()
        _set(annotator, column, _of_choice(kind, values))
        columns.append((name, column))
    node.meta[_COLUMNS] = [column for _, column in columns]
    annotator._setop_column_types[id(node)] = [(name, column.type) for name, column in columns]
    _set(annotator, node, _Type.UNKNOWN)


def _columns(node: exp.Expression) -> list[exp.Expression]:
    if isinstance(node, exp.Select):
        return [column.unalias() for column in node.selects]
    return node.meta_get(_COLUMNS) or []


def _of_choice(kind: exp.DataType | _Type | None, values: Sequence[exp.Expression]) -> exp.DataType | _Type | None:
    """A type for one of several values, where sqlglot has one for them. A whole 0 divides as 0.0 does."""
    if _is_mixed(values):
        return _Type.UNKNOWN
    if isinstance(kind, exp.DataType) and kind.is_type(_Type.UNKNOWN):
        return kind
    is_real = any(_kind(value) == "real" for value in values)
    return _REAL_OR_ZERO if is_real and any(map(_is_whole_zero, values)) else kind


def _is_mixed(values: Sequence[exp.Expression]) -> bool:
    """Whether some are numbers of one kind and some are of another, or text."""
    kinds = {_kind(value) for value in values if not _is_whole_zero(value)}
    return "real" in kinds and bool(kinds & {"whole", "boolean", "text"})


def _is_whole_zero(node: exp.Expression) -> bool:
    return is_zero(node) and _kind(node) == "whole"


def is_zero(node: exp.Expression) -> bool:
    """Whether a node is the number 0, written out."""
    return isinstance(node, exp.Literal) and not node.is_string and float(node.name) == 0


def choices(node: exp.Expression) -> list[exp.Expression]:
    """The values of which a choice takes one."""
    if isinstance(node, exp.Case):
        found = [branch.args["true"] for branch in node.args["ifs"]] + [node.args.get("default")]
    elif isinstance(node, exp.If):
        found = [node.args["true"], node.args.get("false")]
    else:
        found = [node.this, *node.expressions, node.args.get("default")]
    return [value for value in found if value is not None]


def write_around(node: exp.Expression, write: Callable[[exp.Expression], exp.Expression]) -> None:
    """Put in a node's place what is written around it."""
    place = exp.Placeholder()
    node.replace(place)
    place.replace(write(node))
