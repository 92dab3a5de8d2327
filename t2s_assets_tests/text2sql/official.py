"""The official WikiSQL evaluator, written again from its description for tests, without a line of the library.

Logical form: selected column, aggregate, and conditions as a set with values as lower-cased text. Execution: sqlite,
cells in lower case, values bound as parameters, on `real` columns as numbers; results compared in order
(salesforce/WikiSQL, lib/query.py, lib/dbengine.py, evaluate.py).
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Sequence
from typing import Any

AGGREGATES = ["", "MAX", "MIN", "COUNT", "SUM", "AVG"]
OPERATORS = ["=", ">", "<"]

Sketch = dict[str, Any]


def spelled(text: str) -> float | None:
    """The number a cell spells: thousands separators and Unicode minus signs allowed."""
    for minus in "\u2212\u2012\u2013\u2014":
        text = text.replace(minus, "-")
    text = text.strip()
    if not re.match(r"^[-+]?(\d{1,3}(,\d{3})+|\d*)(\.\d*)?([eE][-+]?\d+)?$", text) or not re.search(r"\d", text):
        return None
    number = float(text.replace(",", ""))
    return None if number in (float("inf"), float("-inf")) else number


class Official:
    """One table in sqlite."""

    def __init__(self, types: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        self.types = list(types)
        self.connection = sqlite3.connect(":memory:")
        self.connection.execute(f"CREATE TABLE t ({', '.join(f'col{i} {t}' for i, t in enumerate(types))})")
        cells = [[spelled(c) if t == "real" else c.lower() for c, t in zip(row, types)] for row in rows]
        self.connection.executemany(f"INSERT INTO t VALUES ({', '.join('?' * len(self.types))})", cells)

    def execute(self, sketch: Sketch, *, by_column: bool = False) -> list[Any]:
        """The answers, in order. With `by_column` parameters are named after their columns, as the official evaluator
        names them, so that of two conditions on one column the last one's value counts for both."""
        column = f"col{sketch['sel']}"
        selected = f"{AGGREGATES[sketch['agg']]}({column})" if sketch["agg"] else column
        tests, bound = [], {}
        for number, (index, operator, value) in enumerate(sketch["conds"]):
            value = value.lower() if isinstance(value, str) else value
            if self.types[index] == "real" and isinstance(value, str):
                whole = spelled(value)
                value = whole if whole is not None else float(re.findall(r"[-+]?\d*\.\d+|\d+", value)[0])
            name = f"col{index}" if by_column else f"v{number}"
            tests.append(f"col{index} {OPERATORS[operator]} :{name}")
            bound[name] = value
        where = f" WHERE {' AND '.join(tests)}" if tests else ""
        return [row[0] for row in self.connection.execute(f"SELECT {selected} FROM t{where}", bound)]


def same_form(a: Sketch, b: Sketch) -> bool:
    """Official logical-form equality."""

    def form(sketch: Sketch) -> Any:
        return sketch["sel"], sketch["agg"], {(c, o, str(v).lower()) for c, o, v in sketch["conds"]}

    return form(a) == form(b)
