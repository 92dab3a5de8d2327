"""Verdicts of two models on the same questions: how far apart they are, and whether that is more than chance."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from t2s_assets.text2sql.metrics import mcnemar, rate

SIGNIFICANT = 0.05


class Difference(TypedDict):
    """A difference of two shares, between -1 and 1, with its 95 % interval and the number of questions."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Pairs:
    """What two are right about, over the questions that both answered, in the order of their ids."""

    ids: tuple[str, ...]
    first: tuple[bool, ...]
    second: tuple[bool, ...]

    @classmethod
    def of(cls, first: Mapping[str, bool], second: Mapping[str, bool]) -> Pairs:
        """Those of verdicts by question id; what only one of the two answered is left out."""
        ids = tuple(sorted(first.keys() & second.keys()))
        return cls(ids, tuple(first[i] for i in ids), tuple(second[i] for i in ids))

    @classmethod
    def of_rows(cls, first: Mapping[str, Mapping[str, Any]], second: Mapping[str, Mapping[str, Any]]) -> Pairs:
        """Those of EX, of rows of predictions by question id."""
        return cls.of(*({i: r["ex"] for i, r in rows.items()} for rows in (first, second)))

    @property
    def won(self) -> list[str]:
        """The questions that `second` alone is right about."""
        return [i for i, a, b in zip(self.ids, self.first, self.second) if b and not a]

    @property
    def lost(self) -> list[str]:
        """The questions that `first` alone is right about."""
        return [i for i, a, b in zip(self.ids, self.first, self.second) if a and not b]

    def test(self) -> dict[str, Any]:
        """`mcnemar` on them: `n`, `won`, `lost`, `p`."""
        return mcnemar(self.first, self.second)

    def difference(self) -> Difference:
        """How much larger the share is that `second` is right about, see `paired_difference`."""
        return paired_difference(self.first, self.second)


def paired_difference(first: Sequence[bool], second: Sequence[bool]) -> Difference:
    """The share of true verdicts in `second` less that in `first`, on the same questions in the same order.

    Its 95 % interval is method 10 of Newcombe 1998 (Statistics in Medicine 17:2635): the Wilson intervals of both
    shares, joined by the correlation of the verdicts, which is corrected for continuity where it is positive.

    Raises:
        ValueError: the two are about different numbers of questions, or about none.
    """
    n = len(first)
    if n != len(second) or not n:
        raise ValueError(f"verdicts on the same questions are wanted, one at least; got {n} and {len(second)}")
    one, two = rate(first), rate(second)
    right, right_then = sum(first), sum(second)
    covariance = n * sum(a and b for a, b in zip(first, second)) - right * right_then
    if covariance > 0:
        covariance = max(0.0, covariance - n / 2)
    spread = math.sqrt(right * (n - right) * right_then * (n - right_then))
    phi = covariance / spread if spread else 0.0
    value = two["value"] - one["value"]
    return Difference(
        value=value,
        low=value - _joined(two["value"] - two["low"], one["high"] - one["value"], phi),
        high=value + _joined(two["high"] - two["value"], one["value"] - one["low"], phi),
        n=n,
    )


def _joined(first: float, second: float, phi: float) -> float:
    """How far a difference reaches whose parts reach so far each."""
    return math.sqrt(first**2 - 2 * phi * first * second + second**2)


def holm(p: Sequence[float]) -> list[float]:
    """The p-values of several tests, in their order, adjusted so that the chance of any false positive among them stays
    at the level that each is held against (Holm 1979, Scandinavian Journal of Statistics 6:65)."""
    adjusted, least = [1.0] * len(p), 0.0
    for rank, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        least = max(least, min(1.0, (len(p) - rank) * p[i]))
        adjusted[i] = least
    return adjusted


def verdict(test: Mapping[str, Any]) -> str:
    """A McNemar test in words; `SIGNIFICANT` is the line between chance and more."""
    if test["p"] >= SIGNIFICANT:
        return "no larger than chance"
    return "better by more than chance" if test["won"] > test["lost"] else "worse by more than chance"
