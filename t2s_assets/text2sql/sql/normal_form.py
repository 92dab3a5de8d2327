"""The normal form of SQL text, which exact match compares, and where two queries differ.

Names are resolved first (`resolving`); what is then left open is put in one order:

- tables that are inner-joined are a set, and their ON conditions stand with those of WHERE;
- conditions under AND and OR are sets, the sides of `=`, `<>`, `+`, `*` and UNION have no order (UNION BY NAME and a
  sum of several intervals have one), `a > b` is `b < a`, BETWEEN is two comparisons, COUNT(1) is COUNT(*);
- aliases of tables and columns, quotes, parentheses and the case of names do not count; a CTE is the derived table
  that it stands for;
- numbers compare as numbers, to the last digit, and NULLIF(2, 0) is 2; strings compare to the letter;
  DATE '2024-01-01' is the string in it where it is compared with a column of that type, and so is a TIMESTAMP.

Everything else must be equal. Two queries with one form mean the same; not all that mean the same have one form.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, fields, replace
from decimal import Decimal

from sqlglot import exp

from t2s_assets.text2sql.schema import TableSchema
from t2s_assets.text2sql.sql.resolving import BEHIND, NormalFormError, drop_casts, in_one, mapping, resolved
from t2s_assets.text2sql.sql.sqlglot_errors import sqlglot_errors

# A table joined with itself is numbered in every order while there are at most this many.
_ORDERS = 24


@dataclass(frozen=True)
class NormalForm:
    """A query's clauses in normal form, each as text; `operands` is filled for UNION, INTERSECT and EXCEPT."""

    operands: str = ""
    select: str = ""
    sources: str = ""
    where: str = ""
    group: str = ""
    having: str = ""
    order: str = ""
    limit: str = ""

    @property
    def digest(self) -> str:
        """A short name for the whole."""
        return hashlib.sha256("\0".join(astuple(self)).encode()).hexdigest()[:16]


CLAUSES = {
    "operands": "set operation",
    "select": "SELECT",
    "sources": "FROM",
    "where": "WHERE",
    "group": "GROUP BY",
    "having": "HAVING",
    "order": "ORDER BY",
    "limit": "LIMIT",
}
ERROR_KINDS = ("unparsable", *CLAUSES.values(), "value", "no normal form")
"""What a prediction may be wrong in; the last is for a gold without a normal form, whose clauses cannot be compared."""


def normal_form(sql: str, schemas: Sequence[TableSchema], *, values: bool = True) -> NormalForm:
    """The normal form of DuckDB SQL over the tables; without `values` all literals are one.

    Raises:
        NormalFormError: `sql` is not one query, or a name in it is not in the schemas.
    """
    with sqlglot_errors(NormalFormError):
        tree = resolved(sql, schemas)
        drop_casts(tree, mapping(tuple(schemas)))
        return _Writer(values).query(tree, {}, {})


def differences(predicted: str, gold: str, schemas: Sequence[TableSchema]) -> list[str]:
    """In which clauses a query differs from the gold, in the order of ERROR_KINDS; empty for an exact match.

    A clause that differs in nothing but its literals counts as `value`. What differs inside a sub-query counts for the
    clause that holds it; join conditions count for FROM. Raises NormalFormError for a gold without a normal form.
    """
    truth = normal_form(gold, schemas)
    try:
        mine = normal_form(predicted, schemas)
    except NormalFormError:
        return ["unparsable"]
    if mine == truth:
        return []
    blank, blank_truth = (normal_form(sql, schemas, values=False) for sql in (predicted, gold))
    found = set()
    for field in fields(NormalForm):
        if getattr(mine, field.name) != getattr(truth, field.name):
            same = getattr(blank, field.name) == getattr(blank_truth, field.name)
            found.add("value" if same else CLAUSES[field.name])
    return [kind for kind in ERROR_KINDS if kind in found]


@dataclass(frozen=True)
class _Source:
    """What an alias stands for: a label, and for a derived table its columns' names in order."""

    label: str
    outputs: tuple[str, ...] | None = None


_Names = Mapping[str, _Source]

_SORTED = (exp.EQ, exp.NEQ, exp.NullSafeEQ, exp.NullSafeNEQ)
_FLATTENED = (exp.And, exp.Or, exp.Add, exp.Mul)
# The clauses that a query in parentheses may have behind them as well.
_FLIPPED: dict[type[exp.Expression], str] = {exp.GT: "LT", exp.GTE: "LTE"}


class _Writer:
    """Writes the normal form of a qualified tree."""

    def __init__(self, values: bool) -> None:
        self._values = values

    def query(self, node: exp.Expression, ctes: _Names, outer: _Names) -> NormalForm:
        """The form of a query; `outer` holds the sources of the queries around it."""
        known = dict(ctes)
        with_ = node.args.get("with_")
        for cte in with_.expressions if with_ is not None else ():
            known[cte.alias.lower()] = self._derived(cte.this, known, {})
        if isinstance(node, exp.Subquery):
            return self._wrapped(node, known, outer)
        if isinstance(node, exp.SetOperation):
            return self._operation(node, known, outer)
        if isinstance(node, exp.Select):
            return self._select(node, known, outer)
        return NormalForm(select=self.key(node, known, outer))

    def _derived(self, query: exp.Expression, ctes: _Names, outer: _Names) -> _Source:
        return _Source(f"({self.query(query, ctes, outer).digest})", _outputs(query))

    def _wrapped(self, node: exp.Subquery, ctes: _Names, outer: _Names) -> NormalForm:
        if isinstance(node.this, exp.Select) and not any(node.this.args.get(name) for name in BEHIND):
            return self.query(in_one(node), ctes, outer)
        inner = self.query(node.this, ctes, outer)
        order, limit = self._order(node, ctes, _with_columns_of(node.this, outer)), self._limit(node, ctes, outer)
        if not (order or limit):
            return inner
        if inner.order or inner.limit:
            return NormalForm(select="*", sources=inner.digest, order=order, limit=limit)
        return replace(inner, order=order, limit=limit)

    def _operation(self, node: exp.SetOperation, ctes: _Names, outer: _Names) -> NormalForm:
        sides = [self.query(side, ctes, outer).digest for side in (node.left, node.right)]
        kind = f"{type(node).__name__} {'DISTINCT' if node.args.get('distinct') else 'ALL'}"
        if node.args.get("by_name"):
            # Names say which columns meet, and the first side's come first.
            kind += f" BY NAME {[_outputs(side) for side in (node.left, node.right)]}"
        elif not isinstance(node, exp.Except):
            sides.sort()
        return NormalForm(
            operands=f"{kind}: {sides}",
            order=self._order(node, ctes, _with_columns_of(node, outer)),
            limit=self._limit(node, ctes, outer),
        )

    def _select(self, node: exp.Select, ctes: _Names, outer: _Names) -> NormalForm:
        from_ = node.args.get("from_")
        joins: list[exp.Join] = node.args.get("joins") or []
        items = [from_.this, *(j.this for j in joins)] if from_ is not None else []
        found = [(item.alias_or_name.lower(), self._source(item, ctes, outer)) for item in items]
        forms = (self._clauses(node, joins, sources, ctes, outer) for sources in _numbered(found))
        return min(forms, key=astuple)

    def _source(self, item: exp.Expression, ctes: _Names, outer: _Names) -> _Source:
        if isinstance(item, exp.Table) and isinstance(item.this, exp.Identifier):
            name = item.name.lower()
            return ctes.get(name) or _Source(repr(name))
        if isinstance(item, exp.Subquery):
            return self._derived(item.this, ctes, outer)
        if isinstance(item, exp.Lateral) and isinstance(item.this, exp.Subquery):
            return self._derived(item.this.this, ctes, outer)
        return _Source(self.key(item.this if isinstance(item.this, exp.Expression) else item, ctes, outer))

    def _clauses(
        self,
        node: exp.Select,
        joins: Sequence[exp.Join],
        sources: Sequence[tuple[str, _Source]],
        ctes: _Names,
        outer: _Names,
    ) -> NormalForm:
        names: dict[str, _Source] = {**outer, **dict(sources)}
        labels = [source.label for _, source in sources]
        where = self._conjuncts(node.args.get("where"), ctes, names)
        if all(_is_inner(j) for j in joins):
            conditions = {c for j in joins for c in self._conjuncts(j.args.get("on"), ctes, names)} | set(where)
            links = {c for c in conditions if c[0]}
            where = [c for c in conditions if not c[0]]
            tables = f"{sorted(labels)} ON {_sorted(links)}"
        else:
            tables = self._outer_joins(joins, labels, ctes, names)
        select = [self.key(e.unalias(), ctes, names) for e in node.expressions]
        for clause in ("distinct", "windows", "laterals", "sample"):
            if value := node.args.get(clause):
                select.append(f"{clause}: {self._part(value, ctes, names)}")
        having = [*self._conjuncts(node.args.get("having"), ctes, names)]
        having += [(False, f"QUALIFY {c}") for _, c in self._conjuncts(node.args.get("qualify"), ctes, names)]
        return NormalForm(
            select=repr(select),
            sources=tables,
            where=_sorted(where),
            group=self._group(node, ctes, names),
            having=_sorted(having),
            order=self._order(node, ctes, names),
            limit=self._limit(node, ctes, names),
        )

    def _outer_joins(self, joins: Sequence[exp.Join], labels: Sequence[str], ctes: _Names, names: _Names) -> str:
        """Where a join is not an inner one, order matters; only `a RIGHT JOIN b` is read as `b LEFT JOIN a`."""
        conditions = [_sorted(self._conjuncts(j.args.get("on"), ctes, names)) for j in joins]
        kinds = [" ".join(filter(None, (j.method, j.side, j.kind))).upper().replace(" OUTER", "") for j in joins]
        if kinds == ["RIGHT"]:
            kinds, labels = ["LEFT"], [labels[1], labels[0]]
        return repr([labels[0], *zip(kinds, labels[1:], conditions)])

    def _conjuncts(self, node: exp.Expression | None, ctes: _Names, names: _Names) -> list[tuple[bool, str]]:
        """(whether it equates columns of two tables, text) of each condition under AND."""
        if node is None:
            return []
        node = node.this if isinstance(node, (exp.Where, exp.Having, exp.Qualify)) else node
        found = []
        for part in _parts(node, exp.And):
            if isinstance(part, exp.Between):
                low, high = part.args["low"], part.args["high"]
                tests: list[exp.Expression] = [exp.GTE(this=part.this, expression=low)]
                tests.append(exp.LTE(this=part.this, expression=high))
                found += [(False, self.key(test, ctes, names)) for test in tests]
            else:
                found.append((_is_link(part), self.key(part, ctes, names)))
        return found

    def _group(self, node: exp.Select, ctes: _Names, names: _Names) -> str:
        group = node.args.get("group")
        if group is None:
            return ""
        if group.args.get("all"):
            plain = [e.unalias() for e in node.expressions if not e.find(exp.AggFunc)]
        else:
            plain = group.expressions
        rest = {k: v for k, v in group.args.items() if k not in ("expressions", "all") and v}
        keys = sorted({self.key(e, ctes, names) for e in plain})
        return repr((keys, [(k, self._part(v, ctes, names)) for k, v in sorted(rest.items())]))

    def _order(self, node: exp.Expression, ctes: _Names, names: _Names) -> str:
        order = node.args.get("order")
        keys = [
            (self.key(e.this, ctes, names), bool(e.args.get("desc")), bool(e.args.get("nulls_first")))
            for e in (order.expressions if order is not None else ())
        ]
        return repr(keys) if keys else ""

    def _limit(self, node: exp.Expression, ctes: _Names, names: _Names) -> str:
        limit, offset = node.args.get("limit"), node.args.get("offset")
        count = limit.args.get("count") if isinstance(limit, exp.Fetch) else limit.expression if limit else None
        parts = [self.key(e, ctes, names) for e in (count, offset.expression if offset else None) if e is not None]
        options = limit.args.get("limit_options") if limit else None
        said = [name for name in ("percent", "with_ties") if options is not None and options.args.get(name)]
        said += ["from offset"] if offset and not limit else []
        return " ".join([repr(parts), *said]) if parts else ""

    def key(self, node: exp.Expression, ctes: _Names, names: _Names) -> str:
        """An expression as text in normal form."""
        node = _never_null(node.unnest())
        if isinstance(node, exp.Column):
            return self._column(node, names)
        if isinstance(node, exp.Query):
            # What belongs to the query around it is marked, so that a table and the same table outside differ.
            around = {alias: replace(s, label=f"^{s.label}") for alias, s in names.items()}
            return f"({self.query(node, ctes, around).digest})"
        if (literal := self._literal(node)) is not None:
            return literal
        kind = type(node)
        if isinstance(node, _FLATTENED) and not _adds_intervals(node):
            operands = [self.key(e, ctes, names) for e in _parts(node, kind)]
            unique = set(operands) if isinstance(node, (exp.And, exp.Or)) else operands
            return f"{kind.__name__}{sorted(unique)}"
        if isinstance(node, _SORTED):
            return f"{kind.__name__}{sorted(self.key(e, ctes, names) for e in (node.left, node.right))}"
        if kind in _FLIPPED:
            return f"{_FLIPPED[kind]}{[self.key(e, ctes, names) for e in (node.right, node.left)]}"
        if isinstance(node, (exp.LT, exp.LTE)):
            return f"{kind.__name__}{[self.key(e, ctes, names) for e in (node.left, node.right)]}"
        if isinstance(node, exp.Between):
            return f"And{sorted(text for _, text in self._conjuncts(node, ctes, names))}"
        if isinstance(node, exp.Not) and isinstance(node.this.unnest(), exp.EQ):
            equal = node.this.unnest()
            return f"NEQ{sorted(self.key(e, ctes, names) for e in (equal.left, equal.right))}"
        if isinstance(node, exp.Count) and isinstance(node.this, exp.Literal):
            return self.key(exp.Count(this=exp.Star()), ctes, names)
        if isinstance(node, exp.In) and node.expressions:
            values = sorted(self.key(e, ctes, names) for e in node.expressions)
            return f"In[{self.key(node.this, ctes, names)}, {values}]"
        if isinstance(node, exp.Identifier):
            return repr(node.name.lower())
        if isinstance(node, (exp.Var, exp.DataType)):
            return node.sql("duckdb").upper()
        parts = [
            f"{name}={self._part(value, ctes, names)}"
            for name, value in sorted(node.args.items())
            if value and name not in ("big_int", "comments")
        ]
        return f"{kind.__name__}[{', '.join(parts)}]"

    def _part(self, value: object, ctes: _Names, names: _Names) -> str:
        if isinstance(value, list):
            return repr([self._part(v, ctes, names) for v in value])
        return self.key(value, ctes, names) if isinstance(value, exp.Expression) else repr(value)

    def _column(self, node: exp.Column, names: _Names) -> str:
        name, source = node.name.lower(), names.get(node.table.lower())
        if source is None:
            return f"{node.table.lower()!r}.{name!r}"
        if source.outputs and name in source.outputs:
            return f"{source.label}.{source.outputs.index(name)}"
        return f"{source.label}.{name!r}"

    def _literal(self, node: exp.Expression) -> str | None:
        negative = isinstance(node, exp.Neg) and isinstance(node.this, exp.Literal)
        literal = node.this if negative else node
        if not isinstance(literal, exp.Literal):
            return None
        if not self._values:
            return "?"
        number = None if literal.is_string else _exact(literal.name)
        return f"{'-' if negative and number != '0' else ''}{repr(literal.name) if number is None else number}"


def _never_null(node: exp.Expression) -> exp.Expression:
    """NULLIF(2, 0) is 2: what other dialects' division by a number is often written as."""
    if not isinstance(node, exp.Nullif):
        return node
    value, null = node.this.unnest(), node.expression.unnest()
    number = value.this if isinstance(value, exp.Neg) else value
    if any(not isinstance(n, exp.Literal) or n.is_string for n in (number, null)):
        return node
    return value if _exact(null.name) == "0" and _exact(number.name) not in (None, "0") else node


def _exact(text: str) -> str | None:
    """A number's one spelling: its digits without zeros at the end, and where the point stands; None for no number."""
    try:
        _, digits, exponent = Decimal(text).as_tuple()
    except ArithmeticError:
        return None
    found = "".join(map(str, digits)).lstrip("0")
    whole = found.rstrip("0")
    return f"{whole}e{exponent + len(found) - len(whole)}" if whole else "0"


def _numbered(found: Sequence[tuple[str, _Source]]) -> Iterator[list[tuple[str, _Source]]]:
    """The sources with a number for each where several are the same, in every way to number them."""
    counts = Counter(source.label for _, source in found)
    twice = [label for label, n in counts.items() if n > 1]
    orders: Iterable[tuple[tuple[int, ...], ...]] = itertools.product(
        *(itertools.permutations(range(counts[label])) for label in twice)
    )
    for order in itertools.islice(orders, _ORDERS):
        numbers = {label: iter(ranks) for label, ranks in zip(twice, order)}
        yield [
            (alias, replace(s, label=f"{s.label}#{next(numbers[s.label])}") if s.label in numbers else s)
            for alias, s in found
        ]


def _parts(node: exp.Expression, kind: type[exp.Expression]) -> list[exp.Expression]:
    """The operands of a chain of one operator, in their order."""
    found, stack = [], [node]
    while stack:
        node = stack.pop().unnest()
        if isinstance(node, kind):
            stack += [node.right, node.left]
        else:
            found.append(node)
    return found


def _adds_intervals(node: exp.Expression) -> bool:
    """Whether several intervals are added, whose order counts: a month after 30 January, and then a day, is 1 March."""
    return isinstance(node, exp.Add) and sum(isinstance(e, exp.Interval) for e in _parts(node, exp.Add)) > 1


def _is_inner(join: exp.Join) -> bool:
    return not join.side and not join.method and join.kind.upper() in ("", "INNER", "CROSS")


def _is_link(node: exp.Expression) -> bool:
    if not isinstance(node, exp.EQ):
        return False
    left, right = node.left.unnest(), node.right.unnest()
    return isinstance(left, exp.Column) and isinstance(right, exp.Column) and left.table != right.table


def _with_columns_of(query: exp.Expression, outer: _Names) -> _Names:
    """What an ORDER BY over a whole query may name: its columns, which have no table, by their places."""
    return {**outer, "": _Source("#", _outputs(query))}


def _outputs(query: exp.Expression) -> tuple[str, ...]:
    """The names of a query's columns in order."""
    return tuple(name.lower() for name in query.named_selects) if isinstance(query, exp.Query) else ()


def _sorted(conditions: Iterable[tuple[bool, str]]) -> str:
    texts = sorted({text for _, text in conditions})
    return repr(texts) if texts else ""
