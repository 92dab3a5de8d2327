"""How the steps of a run begin: as forks of a process that has imported what all of them import."""

from __future__ import annotations

import sys
from typing import Any

import dagster as dg

# All but the definitions, which each step loads anew, and what runs models. The threads that they start, jemalloc's and
# OpenBLAS', are fit for forks.
PRELOADED = [
    *("t2s_assets.assets", "t2s_assets.jobs", "t2s_assets.sensors"),
    *("t2s_assets.text2sql.gold.text", "pyarrow.dataset"),
    *("dagster._core.storage.sqlite_storage", "alembic.command"),
]


def _forked(config: dict[str, Any]) -> dict[str, Any]:
    """A run's own configuration, which may say otherwise, as Dagster's executor takes it.

    Spawned, which is Dagster's default, each step imports Dagster and this package again: several seconds for each of
    eight steps. macOS' own libraries do not allow forks.
    """
    steps = config.get("multiprocess")
    if steps is None or steps.get("start_method") or sys.platform != "linux":
        return config
    return {"multiprocess": {**steps, "start_method": {"forkserver": {"preload_modules": PRELOADED}}}}


forking_executor = dg.configured(
    dg.multi_or_in_process_executor,
    name="forking_executor",
    config_schema=dg.multi_or_in_process_executor.config_schema,
)(_forked)
