"""Where gold leaves what a model may write."""

from __future__ import annotations

import pytest

from t2s_assets.text2sql.decoding.acceptance import Acceptance
from t2s_assets.text2sql.errors import PromptError
from t2s_assets_tests.text2sql.decoding.select_queries import SHOP


@pytest.fixture(scope="module")
def shop() -> Acceptance:
    return Acceptance(SHOP)


@pytest.mark.parametrize(
    ("sql", "stop"),
    [
        ("SELECT name FROM customers WHERE city = 'Tromsø'", None),
        ("SELECT name FROM customers WHERE total > 3", "total > 3"),
        ("SELECT name FROM customers WHERE city = 'Tromsø' GROUP name", "name"),
        ("SELECT * EXCLUDE (name) FROM customers", "EXCLUDE (name) FROM customers"),
        (
            "SELECT PRODUCT(id) FROM customers WHERE city = 'Oslo' AND country = 'Norway'",
            "PRODUCT(id) FROM customers WHERE city = ",
        ),
        ("SELECT name FROM customers WHERE", "WHERE"),
        ("SELECT name FROM customers WHERE id = (SELECT id FROM orders)", "orders)"),
        ("", ""),
    ],
)
def test_the_word_from_which_on_it_may_not_be_written(shop: Acceptance, sql: str, stop: str | None) -> None:
    assert shop.stops_at(sql) == stop


def test_tables_without_a_grammar() -> None:
    with pytest.raises(PromptError, match="at least one table"):
        Acceptance(())
