"""The sensor `made_elsewhere`: what `t2s`, another machine or a copy put into storage is shown in Dagster too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import dagster as dg

from t2s_assets.made_elsewhere import Tick, watched
from t2s_assets.resources import ProjectFolders
from t2s_assets.text2sql.dataset_config import Targets

EVERY_SECONDS = 30


def made_elsewhere(assets: Sequence[dg.AssetsDefinition], targets: Mapping[str, Targets]) -> dg.SensorDefinition:
    """The sensor for `assets`, in an order in which inputs come first, of datasets with these targets."""
    specs = watched(assets)

    @dg.sensor(
        name="made_elsewhere",
        minimum_interval_seconds=EVERY_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Shows what is in storage and none of the runs here made: t2s did, another machine, or a copy.",
    )
    def sensor(context: dg.SensorEvaluationContext, folders: ProjectFolders) -> dg.SensorResult:
        tick = Tick(context.instance, folders.project, specs, targets, context.log)
        cursor = tick.run(context.cursor)
        return dg.SensorResult(skip_reason=tick.summary, cursor=cursor)

    return sensor
