"""What a name in a query stands for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from t2s_assets.text2sql.decoding.scopes.frames import Columns, Frame, Ref, Value, is_closed, signature
from t2s_assets.text2sql.decoding.scopes.kinds import ANY, NULL, NUMERIC, OTHER
from t2s_assets.text2sql.decoding.scopes.reader import Reader, Refused, Spellings


@dataclass(frozen=True)
class Schema:
    """The given tables, their columns' kinds, all columns of a name taken together, and how names are written."""

    tables: Mapping[str, Columns]
    known: Mapping[str, int]
    table_spellings: Spellings
    column_spellings: Spellings


_AFTER_GROUPS = ("having", "qualify", "order")


class Names(Reader):
    """Reads columns. `tables` are the schema's and the CTEs read so far, of which `ctes` are the names; `known` are
    the kinds of their columns."""

    def __init__(self, text: str, schema: Schema, *, complete: bool) -> None:
        super().__init__(text, complete=complete)
        self.schema = schema
        self.tables = dict(schema.tables)
        self.ctes: set[str] = set()
        self.known = dict(schema.known)
        self.frame = Frame(None)
        self.aggregates_allowed = self.windows_allowed = False
        self.in_window = False
        self.start = 0
        self.ordinals: tuple[str, ...] | None = None
        self.following: list[tuple[int, tuple[Any, ...]]] = []

    def at_ordinal(self) -> bool:
        """Whether a number here would be the position of an item."""
        return self.ordinals is not None and len(self.trail) == self.start

    def literal(self, kind: int) -> Value:
        """The value of a literal just read; where it is the position of an item, no operator follows."""
        if kind & NUMERIC and self.ordinals is not None and len(self.trail) == self.start + 1:
            self.require(self.trail[-1] in self.ordinals)
            return Value(OTHER, atom=False)
        return Value(kind)

    # Columns ---------------------------------------------------------------------------------------------

    def column(self, expected: int) -> Value:
        """Read a column, bare or after its table's name."""
        first = len(self.trail)
        if self.peek(1) == ".":
            qualifier = self.name(self.schema.table_spellings)
            self.advance()
            if self.ended:
                del self.trail[first:]
                if expected:
                    self._offer_columns_of(qualifier, expected)
                self.stop()
            name = self.name(self.schema.column_spellings)
            del self.trail[first:]
            value = self._qualified(qualifier, name, expected)
        else:
            name = self.name(self.schema.column_spellings)
            del self.trail[first:]
            value = self._bare(name, expected)
        self.trail.append(value.ref if value.ref is not None else value)
        if value.ref is not None:
            self._follow(value.ref)
        return value

    def offer_columns(self, expected: int) -> None:
        """Note the names that may come where a column may."""
        if not expected:
            return
        *_, last = self._reach()
        if last.clause == "items":
            self.tests.append(lambda name: True)  # a point may follow
            self._offer_known(expected)
            usable = (name for name, columns in self.tables.items() if any(kind & expected for _, kind in columns))
            self.names.append((usable, self.schema.table_spellings))
        self.names.append((self._visible(expected), self.schema.column_spellings))
        self.names.append((self._qualifiers(expected), self.schema.table_spellings))

    def _qualified(self, qualifier: str, name: str, expected: int) -> Value:
        for frame in self._reach():
            if frame.clause == "items":
                known = self.tables.get(qualifier)
                return self._wanted(
                    frame, qualifier, name, dict(known).get(name, 0) if known else self._kinds(name), expected
                )
            source = frame.source(qualifier)
            if source is not None:
                self.require(source in frame.readable() and source.gives(name, expected))
                return self._read(
                    frame, Ref(qualifier, name, source.kinds[name] & expected, frame.key(qualifier, name))
                )
        raise Refused

    def _bare(self, name: str, expected: int) -> Value:
        for frame in self._reach():
            if frame.clause == "items":
                if frame is not self.frame:
                    break
                return self._wanted(frame, "", name, self._kinds(name), expected)
            alias = self._alias(frame, name, expected)
            if alias is not None:
                return alias
            sources = frame.having(name)
            if sources:
                self.require(len(sources) == 1 and sources[0] in frame.readable() and sources[0].gives(name, expected))
                return self._read(frame, Ref("", name, sources[0].kinds[name] & expected, frame.key("", name)))
            if frame.source(name) is not None:
                break  # it is a whole row of that source
        raise Refused

    def _reach(self) -> Iterator[Frame]:
        """The SELECTs whose columns may stand here: this one, and from a WHERE those around it."""
        frame: Frame | None = self.frame
        while frame is not None:
            yield frame
            frame = frame.outer if frame.clause == "where" else None

    def _wanted(self, frame: Frame, qualifier: str, name: str, may_be: int, expected: int) -> Value:
        """A column that FROM, which is not written yet, must bring."""
        ref = next((r for r in frame.wanted if (r.qualifier, r.name) == (qualifier, name)), None)
        if ref is None:
            ref = Ref(qualifier, name, may_be)
            frame.wanted.append(ref)
        self.require(ref.kinds & expected)
        ref.kinds &= expected
        return self._read(frame, ref)

    def _kinds(self, name: str) -> int:
        """What a column of this name may be: by those that there are, or by one that the query gives."""
        return self.known.get(name) or ANY & ~NULL

    def _read(self, frame: Frame, ref: Ref) -> Value:
        if not self._may_stand(frame, ref.key):
            # An alias alone sorts by what it stands for; in anything more it is the column.
            self.require(ref.name in frame.aliases and self._alone(frame, "order") and not ref.qualifier)
            return Value(OTHER, atom=False)
        frame.plain.append(ref)
        return Value(ref.kinds, ref, column=True)

    def _may_stand(self, frame: Frame, key: tuple[Any, ...] | None) -> bool:
        """Whether a column may stand here as far as grouping goes: grouped by, or within what is."""
        if frame.clause not in _AFTER_GROUPS or not (frame.grouped or frame.aggregates) or frame.in_aggregate:
            return True
        return (key,) in frame.keys or (frame is self.frame and any(True for _ in self._begun(frame, key)))

    def _begun(self, frame: Frame, key: tuple[Any, ...] | None) -> Iterator[tuple[int, tuple[Any, ...]]]:
        """Grouping expressions that are being written, if `key` comes next, with where they began."""
        shown = (*signature(self.trail[self.start :]), key)
        for group in frame.keys:
            for length in range(2, min(len(group), len(shown) + 1)):
                if is_closed(group) and shown[-length:] == group[:length]:
                    yield len(self.trail) - length + 1, group

    def _follow(self, ref: Ref) -> None:
        """Where a column may stand only within a grouping expression, note that this must be written to its end."""
        frame = self.frame
        if frame.clause in _AFTER_GROUPS and frame.keys and not frame.in_aggregate and (ref.key,) not in frame.keys:
            last = self.trail.pop()
            self.following += list(self._begun(frame, ref.key))[:1]
            self.trail.append(last)

    def follows(self) -> bool:
        """Whether what began as a grouping expression still is one; tells what must come next to be one."""
        for start, group in self.following:
            shown = signature(self.trail[start:])
            length = min(len(shown), len(group))
            if shown[:length] != group[:length]:
                return False
            if len(shown) < len(group) and isinstance(group[len(shown)], str):
                if not group[len(shown)].startswith(self.partial or ""):
                    return False
        return True

    def _alias(self, frame: Frame, name: str, expected: int) -> Value | None:
        """What `name` stands for where it is an alias of the select list, else None."""
        item = frame.aliases.get(name)
        if item is None or frame is not self.frame or self.in_window or frame.in_aggregate:
            return None
        columns, rows = frame.having(name), self._is_row(name)
        if frame.clause == "group":
            return Value(OTHER, atom=False, alias=name) if self._offers_alias(frame, name, expected) else None
        if frame.clause == "having" and not item.windows:
            kinds = item.value.kinds & (columns[0].kinds[name] if columns else ANY)
            return Value(kinds & expected) if kinds & expected else None
        if rows and not columns:
            # Alone an alias sorts; in anything more it is a row of the source that is called so.
            return Value(OTHER, atom=False) if self._alone(frame, "order") else None
        if frame.clause in ("qualify", "order") and not columns and item.value.kinds & expected:
            return Value(item.value.kinds & expected)
        return None

    def _is_row(self, name: str) -> bool:
        """Whether a source is called so: its name alone is then a whole row of it."""
        frame: Frame | None = self.frame
        while frame is not None:
            if frame.source(name) is not None:
                return True
            frame = frame.outer
        return False

    def _alone(self, frame: Frame, clause: str) -> bool:
        """Whether a name here may be all of an element of `clause`."""
        return frame.clause == clause and len(self.trail) == self.start

    # What may be written ---------------------------------------------------------------------------------

    def _visible(self, expected: int) -> Iterator[str]:
        rows: set[str] = set()
        for frame in self._reach():
            for name in frame.visible(expected):
                if name not in rows and self._may_stand(frame, frame.key("", name)):
                    yield name
            rows.update(source.alias for source in frame.sources)
        for name in self.frame.aliases:
            if self._offers_alias(self.frame, name, expected):
                yield name

    def _qualifiers(self, expected: int) -> Iterator[str]:
        for frame in self._reach():
            for source in frame.readable():
                columns = ((name, kind) for name, kind in source.columns if name and kind & expected)
                if any(self._may_stand(frame, frame.key(source.alias, name)) for name, _ in columns):
                    yield source.alias

    def _offers_alias(self, frame: Frame, name: str, expected: int) -> bool:
        if self.in_window or frame.in_aggregate:
            return False
        if frame.clause == "order" and len(self.trail) == self.start:
            return True
        if frame.clause == "group":
            item = frame.aliases[name]
            taken = frame.having(name) or frame.source(name) is not None
            return len(self.trail) == self.start and not (item.aggregates or item.windows or taken)
        return self._alias(frame, name, expected) is not None

    def _offer_known(self, expected: int) -> None:
        """Note the columns of all tables, one of which FROM may bring."""
        self.names.append(((n for n, kind in self.known.items() if kind & expected), self.schema.column_spellings))

    def _offer_columns_of(self, qualifier: str, expected: int) -> None:
        for frame in self._reach():
            if frame.clause == "items":
                known = self.tables.get(qualifier)
                if known is None:
                    self.tests.append(lambda name: bool(self._kinds(name) & expected))
                    self._offer_known(expected)
                else:
                    names = [name for name, kind in known if name and kind & expected]
                    self.names.append((names, self.schema.column_spellings))
                return
            source = frame.source(qualifier)
            if source is not None:
                key = frame.key
                columns = (c for c in source.columns if self._may_stand(frame, key(qualifier, c[0])))
                self.names.append(([n for n, kind in columns if n and kind & expected], self.schema.column_spellings))
                return
