"""Trains an experiment of the dataset `towns` on the device, stopped once on the way, and answers with it.

python -m t2s_assets_tests.simulated_gpu.train ROOT EXPERIMENT
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from t2s_assets.text2sql import training
from t2s_assets.text2sql.inference import Text2SQL
from t2s_assets.text2sql.storage import Project
from t2s_assets_tests.simulated_gpu.device import present
from t2s_assets_tests.training_runs import stop_at

QUESTIONS = ("how high is K2?", "which mountain is in Nepal?", "how many are there?")
TABLE = "Mountain,Country,Height (m)\nK2,Pakistan,8611\nEverest,Nepal,8848\n"


def answers(project: Project, name: str) -> list[str]:
    """Of QUESTIONS, each alone."""
    table = project.storage / "mountains.csv"
    table.write_text(TABLE)
    with Text2SQL.load(f"towns/{name}", project=project) as model:
        return [model.ask(question, table).sql for question in QUESTIONS]


def main() -> None:
    root, name = Path(sys.argv[1]), sys.argv[2]
    project = Project(root / "configs", root / "storage")
    present()
    lines: list[str] = []
    try:
        training.train(project, "towns", name, log=stop_at(4, lines))
    except KeyboardInterrupt:
        pass
    manifest = training.train(project, "towns", name, log=lines.append)
    found = {"lines": lines, "manifest": manifest, "answers": answers(project, name)}
    print("FOUND", json.dumps(found, default=str))


if __name__ == "__main__":
    main()
