"""Whether a question may be about something else than the tables it is put to: its words beside their names."""

from __future__ import annotations

import re
from collections.abc import Iterable

from t2s_assets.text2sql.schema import TableSchema

_STEM = 5
_COMMON = frozenset(
    "and are did does for from give had has have how list many much name names number that the there this total was "
    "were what when where which who whose with you".split()
)
_ENGLISH = frozenset(
    "and are can did does each for from give had have how many much number that the there this were what when where "
    "which who whose why with".split()
)
"""Words of which most English questions have one, and few of other languages any."""

_OF_ANY_TABLE = frozenset("dataset entries records row rows table tables".split())
"""Words about a table as such, which may count its rows or list them whatever it is about."""

_BEHIND_NUMBERS = frozenset("a am an and are as at by for has in is of on or pm the to was".split())
"""Short words behind a number that are no unit."""

_MEASURES = {
    "big": "size area population",
    "cheap": "price cost",
    "cold": "temperature",
    "deep": "depth",
    "earl": "date year time",
    "expensiv": "price cost",
    "fast": "speed time",
    "far": "distance",
    "heav": "weight mass",
    "high": "height elevation altitude",
    "hot": "temperature",
    "larg": "size area population",
    "lat": "date year time",
    "light": "weight mass",
    "long": "length duration distance",
    "new": "date year",
    "old": "age birth born date year founded",
    "quick": "speed time",
    "short": "height length duration",
    "slow": "speed time",
    "small": "size area population",
    "tall": "height",
    "warm": "temperature",
    "wid": "width",
    "young": "age birth born",
}
"""What adjectives measure: `taller` asks about a height."""

_MEASURING = re.compile(rf"({'|'.join(_MEASURES)})(?:e|y|th|[a-z]?i?e(?:r|st))?")


def off_topic(question: str, schemas: Iterable[TableSchema], *more: str) -> bool:
    """Whether an English question names nothing of the schemas, nor of `more` names, such as a user's for the table
    that prompts call `t`.

    It names something with a word that begins as one of a column's or a table's name, with an adjective that measures
    what a column is called, with a number and its unit, or with a word such as "rows" that any table answers to.
    Questions in other languages share no words with English names whatever they are about: nothing is said of them.
    """
    asked = words(question)
    if not _ENGLISH.intersection(asked) or _OF_ANY_TABLE.intersection(asked):
        return False
    names = " ".join([*more, *(name for s in schemas for name in (s.name, *(c.name for c in s.columns)))])
    known = words(re.sub(r"(?<=[a-z])(?=[A-Z])|_", " ", names))  # itemPrice, item_price
    return not (_stems([*asked, *_measured(asked)]) & _stems(known) or _units(question).intersection(known))


def words(text: str) -> list[str]:
    """The words and numbers of a text, in lower case."""
    return re.findall(r"[^\W_]+", text.casefold())


def _stems(words: Iterable[str]) -> set[str]:
    return {word[:_STEM] for word in words if len(word) > 2 and word not in _COMMON}


def _measured(words: Iterable[str]) -> list[str]:
    """What the adjectives among the words measure."""
    found = map(_MEASURING.fullmatch, words)
    return [measure for match in found if match for measure in _MEASURES[match[1]].split()]


def _units(question: str) -> set[str]:
    """What stands behind the question's numbers and is no longer than units are: `m` in 1.90 m."""
    return set(re.findall(r"\d\s?([a-z]{1,3})\b", question.casefold())) - _BEHIND_NUMBERS
