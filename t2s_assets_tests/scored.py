"""Scored predictions made by hand, as evaluation leaves them, for what reads them: report and champion."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from t2s_assets.text2sql.evaluation.examination import gold_version
from t2s_assets.text2sql.prepare import make_questions, make_sql, make_tables
from t2s_assets.text2sql.storage import Project, content_hash, write_json, write_manifest
from t2s_assets_tests.projects import ProjectFiles, question, table

Row = dict[str, Any]

LATENCY: dict[str, Any] = {
    "n": 4,
    "cold_load_ms": 900.0,
    "cold_first_ms": 300.0,
    "total_ms": {"p50": 100.0, "p95": 200.0, "p99": 250.0},
    "prefill_ms": {"p50": 60.0, "p95": 90.0, "p99": 95.0},
    "decode_ms": {"p50": 40.0, "p95": 110.0, "p99": 155.0},
    "tokens_a_query": 12.5,
    "forward_passes_a_query": 6.5,
    "each_ms": [90.0, 100.0, 110.0, 250.0],
}
TRAINING: dict[str, Any] = {
    "steps": 40,
    "examples_seen": 320,
    "epochs": 1.0,
    "validation_loss": 0.25,
    "minutes": 1.5,
    "tokens_a_second": 800.0,
    "peak_memory_gb": 1.2,
    "trainable_share": 0.03,
    "adapter_mb": 19.6,
    "world_size": 1,
}
HISTORY = [{"step": 10, "loss": 1.0}, {"step": 20, "loss": 0.5}, {"step": 20, "eval_loss": 0.6}]


def prepare_gold(files: ProjectFiles, dataset: str = "towns", *, answer: str = "K2", trained: int = 1) -> str:
    """Make tables, questions and sql of a dataset with `trained` training questions. Returns its gold's version."""
    asked = {"train": trained, "dev": 1, "test": 1}
    content = {
        split: ([table(split, ["Peak"], "t", [[answer]])], [question(split, f"Which? {i}", 0) for i in range(n)])
        for split, n in asked.items()
    }
    files.dataset(dataset, content)
    for make in (make_tables, make_questions, make_sql):
        make(files.project, dataset, [].append)
    return gold_version(files.project, dataset)


def row(id: str, *, right: bool = True, split: str = "test", **changes: Any) -> Row:
    """A prediction that is right in everything, or runs and is wrong; `changes` replace single fields."""
    made = {
        "id": id,
        "split": split,
        "question": f"question {id}?",
        "gold_sql": 'SELECT "Town" FROM "x"',
        "sql": 'SELECT "Town" FROM t' if right else 'SELECT "River" FROM t',
        "category": "simple",
        "aggregate": "none",
        "conditions": 0,
        "predicted_aggregate": "none",
        "gold_degenerate": False,
        "valid": True,
        "em": right,
        "ex": right,
        "ex_strict": right,
        "test_suite": right,
        "errors": [] if right else ["SELECT column"],
        "logprob": -1.0,
        "tokens": 10,
        "result": '[["Linz"]]' if right else '[["Danube"]]',
        "gold_result": '[["Linz"]]',
    }
    unknown = changes.keys() - made.keys()
    assert not unknown, unknown
    return made | changes


def save(
    project: Project,
    dataset: str,
    experiment: str,
    rows: list[Row],
    *,
    base: Iterable[Row] = (),
    of: dict[str, int] | None = None,
    latency: dict[str, Any] = LATENCY,
    training: dict[str, Any] = TRAINING,
    gold: str | None = "gold",
) -> Path:
    """Put `predictions`, scored by the version `gold`, and what a report reads of `adapter` into a project.

    With None, the predictions do not tell what they were scored by. Returns the predictions' folder.
    """
    adapter = project.path(dataset, "adapter", experiment)
    adapter.mkdir(parents=True, exist_ok=True)
    write_json(adapter / "training.json", training)
    write_json(adapter / "trainer_state.json", {"log_history": HISTORY, "global_step": 40})
    write_manifest(adapter, content_hash("adapter", experiment), training)
    folder = project.path(dataset, "predictions", experiment)
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / "predictions.parquet")
    if base := list(base):
        pq.write_table(pa.Table.from_pylist(base), folder / "base.parquet")
    write_json(folder / "latency.json", latency)
    counts = {s: sum(r["split"] == s for r in rows) for s in ("test", "validation")}
    facts = {
        "questions": counts,
        "of": of or counts,
        "adapter_version": content_hash("adapter", experiment),
        "gold_version": gold,
    }
    write_manifest(folder, content_hash(rows, base), facts)
    return folder
