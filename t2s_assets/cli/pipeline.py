"""Commands that make a dataset's assets: prepare, train, evaluate, report, run, champion, list."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from t2s_assets.text2sql.data_checks.verdicts import DataVerdict
    from t2s_assets.text2sql.storage import Project

Experiment = Annotated[str, typer.Argument(metavar="DATASET/EXPERIMENT", help="As in configs/DATASET/EXPERIMENT.yaml.")]
Dataset = Annotated[str, typer.Argument(metavar="DATASET", help="As in configs/DATASET/dataset.yaml.")]
Force = Annotated[bool, typer.Option("--force", help="Train even if data, base and settings are unchanged.")]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    for command in (prepare, train, reproduce, evaluate, report, run, champion):
        app.command(rich_help_panel="Training")(command)
    app.command("list", rich_help_panel="Training")(list_all)


def _say(line: str) -> None:
    print(line, flush=True)


def find_experiment(address: str) -> tuple[Project, str, str]:
    """The project, and dataset and experiment of an address. Raises ConfigError for one without a config."""
    from t2s_assets.text2sql.storage import Project

    dataset, slash, experiment = address.partition("/")
    if not slash or not dataset or not experiment:
        raise typer.BadParameter(f"DATASET/EXPERIMENT is wanted, such as mini/smollm2; got {address!r}")
    project = Project.find()
    project.dataset(dataset)
    project.experiment(dataset, experiment)
    return project, dataset, experiment


def prepare(
    address: Annotated[
        str, typer.Argument(metavar="DATASET[/EXPERIMENT]", help="With an experiment, its prompts are made too.")
    ],
) -> None:
    """Read the source: tables, questions, their SQL, and an experiment's prompts."""
    from t2s_assets.text2sql.storage import Project

    dataset, slash, _ = address.partition("/")
    project = find_experiment(address)[0] if slash else Project.find()
    _prepare(project, address)
    print(f"\nprepared {address}; next: t2s train {address if slash else dataset + '/EXPERIMENT'}")


def _prepare(project: Project, address: str) -> None:
    from t2s_assets.text2sql.data_checks import verdicts
    from t2s_assets.text2sql.prepare import gold_against_gold, leaks, make_questions, make_sql, make_tables

    dataset, _, experiment = address.partition("/")
    _say(f"{dataset}/tables")
    make_tables(project, dataset, _say)
    _say(f"{dataset}/questions")
    make_questions(project, dataset, _say)
    _stop_at(dataset, verdicts.splits_disjoint(leaks(project, dataset)[0]))
    _say(f"{dataset}/sql")
    _stop_at(dataset, verdicts.gold_runs(make_sql(project, dataset, _say)))
    _stop_at(dataset, verdicts.gold_matches_itself(gold_against_gold(project, dataset, _say)))
    if experiment:
        from t2s_assets.text2sql.prompt_datasets import make_prompts

        _say(f"{dataset}/prompts/{experiment}")
        make_prompts(project, dataset, experiment, _say)


def _stop_at(dataset: str, verdict: DataVerdict) -> None:
    """Go on where Dagster would. Raises DataError."""
    from t2s_assets.text2sql.errors import DataError

    if not verdict.passed:
        raise DataError(f"{dataset}: {verdict.message}")


def train(
    address: Experiment,
    force: Force = False,
    plan: Annotated[
        bool, typer.Option("--plan", help="Say how long, how much memory, what adapter; train nothing.")
    ] = False,
    memory_gb: Annotated[
        float | None,
        typer.Option(
            help="With --plan: the device's memory, for a device that is not here. From shapes; for bases of the hub."
        ),
    ] = None,
) -> None:
    """Train the adapter, in a child process as Dagster does. A stopped training goes on where it was."""
    from t2s_assets.text2sql import training

    project, dataset, experiment = find_experiment(address)
    if memory_gb is not None and not plan:
        raise typer.BadParameter("--memory-gb is for --plan")
    if memory_gb is not None:
        from t2s_assets.text2sql.training import plan as plans

        config = project.experiment(dataset, experiment)
        targets = project.dataset(dataset).targets
        print(plans.for_another_machine(config, plans.placement_elsewhere(config), memory_gb, targets).described())
        return
    if plan:
        training.launch(project, dataset, experiment, "--plan")
        return
    facts = training.run(project, dataset, experiment, force=force)
    print(_adapter_line(facts))


def reproduce(
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="An adapter's folder, or DATASET/EXPERIMENT.")],
) -> None:
    """Train an adapter again from what stands beside it, in a temporary place, and say whether it is the same."""
    from pathlib import Path

    from t2s_assets.text2sql.storage import Project
    from t2s_assets.text2sql.training.reproduce import reproduce as again

    project = Project.find()
    path = Path(folder)
    if not path.is_dir() and folder.count("/") == 1:
        path = project.path(folder.split("/")[0], "adapter", folder.split("/")[1])
    if not again(project, path, _say):
        raise typer.Exit(1)


def _adapter_line(facts: dict[str, Any]) -> str:
    return (
        f"adapter of {facts['adapter_mb']} MB after {facts['minutes']} min, {facts['steps']:,} steps, "
        f"validation loss {facts['validation_loss']}"
    )


def evaluate(address: Experiment) -> None:
    """Answer the test and validation samples and score them. A stopped evaluation goes on where it was."""
    project, dataset, experiment = find_experiment(address)
    _evaluate(project, dataset, experiment)
    print(f"next: t2s report {address}")


def _evaluate(project: Project, dataset: str, experiment: str) -> None:
    """Make `predictions`; after Ctrl-C say what is kept, since Typer ends on it without a word."""
    from t2s_assets.cli import show
    from t2s_assets.text2sql import evaluation

    try:
        evaluation.run(project, dataset, experiment, _say)
    except KeyboardInterrupt as e:
        if e.args:
            show.say(f"error: {e}")
        raise


def report(address: Experiment) -> None:
    """Write the report (JSON, Markdown, plots) and print its summary."""
    project, dataset, experiment = find_experiment(address)
    _report(project, dataset, experiment)


def _report(project: Project, dataset: str, experiment: str) -> None:
    from t2s_assets.text2sql.reports.report import make_report

    make_report(project, dataset, experiment, _say)
    print(f"  page       {project.path(dataset, 'report', experiment) / 'report.md'}")


def run(address: Experiment, force: Force = False) -> None:
    """Do it all: prepare, train, evaluate, report, and choose the dataset's champion."""
    from t2s_assets.text2sql import training
    from t2s_assets.text2sql.comparison.champion import choose_champion

    project, dataset, experiment = find_experiment(address)
    _prepare(project, address)
    print(_adapter_line(training.run(project, dataset, experiment, force=force)), flush=True)
    _evaluate(project, dataset, experiment)
    _report(project, dataset, experiment)
    choose_champion(project, dataset, _say)
    print(f'ask it: t2s ask --model {address} --db FILE "your question"')


def champion(dataset: Dataset) -> None:
    """Choose which experiment serves, on the validation split; `--model DATASET` then means it."""
    from t2s_assets.text2sql.comparison.champion import choose_champion
    from t2s_assets.text2sql.storage import Project

    project = Project.find()
    project.dataset(dataset)
    choose_champion(project, dataset, _say)


def list_all() -> None:
    """Show datasets and experiments: what each is, what is there of it, its figures."""
    from rich.markup import escape
    from rich.table import Table

    from t2s_assets.cli import show
    from t2s_assets.text2sql.comparison.champion import serving_experiment
    from t2s_assets.text2sql.config_files import dataset_names, experiment_names, misnamed
    from t2s_assets.text2sql.errors import ConfigError, DataError
    from t2s_assets.text2sql.storage import Project

    project = Project.find()
    datasets = dataset_names(project.configs)
    if not datasets:
        raise ConfigError(f"{project.configs} holds no datasets: no folder in it has a dataset.yaml")
    table = Table("dataset/experiment", "made", "what it is, figures")

    def add(name: str, made: dict[str, dict[str, Any]], lines: list[str]) -> None:
        table.add_row(name, ", ".join(made) or "nothing", escape("\n".join(lines)))

    for dataset in datasets:
        made, broken = _made(project, dataset, ("tables", "questions", "sql"))
        serving = None
        try:
            serving = serving_experiment(project, dataset)
        except DataError as e:
            broken.append(f"error: {e}")
        add(dataset, made, [_description(project.dataset, dataset), *_dataset_figures(made), *broken])
        for name in experiment_names(project.configs, dataset):
            made, broken = _made(project, dataset, ("prompts", "adapter", "predictions", "report"), name)
            figures = [_description(project.experiment, dataset, name)]
            figures += ["champion"] if name == serving else []
            if "adapter" in made:
                figures.append(_adapter_line(made["adapter"]))
            if "report" in made:
                rates = made["report"]
                shown = [f"{k.upper()} {100 * rates[k]:.1f} %" for k in ("em", "ex") if rates.get(k) is not None]
                figures.append(f"{', '.join(shown)} on {rates['n']:,} of {rates['of']:,} test questions")
            add(f"  {dataset}/{name}", made, figures + broken)
        for name in misnamed(project.configs, dataset):
            add(f"  {dataset}/{name}", {}, [_description(project.experiment, dataset, name)])
        table.add_section()
    for name in misnamed(project.configs):
        add(name, {}, [_description(project.dataset, name)])
    show.print_table(table)


def _made(
    project: Project, dataset: str, assets: Iterable[str], experiment: str | None = None
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """(the manifests of those assets that are there, by name; a line for each that cannot be read)."""
    from t2s_assets.text2sql.errors import DataError
    from t2s_assets.text2sql.storage import find_manifest

    made_by = f"t2s run {dataset}/{experiment}" if experiment else f"t2s prepare {dataset}"
    made, broken = {}, []
    for asset in assets:
        try:
            if (manifest := find_manifest(project.path(dataset, asset, experiment), made_by=made_by)) is not None:
                made[asset] = manifest
        except DataError as e:
            broken.append(f"error: {e}")
    return made, broken


def _description(read: Callable[..., Any], *address: str) -> str:
    """What a config file says of itself; where it cannot be read, why."""
    from t2s_assets.text2sql.errors import ConfigError

    try:
        return " ".join(read(*address).description.split())
    except ConfigError as e:
        return f"error: {e}"


def _dataset_figures(made: dict[str, dict[str, Any]]) -> list[str]:
    figures = []
    for name in ("tables", "questions"):
        if name in made:
            counts = made[name][name]
            figures.append(f"{sum(counts.values()):,} {name} ({', '.join(f'{s} {n:,}' for s, n in counts.items())})")
    if "sql" in made:
        broken = sum(made["sql"]["gold_that_does_not_run"].values())
        figures.append(f"{broken} gold queries that do not run")
    return figures
