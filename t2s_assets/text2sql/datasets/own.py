"""Reader of a dataset of one's own: databases, and questions with the SQL that answers them (docs/own-data.md)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from t2s_assets.text2sql.config_files import expand_path
from t2s_assets.text2sql.dataset_config import OwnDataset
from t2s_assets.text2sql.datasets.question_files import KEYS, QuestionFile, known_keys, mistaken_for, told
from t2s_assets.text2sql.datasets.sqlite_types import kept_otherwise
from t2s_assets.text2sql.errors import ConfigError, DataError
from t2s_assets.text2sql.schema import TableSchema
from t2s_assets.text2sql.tables.table_files import is_table_of_folder, open_file, open_folder
from t2s_assets.text2sql.tables.user_tables import Source, UserTable, shortened

SPLITS = ("train", "validation", "test")
_SHOWN = 50

Log = Callable[[str], None]


@dataclass(frozen=True)
class OwnTable:
    """One table with its rows, under its own names; `types` are DuckDB's, one a column of `data`.

    `cut` says that `data` holds only the first rows of a table that has more; `lost` cells of columns of numbers
    spelt none (SQLite allows that) and are NULL. `kept` has the types of the columns that SQLite keeps otherwise than
    `types` say (sqlite_types.py).
    """

    schema: TableSchema
    types: tuple[str, ...]
    data: pa.Table
    cut: bool = False
    lost: int = 0
    kept: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class OwnQuestion:
    """One record of the questions' file: `sql` is in the dataset's dialect, `tables` are those that its prompt shows
    (none: all of its database), `split` is None where the line gives none."""

    id: str
    line: int
    text: str
    sql: str
    database: str
    tables: tuple[str, ...]
    split: str | None


@dataclass(frozen=True)
class OwnSource:
    """A dataset as read: the tables of each database by name, and the questions of `file`."""

    file: str
    databases: Mapping[str, tuple[OwnTable, ...]]
    questions: tuple[OwnQuestion, ...]


def read_own(config: OwnDataset, *, folder: Path, log: Log = lambda line: None) -> OwnSource:
    """Everything of a dataset; `folder` is its config folder.

    Raises:
        DataError: a database cannot be read, or lines break the format: every such problem at once, with its file
            and line. SQL is not looked at here.
    """
    problems: list[str] = []
    databases: dict[str, tuple[OwnTable, ...]] = {}
    for name, path in database_paths(config, folder, problems).items():
        try:
            databases[name] = read_database(path, log)
        except DataError as e:
            problems.append(str(e))
            continue
        rows = sum(t.data.num_rows for t in databases[name])
        log(f"{name}: {len(databases[name])} tables, {rows:,} rows")
        for table in databases[name]:
            if table.cut:
                log(f"{name}: only the first {table.data.num_rows:,} rows of {table.schema.name!r} are taken")
    file = _expanded(config.questions, folder, problems)
    known = {name: [t.schema.name for t in tables] for name, tables in databases.items()}
    # A database that cannot be read is one problem, not one for each of its questions.
    questions = read_questions(file, known, problems, log) if file is not None and not problems else ()
    if problems:
        problems = _told_once(problems)
        shown = "\n".join(f"  {p}" for p in problems[:_SHOWN])
        rest = f"\n  ... and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
        raise DataError(f"{folder / 'dataset.yaml'}: {count} in its data; mend them:\n{shown}{rest}")
    log(f"{len(questions):,} questions")
    return OwnSource(str(file), databases, questions)


def database_paths(config: OwnDataset, folder: Path, problems: list[str]) -> dict[str, Path]:
    """The databases' paths by name; a single one is called as its file. Unset variables are added to `problems`.

    Of a folder of databases, as Spider and BIRD have it, those are read that questions are about.
    """
    if isinstance(config.databases, str):
        path = _expanded(config.databases, folder, problems)
        if path is None:
            return {}
        return _asked_of(_databases_in(path), config, folder) or {path.stem: path}
    paths = {name: _expanded(text, folder, problems) for name, text in config.databases.items()}
    return {name: path for name, path in paths.items() if path is not None}


_SUFFIXES = (".sqlite", ".db", ".duckdb")


def _databases_in(folder: Path) -> dict[str, Path]:
    """The databases of a folder that has each as NAME/NAME.sqlite, none in another folder."""
    if not folder.is_dir() or any(map(is_table_of_folder, folder.iterdir())):
        return {}
    files = [p / f"{p.name}{suffix}" for p in sorted(folder.iterdir()) if p.is_dir() for suffix in _SUFFIXES]
    found = {file.stem: file for file in reversed(files) if file.is_file()}
    return dict(sorted(found.items()))


def _asked_of(databases: dict[str, Path], config: OwnDataset, folder: Path) -> dict[str, Path]:
    path = _expanded(config.questions, folder, [])
    if not databases or path is None or not path.is_file():
        return databases
    asked = QuestionFile(path, path.read_bytes()).databases()
    return {name: file for name, file in databases.items() if name in asked} or databases


def _expanded(text: str, folder: Path, problems: list[str]) -> Path | None:
    try:
        return expand_path(text, folder)
    except ConfigError as e:
        problems.append(str(e))
        return None


def read_database(path: Path, log: Log = lambda line: None) -> tuple[OwnTable, ...]:
    """The tables of a DuckDB or SQLite file, or of a folder of CSV and Parquet files. SQL that the executor runs names
    no schemas, so those beside DuckDB's `main` are left out, and `log` says so.

    Raises:
        DataError: it or a table cannot be read, it has no table, or a column's name cannot stand in one line of a
            prompt.
    """
    source = open_folder(path) if path.is_dir() else open_file(path)
    with source.held():
        return _tables_in(path, source, log)


def _tables_in(path: Path, source: Source, log: Log) -> tuple[OwnTable, ...]:
    other = [name for name, known_as in zip(source.names, source.paths) if len(known_as) > 1]
    if source.paths and len(other) == len(source.paths):
        raise DataError(
            f"{path}: no table in its schema main, and only those are read; give a database that has "
            f"{shortened(', '.join(other))} there: CREATE TABLE main.NAME AS FROM SCHEMA.NAME"
        )
    if other:
        log(f"{path}: left out {', '.join(other)}: only tables of the schema main are read")
    with _without_what_is_broken():
        tables = [source.open(known_as) for known_as in source.paths if len(known_as) == 1]
    if not tables:
        raise DataError(f"{path}: no table in it")
    for table in tables:
        check_names(table, str(path))
    with _without_what_is_broken():
        found = tuple(_own_table(t) for t in tables)
    types = {t.schema.name: dict(zip((c.name for c in t.schema.columns), t.types)) for t in found}
    kept = kept_otherwise(path, types) if path.is_file() else {}
    return tuple(replace(t, kept=kept.get(t.schema.name, {})) for t in found)


@contextmanager
def _without_what_is_broken() -> Iterator[None]:
    """Adds to what is said of a table that cannot be read what becomes of the others."""
    try:
        yield
    except DataError as e:
        raise DataError(f"{e}; mend or remove that table or view, or give a copy of the data without it") from e


def check_names(table: UserTable, where: str) -> None:
    """Raises DataError where prompts could not show the table's columns under their real names."""
    for name, column in zip(table.header, table.columns):
        if name != column.name:
            raise DataError(
                f"{where}: table {table.name!r}: column {name!r} cannot be shown as it is (blank, line breaks, runs of "
                f"spaces, or a second one of that name); rename it, for instance to {column.name!r}"
            )


def _own_table(table: UserTable) -> OwnTable:
    content = table.typed_content
    data = content.data.rename_columns([c.name for c in table.columns])
    return OwnTable(table.schema(table.name), content.types, data, content.truncated, content.lost)


def _told_once(problems: list[str]) -> list[str]:
    """Problems of many records in the same words told with the first of them and a count."""
    found: dict[str, list[str]] = {}
    for problem in problems:
        where, _, message = problem.partition(": ")
        found.setdefault(message if where.rpartition(":")[2].isdecimal() else problem, []).append(problem)
    more = {message: len(same) - 1 for message, same in found.items()}
    return [f"{same[0]}{f' (and {more[m]:,} more like it)' if more[m] else ''}" for m, same in found.items()]


def read_questions(
    path: Path, databases: Mapping[str, list[str]], problems: list[str], log: Log = lambda line: None
) -> tuple[OwnQuestion, ...]:
    """The questions of a file over `databases` (their tables' names by name); problems are added with lines. `log` says
    which keys are not read."""
    try:
        content = path.read_bytes()
    except OSError as e:
        problems.append(f"{path}: cannot be read ({e.strerror}); it holds one JSON object a line: question, sql, ...")
        return ()
    found: list[OwnQuestion] = []
    numbers: dict[str, int] = {}
    left: Counter[str] = Counter()
    file = QuestionFile(path, content)
    for number, record in file.records(problems):
        where = f"{path}:{number}"
        if isinstance(record, dict):
            record, not_read = known_keys(record)
            left.update(not_read)
        try:
            question = parse_question(record, number, databases)
        except ValueError as e:
            problems += [f"{where}: {line}" for line in str(e).split("\n")]
            continue
        if question.id in numbers:
            place = "record" if file.is_array else "line"
            problems.append(f"{where}: id {question.id!r} was given before, in {place} {numbers[question.id]}")
        numbers.setdefault(question.id, number)
        found.append(question)
    for line in told(path, left):
        log(line)
    if not found and not problems:
        problems.append(f"{path}: no question in it; a line holds one JSON object: question, sql, ...")
    _check_splits(path, found, problems)
    return tuple(found)


def _check_splits(path: Path, found: list[OwnQuestion], problems: list[str]) -> None:
    without = [q.line for q in found if q.split is None]
    if 0 < len(without) < len(found):
        problems.append(
            f"{path}: {len(found) - len(without)} questions give a split and {len(without)} do not (line {without[0]}, "
            "...); give one to all, or to none and they are dealt out by `split` of dataset.yaml"
        )


def parse_question(record: Any, line: int, databases: Mapping[str, list[str]]) -> OwnQuestion:
    """A question from its record. Raises ValueError with every problem, one a line of its message."""
    if not isinstance(record, dict):
        raise ValueError(f"a JSON object is wanted; got {record!r:.60}")
    problems = [
        f"unknown key {k!r}; known are {', '.join(KEYS)}"
        + (f"; is {close} meant?" if (close := mistaken_for(k)) else "")
        for k in record
        if k not in KEYS
    ]
    texts = {}
    for key in ("question", "sql"):
        value = record.get(key)
        texts[key] = value.strip() if isinstance(value, str) else ""
        if not texts[key]:
            problems.append(f"{key} must be a non-empty string; got {value!r}")
        elif _half_character(value):
            problems.append(f"{key} holds half a character; give valid Unicode")
    database = record.get("database")
    if database is None and len(databases) == 1:
        (database,) = databases
    if not isinstance(database, str) or database not in databases:
        problems.append(f"database must be one of {', '.join(databases)}; got {database!r}")
    tables = _tables(record.get("tables"), databases.get(database, []) if isinstance(database, str) else [], problems)
    split = record.get("split")
    if split is not None and split not in SPLITS:
        problems.append(f"split must be one of {', '.join(SPLITS)}; got {split!r}")
    id = record.get("id", f"q{line}")
    if isinstance(id, int) and not isinstance(id, bool):
        id = str(id)
    if not isinstance(id, str) or not id.strip() or _half_character(id):
        problems.append(f"id must be a non-empty string or a number; got {id!r}")
    if problems:
        raise ValueError("\n".join(problems))
    return OwnQuestion(str(id), line, texts["question"], texts["sql"], str(database), tables, split)


def _half_character(text: str) -> bool:
    return any("\ud800" <= c <= "\udfff" for c in text)


def _tables(given: Any, there: list[str], problems: list[str]) -> tuple[str, ...]:
    """The tables that a line names, in the database's spelling."""
    if given is None:
        return ()
    if not isinstance(given, list) or not given or not all(isinstance(t, str) for t in given):
        problems.append(f"tables must be a list of names; got {given!r}")
        return ()
    spelt = {t.casefold(): t for t in there}
    if unknown := [t for t in given if t.casefold() not in spelt]:
        problems.append(f"tables: no {', '.join(map(repr, unknown))}; there are {', '.join(there)}")
    return tuple(dict.fromkeys(spelt[t.casefold()] for t in given if t.casefold() in spelt))
