from __future__ import annotations

import datetime as dt
import re
from decimal import Decimal
from pathlib import Path

import pytest

from t2s_assets.text2sql.execution import Database, Relation

HERE = Path(__file__).parent
_ESCAPE = re.compile(r"\\(u[0-9a-f]{4}|[\\nrt0])")
_PLAIN = {"n": "\n", "r": "\r", "t": "\t", "0": "\0", "\\": "\\"}


def hostile() -> list[tuple[str, str]]:
    """(rule that refuses it, query) for each line of hostile.sql."""
    cases, rule = [], ""
    for line in (HERE / "hostile.sql").read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            rule = line[1:].partition(":")[0].strip()
        elif line:
            sql = _ESCAPE.sub(lambda m: chr(int(m[1][1:], 16)) if m[1][0] == "u" else _PLAIN[m[1]], line)
            cases.append((rule, sql))
    return cases


def benign() -> list[str]:
    lines = (HERE / "benign.sql").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("--")]


TABLE = Relation.from_rows(
    "table",
    [("Name", "VARCHAR COLLATE NOCASE"), ("Year", "DOUBLE"), ("Points, total", "DOUBLE")],
    [
        ("Anna", 1991.0, 10.0),
        ("Bo", 2001.0, 0.1),
        ("O'Hara", 2003.0, None),
        ("Göran", None, 7.25),
        (None, 1989.0, -3.0),
    ],
)
RACES = Relation.from_rows(
    "races",
    [
        *[("id", "INTEGER"), ("name", "VARCHAR"), ("city", "VARCHAR"), ("starts", "DATE")],
        *[("opens_at", "TIMESTAMP"), ("fee", "DECIMAL(8, 2)"), ("distance", "DOUBLE"), ("active", "BOOLEAN")],
    ],
    [
        (
            1,
            "Bay Run",
            "Oslo",
            dt.date(2024, 5, 4),
            dt.datetime(2024, 5, 4, 8, 30),
            Decimal("12.50"),
            10.0,
            True,
        ),
        (2, "Hill Climb", "Oslo", dt.date(2024, 6, 1), dt.datetime(2024, 6, 1, 9), None, 21.1, True),
        (
            3,
            "Night Mile",
            "Åre",
            dt.date(2023, 12, 31),
            dt.datetime(2023, 12, 31, 23),
            Decimal("30.00"),
            1.6,
            False,
        ),
    ],
)
RUNS = Relation.from_rows(
    "runs",
    [
        *[("race_id", "INTEGER"), ("runner", "VARCHAR"), ("seconds", "BIGINT")],
        *[("finished_at", "TIMESTAMP"), ("club", "VARCHAR")],
    ],
    [
        (1, "Ida", 2400, dt.datetime(2024, 5, 4, 9, 40), "IFK"),
        (1, "Ola", 2550, dt.datetime(2024, 5, 4, 9, 42, 30), "IFK"),
        (2, "Ida", 6100, dt.datetime(2024, 6, 1, 10, 41, 40), "IFK"),
        (2, "Per", 6100, dt.datetime(2024, 6, 1, 10, 41, 40), None),
    ],
)
# 2,000 rows: three of them side by side are 8e9 rows, which no query gets through in its time.
BIG = Relation.from_rows("big", [("n", "BIGINT"), ("s", "VARCHAR")], [(n, f"{n:08d}a" * 20) for n in range(2000)])


@pytest.fixture(scope="session")
def database() -> Database:
    return Database.of(TABLE, RACES, RUNS, BIG)
