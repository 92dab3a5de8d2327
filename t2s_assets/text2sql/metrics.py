"""The measures: what each counts, out of what, and what it leaves out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypedDict

from t2s_assets.text2sql.query import Query, SketchError, from_sql, normal_form, predicted_form
from t2s_assets.text2sql.schema import TableSchema

ERROR_KINDS = ("unparsable", "SELECT column", "aggregate", "WHERE column", "operator", "value")

_Z95 = 1.959963984540054


class Rate(TypedDict):
    """A share with its 95 % interval; `value`, `low` and `high` are None where `n` is 0."""

    value: float | None
    low: float | None
    high: float | None
    n: int


def rate(verdicts: Iterable[bool]) -> Rate:
    """The share of true verdicts with its 95 % Wilson score interval (Wilson 1927, JASA 22:209)."""
    counted = list(verdicts)
    n, hits = len(counted), sum(counted)
    if not n:
        return Rate(value=None, low=None, high=None, n=0)
    p, z2 = hits / n, _Z95**2
    middle = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z95 / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    low, high = middle - half, middle + half
    return Rate(value=p, low=low if hits else 0.0, high=high if hits < n else 1.0, n=n)  # exact where rounding is not


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> dict[str, Any]:
    """McNemar's exact test (1947, Psychometrika 12:153) on verdicts about the same questions, in the same order.

    Only questions that one got right and the other wrong count. `won` are right in `second` alone, `lost` in
    `first` alone; `p` is the two-sided binomial probability of a split at least this uneven if both were equal.

    Raises:
        ValueError: the two are about different numbers of questions.
    """
    if len(first) != len(second):
        raise ValueError(f"verdicts on the same questions are wanted; got {len(first)} and {len(second)}")
    won = sum(b and not a for a, b in zip(first, second))
    lost = sum(a and not b for a, b in zip(first, second))
    n = won + lost
    tail = sum(math.comb(n, k) for k in range(min(won, lost) + 1))
    return {"won": won, "lost": lost, "n": len(first), "p": min(1.0, 2 * tail / (1 << n)) if n else 1.0}


def percentiles(values: Sequence[float], shares: Sequence[float] = (0.5, 0.95, 0.99)) -> dict[str, float]:
    """Nearest-rank percentiles, as `{"p50": ...}`; empty for no values."""
    ordered = sorted(values)
    return {f"p{share * 100:g}": ordered[max(0, math.ceil(share * len(ordered)) - 1)] for share in shares if ordered}


def parse_prediction(sql: str, schema: TableSchema) -> tuple[Query | None, str]:
    """The structured query that a prediction means, or None with the reason why it is none."""
    try:
        return from_sql(sql, schema), ""
    except SketchError as e:
        return None, str(e)


def exact_match(predicted: Query | None, gold: Query, schema: TableSchema) -> bool:
    """EM of one question: does the prediction mean the gold's structured query?

    Over all questions: numerator, predictions whose parsed query equals the gold after normalisation (conditions
    as a set, text values lower-cased, values on `real` columns as numbers, where a predicted string that spells none is
    only its own text); denominator, every question asked. Nothing is left out: a prediction that does not parse, or
    says more than the sketch can, counts as wrong.
    On WikiSQL this is the official logical-form accuracy.
    """
    return predicted is not None and predicted_form(predicted, gold, schema) == normal_form(gold, schema)


def error_kinds(predicted: Query | None, gold: Query, schema: TableSchema) -> list[str]:
    """In which slots the prediction differs from the gold, in the order of ERROR_KINDS; empty for an exact match.

    Operators and values are compared on the columns that both put a condition on.
    """
    if predicted is None:
        return ["unparsable"]
    column, aggregate, conditions = predicted_form(predicted, gold, schema)
    gold_column, gold_aggregate, gold_conditions = normal_form(gold, schema)
    shared = {c for c, _, _ in conditions} & {c for c, _, _ in gold_conditions}
    mine = {c for c in conditions if c[0] in shared}
    theirs = {c for c in gold_conditions if c[0] in shared}
    operator = {c[:2] for c in mine} != {c[:2] for c in theirs}
    found = {
        "SELECT column": column != gold_column,
        "aggregate": aggregate != gold_aggregate,
        "WHERE column": sorted(c for c, _, _ in conditions) != sorted(c for c, _, _ in gold_conditions),
        "operator": operator,
        "value": {c[::2] for c in mine} != {c[::2] for c in theirs} or (not operator and mine != theirs),
    }
    return [kind for kind in ERROR_KINDS if found.get(kind)]


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Rate]:
    """EM, EX, EX strict, test-suite accuracy and validity of predictions.

    - `em`: see `exact_match`.
    - `ex`: numerator, predictions whose result equals the gold's (ordered rows, text lower-cased, two empty
      results equal); denominator, every question asked. A prediction that does not run is wrong, and so is one
      whose gold does not run.
    - `ex_strict`: the same with rows compared as bags; left out are questions whose gold result is empty or NULL,
      or does not run, since any query without an answer would match them.
    - `test_suite`: numerator, predictions that are right by EX and return the gold's result on every perturbed copy of
      their table as well; denominator, every question asked, and none where `evaluation.test_suite_copies` is 0.
    - `validity`: numerator, predictions that parse and execute; denominator, every question asked.
    """
    return {
        "em": rate(r["em"] for r in rows),
        "ex": rate(r["ex"] for r in rows),
        "ex_strict": rate(r["ex_strict"] for r in rows if not r["gold_degenerate"]),
        "test_suite": rate(r["test_suite"] for r in rows if r.get("test_suite") is not None),
        "validity": rate(r["valid"] for r in rows),
    }


def breakdown(rows: Sequence[Mapping[str, Any]], key: str) -> dict[str, dict[str, Rate]]:
    """`summary` for each value of `key`, the most frequent first."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(str(row[key]), []).append(row)
    return {name: summary(members) for name, members in sorted(groups.items(), key=lambda g: -len(g[1]))}
