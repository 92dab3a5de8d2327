"""Projects for tests: datasets in WikiSQL's layout, and config files, in a temporary folder."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from t2s_assets.text2sql.storage import Project

Record = dict[str, Any]


def table(id: str, header: list[str], types: str, rows: list[list[str]]) -> Record:
    """A table's line; `types` has a letter for each column, `t` or `r`."""
    return {"id": id, "header": header, "types": [{"t": "text", "r": "real"}[t] for t in types], "rows": rows}


def question(table_id: str, text: str, sel: int, agg: int = 0, conds: Iterable[list[Any]] = ()) -> Record:
    """A question's line."""
    return {"table_id": table_id, "question": text, "sql": {"sel": sel, "agg": agg, "conds": list(conds)}}


SHOP: dict[str, tuple[list[Record], list[Record]]] = {
    "train": (
        [
            table(
                "fruit",
                ["Name", "Price (€)", 'The "best" season', ""],
                "trtt",
                [
                    ["Apple", "1.20", "Autumn", "O'Hara"],
                    ["Pear", "1,100", "Autumn", "Göran"],
                    ["Cherry", "", "Summer", "Åsa"],
                    ["Plum", "n/a", "Summer", "O'Hara"],
                ],
            ),
            table("empty", ["Year", "year", "Club"], "rrt", []),
        ],
        [
            question("fruit", "which fruit does o'hara sell in AUTUMN?", 0, 0, [[3, 0, "O'Hara"], [2, 0, "Autumn"]]),
            question("fruit", "How dear is the dearest?", 1, 1),
            question("fruit", "How many cost over 1,000?", 0, 3, [[1, 1, "1,000"]]),
            question("fruit", "name them all", 0),
            question("fruit", "Name  them\nall", 0),
            question("fruit", "Name them all", 0),
            question("fruit", "What do the names add up to?", 0, 4),
            question("empty", "which club in 1990?", 2, 0, [[0, 0, 1990]]),
        ],
    ),
    "dev": (
        [table("single", ["Town", "People"], "tr", [["Lund", "94,393"]])],
        [
            question("single", "How many people in lund?", 1, 0, [[0, 0, "Lund"]]),
            question("single", "Which town has fewer than 100?", 0, 0, [[1, 2, 100]]),
        ],
    ),
    "test": (
        [table("peaks", ["Peak", "Height"], "tr", [["K2", "8,611"], ["Lhotse", "8516"], ["Makalu", "8485"]])],
        [
            question("peaks", "height of k2?", 1, 0, [[0, 0, "K2"]]),
            question("peaks", "lowest height", 1, 2),
            question("peaks", "which are over 8500", 0, 0, [[1, 1, 8500]]),
        ],
    ),
}
"""Awkward on purpose: quotes, blank and repeated headers, no rows, unknown numbers, a gold query that cannot run."""


def write_wikisql(folder: Path, content: Mapping[str, tuple[list[Record], list[Record]]] = SHOP) -> Path:
    """Write `content` as an unpacked WikiSQL archive and return its folder."""
    data = folder / "data"
    data.mkdir(parents=True, exist_ok=True)
    for split in ("train", "dev", "test"):
        tables, questions = content.get(split, ([], []))
        for name, records in ((f"{split}.tables.jsonl", tables), (f"{split}.jsonl", questions)):
            lines = (json.dumps(r, ensure_ascii=False) + "\n" for r in records)
            (data / name).write_text("".join(lines), encoding="utf-8")
    return folder


class ProjectFiles:
    """A `Project` with helpers that write its config files."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.project = Project(configs=root / "configs", storage=root / "storage")
        self.project.configs.mkdir()

    def yaml(self, dataset: str, name: str, content: Any) -> Path:
        """Write `configs/<dataset>/<name>.yaml`."""
        path = self.project.configs / dataset / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
        return path

    def dataset(
        self, name: str, content: Mapping[str, tuple[list[Record], list[Record]]] = SHOP, **settings: Any
    ) -> Path:
        """A dataset in WikiSQL's layout with its dataset.yaml. Returns the folder of its data."""
        data = write_wikisql(self.root / "data" / name, content)
        source = {"kind": "local", "path": str(data)}
        targets = {"em": 0.6, "ex": 0.55}
        self.yaml(name, "dataset", {"description": "for a test", "source": source, "targets": targets} | settings)
        return data

    def experiment(self, dataset: str, name: str, *, base: Path, **sections: Any) -> Path:
        """An experiment on a base model's folder; `sections` replace or add to its sections."""
        content: dict[str, Any] = {
            "description": "for a test",
            "base_model": {"source": "folder", "path": str(base)},
            "hardware": {"device": "cpu", "dtype": "float32"},
            "prompt": {"max_length": 512},
            "lora": {"rank": 4, "alpha": 8},
            "training": {"max_steps": 2, "batch_size": 2, "eval_steps": 2, "save_steps": 2},
        }
        return self.yaml(dataset, name, content | sections)
