"""SQL text as lexemes, and a reader of a text that may end anywhere.

The text is one byte a character, so that a token that ends inside a UTF-8 sequence can be read like any other.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NoReturn

from t2s_assets.text2sql.decoding.select_grammar import LONGEST_BARE, LONGEST_QUOTED
from t2s_assets.text2sql.query import RESERVED_NAMES

_LEXEME = re.compile(
    r"""'(?:[^']|'')*'?|"(?:[^"]|"")*"?|[A-Za-z_\x80-\xff][A-Za-z0-9_\x80-\xff]*|[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]*)?"""
    r"|\|\||//|<>|!=|<=|>=|[^ ]"
)
_GROWS = re.compile(r"""['"A-Za-z0-9_\x80-\xff<>|!/]""")
_WORD = re.compile(r"[A-Za-z_\x80-\xff]")
_PLAIN_NAME = re.compile(r"\w+")
_FRACTION = re.compile(r"[.eE]")

INTEGER_LITERAL, NUMBER_LITERAL, STRING_LITERAL = "0", "0.0", "'"
"""Words that stand for all literals of a kind."""

Spellings = Mapping[str, frozenset[str]]
"""How the names of the schema are written, by their folded forms; other names may be written in any case."""


class Refused(Exception):
    """No query goes on from this text."""


class EndOfText(Exception):
    """The text ended where more of it is needed."""


def folded(name: str) -> str:
    """A name as DuckDB compares it: it ignores the case of ASCII letters alone."""
    return name if name.isascii() and name.islower() else name.encode("latin-1").lower().decode("latin-1")


def as_bytes(name: str) -> str:
    """A name of the schema in the reader's form."""
    return folded(name.encode().decode("latin-1"))


def is_name(lexeme: str) -> bool:
    return lexeme[:1] == '"' or _WORD.match(lexeme) is not None


def named(lexeme: str) -> str:
    """The name that a bare word or a quoted one stands for."""
    return folded(lexeme[1:].removesuffix('"').replace('""', '"') if lexeme[0] == '"' else lexeme)


class Reader:
    """Reads lexemes one after the other, and where they run out, what might have come instead.

    `partial` is the last lexeme where it may still grow, or "" where a new one begins; it is None for a text that is
    complete. What may come next gathers in `words`, in `names` with their spellings, and in `tests` of names that the
    query may give.
    """

    def __init__(self, text: str, *, complete: bool) -> None:
        self.lexemes: list[str] = []
        end = 0
        for match in _LEXEME.finditer(text):
            self.lexemes.append(match[0])
            end = match.end()
        self.spaced = text.endswith(" ")
        self.partial: str | None = None
        if not complete:
            grows = end == len(text) and self.lexemes and _GROWS.match(self.lexemes[-1])
            self.partial = self.lexemes.pop() if grows else ""
        self.at = 0
        self.trail: list[Any] = []
        self.words: set[str] = set()
        self.names: list[tuple[Iterable[str], Spellings]] = []
        self.tests: list[Callable[[str], bool]] = []

    @property
    def ended(self) -> bool:
        return self.at >= len(self.lexemes)

    def peek(self, ahead: int = 0) -> str:
        """The lexeme `ahead` of the next one, or "" past the end."""
        at = self.at + ahead
        return self.lexemes[at] if at < len(self.lexemes) else ""

    def advance(self) -> str:
        lexeme = self.lexemes[self.at]
        self.at += 1
        self.trail.append(lexeme)
        return lexeme

    def take(self, words: Collection[str]) -> str:
        """Move past the next lexeme if it is one of `words`; else ""."""
        if self.at >= len(self.lexemes):
            self.words.update(words)
            return ""
        return self.advance() if self.lexemes[self.at] in words else ""

    def need(self, *words: str) -> str:
        """Move past one of `words`, which must come."""
        return self.take(words) or self.stop()

    def need_literal(self, kind: str) -> str:
        """Move past a literal, which must come."""
        if self.ended:
            self.words.add(kind)
            self.stop()
        self.require(kind in _literals(self.peek()))
        return self.advance()

    def need_new_name(self, test: Callable[[str], bool]) -> str:
        """Move past a name that the query gives, which must pass the test."""
        if self.ended:
            self.tests.append(test)
            self.stop()
        self.require(is_name(self.peek()))
        name = named(self.advance())
        self.require(test(name))
        return name

    def need_name(self, names: Collection[str], spellings: Spellings) -> str:
        """Move past one of `names`."""
        if self.ended:
            self.names.append((names, spellings))
            self.stop()
        name = self.name(spellings)
        self.require(name in names)
        return name

    def name(self, spellings: Spellings) -> str:
        """Move past a name, which is spelt as the schema spells it where it does."""
        lexeme = self.peek()
        self.require(is_name(lexeme))
        name = named(lexeme)
        self.require(lexeme in spellings[name] if name in spellings else lexeme[0] == '"' or name not in RESERVED_NAMES)
        self.advance()
        return name

    def require(self, holds: Any) -> None:
        """Refuse what follows unless `holds`."""
        if not holds:
            self.stop()

    def stop(self) -> NoReturn:
        """The text is refused here if it goes on, and if it is complete."""
        if self.ended and self.partial is not None:
            raise EndOfText
        raise Refused

    def may_come(self) -> bool:
        """Whether `partial` begins something that might come where the text ended."""
        start = self.partial or ""
        if not start:
            # These follow what is before them without a space.
            words = self.words - {",", ")", "."} if self.spaced else self.words
            return bool(words or self.tests) or any(any(True for _ in names) for names, _ in self.names)
        if any(word.startswith(start) for word in self.words):
            return True
        if not self.words.isdisjoint(_literals(start)):
            return True
        if not is_name(start):
            return False
        if self.tests and _may_be_given(start) and (not _is_whole(start) or any(t(named(start)) for t in self.tests)):
            return True
        return any(_begins(start, name, spellings) for names, spellings in self.names for name in names)


def is_fraction(lexeme: str) -> bool:
    """Whether a literal, or what it begins with, is a number that is not written as a whole one."""
    return _FRACTION.search(lexeme) is not None


def _literals(start: str) -> tuple[str, ...]:
    """The kinds of literals that a lexeme is, or begins."""
    if start[0].isdigit():
        return (NUMBER_LITERAL,) if is_fraction(start) else (NUMBER_LITERAL, INTEGER_LITERAL)
    return (STRING_LITERAL,) if start[0] == "'" else ()


def _may_be_given(start: str) -> bool:
    """Whether a query may give a name that begins so: none holds a quotation mark."""
    return start[0] != '"' or '"' not in start[1:-1]


def _is_whole(start: str) -> bool:
    """Whether the beginning of a name that the query gives can only be all of it."""
    length = len(start.encode("latin-1").decode(errors="ignore"))
    if start[0] != '"':
        return length >= LONGEST_BARE
    return (length > 1 and start[-1] == '"') or length > LONGEST_QUOTED


def _begins(start: str, name: str, spellings: Spellings) -> bool:
    """Whether a lexeme that stands for `name` begins with `start`."""
    if name in spellings:
        return any(lexeme.startswith(start) for lexeme in spellings[name])
    if start[0] == '"':
        return f'"{name}"'.startswith(folded(start))
    return name.startswith(folded(start)) and _is_bare(name)


def _is_bare(name: str) -> bool:
    """Whether a name that the query gives may be written without quotation marks."""
    letters = name.encode("latin-1").decode()
    first = letters[:1]
    return (first.isalpha() or first == "_") and bool(_PLAIN_NAME.fullmatch(letters)) and name not in RESERVED_NAMES
