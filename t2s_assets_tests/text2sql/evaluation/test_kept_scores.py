"""Scored answers that are kept: each evaluation has its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from t2s_assets.text2sql.evaluation.kept_scores import KeptScores
from t2s_assets.text2sql.evaluation.scoring import SCORED_OF_ANSWER
from t2s_assets.text2sql.gold.sketch import Question
from t2s_assets.text2sql.query import Query
from t2s_assets.text2sql.storage import Project


def test_the_evaluation_that_ends_first_takes_nothing_of_another_s(tmp_path: Path) -> None:
    project = Project(tmp_path / "configs", tmp_path / "storage")
    questions = [Question(f"test-{i}", "test", "t", "how many?", Query(0, 0, ())) for i in range(3)]
    answers: dict[str, Any] = {q.id: dict.fromkeys(SCORED_OF_ANSWER, q.id) for q in questions}
    asked: list[str] = []

    def score(part: Any) -> list[dict[str, Any]]:
        asked.extend(q.id for q in part)
        return [{"id": q.id, "ex": True} for q in part]

    def kept(experiment: str) -> KeptScores:
        return KeptScores(project, {"sql": "a version"}, [].append, of=f"towns/{experiment}")

    for name in ("one", "two"):
        assert len(kept(name).rows("adapter", questions, answers, score)) == 3
    assert len(asked) == 6
    kept("one").forget()
    kept("two").rows("adapter", questions, answers, score)
    assert len(asked) == 6
    kept("one").rows("adapter", questions, answers, score)
    assert len(asked) == 9
