"""Queries that people ask of a shop's tables: what the grammar of SELECT must accept."""

from __future__ import annotations

from pathlib import Path

from t2s_assets.text2sql.schema import Column, TableSchema


def _table(name: str, /, **columns: str) -> TableSchema:
    return TableSchema(name, tuple(Column(n.replace("__", " "), t) for n, t in columns.items()))  # type: ignore[arg-type]


SHOP = (
    _table("customers", id="real", name="text", city="text", country="text", joined="text", email="text"),
    _table("orders", id="real", customer_id="real", order_date="text", status="text", total="real"),
    _table("order_items", order_id="real", product_id="real", quantity="real", unit__price="real"),
    _table("products", id="real", title="text", category="text", price="real", stock="real"),
)

DDL = """
CREATE TABLE customers (id DOUBLE, name VARCHAR, city VARCHAR, country VARCHAR, joined DATE, email VARCHAR);
CREATE TABLE orders (id DOUBLE, customer_id DOUBLE, order_date DATE, status VARCHAR, total DOUBLE);
CREATE TABLE order_items (order_id DOUBLE, product_id DOUBLE, quantity DOUBLE, "unit price" DOUBLE);
CREATE TABLE products (id DOUBLE, title VARCHAR, category VARCHAR, price DOUBLE, stock DOUBLE);
"""

_HERE = Path(__file__).parent

QUERIES = (_HERE / "selects.sql").read_text().splitlines()
WRONG = (_HERE / "refused_selects.sql").read_text().splitlines()
