"""The asset graph of one dataset, the same for every dataset."""

from __future__ import annotations

import dagster as dg

from t2s_assets.assets.data import data_assets
from t2s_assets.assets.experiments import experiment_assets
from t2s_assets.text2sql.config_files import experiment_names
from t2s_assets.text2sql.errors import ConfigError
from t2s_assets.text2sql.storage import Project


def dataset_assets(project: Project, dataset: str) -> list[dg.AssetsDefinition]:
    """Tables, questions and SQL of a dataset, and everything that its experiments make of them.

    An experiment whose file is broken is described by what is wrong with it, which the log of the code location says
    too: its runs fail at their start, and all others go on.

    Raises:
        ConfigError: the dataset's file is broken.
    """
    config = project.dataset(dataset)
    described = {n: _description(project, dataset, n) for n in experiment_names(project.configs, dataset)}
    partitions = dg.StaticPartitionsDefinition(list(described))
    return [
        *data_assets(dataset, config.description, config.targets),
        *experiment_assets(dataset, partitions, config.targets, described),
    ]


def _description(project: Project, dataset: str, experiment: str) -> str:
    try:
        return project.experiment(dataset, experiment).description
    except ConfigError as e:
        dg.get_dagster_logger("t2s").warning("the experiment %s/%s cannot run: %s", dataset, experiment, e)
        return f"cannot run: {e}"
