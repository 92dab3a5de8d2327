"""Everything that Dagster loads: one group of assets, one job and one schedule a dataset under `configs/`, and a sensor
for what is made elsewhere."""

from __future__ import annotations

import dagster as dg

from t2s_assets.assets import dataset_assets
from t2s_assets.jobs import dataset_job, retrain_schedule
from t2s_assets.resources import ProjectFolders
from t2s_assets.sensors import made_elsewhere
from t2s_assets.text2sql.config_files import dataset_names
from t2s_assets.text2sql.storage import Project

# torchrun kills ranks that have not ended 30 s after it was told to stop; a step that waited less would leave them.
_STOP_SECONDS = 60


def build_definitions(project: Project) -> dg.Definitions:
    """The definitions of all datasets of a project. Raises ConfigError when a dataset's config file is broken."""
    names = dataset_names(project.configs)
    schedules = [retrain_schedule(project, name) for name in names]
    pipes = dg.PipesSubprocessClient(termination_timeout_seconds=_STOP_SECONDS)
    assets = [asset for name in names for asset in dataset_assets(project, name)]
    return dg.Definitions(
        assets=assets,
        jobs=[dataset_job(project, name) for name in names],
        schedules=[s for s in schedules if s is not None],
        sensors=[made_elsewhere(assets, {name: project.dataset(name).targets for name in names})],
        resources={"folders": ProjectFolders.of(project), "pipes": pipes},
    )


defs = build_definitions(Project.find())
