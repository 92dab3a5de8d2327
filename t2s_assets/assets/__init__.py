"""The asset graph of one dataset, the same for every dataset."""

from __future__ import annotations

import dagster as dg

from t2s_assets.assets.data import data_assets
from t2s_assets.assets.experiments import experiment_assets
from t2s_assets.text2sql.config_files import experiment_names, misnamed
from t2s_assets.text2sql.dataset_config import DatasetConfig, Targets
from t2s_assets.text2sql.errors import ConfigError
from t2s_assets.text2sql.storage import Project


def dataset_assets(project: Project, dataset: str, config: DatasetConfig) -> list[dg.AssetsDefinition]:
    """Tables, questions and SQL of a dataset, and everything that its experiments make of them.

    An experiment whose file is broken is described by what is wrong with it, which the log of the code location says
    too: its runs fail at their start, and all others go on. One whose file is misnamed is described, and no partition.
    """
    return _assets(project, dataset, config.description, config.targets)


def refused_assets(project: Project, dataset: str, problem: ConfigError) -> list[dg.AssetsDefinition]:
    """The same assets of a dataset whose file is broken: `tables` is described by the problem, and each fails with it
    when it is to be made."""
    assets = _assets(project, dataset, _told(problem), Targets())
    return [_refused(definition, problem) for definition in assets]


def _assets(project: Project, dataset: str, description: str, targets: Targets) -> list[dg.AssetsDefinition]:
    names = experiment_names(project.configs, dataset)
    passed_over = misnamed(project.configs, dataset)
    described = {name: _description(project, dataset, name) for name in (*names, *passed_over)}
    partitions = dg.StaticPartitionsDefinition(names)
    return [
        *data_assets(dataset, description, targets),
        *experiment_assets(dataset, partitions, targets, described),
    ]


def _refused(definition: dg.AssetsDefinition, problem: ConfigError) -> dg.AssetsDefinition:
    @dg.multi_asset(
        name=definition.op.name,
        specs=list(definition.specs),
        check_specs=list(definition.check_specs),
        partitions_def=definition.partitions_def,
    )
    def refused() -> dg.MaterializeResult:
        raise problem

    return refused


def _description(project: Project, dataset: str, experiment: str) -> str:
    try:
        return project.experiment(dataset, experiment).description
    except ConfigError as e:
        dg.get_dagster_logger("t2s").warning("the experiment %s/%s cannot run: %s", dataset, experiment, e)
        return _told(e)


def _told(problem: ConfigError) -> str:
    """An error as a part of a description, which is Markdown: a line for each thing that is wrong."""
    return f"cannot run: {problem}".replace("\n", "  \n")
