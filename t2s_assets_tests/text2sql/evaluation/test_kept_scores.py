"""Scored answers that are kept: each evaluation has its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from t2s_assets.text2sql.evaluation import kept_scores
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


def test_only_what_changed_is_scored_again_in_blocks_by_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_scores, "BLOCK", 2)
    project = Project(tmp_path / "configs", tmp_path / "storage")
    questions = [Question(f"test-{i}", "test", f"t{i % 2}", "how many?", Query(0, 0, ())) for i in range(5)]
    answers: dict[str, Any] = {q.id: dict.fromkeys(SCORED_OF_ANSWER, q.id) for q in questions}
    blocks: list[list[str]] = []

    def score(part: Any) -> list[dict[str, Any]]:
        blocks.append([q.id for q in part])
        return [{"id": q.id, "of": answers[q.id] | {}} for q in part]

    def rows(name: str = "adapter", **decided_by: str) -> list[dict[str, Any]]:
        blocks.clear()
        kept = KeptScores(project, decided_by, [].append, of="towns/one")
        return kept.rows(name, questions, answers, score)

    assert [r["id"] for r in rows()] == [q.id for q in questions]
    assert blocks == [["test-0", "test-2"], ["test-4", "test-1"], ["test-3"]]
    for field in SCORED_OF_ANSWER:
        answers["test-1"][field] = "another"
        assert rows()[1]["of"] == answers["test-1"] and blocks == [["test-1"]]
    assert rows() and not blocks
    assert rows("base") and len(blocks) == 3
    assert rows(sql="a later version") and len(blocks) == 3
