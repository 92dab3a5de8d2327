"""What one SELECT reads and gives: its sources, the names that wait for one, its items and its groups.

A select list stands before its FROM. So names in it are wanted first, and FROM has to bring what they want.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from t2s_assets.text2sql.decoding.scopes.kinds import ANY, NULL, family

Columns = tuple[tuple[str, int], ...]
"""Names, "" where a column has none that can be written, and their kinds."""


_UNNAMED = "unnamed_subquery"


@dataclass(eq=False)
class Ref:
    """A column as the query names it. `kinds` are those that it may still have, `key` tells which column it is."""

    qualifier: str
    name: str
    kinds: int
    key: tuple[Any, ...] | None = None


@dataclass(eq=False)
class Source:
    """A table, CTE or derived table in FROM. `merged` names were joined with USING: the left one stands for both."""

    alias: str
    columns: Columns
    kinds: dict[str, int] = field(init=False)
    merged: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.kinds = {}
        for name, kind in self.columns:
            self.kinds.setdefault(name, kind)

    def gives(self, name: str, kinds: int) -> bool:
        return bool(name and self.kinds.get(name, 0) & kinds)


@dataclass(eq=False)
class Value:
    """An expression: the kinds that it may have, and the column that they are those of, where there is one.

    `column` tells that it is that column and nothing else, `atom` that no operator is outside of brackets; `alias` is
    the name of the item that it stands for as an element of GROUP BY.
    """

    kinds: int
    ref: Ref | None = None
    column: bool = False
    atom: bool = True
    alias: str = ""

    def narrow(self, kinds: int) -> bool:
        """Settle on some of the kinds; False where none is left."""
        self.kinds &= kinds
        if self.ref is not None:
            self.ref.kinds &= self.kinds
            self.kinds = self.ref.kinds
        return bool(self.kinds)


@dataclass(eq=False)
class Item:
    """One of a select list. `text` is it as lexemes and Refs, `plain` its columns outside of aggregates."""

    name: str
    value: Value
    text: list[Any]
    plain: list[Ref]
    aggregates: bool
    windows: bool


@dataclass(eq=False)
class Frame:
    """One SELECT. `outer` is the one around it, `clause` where reading is.

    The sources from `operand` on are joined to one another. `wanted` are names that no source has yet. `limits` are the
    kinds that a column may have which this SELECT gives to the FROM around it, by its name: none for a name that would
    become ambiguous there. `plain` are the columns outside of aggregates in what is being read.
    """

    outer: Frame | None
    limits: dict[str, int] = field(default_factory=dict)
    clause: str = "items"
    sources: list[Source] = field(default_factory=list)
    operand: int = 0
    wanted: list[Ref] = field(default_factory=list)
    items: list[Item] = field(default_factory=list)
    stars: list[str] = field(default_factory=list)
    places: list[Item | str] = field(default_factory=list)
    plain: list[Ref] = field(default_factory=list)
    aggregates: bool = False
    windows: bool = False
    in_aggregate: bool = False
    grouped: bool = False
    keys: list[tuple[Any, ...]] = field(default_factory=list)
    aliases: dict[str, Item] = field(default_factory=dict)

    def readable(self) -> list[Source]:
        """The sources whose columns may stand where reading is: in FROM, those that are joined to one another."""
        return self.sources[self.operand :] if self.clause == "from" else self.sources

    def source(self, alias: str) -> Source | None:
        return next((source for source in self.sources if source.alias == alias), None)

    def unnamed(self) -> str:
        """What DuckDB calls the next derived table without an alias."""
        count = sum(source.alias.startswith(_UNNAMED) for source in self.sources)
        return f"{_UNNAMED}{count + 1}" if count else _UNNAMED

    def having(self, name: str) -> list[Source]:
        """The sources that a bare name may mean."""
        return [s for s in self.sources if name in s.kinds and name not in s.merged] if name else []

    def visible(self, kinds: int) -> Iterator[str]:
        """The bare names of some of the kinds that mean one column."""
        for source in self.readable():
            for name, kind in source.kinds.items():
                if name and kind & kinds and name not in source.merged and len(self.having(name)) == 1:
                    yield name

    def clashes(self, columns: Columns) -> list[str]:
        """Wanted bare names that another source has as well as one with `columns`."""
        names = {name for name, _ in columns}
        return [
            n for n in dict.fromkeys(r.name for r in self.wanted if not r.qualifier) if n in names and self.having(n)
        ]

    def suits(self, columns: Columns, *, clashes: int) -> bool:
        """Whether a source with `columns` may come, with so many names that only USING makes one."""
        kinds = dict(reversed(columns))
        for ref in self.wanted:
            if not ref.qualifier and not kinds.get(ref.name, ref.kinds) & ref.kinds:
                return False
        if self.stars and any(name in self.limits and not kind & self.limits[name] for name, kind in columns):
            return False
        double = self.clashes(columns)
        return len(double) <= clashes and all(self.joins(name, kinds[name]) for name in double)

    def joins(self, name: str, kinds: int) -> bool:
        """Whether USING may join a source by a column of this name and kinds."""
        there = self.having(name)
        return (
            len(there) == 1 and there[0] in self.sources[self.operand :] and bool(kinds & family(there[0].kinds[name]))
        )

    def wants(self, alias: str) -> list[Ref]:
        return [ref for ref in self.wanted if ref.qualifier == alias]

    def may_be_called(self, alias: str, columns: Columns) -> bool:
        """Whether a source with `columns` may have this alias: it is new, and has what the alias is wanted for."""
        kinds = dict(reversed(columns))
        return self.source(alias) is None and all(
            not ref.name or kinds.get(ref.name, 0) & ref.kinds for ref in self.wants(alias)
        )

    def satisfied(self) -> bool:
        """Whether every wanted name means one column of the sources."""
        for ref in self.wanted:
            if ref.qualifier:
                if self.source(ref.qualifier) is None:
                    return False
            elif len(self.having(ref.name)) != 1:
                return False
        return True

    def settle(self) -> None:
        """Tell what the wanted names mean, once FROM is complete."""
        for ref in self.wanted:
            source = self.source(ref.qualifier) if ref.qualifier else self.having(ref.name)[0]
            if ref.name:
                ref.kinds &= source.kinds[ref.name]  # type: ignore[union-attr]
                ref.key = self.key(ref.qualifier, ref.name)
        for item in self.items:
            if item.value.ref is not None:
                item.value.kinds = item.value.ref.kinds

    def key(self, qualifier: str, name: str) -> tuple[Any, ...]:
        """What tells a column from others: the same for a bare and a qualified name, except after USING."""
        source = self.source(qualifier) if qualifier else self.having(name)[0]
        merged = not qualifier and any(name in s.merged for s in self.sources)
        return (id(self), "" if merged else source.alias, name)  # type: ignore[union-attr]

    def outputs(self) -> Columns:
        """The columns that this SELECT gives, once FROM is complete."""
        found: list[tuple[str, int]] = []
        for place in self.places:
            if isinstance(place, Item):
                found.append((place.name, place.value.kinds))
                continue
            for source in self.sources:
                if place in ("*", source.alias):
                    found += [(n, k) for n, k in source.columns if not (place == "*" and n in source.merged)]
        return tuple(found)

    def is_covered(self, ref: Ref, text: list[Any]) -> bool:
        """Whether a column outside of aggregates is grouped by, itself or within an expression of `text`."""
        if (ref.key,) in self.keys:
            return True
        shown = signature(text)
        where = [at for at, part in enumerate(text) if part is ref]
        return all(
            any(
                shown[start : start + len(key)] == key and (len(key) == len(shown) or is_closed(key))
                for key in self.keys
                for start in range(max(0, at - len(key) + 1), at + 1)
            )
            for at in where
        )


def signature(text: list[Any]) -> tuple[Any, ...]:
    """An expression in a form that is equal for equal ones."""
    return tuple(part.key if isinstance(part, Ref) else part for part in text)


def is_closed(key: tuple[Any, ...]) -> bool:
    """Whether an expression stays one wherever it stands: a call, or what is in brackets."""
    depth = 0
    opened = next((at for at, part in enumerate(key) if part == "("), None)
    if opened is None or opened > 1 or key[-1] != ")":
        return False
    for at, part in enumerate(key):
        depth += {"(": 1, ")": -1}.get(part, 0) if isinstance(part, str) else 0
        if depth == 0 and opened < at < len(key) - 1:
            return False
    return True


def fits(columns: Columns, wanted: tuple[int, ...] | None) -> bool:
    """Whether a query with `columns` may stand where columns of the `wanted` kinds must."""
    if wanted is None:
        return True
    return len(columns) == len(wanted) and all(kind & kinds for (_, kind), kinds in zip(columns, wanted))


def alike(columns: Columns) -> tuple[int, ...]:
    """The kinds that go with `columns` in a set operation."""
    return tuple(ANY if kind & NULL else family(kind) | NULL for _, kind in columns)
