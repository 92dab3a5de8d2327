"""Fixtures for all tests: a project in a temporary folder, a tiny base model, and the WikiSQL archive where there is one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from t2s_assets_tests.projects import ProjectFiles
from t2s_assets_tests.serving import save_served
from t2s_assets_tests.tiny import save_tiny_base

ROOT = Path(__file__).resolve().parents[1]
_ARCHIVE_VARIABLE = "T2S_WIKISQL_ARCHIVE"
_REQUIRE_VARIABLE = "T2S_REQUIRE_WIKISQL"
_left_out = pytest.StashKey[int]()


def archive_path() -> Path:
    """Where the WikiSQL archive is, or would be."""
    named = os.environ.get(_ARCHIVE_VARIABLE)
    return Path(named) if named else ROOT.parent / "shared" / "wikisql" / "data.tar.bz2"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what needs the archive where there is none: visibly, and with an error where it is required."""
    if archive_path().exists():
        return
    needing = [i for i in items if i.get_closest_marker("wikisql") or "wikisql_archive" in getattr(i, "fixturenames", ())]
    if needing and os.environ.get(_REQUIRE_VARIABLE) == "1":
        raise pytest.UsageError(
            f"{_REQUIRE_VARIABLE}=1 and {len(needing)} tests need the WikiSQL archive, which is not at {archive_path()}; "
            f"set {_ARCHIVE_VARIABLE}"
        )
    config.stash[_left_out] = len(needing)
    config.hook.pytest_deselected(items=needing)
    items[:] = [i for i in items if i not in needing]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if count := config.stash.get(_left_out, 0):
        terminalreporter.write_line(
            f"{count} tests left out: they need the WikiSQL archive, which is not at {archive_path()}; "
            f"set {_ARCHIVE_VARIABLE} to run them",
            yellow=True,
        )


@pytest.fixture(scope="session")
def wikisql_archive() -> Path:
    """WikiSQL's data.tar.bz2, or its unpacked folder."""
    return archive_path()


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny random Llama and its tokenizer, in transformers' layout."""
    return save_tiny_base(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture
def project_files(tmp_path: Path) -> ProjectFiles:
    """An empty project in a temporary folder, to be filled by the test."""
    return ProjectFiles(tmp_path)


@pytest.fixture
def shop(project_files: ProjectFiles, tiny_base: Path) -> ProjectFiles:
    """A project with a small dataset `shop` in WikiSQL's layout, and its experiment `tiny` on the tiny base."""
    project_files.dataset("shop")
    project_files.experiment("shop", "tiny", base=tiny_base)
    return project_files


@pytest.fixture(scope="session")
def served(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> ProjectFiles:
    """A project with adapters that answer, not to be changed by tests."""
    return save_served(ProjectFiles(tmp_path_factory.mktemp("served")), tiny_base)
