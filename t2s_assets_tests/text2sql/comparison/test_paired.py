"""Differences on the same questions, against published values."""

from __future__ import annotations

import pytest

from t2s_assets.text2sql.comparison.paired import Pairs, holm, paired_difference, verdict


def verdicts(both: int, won: int, lost: int, neither: int) -> tuple[list[bool], list[bool]]:
    """(first, second) with so many questions of each kind."""
    first = [True] * both + [False] * won + [True] * lost + [False] * neither
    second = [True] * both + [True] * won + [False] * lost + [False] * neither
    return first, second


@pytest.mark.parametrize(
    ("both", "won", "lost", "neither", "low", "high"),
    [
        # Newcombe 1998, Statistics in Medicine 17:2635, table III, method 10.
        (36, 12, 2, 0, 0.0569, 0.3404),
        (20, 12, 2, 16, 0.0562, 0.3292),
        (18, 12, 2, 18, 0.0562, 0.3290),
        (36, 14, 0, 0, 0.1528, 0.4167),
        (35, 14, 0, 1, 0.1461, 0.4175),
        (18, 14, 0, 18, 0.1441, 0.3963),
        (2, 97, 1, 0, 0.8721, 0.9854),
        (1, 97, 1, 1, 0.8736, 0.9850),
        (0, 29, 1, 0, 0.6666, 0.9882),
        (2, 98, 0, 0, 0.9178, 0.9945),
        (1, 98, 0, 1, 0.9171, 0.9916),
        (0, 30, 0, 0, 0.8395, 1.0000),
        (54, 0, 0, 0, -0.0664, 0.0664),
        (53, 0, 0, 1, -0.0729, 0.0729),
        (30, 0, 0, 24, -0.0358, 0.0358),
        (27, 0, 0, 27, -0.0351, 0.0351),
    ],
)
def test_intervals_of_paired_differences_are_newcombes(
    both: int, won: int, lost: int, neither: int, low: float, high: float
) -> None:
    first, second = verdicts(both, won, lost, neither)
    found = paired_difference(first, second)
    assert found["n"] == both + won + lost + neither
    assert found["value"] == pytest.approx((won - lost) / found["n"])
    # One of the printed limits is not rounded but cut off.
    assert (found["low"], found["high"]) == pytest.approx((low, high), abs=1e-4)
    turned = paired_difference(second, first)
    assert (turned["low"], turned["high"]) == pytest.approx((-found["high"], -found["low"]))


def test_a_difference_wants_the_same_questions_and_one_at_least() -> None:
    for first, second in (([True], [True, False]), ([], [])):
        with pytest.raises(ValueError, match=f"got {len(first)} and {len(second)}"):
            paired_difference(first, second)


def test_pairs_are_what_both_answered() -> None:
    pairs = Pairs.of(
        {"b": True, "a": False, "c": True, "d": False, "x": True},
        {"c": False, "a": True, "d": False, "b": True, "y": True},
    )
    assert pairs.ids == ("a", "b", "c", "d")
    assert (pairs.won, pairs.lost) == (["a"], ["c"])
    assert pairs.test() == {"won": 1, "lost": 1, "n": 4, "p": 1.0}
    assert pairs.difference()["value"] == 0.0


@pytest.mark.parametrize(
    ("p", "adjusted"),
    [
        # The order of the largest two is kept by giving them the same.
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.2], [0.2]),
        ([0.6, 0.5], [1.0, 1.0]),
        ([], []),
    ],
)
def test_several_tests_are_adjusted_by_holm(p: list[float], adjusted: list[float]) -> None:
    assert holm(p) == pytest.approx(adjusted)


@pytest.mark.parametrize(
    ("won", "lost", "p", "words"),
    [
        (6, 0, 0.03125, "better by more than chance"),
        (0, 6, 0.03125, "worse by more than chance"),
        (5, 0, 0.0625, "no larger than chance"),
        (0, 0, 1.0, "no larger than chance"),
        (9, 1, 0.05, "no larger than chance"),
    ],
)
def test_a_difference_in_words(won: int, lost: int, p: float, words: str) -> None:
    assert verdict({"won": won, "lost": lost, "p": p}) == words
