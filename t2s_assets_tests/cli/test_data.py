"""Commands about data."""

from __future__ import annotations

import pytest

from t2s_assets_tests.cli.conftest import T2S, found
from t2s_assets_tests.own_data import QUESTIONS, add_library, write_duckdb
from t2s_assets_tests.projects import ProjectFiles


def test_init_and_check_data(t2s: T2S, project_files: ProjectFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    found(project_files, monkeypatch)
    database = write_duckdb(project_files.root / "lib.duckdb")
    made = t2s("init", "mine", "--database", database)
    assert made.status == 0 and "next: t2s check-data mine" in made.out
    (project_files.project.configs / "mine" / "smollm2.yaml").unlink()  # its tokenizer is a download
    checked = t2s("check-data", "mine")
    assert checked.status == 0, checked.out
    assert "mine: 3 tables" in checked.out and checked.out.splitlines()[-1].startswith("0 errors")
    again = t2s("init", "mine", "--database", database)
    assert again.status == 1 and again.err.startswith("error: ") and "choose another name" in again.err


def test_check_data_fails_on_errors(t2s: T2S, project_files: ProjectFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    add_library(found(project_files, monkeypatch), [*QUESTIONS, ("Which names?", "SELECT nam FROM authors")])
    checked = t2s("check-data", "library")
    assert checked.status == 1
    assert f"questions.jsonl:{len(QUESTIONS) + 1}: SELECT" in checked.out and "did you mean 'name'?" in checked.out
    assert "1 error, " in checked.out
    missing = t2s("check-data", "nope")
    assert missing.status == 1 and "no dataset 'nope'" in missing.err
