"""Kinds of SQL values as bits of a set, and what DuckDB's functions take and give in them.

A set of kinds stands for "one of these". The sets are no wider than what DuckDB binds: it casts few kinds into one
another by itself (https://duckdb.org/docs/stable/sql/data_types/typecasting).
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

from t2s_assets.text2sql.decoding import select_grammar
from t2s_assets.text2sql.decoding.select_grammar import CLOCK, DAYS
from t2s_assets.text2sql.schema import Column

INTEGER, NUMBER, TEXT, DATE, TIMESTAMP, TIME, BOOLEAN, NULL, OTHER = (1 << bit for bit in range(9))
NUMERIC = INTEGER | NUMBER
DAY = DATE | TIMESTAMP
TEMPORAL = DAY | TIME
PLAIN = NUMERIC | TEXT | TEMPORAL | BOOLEAN
ANY = PLAIN | NULL | OTHER

FAMILIES = (NUMERIC, TEXT, DAY, TIME, BOOLEAN, OTHER)
"""Kinds of one family mix in CASE, COALESCE, IN and set operations, and compare."""

_COLUMNS = {
    **dict.fromkeys(("BIGINT", "INTEGER", "SMALLINT", "TINYINT"), INTEGER),
    **dict.fromkeys(("VARCHAR", "TEXT", ""), TEXT),
    **{"DATE": DATE, "TIMESTAMP": TIMESTAMP, "TIME": TIME, "BOOLEAN": BOOLEAN},
}


def of_column(column: Column) -> int:
    """The kind of a column: by its DuckDB type where the schema has one, else text or a number."""
    if column.type == "real":
        return INTEGER if _COLUMNS.get(column.sql_type) == INTEGER else NUMBER
    return _COLUMNS.get(column.sql_type.partition(" COLLATE ")[0], OTHER)


def family(kinds: int) -> int:
    """All kinds that go together with some of `kinds`."""
    return sum(each for each in FAMILIES if each & kinds)


def common(kinds: int) -> int:
    """The kind that values of these kinds have in one column."""
    if kinds & NUMERIC:
        return NUMBER if kinds & NUMBER else INTEGER
    if kinds & DAY:
        return TIMESTAMP if kinds & TIMESTAMP else DATE
    return kinds


CAST_TYPES = {
    **dict.fromkeys(("INT", "INTEGER", "BIGINT"), INTEGER),
    **dict.fromkeys(("DOUBLE", "FLOAT", "REAL", "DECIMAL"), NUMBER),
    **dict.fromkeys(("TEXT", "VARCHAR"), TEXT),
    **{"DATE": DATE, "TIMESTAMP": TIMESTAMP, "TIME": TIME, "BOOLEAN": BOOLEAN},
}

# What a value of a kind may be cast to: other casts bind and always fail.
_CASTS = {
    INTEGER: NUMERIC | TEXT | BOOLEAN,
    NUMBER: NUMERIC | TEXT | BOOLEAN,
    TEXT: PLAIN,
    DATE: DAY | TEXT,
    TIMESTAMP: TEMPORAL | TEXT,
    TIME: TIME | TEXT,
    BOOLEAN: NUMERIC | TEXT | BOOLEAN,
    NULL: PLAIN,
    OTHER: TEXT,
}


def cast_targets(source: int) -> int:
    """What some of these kinds may be cast to."""
    return functools.reduce(int.__or__, (to for kind, to in _CASTS.items() if kind & source), 0)


def cast_sources(target: int) -> int:
    """What may be cast to some of these kinds."""
    return sum(kind for kind, to in _CASTS.items() if to & target)


_TEMPORAL = ((re.compile(DAYS), DAY), (re.compile(CLOCK), TIME))
# With the end of one of these, whatever begins a date or a time is one.
_WHOLE = ("2000-01-01 00:00:00.0", "2000-10-10T10:10:10.0")
_ENDINGS = tuple(dict.fromkeys(whole[start:] for whole in _WHOLE for start in range(len(whole) + 1)))


def spelt_temporal(text: str) -> int:
    """The kinds of days or times that a string spells."""
    return sum(kind for pattern, kind in _TEMPORAL if pattern.fullmatch(text))


@functools.lru_cache(maxsize=4096)
def begins_temporal(text: str) -> int:
    """The kinds of days or times that a string with this beginning may spell; it may have its closing quote."""
    if text.endswith("'"):
        return spelt_temporal(text[:-1])
    return functools.reduce(int.__or__, (spelt_temporal(text + ending) for ending in _ENDINGS))


@dataclass(frozen=True)
class Signature:
    """What a function gives, and the kinds of its arguments, the last of which may repeat.

    `result` 0 stands for the kind of the first argument; arguments after the first `least` may be left out.
    """

    result: int
    arguments: tuple[int, ...]
    least: int
    repeats: bool = False
    aggregate: bool = False
    window: bool = False


_SPELLED = {
    "I": INTEGER, "N": NUMBER, "n": NUMERIC, "t": TEXT, "D": DATE, "d": DAY, "c": TEMPORAL, "S": TIMESTAMP,
    "b": BOOLEAN, "a": ANY, "p": PLAIN & ~BOOLEAN, "q": PLAIN, "=": 0, "O": OTHER,
}  # fmt: skip

# Names, what they give, what they take: `?` before what may be left out, `*` after what repeats, `=` the first's kind.
_FUNCTIONS = """
ABS CEIL CEILING FLOOR SQRT EXP LN LOG LOG10 LOG2 SIGN CBRT TRUNC DEGREES RADIANS SIN COS TAN: N n
ROUND: N n?I
POWER POW MOD: N nn
LENGTH LEN STRLEN ASCII: I t
STRPOS INSTR: I tt
YEAR QUARTER MONTH WEEK WEEKOFYEAR DAY DAYOFMONTH DAYOFWEEK DAYOFYEAR: I d
HOUR MINUTE SECOND: I c
EPOCH: N c
JULIAN: N d
DATE_PART: N td
DATE_DIFF DATEDIFF: I tdd
LOWER UPPER TRIM LTRIM RTRIM REVERSE STRIP_ACCENTS: t t
SUBSTRING SUBSTR: t tI?I
LEFT RIGHT: t tI
REPLACE: t ttt
REGEXP_REPLACE: t ttt?t
CONCAT CONCAT_WS: t a*
SPLIT_PART: t ttI
REGEXP_EXTRACT: t tt?I
STRFTIME: t dt
MONTHNAME DAYNAME: t d
STRPTIME: S tt
LAST_DAY: D d
DATE_TRUNC: S td
MAKE_DATE: D III
STARTS_WITH ENDS_WITH CONTAINS PREFIX SUFFIX REGEXP_MATCHES REGEXP_FULL_MATCH: b tt
"""
_AGGREGATES = """
COUNT APPROX_COUNT_DISTINCT: I a
AVG MEDIAN STDDEV STDDEV_POP STDDEV_SAMP VARIANCE VAR_POP VAR_SAMP: N n
MIN MAX MODE ANY_VALUE FIRST LAST: = q
"""
_PURE_AGGREGATES = """
ARG_MAX ARG_MIN MAX_BY MIN_BY: = pq
QUANTILE_CONT QUANTILE_DISC: N nn
CORR: N nn
COUNT_IF: I b
BOOL_AND BOOL_OR: b b
STRING_AGG LISTAGG GROUP_CONCAT: t q?t
ARRAY_AGG: O q
"""
_WINDOWS = """
LAG LEAD: = p?I?n
FIRST_VALUE LAST_VALUE: = p
"""


def _signatures(text: str, *, aggregate: bool = False, window: bool = False) -> dict[str, Signature]:
    found = {}
    for line in text.strip().splitlines():
        names, _, kinds = line.partition(": ")
        result, _, takes = kinds.partition(" ")
        letters = [letter for letter in takes if letter in _SPELLED]
        least = sum(letter in _SPELLED for letter in takes.partition("?")[0])
        arguments = tuple(_SPELLED[letter] for letter in letters)
        signature = Signature(_SPELLED[result], arguments, least, takes.endswith("*"), aggregate, window)
        found.update(dict.fromkeys(names.split(), signature))
    return found


FUNCTIONS = {
    **_signatures(_FUNCTIONS),
    **_signatures(_AGGREGATES, aggregate=True, window=True),
    "SUM": Signature(NUMBER, (NUMERIC | BOOLEAN,), 1, aggregate=True, window=True),
    **_signatures(_PURE_AGGREGATES, aggregate=True),
    **_signatures(_WINDOWS, window=True),
}
CHOICES = ("COALESCE", "GREATEST", "LEAST", "NULLIF", "IF")
LISTINGS = ("STRING_AGG", "LISTAGG", "GROUP_CONCAT", "ARRAY_AGG")
RANKINGS = ("ROW_NUMBER", "RANK", "DENSE_RANK", "PERCENT_RANK", "CUME_DIST", "NTILE")
CONSTANTS = {"CURRENT_DATE": DATE, "CURRENT_TIMESTAMP": TIMESTAMP, "NOW": TIMESTAMP, "TODAY": DATE}
PARTS = (*select_grammar.PARTS.split("|"), *select_grammar.PARTS.lower().split("|"), "DAYOFWEEK", "DAYOFYEAR")
UNITS = ("YEAR", "QUARTER", "MONTH", "WEEK", "DAY", "HOUR", "MINUTE", "SECOND")
UNITS += tuple(f"{unit}S" for unit in UNITS)


@functools.lru_cache(maxsize=4096)
def openings(expected: int, aggregates: bool, windows: bool) -> frozenset[str]:
    """The words that may begin an expression of the expected kinds, other than names and SELECT."""
    words = set()
    for name, signature in FUNCTIONS.items():
        gives = (signature.result or signature.arguments[0]) & expected
        if not (signature.aggregate or signature.window):
            usable = gives
        else:
            usable = (signature.aggregate and aggregates and gives) or (
                signature.window and windows and gives & ~BOOLEAN
            )
        if usable:
            words.add(name)
    if expected & PLAIN:
        words.update(CHOICES[:3])
        words.update(("CAST", "TRY_CAST", "CASE"))
    if expected & (NUMERIC | TEXT):
        words.update(("IF", "NULLIF"))
    if expected & NUMERIC:
        words.add("EXTRACT")
        words.update(RANKINGS if windows else ())
    words.update(name for name, kind in CONSTANTS.items() if kind & expected)
    words.update(("DATE",) if expected & DATE else ())
    words.update(("EXISTS", "TRUE", "FALSE", "NOT") if expected & BOOLEAN else ())
    words.update(("NULL",) if expected & NULL else ())
    return frozenset(words)
