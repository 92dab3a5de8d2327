"""Text and numbers that meet in SQLite, where a value has a type and a column none, written for DuckDB's types."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from sqlglot import exp

from t2s_assets.text2sql.dialects.sqlite_columns import ADDED, LOOSE, TEXT_OF_NUMBERS, Holds, affinity, always, base_of
from t2s_assets.text2sql.dialects.value_types import DialectError, Kind, choices, operand_kinds, operands, write_around
from t2s_assets.text2sql.schema import TableSchema
from t2s_assets.text2sql.sql.sqlglot_errors import sqlglot_errors

_NUMBERS = frozenset({"whole", "real", "boolean"})
_SPELT = r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?"
_PADDED = rf"\s*{_SPELT}\s*"
_WHOLE_SPELT = r"[-+]?\d{1,9}"
_REAL_PREFIX = rf"^\s*{_SPELT}|0$"
_WHOLE_PREFIX = r"^\s*[-+]?\d+|0$"
_WHOLE_FORMAT = re.compile(r"(%[YmdHMSjwWs])")

_COMPARISONS = (exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE, exp.NullSafeEQ, exp.NullSafeNEQ)
_ORDERING = (exp.GT, exp.GTE, exp.LT, exp.LTE, exp.Between)
_ARITHMETIC = (exp.Add, exp.Sub, exp.Mul, exp.Div, exp.Mod, exp.Neg)
_OF_NUMBERS = (exp.Sum, exp.Avg, exp.Abs, exp.Round)
_OF_TEXT = (
    *(exp.Like, exp.ILike, exp.Substring, exp.Length, exp.Upper, exp.Lower, exp.StrPosition, exp.Replace, exp.Trim),
    *(exp.DPipe, exp.GroupConcat),
)
_CHOICES = (exp.Case, exp.If, exp.Coalesce, exp.Greatest, exp.Least)


def write_values(tree: exp.Query, schemas: Sequence[TableSchema], holds: Holds) -> None:
    """Make one of text and numbers where they meet, as SQLite does.

    Raises DialectError where the schema and the rows do not tell what it does.
    """
    _refuse_loose_text(tree, schemas)
    asked = (*_COMPARISONS, *_ARITHMETIC, *_OF_NUMBERS, *_OF_TEXT, *_CHOICES, exp.In, exp.Between, exp.Nullif, exp.Cast)
    nodes = [*tree.find_all(*asked), *tree.find_all(exp.SetOperation)]
    if not nodes:
        return
    with sqlglot_errors(DialectError, "its numbers and texts cannot be told apart: "):
        kinds = operand_kinds(tree, nodes, "sqlite", schemas)
    meeting = _Meeting(schemas, holds)
    for node, found in reversed(list(zip(nodes, kinds))):
        meeting.write(node, found)


def _refuse_loose_text(tree: exp.Query, schemas: Sequence[TableSchema]) -> None:
    """Text beside numbers in one column, whose copy is all text, can be selected and counted and nothing else."""
    for column in tree.find_all(exp.Column):
        base = base_of(column, schemas)
        if base is not None and base[1].sql_type == LOOSE and base[1].type == "text":
            if not isinstance(column.parent, (exp.Select, exp.Count, exp.Alias)):
                raise _untold(f"the column {base[1].name} holds text and numbers, as its declared type lets it", column)


class _Meeting:
    """How a node's operands become of one kind, by the schemas and the rows."""

    def __init__(self, schemas: Sequence[TableSchema], holds: Holds) -> None:
        self._schemas, self._holds = schemas, holds

    def write(self, node: exp.Expression, kinds: Sequence[Kind]) -> None:
        if isinstance(node, _COMPARISONS):
            self._compare(node, kinds)
        elif isinstance(node, exp.Nullif):
            if _is_mixed(kinds):
                raise _untold("it compares text with a number", node)
        elif isinstance(node, (exp.In, exp.Between)):
            self._compare_several(node, kinds)
        elif isinstance(node, exp.SetOperation):
            _refuse_mixed(node, list(zip(*[iter(kinds)] * 2)))
        elif isinstance(node, _CHOICES):
            self._choose(node, kinds)
        elif isinstance(node, (*_ARITHMETIC, *_OF_NUMBERS)):
            for operand, kind in zip(operands(node), kinds):
                if kind == "text":
                    sql_type = self._number_type(operand, node)
                    write_around(operand, lambda text, to=sql_type: cast_to(text, to))
                elif kind == "boolean" and not isinstance(node, exp.Sum):
                    write_around(operand, lambda truth: cast_to(truth, "INT"))
        elif isinstance(node, _OF_TEXT):
            for operand, kind in zip(operands(node), kinds):
                self._make_text(operand, kind)
        elif isinstance(node, exp.Cast) and node.to.is_type(*exp.DataType.TEXT_TYPES):
            self._check_text(node.this, kinds[0])

    def _compare(self, node: exp.Expression, kinds: Sequence[Kind]) -> None:
        left, right = node.this, node.expression
        for name, made in zip(("this", "expression"), self._alike(left, right, *kinds[:2], node)):
            node.set(name, made)

    def _compare_several(self, node: exp.Expression, kinds: Sequence[Kind]) -> None:
        this, *others = operands(node)
        told = node.sql("sqlite")
        is_query = bool(node.args.get("query"))
        for other, kind in zip(others, kinds[1:]):
            other = _listed(other) if is_query else other
            parent, key, index = other.parent, other.arg_key, other.index
            kept, made = self._alike(this, other, kinds[0], kind, node)
            if kept is not this:
                if not is_query:
                    raise _untold("it compares text with numbers", told)
                node.set("this", kept)
            if made is not other:
                if isinstance(other, exp.Subquery) and is_query:  # of several rows
                    raise _untold("it compares text with numbers", told)
                assert parent is not None and key is not None
                parent.set(key, made, index)

    def _alike(
        self, left: exp.Expression, right: exp.Expression, kind: Kind, other: Kind, node: exp.Expression
    ) -> tuple[exp.Expression, exp.Expression]:
        """Both sides of a comparison as values of one kind; those that need no change as they are."""
        if kind == "text" and other in _NUMBERS:
            return self._text_and_number(left, right, other, node)
        if other == "text" and kind in _NUMBERS:
            made = self._text_and_number(right, left, kind, node)
            return made[1], made[0]
        if {kind, other} == {"text", "unknown"} and not any(isinstance(v.unnest(), exp.Null) for v in (left, right)):
            raise _untold("it compares text with what may be a number", node)
        if kind == other == "text" and isinstance(node, _ORDERING):
            self._check_order(left, right, node)
        return left, right

    def _check_order(self, left: exp.Expression, right: exp.Expression, node: exp.Expression) -> None:
        """Refuse text beside a column of text that is declared as numbers, where it may become a number in SQLite: all
        text is greater than that."""
        for value, other in ((left.unnest(), right.unnest()), (right.unnest(), left.unnest())):
            base = base_of(value, self._schemas) if isinstance(value, exp.Column) else None
            if base is not None and base[1].sql_type == TEXT_OF_NUMBERS and self._may_spell_a_number(other):
                raise _untold(
                    f"the column {base[1].name} is declared as numbers and holds text, and {other.sql('sqlite')} may "
                    "be a number beside it, than which all text is greater",
                    node,
                )

    def _may_spell_a_number(self, text: exp.Expression) -> bool:
        """Of a literal, a column or part of a date; what else is computed seldom is one, and is taken for text."""
        if isinstance(text, exp.Literal):
            return re.fullmatch(_PADDED, text.name) is not None
        if isinstance(text, exp.Column):
            return not always(text, _spells_none, self._schemas, self._holds)
        return is_whole_text(text)

    def _text_and_number(
        self, text: exp.Expression, number: exp.Expression, kind: Kind, node: exp.Expression
    ) -> tuple[exp.Expression, exp.Expression]:
        """A comparison's text and number, where SQLite makes one of the other by their affinities."""
        of_text, of_number = affinity(text, self._schemas), affinity(number, self._schemas)
        if "unknown" in (of_text, of_number):
            raise _untold("it compares text with a number", node)
        if of_number == "number":
            return self._spelt(text, node), number
        if of_text == "text" and (spelt := _spelling(number)) is not None:
            return text, exp.Literal.string(spelt)
        if of_text == "text" and kind == "whole":
            return text, cast_to(number, "TEXT")
        raise _untold("it compares text with a number, and in SQLite those are never equal", node)

    def _spelt(self, text: exp.Expression, node: exp.Expression) -> exp.Expression:
        """The number that a text spells; of one that spells none SQLite makes none."""
        plain = text.unnest()
        if isinstance(plain, exp.Literal) and re.fullmatch(_PADDED, plain.name):
            return _literal(plain.name.strip())
        if is_whole_text(plain) or always(plain, matches(_WHOLE_SPELT), self._schemas, self._holds):
            return cast_to(text, "BIGINT")
        if always(plain, matches(_SPELT), self._schemas, self._holds):
            return cast_to(text, "DECIMAL")
        raise _untold(f"{text.sql('sqlite')} is compared with a number and is not always one", node)

    def _number_type(self, text: exp.Expression, node: exp.Expression) -> str:
        """What to cast a text to for the number that it begins with, which is 0 where it begins with none."""
        if isinstance(text.parent, exp.Distinct):
            raise _untold("it takes texts that spell one number for different ones", node)
        if isinstance(node, exp.Abs):
            return "DOUBLE"
        plain = text.unnest()
        if is_whole_text(plain) or always(plain, matches(_WHOLE_SPELT), self._schemas, self._holds):
            return "BIGINT"
        return "DECIMAL"

    def _make_text(self, operand: exp.Expression, kind: Kind) -> None:
        self._check_text(operand, kind)
        if kind in _NUMBERS:
            write_around(operand, lambda number: cast_to(number, "TEXT"))

    def _check_text(self, number: exp.Expression, kind: Kind) -> None:
        if kind in ("text", "whole", "temporal") or isinstance(number.unnest(), exp.Null):
            return
        column = base_of(number.unnest(), self._schemas) if isinstance(number.unnest(), exp.Column) else None
        is_plain = column is not None and column[1].sql_type == "DOUBLE"
        if not is_plain or not always(number, _is_short, self._schemas, self._holds):
            raise DialectError(
                f"makes text of {number.sql('sqlite')}, which SQLite and DuckDB may write in different ways"
            )

    def _choose(self, node: exp.Expression, kinds: Sequence[Kind]) -> None:
        of_values = len(choices(node))
        if _is_mixed([k for k, value in zip(kinds, choices(node)) if not isinstance(value.unnest(), exp.Null)]):
            raise _untold("it is text in some rows and a number in others", node)
        if _is_mixed(kinds[of_values:]):
            raise _untold("it compares text with a number", node)


def _listed(query: exp.Expression) -> exp.Expression:
    """What an IN's query selects, where that can be written in another way without a change to its rows."""
    inner = query.unnest()
    if not isinstance(inner, exp.Select) or len(inner.selects) > 1 or inner.is_star or inner.args.get("limit"):
        return query
    return query if isinstance(inner.selects[0], exp.Alias) else inner.selects[0]


def _refuse_mixed(node: exp.Expression, columns: Sequence[Sequence[Kind]]) -> None:
    if any(map(_is_mixed, columns)):
        raise _untold("a column of it is text on one side and a number on the other", node)


def _is_mixed(kinds: Sequence[Kind]) -> bool:
    return "text" in kinds and not (_NUMBERS | {"unknown"}).isdisjoint(kinds)


def is_whole_text(node: exp.Expression) -> bool:
    """Whether a value is part of a date, so that its text is NULL or spells a whole number."""
    return isinstance(node, exp.TimeToStr) and _WHOLE_FORMAT.fullmatch(node.args["format"].name) is not None


def write_cast_of_text(node: exp.Cast, schemas: Sequence[TableSchema], holds: Holds) -> None:
    """A cast of text to a number takes the number that the text begins with, or 0: as plainly as the rows let it."""
    to_whole = node.to.is_type(*exp.DataType.INTEGER_TYPES)
    spelt, prefix = (_WHOLE_SPELT, _WHOLE_PREFIX) if to_whole else (_SPELT, _REAL_PREFIX)
    sql_type = "BIGINT" if to_whole else "DOUBLE"
    text = node.this.unnest()
    if isinstance(text, exp.Cast) and text.meta_get(ADDED):  # of seconds, which are whole
        node.set("this", text.this)
    elif is_whole_text(text) or always(text, matches(spelt), schemas, holds):
        if not to_whole:
            node.set("to", exp.DataType.build(sql_type))
    elif always(text, _spells_or_begins_with_none(spelt, sql_type), schemas, holds):
        number = exp.TryCast(this=text.copy(), to=exp.DataType.build(sql_type))
        or_zero = exp.Coalesce(this=number, expressions=[exp.Literal.number(0)])
        given = exp.Not(this=exp.Is(this=text.copy(), expression=exp.Null()))
        node.replace(exp.Case(ifs=[exp.If(this=given, true=or_zero)]))
    else:
        write_around(node.this, lambda value: _extracted(value, prefix))
        node.set("to", exp.DataType.build(sql_type))


def _spells_or_begins_with_none(spelt: str, sql_type: str) -> Callable[[str], str]:
    """SQL that tests whether a text spells a number, or has no number where it begins."""

    def test(text: str) -> str:
        begins = f"REGEXP_MATCHES({text}, '^\\s*[-+]?\\.?\\d')"
        return f"{matches(spelt)(text)} OR (NOT {begins} AND TRY_CAST({text} AS {sql_type}) IS NULL)"

    return test


def matches(pattern: str) -> Callable[[str], str]:
    """SQL that tests whether all of a text fits a pattern."""
    return lambda text: f"REGEXP_FULL_MATCH({text}, '{pattern}')"


def _spells_none(text: str) -> str:
    return f"NOT {matches(_PADDED)(text)}"


def _is_short(number: str) -> str:
    """That a number that is no 0 has so few digits that SQLite and DuckDB write the same."""
    return f"ROUND({number}, 4) = {number} AND ABS({number}) BETWEEN 0.001 AND 1000000000"


def _extracted(text: exp.Expression, pattern: str) -> exp.Expression:
    # The 0 at the end is found where no number stands at the beginning.
    zero = exp.DPipe(this=text, expression=exp.Literal.string(" 0"), safe=True)
    return exp.Anonymous(this="REGEXP_EXTRACT", expressions=[zero, exp.Literal.string(pattern)])


def _spelling(number: exp.Expression) -> str | None:
    """The text that SQLite makes of a number that is written out; None where it is not, or has many digits."""
    number = number.unnest()
    sign, literal = ("-", number.this.unnest()) if isinstance(number, exp.Neg) else ("", number)
    if not isinstance(literal, exp.Literal) or literal.is_string:
        return None
    if re.fullmatch(r"0|[1-9]\d{0,17}", literal.name):
        return sign + literal.name if literal.name != "0" else "0"
    if re.fullmatch(r"(0|[1-9]\d{0,9})\.\d{1,4}", literal.name) and float(literal.name) >= 0.001:
        return sign + repr(float(literal.name))
    return None


def _literal(number: str) -> exp.Expression:
    literal = exp.Literal.number(number.lstrip("+-"))
    return exp.Neg(this=literal) if number.startswith("-") else literal


def cast_to(node: exp.Expression, sql_type: str) -> exp.Cast:
    """A cast that SQLite's query has not, so that its value has no affinity."""
    cast = exp.Cast(this=node, to=exp.DataType.build(sql_type))
    cast.meta[ADDED] = True
    return cast


def _untold(why: str, node: exp.Expression | str) -> DialectError:
    told = node if isinstance(node, str) else node.sql("sqlite")
    return DialectError(f"{why}, so what SQLite makes of it cannot be told: {told}")
