"""A report against others on the same test questions: the one before it, and the champion that served then.

Predictions are replaced by their next materialization, so a report keeps what it was compared with beside itself, in
`compared.json`: its own verdicts and those of the other two, by question id. The next report takes its own from there
as the previous ones. Made again from the same predictions, a report keeps its two references, and so its content.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from t2s_assets.text2sql.comparison.champion import serving_experiment
from t2s_assets.text2sql.comparison.paired import Pairs, verdict
from t2s_assets.text2sql.errors import DataError
from t2s_assets.text2sql.evaluation.predictions import load_predictions
from t2s_assets.text2sql.storage import Project, find_manifest, read_json, restore_interrupted

COMPARED = "compared.json"
REFERENCES = ("previous", "champion")

Verdicts = dict[str, Any]


def verdicts(experiment: str, predictions: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Verdicts:
    """The EX verdicts of predictions on test questions, with which predictions, adapter and gold they are of."""
    tested = [r for r in rows if r["split"] == "test"]
    return {
        "experiment": experiment,
        "predictions": predictions["data_version"],
        "adapter": predictions["adapter_version"],
        "gold": predictions.get("gold_version"),
        "right": sorted(r["id"] for r in tested if r["ex"]),
        "wrong": sorted(r["id"] for r in tested if not r["ex"]),
    }


def references(
    project: Project, dataset: str, experiment: str, own: Verdicts, log: Callable[[str], None]
) -> dict[str, Verdicts | None]:
    """What a report on `own` is compared with, each None where there is none.

    `previous`: the last report of the same experiment on other predictions. `champion`: the experiment that serves
    now, if it is another one; once this one serves itself, the one that served when it was first reported.
    """
    try:
        kept = _kept(project.path(dataset, "report", experiment))
    except DataError as e:  # the way out that it names is to report again
        log(f"{e}. Nothing tells what was reported before, so this report is compared with no earlier one")
        kept = {}
    same = bool(kept) and kept["own"]["predictions"] == own["predictions"]
    carried = kept if same else {"previous": kept.get("own"), "champion": None}
    serving = serving_experiment(project, dataset)
    champion = carried["champion"]
    if serving is not None and serving != experiment:
        champion = _of_experiment(project, dataset, serving) or champion
    return {"previous": carried["previous"], "champion": champion}


def _kept(report: Path) -> dict[str, Any]:
    restore_interrupted(report)
    path = report / COMPARED
    address = f"{report.parent.parent.name}/{report.name}"
    return read_json(path, made_by=f"t2s report {address}") if path.exists() else {}


def _of_experiment(project: Project, dataset: str, experiment: str) -> Verdicts | None:
    folder = project.path(dataset, "predictions", experiment)
    manifest = find_manifest(folder, made_by=f"t2s evaluate {dataset}/{experiment}")
    if manifest is None:
        return None
    return verdicts(experiment, manifest, load_predictions(project, dataset, experiment))


def compare(own: Verdicts, other: Verdicts | None) -> dict[str, Any] | None:
    """McNemar's test on EX over the test questions that both answered, and which of them were won and lost.

    `won_questions` are right in `own` alone, `lost_questions` in `other` alone, both in the order of their ids.
    None where there is no other, or no question that both answered, or `on_other_data`.
    """
    if other is None or on_other_data(own, other):
        return None
    pairs = Pairs.of(_by_id(other), _by_id(own))
    if not pairs.ids:
        return None
    test = pairs.test()
    return {
        **{name: other[name] for name in ("experiment", "predictions", "adapter")},
        "ex": sum(pairs.second) / len(pairs.ids),
        "ex_other": sum(pairs.first) / len(pairs.ids),
        "difference": pairs.difference(),
        **test,
        "verdict": verdict(test),
        "won_questions": pairs.won,
        "lost_questions": pairs.lost,
    }


def on_other_data(own: Verdicts, other: Verdicts) -> bool:
    """Whether the questions that share an id are not the same ones, by their text and gold, or are not known to be."""
    return own["gold"] is None or own["gold"] != other.get("gold")


def not_compared(dataset: str, own: Verdicts, others: Mapping[str, Verdicts | None]) -> dict[str, str]:
    """Why `own` is not compared with others that there are, by their names in `REFERENCES`."""
    why = {}
    for name, other in others.items():
        if other is not None and on_other_data(own, other):
            why[name] = f"{other['experiment']} was scored on other questions or other gold"
            if name == "champion":
                why[name] += f"; evaluate again with: t2s run {dataset}/{other['experiment']}"
    return why


def _by_id(of: Verdicts) -> dict[str, bool]:
    return {**dict.fromkeys(of["right"], True), **dict.fromkeys(of["wrong"], False)}
