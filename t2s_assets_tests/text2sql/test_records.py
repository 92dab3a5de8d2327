"""Which commit made an adapter, and how much memory."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

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


def test_the_most_that_metal_held_is_kept_from_step_to_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch keeps no peak of it, and what the process has resident leaves it out."""
    import torch
    from transformers import TrainerControl, TrainerState

    from t2s_assets.text2sql.training.clock import Clock
    from t2s_assets.text2sql.training.progress import Progress

    held = iter([2e9, 5e9, 3e9, 1e9])
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: next(held))
    clock = Clock(tmp_path / "plan.json")
    progress = Progress([].append, clock, None, best="loss")
    args = SimpleNamespace(device=torch.device("mps"))
    for told in (progress.on_substep_end, progress.on_step_end, progress.on_evaluate):
        told(args, TrainerState(), TrainerControl())
    assert clock.plan["peak_memory_gb"] == 5.0
    assert records.peak_memory_gb("mps") == 1.0
    assert records.peak_memory_gb("cpu") < 100
