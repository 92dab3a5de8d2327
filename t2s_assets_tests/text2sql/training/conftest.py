"""Fixtures for tests that train: a project with a small dataset, and experiments on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from t2s_assets.text2sql.prompt_datasets import make_prompts
from t2s_assets_tests.projects import ProjectFiles
from t2s_assets_tests.trainable import add_experiment, add_towns, prepare
from t2s_assets_tests.training_runs import Make


@pytest.fixture(scope="module")
def towns(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> ProjectFiles:
    """A project with the dataset `towns`, whose experiment `tiny` is ready to be trained."""
    files = add_towns(ProjectFiles(tmp_path_factory.mktemp("towns")), tiny_base)
    prepare(files, "tiny")
    return files


@pytest.fixture
def experiment(towns: ProjectFiles, tiny_base: Path, request: pytest.FixtureRequest) -> Make:
    """Writes an experiment with other settings, makes its prompts, and returns its name."""
    count = 0

    def make(**settings: Any) -> str:
        nonlocal count
        count += 1
        name = f"e{abs(hash(request.node.name)) % 10**8}-{count}"
        add_experiment(towns, tiny_base, name, **settings)
        make_prompts(towns.project, "towns", name, [].append)
        return name

    return make
