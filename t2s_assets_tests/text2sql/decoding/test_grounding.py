"""Values that no row holds become the nearest stored ones, where that is clear."""

from __future__ import annotations

import pytest

from t2s_assets.text2sql.decoding.grounding import ground, nearest


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        ("Northwestrn", "Northwestern"),
        ("northwestern", None),  # there already, ignoring case
        ("michigan", None),  # two are as near
        ("Stanford", None),  # nothing is near
    ],
)
def test_nearest(value: str, stored: str | None) -> None:
    assert nearest(value, ["Northwestern", "Michigan A", "Michigan B", "Yale"]) == stored


def test_only_text_equalities_are_grounded() -> None:
    cells = {"Club": ["O'Briens FC", "Ajax"]}
    sql = 'SELECT "Club" FROM t WHERE "Club" = \'OBriens FC\' AND "Year" > 1990'
    grounded = ground(sql, lambda name: cells.get(name, []))
    assert grounded == 'SELECT "Club" FROM t WHERE "Club" = \'O\'\'Briens FC\' AND "Year" > 1990'
    for other in ('SELECT "Club" FROM t WHERE "Club" > \'Ajox\'', "SELECT FROM", 'SELECT "Club" FROM t'):
        assert ground(other, lambda name: cells.get(name, [])) == other
