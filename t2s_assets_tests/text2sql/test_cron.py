"""Cron schedules: what is taken here, Dagster takes too."""

from __future__ import annotations

import pytest
from dagster._utils.schedules import is_valid_cron_string

from t2s_assets.text2sql.cron import check_cron


@pytest.mark.parametrize(
    "text",
    [
        *("0 3 * * 0", "*/15 0-23 1,15 JAN-mar,12 mon-fri", "59 23 31 12 7", "5/10 */2 * * Sun", "0 0 29 2 *"),
        *("0 0 30 2,3 *", "0-59/59 0 31 1-12 6-7"),
    ],
)
def test_a_schedule(text: str) -> None:
    check_cron(text)
    assert is_valid_cron_string(text)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("daily", "five fields with a space between them are wanted: minute, hour"),
        ("0 3 * *", "five fields"),
        ("0 3 * * 0 0", "five fields"),
        ("0  3 * * 0", "five fields"),
        ("99 3 * * 0", "'99' is no minute: 0 to 59, as"),
        ("0 24 * * 0", "'24' is no hour: 0 to 23, as"),
        ("0 3 0 * 0", "'0' is no day of the month: 1 to 31"),
        ("0 3 * 13 0", "'13' is no month: 1 to 12 or jan to dec"),
        ("0 3 * * 8", "'8' is no weekday: 0 to 7 or sun to sat"),
        ("0 3 * * monday", "'monday' is no weekday"),
        ("0 3 * * 5-1", "'5-1' is no weekday"),
        ("0,x 3 * * 0", "'x' is no minute"),
        ("0, 3 * * 0", "'' is no minute"),
        ("*/0 3 * * 0", r"'\*/0' is no minute"),
        ("*/60 3 * * 0", r"'\*/60' is no minute"),
        ("-1 3 * * 0", "'-1' is no minute"),
        ("٣ 3 * * 0", "is no minute"),
        ("0 3 30 2 *", "no month of '2' has a day of '30'"),
        ("0 3 31 4,6,sep *", "no month of '4,6,sep' has a day of '31'; choose others"),
    ],
)
def test_no_schedule(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        check_cron(text)
