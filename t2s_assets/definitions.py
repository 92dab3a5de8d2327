"""Everything that Dagster loads: one group of assets, one job and one schedule a dataset under `configs/`, and a sensor
for what is made elsewhere."""

from __future__ import annotations

import dagster as dg

from t2s_assets.assets import dataset_assets, refused_assets
from t2s_assets.jobs import dataset_job, retrain_schedule
from t2s_assets.resources import ProjectFolders
from t2s_assets.sensors import made_elsewhere
from t2s_assets.steps import forking_executor
from t2s_assets.text2sql.config_files import dataset_names, misnamed
from t2s_assets.text2sql.dataset_config import DatasetConfig
from t2s_assets.text2sql.errors import ConfigError
from t2s_assets.text2sql.storage import Project

# torchrun kills ranks that have not ended 30 s after it was told to stop; a step that waited less would leave them.
_STOP_SECONDS = 60


def build_definitions(project: Project) -> dg.Definitions:
    """The definitions of all datasets of a project.

    Each step of a run loads them anew, so a file that is broken while a training runs must not end it: a dataset whose
    file is broken has assets that say so and fail, and the log of the code location tells it and what is misnamed.
    """
    datasets, broken = _read(project)
    sound = [asset for name, config in datasets.items() for asset in dataset_assets(project, name, config)]
    refused = [asset for name, problem in broken.items() for asset in refused_assets(project, name, problem)]
    schedules = [retrain_schedule(project, name, config.retrain) for name, config in datasets.items() if config.retrain]
    pipes = dg.PipesSubprocessClient(termination_timeout_seconds=_STOP_SECONDS)
    return dg.Definitions(
        assets=[*sound, *refused],
        jobs=[dataset_job(name) for name in (*datasets, *broken)],
        schedules=schedules,
        sensors=[made_elsewhere(sound, {name: config.targets for name, config in datasets.items()})],
        resources={"folders": ProjectFolders.of(project), "pipes": pipes},
        executor=forking_executor,
    )


def _read(project: Project) -> tuple[dict[str, DatasetConfig], dict[str, ConfigError]]:
    """The datasets by name, and what is wrong with those that cannot be read."""
    log = dg.get_dagster_logger("t2s")
    for problem in misnamed(project.configs).values():
        log.warning("passed over: %s", problem)
    datasets, broken = {}, {}
    for name in dataset_names(project.configs):
        try:
            datasets[name] = project.dataset(name)
        except ConfigError as e:
            log.warning("the dataset %s cannot run: %s", name, e)
            broken[name] = e
    return datasets, broken


defs = build_definitions(Project.find())
