"""Calibrated probabilities, and when no answer is given."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from t2s_assets.text2sql.config import DecodingConfig
from t2s_assets.text2sql.evaluation.confidence import (
    FEWEST,
    Confidence,
    Verdict,
    fit_confidence,
    load_confidence,
    reason_to_abstain,
)


@pytest.fixture(scope="module")
def fit() -> Confidence:
    """On answers that are right with probability 1 + logprob / 2; one in ten is off topic."""
    draw = random.Random(3)
    verdicts = []
    for at in range(2000):
        logprob = -2 * draw.random()
        verdicts.append(Verdict(logprob, draw.random() < 1 + logprob / 2, at % 10 == 0))
    found = fit_confidence(verdicts, "v1", DecodingConfig())
    assert found is not None
    return found


def test_probabilities_are_those_of_being_right(fit: Confidence) -> None:
    for logprob in (-1.8, -1.5, -1.0, -0.5, -0.2):
        assert fit.probability(logprob) == pytest.approx(1 + logprob / 2, abs=0.12)
    assert 0 < fit.probability(-100.0) <= fit.probability(-1.0) <= fit.probability(0.0) < 1
    assert list(fit.logprobs) == sorted(fit.logprobs)
    assert list(fit.probabilities) == sorted(fit.probabilities)


def test_strangers_are_refused_below_the_threshold_only(fit: Confidence) -> None:
    # One in ten is off topic, and 2 % may be refused: the lowest fifth of them.
    assert fit.unrelated_below == pytest.approx(-1.6, abs=0.15)
    assert reason_to_abstain(fit, -1.9, True, 0.0).startswith("cannot be answered from this table")
    assert reason_to_abstain(fit, -1.9, False, 0.0) is None
    assert reason_to_abstain(fit, -0.1, True, 0.0) is None


def test_steps_and_threshold_are_those_worked_out_by_hand() -> None:
    """Two steps that descend, and two that are level, are one; a single right answer is less sure than 30 of 40."""
    right_of = {-3.0: (10, 20), -2.0: (5, 20), -1.0: (15, 20), -0.8: (15, 20), -0.1: (1, 1)}
    verdicts = [Verdict(at, i < right, i == n - 2) for at, (right, n) in right_of.items() for i in range(n)]
    random.Random(1).shuffle(verdicts)
    fit = fit_confidence(verdicts, "v1", DecodingConfig())
    assert fit is not None
    assert (fit.n, fit.logprobs) == (81, (-3.0, -2.0, -1.0, -0.8, -0.1))
    assert fit.probabilities == pytest.approx((16 / 42, 16 / 42, 31 / 42, 31 / 42, 31 / 42))
    # Off topic is one at each of the four lowest; 2 % of 81 is one answer, that at -3.
    assert fit.unrelated_below == -2.0


@pytest.mark.parametrize("strangers", [0, 1])
def test_few_strangers_in_validation_do_not_refuse_sure_answers(strangers: int) -> None:
    verdicts = [Verdict(-0.1, True, False)] * (FEWEST - strangers) + [Verdict(-2.0, True, True)] * strangers
    fit = fit_confidence(verdicts, "v1", DecodingConfig())
    assert fit is not None
    assert reason_to_abstain(fit, -0.5, True, 0.0) is None
    assert reason_to_abstain(fit, -1.0, True, 0.0) is not None


def test_a_minimum_withholds_unsure_answers(fit: Confidence) -> None:
    assert "below --min-confidence 0.9" in reason_to_abstain(fit, -1.0, False, 0.9)
    assert reason_to_abstain(fit, -1.0, False, 0.2) is None


def test_few_answers_or_another_adapter_give_no_calibration(fit: Confidence, tmp_path: Path) -> None:
    assert fit_confidence([Verdict(-1.0, True, False)] * (FEWEST - 1), "v1", DecodingConfig()) is None
    assert load_confidence(tmp_path, "v1", DecodingConfig()) is None
    fit.save(tmp_path)
    assert load_confidence(tmp_path, "v1", DecodingConfig()) == fit
    assert load_confidence(tmp_path, "v2", DecodingConfig()) is None
    assert load_confidence(tmp_path, "v1", DecodingConfig(execution_guided=True)) is None
    assert load_confidence(tmp_path, "v1", DecodingConfig(batch_tokens=64)) == fit


def test_the_lowest_step_is_a_bound(fit: Confidence) -> None:
    assert fit.at_most(-100.0) and fit.probability(-100.0) == fit.probabilities[0]
    assert not fit.at_most(-1.0)
