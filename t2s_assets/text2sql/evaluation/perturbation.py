"""Test-suite accuracy: EX on several perturbed copies of each table (Zhong, Yu & Klein 2020, arXiv:2010.02840).

A wrong query may return the gold's result by luck. It seldom does so again on copies whose values lie on either side of
the gold's conditions, whose rows are others and whose cells stand elsewhere. The paper searches random databases for
ones that tell gold from its mutations; here each copy is made of the gold's conditions, which needs no search: rows
that meet all conditions, and rows that miss one of them by a little.
"""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice
from typing import Any

import pyarrow as pa
import sqlglot
from sqlglot import exp

from t2s_assets.text2sql.execution import Database, Job, Outcome, Relation, SqlExecutor
from t2s_assets.text2sql.results import result_fingerprints
from t2s_assets.text2sql.storage import content_hash
from t2s_assets.text2sql.tables.user_tables import python_values

# Copies of a longer table hold a sample of its rows, and conditions of a sample of its gold queries.
MAX_ROWS = 500
MAX_QUERIES = 20
_DROPPED = 0.15
_SWAPPED = 0.25
_CASES_AT_A_TIME = 500

Test = tuple[str, str, Any]
"""A condition of a gold query: lower-cased column name, operator (= <> > >= < <=), value."""

_OPERATORS: dict[type[exp.Expression], str] = {
    exp.EQ: "=",
    exp.NEQ: "<>",
    exp.GT: ">",
    exp.GTE: ">=",
    exp.LT: "<",
    exp.LTE: "<=",
}
_BOOLEANS = {**dict.fromkeys(("true", "t", "1"), True), **dict.fromkeys(("false", "f", "0"), False)}
_FLIPPED = {">": "<", ">=": "<=", "<": ">", "<=": ">="}


@dataclass(frozen=True)
class Case:
    """A prediction and its gold, both SQL over `database`, and what of a result is compared (None: nothing)."""

    database: Database
    gold: str
    predicted: str
    fingerprint: Callable[[Outcome], str | None] = lambda outcome: result_fingerprints(outcome)[0]


def suite_verdicts(
    executor: SqlExecutor,
    cases: Sequence[Case],
    golds: Mapping[str, Sequence[str]],
    *,
    copies: int,
    seed: int,
    log: Callable[[str], None] = lambda line: None,
) -> list[bool]:
    """For each case, whether the predicted SQL returns what the gold returns on every copy of its database.

    `golds` holds, by a database's key, the gold queries whose conditions shape its copies: all of them, so that a
    verdict does not depend on which questions are scored beside it. Copies on which the gold does not run are left
    out; a case without any is True, for nothing speaks against it.
    """
    found: list[bool] = []
    for start in range(0, len(cases), _CASES_AT_A_TIME):
        part = cases[start : start + _CASES_AT_A_TIME]
        made: dict[str, list[Database]] = {}
        for case in part:
            key = case.database.key
            if key not in made:
                made[key] = perturbed(case.database, golds.get(key, ()), copies=copies, seed=seed)
        jobs = [Job(copy, sql) for c in part for copy in made[c.database.key] for sql in (c.gold, c.predicted)]
        outcomes = executor.run(jobs)
        pairs = iter(zip(outcomes[::2], outcomes[1::2]))
        for case in part:
            prints = [(case.fingerprint(gold), case.fingerprint(mine)) for gold, mine in islice(pairs, copies)]
            found.append(all(gold is None or gold == mine for gold, mine in prints))
        log(f"test suite: {len(found):,} of {len(cases):,} doubtful predictions run on {copies} copies of their tables")
    return found


def perturbed(database: Database, golds: Iterable[str], *, copies: int, seed: int) -> list[Database]:
    """Seeded copies of a database; the same database, gold queries and seed give the same copies."""
    queries = list(dict.fromkeys(golds))
    tests = [found for sql in queries if (found := conditions(sql))]
    made = []
    for number in range(copies):
        key = content_hash(database.key, queries, seed, number)
        draw = random.Random(key)
        made.append(Database(key, tuple(_copy(relation, tests, draw) for relation in database.relations)))
    return made


def conditions(sql: str) -> list[Test]:
    """The comparisons of a column with a literal in `sql`, a bare column as one with TRUE; none where it does not
    parse."""
    try:
        tree = sqlglot.parse_one(sql, read="duckdb")
    except (sqlglot.errors.SqlglotError, RecursionError):
        return []
    found: list[Test] = []
    for node in tree.walk():
        operator = _OPERATORS.get(type(node))
        if operator:
            left, right = node.this.unnest(), node.expression.unnest()
            if isinstance(right, exp.Column):
                left, right, operator = right, left, _FLIPPED.get(operator, operator)
            pairs = [(operator, right)]
        elif isinstance(node, exp.Is) and isinstance(node.expression, exp.Boolean):
            left, pairs = node.this.unnest(), [("=", node.expression)]
        elif isinstance(node, exp.Between):
            left, pairs = node.this.unnest(), [(">=", node.args["low"]), ("<=", node.args["high"])]
        elif isinstance(node, exp.In):
            left, pairs = node.this.unnest(), [("=", item) for item in node.expressions]
        elif isinstance(node, exp.Column) and isinstance(_around(node), (exp.Where, exp.Connector, exp.Not)):
            left, pairs = node, [("=", exp.true())]
        else:
            continue
        if isinstance(left, exp.Column):
            for operator, literal in pairs:
                value = _value(literal.unnest())
                if value is not None:
                    found.append((left.name.lower(), operator, value))
    return found


def _around(node: exp.Expression) -> exp.Expression | None:
    """What an expression stands in, parentheses aside."""
    parent = node.parent
    while isinstance(parent, exp.Paren):
        parent = parent.parent
    return parent


def _value(node: exp.Expression) -> str | int | float | None:
    if isinstance(node, exp.Boolean):
        return bool(node.this)
    if isinstance(node, exp.Neg):
        value = _value(node.this)
        return None if value is None or isinstance(value, (str, bool)) else -value
    if isinstance(node, exp.Cast):
        return _value(node.this)
    if not isinstance(node, exp.Literal):
        return None
    if node.is_string:
        return node.name
    try:
        return int(node.name)
    except ValueError:
        return float(node.name)


def _copy(relation: Relation, queries: Sequence[Sequence[Test]], draw: random.Random) -> Relation:
    """One copy of a table: rows dropped, cells swapped within columns, rows added around the queries' conditions."""
    types = relation.data.schema.types
    rows = [list(row) for row in zip(*map(python_values, relation.data.columns))]
    kept = [row for row in rows if draw.random() >= _DROPPED] or rows[:1]
    if len(kept) > MAX_ROWS:
        kept = [kept[i] for i in sorted(draw.sample(range(len(kept)), MAX_ROWS))]
    for i in range(len(types)):
        for _ in range(round(len(kept) * _SWAPPED)):
            a, b = draw.randrange(len(kept)), draw.randrange(len(kept))
            kept[a][i], kept[b][i] = kept[b][i], kept[a][i]
    places = {name.lower(): i for i, (name, _) in enumerate(relation.columns)}
    own = [mine for tests in queries if (mine := [t for t in tests if t[0] in places])]
    for tests in own if len(own) <= MAX_QUERIES else draw.sample(own, MAX_QUERIES):
        # None misses no condition: the row that meets them all.
        for missed in (None, *range(len(tests))):
            made = _added(rows, types, draw)
            for number, (column, operator, value) in enumerate(tests):
                place = places[column]
                near = _near(value, operator, number != missed, types[place], draw)
                if near is not None:
                    made[place] = near
            kept.insert(draw.randint(0, len(kept)), made)
    arrays = [pa.array([row[i] for row in kept], type=kind) for i, kind in enumerate(types)]
    return Relation(relation.name, relation.columns, pa.Table.from_arrays(arrays, names=relation.data.column_names))


def _added(rows: Sequence[Sequence[Any]], types: Sequence[pa.DataType], draw: random.Random) -> list[Any]:
    """A new row: each cell from some row of its column, numbers changed by a little half of the time."""
    made = []
    for i, kind in enumerate(types):
        cell = draw.choice(rows)[i] if rows else None
        if cell is None and not rows:
            cell = (
                _typed(draw.randint(1, 100), kind) if _is_number(kind) else _typed(f"text {draw.randint(1, 9)}", kind)
            )
        elif cell is not None and _is_number(kind) and draw.random() < 0.5:
            changed = _typed(cell + draw.choice((-2, -1, 1, 2)), kind)
            cell = cell if changed is None else changed
        made.append(cell)
    return made


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)


def _near(value: Any, operator: str, meets: bool, kind: pa.DataType, draw: random.Random) -> Any:
    """A cell close to `value` that meets, or misses, the comparison; None where the type knows no neighbours."""
    value = _as_compared(value, kind)
    if value is None:
        return None
    step = _step(kind, draw)
    suffix = draw.choice(("a", "1")) if isinstance(value, str) else ""
    wanted = {
        "=": ("=", "><"),
        "<>": ("><", "="),
        ">": (">", "=<"),
        ">=": ("=>", "<"),
        "<": ("<", "=>"),
        "<=": ("=<", ">"),
    }[operator][0 if meets else 1]
    found = [_typed(_moved(value, where, step, suffix), kind) for where in wanted]
    cells = [cell for cell in found if cell is not None]
    return draw.choice(cells) if cells else None


def _as_compared(value: Any, kind: pa.DataType) -> Any:
    """A literal as a column of that type compares with it; None where it spells no value of the type."""
    try:
        if pa.types.is_boolean(kind):
            return _BOOLEANS.get(str(value).lower())
        if isinstance(value, bool):
            return None
        if not isinstance(value, str):
            temporal = pa.types.is_date(kind) or pa.types.is_timestamp(kind) or pa.types.is_time(kind)
            return None if temporal else value
        if _is_number(kind):
            return float(value)
        if pa.types.is_date(kind):
            return dt.date.fromisoformat(value.strip())
        if pa.types.is_timestamp(kind) or pa.types.is_time(kind):
            read = (dt.datetime if pa.types.is_timestamp(kind) else dt.time).fromisoformat
            point = read(value.strip())
            return point if point.tzinfo is None else None
        return value
    except ValueError:
        return None


def _step(kind: pa.DataType, draw: random.Random) -> Any:
    """How far the neighbours of a value of this type are."""
    if pa.types.is_date(kind):
        return dt.timedelta(days=1)
    if pa.types.is_timestamp(kind) or pa.types.is_time(kind):
        return dt.timedelta(seconds=1)
    return draw.choice((0.5, 1)) if pa.types.is_floating(kind) else 1


def _moved(value: Any, where: str, step: Any, suffix: str) -> Any:
    """`value` itself (=), or its neighbour above (>) or below (<); None at the end of what its type can say."""
    above = where == ">"
    if where == "=":
        return value
    if isinstance(value, str):
        return value + suffix if above else value[:-1]
    if isinstance(value, bool):
        return None if value is above else above
    try:
        if isinstance(value, dt.time):
            day = dt.date(2000, 1, 1)
            moved = dt.datetime.combine(day, value) + (step if above else -step)
            return moved.time() if moved.date() == day else None
        if isinstance(value, dt.date) or abs(value) < 1e15:
            return value + step if above else value - step
        return value * 2 if above else value / 2
    except OverflowError:
        return None


def _typed(value: Any, kind: pa.DataType) -> Any:
    """`value` as a cell of a column, or None where it is none."""
    try:
        if pa.types.is_integer(kind):
            value = int(value)
        elif pa.types.is_floating(kind):
            value = float(value)
        elif pa.types.is_decimal(kind):
            value = round(Decimal(str(value)), kind.scale)
        elif pa.types.is_string(kind):
            value = str(value)
        return pa.scalar(value, type=kind).as_py()
    except (pa.ArrowException, TypeError, ValueError, OverflowError, ArithmeticError):
        return None
