"""What the model answered, as the Python API, the command line and JSON tell it."""

from __future__ import annotations

import datetime
import decimal
import math
from dataclasses import dataclass
from typing import Any

from t2s_assets.text2sql.execution import Outcome


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one answer: from the prompt to the model's first choice (`prefill`), from there to its last
    (`decode`), and the whole from question to checked SQL (`total`); execution is not in it."""

    prefill_ms: float
    decode_ms: float
    total_ms: float


@dataclass(frozen=True)
class Answer:
    """What the model answered.

    sql: over the user's table where it is valid, else as generated.
    generated: what the model wrote, over `t`.
    valid: it parses, passes the executor's allow-list and names only what the schema has; else `problem` says why.
    confidence: the probability that the model gave to the tokens that it chose, together. It is not calibrated: it
        ranks answers, but is not how often they are right.
    probability: how likely the answer is right, calibrated on validation questions (evaluation/confidence.py); None
        where the model has no calibration.
    probability_at_most: no validation answers tell more than that it is `probability` at most: that is the lowest that
        the calibration knows.
    abstained: why no answer is given although one was written; it is then not valid, `sql` is empty, and `withheld_sql`
        is what was written, over the user's table, where that is valid.
    text_in_any_case: `sql` compares text, here in any case, and in a database that compares to the letter it may find
        other rows: cells spell the text in several ways, or were not all read. Else text is spelt as the cells are.
    outcome: what running it gave, with `run=True` and valid SQL.
    uses_table_content: cell values were read to write it (sample values, execution guidance, value grounding, or a text
        spelt as a cell is).
    rows_copied: how many of the table's rows it ran on where that is not all of them.
    notes: what the question asks for and the SQL cannot say, and what to know of its columns' cells: those that became
        NULL, and numbers that are compared as text. Of rows in a database only where it ran.
    """

    question: str
    table: str
    sql: str
    generated: str
    valid: bool
    problem: str | None
    confidence: float
    tokens: int
    forward_passes: int
    latency: Latency
    uses_table_content: bool = False
    probability: float | None = None
    probability_at_most: bool = False
    abstained: str | None = None
    withheld_sql: str | None = None
    text_in_any_case: bool = False
    outcome: Outcome | None = None
    rows_copied: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def partial(self) -> bool:
        """Whether it ran on a part of a table: rows beyond it are neither found nor counted."""
        return self.rows_copied is not None

    @property
    def columns(self) -> tuple[str, ...]:
        """The result's column names; empty where nothing ran."""
        return self.outcome.columns if self.outcome else ()

    @property
    def rows(self) -> tuple[tuple[Any, ...], ...]:
        """The result's rows; empty where nothing ran."""
        return self.outcome.rows if self.outcome else ()

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        content: dict[str, Any] = {
            "question": self.question,
            "table": self.table,
            "sql": self.sql,
            "valid": self.valid,
            "problem": self.problem,
            "sequence_probability": round(self.confidence, 6),
            "probability": None if self.probability is None else round(self.probability, 4),
            "abstained": self.abstained,
            "withheld_sql": self.withheld_sql,
            "text_in_any_case": self.text_in_any_case,
            "uses_table_content": self.uses_table_content,
            "tokens": self.tokens,
            "forward_passes": self.forward_passes,
            "prefill_ms": round(self.latency.prefill_ms, 1),
            "decode_ms": round(self.latency.decode_ms, 1),
            "total_ms": round(self.latency.total_ms, 1),
            "notes": list(self.notes),
        }
        if self.outcome is not None:
            content["result"] = {
                "status": self.outcome.status,
                "message": self.outcome.message,
                "columns": list(self.outcome.columns),
                "rows": [[_plain(cell) for cell in row] for row in self.outcome.rows],
                "truncated": self.outcome.truncated,
                "rows_copied": self.rows_copied,
                "partial": self.partial,
            }
        return content


def _plain(cell: Any) -> Any:
    """A cell as JSON holds it: decimals and dates as text, and NaN and infinities, which JSON lacks."""
    if isinstance(cell, float) and not math.isfinite(cell):
        return str(cell)
    if isinstance(cell, (list, tuple)):
        return [_plain(c) for c in cell]
    if isinstance(cell, dict):
        return {str(k): _plain(v) for k, v in cell.items()}
    if isinstance(cell, (decimal.Decimal, datetime.date, datetime.time, datetime.timedelta, bytes)):
        return str(cell)
    return cell
