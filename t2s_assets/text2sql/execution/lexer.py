"""The guard's first look at a query: its text, as tokens.

The lexer is stricter than any SQL lexer, so that what it takes is read in one way by sqlglot, which checks
the query, and by DuckDB, which runs it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from t2s_assets.text2sql.errors import T2SError
from t2s_assets.text2sql.sql.names import folded as ascii_folded

MAX_CHARACTERS = 20_000
# Nested brackets and CASEs. sqlglot recurses about 16 Python frames a level, of the 1,000 there are in all.
MAX_DEPTH = 24

RULES = {
    "characters": "only plain SQL text: no other quotes, parameters, operators or control characters",
    "comment": "a comment must end, and hold no other comment or lone carriage return",
    "construct": "only what reads: SELECT, set operations, CTEs, joins, windows and known functions",
    "depth": f"at most {MAX_DEPTH} nested brackets and CASEs",
    "function": "only the known functions may be called",
    "length": f"at most {MAX_CHARACTERS} characters",
    "qualified name": "no catalog or schema may be named, and columns have at most a table before them",
    "recursion": "no recursive CTE",
    "session": "nothing about the session may be read",
    "statement": "exactly one SELECT",
    "syntax": "it must parse as DuckDB's SQL",
    "table": "only the given tables and the query's own CTEs may be read",
}


class RefusedSQL(T2SError):
    """The guard does not let a query run. `rule` is a key of RULES, `fragment` the part that breaks it."""

    def __init__(self, rule: str, fragment: str) -> None:
        self.rule = rule
        self.fragment = fragment if len(fragment) <= 80 else fragment[:77] + "..."
        super().__init__(f"refused ({rule}): {self.fragment!r}: {RULES[rule]}")


def encoded(sql: str) -> bytes:
    """`sql` as UTF-8; raises RefusedSQL if it holds half a surrogate pair, which UTF-8 has no form for."""
    try:
        return sql.encode()
    except UnicodeEncodeError as error:
        half = sql[error.start : error.end].encode("ascii", "backslashreplace").decode()
        raise RefusedSQL("characters", half) from None


_TOKEN = re.compile(
    r"""
      (?P<space>   [ \t\r\n]+ )
    | (?P<line>    --[^\n]* )
    | (?P<block>   /\* (?:[^*]|\*(?!/))* \*/ )
    | (?P<string>  '(?:[^'\0]|'')*' )
    | (?P<quoted>  "(?:[^"\0]|"")+" )
    | (?P<number>  (?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?(?!\w) )
    | (?P<word>    [^\W\d]\w* )
    | (?P<bracket> [()\[\]] )
    | (?P<mark>    ::|[,.;] )
    | (?P<operator>[-+*/%^<>=!|]+? (?=--|/\*|[^-+*/%^<>=!|]|\Z) )
    """,
    re.VERBOSE,
)
_OPERATORS = frozenset("+ - * / // % ^ ** < > <= >= = == <> != ||".split())
_STARTS = frozenset(("select", "with", "from", "values", "("))
# After a bracket DuckDB reads statements of these words as queries, and sqlglot a column with an alias.
_SHOWS = frozenset(("show", "desc", "describe", "summarize"))
_CLOSING = {"(": ")", "[": "]"}


def checked_tokens(sql: str) -> list[tuple[str, str]]:
    """The tokens (kind, text), without blanks and comments, of one statement that starts as a query does and
    whose brackets are closed and not nested too deep; raises RefusedSQL if it is not that."""
    if len(sql) > MAX_CHARACTERS:
        raise RefusedSQL("length", f"{len(sql)} characters")
    encoded(sql)
    tokens = list(_tokens(sql))
    while tokens and tokens[-1] == ("mark", ";"):
        tokens.pop()
    if not tokens or ascii_folded(tokens[0][1]) not in _STARTS or ("mark", ";") in tokens:
        raise RefusedSQL("statement", sql.strip())
    for (_, before), (kind, text), (after, _) in zip(tokens, tokens[1:], tokens[2:]):
        if before == "(" and kind == "word" and ascii_folded(text) in _SHOWS and after in ("word", "quoted", "string"):
            raise RefusedSQL("construct", f"({text} ...")
    brackets: list[str] = []
    cases = 0
    for kind, text in tokens:
        if kind == "word":
            cases += {"case": 1, "end": -1}.get(ascii_folded(text), 0)
        elif kind == "bracket" and text in _CLOSING:
            brackets.append(_CLOSING[text])
        elif kind == "bracket" and (not brackets or brackets.pop() != text):
            raise RefusedSQL("syntax", f"{text} closes nothing")
        if len(brackets) + max(cases, 0) > MAX_DEPTH:
            raise RefusedSQL("depth", text)
    return tokens


def folded(kind: str, text: str) -> str:
    """What a token says, as DuckDB compares names: without its quotes."""
    if kind in ("quoted", "string"):
        text = text[1:-1].replace(text[0] * 2, text[0])
    return ascii_folded(text)


def _tokens(sql: str) -> Iterator[tuple[str, str]]:
    """(kind, text) of each token that is not blank; raises RefusedSQL at what is none."""
    position = 0
    while position < len(sql):
        match = _TOKEN.match(sql, position)
        if match is None or (match.lastgroup == "operator" and sql.startswith("/*", position)):
            rule = "comment" if sql.startswith("/*", position) else "characters"
            raise RefusedSQL(rule, sql[position : position + 20])
        kind, text = match.lastgroup or "", match[0]
        position = match.end()
        if (kind == "line" and "\r" in text.rstrip("\r\n")) or (kind == "block" and "/*" in text[2:]):
            raise RefusedSQL("comment", text)
        if kind == "operator" and not _is_operator(text):
            raise RefusedSQL("characters", text)
        if kind == "word" and len(text) == 1 and sql.startswith("'", position):
            raise RefusedSQL("characters", text + "'")  # E'', X'', B'': strings with rules of their own
        if kind not in ("space", "line", "block"):
            yield kind, text


def _is_operator(text: str) -> bool:
    """Whether a run of operator characters is one operator, possibly before signs, as in `a<=-1`."""
    while text not in _OPERATORS:
        if text[-1] not in "+-" or len(text) == 1:
            return False
        text = text[:-1]
    return True
