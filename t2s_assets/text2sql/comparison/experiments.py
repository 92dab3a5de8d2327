"""Experiments of one dataset beside one of them, on the same questions: which is better, by how much, and where.

reports/references.py compares a report with those before it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from t2s_assets.text2sql.comparison.paired import Pairs, holm, verdict
from t2s_assets.text2sql.comparison.settings import setting_differences, settings_behind
from t2s_assets.text2sql.config import Experiment
from t2s_assets.text2sql.errors import DataError
from t2s_assets.text2sql.evaluation.examination import gold_version
from t2s_assets.text2sql.evaluation.predictions import decoded_otherwise, load_predictions
from t2s_assets.text2sql.metrics import breakdown, summary
from t2s_assets.text2sql.storage import Project, find_manifest, is_made

COMPARISON_VERSION = 1

Row = dict[str, Any]


@dataclass(frozen=True)
class Scored:
    """An experiment's predictions on one split, with what made them."""

    name: str
    rows: Mapping[str, Row]
    """By question id."""
    predictions: Mapping[str, Any]
    """Their manifest."""
    adapter: Mapping[str, Any]
    """The manifest of the adapter that made them; empty where that is no longer there."""
    settings: Experiment
    notes: tuple[str, ...]
    """What is no longer as it was when they were made."""


@dataclass(frozen=True)
class ExperimentComparison:
    """What was compared, and what was found: `found` is the JSON of docs/report.md."""

    found: dict[str, Any]
    experiments: Sequence[Scored]
    """With the rows that were compared; the reference comes first."""


def compare_experiments(
    project: Project, dataset: str, reference: str, others: Sequence[str], *, split: str = "validation"
) -> ExperimentComparison:
    """Compare `others` with `reference` on the questions of a split that all of them answered.

    Raises:
        DataError: an experiment is named twice or has no predictions, they were scored on different questions, tables
            or gold, or there is no question that all answered.
        ConfigError: the file of an experiment, or what is recorded of its settings, breaks rules.
    """
    names = [reference, *others]
    if twice := next((n for n in names if names.count(n) > 1), None):
        raise DataError(f"{dataset}/{twice} is named twice; name each experiment once")
    manifests = {name: _predictions(project, dataset, name) for name in names}
    scored_on_older = _check_same_gold(project, dataset, manifests)
    found = [_scored(project, dataset, name, manifest, split) for name, manifest in manifests.items()]
    shared = set.intersection(*(set(s.rows) for s in found))
    if not shared:
        counts = ", ".join(f"{dataset}/{s.name} {len(s.rows):,}" for s in found)
        raise DataError(
            f"no {split} question was answered by all ({counts}); give them the same evaluation.{split}_limit and "
            f"evaluation.seed, and evaluate again with: t2s evaluate {dataset}/EXPERIMENT"
        )
    notes = [*scored_on_older, *(note for s in found for note in s.notes)]
    notes += [
        f"{dataset}/{s.name} answered {len(s.rows):,} {split} questions; compared are the {len(shared):,} that all "
        "answered"
        for s in found
        if len(s.rows) > len(shared)
    ]
    compared = [replace(s, rows={i: s.rows[i] for i in sorted(shared)}) for s in found]
    first = compared[0]
    comparisons = [_comparison(dataset, first, other) for other in compared[1:]]
    for comparison, p in zip(comparisons, holm([c["p"] for c in comparisons])):
        comparison["p_adjusted"] = p
        comparison["verdict"] = verdict(comparison | {"p": p})
    content = {
        "version": COMPARISON_VERSION,
        "dataset": dataset,
        "split": split,
        "n": len(shared),
        "of": first.predictions["of"][split],
        "gold": first.predictions["gold_version"],
        "reference": f"{dataset}/{reference}",
        "experiments": [_described(dataset, s) for s in compared],
        "comparisons": comparisons,
        "notes": notes,
    }
    return ExperimentComparison(content, compared)


def _predictions(project: Project, dataset: str, name: str) -> dict[str, Any]:
    """The manifest of an experiment's predictions. Raises DataError."""
    found = find_manifest(project.path(dataset, "predictions", name), made_by=f"t2s evaluate {dataset}/{name}")
    if found is None:
        command = "evaluate" if is_made(project.path(dataset, "adapter", name)) else "run"
        raise DataError(f"{dataset}/{name} has no predictions; make some with: t2s {command} {dataset}/{name}")
    return found


def _check_same_gold(project: Project, dataset: str, manifests: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A line where all were scored on the same data and it is others than there are now.

    Raises:
        DataError: they were not scored on the same data; names those to evaluate again.
    """
    now = gold_version(project, dataset)
    scored_on = {name: manifest.get("gold_version") for name, manifest in manifests.items()}
    stale = [name for name, version in scored_on.items() if version != now]
    if not stale:
        return []
    again = "; ".join(f"t2s run {dataset}/{name}" for name in stale)
    where = "other questions, tables or gold than there are now"
    versions = set(scored_on.values())
    if len(versions) > 1 or None in versions:
        named = ", ".join(f"{dataset}/{name}" for name in stale)
        raise DataError(f"{named}: scored on {where}, so not comparable; evaluate again with: {again}")
    return [f"all were scored on {where}, and are compared on those; evaluate again with: {again}"]


def _scored(project: Project, dataset: str, name: str, predictions: Mapping[str, Any], split: str) -> Scored:
    address = f"{dataset}/{name}"
    folder = project.path(dataset, "adapter", name)
    adapter = find_manifest(folder, made_by=f"t2s train {address}") or {}
    notes = []
    if changed := decoded_otherwise(project, dataset, name, predictions):
        notes.append(
            f"{address} decodes otherwise now than when it was evaluated ({'; '.join(changed)}); evaluate again with: "
            f"t2s evaluate {address}"
        )
    trained_since = bool(adapter) and adapter["data_version"] != predictions["adapter_version"]
    if trained_since:
        notes.append(
            f"{address} was trained again since it was evaluated; its settings are those of its file, and what the "
            f"training took is not shown; evaluate again with: t2s evaluate {address}"
        )
        adapter = {}
    settings = settings_behind(project, dataset, name, predictions, trained_since=trained_since)
    rows = {r["id"]: r for r in load_predictions(project, dataset, name, split=split)}
    return Scored(name, rows, predictions, adapter, settings, tuple(notes))


def _described(dataset: str, scored: Scored) -> dict[str, Any]:
    rows = list(scored.rows.values())
    return {
        "experiment": f"{dataset}/{scored.name}",
        "predictions": scored.predictions["data_version"],
        "adapter": scored.predictions["adapter_version"],
        "overall": dict(summary(rows)),
        "by_category": breakdown(rows, "category"),
        "minutes": scored.adapter.get("minutes"),
        "adapter_mb": scored.adapter.get("adapter_mb"),
        "taken_from": scored.adapter.get("taken_from"),
        "latency_p95_ms": scored.predictions.get("latency_p95_ms"),
        "uses_table_content": scored.predictions.get("uses_table_content", []),
    }


def _comparison(dataset: str, reference: Scored, other: Scored) -> dict[str, Any]:
    pairs = Pairs.of_rows(reference.rows, other.rows)
    categories: dict[str, list[str]] = {}
    for i, row in reference.rows.items():
        categories.setdefault(str(row["category"]), []).append(i)
    by_category = {}
    for category, ids in sorted(categories.items(), key=lambda c: -len(c[1])):
        members = Pairs.of_rows(*({i: s.rows[i] for i in ids} for s in (reference, other)))
        by_category[category] = members.test() | {"difference": members.difference()}
    return {
        "experiment": f"{dataset}/{other.name}",
        "difference": pairs.difference(),
        **pairs.test(),
        "won_questions": pairs.won,
        "lost_questions": pairs.lost,
        "by_category": by_category,
        "settings": setting_differences(reference.settings, other.settings),
    }
