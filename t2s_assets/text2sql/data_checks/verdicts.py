"""Whether prepared data may train and score anything: what Dagster's checks and the command line both stop at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# What share of gold queries may fail before the data, rather than single questions, counts as broken. WikiSQL's own
# training split has 1.1 %: sums and averages of text columns.
GOLD_FAILURES_ALLOWED = 0.05
# What share of one's own questions may be left out before the dialect or the database, rather than single questions,
# counts as wrong.
LEFT_OUT_ALLOWED = 0.2

_LISTED = 10


@dataclass(frozen=True)
class DataVerdict:
    """Whether the data passed, and in words why; where they did not, what to do."""

    passed: bool
    message: str


def splits_disjoint(shared: Sequence[str]) -> DataVerdict:
    """No table is asked about in two splits; of data of one's own, no question of a database."""
    if not shared:
        return DataVerdict(True, "no table or question is in two splits")
    return DataVerdict(
        False,
        f"{len(shared)} tables or questions are in two splits, so a model would be tested on what it was trained on: "
        f"{_first(shared)}; mend the source",
    )


def gold_runs(facts: Mapping[str, Any]) -> DataVerdict:
    """At most 5 % of a split's gold queries fail in DuckDB; `facts` is the manifest of `sql`.

    Data of one's own leave such questions out, with those whose SQL cannot be read: at most 20 % of all together.
    """
    failed, questions = facts["gold_that_does_not_run"], facts["questions"]
    if "left_out" in facts:
        lost, total = facts["left_out"] + sum(failed.values()), facts["left_out"] + sum(questions.values())
        passed = lost <= LEFT_OUT_ALLOWED * total
        message = f"{lost} of {total} questions are left out, since their SQL cannot be read or does not run"
        way_out = f"more than {LEFT_OUT_ALLOWED:.0%} are rather a wrong dialect or database in dataset.yaml"
    else:
        passed = all(failed.get(split, 0) <= GOLD_FAILURES_ALLOWED * n for split, n in questions.items())
        counts = ", ".join(f"{failed.get(split, 0)} of {n} in {split}" for split, n in questions.items())
        message = f"gold queries that do not run: {counts}"
        way_out = f"at most {GOLD_FAILURES_ALLOWED:.0%} of a split may fail: mend or remove them in the source"
    return DataVerdict(passed, message if passed else f"{message}; {way_out}. t2s check-data lists each")


def gold_matches_itself(agreement: Mapping[str, Any]) -> DataVerdict:
    """Gold scored as a prediction is right wherever it runs, and some does; `agreement` is of `gold_against_gold`."""
    n, wrong = agreement["n"], agreement["wrong"]
    if not n:
        return DataVerdict(
            False,
            "no gold query of the validation and test splits runs, so nothing can be scored; give these splits "
            "questions whose SQL runs",
        )
    if not wrong:
        return DataVerdict(True, f"all {n} gold queries of validation and test give the same result again")
    return DataVerdict(
        False,
        f"{len(wrong)} of {n} gold queries give another result when they run again, so even right answers would be "
        f"scored as wrong: {_first(wrong)}; mend those queries or remove them",
    )


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:_LISTED]) + (", ..." if len(names) > _LISTED else "")
