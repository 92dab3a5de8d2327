"""One job and one retrain schedule a dataset."""

from __future__ import annotations

import dagster as dg

from t2s_assets.runs import UNFINISHED
from t2s_assets.text2sql.config_files import experiment_names
from t2s_assets.text2sql.dataset_config import Retrain
from t2s_assets.text2sql.errors import ConfigError
from t2s_assets.text2sql.storage import Project

_SCHEDULED_BY = "dagster/schedule_name"  # Dagster's tag of a schedule's runs, and of their retries


def dataset_job(dataset: str) -> dg.UnresolvedAssetJobDefinition:
    """Everything of one dataset, for one experiment."""
    return dg.define_asset_job(
        f"{dataset}_retrain",
        selection=dg.AssetSelection.groups(dataset),
        description=f"Make every asset of {dataset} for one experiment, training among them.",
    )


def retrain_schedule(project: Project, dataset: str, retrain: Retrain) -> dg.ScheduleDefinition:
    """The schedule in dataset.yaml; off until switched on. A training whose inputs did not change is not repeated.

    A tick is skipped while an earlier run of the schedule has not ended: where a run takes longer than the time between
    ticks, they would queue up without end.

    Where it names an experiment that is not there, it is described so, and its ticks fail with a ConfigError.
    """
    description = f"Make every asset of {dataset} for {retrain.experiment!r}, which trains where inputs changed."
    try:
        _named(project, dataset, retrain)
    except ConfigError as e:
        dg.get_dagster_logger("t2s").warning("the schedule of %s cannot run: %s", dataset, e)
        description = f"cannot run: {e}"

    name = f"{dataset}_retrain"

    @dg.schedule(
        name=name,
        job_name=name,
        cron_schedule=retrain.cron,
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description=description,
    )
    def schedule(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        experiment = _named(project, dataset, retrain)
        own = dg.RunsFilter(tags={_SCHEDULED_BY: name}, statuses=UNFINISHED)
        if (running := next(iter(context.instance.get_runs(own, limit=1)), None)) is not None:
            return dg.SkipReason(f"run {running.run_id} of this schedule has not ended: {running.status.value}")
        return dg.RunRequest(partition_key=experiment)

    return schedule


def _named(project: Project, dataset: str, retrain: Retrain) -> str:
    """The experiment that a schedule names. Raises ConfigError when it is not there."""
    there = experiment_names(project.configs, dataset)
    if retrain.experiment not in there:
        path = project.configs / dataset / "dataset.yaml"
        raise ConfigError(f"{path}: retrain.experiment: no experiment {retrain.experiment!r}; there are {there}")
    return retrain.experiment
