"""Which adapters are trained, and the one that a user names."""

from __future__ import annotations

import functools
import logging
from dataclasses import replace
from pathlib import Path

from t2s_assets.text2sql import adapters
from t2s_assets.text2sql.adapters import Adapter
from t2s_assets.text2sql.comparison.champion import CHAMPION
from t2s_assets.text2sql.config_files import experiment_names
from t2s_assets.text2sql.errors import ModelError
from t2s_assets.text2sql.storage import MANIFEST, Project, is_made, read_json, read_manifest, restore_interrupted

_LOG = logging.getLogger(__name__)


def find_adapter(model: str | Path, project: Project) -> Adapter:
    """The adapter that `dataset/experiment`, `dataset` (its champion) or a folder names.

    By an address it decodes, and is placed, as the experiment's file says now; in a folder as its own records say.
    A champion that was trained again since it was chosen answers all the same, so that no training takes down what
    serves, and a warning says so.

    Raises:
        T2SError: there is none, or it is not whole; the message lists the trained ones.
    """
    text = str(model)
    folder = Path(text).expanduser()
    if text.startswith((".", "/", "~")) or is_made(folder):
        if not is_made(folder):
            raise ModelError(f"--model: {folder} is no adapter's folder, it has no {MANIFEST}; {_trained(project)}")
        return _opened(folder, "t2s train, which writes such a folder")
    dataset, _, experiment = text.partition("/")
    chosen = None
    if not experiment:
        champion = project.path(dataset, "champion") / CHAMPION
        restore_interrupted(champion.parent)
        if not champion.is_file():
            raise ModelError(
                f"--model: {text!r} has no champion yet; choose one with t2s champion {text}, or give "
                f"DATASET/EXPERIMENT or a folder; {_trained(project)}"
            )
        made_by = f"t2s champion {dataset}"
        experiment = read_json(champion, made_by=made_by)["experiment"]
        chosen = read_manifest(champion.parent, made_by=made_by)["adapter_version"]
    folder = project.path(dataset, "adapter", experiment)
    if not is_made(folder):
        config = project.configs / dataset / f"{experiment}.yaml"
        raise ModelError(
            f"--model: no trained adapter {dataset}/{experiment}; {_trained(project)}. "
            + (
                f"Train it with: t2s run {dataset}/{experiment}"
                if config.is_file()
                else f"There is no {config} to train it from"
            )
        )
    adapter = _opened(folder, f"t2s train {dataset}/{experiment}")
    if chosen is not None and chosen != adapter.version:
        _warn_once(
            f"{dataset}/{experiment} became champion of {dataset} with other weights than it answers with (adapter "
            f"{chosen}, now {adapter.version}); evaluate these and choose again with: t2s run {dataset}/{experiment}"
        )
    if experiment not in experiment_names(project.configs, dataset):
        return adapter
    config = project.experiment(dataset, experiment)
    now = {"decoding": config.decoding, "hardware": config.hardware}
    return replace(adapter, experiment=adapter.experiment.model_copy(update=now))


@functools.cache
def _warn_once(line: str) -> None:
    """Commands look an adapter up more than once."""
    _LOG.warning(line)


def _opened(folder: Path, made_by: str) -> Adapter:
    try:
        return adapters.open_adapter(folder, made_by=made_by)
    except (ValueError, KeyError, TypeError) as e:
        raise ModelError(f"{folder}: its records are broken ({e}); train again with: {made_by}") from e


def trained(project: Project) -> list[str]:
    """The adapters that there are, as `dataset/experiment`; with those that a killed process moved away."""
    for old in project.storage.glob("*/adapter/.*.old"):
        restore_interrupted(old.with_name(old.name[1:].rsplit(".", 2)[0]))
    found = sorted(p.parent for p in project.storage.glob(f"*/adapter/*/{MANIFEST}") if p.parent.name[0] != ".")
    return [f"{p.parts[-3]}/{p.name}" for p in found]


def _trained(project: Project) -> str:
    names = trained(project)
    return f"trained are: {', '.join(names)}" if names else "none is trained yet"
