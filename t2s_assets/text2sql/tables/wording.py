"""What a query does, in words."""

from __future__ import annotations

from typing import Literal

from t2s_assets.text2sql.query import Condition, Query, SketchError, condition_number, from_sql, number_literal
from t2s_assets.text2sql.schema import TABLE, Column
from t2s_assets.text2sql.tables.user_tables import UserDatabase, UserTable, tables_of

_COUNT = "how many rows have a {}"
_TOTALS = ("the sum of {}", "the average of {}")
_AGGREGATES = {
    "number": ("{}", "the largest {}", "the smallest {}", _COUNT, *_TOTALS),
    "text": ("{}", "the alphabetically last {}", "the alphabetically first {}", _COUNT, *_TOTALS),
    "time": ("{}", "the latest {}", "the earliest {}", _COUNT, *_TOTALS),
}
_TESTS = {
    "number": ("is", "is over", "is under"),
    "text": ("is", "comes alphabetically after", "comes alphabetically before"),
    "time": ("is", "is after", "is before"),
}


def in_words(sql: str, about: UserTable | UserDatabase, gold: Literal["sketch", "sql"]) -> str | None:
    """What a model wrote, as a sentence about the user's table; None where it is more than the sketch of query.py.

    `gold` is what the model was trained on: a sketch is over `t`, with text compared in any case; SQL text over tables
    under their own names, with their real types, to the letter.
    """
    for table in tables_of(about):
        try:
            query = from_sql(sql, table.schema(TABLE if gold == "sketch" else table.path[-1]))
        except SketchError:
            continue
        return _sentence(query, table, typed=gold == "sql")
    return None


def _sentence(query: Query, table: UserTable, *, typed: bool) -> str:
    """`typed` says that columns have their real types, and that text is compared to the letter."""
    column = table.columns[query.column]
    aggregate = _AGGREGATES[_kind(column, typed)][query.aggregate]
    sentence = f"{aggregate.format(f'“{column.name}”')} in {table.name}"
    if query.conditions:
        sentence += ", where " + " and ".join(_test(c, table, typed) for c in query.conditions)
    return sentence


def _kind(column: Column, typed: bool) -> str:
    if column.type == "real":
        return "number"
    return "time" if typed and column.shown_type in ("date", "time", "timestamp") else "text"


def _test(condition: Condition, table: UserTable, typed: bool) -> str:
    column = table.columns[condition.column]
    number = condition_number(condition.value) if column.type == "real" else None
    if number is not None:
        # A whole number as it stands: a float would take one of over 2^53 for its neighbour.
        shown = str(condition.value) if isinstance(condition.value, int) else number_literal(number)
        return f"“{column.name}” {_TESTS['number'][condition.operator]} {shown}"
    case = " (in any case)" if condition.operator == 0 and not typed else ""
    # What spells no number is compared as the text that it is.
    test = _TESTS["text" if column.type == "real" else _kind(column, typed)][condition.operator]
    return f"“{column.name}” {test} ‘{condition.value}’{case}"
