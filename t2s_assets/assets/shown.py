"""What Dagster shows of an asset, read from its folder: its metadata, and the checks that are decided by no more.

An asset that was just made shows this, and so does one that was made elsewhere (`sensors.py`). Nothing is hashed, run
or counted here: manifests and reports say it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from t2s_assets import checks
from t2s_assets.text2sql import prompt_datasets
from t2s_assets.text2sql.comparison import champion
from t2s_assets.text2sql.dataset_config import Targets
from t2s_assets.text2sql.evaluation import predictions
from t2s_assets.text2sql.reports import presentation
from t2s_assets.text2sql.storage import read_json

Manifest = Mapping[str, Any]
Metadata = dict[str, Any]

_OF_TRAINING = (
    "steps",
    "examples_seen",
    "epochs",
    "train_loss",
    "validation_loss",
    "validation_ex",
    "validation_em",
    "minutes",
    "examples_a_second",
    "tokens_a_second",
    "peak_memory_gb",
    "planned_memory_gb",
    "trainable_share",
    "adapter_mb",
    "world_size",
    "taken_from",
)


def metadata(asset: str, folder: Path, manifest: Manifest) -> Metadata:
    """What a materialization of `asset`, written to `folder` with `manifest`, shows, its path last.

    Raises:
        T2SError, OSError, LookupError, ValueError: the folder does not hold what the asset writes.
    """
    return _METADATA[asset](folder, manifest) | {"path": dg.MetadataValue.path(folder)}


def quick_checks(asset: str, folder: Path, manifest: Manifest, targets: Targets) -> list[dg.AssetCheckResult]:
    """The checks of an asset that its manifest or report decides; the others read data or run SQL.

    Raises:
        T2SError, OSError, LookupError, ValueError: the folder does not hold what the asset writes.
    """
    if asset == "sql":
        return [checks.gold_runs(manifest)]
    if asset == "adapter":
        return [checks.adapter_size(manifest["adapter_mb"], targets)]
    if asset == "report":
        return checks.targets(_report(folder), targets)
    return []


def _schema(**columns: str) -> dg.TableSchema:
    """Column names and types for Dagster's table view."""
    return dg.TableSchema([dg.TableColumn(name, kind) for name, kind in columns.items()])


def _tables(folder: Path, manifest: Manifest) -> Metadata:
    return {
        "dagster/row_count": sum(manifest["tables"].values()),
        "dagster/column_schema": _schema(
            id="text", split="text", header="list", columns="list", types="list", rows="list of lists"
        ),
        **{f"{split}_tables": n for split, n in manifest["tables"].items()},
        "cells_rows": manifest["rows"],
        "tables_without_rows": manifest["tables_without_rows"],
        "number_cells_that_are_none": manifest["number_cells_that_are_none"],
    }


def _questions(folder: Path, manifest: Manifest) -> Metadata:
    return {
        "dagster/row_count": sum(manifest["questions"].values()),
        "dagster/column_schema": _schema(id="text", split="text", table_id="text", question="text", query="json"),
        **{f"{split}_questions": n for split, n in manifest["questions"].items()},
        "duplicates": manifest["duplicates"],
        **_left_out(manifest),
    }


def _left_out(manifest: Manifest) -> Metadata:
    """Questions of one's own: how they were split, and which are left out and why; nothing for WikiSQL's layout."""
    if "split_by" not in manifest:
        return {}
    records = [dg.TableRecord({k: out[k] for k in ("where", "reason", "sql")}) for out in manifest["left_out_first"]]
    return {
        "split_by": manifest["split_by"],
        "left_out": manifest["left_out"],
        "left_out_first": dg.MetadataValue.table(records, _schema(where="text", reason="text", sql="text")),
    }


def _sql(folder: Path, manifest: Manifest) -> Metadata:
    failures = [dg.TableRecord({k: f[k] for k in ("id", "sql", "message")}) for f in manifest["failures"][:200]]
    return {
        "dagster/row_count": sum(manifest["questions"].values()),
        **{f"category_{name}": n for name, n in manifest["category"].items()},
        **{f"aggregate_{name}": n for name, n in manifest["aggregate"].items()},
        "gold_that_does_not_run": sum(manifest["gold_that_does_not_run"].values()),
        "gold_without_an_answer": sum(manifest["gold_without_an_answer"].values()),
        "failures": dg.MetadataValue.table(failures, _schema(id="text", sql="text", message="text")),
    }


def _prompts(folder: Path, manifest: Manifest) -> Metadata:
    first = prompt_datasets.first_example(folder)
    example = {"example": dg.MetadataValue.md(f"```\n{first['prompt']}{first['completion']}\n```")} if first else {}
    return {
        "dagster/row_count": sum(manifest["examples"].values()),
        "dagster/column_schema": _schema(
            id="text",
            table_id="text",
            prompt="text",
            completion="text",
            prompt_tokens="int",
            completion_tokens="int",
        ),
        **{f"{split}_tokens_mean": s["mean"] for split, s in manifest["tokens"].items() if s},
        **{f"{split}_tokens_max": s["max"] for split, s in manifest["tokens"].items() if s},
        **{f"{split}_over_max_length": n for split, n in manifest["over_max_length"].items()},
        **example,
    }


def _adapter(folder: Path, manifest: Manifest) -> Metadata:
    return {
        **{name: manifest[name] for name in _OF_TRAINING if manifest.get(name) is not None},
        "versions": dg.MetadataValue.json(manifest["versions"]),
        "git_commit": manifest["git_commit"] or "not a git checkout",
        "prompts_version": manifest["prompts_version"],
        "loss_curve": dg.MetadataValue.md(f"![loss]({presentation.image_uri(folder / 'loss.png')})"),
    }


def _predictions(folder: Path, manifest: Manifest) -> Metadata:
    columns = ("question", "gold_sql", "sql", "em", "ex", "status")
    first, rows = predictions.first_predictions(folder, columns, 20)
    return {
        "dagster/row_count": rows,
        **{f"{s}_questions": n for s, n in manifest["questions"].items()},
        **{f"{s}_of": n for s, n in manifest["of"].items()},
        "first": dg.MetadataValue.table([dg.TableRecord(row) for row in first]),
    }


def _report(folder: Path) -> dict[str, Any]:
    return read_json(folder / "report.json", made_by="t2s report")


def _report_metadata(folder: Path, manifest: Manifest) -> Metadata:
    p95 = _report(folder)["latency"]["total_ms"].get("p95")
    return {
        **{name: manifest[name] for name, _ in presentation.MEASURES if manifest[name] is not None},
        "n": manifest["n"],
        "of": manifest["of"],
        **({} if p95 is None else {"latency_p95_ms": p95}),
        "page": dg.MetadataValue.md(presentation.page_with_images(folder)),
    }


def _champion(folder: Path, manifest: Manifest) -> Metadata:
    decision = read_json(folder / champion.CHAMPION, made_by="t2s champion")
    scores = decision["validation_ex"]
    served = scores.get(manifest["experiment"], {}).get("value")  # one that stays may have been left out
    candidates = [
        dg.TableRecord({"experiment": name, "ex": _short(ex["value"]), "interval_95": _interval(ex), "n": ex["n"]})
        for name, ex in scores.items()
    ]
    comparisons = [
        dg.TableRecord({n: c[n] for n in ("challenger", "champion", "won", "lost", "n")} | {"p": _short(c["p"])})
        for c in decision["comparisons"]
    ]
    return {
        "experiment": manifest["experiment"],
        "before": decision["before"] or "none",
        **({} if served is None else {"validation_ex": served}),
        "candidates": dg.MetadataValue.table(
            candidates, _schema(experiment="text", ex="float", interval_95="text", n="int")
        ),
        "comparisons": dg.MetadataValue.table(
            comparisons, _schema(challenger="text", champion="text", won="int", lost="int", n="int", p="float")
        ),
        "rule": decision["rule"],
        "left_out": ", ".join(decision["left_out"]) or "none",
        "adapter_version": manifest["adapter_version"],
    }


def _short(number: float | None) -> float | None:
    """Four digits are enough to compare by."""
    return None if number is None else float(f"{number:.4g}")


def _interval(rate: Mapping[str, Any]) -> str:
    return "" if rate["value"] is None else f"{rate['low']:.4f}-{rate['high']:.4f}"


_METADATA: Mapping[str, Callable[[Path, Manifest], Metadata]] = {
    "tables": _tables,
    "questions": _questions,
    "sql": _sql,
    "prompts": _prompts,
    "adapter": _adapter,
    "predictions": _predictions,
    "report": _report_metadata,
    "champion": _champion,
}
