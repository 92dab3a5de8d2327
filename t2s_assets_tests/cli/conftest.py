"""Command lines, as a user types them, run in this process through the entry point."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from t2s_assets.cli import main
from t2s_assets_tests.projects import ProjectFiles

FRUIT = "CREATE TABLE fruit (name TEXT, price REAL)"


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    status: int
    out: str
    err: str


T2S = Callable[..., Result]


@pytest.fixture
def t2s(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> T2S:
    """Runs a command line of `t2s`; `stdin` is what is typed."""

    def run(*words: str | Path, stdin: str = "") -> Result:
        monkeypatch.setattr(sys, "argv", ["t2s", *map(str, words)])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capfd.readouterr()
        return Result(int(ended.value.code or 0), out, err)

    return run


@pytest.fixture
def serving(served: ProjectFiles, monkeypatch: pytest.MonkeyPatch) -> ProjectFiles:
    """The project with adapters, as the one that commands find."""
    return found(served, monkeypatch)


def found(files: ProjectFiles, monkeypatch: pytest.MonkeyPatch) -> ProjectFiles:
    """Make `files` the project that commands find."""
    monkeypatch.setenv("T2S_CONFIGS", str(files.project.configs))
    monkeypatch.setenv("T2S_STORAGE", str(files.project.storage))
    return files


@pytest.fixture
def peaks(tmp_path: Path) -> Path:
    path = tmp_path / "peaks.csv"
    path.write_text('Name,"Height (m)"\nK2,"8,611"\n"Lhotse \x1b[31m",8516\n')
    return path
