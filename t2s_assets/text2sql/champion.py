"""The `champion` of a dataset: the experiment that serves, chosen on the validation split."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from t2s_assets.text2sql.config_files import experiment_names
from t2s_assets.text2sql.errors import DataError
from t2s_assets.text2sql.metrics import mcnemar, summary
from t2s_assets.text2sql.predictions import load_predictions
from t2s_assets.text2sql.storage import (
    MANIFEST,
    Project,
    content_hash,
    read_json,
    read_manifest,
    replacing_folder,
    write_json,
    write_manifest,
)

CHAMPION = "champion.json"
SIGNIFICANT = 0.05


def choose_champion(project: Project, dataset: str, log: Callable[[str], None] = print) -> dict[str, Any]:
    """Choose among the experiments with predictions and write `champion`.

    The one that serves now stays unless another is right on more validation questions that both answered, by more
    than chance (McNemar's exact test, p < 0.05). Without one that serves, the highest validation EX wins, and the
    first name among equals.

    Raises:
        DataError: no experiment of the dataset has predictions on validation questions.
    """
    candidates = {}
    for name in experiment_names(project.configs, dataset):
        if (project.path(dataset, "predictions", name) / MANIFEST).exists():
            rows = [r for r in load_predictions(project, dataset, name) if r["split"] == "validation"]
            if rows:
                candidates[name] = {r["id"]: r for r in rows}
    if not candidates:
        raise DataError(f"{dataset}: no experiment has predictions yet; make some with: t2s run {dataset}/EXPERIMENT")
    scores = {name: summary(list(rows.values()))["ex"] for name, rows in candidates.items()}
    ranking = sorted(candidates, key=lambda n: (-(scores[n]["value"] or 0), n))
    serving = serving_experiment(project, dataset)
    comparisons = []
    chosen = serving if serving in candidates else ranking[0]
    for challenger in ranking:
        if challenger == chosen:
            continue
        comparison = compare(candidates[chosen], candidates[challenger])
        comparisons.append({**comparison, "champion": chosen, "challenger": challenger})
        if serving in candidates and comparison["won"] > comparison["lost"] and comparison["p"] < SIGNIFICANT:
            chosen = challenger
    content = {
        "experiment": chosen,
        "before": serving,
        "validation_ex": scores,
        "comparisons": comparisons,
        "rule": f"a challenger needs more validation questions right, McNemar p < {SIGNIFICANT}",
    }
    folder = project.path(dataset, "champion")
    with replacing_folder(folder) as fresh:
        write_json(fresh / CHAMPION, content)
        # The adapter may have been trained again since; what was compared is what made the predictions.
        predictions = read_manifest(
            project.path(dataset, "predictions", chosen), made_by=f"t2s evaluate {dataset}/{chosen}"
        )
        facts = {"experiment": chosen, "adapter_version": predictions["adapter_version"]}
        write_manifest(fresh, content_hash(facts), facts)
    log(f"champion of {dataset}: {chosen}" + (f" (before: {serving})" if serving and serving != chosen else ""))
    return read_manifest(folder, made_by="")


def serving_experiment(project: Project, dataset: str) -> str | None:
    """The champion as last chosen, or None."""
    path = project.path(dataset, "champion") / CHAMPION
    return read_json(path, made_by="")["experiment"] if path.exists() else None


def compare(champion: dict[str, Any], challenger: dict[str, Any]) -> dict[str, Any]:
    """McNemar's test on EX over the validation questions that both answered."""
    shared = sorted(champion.keys() & challenger.keys())
    return mcnemar([champion[i]["ex"] for i in shared], [challenger[i]["ex"] for i in shared])
