"""When two query results are the same answer.

The official WikiSQL evaluator lower-cases text, reads `real` columns as numbers, compares rows in their order, and
takes two empty results as equal (salesforce/WikiSQL, evaluate.py and lib/dbengine.py). `ordered` fingerprints hold
to that; `bag` fingerprints forget the order of rows, not how often one stands there.
"""

from __future__ import annotations

import datetime
import decimal
import hashlib
import json
from typing import Any

from t2s_assets.text2sql.execution import Outcome

# A sum or an average may differ in its last bits with the order of additions, which DuckDB does not promise.
_DIGITS = 12
# From here on a float does not hold every whole number, so that a whole one may be a rounded sum.
_WHOLE_FLOATS = 2.0**53


def normal_cell(cell: Any, *, fold: bool = True) -> Any:
    """A cell as compared: text lower-cased with `fold`, numbers as below, dates as ISO text.

    Whole numbers are exact, of whatever type (of floats, those below 2^53); others have 12 significant digits.
    """
    if cell is None or isinstance(cell, bool):
        return cell
    if isinstance(cell, str):
        return cell.lower() if fold else cell
    if isinstance(cell, (int, float, decimal.Decimal)):
        return str(int(cell)) if _is_exact(cell) else f"{float(cell):.{_DIGITS}g}"
    if isinstance(cell, (datetime.date, datetime.time)):
        return cell.isoformat()
    if isinstance(cell, (list, tuple)):
        return [normal_cell(c, fold=fold) for c in cell]
    return str(cell).lower()


def _is_exact(number: int | float | decimal.Decimal) -> bool:
    if isinstance(number, float):
        return number.is_integer() and abs(number) < _WHOLE_FLOATS
    return isinstance(number, int) or (number.is_finite() and number == number.to_integral_value())


# Made once: json.dumps with any option makes an encoder for each call.
_ENCODER = json.JSONEncoder(ensure_ascii=False)


def _digest(content: Any) -> str:
    return hashlib.sha256(_ENCODER.encode(content).encode()).hexdigest()[:16]


def result_fingerprints(outcome: Outcome, *, fold: bool = True) -> tuple[str | None, str | None]:
    """(ordered, bag) fingerprints of a result; (None, None) where there is none or not all of it came back.

    Columns are compared by position. With `fold`, WikiSQL's rule, text compares ignoring case, else to the letter.
    """
    if outcome.status != "ok" or outcome.truncated:
        return None, None
    # A tag keeps the number 5 apart from the text "5".
    rows = [[[isinstance(c, str), normal_cell(c, fold=fold)] for c in row] for row in outcome.rows]
    ordered = _digest(rows)
    return ordered, ordered if len(rows) < 2 else _digest(sorted(rows, key=json.dumps))


def is_degenerate(outcome: Outcome) -> bool:
    """No usable answer: it did not run, or returned no row, or nothing but NULL."""
    return outcome.status != "ok" or all(cell is None for row in outcome.rows for cell in row)
