"""Feedback becomes questions of a dataset, however its file of questions is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from t2s_assets.text2sql.datasets.own import read_own
from t2s_assets.text2sql.errors import DataError
from t2s_assets.text2sql.feedback import Added, add_to_dataset
from t2s_assets_tests.own_data import add_library
from t2s_assets_tests.projects import ProjectFiles

ASKED = [("Who are the authors?", "SELECT name FROM authors"), ("How many books?", "SELECT COUNT(*) FROM books")]
SAID = [ASKED[0], ("How many books?", "SELECT COUNT(id) FROM books"), ("Wer ist älter?", "SELECT born FROM authors")]

WRITTEN: dict[str, bytes] = {
    "lines": b"".join(json.dumps({"question": q, "sql": s}).encode() + b"\n" for q, s in ASKED),
    "lines without the last break": b"\n".join(json.dumps({"question": q, "sql": s}).encode() for q, s in ASKED),
    "an array": json.dumps([{"question": q, "sql": s, "split": None} for q, s in ASKED], indent=2).encode(),
    "an array of Spider's keys": json.dumps(
        [{"db_id": "library", "question": q, "query": s} for q, s in ASKED]
    ).encode(),
    "UTF-16": "".join(json.dumps({"question": q, "sql": s, "database": None}) + "\n" for q, s in ASKED).encode(
        "utf-16"
    ),
}


def _add(files: ProjectFiles, content: bytes) -> Added:
    add_library(files)
    (files.root / "questions.jsonl").write_bytes(content)
    line: dict[str, Any] = {"database": str(files.root / "library.duckdb"), "schema": [{"table": "authors"}]}
    said = files.root / "feedback.jsonl"
    said.write_text("".join(json.dumps({"question": q, "sql": s} | line) + "\n" for q, s in SAID))
    return add_to_dataset(files.project, said, "library")


@pytest.mark.parametrize("written", WRITTEN)
def test_feedback_goes_into_any_file_of_questions_that_is_read(project_files: ProjectFiles, written: str) -> None:
    done = _add(project_files, WRITTEN[written])
    assert (done.added, done.there, done.contradicting) == (1, 1, ((2, "How many books?"),))
    config = project_files.project.dataset("library")
    found = read_own(config, folder=project_files.project.configs / "library").questions  # type: ignore[arg-type]
    assert [(q.text, q.sql, q.split) for q in found] == [(*q, None) for q in [*ASKED, SAID[2]]]
    assert add_to_dataset(project_files.project, project_files.root / "feedback.jsonl", "library").added == 0


def test_what_is_no_question_is_named_and_nothing_is_written(project_files: ProjectFiles) -> None:
    content = b'[{"question": "Who?", "sql": "SELECT 1"}, {"question": "Who?", "sql": {"from": []}}]'
    with pytest.raises(DataError, match=r"questions.jsonl:2: no question with its SQL"):
        _add(project_files, content)
    assert Path(project_files.root / "questions.jsonl").read_bytes() == content
