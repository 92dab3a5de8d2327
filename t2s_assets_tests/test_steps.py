"""How the steps of a run begin."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.executor.init import InitExecutorContext
from dagster._core.executor.multiprocess import MultiprocessExecutor
from dagster._core.system_config.objects import ResolvedRunConfig

from t2s_assets.definitions import build_definitions
from t2s_assets.steps import PRELOADED
from t2s_assets_tests.projects import ProjectFiles
from t2s_assets_tests.test_definitions import HEAVY


def executor_of(files: ProjectFiles, config: dict[str, Any]) -> Any:
    """What runs the steps of a dataset's job that is launched with `config`."""
    job = build_definitions(files.project).resolve_job_def("shop_retrain")
    resolved = ResolvedRunConfig.build(job, {"execution": {"config": config}} if config else {})
    with dg.DagsterInstance.ephemeral() as instance:
        settings = resolved.execution.execution_engine_config
        context = InitExecutorContext(InMemoryJob(job), job.executor_def, settings, instance)
        assert job.executor_def.executor_creation_fn is not None
        return job.executor_def.executor_creation_fn(context)


@pytest.mark.skipif(sys.platform != "linux", reason="steps are spawned elsewhere")
def test_steps_are_forks_unless_the_run_says_otherwise(project_files: ProjectFiles) -> None:
    project_files.dataset("shop")
    forked = executor_of(project_files, {})
    assert isinstance(forked, MultiprocessExecutor)
    assert (forked._start_method, forked._explicit_forkserver_preload) == ("forkserver", PRELOADED)
    two = executor_of(project_files, {"multiprocess": {"max_concurrent": 2}})
    assert (two._start_method, two._max_concurrent) == ("forkserver", 2)
    spawned = executor_of(project_files, {"multiprocess": {"start_method": {"spawn": {}}}})
    assert spawned._start_method == "spawn"
    assert not isinstance(executor_of(project_files, {"in_process": {}}), MultiprocessExecutor)


def test_what_is_imported_before_steps_is_there_and_is_no_model_library_nor_the_definitions() -> None:
    """Dagster passes over what it cannot import, and of definitions that were loaded before, a step would run those."""
    code = "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, *PRELOADED], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert loaded >= set(PRELOADED)
    assert loaded & {"t2s_assets.definitions", *HEAVY} <= {"pandas"}  # of pyarrow.dataset
