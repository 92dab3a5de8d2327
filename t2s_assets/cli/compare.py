"""`t2s compare`: experiments beside one of them, on the same questions."""

from __future__ import annotations

import enum
import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from t2s_assets.cli.pipeline import find_experiment

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from t2s_assets.text2sql.comparison.experiments import ExperimentComparison
    from t2s_assets.text2sql.comparison.settings import SettingDifference


class Split(enum.StrEnum):
    """The splits that predictions are of."""

    validation = "validation"
    test = "test"


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command(rich_help_panel="Training")(compare)


def compare(
    reference: Annotated[
        str, typer.Argument(metavar="DATASET/REFERENCE", help="The experiment that the others are held against.")
    ],
    others: Annotated[list[str], typer.Argument(metavar="DATASET/OTHER...", help="Others of the same dataset.")],
    split: Annotated[
        Split, typer.Option(help="Whose questions. To choose by test questions is to tune on them.")
    ] = Split.validation,
    show: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Print the first N questions that each has won and lost, with the SQL."),
    ] = None,
    json_file: Annotated[
        str | None, typer.Option("--json", metavar="FILE", help="Write all of it as JSON too; - prints that instead.")
    ] = None,
) -> None:
    """Say which of several evaluated experiments is better, by how much, and whether that is more than chance."""
    if show and json_file == "-":
        raise typer.BadParameter("--show prints questions, and --json - prints JSON alone; give --json a file")
    from pathlib import Path

    if json_file == "" or (json_file is not None and Path(json_file).is_dir()):
        raise typer.BadParameter(f"a file is wanted, or -; got {json_file!r}", param_hint="--json")
    from t2s_assets.text2sql.comparison.experiments import compare_experiments
    from t2s_assets.text2sql.errors import DataError
    from t2s_assets.text2sql.storage import write_json

    found = [find_experiment(address) for address in (reference, *others)]
    if len(datasets := {dataset for _, dataset, _ in found}) > 1:
        raise DataError(
            f"experiments are compared on the questions of one dataset; got {len(datasets)}: "
            f"{', '.join(sorted(datasets))}"
        )
    project, dataset, _ = found[0]
    names = [experiment for _, _, experiment in found]
    compared = compare_experiments(project, dataset, names[0], names[1:], split=split.value)
    if json_file == "-":
        print(json.dumps(compared.found, ensure_ascii=False, indent=2))
        return
    if json_file is not None:
        write_json(Path(json_file), compared.found)
    _print(compared.found)
    if show:
        _print_questions(compared, show)


def _print(found: dict[str, Any]) -> None:
    """The tables, each under a line that says what it holds."""
    from t2s_assets.cli.show import print_table
    from t2s_assets.text2sql.reports.presentation import content_mark

    part = f"{found['n']:,}" if found["n"] < found["of"] else f"all {found['n']:,}"
    of = f" of {found['of']:,}" if found["n"] < found["of"] else ""
    print(f"{found['dataset']}: {part}{of} {found['split']} questions, answered by all (95 % intervals)")
    if found["split"] == "test":
        print("note: to choose by these figures is to tune on the test split; choose on validation questions")
    for note in found["notes"]:
        print(f"note: {note}")
    for experiment in found["experiments"]:
        if experiment["uses_table_content"]:
            print(f"note: {experiment['experiment']} reads {content_mark(experiment)}")
    print_table(_measures(found))
    several = len(found["comparisons"]) > 1
    adjusted = f", adjusted for {len(found['comparisons'])} comparisons (Holm)" if several else ""
    print(f"\nEX against {found['reference']}, question by question: McNemar's exact test{adjusted}")
    print_table(_differences(found["comparisons"]))
    print("\nEX by category, and the questions won (+) and lost (-)")
    print_table(_categories(found))
    print("\nWhat it takes, and the settings that are others")
    print_table(_costs(found))


def _measures(found: dict[str, Any]) -> Any:
    from t2s_assets.text2sql.reports.presentation import MEASURES

    described = found["experiments"]
    shown = [(key, name) for key, name in MEASURES if any(e["overall"][key]["n"] for e in described)]
    return _table(
        ["experiment", "n", *(name for _, name in shown)],
        (
            [_name(e), f"{found['n']:,}", *(_share(e["overall"][key], found["n"]) for key, _ in shown)]
            for e in described
        ),
        gap=1,  # 80 columns hold all measures
    )


def _share(measured: dict[str, Any], n: int) -> str:
    """A rate, and out of how many where those are not all."""
    from t2s_assets.text2sql.reports.presentation import percent

    return percent(measured) + (f" n={measured['n']:,}" if measured["n"] not in (0, n) else "")


def _differences(comparisons: Sequence[dict[str, Any]]) -> Any:
    from t2s_assets.text2sql.reports.presentation import p_value, points

    return _table(
        ["experiment", "difference", "won", "lost", "p", "verdict"],
        (
            [
                _name(c),
                points(c["difference"]),
                f"{c['won']:,}",
                f"{c['lost']:,}",
                p_value(c["p_adjusted"]),
                c["verdict"],
            ]
            for c in comparisons
        ),
    )


def _categories(found: dict[str, Any]) -> Any:
    reference, *others = found["experiments"]
    rows = []
    for category, rates in reference["by_category"].items():
        n = rates["ex"]["n"]
        row = [category, f"{n:,}", _share(rates["ex"], n)]
        for other, compared in zip(others, found["comparisons"]):
            test = compared["by_category"][category]
            row.append(f"{_share(other['by_category'][category]['ex'], n)} +{test['won']:,} -{test['lost']:,}")
        rows.append(row)
    return _table(["category", "n", *(_name(e) for e in found["experiments"])], rows)


def _costs(found: dict[str, Any]) -> Any:
    settings = [None, *(c["settings"] for c in found["comparisons"])]
    return _table(
        ["experiment", "training", "p95 a query", "adapter", "settings"],
        (
            [
                _name(e),
                _quantity(e["minutes"], "min") + (f", that of {e['taken_from']}" if e["taken_from"] else ""),
                _quantity(e["latency_p95_ms"], "ms"),
                _quantity(e["adapter_mb"], "MB"),
                "the reference" if changed is None else "\n".join(map(_setting, changed)) or "the same",
            ]
            for e, changed in zip(found["experiments"], settings)
        ),
    )


def _quantity(value: float | None, unit: str) -> str:
    return "not known" if value is None else f"{value:,} {unit}"


def _setting(changed: SettingDifference) -> str:
    """A setting that is another, as `lora.rank 16 -> 32`."""
    return f"{changed['field']} {_value(changed['reference'])} -> {_value(changed['other'])}"


def _value(value: Any) -> str:
    """A value as config files write it; where there is no such field, it is null too."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _table(header: Sequence[str], rows: Iterator[Sequence[str]] | Sequence[Sequence[str]], *, gap: int = 2) -> Any:
    """A table with few lines and `gap` blanks between columns. What does not fit goes on below, nothing is cut off."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, padding=(0, gap - 1, 0, 0), pad_edge=False, show_edge=False)
    for name in header:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _name(described: Mapping[str, Any]) -> str:
    """An experiment without its dataset, which is the same for all."""
    return described["experiment"].partition("/")[2]


def _print_questions(compared: ExperimentComparison, count: int) -> None:
    """The first questions that each has won and lost."""
    from t2s_assets.cli.show import visible

    reference, *others = compared.experiments
    first = compared.found["reference"]
    for other, comparison in zip(others, compared.found["comparisons"]):
        address = comparison["experiment"]
        width = max(len(first), len(address))
        for kind, right, wrong in (("won", address, first), ("lost", first, address)):
            ids = comparison[f"{kind}_questions"]
            shown = f"{min(count, len(ids))} of {len(ids):,}"
            print(f"\n{kind} by {address}, right in {right} and wrong in {wrong}: {shown}")
            for i in ids[:count]:
                row = reference.rows[i]
                print(f"  {visible(i)}  {visible(row['question'])}")
                for whose, sql in (("gold", row["gold_sql"]), (first, row["sql"]), (address, other.rows[i]["sql"])):
                    print(f"    {whose:<{width}}  {visible(sql)}")
