"""The asset graph of one dataset, the same for every dataset."""

from __future__ import annotations

import dagster as dg

from t2s_assets.assets.data import data_assets
from t2s_assets.assets.experiments import experiment_assets
from t2s_assets.text2sql.config_files import experiment_names
from t2s_assets.text2sql.storage import Project


def dataset_assets(project: Project, dataset: str) -> list[dg.AssetsDefinition]:
    """Tables, questions and SQL of a dataset, and everything that its experiments make of them.

    Raises:
        ConfigError: an experiment's file is broken. Loading tells, so nobody waits for a run to find a typing error.
    """
    config = project.dataset(dataset)
    described = {n: project.experiment(dataset, n).description for n in experiment_names(project.configs, dataset)}
    partitions = dg.StaticPartitionsDefinition(list(described))
    return [
        *data_assets(dataset, config.description),
        *experiment_assets(dataset, partitions, config.targets, described),
    ]
