"""What a report's page says of data of one's own: how they were split, what was left out, what linking loses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_SHOWN = 20


def data_parts(data: Mapping[str, Any] | None) -> list[str]:
    """Paragraphs of Markdown for `report["data"]`; none for WikiSQL's layout, which has no such facts."""
    if data is None:
        return []
    left_out = data["left_out"]
    lines = [
        f"Splits: {data['split_by']}.",
        f"Left out of training and scoring: {left_out['sql_that_cannot_be_read']:,} questions whose SQL cannot be "
        f"read, {left_out['sql_that_does_not_run']:,} whose SQL does not run.",
    ]
    if data["gold_without_a_normal_form"]:
        lines.append(
            f"{data['gold_without_a_normal_form']:,} gold queries have no normal form; only their own text counts "
            "as an exact match."
        )
    for split, found in (data["linking"] or {}).items():
        if found["linked"]:
            recall = ""
            if found["recall"] is not None:
                recall = f"; the question finds {100 * found['recall']:.1f} % of the gold's columns"
            whole = (
                "" if found["whole"] is None else f" (all of them in {100 * found['whole']:.1f} % of {found['n']:,})"
            )
            lines.append(
                f"{split}: {found['linked']:,} of {found['of']:,} prompts show a choice of columns{recall}{whole}."
            )
    reasons = [f"- {out['where']}: {' '.join(out['reason'].split())}" for out in data["left_out_first"][:_SHOWN]]
    return ["## Data", *lines, *(["\n".join(reasons)] if reasons else [])]
