"""Queries: which sources a FROM still needs, which groups, and how many columns."""

from __future__ import annotations

from typing import Any

from t2s_assets.text2sql.decoding.scopes.expressions import Expressions
from t2s_assets.text2sql.decoding.scopes.frames import Columns, Frame, Item, Ref, Source, Value, alike, fits, signature
from t2s_assets.text2sql.decoding.scopes.kinds import ANY, BOOLEAN, NULL, common, family
from t2s_assets.text2sql.decoding.scopes.reader import INTEGER_LITERAL, is_name

_SETS = ("UNION", "INTERSECT", "EXCEPT")
_OUTER = ("INNER", "LEFT", "RIGHT", "FULL")


class Queries(Expressions):
    """Reads a statement."""

    def statement(self) -> None:
        """Read all of the text."""
        if self.take(("WITH",)):
            self._cte()
            while self.take((",",)):
                self._cte()
        self._query(None, None, {})
        if not self.ended or self.partial is not None:
            self.stop()

    def subquery(self, wanted: tuple[int, ...] | None, *, single: bool = False) -> Columns:
        """Read a query within an expression, after its first SELECT. `single`: it gives one row at most, on any data.

        Such a query is one SELECT that aggregates without groups, reads no table, or ends with LIMIT 1.
        """
        return self._query(self.frame, wanted, {}, begun=True, single=single)

    def _cte(self) -> None:
        name = self.need_new_name(lambda name: name not in self.ctes)
        names: list[str] = []
        if self.take(("(",)):
            names.append(self.need_new_name(lambda name: True))
            while self.take((",",)):
                names.append(self.need_new_name(lambda name: name not in names))
            self.need(")")
        self.need("AS")
        self.need("(")
        columns = self._query(None, (ANY,) * len(names) if names else None, {})
        self.need(")")
        if names:
            columns = tuple((name, kind) for name, (_, kind) in zip(names, columns))
        self.tables[name] = columns
        self.ctes.add(name)
        for column, kind in columns:
            self.known[column] = self.known.get(column, 0) | kind

    def _query(
        self,
        outer: Frame | None,
        wanted: tuple[int, ...] | None,
        limits: dict[str, int],
        *,
        begun: bool = False,
        single: bool = False,
    ) -> Columns:
        """Read SELECTs and set operations on them; gives the columns."""
        first = self._core(outer, wanted, limits, begun=begun, single=single)
        if single:
            return first
        combined = False
        while self.take(_SETS):
            combined = True
            self.take(("ALL",))
            second = self._core(outer, alike(first), {}, begun=False, alone=False)
            first = tuple((name, common(kind | other)) for (name, kind), (_, other) in zip(first, second))
        if combined and self.take(("ORDER",)):
            self._order_of_outputs(first)
        self._limit()
        return first

    def _core(
        self,
        outer: Frame | None,
        wanted: tuple[int, ...] | None,
        limits: dict[str, int],
        *,
        begun: bool,
        alone: bool = True,
        single: bool = False,
    ) -> Columns:
        if not begun:
            if self.take(("(",)):
                columns = self._query(outer, wanted, limits)
                self.need(")")
                return columns
            self.need("SELECT")
        saved = self.frame, self.aggregates_allowed, self.windows_allowed, self.in_window, self.start, self.ordinals
        following, self.following, self.in_window, self.ordinals = self.following, [], False, None
        self.frame = frame = Frame(outer, limits)
        self._select(frame, wanted, alone, single)
        self.frame, self.aggregates_allowed, self.windows_allowed, self.in_window, self.start, self.ordinals = saved
        self.following = following
        columns = frame.outputs()
        self.require(fits(columns, wanted))
        return columns

    def _select(self, frame: Frame, wanted: tuple[int, ...] | None, alone: bool, single: bool) -> None:
        self.take(("DISTINCT",))
        self._items(frame, wanted)
        if self.take(("FROM",)):
            frame.clause = "from"
            self._from(frame, wanted)
        self.require(not frame.wanted or frame.sources)
        frame.settle()
        frame.aliases = {item.name: item for item in frame.items if item.name and item.text[-2:-1] == ["AS"]}
        if frame.sources:
            self._clauses(frame, alone)
        elif alone and self.take(("ORDER",)):
            self._order(frame)
        if single and frame.sources and (frame.grouped or not frame.aggregates):
            self.need("LIMIT")
            self.need("1")
        else:
            self._limit()

    # The select list -------------------------------------------------------------------------------------

    def _items(self, frame: Frame, wanted: tuple[int, ...] | None) -> None:
        while True:
            number = len(frame.places)
            self._item(frame, wanted, ANY if wanted is None else wanted[min(number, len(wanted) - 1)])
            more = wanted is None or (len(frame.places) < len(wanted) and not frame.stars)
            if not (more and self.take((",",))):
                break
        self.require(wanted is None or frame.stars or len(frame.places) == len(wanted))

    def _item(self, frame: Frame, wanted: tuple[int, ...] | None, expected: int) -> None:
        stars = not frame.aggregates and (wanted is None or not frame.places)
        if stars and self.take(("*",)):
            frame.stars.append("*")
            frame.places.append("*")
            return
        if wanted is None and not frame.aggregates and self.peek(1) == "." and is_name(self.peek()):
            if self.peek(2) == "*":
                name = self.name(self.schema.table_spellings)
                self.advance()
                self.advance()
                frame.wanted.append(Ref(name, "", ANY))
                frame.stars.append(name)
                frame.places.append(name)
                return
            if self.at + 2 >= len(self.lexemes):
                self.words.add("*")
        begin = len(self.trail)
        frame.plain, aggregates, windows = [], frame.aggregates, frame.windows
        frame.aggregates = frame.windows = False
        self.aggregates_allowed, self.windows_allowed = not frame.stars, True
        value = self.expression(expected & ~NULL if frame.outer is not None and wanted else expected)
        item = Item("", value, self.trail[begin:], frame.plain, frame.aggregates, frame.windows)
        frame.aggregates |= aggregates
        frame.windows |= windows
        item.name = value.ref.name if value.column and value.ref is not None else ""
        if self.take(("AS",)):
            item.name = self.need_new_name(lambda name: bool(frame.limits.get(name, ANY) & value.kinds))
            item.text += self.trail[-2:]
        if item.name in frame.limits:
            self.require(value.narrow(frame.limits[item.name]))
        frame.plain = []
        frame.items.append(item)
        frame.places.append(item)

    # FROM ------------------------------------------------------------------------------------------------

    def _from(self, frame: Frame, wanted: tuple[int, ...] | None) -> None:
        exact = wanted if frame.stars else None
        self._source(frame, exact, joined=False)
        while exact is None:
            if self.take((",",)):
                frame.operand = len(frame.sources)
                self._source(frame, None, joined=False)
                continue
            kind = self.take((*_OUTER, "CROSS", "JOIN"))
            if not kind:
                break
            if kind in _OUTER[1:]:
                self.take(("OUTER",))
            if kind != "JOIN":
                self.need("JOIN")
            self._source(frame, None, joined=kind != "CROSS")
            if kind != "CROSS":
                self._joined(frame)
        self.require(frame.satisfied())

    def _source(self, frame: Frame, exact: tuple[int, ...] | None, *, joined: bool) -> None:
        clashes = 1 if joined else 0
        if self.take(("(",)):
            columns = self._query(None, exact, self._limits(frame, joined))
            self.need(")")
            self.require(frame.suits(columns, clashes=clashes))
            alias = frame.unnamed()
            if self.take(("AS",)):
                alias = self.need_new_name(lambda name: frame.may_be_called(name, columns))
        else:
            usable = [n for n, c in self.tables.items() if frame.suits(c, clashes=clashes) and fits(c, exact)]
            table = alias = self.need_name(usable, self.schema.table_spellings)
            columns = self.tables[table]
            if self.take(("AS",)):
                alias = self.need_new_name(
                    # After another table's name the grammar knows that one's columns alone.
                    lambda name: (
                        (name == table or name not in self.schema.tables) and frame.may_be_called(name, columns)
                    )
                )
        self.require(frame.may_be_called(alias, columns))
        frame.sources.append(Source(alias, columns))

    def _limits(self, frame: Frame, joined: bool) -> dict[str, int]:
        """The kinds that columns of a derived table may have, by name; one of those there may come again to a USING."""
        limits: dict[str, int] = dict(frame.limits) if frame.stars else {}
        for ref in frame.wanted:
            if not ref.qualifier:
                there = frame.having(ref.name)
                again = joined and frame.joins(ref.name, ANY) and not any(frame.having(name) for name in limits)
                kinds = ref.kinds if not there else family(there[0].kinds[ref.name]) if again else 0
                limits[ref.name] = limits.get(ref.name, ANY) & kinds
        return limits

    def _joined(self, frame: Frame) -> None:
        """Read what joins the last source to those before it. One wanted name that both sides have has to be it."""
        right = frame.sources.pop()
        double = frame.clashes(right.columns)
        shared = [name for name, kind in right.kinds.items() if name and frame.joins(name, kind)]
        frame.sources.append(right)
        shared = [name for name in shared if name in double] if double else shared
        ways = (*(() if double else ("ON",)), *(("USING",) if shared else ()))
        if self.need(*ways) == "ON":
            self.aggregates_allowed = self.windows_allowed = False
            self.expression(BOOLEAN)
            return
        self.need("(")
        name = self.need_name(shared, self.schema.column_spellings)
        self.need(")")
        right.merged.add(name)

    # What comes after FROM -------------------------------------------------------------------------------

    def _clauses(self, frame: Frame, alone: bool) -> None:
        self.aggregates_allowed = self.windows_allowed = False
        if self.take(("WHERE",)):
            frame.clause, frame.plain = "where", []
            self.expression(BOOLEAN)
        if not frame.stars and self.take(("GROUP",)):
            frame.clause = "group"
            self._groups(frame)
        loose = [ref for item in frame.items for ref in item.plain]
        self.require(frame.grouped or not frame.aggregates or not (loose or frame.stars))
        aggregating = frame.grouped or frame.aggregates
        if aggregating and self.take(("HAVING",)):
            frame.clause, self.aggregates_allowed = "having", True
            self._element(frame, BOOLEAN)
        self.aggregates_allowed, self.windows_allowed = aggregating, frame.grouped or not frame.aggregates
        if self.take(("QUALIFY",)):
            frame.clause = "qualify"
            self._element(frame, BOOLEAN)
            self.require(frame.windows)
        if alone and self.take(("ORDER",)):
            self._order(frame)

    def _element(self, frame: Frame, expected: int) -> list[Any]:
        """Read an element of a clause after the groups, whose columns must be grouped by; gives its lexemes."""
        self.start, frame.plain = len(self.trail), []
        self.expression(expected)
        text = self.trail[self.start :]
        if frame.grouped or frame.aggregates:
            self.require(all(frame.is_covered(ref, text) for ref in frame.plain))
        self.following = []
        return text

    def _groups(self, frame: Frame) -> None:
        self.need("BY")
        frame.grouped = True
        clean = all(
            not (item.aggregates and item.plain) and (item.aggregates or not item.windows) for item in frame.items
        )
        if clean and self.take(("ALL",)):
            frame.keys = [signature(_expression(item)) for item in frame.items if not item.aggregates]
            return
        while True:
            if self.take(("ROLLUP", "CUBE")):
                self.need("(")
                self._group(frame)
                while self.take((",",)):
                    self._group(frame)
                self.need(")")
            else:
                self._group(frame)
            if not self.take((",",)):
                break
        self.require(all(frame.is_covered(ref, _expression(item)) for item in frame.items for ref in item.plain))

    def _group(self, frame: Frame) -> None:
        plain = {str(n): item for n, item in enumerate(frame.items, 1) if not (item.aggregates or item.windows)}
        self.start, self.ordinals, frame.plain = len(self.trail), tuple(plain), []
        value = self.expression(ANY & ~NULL)
        text = self.trail[self.start :]
        self.ordinals = None
        if len(text) == 1 and text[0] in plain:
            text = _expression(plain[text[0]])
        elif value.alias:
            text = _expression(frame.aliases[value.alias])
        else:
            self.require(not _is_constant(text))
        frame.keys.append(signature(text))

    def _order(self, frame: Frame) -> None:
        frame.clause = "order"
        self.need("BY")
        if self.take(("ALL",)):
            self.take(("ASC", "DESC"))
            return
        self.ordinals = tuple(str(n) for n in range(1, len(frame.outputs()) + 1))
        while True:
            text = self._element(frame, ANY & ~NULL)
            self.require((len(text) == 1 and text[0] in self.ordinals) or not _is_constant(text))
            self.direction()
            if not self.take((",",)):
                break
        self.ordinals = None

    def _order_of_outputs(self, columns: Columns) -> None:
        """Read the ORDER BY of a set operation: positions and names of its columns."""
        self.need("BY")
        numbers, names = [str(n) for n in range(1, len(columns) + 1)], [name for name, _ in columns if name]
        while True:
            if not self.take(numbers):
                self.need_name(names, self.schema.column_spellings)
            self.direction()
            if not self.take((",",)):
                break

    def _limit(self) -> None:
        if self.take(("LIMIT",)):
            self.need_literal(INTEGER_LITERAL)
        if self.take(("OFFSET",)):
            self.need_literal(INTEGER_LITERAL)


def _expression(item: Item) -> list[Any]:
    """An item without its alias."""
    return item.text[:-2] if item.text[-2:-1] == ["AS"] else item.text


def _is_constant(text: list[Any]) -> bool:
    """Whether an element is a literal, which orders and groups nothing."""
    return all(
        not isinstance(part, (Ref, Value)) and (part in "()-" or part[0] in "0123456789'" or part in ("TRUE", "FALSE"))
        for part in text
    )
