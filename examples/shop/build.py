"""Builds shop.duckdb, the database of the worked example: three years of an invented chain of kitchen and garden shops.

    python examples/shop/build.py [FILE]

The same rows come out every time: the draws use only `random.Random.random`, whose sequence Python keeps for a seed.
"""

from __future__ import annotations

import datetime as dt
import os
import random
import sys
import unicodedata
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import duckdb

Row = tuple[Any, ...]
T = TypeVar("T")

TABLES = {
    "categories": "category_id INTEGER PRIMARY KEY, name VARCHAR NOT NULL, parent_id INTEGER REFERENCES categories",
    "suppliers": (
        "supplier_id INTEGER PRIMARY KEY, name VARCHAR NOT NULL, city VARCHAR NOT NULL, country VARCHAR NOT NULL, "
        "contact_email VARCHAR, partner_since DATE NOT NULL"
    ),
    "products": (
        "product_id INTEGER PRIMARY KEY, name VARCHAR NOT NULL, category_id INTEGER NOT NULL REFERENCES categories, "
        "supplier_id INTEGER NOT NULL REFERENCES suppliers, price DECIMAL(8, 2) NOT NULL, weight_kg DOUBLE, "
        "launched DATE NOT NULL, discontinued BOOLEAN NOT NULL"
    ),
    "stores": (
        "store_id INTEGER PRIMARY KEY, name VARCHAR NOT NULL, city VARCHAR NOT NULL, country VARCHAR NOT NULL, "
        "opened DATE NOT NULL, closed DATE, floor_area_m2 INTEGER NOT NULL"
    ),
    "employees": (
        "employee_id INTEGER PRIMARY KEY, first_name VARCHAR NOT NULL, last_name VARCHAR NOT NULL, "
        "job_title VARCHAR NOT NULL, store_id INTEGER REFERENCES stores, "
        "manager_id INTEGER REFERENCES employees, hired DATE NOT NULL, monthly_salary DECIMAL(8, 2) NOT NULL"
    ),
    "customers": (
        "customer_id INTEGER PRIMARY KEY, first_name VARCHAR NOT NULL, last_name VARCHAR NOT NULL, email VARCHAR, "
        "city VARCHAR NOT NULL, country VARCHAR NOT NULL, birth_year INTEGER, newsletter BOOLEAN NOT NULL, "
        "signed_up DATE NOT NULL"
    ),
    "orders": (
        "order_id INTEGER PRIMARY KEY, customer_id INTEGER NOT NULL REFERENCES customers, "
        "store_id INTEGER REFERENCES stores, employee_id INTEGER REFERENCES employees, "
        "ordered_at TIMESTAMP NOT NULL, status VARCHAR NOT NULL, payment_method VARCHAR NOT NULL, "
        "shipping_fee DECIMAL(6, 2) NOT NULL, shipped_on DATE"
    ),
    "order_items": (
        "order_id INTEGER NOT NULL REFERENCES orders, line_number INTEGER NOT NULL, "
        "product_id INTEGER NOT NULL REFERENCES products, quantity INTEGER NOT NULL, "
        "unit_price DECIMAL(8, 2) NOT NULL, discount_percent INTEGER NOT NULL, PRIMARY KEY (order_id, line_number)"
    ),
    "reviews": (
        "review_id INTEGER PRIMARY KEY, product_id INTEGER NOT NULL REFERENCES products, "
        "customer_id INTEGER NOT NULL REFERENCES customers, rating INTEGER NOT NULL, headline VARCHAR, "
        "written_on DATE NOT NULL"
    ),
    "returns": (
        "return_id INTEGER PRIMARY KEY, order_id INTEGER NOT NULL REFERENCES orders, "
        "product_id INTEGER NOT NULL REFERENCES products, quantity INTEGER NOT NULL, reason VARCHAR NOT NULL, "
        "returned_on DATE NOT NULL, refund DECIMAL(8, 2)"
    ),
}
"""The columns of every table, in an order in which each refers to earlier ones only."""

# (name, parent)
CATEGORIES = [
    ("Kitchen", None),
    ("Garden", None),
    ("Drinks", None),
    ("Cookware", "Kitchen"),
    ("Knives", "Kitchen"),
    ("Bakeware", "Kitchen"),
    ("Tools", "Garden"),
    ("Pots & Planters", "Garden"),
    ("Seeds", "Garden"),
    ("Tea", "Drinks"),
    ("Coffee", "Drinks"),
    ("Gift Cards", None),
]

SUPPLIERS = [
    ("Nordgryta AB", "Göteborg", "Sweden", "order@nordgryta.example", "2016-03-01"),
    ("O'Hara & Sons", "Cork", "Ireland", "sales@ohara.example", "2017-09-15"),
    ("Kamei Hamono", "Sakai", "Japan", None, "2019-05-20"),
    ("Jardín del Sur", "Sevilla", "Spain", "hola@jardindelsur.example", "2018-02-11"),
    ("Ząbkowski Ceramika", "Bolesławiec", "Poland", "biuro@zabkowski.example", "2020-10-05"),
    ("Fjällte", "Umeå", "Sweden", "hej@fjallte.example", "2016-06-30"),
    ("Torrefazione D'Amico", "Trieste", "Italy", "info@damico.example", "2021-01-18"),
    ("Frø & Jord", "Odense", "Denmark", None, "2022-04-02"),
    ("Messer Schütz", "Solingen", "Germany", "vertrieb@schuetz.example", "2017-11-23"),
]

# (name, category, supplier, price, weight in kg, launched, discontinued)
PRODUCTS = [
    ("Cast-iron casserole 4 l", "Cookware", "Nordgryta AB", "129.00", 5.2, "2019-09-01", False),
    ("Cast-iron skillet 26 cm", "Cookware", "Nordgryta AB", "59.90", 2.6, "2019-09-01", False),
    ("Copper saucepan 1.5 l", "Cookware", "Nordgryta AB", "149.50", 1.4, "2020-03-15", False),
    ("Steel stockpot 10 l", "Cookware", "Nordgryta AB", "79.00", 3.1, "2018-01-10", False),
    ("Wok 32 cm", "Cookware", "Kamei Hamono", "64.00", 1.9, "2021-02-01", False),
    ("Pancake pan", "Cookware", "Nordgryta AB", "34.50", 1.2, "2018-05-05", True),
    ("Donabe clay pot", "Cookware", "Kamei Hamono", "98.00", 3.4, "2022-11-01", False),
    ("Egg pan", "Cookware", "O'Hara & Sons", "18.90", 0.6, "2023-03-01", False),
    ("Santoku 17 cm", "Knives", "Kamei Hamono", "119.00", 0.18, "2019-06-01", False),
    ("Petty knife 12 cm", "Knives", "Kamei Hamono", "74.00", 0.09, "2019-06-01", False),
    ("Bread knife", "Knives", "Messer Schütz", "49.00", 0.21, "2018-02-01", False),
    ("Chef's knife 20 cm", "Knives", "Messer Schütz", "89.00", 0.24, "2018-02-01", False),
    ("Oyster knife", "Knives", "O'Hara & Sons", "21.50", 0.11, "2020-08-20", False),
    ("Whetstone 1000/3000", "Knives", "Kamei Hamono", "42.00", 0.9, "2020-01-07", False),
    ("Magnetic knife rack", "Knives", "Messer Schütz", "39.00", 1.1, "2021-10-10", True),
    ("Bundt tin", "Bakeware", "Nordgryta AB", "29.90", 0.8, "2018-09-09", False),
    ("Loaf tin", "Bakeware", "O'Hara & Sons", "14.50", 0.5, "2017-12-01", False),
    ("Rolling pin", "Bakeware", "O'Hara & Sons", "12.00", 0.7, "2017-12-01", False),
    ("Stoneware pie dish", "Bakeware", "Ząbkowski Ceramika", "36.00", 1.6, "2020-11-15", False),
    ("Madeleine tray", "Bakeware", "Nordgryta AB", "19.90", 0.4, "2022-02-14", False),
    ("Proofing basket", "Bakeware", "O'Hara & Sons", "16.75", 0.3, "2021-01-20", False),
    ("Sourdough starter jar", "Bakeware", "Ząbkowski Ceramika", "22.00", 0.9, "2021-01-20", True),
    ("Hand trowel", "Tools", "Frø & Jord", "13.90", 0.3, "2022-04-10", False),
    ("Pruning shears", "Tools", "Messer Schütz", "44.00", 0.25, "2019-03-03", False),
    ("Garden fork", "Tools", "O'Hara & Sons", "38.50", 2.2, "2018-03-17", False),
    ("Spade", "Tools", "O'Hara & Sons", "41.00", 2.4, "2018-03-17", False),
    ("Watering can 8 l", "Tools", "Jardín del Sur", "27.00", 1.0, "2019-04-01", False),
    ("Leaf rake", "Tools", "Frø & Jord", "24.90", 1.3, "2022-09-01", False),
    ("Dibber", "Tools", "O'Hara & Sons", "9.80", 0.2, "2018-03-17", True),
    ("Terracotta pot 20 cm", "Pots & Planters", "Jardín del Sur", "11.50", 1.8, "2018-04-01", False),
    ("Terracotta pot 40 cm", "Pots & Planters", "Jardín del Sur", "34.00", 7.5, "2018-04-01", False),
    ("Glazed planter, blue", "Pots & Planters", "Ząbkowski Ceramika", "45.00", 4.1, "2020-11-15", False),
    ("Hanging basket", "Pots & Planters", "Jardín del Sur", "17.25", 0.9, "2019-05-01", False),
    ("Window box 60 cm", "Pots & Planters", "Ząbkowski Ceramika", "31.00", 3.3, "2021-04-20", False),
    ("Bonsai tray", "Pots & Planters", "Kamei Hamono", "52.00", 1.5, "2022-11-01", True),
    ("Tomato seeds 'Marmande'", "Seeds", "Jardín del Sur", "3.20", 0.01, "2018-02-20", False),
    ("Basil seeds", "Seeds", "Frø & Jord", "2.60", 0.01, "2022-04-10", False),
    ("Kale seeds", "Seeds", "Frø & Jord", "2.80", 0.01, "2022-04-10", False),
    ("Wildflower mix", "Seeds", "Frø & Jord", "5.90", 0.05, "2022-04-10", False),
    ("Jalapeño seeds", "Seeds", "Jardín del Sur", "3.50", 0.01, "2021-02-20", False),
    ("Sweet pea seeds", "Seeds", "O'Hara & Sons", "3.10", 0.01, "2019-02-01", False),
    ("Lingonberry tea 100 g", "Tea", "Fjällte", "8.90", 0.1, "2018-10-01", False),
    ("Birch leaf tea 80 g", "Tea", "Fjällte", "9.40", 0.08, "2019-05-15", False),
    ("Earl Grey 250 g", "Tea", "O'Hara & Sons", "12.50", 0.25, "2017-12-01", False),
    ("Irish breakfast 250 g", "Tea", "O'Hara & Sons", "11.90", 0.25, "2017-12-01", False),
    ("Sencha 100 g", "Tea", "Kamei Hamono", "18.00", 0.1, "2020-05-01", False),
    ("Rosehip tea 100 g", "Tea", "Fjällte", "7.80", 0.1, "2018-10-01", True),
    ("Espresso Classico 1 kg", "Coffee", "Torrefazione D'Amico", "24.00", 1.0, "2021-02-01", False),
    ("Espresso Decaffeinato 500 g", "Coffee", "Torrefazione D'Amico", "14.50", 0.5, "2021-02-01", False),
    ("Light roast 500 g", "Coffee", "Fjällte", "13.80", 0.5, "2021-09-01", False),
    ("Moka pot, 3 cups", "Coffee", "Torrefazione D'Amico", "32.00", 0.6, "2021-06-15", False),
    ("Hand grinder", "Coffee", "Kamei Hamono", "68.00", 0.7, "2023-01-15", False),
    ("Pour-over dripper", "Coffee", "Kamei Hamono", "26.50", 0.3, "2022-01-15", False),
    ("Gift card 25", "Gift Cards", "O'Hara & Sons", "25.00", None, "2020-11-01", False),
    ("Gift card 50", "Gift Cards", "O'Hara & Sons", "50.00", None, "2020-11-01", False),
]

# (name, city, country, opened, closed, floor area in square metres)
STORES = [
    ("Haga", "Göteborg", "Sweden", "2017-04-22", None, 310),
    ("Möllan", "Malmö", "Sweden", "2018-08-30", None, 240),
    ("St Stephen's", "Dublin", "Ireland", "2018-03-10", None, 420),
    ("English Market", "Cork", "Ireland", "2019-10-05", None, 95),
    ("Nørrebro", "København", "Denmark", "2020-06-01", None, 180),
    ("Grünerløkka", "Oslo", "Norway", "2021-05-12", "2024-02-29", 150),
    ("Kamppi", "Helsinki", "Finland", "2022-09-17", None, 275),
    ("Aker Brygge", "Oslo", "Norway", "2024-03-09", None, 205),
]

# (first name, last name, job title, store, manager's last name, hired, monthly salary)
EMPLOYEES = [
    ("Ingrid", "Lindqvist", "Managing director", None, None, "2017-01-09", "8900.00"),
    ("Declan", "O'Hara", "Head of purchasing", None, "Lindqvist", "2017-02-01", "6400.00"),
    ("Amina", "Yusuf", "Head of online sales", None, "Lindqvist", "2019-08-19", "6150.00"),
    ("Göran", "Ek", "Store manager", "Haga", "Lindqvist", "2017-03-20", "4300.00"),
    ("Lovisa", "Nyström", "Sales assistant", "Haga", "Ek", "2019-05-02", "2950.00"),
    ("Tariq", "Aziz", "Sales assistant", "Haga", "Ek", "2021-11-15", "2780.00"),
    ("Ebba", "Sjöberg", "Store manager", "Möllan", "Lindqvist", "2018-08-01", "4150.00"),
    ("Nils", "Persson", "Sales assistant", "Möllan", "Sjöberg", "2020-02-24", "2820.00"),
    ("Siobhán", "Byrne", "Store manager", "St Stephen's", "O'Hara", "2018-02-05", "4600.00"),
    ("Conor", "Walsh", "Sales assistant", "St Stephen's", "Byrne", "2018-03-01", "3050.00"),
    ("Aoife", "Kelly", "Sales assistant", "St Stephen's", "Byrne", "2022-06-13", "2700.00"),
    ("Piotr", "Wójcik", "Sales assistant", "St Stephen's", "Byrne", "2023-04-03", "2640.00"),
    ("Maeve", "D'Arcy", "Store manager", "English Market", "O'Hara", "2019-09-16", "4050.00"),
    ("Liam", "Murphy", "Sales assistant", "English Market", "D'Arcy", "2021-03-08", "2760.00"),
    ("Mette", "Sørensen", "Store manager", "Nørrebro", "Lindqvist", "2020-05-04", "4450.00"),
    ("Jonas", "Holm", "Sales assistant", "Nørrebro", "Sørensen", "2020-06-01", "2990.00"),
    ("Kari", "Nordmann", "Store manager", "Aker Brygge", "Lindqvist", "2021-04-12", "4700.00"),
    ("Ola", "Dahl", "Sales assistant", "Aker Brygge", "Nordmann", "2021-05-03", "3120.00"),
    ("Aino", "Virtanen", "Store manager", "Kamppi", "Lindqvist", "2022-08-15", "4250.00"),
    ("Eetu", "Mäkinen", "Sales assistant", "Kamppi", "Virtanen", "2022-09-05", "2850.00"),
    ("Zofia", "Kowalska", "Customer service agent", None, "Yusuf", "2020-01-13", "3010.00"),
    ("Ravi", "Menon", "Customer service agent", None, "Yusuf", "2023-02-06", "2870.00"),
]

# (country, cities, first names, last names, share of customers)
PEOPLE = [
    (
        "Sweden",
        ["Göteborg", "Malmö", "Stockholm", "Lund"],
        ["Astrid", "Björn", "Elsa", "Karin", "Lars", "Maja", "Oskar", "Sven", "Åsa", "Yasmin"],
        ["Andersson", "Berg", "Ström", "Öberg", "Lund", "Hedlund", "Karimi", "Åkesson"],
        0.3,
    ),
    (
        "Ireland",
        ["Dublin", "Cork", "Galway"],
        ["Niamh", "Seán", "Róisín", "Patrick", "Gráinne", "Eoin", "Fiona", "Chidi"],
        ["O'Brien", "O'Neill", "Ryan", "Doyle", "Okafor", "McCarthy", "Fitzgerald"],
        0.3,
    ),
    (
        "Denmark",
        ["København", "Aarhus"],
        ["Freja", "Søren", "Anders", "Ida", "Mikkel"],
        ["Jensen", "Møller", "Østergaard", "Rasmussen"],
        0.15,
    ),
    ("Norway", ["Oslo", "Bergen"], ["Håkon", "Sigrid", "Leif", "Tuva"], ["Hansen", "Bø", "Solberg", "Ødegård"], 0.15),
    ("Finland", ["Helsinki", "Turku"], ["Väinö", "Helmi", "Juhani", "Päivi"], ["Korhonen", "Niemi", "Hämäläinen"], 0.1),
]

HEADLINES = {
    1: ["Broke after a week", "Not what was pictured", "Never again", None],
    2: ["Disappointing", "Smaller than I'd thought", None],
    3: ["Does the job", "It's fine", "Okay for the price", None],
    4: ["Very good", "Nearly perfect", "Would buy again", None],
    5: ["Love it!", "Best I've owned", "Couldn't be happier", "Perfect gift", None],
}
REASONS = ["damaged in transit", "wrong item", "changed mind", "defective", "too small"]
FIRST_DAY, LAST_DAY = dt.date(2022, 1, 3), dt.date(2024, 12, 30)


class Draw:
    """Random choices from one seeded sequence."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def chance(self, share: float) -> bool:
        return self._random.random() < share

    def number(self, low: int, high: int) -> int:
        """A whole number from `low` to `high`, both included."""
        return low + int(self._random.random() * (high - low + 1))

    def one(self, items: Sequence[T], weights: Sequence[float] | None = None) -> T:
        if weights is None:
            return items[int(self._random.random() * len(items))]
        left = self._random.random() * sum(weights)
        for item, weight in zip(items, weights):
            left -= weight
            if left < 0:
                return item
        return items[-1]

    def date(self, first: dt.date, last: dt.date) -> dt.date:
        return first + dt.timedelta(days=self.number(0, (last - first).days))


def rows(seed: int = 2024) -> dict[str, list[Row]]:
    """Every table's rows, by table."""
    draw = Draw(seed)
    category = {name: i for i, (name, _) in enumerate(CATEGORIES, 1)}
    supplier = {s[0]: i for i, s in enumerate(SUPPLIERS, 1)}
    store = {s[0]: i for i, s in enumerate(STORES, 1)}
    staff = {e[1]: i for i, e in enumerate(EMPLOYEES, 1)}
    made: dict[str, list[Row]] = {
        "categories": [(i, n, category.get(p)) for i, (n, p) in enumerate(CATEGORIES, 1)],
        "suppliers": [(i, *s) for i, s in enumerate(SUPPLIERS, 1)],
        "products": [
            (i, name, category[c], supplier[s], price, weight, launched, gone)
            for i, (name, c, s, price, weight, launched, gone) in enumerate(PRODUCTS, 1)
        ],
        "stores": [(i, *s) for i, s in enumerate(STORES, 1)],
        "employees": [
            (i, first, last, job, store.get(where), staff.get(boss), hired, pay)
            for i, (first, last, job, where, boss, hired, pay) in enumerate(EMPLOYEES, 1)
        ],
    }
    made["customers"] = _customers(draw)
    made["orders"], made["order_items"] = _orders(draw, made["customers"])
    made["reviews"] = _reviews(draw, made["orders"], made["order_items"])
    made["returns"] = _returns(draw, made["orders"], made["order_items"])
    return made


def _ascii(name: str) -> str:
    plain = name.lower().translate(str.maketrans({"ø": "o", "'": ""}))
    return unicodedata.normalize("NFKD", plain).encode("ascii", "ignore").decode()


def _customers(draw: Draw) -> list[Row]:
    found: list[Row] = []
    names: set[tuple[str, str]] = set()
    while len(found) < 90:
        country, cities, firsts, lasts, _ = draw.one(PEOPLE, [p[4] for p in PEOPLE])
        name = (draw.one(firsts), draw.one(lasts))
        if name in names:
            continue
        names.add(name)
        email = f"{_ascii(name[0])}.{_ascii(name[1])}@mail.example" if draw.chance(0.88) else None
        born = draw.number(1948, 2004) if draw.chance(0.85) else None
        signed_up = draw.date(dt.date(2021, 6, 1), dt.date(2024, 6, 30))
        found.append((len(found) + 1, *name, email, draw.one(cities), country, born, draw.chance(0.45), signed_up))
    return found


def _seller(draw: Draw, store: int, day: dt.date) -> int:
    """Somebody of that city's shops who was there by then: the staff of a closed shop moved to the new one."""
    city = {s[0] for s in STORES if s[1] == STORES[store - 1][1]}
    return draw.one([i for i, e in enumerate(EMPLOYEES, 1) if e[3] in city and e[5] <= day.isoformat()])


def _orders(draw: Draw, customers: list[Row]) -> tuple[list[Row], list[Row]]:
    # The last seven customers have not bought anything yet.
    buyers = customers[:-7]
    eager = [draw.one([1.0, 2.0, 4.0]) for _ in buyers]
    days = sorted(draw.date(FIRST_DAY, LAST_DAY) for _ in range(420))
    orders: list[Row] = []
    items: list[Row] = []
    for number, day in enumerate(days, 1001):
        customer = draw.one(buyers, eager)
        while customer[8] > day:
            customer = draw.one(buyers, eager)
        near = [
            i
            for i, s in enumerate(STORES, 1)
            if s[2] == customer[5] and s[3] <= day.isoformat() and (s[4] is None or day.isoformat() <= s[4])
        ]
        store = draw.one(near) if near and draw.chance(0.6) else None
        if store is None:
            status = draw.one(["delivered", "cancelled", "lost"], [0.9, 0.08, 0.02])
            if day > dt.date(2024, 12, 10):
                status = draw.one(["shipped", "pending", "delivered"])
            payment = draw.one(["card", "invoice", "PayPal", "gift card"], [0.5, 0.25, 0.2, 0.05])
            fee = draw.one(["0.00", "4.90", "9.90"], [0.3, 0.5, 0.2])
            sent = None if status in ("cancelled", "pending") else day + dt.timedelta(days=draw.number(0, 6))
            seller = None
        else:
            status, fee, sent = "delivered", "0.00", None
            payment = draw.one(["card", "cash", "gift card"], [0.7, 0.22, 0.08])
            seller = _seller(draw, store, day)
        at = dt.datetime(day.year, day.month, day.day, draw.number(9, 20), draw.number(0, 59))
        orders.append((number, customer[0], store, seller, at, status, payment, fee, sent))
        items += _items(draw, number, day)
    return orders, items


def _items(draw: Draw, order: int, day: dt.date) -> list[Row]:
    on_sale = [i for i, p in enumerate(PRODUCTS, 1) if p[5] <= day.isoformat()]
    # Cheap things sell in numbers; the oyster knife is the shelf-warmer that nobody has bought.
    on_sale = [i for i in on_sale if PRODUCTS[i - 1][0] != "Oyster knife"]
    weights = [3.0 if float(PRODUCTS[i - 1][3]) < 20 else 1.5 for i in on_sale]
    chosen: list[int] = []
    for _ in range(draw.one([1, 2, 3, 4, 5], [0.3, 0.3, 0.2, 0.12, 0.08])):
        product = draw.one(on_sale, weights)
        if product not in chosen:
            chosen.append(product)
    found = []
    for line, product in enumerate(chosen, 1):
        price = float(PRODUCTS[product - 1][3])
        quantity = draw.number(1, 6) if price < 15 else draw.one([1, 2, 3], [0.8, 0.15, 0.05])
        then = round(price * (1 - 0.04 * (2024 - day.year)), 2)
        found.append((order, line, product, quantity, f"{then:.2f}", draw.one([0, 10, 25], [0.8, 0.15, 0.05])))
    return found


def _reviews(draw: Draw, orders: list[Row], items: list[Row]) -> list[Row]:
    order = {o[0]: o for o in orders}
    found: list[Row] = []
    seen: set[tuple[int, int]] = set()
    for order_id, _, product, *_ in items:
        _, customer, _, _, at, status, *_ = order[order_id]
        if status != "delivered" or (product, customer) in seen or not draw.chance(0.2):
            continue
        seen.add((product, customer))
        rating = draw.one([1, 2, 3, 4, 5], [0.06, 0.08, 0.16, 0.32, 0.38])
        day = at.date() + dt.timedelta(days=draw.number(4, 40))
        found.append((len(found) + 1, product, customer, rating, draw.one(HEADLINES[rating]), day))
    return found


def _returns(draw: Draw, orders: list[Row], items: list[Row]) -> list[Row]:
    order = {o[0]: o for o in orders}
    found: list[Row] = []
    for order_id, _, product, quantity, price, discount in items:
        if order[order_id][5] != "delivered" or not draw.chance(0.06):
            continue
        back = draw.number(1, quantity)
        day = order[order_id][4].date() + dt.timedelta(days=draw.number(3, 28))
        refund = None if draw.chance(0.15) else f"{back * float(price) * (1 - discount / 100):.2f}"
        found.append((len(found) + 1, order_id, product, back, draw.one(REASONS), day, refund))
    return found


def build(path: Path) -> None:
    """Write the database to `path`, in place of what is there."""
    fresh = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.new")
    try:
        with duckdb.connect() as connection:
            # DuckDB's default block takes 256 KB a column segment: ten small tables would make a file of megabytes.
            connection.execute(f"ATTACH '{fresh.as_posix().replace(chr(39), chr(39) * 2)}' AS shop (BLOCK_SIZE 16384)")
            connection.execute("USE shop")
            for name, content in rows().items():
                connection.execute(f"CREATE TABLE {name} ({TABLES[name]})")
                marks = ", ".join("?" * len(content[0]))
                connection.execute("BEGIN")
                connection.executemany(f"INSERT INTO {name} VALUES ({marks})", content)
                connection.execute("COMMIT")
            connection.execute("CHECKPOINT")
            connection.execute("USE memory")
            connection.execute("DETACH shop")
        os.replace(fresh, path)
    finally:
        fresh.unlink(missing_ok=True)


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "shop.duckdb"
    build(target)
    print(f"{target}: {target.stat().st_size / 1e3:,.0f} kB")
