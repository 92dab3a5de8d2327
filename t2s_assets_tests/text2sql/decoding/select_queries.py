"""Queries that people ask of a shop's tables: what the grammar of SELECT must accept."""

from __future__ import annotations

from pathlib import Path

from t2s_assets.text2sql.schema import Column, TableSchema


def _table(name: str, /, **types: str) -> TableSchema:
    columns = [Column(n.replace("__", " "), "real" if t == "DOUBLE" else "text", t) for n, t in types.items()]
    return TableSchema(name, tuple(columns))


SHOP = (
    _table(
        "customers",
        id="DOUBLE",
        name="VARCHAR",
        city="VARCHAR",
        country="VARCHAR",
        joined="DATE",
        email="VARCHAR",
        active="BOOLEAN",
    ),
    _table("orders", id="DOUBLE", customer_id="DOUBLE", order_date="DATE", status="VARCHAR", total="DOUBLE"),
    _table("order_items", order_id="DOUBLE", product_id="DOUBLE", quantity="DOUBLE", unit__price="DOUBLE"),
    _table("products", id="DOUBLE", title="VARCHAR", category="VARCHAR", price="DOUBLE", stock="DOUBLE"),
)

DDL = """
CREATE TABLE customers (id DOUBLE, name VARCHAR, city VARCHAR, country VARCHAR, joined DATE, email VARCHAR,
  active BOOLEAN);
CREATE TABLE orders (id DOUBLE, customer_id DOUBLE, order_date DATE, status VARCHAR, total DOUBLE);
CREATE TABLE order_items (order_id DOUBLE, product_id DOUBLE, quantity DOUBLE, "unit price" DOUBLE);
CREATE TABLE products (id DOUBLE, title VARCHAR, category VARCHAR, price DOUBLE, stock DOUBLE);
"""

_HERE = Path(__file__).parent

QUERIES = (_HERE / "selects.sql").read_text().splitlines()
SCOPED = (_HERE / "more_selects.sql").read_text().splitlines()
"""Queries whose names come from more than one place."""

OUT_OF_SCOPE = (_HERE / "out_of_scope_selects.sql").read_text().splitlines()
"""Queries of the grammar, each with a name, a group or a width that DuckDB does not bind."""

WRONG = (_HERE / "refused_selects.sql").read_text().splitlines()
