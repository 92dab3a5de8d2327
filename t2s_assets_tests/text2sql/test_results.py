"""When two results are one answer: a test for each rule."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from t2s_assets.text2sql.execution import Outcome
from t2s_assets.text2sql.results import is_degenerate, normal_cell, result_fingerprints


def outcome(*rows: tuple[Any, ...], **settings: Any) -> Outcome:
    return Outcome("ok", rows=rows, **settings)


def ordered(*rows: tuple[Any, ...]) -> str | None:
    return result_fingerprints(outcome(*rows))[0]


def bag(*rows: tuple[Any, ...]) -> str | None:
    return result_fingerprints(outcome(*rows))[1]


def test_text_is_compared_in_lower_case() -> None:
    assert ordered(("Lund",)) == ordered(("LUND",))
    assert ordered(("ÅSA",)) == ordered(("åsa",))
    assert ordered(("Lund",)) != ordered(("Lund ",))


def test_text_is_compared_to_the_letter_where_it_is_not_folded() -> None:
    for cell, other in (("Lund", "LUND"), (["a", ["Lund"]], ["a", ["LUND"]])):
        assert ordered((cell,)) == ordered((other,))
        letter, other_letter = (result_fingerprints(outcome((c,)), fold=False) for c in (cell, other))
        assert letter[0] != other_letter[0]
        assert letter[1] != other_letter[1]


@pytest.mark.parametrize("number", [5, 5.0, Decimal("5"), Decimal("5.00")])
def test_numbers_of_all_types_are_numbers(number: Any) -> None:
    assert ordered((number,)) == ordered((5,))


def test_a_number_is_not_its_text() -> None:
    assert ordered((5,)) != ordered(("5",))
    assert ordered((None,)) != ordered(("none",))
    assert ordered((None,)) != ordered(("",))
    assert ordered((True,)) != ordered(("true",))


def test_zero_has_no_sign() -> None:
    assert ordered((-0.0,)) == ordered((0,))


def test_the_last_bits_of_a_sum_do_not_count() -> None:
    assert sum([0.1] * 10) != 1.0
    assert ordered((sum([0.1] * 10),)) == ordered((1.0,))
    assert ordered((1.0000001,)) != ordered((1.0,))
    assert ordered((123456789012,)) != ordered((123456789013,))


def test_the_last_digit_of_a_whole_number_counts() -> None:
    """An EAN-13, and an id of 19 digits."""
    for code in (4006381333931, 1234567890123456789):
        assert ordered((code,)) != ordered((code + 1,))
        assert ordered((code,)) == ordered((Decimal(f"{code}.00"),)) != ordered((Decimal(code + 1),))
    assert ordered((4006381333931,)) == ordered((4006381333931.0,)) != ordered((4006381333932.0,))
    assert ordered((-(2.0**53) + 1,)) == ordered((-(2**53) + 1,))


def test_the_last_bits_of_a_large_sum_do_not_count() -> None:
    assert ordered((1234567890123.0625,)) == ordered((1234567890123.0627,))
    assert ordered((2.0**60,)) == ordered((2.0**60 + 2**9,))


def test_null_equals_null_and_nothing_else() -> None:
    assert ordered((None,)) == ordered((None,))
    assert ordered((None,)) != ordered((0,))
    assert ordered((None,)) != ordered()


def test_order_counts_in_the_ordered_fingerprint_only() -> None:
    assert ordered(("a",), ("b",)) != ordered(("b",), ("a",))
    assert bag(("a",), ("b",)) == bag(("b",), ("a",))
    assert bag((None,), (1,), ("1",)) == bag(("1",), (None,), (1,))


def test_repetition_counts_in_both() -> None:
    assert ordered(("a",), ("a",)) != ordered(("a",))
    assert bag(("a",), ("a",)) != bag(("a",))
    assert bag(("a",), ("a",), ("b",)) != bag(("a",), ("b",), ("b",))


def test_columns_keep_their_places() -> None:
    assert bag(("a", "b")) != bag(("b", "a"))
    assert bag(("a", "b")) != bag(("a",), ("b",))


def test_two_empty_results_are_equal() -> None:
    assert ordered() == ordered()
    assert ordered() is not None


@pytest.mark.parametrize("status", ["refused", "error", "timeout", "memory", "crashed"])
def test_what_did_not_run_equals_nothing(status: Any) -> None:
    assert result_fingerprints(Outcome(status, message="x")) == (None, None)


def test_a_cut_result_equals_nothing() -> None:
    assert result_fingerprints(outcome(("a",), truncated=True)) == (None, None)


def test_names_of_columns_and_time_taken_do_not_count() -> None:
    assert result_fingerprints(outcome(("a",), columns=("x",), seconds=1.0)) == result_fingerprints(outcome(("a",)))


@pytest.mark.parametrize(
    ("cell", "normal"),
    [
        (True, True),
        (dt.date(2024, 5, 1), "2024-05-01"),
        (dt.datetime(2024, 5, 1, 8, 30), "2024-05-01T08:30:00"),
        (dt.time(8, 30), "08:30:00"),
        (dt.timedelta(days=1), "1 day, 0:00:00"),
        ([1, "A", None], ["1", "a", None]),
        ({"K": "V"}, "{'k': 'v'}"),
        (b"AB", "b'ab'"),
        (float("nan"), "nan"),
        (1e300, "1e+300"),
        (2**70, "1180591620717411303424"),
        (Decimal(2**70), "1180591620717411303424"),
        (2.0**53, "9.00719925474e+15"),
        (2.0**70, "1.18059162072e+21"),
        (Decimal("1234567890123.5"), "1.23456789012e+12"),
        (Decimal("Infinity"), "inf"),
    ],
)
def test_other_cells(cell: Any, normal: Any) -> None:
    assert normal_cell(cell) == normal


CELL = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**60), 2**60), st.floats(allow_nan=False), st.text(max_size=5)
)


@given(st.lists(st.tuples(CELL, CELL), max_size=6), st.randoms())
def test_a_shuffled_result_is_the_same_bag(rows: list[tuple[Any, ...]], random: Any) -> None:
    shuffled = random.sample(rows, len(rows))
    assert bag(*rows) == bag(*shuffled)
    assert ordered(*rows) == ordered(*rows)


@pytest.mark.parametrize(
    ("result", "degenerate"),
    [
        (outcome(), True),
        (outcome((None,)), True),
        (outcome((None, None), (None, None)), True),
        (outcome((None, 0)), False),
        (outcome((0,)), False),
        (outcome(("",)), False),
        (outcome((False,)), False),
        (Outcome("error", message="x"), True),
    ],
)
def test_no_usable_answer(result: Outcome, degenerate: bool) -> None:
    assert is_degenerate(result) is degenerate
