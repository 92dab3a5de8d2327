"""Calls of functions, aggregates and windows: their arguments, and where they may stand."""

from __future__ import annotations

from abc import abstractmethod

from t2s_assets.text2sql.decoding.scopes import kinds
from t2s_assets.text2sql.decoding.scopes.frames import Columns, Value
from t2s_assets.text2sql.decoding.scopes.kinds import ANY, BOOLEAN, DAY, INTEGER, NULL, NUMBER, NUMERIC, PLAIN, TEXT
from t2s_assets.text2sql.decoding.scopes.names import Names
from t2s_assets.text2sql.decoding.scopes.reader import INTEGER_LITERAL

_FRAME_WORDS = ("BETWEEN", "UNBOUNDED", "PRECEDING", "CURRENT", "ROW", "AND", "FOLLOWING")


class Calls(Names):
    """Reads what begins with a word and a bracket."""

    @abstractmethod
    def expression(self, expected: int) -> Value: ...

    @abstractmethod
    def result(self, others: list[Value], expected: int) -> Value: ...

    @abstractmethod
    def one_of(self, values: list[Value]) -> Value: ...

    @abstractmethod
    def subquery(self, wanted: tuple[int, ...] | None, *, single: bool = False) -> Columns: ...

    def call(self, expected: int) -> Value:
        """Read a call of one of the expected kinds."""
        name = self.peek()
        self.require(name in kinds.openings(expected, self.aggregates_allowed, self.windows_allowed))
        self.advance()
        self.advance()
        if name in ("CAST", "TRY_CAST"):
            return self._cast(expected)
        if name == "EXISTS":
            self.need("SELECT")
            self.subquery(None)
            self.need(")")
            return Value(BOOLEAN)
        if name in kinds.CONSTANTS:
            self.need(")")
            return Value(kinds.CONSTANTS[name])
        if name == "EXTRACT":
            epoch = self.need(*kinds.PARTS).upper() == "EPOCH"
            self.need("FROM")
            self.expression(DAY)
            self.need(")")
            return Value(NUMBER if epoch else INTEGER)
        if name in kinds.CHOICES:
            return self._choice(name, expected)
        if name in kinds.RANKINGS:
            if name == "NTILE":
                self.need_literal(INTEGER_LITERAL)
            self.need(")")
            self.need("OVER")
            self._window()
            return Value(NUMBER if name in ("PERCENT_RANK", "CUME_DIST") else INTEGER)
        self.require(name in kinds.FUNCTIONS)
        return self._function(name, expected)

    def _cast(self, expected: int) -> Value:
        value = self.expression(kinds.cast_sources(expected))
        self.need("AS")
        targets = kinds.cast_targets(value.kinds) & expected
        name = self.need(*(n for n, kind in kinds.CAST_TYPES.items() if kind & targets))
        kind = kinds.CAST_TYPES[name]
        value.narrow(kinds.cast_sources(kind))
        if self.take(("(",)):
            self.need_literal(INTEGER_LITERAL)
            self.need(",")
            self.need_literal(INTEGER_LITERAL)
            self.need(")")
        self.need(")")
        return Value(kind)

    def _choice(self, name: str, expected: int) -> Value:
        """Read what gives one of its arguments: COALESCE and the like."""
        expected &= PLAIN if name in kinds.CHOICES[:3] else NUMERIC | TEXT
        if name == "IF":
            self.expression(BOOLEAN)
            self.need(",")
        values = [self.result([], expected)]
        self.need(",")
        values.append(self.result(values, expected))
        while name in kinds.CHOICES[:3] and self.take((",",)):
            values.append(self.result(values, expected))
        self.need(")")
        return self.one_of(values)

    def _function(self, name: str, expected: int) -> Value:
        signature = kinds.FUNCTIONS[name]
        if not (signature.aggregate or signature.window):
            self._arguments(name, expected)
            return Value(signature.result)
        frame = self.frame
        saved = frame.plain, frame.aggregates, frame.in_aggregate, self.aggregates_allowed, self.windows_allowed
        before = frame.aggregates
        may_window = signature.window and self.windows_allowed
        self.windows_allowed = False
        if signature.aggregate:
            self.aggregates_allowed = self.aggregates_allowed and may_window
            frame.plain, frame.aggregates, frame.in_aggregate = [], False, True
        # Windows give no truth values.
        first = self._arguments(name, expected if saved[3] or not may_window else expected & ~BOOLEAN)
        inside, nested = frame.plain, frame.aggregates
        frame.plain, frame.aggregates, frame.in_aggregate, self.aggregates_allowed, self.windows_allowed = saved
        kind = Value(signature.result) if signature.result else Value(first.kinds, first.ref)
        if signature.aggregate and self.aggregates_allowed and not nested:
            if not self._may_window(may_window, inside):
                may_window = False
            if self.take(("FILTER",)):
                self._filter()
                may_window = False
        if may_window and (not signature.aggregate or nested or not self.aggregates_allowed or self.take(("OVER",))):
            if self.trail[-1] != "OVER":
                self.need("OVER")
            self._window()
            frame.plain += inside if signature.aggregate else []
            frame.aggregates = before or nested
            return kind
        self.require(self.aggregates_allowed and not nested)
        frame.aggregates = True
        return kind

    def _may_window(self, may_window: bool, inside: list) -> bool:
        """Whether an aggregate's arguments may stand outside of one, as they do in a window."""
        frame = self.frame
        if not may_window or frame.clause == "items" or not (frame.grouped or frame.aggregates):
            return may_window
        return all((ref.key,) in frame.keys for ref in inside)

    def _arguments(self, name: str, expected: int) -> Value:
        """Read a function's arguments and the bracket after them; gives the first one's value."""
        signature = kinds.FUNCTIONS[name]
        first = Value(0)
        if name == "COUNT" and self.take(("*",)):
            self.need(")")
            return first
        distinct = signature.aggregate and self.take(("DISTINCT",))
        for number, kind in enumerate(signature.arguments):
            if number >= signature.least:
                if not self.take((",",)):
                    break
            elif number:
                self.need(",")
            if number == 0 and not signature.result:
                first = self.expression(kind & expected)
            else:
                self.expression(kind)
        while signature.repeats and self.take((",",)):
            self.expression(signature.arguments[-1])
        if name in kinds.LISTINGS and not distinct and self.take(("ORDER",)):
            self._keys()
        self.need(")")
        return first

    def _filter(self) -> None:
        self.need("(")
        self.need("WHERE")
        frame = self.frame
        saved = frame.plain, frame.in_aggregate, self.aggregates_allowed, self.windows_allowed
        frame.plain, frame.in_aggregate = [], True
        self.aggregates_allowed = self.windows_allowed = False
        self.expression(BOOLEAN)
        frame.plain, frame.in_aggregate, self.aggregates_allowed, self.windows_allowed = saved
        self.need(")")

    def _window(self) -> None:
        """Read a window, after its OVER."""
        self.need("(")
        saved, self.windows_allowed, self.in_window = (self.windows_allowed, self.in_window), False, True
        if self.take(("PARTITION",)):
            self.need("BY")
            self.expression(ANY & ~NULL)
            while self.take((",",)):
                self.expression(ANY & ~NULL)
        if self.take(("ORDER",)):
            self._keys()
        if self.take(("ROWS", "RANGE")):
            while self.take(_FRAME_WORDS) or self._frame_number():
                pass
        self.windows_allowed, self.in_window = saved
        self.need(")")
        self.frame.windows = True

    def _frame_number(self) -> bool:
        if self.ended:
            self.words.add(INTEGER_LITERAL)
        return self.peek()[:1].isdigit() and bool(self.advance())

    def _keys(self) -> None:
        """Read the keys of an ORDER BY, after its ORDER, that is not a SELECT's own."""
        self.need("BY")
        while True:
            self.expression(ANY & ~NULL)
            self.direction()
            if not self.take((",",)):
                break

    def direction(self) -> None:
        self.take(("ASC", "DESC"))
        if self.take(("NULLS",)):
            self.need("FIRST", "LAST")
