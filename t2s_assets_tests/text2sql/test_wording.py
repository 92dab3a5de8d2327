"""Queries in words."""

from __future__ import annotations

import pytest

from t2s_assets.text2sql.tables.user_tables import UserTable
from t2s_assets.text2sql.wording import in_words

PEAKS = UserTable.of("peaks", ["Name", "Height (m)"], ["text", "real"], where="test")


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ('SELECT "Name" FROM t', "“Name” in peaks"),
        (
            'SELECT "Height (m)" FROM t WHERE "Name" = \'k2\'',
            "“Height (m)” in peaks, where “Name” is ‘k2’ (in any case)",
        ),
        (
            'SELECT COUNT("Name") FROM t WHERE "Height (m)" > 8000 AND "Height (m)" < 8500.50',
            "how many rows have a “Name” in peaks, where “Height (m)” is over 8000 and “Height (m)” is under 8500.5",
        ),
        ('SELECT MAX("Height (m)") FROM t', "the largest “Height (m)” in peaks"),
        (
            'SELECT MIN("Name") FROM t WHERE "Name" > \'K\'',
            "the alphabetically first “Name” in peaks, where “Name” comes alphabetically after ‘K’",
        ),
        ('SELECT AVG("Height (m)") FROM t', "the average of “Height (m)” in peaks"),
        ('SELECT "Name" FROM t ORDER BY "Name"', None),
        ("no SQL", None),
    ],
)
def test_in_words(sql: str, words: str | None) -> None:
    assert in_words(sql, PEAKS) == words
