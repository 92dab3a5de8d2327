"""Commands that answer questions: ask, batch, repl."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from t2s_assets.text2sql.sources import Source

Model = Annotated[
    str,
    typer.Option(
        "--model", "-m", metavar="MODEL", help="DATASET/EXPERIMENT, DATASET (its champion), or an adapter's folder."
    ),
]
Ddl = Annotated[
    str | None,
    typer.Option(metavar="SQL|FILE", help="The schema: CREATE TABLE text, or a file of it.", rich_help_panel="Table"),
]
Schema = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help='The schema: a JSON file, {"table", "columns": [{"name", "type"}]}.',
        rich_help_panel="Table",
    ),
]
Db = Annotated[
    str | None,
    typer.Option(
        "--db",
        "--file",
        metavar="FILE",
        help="A DuckDB or SQLite database, a CSV or a Parquet file.",
        rich_help_panel="Table",
    ),
]
TableName = Annotated[
    str | None,
    typer.Option("--table", metavar="NAME", help="Which table, where there are several.", rich_help_panel="Table"),
]
Device = Annotated[
    str | None, typer.Option(metavar="cpu|cuda|mps", help="Where to run, instead of what the experiment says.")
]
Run = Annotated[bool, typer.Option("--run", help="Execute the SQL on a copy of the rows and show the result.")]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    for command in (ask, batch, repl):
        app.command(rich_help_panel="Asking")(command)


def _source(ddl: str | None, schema: str | None, db: str | None) -> Source:
    given = [n for n, value in (("--ddl", ddl), ("--schema", schema), ("--db", db)) if value is not None]
    if len(given) != 1:
        got = " and ".join(given) or "none of them"
        raise typer.BadParameter(f"what is the question about? Give one of --ddl, --schema, --db; got {got}")
    from t2s_assets.text2sql.sources import open_source

    return open_source(ddl=ddl, schema=schema, db=db)


def _check_device(device: str | None) -> None:
    if device not in (None, "cpu", "cuda", "mps"):
        raise typer.BadParameter(f"cpu, cuda or mps is wanted; got {device!r}", param_hint="--device")


def ask(
    question: Annotated[str, typer.Argument(help="What you want to know, in your words.")],
    model: Model,
    ddl: Ddl = None,
    schema: Schema = None,
    db: Db = None,
    table: TableName = None,
    run: Run = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")] = False,
    device: Device = None,
) -> None:
    """Answer one question with SQL, checked against the schema. Status 1 when the SQL is not valid or does not run."""
    _check_device(device)
    from t2s_assets.text2sql.errors import PromptError

    if not question.strip():
        raise PromptError("the question is empty; ask something about the table")
    chosen = _source(ddl, schema, db).table(table)
    if run and not chosen.has_rows:
        raise PromptError(f"--run needs rows, and {chosen.name!r} is only a schema; give --db FILE")
    from t2s_assets.cli import show
    from t2s_assets.text2sql.inference import Text2SQL, find_adapter
    from t2s_assets.text2sql.storage import Project

    project = Project.find()
    find_adapter(model, project)
    with show.waiting("loading the model"), Text2SQL.load(model, project=project, device=device) as loaded:
        answer = loaded.ask(question, chosen, run=run)
    if as_json:
        print(json.dumps(answer.as_dict(), ensure_ascii=False))
    else:
        show.print_answer(answer)
    if not answer.valid or (answer.outcome is not None and not answer.outcome.ok):
        raise typer.Exit(1)


def batch(
    model: Model,
    questions: Annotated[Path, typer.Option("--in", metavar="FILE", help="Questions: .jsonl or .csv.")],
    answers: Annotated[Path, typer.Option("--out", metavar="FILE", help="Answers: .jsonl or .csv.")],
    ddl: Ddl = None,
    schema: Schema = None,
    db: Db = None,
    table: TableName = None,
    run: Run = False,
    force: Annotated[bool, typer.Option("--force", help="Start anew where answers are there already.")] = False,
    device: Device = None,
) -> None:
    """Answer a file of questions, in its order; a line may bring its own schema or table.

    Started again, it goes on after the last answer. A line that fails gets an error and stops nothing.
    """
    _check_device(device)
    source = _source(ddl, schema, db) if (ddl, schema, db) != (None, None, None) else None
    from t2s_assets.cli.batch import Batch

    job = Batch(questions, answers, source, table, run=run)
    job.check(force=force)
    from t2s_assets.text2sql.inference import Text2SQL

    with Text2SQL.load(model, device=device) as loaded:
        try:
            job.work(loaded, force=force)
        except KeyboardInterrupt:
            print(f"\nstopped; {answers} is whole up to here, and the same command goes on", file=sys.stderr)
            raise typer.Exit(130) from None


def repl(
    model: Model,
    ddl: Ddl = None,
    schema: Schema = None,
    db: Db = None,
    table: TableName = None,
    run: Run = False,
    device: Device = None,
) -> None:
    """Ask one question after another; \\help lists what else it understands. Reads lines where there is no terminal."""
    _check_device(device)
    source = _source(ddl, schema, db)
    from t2s_assets.cli import show
    from t2s_assets.cli.repl import Session, lines
    from t2s_assets.text2sql.inference import Text2SQL
    from t2s_assets.text2sql.storage import Project

    project = Project.find()
    chosen = source.table(table) if table is not None or len(source.names) == 1 else None
    with show.waiting("loading the model"):
        loaded = Text2SQL.load(model, project=project, device=device)
    with loaded:
        session = Session(loaded, source, chosen, run=run)
        session.read(lines(session.prompt, project.cache("repl_history")))
