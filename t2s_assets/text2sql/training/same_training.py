"""What spares a training: the adapter of another experiment that this one is like, and that trained the same."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from t2s_assets.text2sql import adapters
from t2s_assets.text2sql.config import Experiment
from t2s_assets.text2sql.storage import (
    Project,
    find_manifest,
    read_json,
    read_manifest,
    replacing_folder,
    write_json,
    write_manifest,
)

TAKEN_FROM = "taken_from"
"""Of a manifest: the address of the experiment that trained the adapter, where that is another."""

Log = Callable[[str], None]


def take(project: Project, dataset: str, experiment: str, key: str, log: Log) -> None:
    """Copy the adapter with `key` from an experiment that this one is like, if one has it.

    The copy has this experiment's settings beside it: those outside of training may be others.
    """
    config = project.experiment(dataset, experiment)
    source = _source(project, dataset, config, key)
    if source is None:
        return
    if (problem := adapters.damage(source)) is not None:
        log(f"{source}: {problem}, so it is not taken")
        return
    manifest = read_manifest(source, made_by="")
    version = manifest.pop("data_version")
    trained_by = manifest.get(TAKEN_FROM, f"{dataset}/{source.name}")
    with replacing_folder(project.path(dataset, "adapter", experiment)) as fresh:
        shutil.copytree(source, fresh, dirs_exist_ok=True)
        resolved = read_json(fresh / adapters.RESOLVED_CONFIG, made_by="")
        here = {"address": [dataset, experiment], "experiment": config.resolved()}
        write_json(fresh / adapters.RESOLVED_CONFIG, resolved | here)
        write_json(fresh / adapters.METRICS, read_json(fresh / adapters.METRICS, made_by="") | {TAKEN_FROM: trained_by})
        write_manifest(fresh, version, manifest | {TAKEN_FROM: trained_by})
    log(f"{trained_by} trained the same: its adapter is taken; --force trains it here")


def _source(project: Project, dataset: str, config: Experiment, key: str) -> Path | None:
    """The adapter with `key` of the nearest experiment that one with `config` is like, by way of others too."""
    while config.like is not None:
        folder = project.path(dataset, "adapter", config.like)
        if (find_manifest(folder, made_by=f"t2s train {dataset}/{config.like}") or {}).get("key") == key:
            return folder
        config = project.experiment(dataset, config.like)
    return None


def bring_up_to_date(folder: Path, config: Experiment, log: Log) -> None:
    """Keep the settings as they are now beside an adapter that they would not change."""
    resolved = read_json(folder / adapters.RESOLVED_CONFIG, made_by="")
    if resolved["experiment"] != config.resolved():
        write_json(folder / adapters.RESOLVED_CONFIG, resolved | {"experiment": config.resolved()})
        log("settings outside of training have changed: the adapter's folder holds the new ones")
