"""What a question asks for and SQL of WikiSQL's sketch cannot say, so that a model of single tables left it out.

The sketch is one column, with an aggregate or not, and conditions by =, < or > that are joined by AND. Asked for
anything else, a model writes the nearest query of that shape, which is valid, runs, and answers another question.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from sqlglot import exp

from t2s_assets.text2sql.execution import RefusedSQL, check_sql
from t2s_assets.text2sql.tables.topic import words

_Test = Callable[[exp.Expression], bool]

_NUMBER = r"(?:\d[\d.,]*|two|three|four|five|six|seven|eight|nine|ten)"
_SUPERLATIVE = (
    r"(?:most|least|fewest|highest|lowest|largest|smallest|biggest|greatest|longest|shortest|tallest|oldest|youngest|"
    r"newest|latest|earliest|heaviest|lightest|fastest|slowest|richest|poorest|cheapest|deepest|widest|hottest|coldest|"
    r"best|worst)"
)
_MORE = r"(?:more|higher|greater|larger|bigger|longer|later|older|above|over)"
_LESS = r"(?:less|fewer|lower|smaller|shorter|earlier|younger|below|under)"
# "3 or more", and not "under 3 or more than 7", which are two conditions.
_OR_BEYOND = rf"or (?:{_MORE}|{_LESS})\b(?! than\b| [$€£]?{_NUMBER}\b)"


def _compares(tree: exp.Expression) -> bool:
    return tree.find(exp.GT, exp.LT) is not None


def _lacks_a_bound(tree: exp.Expression) -> bool:
    return tree.find(exp.GT) is None or tree.find(exp.LT) is None


def _aggregates(tree: exp.Expression) -> bool:
    return tree.find(exp.AggFunc) is not None


def _gives_an_extreme(tree: exp.Expression) -> bool:
    return tree.find(exp.Max, exp.Min) is not None


@dataclass(frozen=True)
class _Rule:
    """A line for questions with `words` whose SQL is as `applies` says."""

    words: re.Pattern[str]
    line: str
    applies: _Test = lambda tree: True


def _rule(words: str, line: str, applies: _Test = lambda tree: True) -> _Rule:
    return _Rule(re.compile(words, re.IGNORECASE), line, applies)


_RULES = (
    _rule(
        r"\b(?:not|never|except(?: for)?|excluding|other than|without|\w+n['’]t)\b",
        "a model of single tables excludes nothing: it writes no NOT",
    ),
    _rule(
        rf"\b(?:either|(?!{_OR_BEYOND})or)\b",
        "a model of single tables joins conditions by AND alone",
    ),
    _rule(
        rf"\b(?:at least|at most|no (?:{_MORE}|{_LESS}) than|{_OR_BEYOND}|up to)\b",
        "a model of single tables compares by < and > alone, so the bound itself is left out",
        _compares,
    ),
    _rule(
        rf"\bbetween\b(?=[^.?!]*{_NUMBER}[^.?!]*\band\b[^.?!]*{_NUMBER})",
        "the SQL does not have both bounds",
        _lacks_a_bound,
    ),
    _rule(
        r"\b(?:per|each|every|grouped by|broken down by)\b",
        "a model of single tables groups nothing: this is one figure for all rows",
        _aggregates,
    ),
    _rule(
        rf"\b(?:(?:top|first|last|bottom|best|worst) {_NUMBER}|{_NUMBER} {_SUPERLATIVE}|"
        rf"(?:second|third|2nd|3rd)[- ]{_SUPERLATIVE})\b",
        "a model of single tables puts nothing in order and counts nothing off",
    ),
    _rule(
        rf"\b{_SUPERLATIVE}\b",
        "the SQL does not look for it",
        lambda tree: not _aggregates(tree),
    ),
    _rule(
        rf"\A\W*(?:who|whose|which)\b.*\b(?P<said>{_SUPERLATIVE})\b",
        "MAX and MIN give the figure, not whose it is",
        _gives_an_extreme,
    ),
    _rule(
        r"\b(?:different|distinct|unique)\b",
        "COUNT counts equal values again each time",
        lambda tree: tree.find(exp.Count) is not None,
    ),
    _rule(
        r"\b(?:percent(?:age)?|share|proportion) of\b",
        "a model of single tables computes nothing from several figures",
        _aggregates,
    ),
    _rule(
        r"\bhow (?:many|much) (?:more|fewer|less)\b",
        "a model of single tables computes nothing from several figures",
    ),
)
"""In the order in which their lines are given. A question's words are told by one rule, the first."""


def unsaid(
    question: str, sql: str, names: Iterable[str], held: Callable[[str], bool] = lambda text: True
) -> tuple[str, ...]:
    """A line for each thing that an English question asks for and `sql`, of the sketch, does not say.

    Words in `names`, those of columns and the table, and in the texts that the SQL compares with are about the data:
    "not" in "Did not qualify" denies nothing. Not so in a text that is not `held` by any row: "EU or US". Nothing is
    said of SQL that does not parse.
    """
    try:
        tree = check_sql(sql, None)
    except RefusedSQL:
        return ()
    texts = [node.name for node in tree.find_all(exp.Literal)]
    known = " ".join(names)
    found: dict[str, str] = {}
    for rule in _RULES:
        if not rule.applies(tree):
            continue
        for match in rule.words.finditer(question):
            said = match.groupdict().get("said") or match.group()
            if any(_overlap(said, other) for other in (known, *found)):
                continue
            if not any(_overlap(said, text) and held(text) for text in texts):
                found[said] = rule.line
                break
    return tuple(f'the question says "{said}", and {line}' for said, line in found.items())


def _overlap(one: str, other: str) -> bool:
    return not set(words(one)).isdisjoint(words(other))
