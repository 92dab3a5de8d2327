"""What a query does, in words."""

from __future__ import annotations

from t2s_assets.text2sql.query import Condition, SketchError, condition_number, from_sql, number_literal
from t2s_assets.text2sql.schema import TABLE
from t2s_assets.text2sql.tables.user_tables import UserTable

_NUMBER_AGGREGATES = (
    "{}",
    "the largest {}",
    "the smallest {}",
    "how many rows have a {}",
    "the sum of {}",
    "the average of {}",
)
_TEXT_AGGREGATES = (
    "{}",
    "the alphabetically last {}",
    "the alphabetically first {}",
    *_NUMBER_AGGREGATES[3:],
)
_NUMBER_TESTS = ("is", "is over", "is under")
_TEXT_TESTS = ("is", "comes alphabetically after", "comes alphabetically before")


def in_words(sql: str, table: UserTable) -> str | None:
    """SQL over `t` as a sentence about the user's table, or None where it is more than the sketch of query.py."""
    try:
        query = from_sql(sql, table.schema(TABLE))
    except SketchError:
        return None
    column = table.columns[query.column]
    aggregates = _NUMBER_AGGREGATES if column.type == "real" else _TEXT_AGGREGATES
    sentence = f"{aggregates[query.aggregate].format(f'“{column.name}”')} in {table.name}"
    if query.conditions:
        sentence += ", where " + " and ".join(_test(c, table) for c in query.conditions)
    return sentence


def _test(condition: Condition, table: UserTable) -> str:
    column = table.columns[condition.column]
    number = condition_number(condition.value) if column.type == "real" else None
    if number is not None:
        return f"“{column.name}” {_NUMBER_TESTS[condition.operator]} {number_literal(number)}"
    case = " (in any case)" if condition.operator == 0 else ""
    return f"“{column.name}” {_TEXT_TESTS[condition.operator]} ‘{condition.value}’{case}"
