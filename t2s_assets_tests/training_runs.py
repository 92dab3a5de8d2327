"""Trainings of the dataset `towns` in this process: whole ones and ones that break off, and what they leave."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from t2s_assets.text2sql import training
from t2s_assets_tests.projects import ProjectFiles

Make = Callable[..., str]


def train(files: ProjectFiles, name: str, *, force: bool = False) -> tuple[dict[str, Any], list[str]]:
    """The manifest and what was said."""
    lines: list[str] = []
    return training.train(files.project, "towns", name, force=force, log=lines.append), lines


def stop_at(step: int, lines: list[str]) -> Callable[[str], None]:
    """A log that breaks training off when the evaluation of `step` is told."""

    def log(line: str) -> None:
        lines.append(line)
        if line.startswith(f"step {step}/") and "validation" in line:
            raise KeyboardInterrupt

    return log


def stop_when(start: str) -> Callable[[str], None]:
    """A log that breaks training off at the line that starts so."""

    def log(line: str) -> None:
        if line.startswith(start):
            raise KeyboardInterrupt

    return log


def break_off(files: ProjectFiles, name: str, step: int) -> list[str]:
    """Train until the evaluation of `step` is told; what was said."""
    lines: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        training.train(files.project, "towns", name, log=stop_at(step, lines))
    return lines


def checkpoints(files: ProjectFiles, name: str) -> dict[int, Path]:
    """Folders of an experiment's checkpoints by their steps."""
    found = files.project.path("towns", "checkpoints", name).glob("*/checkpoint-*")
    return {int(p.name.split("-")[1]): p for p in found}


def whole_checkpoint(files: ProjectFiles, name: str) -> bool:
    """Whether no checkpoint of the experiment is damaged."""
    from t2s_assets.text2sql.training.checkpoints import damage

    return all(damage(folder) is None for folder in checkpoints(files, name).values())
