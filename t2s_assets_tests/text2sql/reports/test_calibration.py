"""Calibration, against areas and errors worked out by hand."""

from __future__ import annotations

import math
import random

import pytest

from t2s_assets.text2sql.reports.calibration import (
    aurc,
    calibration,
    confidence,
    coverage_at,
    expected_calibration_error,
    optimal_aurc,
    reliability,
    risks,
)
from t2s_assets_tests.scored import row


def test_risk_is_the_share_wrong_among_the_surest() -> None:
    assert risks([0.9, 0.8, 0.7, 0.6], [True, False, True, False]) == [0, 1 / 2, 1 / 3, 1 / 2]
    assert risks([0.6, 0.9, 0.7, 0.8], [False, True, True, False]) == [0, 1 / 2, 1 / 3, 1 / 2]


def test_the_area_is_the_mean_risk() -> None:
    assert aurc([0.9, 0.8, 0.7, 0.6], [True, False, True, False]) == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 2) / 4)
    assert optimal_aurc([True, False, True, False]) == pytest.approx((0 + 0 + 1 / 3 + 1 / 2) / 4)
    assert aurc([0.9, 0.1], [True, False]) == optimal_aurc([True, False]) == 0.25
    assert aurc([0.5], [True]) == 0
    with pytest.raises(ValueError):
        aurc([], [])


def test_equal_confidences_say_nothing_in_whatever_order_they_come() -> None:
    right = [True] * 3 + [False] * 7
    for seed in range(5):
        random.Random(seed).shuffle(right)
        assert aurc([0.5] * 10, right) == pytest.approx(0.7)


def test_the_optimum_is_the_best_of_all_orders() -> None:
    draw = random.Random(3)
    for _ in range(200):
        right = [draw.random() < 0.6 for _ in range(draw.randint(1, 12))]
        confidences = [draw.random() for _ in right]
        assert aurc(confidences, right) >= optimal_aurc(right) - 1e-12


def test_reliability_counts_each_answer_in_one_range() -> None:
    diagram = reliability([0.0, 0.05, 0.95, 1.0, 0.5], [False, True, True, True, False], bins=10)
    assert [(part["from"], part["n"]) for part in diagram] == [(0.0, 2), (0.5, 1), (0.9, 2)]
    assert diagram[0]["confidence"] == pytest.approx(0.025)
    assert diagram[0]["right"] == 0.5
    # (2 * |0.025 - 0.5| + 1 * |0.5 - 0| + 2 * |0.975 - 1|) / 5
    assert expected_calibration_error(diagram) == pytest.approx(0.3)


def test_a_calibrated_confidence_has_no_error() -> None:
    diagram = reliability([0.75] * 4, [True, True, True, False])
    assert expected_calibration_error(diagram) == 0


def test_coverage_takes_whole_groups_of_one_confidence() -> None:
    confidences, right = [0.9, 0.8, 0.8, 0.1], [True, True, False, False]
    curve = risks(confidences, right)
    assert coverage_at(confidences, curve, 0.1) == {"risk": 0.1, "coverage": 0.25, "confidence": 0.9}
    assert coverage_at(confidences, curve, 0.34) == {"risk": 0.34, "coverage": 0.75, "confidence": 0.8}
    assert coverage_at(confidences, curve, 0.5)["coverage"] == 1
    assert coverage_at([0.9], [1.0], 0.5) == {"risk": 0.5, "coverage": 0.0, "confidence": None}


def test_confidence_is_the_probability_of_the_text() -> None:
    assert confidence(row("a", logprob=-1.0)) == pytest.approx(1 / math.e)
    assert confidence(row("a", logprob=1e-9)) == 1.0


def test_the_whole_of_it() -> None:
    rows = [row(str(i), right=i % 4 > 0, logprob=-float(i % 4 == 0) * 3 - i / 100) for i in range(40)]
    found = calibration(rows)
    assert found is not None
    assert found["n"] == 40
    assert found["aurc_random"] == 0.25
    assert found["mean_confidence"] == pytest.approx(sum(math.exp(r["logprob"]) for r in rows) / 40)
    assert found["ece"] == expected_calibration_error(found["reliability"]) > 0
    assert sum(part["n"] for part in found["reliability"]) == 40
    # Every wrong answer has a lower log-probability than every right one.
    assert found["aurc"] == pytest.approx(found["aurc_optimal"])
    assert found["aurc_excess"] == pytest.approx(0)
    assert [p["coverage"] for p in found["curve"]] == pytest.approx([i / 20 for i in range(1, 21)])
    assert found["curve"][-1] == {"coverage": 1.0, "risk": 0.25, "optimal": 0.25}
    assert found["coverage_at_risk"][0]["coverage"] >= 0.75
    assert calibration(rows[::-1]) == found
    assert calibration([]) is None
