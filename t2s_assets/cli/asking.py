"""Commands that answer questions: ask, batch, repl."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from t2s_assets.text2sql.inference import Text2SQL
    from t2s_assets.text2sql.tables.sources import Source

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
        help="A DuckDB or SQLite database, a CSV, Parquet or JSON lines file, or a folder of CSV and Parquet.",
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
MinConfidence = Annotated[
    float,
    typer.Option(min=0, max=1, metavar="0-1", help="Give no answer that is less likely to be right than this."),
]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    for command in (ask, batch, repl):
        app.command(rich_help_panel="Asking")(command)


def _source(ddl: str | None, schema: str | None, db: str | None) -> Source:
    given = [n for n, value in (("--ddl", ddl), ("--schema", schema), ("--db", db)) if value is not None]
    if len(given) != 1:
        got = " and ".join(given) or "none of them"
        raise typer.BadParameter(f"what is the question about? Give one of --ddl, --schema, --db; got {got}")
    from t2s_assets.text2sql.tables.sources import open_source

    return open_source(ddl=ddl, schema=schema, db=db)


def _load(model: str, device: str | None) -> Text2SQL:
    """The model, loaded without the progress bars and notes of its libraries."""
    import logging as python_logging

    from transformers.utils import logging

    from t2s_assets.text2sql.inference import Text2SQL

    logging.disable_progress_bar()
    python_logging.getLogger("bitsandbytes").setLevel(python_logging.ERROR)  # it names kernels that it does without
    return Text2SQL.load(model, device=device)


def check_device(device: str | None) -> None:
    """Raises BadParameter for what is no kind of device."""
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
    explain: Annotated[bool, typer.Option("--explain", help="Say in words what the SQL does.")] = False,
    min_confidence: MinConfidence = 0.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")] = False,
    device: Device = None,
) -> None:
    """Answer one question with SQL, checked against the schema. Status 1 when the SQL is not valid or does not run."""
    check_device(device)
    from t2s_assets.text2sql.errors import PromptError

    if not question.strip():
        raise PromptError("the question is empty; ask something about the table")
    source = _source(ddl, schema, db)
    from t2s_assets.cli import show
    from t2s_assets.text2sql.storage import Project
    from t2s_assets.text2sql.trained import find_adapter

    chosen = source.asked(table, many=find_adapter(model, Project.find()).format.gold == "sql")
    if run and not chosen.has_rows:
        raise PromptError(f"--run needs rows, and {chosen.name!r} is only a schema; give --db FILE")
    show.print_left_out(chosen)
    with show.waiting("loading the model") as now, _load(model, device) as loaded:
        now("answering")
        answer = loaded.ask(question, chosen, run=run, min_confidence=min_confidence)
    from t2s_assets.text2sql.tables.wording import in_words

    words = in_words(answer.generated, chosen, loaded.adapter.format.gold) if explain and answer.valid else None
    if as_json:
        print(json.dumps(answer.as_dict() | ({"in_words": words} if explain else {}), ensure_ascii=False))
    else:
        show.print_answer(answer)
        if explain and answer.valid:
            show.say(f"in words: {words or 'this query is more than can be put in words here'}")
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
    min_confidence: MinConfidence = 0.0,
    force: Annotated[bool, typer.Option("--force", help="Start anew where answers are there already.")] = False,
    device: Device = None,
) -> None:
    """Answer a file of questions, in its order; a line may bring its own schema or table.

    Started again, it goes on after the last answer. A line that fails gets an error and stops nothing.
    """
    check_device(device)
    source = _source(ddl, schema, db) if (ddl, schema, db) != (None, None, None) else None
    from t2s_assets.cli import show
    from t2s_assets.cli.batch import Batch

    job = Batch(questions, answers, source, table, run=run, min_confidence=min_confidence)
    job.check(force=force)
    with show.waiting("loading the model"):
        loaded = _load(model, device)
    with loaded:
        try:
            job.work(loaded, force=force)
        except KeyboardInterrupt:
            again = "the same command without --force" if force else "the same command"
            show.say(f"\nstopped; {answers} is whole up to here, and {again} goes on")
            raise typer.Exit(130) from None


def repl(
    model: Model,
    ddl: Ddl = None,
    schema: Schema = None,
    db: Db = None,
    table: TableName = None,
    run: Run = False,
    min_confidence: MinConfidence = 0.0,
    device: Device = None,
) -> None:
    """Ask one question after another; \\help lists what else it understands. Reads lines where there is no terminal."""
    check_device(device)
    source = _source(ddl, schema, db)
    from t2s_assets.cli import show
    from t2s_assets.cli.repl import Session, lines
    from t2s_assets.text2sql.storage import Project

    with show.waiting("loading the model"):
        loaded = _load(model, device)
    many = loaded.answers_over_many
    chosen = source.asked(table, many=many) if many or table is not None or len(source.names) == 1 else None
    show.print_left_out(chosen)
    session = Session(
        loaded, source, chosen, run=run, min_confidence=min_confidence, load=lambda name: _load(name, device)
    )
    with closing(session):
        session.read(lines(session, Project.find().cache("repl_history")))
