"""A dataset on which every gold query runs, and an experiment that trains on it in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from t2s_assets.text2sql import training
from t2s_assets.text2sql.prepare import make_questions, make_sql, make_tables
from t2s_assets.text2sql.prompt_datasets import make_prompts
from t2s_assets_tests.projects import ProjectFiles, Record, question, table


def _country(id: str, rows: list[tuple[str, str, int]]) -> tuple[Record, list[Record]]:
    """A table of towns with six questions: one for each kind of SQL that the report tells apart."""
    towns = table(id, ["Town", "River", "People"], "ttr", [[t, r, str(p)] for t, r, p in rows])
    (first, river, people), (second, *_) = rows[0], rows[1]
    return towns, [
        question(id, f"Which river does {first} lie on?", 1, 0, [[0, 0, first]]),
        question(id, f"How many people live in {second}?", 2, 0, [[0, 0, second]]),
        question(id, "What is the largest number of people?", 2, 1),
        question(id, f"How many towns lie on the {river}?", 0, 3, [[1, 0, river]]),
        question(
            id, f"Which towns on the {river} have over {people - 1} people?", 0, 0, [[1, 0, river], [2, 1, people - 1]]
        ),
        question(id, "What are all the towns?", 0),
    ]


def _split(*countries: tuple[Record, list[Record]]) -> tuple[list[Record], list[Record]]:
    return [t for t, _ in countries], [q for _, questions in countries for q in questions]


TOWNS: dict[str, tuple[list[Record], list[Record]]] = {
    "train": _split(
        _country("austria", [("Linz", "Danube", 210000), ("Graz", "Mur", 300000), ("Krems", "Danube", 25000)]),
        _country("france", [("Lyon", "Rhone", 520000), ("Tours", "Loire", 137000), ("Nantes", "Loire", 320000)]),
        _country("italy", [("Turin", "Po", 850000), ("Pisa", "Arno", 89000), ("Cremona", "Po", 71000)]),
    ),
    "dev": _split(
        _country("poland", [("Torun", "Vistula", 198000), ("Opole", "Oder", 127000), ("Plock", "Vistula", 118000)])
    ),
    "test": _split(
        _country("spain", [("Soria", "Duero", 39000), ("Huelva", "Odiel", 142000), ("Zamora", "Duero", 59000)])
    ),
}
"""18 training, 6 validation and 6 test questions on tables of their own."""

SECTIONS: dict[str, dict[str, Any]] = {
    "training": {
        "max_steps": 4,
        "batch_size": 4,
        "learning_rate": 0.001,
        "eval_steps": 2,
        "eval_examples": 4,
        "save_steps": 2,
    },
    "decoding": {"max_new_tokens": 24},
    "evaluation": {"latency_questions": 2},
}


OTHERS = ("lora", "hardware", "prompt", "decoding", "evaluation", "launch")


def add_towns(
    files: ProjectFiles,
    base: Path,
    *,
    experiment: str = "tiny",
    targets: dict[str, float] | None = None,
    **training: Any,
) -> ProjectFiles:
    """The dataset `towns` with one experiment; `training` changes settings of its training, None removes one."""
    settings = {} if targets is None else {"targets": targets}
    files.dataset("towns", TOWNS, retrain={"experiment": experiment, "cron": "30 2 * * 1"}, **settings)
    add_experiment(files, base, experiment, **training)
    return files


def trained_towns(root: Path, base: Path) -> ProjectFiles:
    """A project at `root` with `towns` and its trained adapter `tiny`."""
    files = add_towns(ProjectFiles(root), base, max_steps=2)
    prepare(files, "tiny")
    training.train(files.project, "towns", "tiny", log=[].append)
    return files


def add_experiment(files: ProjectFiles, base: Path, name: str, **training: Any) -> Path:
    """One more experiment on `towns`; `lora`, `hardware` and other sections may be given as `lora={...}`."""
    sections = {n: training.pop(n) for n in OTHERS if n in training}
    changed = {k: v for k, v in (SECTIONS["training"] | training).items() if v is not None}
    return files.experiment("towns", name, base=base, **(SECTIONS | sections | {"training": changed}))


def prepare(files: ProjectFiles, *experiments: str) -> None:
    """Everything up to the prompts."""
    quiet = [].append
    for make in (make_tables, make_questions, make_sql):
        make(files.project, "towns", quiet)
    for name in experiments:
        make_prompts(files.project, "towns", name, quiet)
