"""What a report's page says of data of one's own."""

from __future__ import annotations

from typing import Any

from t2s_assets.text2sql.reports.own_data import data_parts

DATA: dict[str, Any] = {
    "split_by": "dealt out by question",
    "left_out": {"sql_that_cannot_be_read": 1234, "sql_that_does_not_run": 2},
    "left_out_first": [{"where": f"questions.jsonl:{i}", "reason": "no\n such  column"} for i in range(25)],
    "gold_without_a_normal_form": 3,
    "linking": {
        "train": {"linked": 0, "of": 90, "n": 0, "recall": None, "whole": None},
        "validation": {"linked": 4, "of": 50, "n": 0, "recall": None, "whole": None},
        "test": {"linked": 12, "of": 60, "n": 11, "recall": 0.953, "whole": 0.8},
    },
}


def test_how_data_were_split_left_out_and_linked() -> None:
    *lines, reasons = data_parts(DATA)
    assert lines == [
        "## Data",
        "Splits: dealt out by question.",
        "Left out of training and scoring: 1,234 questions whose SQL cannot be read, 2 whose SQL does not run.",
        "3 gold queries have no normal form; only their own text counts as an exact match.",
        "validation: 4 of 50 prompts show a choice of columns.",
        "test: 12 of 60 prompts show a choice of columns; the question finds 95.3 % of the gold's columns (all of them "
        "in 80.0 % of 11).",
    ]
    assert reasons.splitlines()[0] == "- questions.jsonl:0: no such column" and len(reasons.splitlines()) == 20


def test_what_there_is_nothing_of_is_not_told() -> None:
    assert data_parts(None) == []
    nothing = DATA | {"left_out_first": [], "gold_without_a_normal_form": 0, "linking": None}
    assert len(data_parts(nothing)) == 3
