"""The structured query of WikiSQL, to SQL text and back.

A structured query selects one column of one table, under one of six aggregates, where every one of at most a
few conditions `column operator value` holds (Zhong et al. 2017, "Seq2SQL", arXiv:1709.00103). `to_sql` writes it
for DuckDB, `from_sql` reads any SQL text that means one, and `normal_form` is what exact match compares.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from sqlglot import exp

from t2s_assets.text2sql.errors import T2SError
from t2s_assets.text2sql.schema import TableSchema
from t2s_assets.text2sql.sql.parsing import parsed
from t2s_assets.text2sql.sql.sqlglot_errors import sqlglot_errors

AGGREGATES = ("", "MAX", "MIN", "COUNT", "SUM", "AVG")
OPERATORS = ("=", ">", "<")

MAX_CONDITIONS = 4
"""Of a sketch that is written: WikiSQL has no query with more."""

Value = str | int | float


class SketchError(T2SError):
    """SQL text is not a structured query over the given table: unparsable, or it says more than the sketch can."""


@dataclass(frozen=True)
class Condition:
    """`column operator value`: `column` indexes the schema's columns, `operator` indexes OPERATORS."""

    column: int
    operator: int
    value: Value


@dataclass(frozen=True)
class Query:
    """A structured query: `column` and the conditions' columns index the schema's columns, `aggregate` AGGREGATES."""

    column: int
    aggregate: int
    conditions: tuple[Condition, ...] = ()

    @classmethod
    def from_json(cls, sql: Mapping[str, Any], *, width: int) -> Query:
        """From WikiSQL's `{"sel", "agg", "conds"}` over a table of `width` columns.

        Raises:
            SketchError: a key is missing, or an index is outside the table, the aggregates or the operators.
        """
        try:
            column, aggregate, conds = sql["sel"], sql["agg"], sql["conds"]
            conditions = tuple(Condition(c, o, v) for c, o, v in conds)
        except (KeyError, TypeError, ValueError) as e:
            raise SketchError(f"a query needs sel, agg and conds as [column, operator, value]; got {sql!r}") from e
        for what, index, size in (
            ("sel", column, width),
            ("agg", aggregate, len(AGGREGATES)),
            *(("conds column", c.column, width) for c in conditions),
            *(("conds operator", c.operator, len(OPERATORS)) for c in conditions),
        ):
            if type(index) is not int or not 0 <= index < size:
                raise SketchError(f"{what} must be an integer from 0 to {size - 1}; got {index!r}")
        for c in conditions:
            if isinstance(c.value, bool) or not isinstance(c.value, (str, int, float)):
                raise SketchError(f"a condition's value must be a string or a number; got {c.value!r}")
            if not isinstance(c.value, str) and _finite(c.value) is None:
                raise SketchError(f"a condition's value must be finite; got {c.value!s:.40}")
        return cls(column, aggregate, conditions)

    def to_json(self) -> str:
        """WikiSQL's JSON of this query, in one line."""
        conds = [[c.column, c.operator, c.value] for c in self.conditions]
        return json.dumps({"sel": self.column, "agg": self.aggregate, "conds": conds}, ensure_ascii=False)

    @property
    def category(self) -> str:
        """`aggregation` with an aggregate, else `filter` with a condition, else `simple` (the PRD's three)."""
        return "aggregation" if self.aggregate else "filter" if self.conditions else "simple"


# A plain decimal number. Deliberately narrower than float(): no underscores, no inf, no nan, no hex.
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_MINUS = str.maketrans({"\u2212": "-", "\u2012": "-", "\u2013": "-", "\u2014": "-"})


def parse_number(text: str) -> float | None:
    """The number that `text` spells, or None: thousands separators and Unicode minus signs are understood."""
    if text.isascii() and text.isdecimal():
        return _finite(text)
    plain = _plain_number(text)
    return None if plain is None else _finite(plain)


def exact_number(text: str) -> Decimal | None:
    """As `parse_number`, with every digit: a float takes whole numbers of over 2^53 for their neighbours."""
    plain = _plain_number(text)
    return None if plain is None else _exact(plain)


def _plain_number(text: str) -> str | None:
    """`text` in ASCII without thousands separators, where it is a number as a whole."""
    plain = _THOUSANDS.sub("", text.strip()).translate(_MINUS)
    return plain if _NUMBER.fullmatch(plain) else None


def _exact(plain: str) -> Decimal | None:
    """None for what no float holds. What is zero to a float is zero, so that no exponent makes endless digits."""
    number = _finite(plain)
    return None if number is None else Decimal(plain) if number else Decimal(0)


def _finite(value: Value) -> float | None:
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def condition_number(value: Value) -> float | None:
    """The number that a condition on a `real` column compares with, or None where the value holds no digit.

    The official evaluator takes the first number inside a value that is not one as a whole ("€100,000"); so do
    we, but with thousands separators read first, where it would stop at the comma.
    """
    if not isinstance(value, str):
        return _finite(value)
    plain = _number_within(value)
    return None if plain is None else _finite(plain)


def _written_number(value: Value) -> float | Decimal | None:
    """As `condition_number`, with every digit of a whole number. Decimals are floats: `from_sql` reads them as such."""
    if not isinstance(value, str):
        return value if _finite(value) is not None else None
    plain = _number_within(value)
    exact = None if plain is None else _exact(plain)
    return exact if exact is None or exact == exact.to_integral_value() else float(exact)


def _number_within(value: str) -> str | None:
    """The number that `value` is, or else the first one in it."""
    plain = _plain_number(value)
    if plain is None or _finite(plain) is None:
        found = _NUMBER.search(_THOUSANDS.sub("", value).translate(_MINUS))
        plain = found.group() if found else None
    return plain


_MOST_DECIMALS = 19
"""To compare a BIGINT with a decimal DuckDB makes both decimals of 38 digits, of which the BIGINT needs 19: with more
behind the point it refuses to run."""


def number_literal(number: float | Decimal) -> str:
    """`number` as SQL: integers without a point, never an exponent, one zero.

    Integers and decimals keep all their digits, save decimals of over `_MOST_DECIMALS` behind the point: these are
    written as their float, and floats as the shortest decimal that is read as them.
    """
    text = format(Decimal(repr(number)) if isinstance(number, float) else Decimal(number), "f")
    text = text.rstrip("0").rstrip(".") if "." in text else text
    if not isinstance(number, float) and len(text.partition(".")[2]) > _MOST_DECIMALS:
        return number_literal(float(number))
    return "0" if text == "-0" else text


def identifier(name: str) -> str:
    """`name` as a quoted DuckDB identifier."""
    return '"' + name.replace('"', '""') + '"'


def string_literal(text: str) -> str:
    """`text` as a DuckDB string literal."""
    return "'" + text.replace("'", "''") + "'"


_PLAIN_NAME = re.compile(r"[a-z_][a-z0-9_]*")
RESERVED_NAMES = frozenset(
    """
    all alter analyse analyze and anti any array as asc asof asymmetric at authorization between binary both by case
    cast check collate collation column concurrently connect_by_root constraint create cross cube current_catalog
    current_database current_date current_query current_role current_schema current_schemas current_time
    current_timestamp current_user default deferrable desc describe distinct do drop else end except exists false
    fetch filter for force foreign freeze from full glob grant group group_by having if ilike in initially inner
    insert install intersect interval into is isnull join lambda lateral leading left like limit localtime
    localtimestamp lock map natural not notnull null offset on only or order outer over overlaps partitioned_by
    pivot pivot_longer pivot_wider placing positional primary qualify recursive references regexp rename returning
    revoke right rlike rollback rollup row rows select semi session_user set sets show similar some summarize
    symmetric system_user table tablesample then to trailing trim true try_cast uncache union unique unpack unpivot
    user using values variadic verbose when where window with xor
    """.split()
)
"""Words that DuckDB or sqlglot may read as syntax, or as a value of the session, where a bare name stands."""


def table_identifier(name: str) -> str:
    """A table's name in SQL: bare where DuckDB and sqlglot read it so, else quoted."""
    bare = _PLAIN_NAME.fullmatch(name) and name not in RESERVED_NAMES
    return name if bare else identifier(name)


def _literal(condition: Condition, schema: TableSchema) -> str:
    if schema.columns[condition.column].type == "real":
        number = _written_number(condition.value)
        if number is not None:
            return number_literal(number)
    return string_literal(str(condition.value))


def to_sql(query: Query, schema: TableSchema) -> str:
    """The query as DuckDB SQL over `schema`'s table, with its real column names.

    Columns are always quoted, so that no keyword of any DuckDB version can break one. Values are strings on
    `text` columns and numbers on `real` columns.
    """
    column = identifier(schema.columns[query.column].name)
    aggregate = AGGREGATES[query.aggregate]
    sql = f"SELECT {f'{aggregate}({column})' if aggregate else column} FROM {table_identifier(schema.name)}"
    tests = [
        f"{identifier(schema.columns[c.column].name)} {OPERATORS[c.operator]} {_literal(c, schema)}"
        for c in query.conditions
    ]
    return f"{sql} WHERE {' AND '.join(tests)}" if tests else sql


def cased_as_in(question: str, query: Query, schema: TableSchema) -> Query:
    """`query` with each text value cased as the question spells it, where the question holds it ignoring case.

    Text is compared ignoring case, so the meaning stays; the value becomes a span that can be copied.
    """
    folded = question.lower()
    # Some letters change their length when lower-cased; positions would then not carry over.
    if len(folded) != len(question):
        return query

    def cased(condition: Condition) -> Condition:
        if schema.columns[condition.column].type == "real":
            return condition
        value = str(condition.value)
        start = folded.find(value.lower())
        if value in question or start < 0:
            return condition
        return replace(condition, value=question[start : start + len(value.lower())])

    return replace(query, conditions=tuple(cased(c) for c in query.conditions))


_AGGREGATE_NODES: dict[type[exp.Expression], int] = {
    exp.Max: 1,
    exp.Min: 2,
    exp.Count: 3,
    exp.Sum: 4,
    exp.Avg: 5,
}
_OPERATOR_NODES: dict[type[exp.Expression], int] = {exp.EQ: 0, exp.GT: 1, exp.LT: 2}
_FLIPPED = {0: 0, 1: 2, 2: 1}


def from_sql(sql: str, schema: TableSchema) -> Query:
    """The structured query that `sql` means over `schema`; names are resolved ignoring case.

    Raises:
        SketchError: `sql` does not parse as DuckDB, names another table or column, or says more than the sketch can.
    """
    with sqlglot_errors(SketchError, "not DuckDB SQL: "):
        return _from_trees(parsed(sql), schema)


def names_given(tree: exp.Expression, *, tables: bool = False) -> set[str]:
    """The names, case-folded, that a query gives to columns; with `tables` to tables, sub-queries and CTEs too."""
    given = {a.alias for a in tree.find_all(exp.Alias)}
    for alias in tree.find_all(exp.TableAlias):
        given |= {c.name for c in alias.columns} | ({alias.name} if tables and alias.name else set())
    return {name.casefold() for name in given}


def _from_trees(trees: list[exp.Expression], schema: TableSchema) -> Query:
    if len(trees) != 1 or not isinstance(trees[0], exp.Select):
        raise SketchError("one SELECT statement is wanted")
    select = trees[0]
    extra = sorted(
        k for k, v in select.args.items() if v and k not in ("expressions", "from_", "from", "where", "kind")
    )
    if extra:
        raise SketchError(f"the sketch has no {', '.join(extra)}")
    source = select.args.get("from_") or select.args.get("from")
    table = source.this if source is not None else None
    if not isinstance(table, exp.Table) or table.name.casefold() != schema.name.casefold():
        raise SketchError(f"the only table is {schema.name!r}")
    extra = sorted(k for k, v in table.args.items() if v and k not in ("this", "alias"))
    if extra or table.alias_column_names:
        raise SketchError(f"the only table is {schema.name!r}, with no {', '.join(extra) or 'renamed columns'}")
    names = {table.alias_or_name.casefold()}
    if len(select.expressions) != 1:
        raise SketchError("one selected column is wanted")
    selected = select.expressions[0].unalias()
    aggregate = _AGGREGATE_NODES.get(type(selected), 0)
    if aggregate:
        if any(v for k, v in selected.args.items() if k not in ("this", "big_int")):
            raise SketchError("an aggregate takes one column")
        selected = selected.this
    column = _column(selected, schema, names)
    where = select.args.get("where")
    conditions = tuple(_condition(e, schema, names) for e in _conjuncts(where.this)) if where else ()
    return Query(column, aggregate, conditions)


def _conjuncts(node: exp.Expression) -> list[exp.Expression]:
    found, stack = [], [node]
    while stack:
        node = stack.pop().unnest()
        if isinstance(node, exp.And):
            stack += [node.right, node.left]
        else:
            found.append(node)
    return found


def _column(node: exp.Expression, schema: TableSchema, table_names: set[str]) -> int:
    if not isinstance(node, exp.Column) or not isinstance(node.this, exp.Identifier):
        raise SketchError(f"a column is wanted; got {node.sql(dialect='duckdb')}")
    if node.args.get("db") or (node.table and node.table.casefold() not in table_names):
        raise SketchError(f"no table {node.table!r} here")
    index = schema.column_index(node.name)
    if index is None:
        raise SketchError(f"no column {node.name!r} in {schema.name!r}")
    return index


def _condition(node: exp.Expression, schema: TableSchema, table_names: set[str]) -> Condition:
    operator = _OPERATOR_NODES.get(type(node))
    if operator is None:
        raise SketchError(f"a condition is column =, > or < value; got {node.sql(dialect='duckdb')}")
    left, right = node.left.unnest(), node.right.unnest()
    if not isinstance(left, exp.Column) and isinstance(right, exp.Column):
        left, right, operator = right, left, _FLIPPED[operator]
    return Condition(_column(left, schema, table_names), operator, _value(right))


def _value(node: exp.Expression) -> Value:
    if isinstance(node, exp.Neg) and isinstance(node.this, exp.Literal) and not node.this.is_string:
        return -_number(node.this)
    if isinstance(node, exp.Literal):
        return node.name if node.is_string else _number(node)
    raise SketchError(f"a value is a string or a number; got {node.sql(dialect='duckdb')}")


def _number(node: exp.Literal) -> int | float:
    number: int | float
    try:
        number = int(node.name)
    except ValueError:
        number = float(node.name)
    if _finite(number) is None:
        raise SketchError(f"a value is a finite number; got {node.name:.40}")
    return number


NormalForm = tuple[int, int, frozenset[tuple[int, int, str]]]


def normal_form(query: Query, schema: TableSchema) -> NormalForm:
    """What exact match compares: (column, aggregate, the set of conditions).

    As in the official logical-form comparison, conditions form a set and values are compared as lower-cased text;
    values on `real` columns are compared as the numbers they spell, so that 5, 5.0 and '5' are one value.
    """
    return query.column, query.aggregate, frozenset(_normal_condition(c, schema) for c in query.conditions)


def predicted_form(predicted: Query, gold: Query, schema: TableSchema) -> NormalForm:
    """The normal form of a prediction, to compare with the gold's.

    A string on a `real` column is the number that it spells as a whole, or the gold's where it is the gold's own text.
    The number inside other text is looked for in gold alone, which is written that way: DuckDB takes no such string for
    a number, and to the official evaluator it is another text.
    """
    own = {(c.column, str(c.value).lower()) for c in gold.conditions}
    return (
        predicted.column,
        predicted.aggregate,
        frozenset(
            _normal_condition(c, schema, whole=(c.column, str(c.value).lower()) not in own)
            for c in predicted.conditions
        ),
    )


def _normal_condition(condition: Condition, schema: TableSchema, *, whole: bool = False) -> tuple[int, int, str]:
    value = condition.value
    if schema.columns[condition.column].type == "real":
        number = parse_number(value) if whole and isinstance(value, str) else condition_number(value)
        if number is not None:
            return condition.column, condition.operator, number_literal(number)
    return condition.column, condition.operator, str(value).lower()
