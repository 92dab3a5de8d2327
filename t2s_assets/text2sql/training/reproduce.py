"""Training an adapter again from what stands beside it, to see whether the same comes out.

Settings, data version, base and clock's decisions are read from the adapter's folder; the training runs in a
temporary place, on this project's data. On one CPU machine with the same versions the weights are equal to the bit.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from t2s_assets.text2sql import adapters, base_models, records
from t2s_assets.text2sql.config import Experiment
from t2s_assets.text2sql.errors import DataError
from t2s_assets.text2sql.prompt_datasets import make_prompts
from t2s_assets.text2sql.storage import Project, file_hash, read_json, read_manifest
from t2s_assets.text2sql.training import entry

Log = Callable[[str], None]

_SHARED = ("tables", "questions", "sql")


def reproduce(project: Project, folder: Path, log: Log = print) -> bool:
    """Whether the adapter in `folder`, trained again, has the same weights. Tells what differs from then.

    Raises:
        DataError: the data or the folder's records are not what the adapter was trained on, so nothing can match.
        ModelError: the base is another one.
    """
    folder = folder.resolve()
    made_by = "t2s train, which leaves its records beside the adapter"
    adapter = adapters.open_adapter(folder, made_by=made_by)
    manifest = read_manifest(folder, made_by=made_by)
    if adapters.EXPORTED in manifest:
        raise DataError(f"{folder}: an exported adapter has no records of its training; give the one in storage")
    resolved = read_json(folder / adapters.RESOLVED_CONFIG, made_by=made_by)
    schedule = read_json(folder / adapters.SCHEDULE, made_by="t2s train --force, with this version")
    dataset, experiment = resolved["address"]
    if (now := file_hash(folder / adapters.WEIGHTS, length=16)) != manifest["data_version"]:
        raise DataError(f"{folder}: the weights have hash {now}, their manifest says {manifest['data_version']}")
    adapters.check_base(adapter, base_models.fetch(adapter.experiment.base_model, project, log=log))
    differences = _differences(manifest, adapter)
    for line in differences:
        log(f"differs: {line}")
    with tempfile.TemporaryDirectory(prefix="t2s-reproduce-") as place:
        copy = _copied(project, Path(place), dataset, experiment, resolved)
        prompts = make_prompts(copy, dataset, experiment, lambda line: None)["data_version"]
        if prompts != resolved["prompts_version"]:
            raise DataError(
                f"{dataset}: from the data here come prompts {prompts}; the adapter was trained on "
                f"{resolved['prompts_version']}. Its data or the code that makes prompts has changed, so it cannot be "
                f"made again; restore the data{_commit_hint(manifest)}"
            )
        log(f"training {dataset}/{experiment} again for {schedule['steps']:,} steps")
        threads = str(manifest.get("machine", {}).get("threads") or "")
        variables = {"OMP_NUM_THREADS": threads} if threads else {}
        again = entry.run(copy, dataset, experiment, "--replay", str(folder / adapters.SCHEDULE), **variables)
    same = again["data_version"] == manifest["data_version"]
    for name in ("train_loss", "validation_loss", "validation_ex", "validation_em"):
        if again.get(name) != manifest.get(name):
            log(f"differs: {name} was {manifest.get(name)}, is {again.get(name)}")
    if same:
        log(f"matched: the weights are again {manifest['data_version']}")
    else:
        why = "see what differs above" if differences else "nothing recorded differs: is the device deterministic?"
        log(f"did not match: the weights were {manifest['data_version']}, are {again['data_version']}; {why}")
    return same


def _differences(manifest: dict[str, Any], adapter: adapters.Adapter) -> list[str]:
    """What of software and machine is not as it was, a line each."""
    pairs: list[tuple[str, Any, Any]] = []
    now = records.versions()
    pairs += [(name, was, now.get(name)) for name, was in manifest["versions"].items()]
    here = records.machine()
    pairs += [(n, was, here.get(n)) for n, was in manifest.get("machine", {}).items() if n != "threads"]
    pairs.append(("this project's commit", manifest.get("git_commit"), records.git_commit()))
    was_placed = read_json(adapter.folder / adapters.RESOLVED_CONFIG, made_by="")["placement"]
    placed = base_models.place_training(adapter.experiment).as_dict()
    pairs += [(n, was_placed[n], placed[n]) for n in placed]
    return [f"{name} was {was}, is {is_}" for name, was, is_ in pairs if was != is_]


def _commit_hint(manifest: dict[str, Any]) -> str:
    return f", or use commit {manifest['git_commit']}" if manifest.get("git_commit") else ""


def _copied(project: Project, place: Path, dataset: str, experiment: str, resolved: dict[str, Any]) -> Project:
    """A project with this one's data and the resolved settings as its only experiment."""
    copy = Project(configs=place / "configs", storage=place / "storage")
    (copy.configs / dataset).mkdir(parents=True)
    (copy.storage / dataset).mkdir(parents=True)
    source = project.configs / dataset / "dataset.yaml"
    (copy.configs / dataset / "dataset.yaml").write_bytes(source.read_bytes())
    settings = copy.configs / dataset / f"{experiment}.yaml"
    settings.write_text(yaml.safe_dump(on_this_machine(resolved["experiment"]), allow_unicode=True), encoding="utf-8")
    for asset in _SHARED:
        read_manifest(project.path(dataset, asset), made_by=f"t2s prepare {dataset}")
        os.symlink(project.path(dataset, asset), copy.path(dataset, asset))
    project.cache().mkdir(parents=True, exist_ok=True)
    os.symlink(project.cache(), copy.cache())
    return copy


def on_this_machine(content: dict[str, Any]) -> dict[str, Any]:
    """The experiment with as many ranks, all of them here: other machines do not see the temporary place."""
    ranks = Experiment.model_validate(content).ranks
    here = {name: section for name, section in content.items() if name != "launch"}
    return here | {"training": content["training"] | {"processes": ranks}} if ranks > 1 else here
