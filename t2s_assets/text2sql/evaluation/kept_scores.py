"""Scored answers kept while an evaluation lasts, so that a killed one goes on without scoring a question twice.

They are a part of `predictions` that is not whole yet: worth no more and no less than what is written there, and gone
once that is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import sqlglot

from t2s_assets.text2sql.evaluation.scoring import SCORED_OF_ANSWER, Answers, Log, Row
from t2s_assets.text2sql.gold.protocol import Question
from t2s_assets.text2sql.json_lines import append_rows, whole_rows
from t2s_assets.text2sql.storage import Project, content_hash, file_hash

# Questions scored together, a second or so; a kill costs at most so many.
BLOCK = 1000


class KeptScores:
    """The rows of one evaluation, in a JSONL file that is named by whose they are (`of`, an experiment's address) and
    by all that decides a verdict beside the answer. Shared, a file would go with the evaluation that ends first."""

    def __init__(self, project: Project, decided_by: Mapping[str, Any], log: Log, *, of: str) -> None:
        code = {str(path): file_hash(path) for path in sorted(Path(__file__).parents[1].rglob("*.py"))}
        key = content_hash(of, dict(decided_by), code, duckdb.__version__, sqlglot.__version__)
        self._path = project.cache("scores") / f"{key}.jsonl"
        self._log = log

    def rows(
        self,
        name: str,
        questions: Sequence[Question],
        answers: Answers,
        score: Callable[[Sequence[Question]], list[Row]],
    ) -> list[Row]:
        """The rows of all questions, in their order: `score` makes those that are not there, block by block."""
        named = {
            q.id: content_hash(name, q.id, [answers[q.id][field] for field in SCORED_OF_ANSWER]) for q in questions
        }
        wanted = set(named.values())
        found = {line["key"]: line["row"] for line in whole_rows(self._path, "key", "row") if line["key"] in wanted}
        # By table, so that its questions share a block and it is loaded once.
        missing = sorted((q for q in questions if named[q.id] not in found), key=lambda q: (q.table_id, q.id))
        if found:
            self._log(f"{name}: {len(found):,} answers are scored already")
        for start in range(0, len(missing), BLOCK):
            block = missing[start : start + BLOCK]
            lines = [{"key": named[row["id"]], "row": row} for row in score(block)]
            append_rows(self._path, lines)
            found |= {line["key"]: line["row"] for line in lines}
            self._log(f"{name}: scored {start + len(block):,} of {len(missing):,} answers")
        return [found[named[q.id]] for q in questions]

    def forget(self) -> None:
        """The evaluation is whole."""
        self._path.unlink(missing_ok=True)
