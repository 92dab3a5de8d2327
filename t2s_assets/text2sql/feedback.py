"""What people say about answers: right, or the SQL that would have been; kept for later training.

One JSON object a line in `storage/<dataset>/feedback/<experiment>/feedback.jsonl`, never rewritten:

    time        when, UTC, ISO 8601
    model       dataset/experiment and the adapter's version
    question    as asked
    verdict     "right" or "corrected"
    given_sql   what the model answered, over the user's names
    sql         what is right: `given_sql`, or the correction
    database    the absolute path of the file or folder asked about; null where only a schema was given
    schema      [{"table": ..., "columns": [{"name": ..., "type": ...}]}], the tables asked about; one of another
                schema than the default is called schema.table

`add_to_dataset` makes training questions of a dataset of one's own out of them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlglot import exp, parse_one
from sqlglot.errors import SqlglotError

from t2s_assets.text2sql.config_files import expand_path
from t2s_assets.text2sql.dataset_config import OwnDataset
from t2s_assets.text2sql.datasets.own import database_paths
from t2s_assets.text2sql.datasets.question_files import QuestionFile, known_keys
from t2s_assets.text2sql.dialects.reading import SqlTextError, read_sql
from t2s_assets.text2sql.errors import ConfigError, DataError
from t2s_assets.text2sql.execution import Outcome
from t2s_assets.text2sql.execution.guard import visible_ctes
from t2s_assets.text2sql.query import table_identifier
from t2s_assets.text2sql.sql.names import folded
from t2s_assets.text2sql.storage import Project
from t2s_assets.text2sql.tables.asked import asked_about
from t2s_assets.text2sql.tables.table_files import is_table_of_folder, open_file, open_folder
from t2s_assets.text2sql.tables.user_tables import UserDatabase, UserTable, tables_of

if TYPE_CHECKING:
    from t2s_assets.text2sql.answers import Answer
    from t2s_assets.text2sql.inference import Text2SQL

FILE = "feedback.jsonl"


def feedback_file(adapter: Path) -> Path:
    """Where feedback on the adapter in a folder is kept: at its address, or in the folder where it has none."""
    if adapter.parent.name == "adapter":
        return adapter.parent.parent / "feedback" / adapter.name / FILE
    return adapter / FILE


def corrected(model: Text2SQL, sql: str, about: UserTable | UserDatabase) -> tuple[str, Outcome | None, int | None]:
    """A person's SQL over the user's names, as SQL is shown; what running it gives, None without rows; and
    how many rows of a table it saw, where that is not all.

    Raises:
        DataError: it is not one SELECT over the tables asked about, or does not run.
    """
    try:
        written = read_sql(_without_schemas(sql, about), "duckdb", [t.own_schema() for t in tables_of(about)])
    except SqlTextError as e:
        raise DataError(f"the correction cannot be used: {e}") from e
    shown = _with_schemas(written, about)
    if not about.has_rows:
        return shown, None, None
    outcome, rows_copied = model.run_sql(written, about)
    if not outcome.ok:
        raise DataError(f"the correction does not run: {outcome.message}")
    return shown, outcome, rows_copied


def given(model: Text2SQL, answer: Answer, about: UserTable | UserDatabase) -> str:
    """What the model wrote, over the user's names where it can be said so, an answer that was withheld too."""
    if answer.valid:
        return answer.sql
    if answer.withheld_sql is not None:
        return answer.withheld_sql
    return asked_about(about, model.adapter.format.gold).checked(answer.generated)[0]


def _without_schemas(sql: str, about: UserTable | UserDatabase) -> str:
    """`sql` without the schemas that SQL as shown puts before the names of `about`'s tables."""
    paths = {tuple(part.casefold() for part in t.path) for t in tables_of(about) if len(t.path) > 1}
    try:
        tree = parse_one(sql, read="duckdb")
    except (SqlglotError, RecursionError):
        return sql
    named = [node for node in tree.find_all(exp.Table) if (node.db.casefold(), node.name.casefold()) in paths]
    for node in named:
        node.set("db", None)
    return tree.sql(dialect="duckdb") if named else sql


def _with_schemas(sql: str, about: UserTable | UserDatabase) -> str:
    """SQL that names `about`'s tables alone, with the schemas in which they are in the user's database."""
    schemas = {folded(t.path[-1]): t.path[0] for t in tables_of(about) if len(t.path) > 1}
    tree = parse_one(sql, read="duckdb")
    # A CTE may be called as a table is, which it then hides.
    named = [n for n in tree.find_all(exp.Table) if folded(n.name) in {*schemas} - {*visible_ctes(n)}]
    for node in named:
        schema = schemas[folded(node.name)]
        node.set("db", exp.to_identifier(schema, quoted=table_identifier(schema) != schema))
    return tree.sql(dialect="duckdb") if named else sql


def record(
    model: Text2SQL, answer: Answer, about: UserTable | UserDatabase, where: str, *, sql: str | None = None
) -> Path:
    """Keep that `answer` is right or, with `sql`, what would have been. Returns the file.

    Raises:
        DataError: without `sql`, the answer gave no valid SQL; or the file cannot be written.
    """
    if sql is None and not answer.valid:
        raise DataError("the last answer has no valid SQL to call right; give the SQL that is")
    adapter = model.adapter
    line = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": f"{adapter.folder.parent.parent.name}/{adapter.folder.name} {adapter.version}",
        "question": answer.question,
        "verdict": "right" if sql is None else "corrected",
        "given_sql": given(model, answer, about),
        "sql": answer.sql if sql is None else sql,
        "database": str(Path(where).absolute()) if about.has_rows and Path(where).exists() else None,
        "schema": [
            {"table": t.name, "columns": [{"name": h, "type": c.type} for h, c in zip(t.header, t.columns)]}
            for t in tables_of(about)
        ],
    }
    file = feedback_file(adapter.folder)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        # One write of a whole line to a file opened for appending: two sessions do not mix theirs.
        with open(file, "ab", buffering=0) as out:
            out.write((json.dumps(line, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace"))
    except OSError as e:
        raise DataError(f"{file}: cannot be written ({e.strerror})") from e
    return file


@dataclass(frozen=True)
class Added:
    """What became of feedback: `added` lines; `there` already; `elsewhere`, about tables that the dataset has not;
    `replaced` by later feedback on the same question; `contradicting`: the questions to which the dataset has another
    SQL, with their lines."""

    file: Path
    added: int
    there: int
    elsewhere: int
    replaced: int
    contradicting: tuple[tuple[int, str], ...] = ()


def read_feedback(file: Path) -> list[tuple[int, dict[str, Any]]]:
    """The records of a file with their lines. Raises DataError where there is none, or with the line that is broken."""
    if not file.exists():
        raise DataError(f"{file}: no feedback there; \\right and \\correct in t2s repl write it")
    return _questions(file)


def _questions(file: Path) -> list[tuple[int, dict[str, Any]]]:
    """The records of a questions' file or of feedback, each with its number there; other names of keys are ours."""
    problems: list[str] = []
    records = []
    for number, record in _opened(file).records(problems):
        if isinstance(record, dict):
            record = record | known_keys(record)[0]
            if all(isinstance(record.get(k), str) for k in ("question", "sql")):
                records.append((number, record))
                continue
        problems.append(f"{file}:{number}: no question with its SQL, both of them text")
    if problems:
        raise DataError(f"{problems[0]}; mend or remove it")
    return records


def _opened(file: Path) -> QuestionFile:
    try:
        return QuestionFile(file, file.read_bytes())
    except OSError as e:
        raise DataError(f"{file}: cannot be read ({e.strerror})") from e


def add_to_dataset(project: Project, file: Path, dataset: str) -> Added:
    """Append the feedback in `file` on tables of an own `dataset` to its questions, those for training where its
    questions give splits. A question that is there with other SQL is not: two SQLs for one question teach neither, and
    which one holds is its owner's to say.

    Raises:
        ConfigError: the dataset is not one of one's own, or its SQL is of another dialect than feedback's.
        DataError: a file cannot be read.
    """
    config = project.dataset(dataset)
    folder = project.configs / dataset
    if not isinstance(config, OwnDataset):
        raise ConfigError(
            f"{folder / 'dataset.yaml'}: feedback goes into a dataset with reader: own; t2s init makes one"
        )
    if config.dialect != "duckdb":
        raise ConfigError(
            f"{folder / 'dataset.yaml'}: its SQL is {config.dialect}, and feedback's is duckdb; make another dataset "
            "for it with t2s init"
        )
    problems: list[str] = []
    databases = {path.resolve(): name for name, path in database_paths(config, folder, problems).items()}
    if problems:
        raise ConfigError("\n".join(problems))
    questions = expand_path(config.questions, folder)
    there = _questions(questions)
    only = next(iter(databases.values())) if len(databases) == 1 else None
    known: dict[tuple[Any, str], dict[str, int]] = {}
    for number, record in there:
        database = only if record.get("database") is None else record["database"]
        known.setdefault((database, record["question"]), {})[record["sql"]] = number
    splits = any(record.get("split") is not None for _, record in there)
    tables: dict[Path, set[str]] = {}
    fresh: list[dict[str, Any]] = []
    contradicting: list[tuple[int, str]] = []
    n_there = n_elsewhere = n_replaced = 0
    # What was said last of a question holds.
    last: dict[tuple[str, str], dict[str, Any]] = {}
    for _, entry in read_feedback(file):
        path = _database(entry, databases)
        if path is not None and path not in tables:
            tables[path] = _table_names(path)
        if path is None or not {t["table"].casefold() for t in entry["schema"]} <= tables[path]:
            n_elsewhere += 1
            continue
        name = databases[path]
        before = last.get((name, entry["question"]))
        n_replaced += before is not None and before["sql"] != entry["sql"]
        n_there += before is not None and before["sql"] == entry["sql"]
        last[name, entry["question"]] = entry
    for (name, _), entry in last.items():
        lines = known.get((name, entry["question"]), {})
        if entry["sql"] in lines:
            n_there += 1
        elif lines:
            contradicting.append((min(lines.values()), entry["question"]))
        else:
            line = {"question": entry["question"], "sql": entry["sql"], "database": name}
            line["tables"] = [t["table"] for t in entry["schema"]]
            fresh.append(line | ({"split": "train"} if splits else {}))
    if fresh:
        _append(questions, fresh)
    return Added(questions, len(fresh), n_there, n_elsewhere, n_replaced, tuple(contradicting))


def _table_names(path: Path) -> set[str]:
    """What a dataset calls the tables of a database, casefolded."""
    source = open_folder(path) if path.is_dir() else open_file(path)
    return {known_as[0].casefold() for known_as in source.paths if len(known_as) == 1}


def _database(entry: Mapping[str, Any], databases: Mapping[Path, str]) -> Path | None:
    """The dataset's database that a record is about; a file in a folder of files counts as the folder."""
    if not isinstance(entry.get("database"), str):
        return None
    path = Path(entry["database"]).resolve()
    places = (path, path.parent) if is_table_of_folder(path) else (path,)
    return next((place for place in places if place in databases), None)


def _append(file: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Add records to a questions' file, all of them or none."""
    fresh = file.with_name(f".{file.name}.new")
    fresh.write_bytes(_opened(file).with_more(records))
    os.replace(fresh, file)
