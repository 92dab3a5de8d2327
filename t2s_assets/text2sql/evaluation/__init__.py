"""Evaluating one experiment: what is asked of which model, what it answers, and how that is scored.

`entry` is where an evaluation starts, whoever starts it; `python -m t2s_assets.text2sql.evaluation` is the same.
"""

from t2s_assets.text2sql.evaluation.entry import (
    GOES_ON,
    alone,
    command,
    environment,
    in_this_process,
    only_evaluation,
    run,
)

__all__ = ["GOES_ON", "alone", "command", "environment", "in_this_process", "only_evaluation", "run"]
