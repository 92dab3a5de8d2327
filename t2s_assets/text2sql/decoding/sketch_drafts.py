"""What a sketch probably goes on with, guessed from the words of its question.

Guesses are for `drafts`: a wrong one costs a little arithmetic and changes no answer. Columns are guessed by the words
of their names that the question has, in the question's order; aggregates and operators by words such as "average" and
"before"; values are what stands behind a column's name, or runs of words with capitals or digits. The cues are English;
in other languages names and values remain. What the model would have written along a guess that it did not follow comes
before all of these: with another column selected, it mostly tests the same one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from t2s_assets.text2sql.decoding.spelt_numbers import numbers_in
from t2s_assets.text2sql.query import MAX_CONDITIONS, identifier, parse_number, table_identifier
from t2s_assets.text2sql.schema import Column, TableSchema

_TOKEN = re.compile(r"\S+")
_WORD = re.compile(r"[^\W\d_]+|\d+")
_ASKED = re.compile(r"\b(?:what|which|who|how|name|list|tell|give|find|show)\b", re.I)
_MONTH = re.compile(r"\b(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\b\.?", re.I)
_YEAR = re.compile(r"\b(?:1[6-9]|20)\d\d\b")
_STRING = re.compile(r"'(?:[^']|'')*'(?!')")
_COLUMN = re.compile(r"""(?P<name>"(?:[^"]|"")*") ?(?P<value>= ')?$""")
_OPENING, _CLOSING = "\"'\u201c\u2018\u00bf\u00a1", "\"'\u201d\u2019?.!,;:"

_STEM = 5
"""Letters that tell two forms of a word to be one."""

_NAMED = 0.5
"""Share of a column's words from which on the question names it."""

_SMALL = frozenset(
    "a against all also an and any are as at be been being by can could date did do does during each every for from "
    "game give given got had happened has have having held how i if in into is it its list listed located many me much "
    "name named no not number of on or our out played received s scored show than that the their them then there these "
    "they this to total under was we went were what when where which while who whom whose why will with won would you "
    "your".split()
)
_AGGREGATES = (
    ("COUNT(", re.compile(r"\bhow many\b|\bnumber of\b|\bcount\b", re.I)),
    ("AVG(", re.compile(r"\baverage\b|\bmean\b", re.I)),
    ("SUM(", re.compile(r"\btotal\b|\bsum\b|\bcombined\b", re.I)),
    ("MAX(", re.compile(r"\bhighest\b|\bmost\b|\bmaximum\b|\blargest\b|\bgreatest\b|\bbiggest\b|\blatest\b", re.I)),
    ("MIN(", re.compile(r"\blowest\b|\bleast\b|\bminimum\b|\bsmallest\b|\bfewest\b|\bearliest\b", re.I)),
)
_COMPARED = re.compile(
    r"\b(?P<more>more|over|above|after|greater|larger|higher|bigger|later|longer|taller|older|exceed\w*|beyond)\b"
    r"|\b(?P<less>less|under|below|before|fewer|smaller|lower|earlier|shorter|younger|prior)\b|(?P<gt>>)|(?P<lt><)",
    re.I,
)
_REACH = 30
"""Characters before a number in which a comparison counts as its own."""


@dataclass(frozen=True)
class _Span:
    """Part of the question: where it stands, and its text."""

    start: int
    end: int
    text: str


@dataclass(frozen=True)
class _Mention:
    """How much of a column's name the question has in one place (0 to 1), by how many words, and where."""

    share: float
    words: int
    start: int
    end: int

    def inside(self, other: _Mention) -> bool:
        """Whether the words name another column, whose name is longer."""
        return 0 < self.words < other.words and other.start <= self.start and self.end <= other.end


class SketchDraft:
    """Guesses at the sketch of one question over one table."""

    def __init__(self, question: str, schema: TableSchema) -> None:
        self._question, self._schema = question, schema
        words = [_Span(m.start(), m.end(), m.group().lower()) for m in _WORD.finditer(question)]
        self._mentions = {identifier(c.name): self._mention(c, words) for c in schema.columns}
        self._columns = {identifier(c.name): c for c in schema.columns}
        spans = {(m.words, m.start, m.end): m for m in self._mentions.values() if m.words}
        for name, mention in self._mentions.items():
            if mention.words and any(mention.inside(other) for other in spans.values()):
                self._mentions[name] = _Mention(0.0, 0, len(question), len(question))
        asked = _ASKED.search(question)
        self._asked = asked.start() if asked else 0
        self._values = list(self._chunks())
        self._numbers = numbers_in(question)
        self._learnt: dict[tuple[str, int | str], str] = {}

    def learn(self, written: str, following: str) -> None:
        """Take note of what the model would write after a text that was guessed, and then was not its own."""
        if "\ufffd" in following:
            return  # a part of a character
        text = _STRING.sub("''", written)
        conditions = text.count(" AND ") + (" WHERE " in text)
        if text.endswith((' WHERE "', ' AND "')):
            self._learnt["column", conditions - 1] = following
        elif text.endswith(('SELECT "', '("')):
            self._learnt["selected", 0] = following
        elif (column := _COLUMN.search(text)) is not None:
            if column["value"]:
                self._learnt["value", column["name"]] = following
            elif following.strip() in ("=", ">", "<"):
                self._learnt["operator", column["name"]] = following
        elif text[-1:] in "'0123456789" and text.count("'") % 2 == 0 and following in ("", " AND"):
            self._learnt["link", conditions] = following

    def continuation(self, written: str) -> str:
        """The sketch that begins with `written`, as far as there is a guess."""
        text = _Text(written)
        text.write("SELECT ")
        selected = text.choose(self._selected())
        if selected is None:
            return text.out
        text.write(f" FROM {table_identifier(self._schema.name)}")
        used: list[str] = []
        taken: set[int] = set()
        while len(used) < MAX_CONDITIONS:
            link = " AND " if used else " WHERE "
            if text.left:
                if not text.follows(link):
                    return text.out
            elif used and not self._more(selected, used):
                return text.out
            text.write(link)
            column = text.choose(self._tested(selected, used))
            if column is None:
                return text.out
            used.append(column)
            value = self._value(column, taken)
            operator = text.choose(self._operators(column, value))
            if operator is None:
                return text.out
            if not self._write_value(text, column, value, taken):
                return text.out
        return text.out

    def _mention(self, column: Column, words: Sequence[_Span]) -> _Mention:
        names = [w.lower() for w in _WORD.findall(column.name)]
        best = _Mention(0.0, 0, len(self._question), len(self._question))
        for at in range(len(words)):
            count = 0
            while count < len(names) and at + count < len(words) and _alike(names[count], words[at + count].text):
                count += 1
            if count > best.words and (count == len(names) or names[count - 1] not in _SMALL):
                best = _Mention(count / len(names), count, words[at].start, words[at + count - 1].end)
        if not best.words and (found := self._hinted(names)) is not None:
            return _Mention(_NAMED, 0, found.start(), found.start())
        return best

    def _hinted(self, names: list[str]) -> re.Match[str] | None:
        """A month or a year in the question, for a column that holds such."""
        if "date" in names:
            return _MONTH.search(self._question)
        return _YEAR.search(self._question) if {"year", "season"} & set(names) else None

    def _named(self, name: str) -> bool:
        return self._mentions[name].share >= _NAMED

    def _likely(self, name: str, slot: str, number: int = 0) -> bool:
        """Whether the model would write this column there."""
        return (slot, number) in self._learnt and name[1:].startswith(self._learnt[slot, number])

    def _selected(self) -> Iterator[str]:
        def key(name: str) -> tuple[bool, bool, bool, int, int]:
            mention, likely = self._mentions[name], self._likely(name, "selected")
            return not likely, not self._named(name), mention.start < self._asked, mention.start, -mention.words

        cued = [name for name, cue in _AGGREGATES if cue.search(self._question)]
        others = [name for name, _ in _AGGREGATES if name not in cued]
        columns = sorted(self._columns, key=key)
        for aggregate in [*cued[:1], "", *cued[1:], *others]:
            for name in columns:
                if aggregate not in ("SUM(", "AVG(") or self._columns[name].type == "real":
                    yield f"{aggregate}{name})" if aggregate else name

    def _more(self, selected: str, used: Sequence[str]) -> bool:
        """Whether another condition follows: the question names a column that is neither selected nor tested."""
        if (link := self._learnt.get(("link", len(used)))) is not None:
            return link.startswith(" ")
        return any(
            self._named(name) and name not in used and name not in selected and self._mentions[name].words
            for name in self._columns
        )

    def _tested(self, selected: str, used: Sequence[str]) -> list[str]:
        def key(name: str) -> tuple[bool, bool, bool, bool, int, int, int]:
            mention, named = self._mentions[name], self._named(name)
            likely = self._likely(name, "column", len(used))
            words = -int(mention.share), mention.start, -mention.words
            return name in used, name in selected, not likely, not named, *words

        return sorted(self._columns, key=key)

    def _value(self, column: str, taken: set[int]) -> _Span | None:
        """The part of the question that is probably the column's value: behind its name, or else the first left."""
        free = [value for value in self._values if value.start not in taken]
        if self._columns[column].type == "real":
            free = [value for value in free if any(character.isdigit() for character in value.text)]
        if self._named(column):
            mention = self._mentions[column]
            joined = [value for value in free if value.end == mention.start - 1 and value.text[0].isdigit()]
            free = joined or [value for value in free if value.start >= mention.end] or free
        return free[0] if free else None

    def _operators(self, column: str, value: _Span | None) -> list[str]:
        equal, more, less = " = ", " > ", " < "
        likely = equal
        if self._columns[column].type == "real" and value is not None:
            named = self._mentions[column].end
            begin = named if self._named(column) and named <= value.start else value.start - _REACH
            before = self._question[max(0, begin) : value.start]
            cues = [m.lastgroup for m in _COMPARED.finditer(before)]
            if cues:
                likely = more if cues[-1] in ("more", "gt") else less
        likely = self._learnt.get(("operator", column), likely).strip()
        return sorted([equal, more, less], key=lambda operator: operator.strip() != likely)

    def _write_value(self, text: _Text, column: str, value: _Span | None, taken: set[int]) -> bool:
        if self._columns[column].type == "real":
            wanted = numbers_in(value.text) if value is not None else []
            number = text.choose([*wanted, *self._numbers], whole=True)
            if number is None:
                return False
            taken.update(v.start for v in self._values if parse_number(v.text.replace(",", "")) == parse_number(number))
            return True
        whole = _STRING.match(text.left)
        if whole is not None:
            text.write(whole.group())
            spelt = whole.group()[1:-1].replace("''", "'")
        else:
            begun = text.left[1:].replace("''", "'")
            learnt = self._learnt.get(("value", column), "")
            spelt = self._begun(begun or learnt, value) or self._begun(begun, value) or ""
            if not spelt:
                return False
            text.write("'" + spelt.replace("'", "''") + "'")
        at = self._question.find(spelt)
        if at >= 0:
            taken.update(v.start for v in self._values if at <= v.start < at + len(spelt))
        return True

    def _begun(self, begun: str, value: _Span | None) -> str | None:
        """The value that begins so: the guess, another, or what is left of a word in the question."""
        if not begun:
            return value.text if value is not None else None
        for other in [value] * (value is not None) + self._values:
            if other.text.startswith(begun):
                return other.text
        at = max(self._question.find(f" {begun}") + 1, 0) or self._question.find(begun)
        if at < 0:
            return None
        end = at + len(begun)
        for other in self._values:
            if other.start < end < other.end:
                return self._question[at : other.end]
        word = _TOKEN.match(self._question, end)
        if word is None or not begun[-1].isalnum():
            return begun
        return begun + word.group().rstrip(_CLOSING)

    def _chunks(self) -> Iterator[_Span]:
        """Runs of words that may be a value: no small words, no column's name; of mixed runs what has capitals."""
        run: list[_Span] = []
        mentions = {(m.start, m.end) for m in self._mentions.values() if m.share >= _NAMED and m.words}
        for match in _TOKEN.finditer(self._question):
            start, end = match.span()
            while start < end - 1 and self._question[start] in _OPENING:
                start += 1
            stripped = len(self._question[start:end].rstrip(_CLOSING))
            if len(self._question[start:end].rstrip("?.!,;:")) == 1 and self._question[end - 1] == ".":
                stripped = end - start
            span = _Span(start, start + stripped, self._question[start : start + stripped])
            inside = any(begin <= start < end for begin, end in mentions)
            if not span.text or span.text.lower() in _SMALL or inside:
                yield from self._runs(run)
                run = []
                continue
            run.append(span)
            following = _TOKEN.match(self._question, match.end() + 1)
            date = following is not None and _YEAR.match(following.group()) and span.text[-1:].isdigit()
            if "," in self._question[span.end : end] and not date:
                yield from self._runs(run)
                run = []
        yield from self._runs(run)

    def _runs(self, run: list[_Span]) -> Iterator[_Span]:
        clear = [span.text[0].isupper() or any(c.isdigit() for c in span.text) for span in run]
        if clear[:2] in ([True], [True, False]) and run[0].start <= 1 and run[0].text.isalpha():
            run, clear = run[1:], clear[1:]  # a question begins with a capital
        if not any(clear):
            clear = [True] * len(run)
        at = 0
        while at < len(run):
            end = at
            while end < len(run) and clear[end]:
                end += 1
            if end > at:
                first, last = run[at].start, run[end - 1].end
                yield _Span(first, last, self._question[first:last])
            at = max(end, at + 1)


def _alike(word: str, other: str) -> bool:
    if len(word) >= _STEM <= len(other):
        return word[:_STEM] == other[:_STEM]
    return word == other or f"{word}s" == other or word == f"{other}s"


class _Text:
    """A text that is written out over what is there of it already."""

    def __init__(self, written: str) -> None:
        self.written, self.out = written, ""

    @property
    def left(self) -> str:
        """What is there already beyond `out`."""
        return self.written[len(self.out) :]

    def follows(self, text: str) -> bool:
        return self.left.startswith(text) or text.startswith(self.left)

    def write(self, text: str) -> None:
        self.out += text

    def choose(self, options: Iterable[str], *, whole: bool = False) -> str | None:
        """Write the first of `options` that what is there begins with (`whole`: as a word), or may become."""
        left = self.left
        for option in options:
            begins = left.startswith(option) and (not whole or left[len(option) :][:1] in ("", " "))
            if begins or option.startswith(left):
                self.write(option)
                return option
        return None
