"""`prompts`, `adapter`, `predictions` and `report` of each experiment, and the dataset's `champion`."""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from t2s_assets import checks
from t2s_assets.assets.data import OWNERS, result
from t2s_assets.ranks import run_ranks
from t2s_assets.resources import ProjectFolders
from t2s_assets.text2sql import base_models, evaluation, prompt_datasets, training
from t2s_assets.text2sql.comparison import champion
from t2s_assets.text2sql.dataset_config import Targets
from t2s_assets.text2sql.reports import report
from t2s_assets.text2sql.storage import read_manifest
from t2s_assets.text2sql.training import guards, plan

GPU_POOL = "gpu"


def experiment_assets(
    dataset: str, partitions: dg.PartitionsDefinition, targets: Targets, described: Mapping[str, str]
) -> list[dg.AssetsDefinition]:
    """The assets with one partition an experiment, and the champion chosen among them. `adapter` shows what each
    experiment is `described` as."""
    names = ("sql", "prompts", "adapter", "predictions", "report", "champion")
    key = {name: dg.AssetKey([dataset, name]) for name in names}
    unpartitioned: dict[str, Any] = {"group_name": dataset, "owners": OWNERS, "code_version": "1"}
    common = {**unpartitioned, "partitions_def": partitions}

    @dg.asset(
        key=key["prompts"],
        deps=[key["sql"]],
        kinds={"huggingface"},
        description="Prompts and completions in the experiment's format.",
        check_specs=checks.specs(key["prompts"], "examples_sound", blocking=True, partitions=partitions),
        **common,
    )
    def prompts_asset(context: dg.AssetExecutionContext, folders: ProjectFolders) -> dg.MaterializeResult:
        project, experiment = folders.project, context.partition_key
        manifest = prompt_datasets.make_prompts(project, dataset, experiment, context.log.info)
        config = project.experiment(dataset, experiment)
        base = base_models.fetch(config.base_model, project)
        tokenizer = base_models.load_tokenizer(base)
        data = prompt_datasets.load_prompts(project, dataset, experiment)
        problems = prompt_datasets.prompt_problems(data, tokenizer)
        apart = guards.tables_apart(project, dataset)
        problems |= guards.data_problems(data, tokenizer, max_length=config.prompt.max_length, apart=apart)
        if (shape := plan.shape_in(base.folder)) is not None:  # else training itself looks, with the weights
            problems |= guards.token_problems(tokenizer, shape.vocabulary)
        sound = checks.examples_sound(problems)
        return result("prompts", project.path(dataset, "prompts", experiment), manifest, targets, sound)

    @dg.asset(
        key=key["adapter"],
        deps=[key["prompts"]],
        kinds={"pytorch", "huggingface"},
        pool=GPU_POOL,
        description="\n".join(["The trained LoRA adapter.\n", *(f"- `{n}`: {text}" for n, text in described.items())]),
        check_specs=checks.specs(key["adapter"], "adapter_size", blocking=False, partitions=partitions),
        **common,
    )
    def adapter(
        context: dg.AssetExecutionContext, folders: ProjectFolders, pipes: dg.PipesSubprocessClient
    ) -> dg.MaterializeResult:
        project, experiment = folders.project, context.partition_key
        config = project.experiment(dataset, experiment)
        line, variables = training.command(dataset, experiment, config), training.environment(project, config)
        run_ranks(context, pipes, config, line, variables)
        folder = project.path(dataset, "adapter", experiment)
        manifest = read_manifest(folder, made_by=f"t2s train {dataset}/{experiment}")
        return result("adapter", folder, manifest, targets)

    @dg.asset(
        key=key["predictions"],
        deps=[key["adapter"], key["prompts"], key["sql"]],
        kinds={"pytorch", "duckdb"},
        pool=GPU_POOL,
        description="Generated SQL for validation and test questions, with results and verdicts.",
        **common,
    )
    def predictions_asset(
        context: dg.AssetExecutionContext, folders: ProjectFolders, pipes: dg.PipesSubprocessClient
    ) -> dg.MaterializeResult:
        project, experiment = folders.project, context.partition_key
        config = project.experiment(dataset, experiment)
        folder = project.path(dataset, "predictions", experiment)
        try:
            if evaluation.in_this_process(config):
                manifest = evaluation.alone(project, dataset, experiment, context.log.info)
            else:
                line = evaluation.command(dataset, experiment, config)
                run_ranks(context, pipes, config, line, evaluation.environment(project, config))
                manifest = read_manifest(folder, made_by=f"t2s evaluate {dataset}/{experiment}")
        except dg.DagsterExecutionInterruptedError:
            context.log.error(f"stopped; {evaluation.GOES_ON}")
            raise
        return result("predictions", folder, manifest, targets)

    @dg.asset(
        key=key["report"],
        deps=[key["predictions"], key["adapter"]],
        kinds={"markdown"},
        description="The scores, by category, with plots and the worst failures.",
        check_specs=checks.specs(key["report"], *checks.target_checks(targets), blocking=False, partitions=partitions),
        **common,
    )
    def report_asset(context: dg.AssetExecutionContext, folders: ProjectFolders) -> dg.MaterializeResult:
        project, experiment = folders.project, context.partition_key
        manifest = report.make_report(project, dataset, experiment, context.log.info)
        return result("report", project.path(dataset, "report", experiment), manifest, targets)

    @dg.asset(
        key=key["champion"],
        deps=[key["predictions"], key["report"]],  # a report is compared with the champion that served before it
        kinds={"duckdb"},
        description="Which experiment serves, chosen on validation questions.",
        **unpartitioned,
    )
    def champion_asset(context: dg.AssetExecutionContext, folders: ProjectFolders) -> dg.MaterializeResult:
        manifest = champion.choose_champion(folders.project, dataset, context.log.info)
        return result("champion", folders.project.path(dataset, "champion"), manifest, targets)

    return [prompts_asset, adapter, predictions_asset, report_asset, champion_asset]
