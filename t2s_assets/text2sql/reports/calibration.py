"""Whether the log-probability of an answer tells if it is right: risk against coverage, and reliability.

A model that knows what it does not know can leave its doubtful questions unanswered. The *risk* at a coverage is the
share of wrong answers among the surest questions that make up that share of all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

BINS = 10
CURVE_POINTS = 20
RISKS = (0.05, 0.10, 0.20)


def confidence(row: Mapping[str, Any]) -> float:
    """The model's probability of the whole SQL text that it wrote: e to the sum of its tokens' log-probabilities."""
    return math.exp(min(0.0, row["logprob"]))


def risks(confidences: Sequence[float], right: Sequence[bool]) -> list[float]:
    """The risk when the k surest are answered, for k = 1 to n.

    Answers of one confidence have no order among themselves: at each of them stands the risk to expect of a random
    one, so that the order of the questions does not matter.
    """
    found: list[float] = []
    wrong_before = 0.0
    ordered = sorted(zip(confidences, right), key=lambda pair: -pair[0])
    for _, group in groupby(ordered, key=lambda pair: pair[0]):
        verdicts = [verdict for _, verdict in group]
        share = verdicts.count(False) / len(verdicts)
        start = len(found)
        found += [(wrong_before + i * share) / (start + i) for i in range(1, len(verdicts) + 1)]
        wrong_before += verdicts.count(False)
    return found


def aurc(confidences: Sequence[float], right: Sequence[bool]) -> float:
    """Area under the risk-coverage curve: the mean of `risks` (Geifman, Uziel & El-Yaniv 2019, arXiv:1805.08206).

    0 is perfect; a confidence that says nothing gives the error rate. Raises ValueError for no answers.
    """
    if not right:
        raise ValueError("the area of a curve needs at least one answer")
    return math.fsum(risks(confidences, right)) / len(right)


def optimal_aurc(right: Sequence[bool]) -> float:
    """The least area that these verdicts allow: that of a confidence which puts every wrong answer last."""
    return math.fsum(_optimal_risks(len(right), right.count(False))) / len(right)


def _optimal_risks(n: int, wrong: int) -> list[float]:
    return [max(0, k - (n - wrong)) / k for k in range(1, n + 1)]


def reliability(confidences: Sequence[float], right: Sequence[bool], bins: int = BINS) -> list[dict[str, Any]]:
    """The reliability diagram: for each of `bins` equal ranges of confidence its answers, and of those the mean
    confidence and the share right. Ranges without an answer are left out."""
    members: dict[int, list[tuple[float, bool]]] = {}
    for sure, verdict in zip(confidences, right):
        members.setdefault(min(bins - 1, int(sure * bins)), []).append((sure, verdict))
    return [
        {
            "from": number / bins,
            "to": (number + 1) / bins,
            "n": len(pairs),
            "confidence": math.fsum(sure for sure, _ in pairs) / len(pairs),
            "right": sum(verdict for _, verdict in pairs) / len(pairs),
        }
        for number, pairs in sorted(members.items())
    ]


def expected_calibration_error(diagram: Sequence[Mapping[str, Any]]) -> float:
    """Mean distance between confidence and share right over the ranges of a reliability diagram, each counted by its
    answers (Naeini, Cooper & Hauskrecht 2015; Guo et al. 2017, arXiv:1706.04599)."""
    n = sum(part["n"] for part in diagram)
    return math.fsum(part["n"] * abs(part["confidence"] - part["right"]) for part in diagram) / n


def calibration(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """How well confidence tells right answers (EX) from wrong ones; None without answers.

    Over every row, those that do not parse or run included. `aurc_random` is the area without any ordering: the error
    rate. `coverage_at_risk` holds the largest share of questions that can be answered with at most that share wrong,
    and the confidence from which to answer them.
    """
    if not rows:
        return None
    confidences = [confidence(row) for row in rows]
    right = [bool(row["ex"]) for row in rows]
    n, wrong = len(rows), right.count(False)
    curve = risks(confidences, right)
    best = _optimal_risks(n, wrong)
    area, least = aurc(confidences, right), optimal_aurc(right)
    diagram = reliability(confidences, right)
    places = sorted({max(1, round(n * i / CURVE_POINTS)) for i in range(1, CURVE_POINTS + 1)})
    return {
        "n": n,
        "aurc": area,
        "aurc_optimal": least,
        "aurc_excess": area - least,
        "aurc_random": wrong / n,
        "ece": expected_calibration_error(diagram),
        "mean_confidence": math.fsum(confidences) / n,
        "curve": [{"coverage": k / n, "risk": curve[k - 1], "optimal": best[k - 1]} for k in places],
        "coverage_at_risk": [coverage_at(confidences, curve, risk) for risk in RISKS],
        "reliability": diagram,
    }


def coverage_at(confidences: Sequence[float], curve: Sequence[float], risk: float) -> dict[str, Any]:
    """The most that can be answered at no more than `risk`: `coverage` and the least `confidence` among it.

    Only whole groups of one confidence are answered, for no threshold takes a part of one. Coverage 0 has no
    confidence.
    """
    ordered = sorted(confidences, reverse=True)
    n = len(ordered)
    last = [k for k in range(1, n + 1) if k == n or ordered[k] < ordered[k - 1]]
    k = max((k for k in last if curve[k - 1] <= risk), default=0)
    return {"risk": risk, "coverage": k / n, "confidence": ordered[k - 1] if k else None}
