"""Expressions: which names may stand where, and of which kind."""

from __future__ import annotations

import functools

from t2s_assets.text2sql.decoding.scopes import kinds
from t2s_assets.text2sql.decoding.scopes.calls import Calls
from t2s_assets.text2sql.decoding.scopes.frames import Value
from t2s_assets.text2sql.decoding.scopes.kinds import (
    BOOLEAN,
    DATE,
    DAY,
    INTEGER,
    NULL,
    NUMBER,
    NUMERIC,
    OTHER,
    PLAIN,
    TEMPORAL,
    TEXT,
    TIME,
    TIMESTAMP,
)
from t2s_assets.text2sql.decoding.scopes.reader import (
    INTEGER_LITERAL,
    NUMBER_LITERAL,
    STRING_LITERAL,
    is_fraction,
)

_COMPARISONS = ("=", "<>", "!=", ">", "<", ">=", "<=")
_SCALAR = NUMERIC | TEXT | TEMPORAL


class Expressions(Calls):
    """Reads expressions, with what is in calls."""

    def expression(self, expected: int) -> Value:
        """Read an expression of one of the expected kinds."""
        value = self._test(expected)
        while expected & value.kinds & BOOLEAN and self.take(("AND", "OR")):
            value.narrow(BOOLEAN)
            self._test(BOOLEAN)
            value = Value(BOOLEAN, atom=False)
        self.require(value.narrow(expected))
        return value

    def _test(self, expected: int) -> Value:
        if not expected & BOOLEAN:
            return self.operand(expected)
        if self.peek() == "NOT":
            self.advance()
            expected = BOOLEAN
        left = self.operand(expected | _SCALAR)
        words: set[str] = set()
        if left.kinds & _SCALAR:
            words.update((*_COMPARISONS, "BETWEEN", "IN", "NOT"))
        if left.kinds & TEXT:
            words.update(("LIKE", "ILIKE", "SIMILAR"))
        if left.kinds & BOOLEAN and left.column:
            words.update(_COMPARISONS)
        if left.kinds & (_SCALAR | BOOLEAN) and (left.atom or left.kinds & _SCALAR):
            words.add("IS")
        operator = self.take(words)
        if operator:
            self._compare(left, operator)
            left = Value(BOOLEAN, atom=False)
        self.require(left.narrow(expected))
        return left

    def _compare(self, left: Value, operator: str) -> None:
        """Read what follows a comparison's first word."""
        if operator == "NOT":
            operator = self.need("BETWEEN", "IN", *(("LIKE", "ILIKE") if left.kinds & TEXT else ()))
        if operator == "IS":
            negated = self.take(("NOT",))
            after = self.need("NULL", "DISTINCT", *(("TRUE", "FALSE") if left.kinds & BOOLEAN and not negated else ()))
            if after in ("TRUE", "FALSE"):
                left.narrow(BOOLEAN)
            if after != "DISTINCT":
                return
            self.need("FROM")
        if operator in ("LIKE", "ILIKE", "SIMILAR"):
            if operator == "SIMILAR":
                self.need("TO")
            left.narrow(TEXT)
            self.operand(TEXT)
            if operator != "SIMILAR" and self.take(("ESCAPE",)):
                self.need_literal(STRING_LITERAL)
        elif operator == "BETWEEN":
            self._like(left)
            self.need("AND")
            self._like(left)
        elif operator == "IN":
            self.need("(")
            if self.take(("SELECT",)):
                self._among(left)
            else:
                self._like(left)
                while self.take((",",)):
                    self._like(left)
            self.need(")")
        elif operator != "IS" and left.kinds & _SCALAR and self.take(("ANY", "ALL")):
            self.need("(")
            self.need("SELECT")
            self._among(left)
            self.need(")")
        elif left.kinds & BOOLEAN and left.column and self.take(("TRUE", "FALSE")):
            left.narrow(BOOLEAN)
        else:
            self._like(left)

    def _among(self, left: Value) -> None:
        """Read a sub-query, after its SELECT, whose one column goes with `left`."""
        left.narrow(_SCALAR)
        ((_, kind),) = self.subquery((kinds.family(left.kinds),))
        self.require(left.narrow(kinds.family(kind)))

    def _like(self, left: Value) -> None:
        """Read an operand that goes with `left`. Days and times may be strings that spell one."""
        left.narrow(_SCALAR)
        if left.kinds & TEMPORAL:
            if self.ended:
                begun = (self.partial or "'")[1:]
                if kinds.begins_temporal(begun) & left.kinds:
                    self.words.add(STRING_LITERAL)
            elif self.peek()[0] == "'" and not left.kinds & TEXT:
                self.require(left.narrow(kinds.spelt_temporal(self.peek()[1:-1])))
                self.advance()
                return
        right = self.operand(kinds.family(left.kinds))
        self.require(self.alike([left, right]))

    def alike(self, values: list[Value]) -> int:
        """Settle on the first family of kinds that all the values may have; the kind of them all, or 0."""
        for family in kinds.FAMILIES:
            if all(value.kinds & family for value in values):
                for value in values:
                    value.narrow(family)
                return kinds.common(functools.reduce(int.__or__, (value.kinds for value in values)))
        return 0

    def operand(self, expected: int) -> Value:
        """Read a sum, a concatenation, or a date with intervals."""
        first = expected | (DATE if expected & INTEGER else 0) | (DAY if expected & (OTHER | TIMESTAMP) else 0)
        negated = bool(expected & NUMERIC) and self.take(("-",)) != ""
        value = self.atom(expected & NUMERIC if negated else first)
        if negated:
            value = Value(value.kinds, value.ref, atom=False)
        while True:
            words: set[str] = set()
            if value.kinds & expected & NUMERIC:
                words.update(("+", "-", "*", "//", "%", *(("/",) if expected & NUMBER else ())))
            if value.kinds & expected & TEXT:
                words.add("||")
            if _shifted(value.kinds) & expected:
                words.update("+-")
            if value.atom and value.kinds & DAY and self._difference(value) & expected:
                words.add("-")
            operator = self.take(words)
            if not operator:
                break
            left = value
            value = self._combined(left, operator, expected)
            if left.kinds & TEMPORAL and not value.kinds & TEMPORAL:
                break  # days between two dates go into no sum
        self.require(value.narrow(expected))
        return value

    def _combined(self, left: Value, operator: str, expected: int) -> Value:
        """Read what follows an operator between `left` and it."""
        if operator == "||":
            left.narrow(TEXT)
            self.atom(TEXT | NUMERIC | TEMPORAL)
            return Value(TEXT, atom=False)
        if left.kinds & TEMPORAL:
            if _shifted(left.kinds) & expected and self.take(("INTERVAL",)):
                left.narrow((DAY if expected & TIMESTAMP else 0) | (TIME & expected))
                self._interval()
                return Value(_shifted(left.kinds), atom=False)
            if operator == "-" and left.atom and left.kinds & DAY and not (left.kinds & NUMERIC):
                left.narrow(DAY if expected & OTHER else DATE)
                difference = self._difference(left) & expected
                right = self.atom((DATE if difference == INTEGER else DAY) if difference else 0)
                both = left.kinds | right.kinds
                return Value(INTEGER if both == DATE and expected & INTEGER else OTHER, atom=False)
            self.require(left.kinds & NUMERIC)
        left.narrow(NUMERIC)
        whole = INTEGER if not expected & NUMBER else NUMERIC
        right = self.operand_term(whole)
        whole_result = operator != "/" and not (left.kinds | right.kinds) & NUMBER
        return Value(INTEGER if whole_result else NUMBER, atom=False)

    def _difference(self, left: Value) -> int:
        """What a day less another may be: a number of days, or an interval, which is of no use but to be shown."""
        return INTEGER | OTHER if left.kinds & DATE else OTHER

    def operand_term(self, expected: int) -> Value:
        """Read a number, perhaps with a sign."""
        self.take(("-",))
        return self.atom(expected)

    def _interval(self) -> None:
        if self.peek()[:1] == "'":
            self.need_literal(STRING_LITERAL)
        else:
            if self.ended:
                self.words.add(STRING_LITERAL)
            self.need_literal(INTEGER_LITERAL)
        self.need(*kinds.UNITS)

    def atom(self, expected: int) -> Value:
        """Read what no operator is in, or what is in brackets."""
        if self.ended:
            self._offer(expected)
            self.stop()
        lexeme = self.peek()
        if lexeme[0].isdigit():
            kind = NUMBER if is_fraction(lexeme) else INTEGER
            self.require(expected & (NUMBER | kind))
            self.advance()
            return self.literal(kind)
        if lexeme[0] == "'":
            self.require(expected & TEXT)
            self.advance()
            return self.literal(TEXT)
        if lexeme == "(":
            return self._bracketed(expected)
        if self.peek(1) == "(" and lexeme[0] != '"' and lexeme != "CASE":
            return self.call(expected)
        if lexeme == "CASE":
            self.require(expected & PLAIN)
            return self._case(expected & PLAIN)
        if lexeme in ("TRUE", "FALSE"):
            self.require(expected & BOOLEAN)
            self.advance()
            return self.literal(BOOLEAN)
        if lexeme == "NULL":
            self.require(expected & NULL)
            self.advance()
            return self.literal(NULL)
        if lexeme in ("CURRENT_DATE", "CURRENT_TIMESTAMP"):
            self.require(expected & kinds.CONSTANTS[lexeme])
            self.advance()
            return Value(kinds.CONSTANTS[lexeme])
        if lexeme == "DATE" and self._before_string():
            self.require(expected & DATE)
            self.advance()
            self.need_literal(STRING_LITERAL)
            return Value(DATE)
        return self.column(expected & ~NULL)

    def _before_string(self) -> bool:
        """Whether a string follows the next lexeme, as far as the text tells."""
        after = self.peek(1) or (self.partial or "")
        return after[:1] == "'" or (not after and self.at + 1 == len(self.lexemes))

    def _offer(self, expected: int) -> None:
        """Note what an expression of the expected kinds may begin with."""
        self.words.update(kinds.openings(expected, self.aggregates_allowed, self.windows_allowed))
        if expected & PLAIN:
            self.words.add("(")
        if self.at_ordinal():
            self.words.update(self.ordinals)
        elif expected & NUMERIC:
            self.words.add(NUMBER_LITERAL if expected & NUMBER else INTEGER_LITERAL)
        if expected & TEXT:
            self.words.add(STRING_LITERAL)
        self.offer_columns(expected & ~NULL)

    def _bracketed(self, expected: int) -> Value:
        self.require(expected & PLAIN)
        self.advance()
        if expected & _SCALAR and self.take(("SELECT",)):
            ((_, kind),) = self.subquery((expected & _SCALAR,), single=True)
            value = Value(kind)
        else:
            inner = self.expression(expected & PLAIN)
            value = Value(inner.kinds, inner.ref)
        self.need(")")
        return value

    def _case(self, expected: int) -> Value:
        """Read a CASE, whose results are of one family, and not all NULL."""
        self.advance()
        subject = None
        if not self.take(("WHEN",)):
            subject = self.expression(_SCALAR)
            self.need("WHEN")
        results: list[Value] = []
        while True:
            if subject is None:
                self.expression(BOOLEAN)
            else:
                self.require(self.alike([subject, self.operand(kinds.family(subject.kinds))]))
            self.need("THEN")
            if not self.take(("NULL",)):
                results.append(self.result(results, expected))
            if not self.take(("WHEN",)):
                break
        if self.take(("ELSE",)) and not (results and self.take(("NULL",))):
            results.append(self.result(results, expected))
        self.require(results)
        self.need("END")
        return self.one_of(results)

    def result(self, others: list[Value], expected: int) -> Value:
        """Read one of several expressions of one family."""
        return self.expression(expected & kinds.family(others[0].kinds) if others else expected)

    def one_of(self, values: list[Value]) -> Value:
        """The value of one of several."""
        if len(values) == 1:
            return Value(values[0].kinds, values[0].ref)
        kind = self.alike(values)
        self.require(kind)
        return Value(kind)


def _shifted(kind: int) -> int:
    """The kinds that days and times have with an interval added."""
    return (TIMESTAMP if kind & DAY else 0) | (kind & TIME)
