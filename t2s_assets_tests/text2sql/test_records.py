"""Which commit made an adapter."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from t2s_assets.text2sql import records


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with the module in it, committed."""
    file = tmp_path / "package" / "records.py"
    file.parent.mkdir()
    file.write_text("x = 1\n")
    monkeypatch.setattr(records, "__file__", str(file))
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "-c", "user.name=x", "-c", "user.email=x@example.org", "commit", "--quiet", "-m", "one")
    return tmp_path


def git(folder: Path, *arguments: str) -> str:
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    return subprocess.run(["git", "-C", folder, *arguments], check=True, capture_output=True, text=True).stdout.strip()


def test_the_commit_and_whether_files_differ_from_it(checkout: Path) -> None:
    head = git(checkout, "rev-parse", "HEAD")
    assert records.git_commit() == head
    (checkout / "package" / "records.py").write_text("x = 2\n")
    assert records.git_commit() == f"{head}-dirty"


def test_another_projects_repository_is_not_ours(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = checkout / ".venv" / "records.py"
    installed.parent.mkdir()
    installed.write_text("x = 1\n")
    monkeypatch.setattr(records, "__file__", str(installed))
    assert records.git_commit() is None


def test_without_git_there_is_none(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(checkout))
    assert records.git_commit() is None
