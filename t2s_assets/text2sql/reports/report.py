"""The `report` of an experiment: report.json (see docs/report.md for its schema), plots and a Markdown page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from t2s_assets.text2sql import adapters, plots
from t2s_assets.text2sql.dataset_config import Targets
from t2s_assets.text2sql.errors import DataError
from t2s_assets.text2sql.evaluation.examination import gold_version
from t2s_assets.text2sql.evaluation.predictions import decoded_otherwise, load_predictions
from t2s_assets.text2sql.gold.prepared import MADE_OF
from t2s_assets.text2sql.metrics import ERROR_KINDS, Rate, breakdown, mcnemar, summary
from t2s_assets.text2sql.reports import references
from t2s_assets.text2sql.reports.calibration import calibration
from t2s_assets.text2sql.reports.presentation import MEASURES, PLOTS, asked, headline, page
from t2s_assets.text2sql.storage import (
    Project,
    content_hash,
    read_json,
    read_manifest,
    replacing_folder,
    write_json,
    write_manifest,
)

REPORT_VERSION = 2
LATENCY_TARGET_MS = 500.0

_WORST = 20
Row = dict[str, Any]


def make_report(project: Project, dataset: str, experiment: str, log: Callable[[str], None] = print) -> dict[str, Any]:
    """Write `report` from `predictions` and the adapter's records. Returns its manifest.

    Raises:
        DataError: one of them is not there, or the predictions are another adapter's, decoded otherwise than the
            experiment now says, or scored on other data than there are now.
    """
    trains, evaluates = (f"t2s {command} {dataset}/{experiment}" for command in ("train", "evaluate"))
    predictions = read_manifest(project.path(dataset, "predictions", experiment), made_by=evaluates)
    rows = load_predictions(project, dataset, experiment)
    base = load_predictions(project, dataset, experiment, "base")
    latency = read_json(project.path(dataset, "predictions", experiment) / "latency.json", made_by=evaluates)
    adapter = project.path(dataset, "adapter", experiment)
    if (trained := read_manifest(adapter, made_by=trains)["data_version"]) != predictions["adapter_version"]:
        raise DataError(
            f"{dataset}/{experiment}: its predictions are those of adapter {predictions['adapter_version']}, but the "
            f"adapter is now {trained}; evaluate again with: {evaluates}"
        )
    if changed := decoded_otherwise(project, dataset, experiment, predictions):
        raise DataError(
            f"{dataset}/{experiment}: its predictions were decoded otherwise ({'; '.join(changed)}); evaluate again "
            f"with: {evaluates}, or put the settings back"
        )
    if predictions.get("gold_version") != gold_version(project, dataset):
        raise DataError(
            f"{dataset}/{experiment}: its predictions were scored on other questions, tables or gold than there are "
            f"now; evaluate again with: t2s run {dataset}/{experiment}"
        )
    training = read_json(adapter / adapters.METRICS, made_by=trains)
    history = read_json(adapter / adapters.CURVE, made_by=trains)["log_history"]
    own = references.verdicts(experiment, predictions, rows)
    others = references.references(project, dataset, experiment, own, log)
    compared = {name: references.compare(own, other) for name, other in others.items()}
    targets = project.dataset(dataset).targets
    report = build_report(f"{dataset}/{experiment}", rows, base, latency, training, predictions, compared, targets)
    report["not_compared"] = references.not_compared(dataset, own, others)
    folder = project.path(dataset, "report", experiment)
    with replacing_folder(folder) as fresh:
        write_json(fresh / "report.json", report)
        plots.plot_loss(history, fresh / "loss.png")
        title = f"{dataset}/{experiment} on {asked(report['test'])} test questions"
        plots.plot_rates(report["test"]["by_category"], fresh / "accuracy.png", title=title)
        tested = report["test"]
        plots.plot_errors(tested["errors"], tested["aggregate_confusion"], fresh / "errors.png")
        plots.plot_latency(latency["each_ms"], fresh / "latency.png", target=LATENCY_TARGET_MS)
        plots.plot_calibration(report["calibration"], fresh / "calibration.png")
        (fresh / "report.md").write_text(page(report, {n: f"{n}.png" for n in PLOTS}), encoding="utf-8")
        write_json(fresh / references.COMPARED, {"own": own, **others})
        facts = {name: report["test"]["overall"][name]["value"] for name, _ in MEASURES} | {
            "n": report["test"]["n"],
            "of": report["test"]["of"],
            MADE_OF: {"predictions": predictions["data_version"], "adapter": trained},
        }
        # The latency target is a timing too, and the other targets follow from what is hashed.
        stable = {k: v for k, v in report.items() if k not in ("latency", "training", "targets")}
        write_manifest(fresh, content_hash(stable), facts)
    log(headline(report))
    return read_manifest(folder, made_by="")


def build_report(
    name: str,
    rows: Sequence[Row],
    base: Sequence[Row],
    latency: Mapping[str, Any],
    training: Mapping[str, Any],
    predictions: Mapping[str, Any],
    compared: Mapping[str, Any],
    targets: Targets,
) -> dict[str, Any]:
    """report.json's content from scored predictions; the same predictions give the same content.

    `compared` holds the comparisons of references.py by their names, `targets` are the dataset's.
    """
    report: dict[str, Any] = {
        "version": REPORT_VERSION,
        "experiment": name,
        "adapter": predictions["adapter_version"],
        "data": predictions.get("data"),
        "uses_table_content": predictions.get("uses_table_content", []),
    }
    for split in ("test", "validation"):
        members = [r for r in rows if r["split"] == split]
        report[split] = {
            "n": len(members),
            "of": predictions["of"][split],
            "sampled": len(members) < predictions["of"][split],
            "overall": dict(summary(members)),
            "by_category": breakdown(members, "category"),
            "by_aggregate": breakdown(members, "aggregate"),
            "by_conditions": breakdown(members, "conditions"),
            "errors": error_table(members, predictions.get("error_kinds", ERROR_KINDS)),
            "aggregate_confusion": confusion(members),
        }
    tested = [r for r in rows if r["split"] == "test"]
    report["baseline"] = baseline(tested, base) if base else None
    report["comparisons"] = {name: compared.get(name) for name in references.REFERENCES}
    report["calibration"] = calibration(tested)
    report["worst"] = worst_failures(tested)
    report["latency"] = {k: v for k, v in latency.items() if k != "each_ms"}
    keep = ("steps", "examples_seen", "epochs", "validation_loss", "minutes", "tokens_a_second", "peak_memory_gb")
    keep += ("trainable_share", "adapter_mb", "world_size", "taken_from")
    report["training"] = {name: training.get(name) for name in keep}
    overall = report["test"]["overall"]
    p95 = latency["total_ms"].get("p95")
    report["targets"] = {
        **{target_name(m, target): _over(overall[m], target) for m, target in targets.given.items()},
        latency_target_name(): None if p95 is None else p95 < LATENCY_TARGET_MS,
        f"adapter < {targets.adapter_mb:g} MB": training["adapter_mb"] < targets.adapter_mb,
    }
    return report


def target_name(measure: str, target: float) -> str:
    """How the report calls a target: `EM > 60 %`."""
    return f"{measure.upper()} > {100 * target:g} %"


def latency_target_name() -> str:
    """How the report calls the latency's target: `p95 < 500 ms`."""
    return f"p95 < {LATENCY_TARGET_MS:g} ms"


def _over(measured: Rate, target: float) -> bool | None:
    """Whether a rate is over its target; None where nothing was asked."""
    return None if measured["value"] is None else measured["value"] > target


def error_table(rows: Sequence[Row], kinds: Sequence[str] = ERROR_KINDS) -> dict[str, int]:
    """How many predictions differ from their gold in each slot; one prediction may count in several."""
    counts = Counter(kind for r in rows for kind in r["errors"])
    return {kind: counts[kind] for kind in kinds}


def confusion(rows: Sequence[Row]) -> dict[str, dict[str, int]]:
    """Predicted aggregates by gold aggregate, over predictions that parse."""
    table: dict[str, Counter[str]] = {}
    for row in rows:
        if row["predicted_aggregate"] is not None:
            table.setdefault(row["aggregate"], Counter())[row["predicted_aggregate"]] += 1
    return {gold: dict(counts.most_common()) for gold, counts in sorted(table.items())}


def baseline(rows: Sequence[Row], base: Sequence[Row]) -> dict[str, Any]:
    """What training bought on the same questions: the base's measures, and where the gain in EX comes from.

    Questions that training won are split by the base's failure: its SQL did not run (`validity`), or ran and was
    wrong (`understanding`). `broken` lists questions that only the base answered right.
    """
    by_id = {r["id"]: r for r in base}
    pairs = [(by_id[r["id"]], r) for r in rows if r["id"] in by_id]
    won = [b for b, r in pairs if r["ex"] and not b["ex"]]
    broken = [(b, r) for b, r in pairs if b["ex"] and not r["ex"]]
    return {
        "n": len(pairs),
        "overall": dict(summary([b for b, _ in pairs])),
        "ex_test": mcnemar([b["ex"] for b, _ in pairs], [r["ex"] for _, r in pairs]),
        "won_by_validity": sum(not b["valid"] for b in won),
        "won_by_understanding": sum(b["valid"] for b in won),
        "broken": len(broken),
        "broken_questions": [
            {"id": r["id"], "question": r["question"], "gold": r["gold_sql"], "base": b["sql"], "tuned": r["sql"]}
            for b, r in broken[:_WORST]
        ],
    }


def worst_failures(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The wrong answers that the model was surest of, by log-probability a token."""
    wrong = [r for r in rows if not r["ex"]]
    wrong.sort(key=lambda r: (-r["logprob"] / max(1, r["tokens"]), r["id"]))
    return [
        {
            "id": r["id"],
            "question": r["question"],
            "gold": r["gold_sql"],
            "predicted": r["sql"],
            "gold_result": r["gold_result"],
            "predicted_result": r["result"],
            "errors": r["errors"],
        }
        for r in wrong[:_WORST]
    ]
