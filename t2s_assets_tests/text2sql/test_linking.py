from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t2s_assets.text2sql.errors import PromptError
from t2s_assets.text2sql.linking import key_pairs, likeness, link, named_in, recall, words
from t2s_assets.text2sql.schema import Column, TableSchema


def _table(name: str, *columns: str) -> TableSchema:
    return TableSchema(name, tuple(Column(c, "text") for c in columns))


SHOP = (
    _table("customers", "customer_id", "full_name", "city", "birthYear"),
    _table("orders", "order_id", "customer_id", "ordered_at", "shipping_fee"),
    _table("order_items", "order_id", "product_id", "quantity"),
    _table("products", "product_id", "name", "supplier_id", "price"),
    _table("suppliers", "supplier_id", "name", "country"),
    _table("machine_log", "line", "stamp", "severity"),
)


def size(schemas: Sequence[TableSchema]) -> int:
    """Tables and columns."""
    return sum(1 + len(t.columns) for t in schemas)


def columns(schemas: Sequence[TableSchema]) -> set[str]:
    return {f"{t.name}.{c.name}" for t in schemas for c in t.columns}


def test_a_schema_that_fits_is_left_whole() -> None:
    assert link("anything", SHOP, size(SHOP), size) == SHOP


def test_the_column_that_the_question_names_is_kept() -> None:
    kept = link("What is the average shipping fee?", SHOP, 3, size)
    assert "orders.shipping_fee" in columns(kept) and size(kept) <= 3


@pytest.mark.parametrize(
    ("question", "kept"),
    [
        ("张伟的年龄是多少？", "员工.年龄"),
        ("哪个订单金额最高？", "订单.金额"),
        ("北京有多少供应商的联系电话？", "供应商.电话"),
        ("社員の住所はどこですか", "員.住所"),
    ],
)
def test_words_that_no_blank_parts_are_found(question: str, kept: str) -> None:
    tables = (
        _table("员工", "编号", "姓名", "年龄", "部门"),
        _table("订单", "单号", "客户", "日期", "金额"),
        _table("供应商", "代码", "城市", "名称", "电话"),
        _table("員", "番号", "氏名", "住所", "給与"),
    )
    assert kept in columns(link(question, tables, 4, size))


def test_what_is_to_be_kept_comes_first_and_stays_over_the_budget() -> None:
    needed = {("machine_log", "severity"), ("suppliers", "country")}
    kept = link("What is the average shipping fee?", SHOP, 8, size, keep=needed)
    assert {"machine_log.severity", "suppliers.country", "orders.shipping_fee"} <= columns(kept) and size(kept) <= 8
    assert columns(link("What is the average shipping fee?", SHOP, 1, size, keep=needed)) == {
        "machine_log.severity",
        "suppliers.country",
    }
    assert link("anything", SHOP, size(SHOP), size, keep=needed) == SHOP


@pytest.mark.parametrize(
    ("sql", "named"),
    [
        ("SELECT COUNT(*) FROM orders", {"orders.order_id"}),
        ('SELECT * FROM customers WHERE "City" = 1', {"customers.city"}),
        (
            "SELECT c.full_name FROM customers c JOIN orders AS o USING (customer_id) WHERE o.ordered_at > 'city'",
            {"customers.full_name", "customers.customer_id", "orders.customer_id", "orders.ordered_at"},
        ),
        ("WITH n AS (SELECT MAX(price) AS top FROM products) SELECT top FROM n", {"products.price"}),
        ("SELECT 1", set()),
    ],
)
def test_the_columns_that_gold_names(sql: str, named: set[str]) -> None:
    assert {f"{table}.{column}" for table, column in named_in(sql, SHOP)} == named


def test_keys_between_kept_tables_stay() -> None:
    kept = link("city of the customers with the latest orders", SHOP, 12, size)
    assert {"customers.customer_id", "orders.customer_id", "customers.city"} <= columns(kept)


def test_tables_that_join_only_through_others_bring_those() -> None:
    kept = link("country of suppliers by city of customers", SHOP, 22, size)
    way = {
        "suppliers.supplier_id",
        "products.supplier_id",
        "products.product_id",
        "order_items.product_id",
        "order_items.order_id",
        "orders.order_id",
        "orders.customer_id",
        "customers.customer_id",
    }
    assert way | {"suppliers.country", "customers.city"} <= columns(kept)
    assert "machine_log" not in {t.name for t in kept}


def test_plain_ids_join_by_the_table_s_name() -> None:
    schemas = (_table("companies", "id", "motto"), _table("people", "id", "company_id", "age"), _table("x", "a", "b"))
    kept = link("motto of the companies by the age of their people", schemas, 8, size)
    assert {"companies.id", "people.company_id"} <= columns(kept) and "x.a" not in columns(kept)


def test_a_table_whose_name_has_no_word_joins_nothing_by_it() -> None:
    schemas = (_table("_", "id", "x"), _table("--", "id", "y"), _table("company", "id"))
    assert key_pairs(schemas) == []
    assert columns(link("which x?", schemas, 2, size)) == {"_.x"}


def test_key_pairs_are_found_by_their_names() -> None:
    named = [(SHOP[a].columns[i].name, SHOP[b].name) for (a, i), (b, _) in key_pairs(SHOP)]
    assert named == [
        ("customer_id", "orders"),
        ("order_id", "order_items"),
        ("product_id", "products"),
        ("supplier_id", "suppliers"),
    ]


def test_a_table_s_own_names_come_with_it() -> None:
    assert "customers.full_name" in columns(link("list our customers", SHOP, 4, size))


def test_tables_and_columns_keep_their_order_and_content() -> None:
    kept = link("price and name of products, fee of orders", SHOP, 14, size)
    assert [t.name for t in kept] == [t.name for t in SHOP if t.name in {k.name for k in kept}]
    for table in kept:
        whole = next(t for t in SHOP if t.name == table.name)
        assert table.columns == tuple(c for c in whole.columns if c in table.columns)


def test_nothing_matched_keeps_what_joins_most() -> None:
    assert "machine_log" not in {t.name for t in link("zzz qqq", SHOP, 12, size)}


@settings(max_examples=40)
@given(st.text(max_size=60), st.integers(2, size(SHOP)))
def test_the_budget_always_holds(question: str, budget: int) -> None:
    try:
        kept = link(question, SHOP, budget, size)
    except PromptError:
        return
    assert kept and size(kept) <= budget and columns(kept) <= columns(SHOP)


def test_too_small_a_budget_says_what_to_raise() -> None:
    with pytest.raises(PromptError, match=r"not even with 'orders' and its column 'shipping_fee'.*prompt\.max_length"):
        link("shipping fee", SHOP, 1, size)
    with pytest.raises(PromptError, match="no tables"):
        link("shipping fee", (), 1, size)


def test_words_are_normalised() -> None:
    assert words("birthYear") == ("birth", "year")
    assert words("Prénom_du-client2") == ("prenom", "du", "client", "2")
    assert words("HTTPStatus") == ("http", "status")
    assert words("date of birth") == ("date", "birth")
    assert words("who") == ("who",)


def test_likeness() -> None:
    assert likeness("order", "order") == 1
    assert likeness("orders", "order") == likeness("order", "orders") == pytest.approx(5 / 6)
    assert likeness("delivery", "delivered") > 0.5
    assert likeness("id", "idea") == 0
    assert likeness("1990", "19901") == 0
    assert likeness("price", "country") == 0


def test_recall_counts_distinct_columns_ignoring_case() -> None:
    kept = [_table("T", "a", "b")]
    assert recall(kept, [("t", "A"), ("t", "a"), ("t", "c"), ("u", "a")]) == pytest.approx(1 / 3)
    assert recall(kept, []) is None


@pytest.fixture(scope="module")
def wide() -> tuple[TableSchema, ...]:
    """300 tables of 10 columns each, every one of which shares an account_id with all others."""
    start, end = "bar cor del fen gar hul jor kel lim mor nal por".split(), "ada eto ilo umi ona ery isk ant".split()
    names = [a + b for a in start for b in end]
    return tuple(
        _table(
            f"{names[i % 96]}_{names[(i * 7 + 3) % 96]}_{i}",
            "id",
            *(f"{names[(i * 11 + j * 5) % 96]}_{names[(i + j * 17) % 96]}" for j in range(8)),
            "account_id",
        )
        for i in range(300)
    )


def test_a_schema_of_3000_columns(wide: tuple[TableSchema, ...]) -> None:
    calls = 0

    def characters(schemas: Sequence[TableSchema]) -> int:
        nonlocal calls
        calls += 1
        return sum(len(t.name) + sum(len(c.name) + 2 for c in t.columns) for t in schemas)

    assert sum(len(t.columns) for t in wide) == 3000
    for number in (0, 123, 299):
        table = wide[number]
        left, right = table.columns[3].name.split("_")
        spoken = f"what is the largest {left} {right} in {' '.join(table.name.split('_'))}?"
        kept = link(spoken, wide, 1500, characters)
        assert recall(kept, [(table.name, table.columns[3].name)]) == 1
        assert 1000 < characters(kept) <= 1500
    # A tokenizer measures: once for each halving, not once for each column.
    assert calls < 3 * 20
