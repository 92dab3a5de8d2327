"""One job and one retrain schedule a dataset."""

from __future__ import annotations

import dagster as dg

from t2s_assets.text2sql.config_files import experiment_names
from t2s_assets.text2sql.errors import ConfigError
from t2s_assets.text2sql.storage import Project


def dataset_job(project: Project, dataset: str) -> dg.UnresolvedAssetJobDefinition:
    """Everything of one dataset, for one experiment."""
    return dg.define_asset_job(
        f"{dataset}_retrain",
        selection=dg.AssetSelection.groups(dataset),
        description=f"Make every asset of {dataset} for one experiment, training among them.",
    )


def retrain_schedule(project: Project, dataset: str) -> dg.ScheduleDefinition | None:
    """The schedule in dataset.yaml; off until switched on. A training whose inputs did not change is not repeated.

    Raises:
        ConfigError: it names an experiment that is not there.
    """
    retrain = project.dataset(dataset).retrain
    if retrain is None:
        return None
    there = experiment_names(project.configs, dataset)
    if retrain.experiment not in there:
        path = project.configs / dataset / "dataset.yaml"
        raise ConfigError(f"{path}: retrain.experiment: no experiment {retrain.experiment!r}; there are {there}")

    @dg.schedule(
        name=f"{dataset}_retrain",
        job_name=f"{dataset}_retrain",
        cron_schedule=retrain.cron,
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.STOPPED,
    )
    def schedule() -> dg.RunRequest:
        return dg.RunRequest(partition_key=retrain.experiment)

    return schedule
