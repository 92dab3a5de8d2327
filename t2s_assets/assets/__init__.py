"""The asset graph of one dataset, the same for every dataset."""

from __future__ import annotations

import dagster as dg

from t2s_assets.assets.data import data_assets
from t2s_assets.assets.experiments import experiment_assets
from t2s_assets.text2sql.config import experiment_names
from t2s_assets.text2sql.storage import Project


def dataset_assets(project: Project, dataset: str) -> list[dg.AssetsDefinition]:
    """Tables, questions and SQL of a dataset, and everything that its experiments make of them."""
    partitions = dg.StaticPartitionsDefinition(experiment_names(project.configs, dataset))
    return [*data_assets(dataset), *experiment_assets(dataset, partitions)]
