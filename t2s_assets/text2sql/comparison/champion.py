"""The `champion` of a dataset: the experiment that serves, chosen on the validation split."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from t2s_assets.text2sql.comparison.paired import SIGNIFICANT, Pairs
from t2s_assets.text2sql.config_files import experiment_names
from t2s_assets.text2sql.errors import ConfigError, DataError
from t2s_assets.text2sql.evaluation.examination import gold_version
from t2s_assets.text2sql.evaluation.predictions import decoded_otherwise, load_predictions
from t2s_assets.text2sql.gold.prepared import MADE_OF
from t2s_assets.text2sql.metrics import summary
from t2s_assets.text2sql.processes.locking import only_one
from t2s_assets.text2sql.storage import (
    Project,
    content_hash,
    find_manifest,
    is_made,
    read_json,
    read_manifest,
    replacing_folder,
    restore_interrupted,
    write_json,
    write_manifest,
)

CHAMPION = "champion.json"


def choose_champion(project: Project, dataset: str, log: Callable[[str], None] = print) -> dict[str, Any]:
    """Choose among the experiments with predictions and write `champion`.

    The one that serves now stays unless another is right on more validation questions that both answered, by more
    than chance (McNemar's exact test, p < 0.05). Without one that serves, the one that answered most questions gives
    way to whoever is right on more of those that both answered, in the order of EX, and of names among equals. Who was
    evaluated on other questions, tables or gold than there are now, or decodes otherwise now, is left out; the one that
    serves then stays, since nothing says that another is better, and so it does without predictions.

    Raises:
        DataError: no experiment of the dataset has predictions on validation questions as they are now.
    """
    lock = project.path(dataset, "champion").with_name(".champion.lock")
    with only_one(lock, f"choosing the champion of {dataset}", log):
        return _choose(project, dataset, log)


def _choose(project: Project, dataset: str, log: Callable[[str], None]) -> dict[str, Any]:
    try:
        serving = serving_experiment(project, dataset)
    except DataError as e:  # the way out that it names is to choose again
        log(f"{e}. Nothing tells which experiment served, so one is chosen as if none had")
        serving = None
    predicted = _predicted(project, dataset)
    candidates, left_out = _candidates(project, dataset, serving, predicted)
    for name in left_out:
        log(f"{dataset}/{name} was evaluated on other data or otherwise; evaluate again with: t2s run {dataset}/{name}")
    if not candidates:
        raise DataError(
            f"{dataset}: no experiment has predictions {'on its data as they are now' if left_out else 'yet'}; make "
            f"some with: t2s run {dataset}/{left_out[0] if left_out else 'EXPERIMENT'}"
        )
    scores = {name: summary(list(rows.values()))["ex"] for name, rows in candidates.items()}
    ranking = sorted(candidates, key=lambda n: (-(scores[n]["value"] or 0), n))
    comparisons = []
    most_answered = min(ranking, key=lambda name: -len(candidates[name]))
    chosen = serving if serving in candidates or serving in left_out else most_answered
    for challenger in ranking:
        if challenger == chosen or chosen in left_out:
            continue
        comparison = compare(candidates[chosen], candidates[challenger])
        comparisons.append({**comparison, "champion": chosen, "challenger": challenger})
        sure = comparison["p"] < SIGNIFICANT or serving not in candidates
        if comparison["won"] > comparison["lost"] and sure:
            chosen = challenger
    content = {
        "experiment": chosen,
        "before": serving,
        "validation_ex": scores,
        "comparisons": comparisons,
        "left_out": left_out,
        "rule": f"a challenger needs more validation questions right, McNemar p < {SIGNIFICANT}",
    }
    folder = project.path(dataset, "champion")
    with replacing_folder(folder) as fresh:
        write_json(fresh / CHAMPION, content)
        # The adapter may have been trained again since; what was compared is what made the predictions.
        predictions = project.path(dataset, "predictions", chosen)
        was_compared = predictions if is_made(predictions) else folder
        version = read_manifest(was_compared, made_by=f"t2s evaluate {dataset}/{chosen}")["adapter_version"]
        facts = {"experiment": chosen, "adapter_version": version}
        made_of = {MADE_OF: {"predictions": {name: m["data_version"] for name, m in predicted.items()}}}
        write_manifest(fresh, content_hash(facts), facts | made_of)
    log(f"champion of {dataset}: {chosen}" + (f" (before: {serving})" if serving and serving != chosen else ""))
    return read_manifest(folder, made_by="")


def _predicted(project: Project, dataset: str) -> dict[str, dict[str, Any]]:
    """The manifest of predictions of each experiment that has some."""
    found = {}
    for name in experiment_names(project.configs, dataset):
        made_by = f"t2s evaluate {dataset}/{name}"
        if (manifest := find_manifest(project.path(dataset, "predictions", name), made_by=made_by)) is not None:
            found[name] = manifest
    return found


def _candidates(
    project: Project, dataset: str, serving: str | None, predicted: dict[str, dict[str, Any]]
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """(the validation rows by id of each experiment that has some, experiments evaluated on other data)."""
    names = experiment_names(project.configs, dataset)
    now = gold_version(project, dataset) if predicted else None
    serves = serving in names and is_made(project.path(dataset, "adapter", serving))
    candidates, left_out = {}, [serving] if serves and serving not in predicted else []
    for name, manifest in predicted.items():
        if manifest.get("gold_version") != now or _decodes_otherwise(project, dataset, name, manifest):
            left_out.append(name)
        elif rows := load_predictions(project, dataset, name, split="validation"):
            candidates[name] = {r["id"]: r for r in rows}
    return candidates, left_out


def _decodes_otherwise(project: Project, dataset: str, name: str, predictions: dict[str, Any]) -> bool:
    """Whether an experiment decodes otherwise now, or its file does not say how."""
    try:
        return bool(decoded_otherwise(project, dataset, name, predictions))
    except ConfigError:
        return True


def serving_experiment(project: Project, dataset: str) -> str | None:
    """The champion as last chosen, or None; one that a killed process moved away counts, and is put back."""
    path = project.path(dataset, "champion") / CHAMPION
    restore_interrupted(path.parent)
    return read_json(path, made_by=f"t2s champion {dataset}")["experiment"] if path.exists() else None


def compare(champion: dict[str, Any], challenger: dict[str, Any]) -> dict[str, Any]:
    """McNemar's test on EX over the validation questions that both answered."""
    return Pairs.of_rows(champion, challenger).test()
