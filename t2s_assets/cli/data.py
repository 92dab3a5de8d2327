"""Commands about data: init, check-data."""

from __future__ import annotations

import sys
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from t2s_assets.text2sql.data_checks.check import DataCheck
    from t2s_assets.text2sql.data_checks.findings import Finding

_SHOWN = 20


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command(rich_help_panel="Data")(init)
    app.command("check-data", rich_help_panel="Data")(check_data)
    app.command(rich_help_panel="Data")(feedback)


def init(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the dataset is to be called.")],
    database: Annotated[
        Path,
        typer.Option(
            "--database", metavar="FILE", help="A DuckDB or SQLite file, or a folder of CSV and Parquet files."
        ),
    ],
) -> None:
    """Start a dataset of your own: its dataset.yaml, an experiment, and example questions over your database."""
    from t2s_assets.text2sql.datasets import scaffold
    from t2s_assets.text2sql.storage import Project

    folder = scaffold.init(Project.find(), name, database)
    for file in sorted(folder.iterdir()):
        print(f"  {file}")
    print(f"edit questions.jsonl and dataset.yaml there; next: t2s check-data {name}")


def check_data(
    address: Annotated[
        str,
        typer.Argument(
            metavar="DATASET[/EXPERIMENT]", help="The experiment says how prompts look and what training does."
        ),
    ],
    rate: Annotated[
        float | None,
        typer.Option(metavar="TOKENS", min=1e-9, help="Tokens a second that training runs at, for the estimate."),
    ] = None,
) -> None:
    """Look a dataset over without training: broken lines and SQL, leaks, lengths, balance, cost. Status 1 on errors."""
    from t2s_assets.text2sql.data_checks.check import check
    from t2s_assets.text2sql.storage import Project

    dataset, _, experiment = address.partition("/")
    found = check(Project.find(), dataset, experiment or None, rate=rate, log=_say)
    _print(found)
    if found.errors:
        sys.exit(1)


def feedback(
    model: Annotated[str, typer.Argument(metavar="DATASET/EXPERIMENT", help="Whose answers the feedback is on.")],
    into: Annotated[str, typer.Option("--into", metavar="DATASET", help="The dataset of your own that it adds to.")],
) -> None:
    """Turn answers marked right or corrected in `t2s repl` into questions of a dataset of your own, for training."""
    from t2s_assets.text2sql.feedback import add_to_dataset, feedback_file
    from t2s_assets.text2sql.storage import Project
    from t2s_assets.text2sql.trained import find_adapter

    project = Project.find()
    done = add_to_dataset(project, feedback_file(find_adapter(model, project).folder), into)
    print(f"added {done.added} question{'' if done.added == 1 else 's'} to {done.file}")
    passed_over = (
        (done.there, "were there already"),
        (done.replaced, "gave way to later feedback on the same question"),
        (done.elsewhere, "are about tables that it does not have"),
    )
    for count, why in passed_over:
        if count:
            print(f"  {count} {why}")
    for line, question in done.contradicting:
        print(f"  not added: {done.file}:{line} has other SQL for {question!r}; change or remove that line")
    if done.added:
        print(f"next: t2s check-data {into}")


def _say(line: str) -> None:
    print(f"{line} ...", file=sys.stderr, flush=True)


def _print(found: DataCheck) -> None:
    for level, findings in (("error", found.errors), ("warning", found.warnings)):
        for kind, group in groupby(sorted(findings, key=lambda f: f.kind), key=lambda f: f.kind):
            _print_group(level, kind, list(group))
    if found.questions:
        counts = ", ".join(f"{split} {n:,}" for split, n in found.questions.items())
        print(f"{found.dataset}: {found.tables:,} tables, {sum(found.questions.values()):,} questions ({counts})")
    for note in found.notes:
        print(f"  {note}")
    for title, values in (("category", found.categories), ("aggregate", found.aggregates)):
        if values:
            _print_balance(title, values)
    _print_prompts(found)
    errors, warnings = len(found.errors), len(found.warnings)
    unseen = "" if found.complete else "; the rest could not be looked at before these are mended"
    print(f"{errors} error{'' if errors == 1 else 's'}, {warnings} warning{'' if warnings == 1 else 's'}{unseen}")


def _print_group(level: str, kind: str, findings: list[Finding]) -> None:
    print(f"{level}: {kind} ({len(findings):,})")
    for finding in findings[:_SHOWN]:
        print(f"  {finding.where + ': ' if finding.where else ''}{finding.message}")
    if len(findings) > _SHOWN:
        print(f"  ... and {len(findings) - _SHOWN:,} more")


def _print_balance(title: str, values: dict[str, dict[str, int]]) -> None:
    width = max(len(title), *(len(v) for v in values))
    splits = list(next(iter(values.values())))
    print(f"  {title:<{width}}  {'  '.join(f'{s:>10}' for s in splits)}")
    for value, counts in values.items():
        print(f"  {value:<{width}}  {'  '.join(f'{counts[s]:>10,}' for s in splits)}")


def _print_prompts(found: DataCheck) -> None:
    address = f"{found.dataset}/{found.experiment}"
    for split, lengths in found.lengths.items():
        if lengths:
            said = ", ".join(f"{name} {value:g}" for name, value in lengths.items())
            print(f"  {address}: tokens of a {split} example: {said}")
    if (cost := found.cost) is None:
        return
    line = f"  {address}: training has {cost.examples:,} examples, {cost.tokens:,} tokens a pass"
    if cost.passes is not None:
        line += f", {cost.passes:.3g} passes"
    if cost.minutes is None:
        line += "; for minutes give --rate TOKENS (a second), or train once"
    else:
        rate = f" at {cost.rate:,.1f} tokens a second" if cost.rate else ""
        line += f", about {cost.minutes:,.1f} minutes{rate} (an estimate; {cost.basis})"
    print(line)
