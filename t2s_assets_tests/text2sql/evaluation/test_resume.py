"""An evaluation that is killed, with SIGKILL and in a process of its own, ends as if it never had been."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from t2s_assets.text2sql.evaluation import generations, predictions
from t2s_assets.text2sql.reports import report
from t2s_assets.text2sql.storage import Project
from t2s_assets_tests.projects import ProjectFiles
from t2s_assets_tests.trainable import trained_towns
from t2s_assets_tests.warm import warm_context

# Before which call the process dies. Twelve answers of the adapter and six of the base come in blocks of four, so it
# dies within a block of the adapter's, within one of the base's (after the adapter's eight that were left), when all is
# generated, with the predictions half written, and with the report so.
KILLS = [
    ("generations", "record", 6),
    ("generations", "record", 14),
    ("predictions", "measure_latency", 1),
    ("predictions", "write_manifest", 1),
    ("report", "page", 1),
]
MODULES = {"generations": generations, "predictions": predictions, "report": report}


def evaluate(configs: Path, storage: Path, said: Path, kill: tuple[str, str, int] | None) -> None:
    """Predictions and report, in a process that kills itself before the n-th call of a function."""
    generations.BLOCK = 4
    if kill is not None:
        module, name, left = MODULES[kill[0]], kill[1], kill[2]
        original = getattr(module, name)

        def deadly(*args: Any, **settings: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **settings)

        setattr(module, name, deadly)
    with said.open("a") as lines:

        def log(line: str) -> None:
            print(line, file=lines, flush=True)

        project = Project(configs, storage)
        predictions.make_predictions(project, "towns", "tiny", log)
        report.make_report(project, "towns", "tiny", log)


@pytest.fixture(scope="module")
def towns(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> ProjectFiles:
    return trained_towns(tmp_path_factory.mktemp("resume"), tiny_base)


def ended(storage: Path) -> tuple[bytes, bytes, dict[str, Any]]:
    """The predictions, the base's, and the report without what was timed."""
    made = storage / "towns" / "predictions" / "tiny"
    content = json.loads((storage / "towns" / "report" / "tiny" / "report.json").read_text())
    for timed in ("latency", "training", "targets"):
        del content[timed]
    return (made / "predictions.parquet").read_bytes(), (made / "base.parquet").read_bytes(), content


def test_a_killed_evaluation_ends_as_one_that_was_not(towns: ProjectFiles, tmp_path: Path) -> None:
    context = warm_context()
    configs, whole, said = towns.project.configs, tmp_path / "whole", tmp_path / "said"
    killed = towns.project.storage
    shutil.copytree(killed, whole)

    def run(storage: Path, kill: tuple[str, str, int] | None) -> int | None:
        process = context.Process(target=evaluate, args=(configs, storage, said, kill))
        process.start()
        process.join(300)
        return process.exitcode

    assert run(whole, None) == 0
    said.write_text("")
    for kill in KILLS:
        assert run(killed, kill) == -signal.SIGKILL, kill
    assert run(killed, None) == 0
    assert ended(killed) == ended(whole)
    # Blocks that were done were not asked for again.
    lines = said.read_text().splitlines()
    started = [line for line in lines if ": generating " in line]
    assert started == [
        "adapter: generating 12 answers, 0 are there already",
        "adapter: generating 8 answers, 4 are there already",
        "base: generating 6 answers, 0 are there already",
        "base: generating 2 answers, 4 are there already",
    ]
