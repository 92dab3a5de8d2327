"""Gold of WikiSQL's sketch: a question on one table, answered by a structured query (query.py).

What `prepare` needs of a kind of gold; text.py is its sibling for SQL text.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from t2s_assets.text2sql.collector import rare_collections
from t2s_assets.text2sql.dataset_config import WikiSQLDataset
from t2s_assets.text2sql.datasets import read_source
from t2s_assets.text2sql.datasets.wikisql import Source, SourceTable
from t2s_assets.text2sql.errors import DataError
from t2s_assets.text2sql.execution import Database, Job, Outcome, Relation, SqlExecutor
from t2s_assets.text2sql.gold.kept_results import SCORED, keep, results_path
from t2s_assets.text2sql.gold.prepared import every, made_of, read_prepared, sql_facts
from t2s_assets.text2sql.gold.protocol import Compared, Log, Verdict
from t2s_assets.text2sql.metrics import ERROR_KINDS, error_kinds, exact_match, parse_prediction
from t2s_assets.text2sql.query import (
    AGGREGATES,
    Query,
    SketchError,
    cased_as_in,
    from_sql,
    normal_form,
    parse_number,
    to_sql,
)
from t2s_assets.text2sql.results import is_degenerate, result_fingerprints
from t2s_assets.text2sql.schema import TABLE, Column, TableSchema, one_line
from t2s_assets.text2sql.storage import (
    Project,
    content_hash,
    file_hash,
    read_manifest,
    replacing_folder,
    write_manifest,
)

__all__ = ["ERROR_KINDS"]

FORMAT = "sketch"
"""How prompts call this kind of gold."""


_TABLES = pa.schema(
    [
        ("id", pa.string()),
        ("split", pa.string()),
        ("header", pa.list_(pa.string())),
        ("columns", pa.list_(pa.string())),
        ("types", pa.list_(pa.string())),
        ("rows", pa.list_(pa.list_(pa.string()))),
    ]
)
_QUESTIONS = pa.schema([(n, pa.string()) for n in ("id", "split", "table_id", "question", "query")])
_SQL = pa.schema(
    [
        ("id", pa.string()),
        ("split", pa.string()),
        ("table_id", pa.string()),
        ("sql", pa.string()),
        ("category", pa.string()),
        ("aggregate", pa.string()),
        ("conditions", pa.int64()),
        ("status", pa.string()),
        ("message", pa.string()),
        ("fingerprint", pa.string()),
        ("bag_fingerprint", pa.string()),
        ("degenerate", pa.bool_()),
    ]
)


@dataclass(frozen=True)
class Table:
    """A table of a dataset as prepared: its id is its SQL name."""

    id: str
    split: str
    header: tuple[str, ...]
    schema: TableSchema
    rows: tuple[tuple[str, ...], ...]

    def schema_as(self, name: str) -> TableSchema:
        """The schema under another SQL name."""
        return TableSchema(name, self.schema.columns)

    @property
    def schemas(self) -> tuple[TableSchema, ...]:
        """The one table as prompts and grammar call it."""
        return (self.schema_as(TABLE),)

    @property
    def sample_rows(self) -> tuple[tuple[tuple[str, ...], ...], ...]:
        """The rows of each of `schemas`."""
        return (self.rows,)

    @property
    def prompted(self) -> Database:
        """What generated SQL runs on: the table under the name that prompts give it."""
        return self.database_as(TABLE)

    @cached_property
    def database(self) -> Database:
        """The table for execution under its own name; see `database_as`."""
        return self.database_as(self.id)

    def database_as(self, name: str) -> Database:
        """The table for execution under an SQL name: `real` columns are numbers, text compares ignoring case.

        A cell of a `real` column that spells no number is NULL.
        """
        columns = tuple(
            (c.name, "DOUBLE" if c.type == "real" else "VARCHAR COLLATE NOCASE") for c in self.schema.columns
        )

        def relations() -> tuple[Relation]:
            number = [c.type == "real" for c in self.schema.columns]
            rows = [[parse_number(cell) if n else cell for cell, n in zip(row, number)] for row in self.rows]
            return (Relation.from_rows(name, columns, rows),)

        return Database(content_hash(name, self.id, columns, self.rows), relations)


@dataclass(frozen=True)
class Question:
    """A question of a dataset with its structured query."""

    id: str
    split: str
    table_id: str
    text: str
    query: Query

    def shown(self, table: Table) -> tuple[TableSchema, ...]:
        """The table, under its name in prompts."""
        return table.schemas

    def columns(self, table: Table) -> set[tuple[str, str]]:
        """Its columns that the query names."""
        named = {self.query.column, *(c.column for c in self.query.conditions)}
        return {(TABLE, table.schema.columns[i].name) for i in named}

    def completion(self, table: Table) -> str:
        """What the model learns to write: SQL over `t`, its values cased as in the question."""
        (schema,) = table.schemas
        # As prompts show it: values are copied from there.
        return to_sql(cased_as_in(one_line(self.text), self.query, schema), schema)

    def verdict(self, text: str, table: Table) -> Verdict:
        """Whether generated text means the gold, and where not."""
        (schema,) = table.schemas
        query, reason = parse_prediction(text, schema)
        return Verdict(
            parsed=query.to_json() if query else None,
            unparsed_because=reason,
            aggregate=("none", *AGGREGATES[1:])[query.aggregate] if query else None,
            em=exact_match(query, self.query, schema),
            errors=error_kinds(query, self.query, schema),
        )

    def compared(self, outcome: Outcome, truth: dict[str, Any]) -> Compared:
        """A result against the gold's, its row of `sql`: EX by rows in order, EX strict by bags."""
        ordered, bag = result_fingerprints(outcome)
        strict = not truth["degenerate"] and bag is not None and bag == truth["bag_fingerprint"]
        return Compared(ordered, ordered is not None and ordered == truth["fingerprint"], strict)


# ---------------------------------------------------------------------------------------------------- tables


def make_tables(project: Project, dataset: str, log: Log) -> dict[str, Any]:
    """Read the source and write `tables` and, beside it, what `make_questions` needs. Returns the facts."""
    config = project.dataset(dataset)
    assert isinstance(config, WikiSQLDataset)
    folder = project.path(dataset, "tables")
    with rare_collections():
        source = read_source(config, folder=project.configs / dataset, downloads=project.cache("downloads"), log=log)
    unparsed = sum(
        cell.strip() != "" and parse_number(cell) is None
        for table in source.tables
        for position, kind in enumerate(table.types)
        if kind == "real"
        for cell in (row[position] for row in table.rows)
    )
    with replacing_folder(folder) as fresh:
        pq.write_table(_tables_arrow(source.tables), fresh / "tables.parquet", compression="zstd")
        pq.write_table(_questions_arrow(source), fresh / "source_questions.parquet", compression="zstd")
        facts = {
            "tables": dict(Counter(t.split for t in source.tables)),
            "rows": sum(len(t.rows) for t in source.tables),
            "columns": sum(len(t.header) for t in source.tables),
            "tables_without_rows": sum(not t.rows for t in source.tables),
            "number_cells_that_are_none": unparsed,
        }
        version = content_hash(*(file_hash(fresh / f) for f in ("tables.parquet", "source_questions.parquet")))
        write_manifest(fresh, version, facts)
    return read_manifest(folder, made_by="")


def _tables_arrow(tables: Iterable[SourceTable]) -> pa.Table:
    rows = [
        {
            "id": t.id,
            "split": t.split,
            "header": t.header,
            "columns": [c.name for c in t.schema("").columns],
            "types": t.types,
            "rows": t.rows,
        }
        for t in tables
    ]
    return pa.Table.from_pylist(rows, schema=_TABLES)


def _questions_arrow(source: Source) -> pa.Table:
    rows = [
        {"id": q.id, "split": q.split, "table_id": q.table_id, "question": q.text, "query": q.query.to_json()}
        for q in source.questions
    ]
    return pa.Table.from_pylist(rows, schema=_QUESTIONS)


def load_tables(project: Project, dataset: str, splits: Iterable[str] | None = None) -> dict[str, Table]:
    """The prepared tables by id, of all splits or some."""
    path = project.path(dataset, "tables") / "tables.parquet"
    filters = [("split", "in", list(splits))] if splits is not None else None
    found = {}
    for row in read_prepared(path, dataset, filters=filters).to_pylist():
        columns = tuple(Column(n, t) for n, t in zip(row["columns"], row["types"]))
        schema = TableSchema(row["id"], columns)
        rows = tuple(tuple(r) for r in row["rows"])
        found[row["id"]] = Table(row["id"], row["split"], tuple(row["header"]), schema, rows)
    return found


def tables_version(project: Project, dataset: str, splits: Iterable[str]) -> str:
    """What names the content of the tables of some splits."""
    tables = load_tables(project, dataset, splits)
    return content_hash([[t.id, t.header, [c.type for c in t.schema.columns], t.rows] for t in tables.values()])


def shared_tables(tables: dict[str, Table], questions: Iterable[Question]) -> list[str]:
    """Tables asked about in a split that is not their own: leaks between splits. Empty is right."""
    return sorted({q.table_id for q in questions if tables[q.table_id].split != q.split})


def same_content_across_splits(tables: dict[str, Table]) -> list[tuple[str, str]]:
    """Pairs of tables in different splits with the same header and the same rows, ignoring case."""
    first: dict[str, Table] = {}
    pairs = []
    for table in tables.values():
        if not table.rows:
            continue
        content = content_hash([h.lower() for h in table.header], [[c.lower() for c in r] for r in table.rows])
        other = first.setdefault(content, table)
        if other.split != table.split:
            pairs.append((other.id, table.id))
    return pairs


# ------------------------------------------------------------------------------------------------- questions


def make_questions(project: Project, dataset: str, log: Log) -> dict[str, Any]:
    """Write `questions` from what the source gave. Returns the facts, exact duplicates among them."""
    made = made_of(project, dataset, "questions")  # before they are read
    table = read_prepared(project.path(dataset, "tables") / "source_questions.parquet", dataset)
    keys = Counter(zip(table["table_id"].to_pylist(), (q.lower() for q in table["question"].to_pylist())))
    folder = project.path(dataset, "questions")
    with replacing_folder(folder) as fresh:
        pq.write_table(table, fresh / "questions.parquet", compression="zstd")
        facts = {
            **made,
            "questions": dict(Counter(table["split"].to_pylist())),
            "duplicates": sum(n - 1 for n in keys.values()),
        }
        write_manifest(fresh, content_hash(file_hash(fresh / "questions.parquet")), facts)
    log(f"{table.num_rows:,} questions, {facts['duplicates']} of them asked twice of the same table")
    return read_manifest(folder, made_by="")


def load_questions(project: Project, dataset: str, splits: Iterable[str] | None = None) -> list[Question]:
    """The prepared questions in their order, of all splits or some."""
    path = project.path(dataset, "questions") / "questions.parquet"
    filters = [("split", "in", list(splits))] if splits is not None else None
    return [
        Question(
            r["id"], r["split"], r["table_id"], r["question"], Query.from_json(json.loads(r["query"]), width=1 << 30)
        )
        for r in read_prepared(path, dataset, filters=filters).to_pylist()
    ]


# ------------------------------------------------------------------------------------------------------- sql


def make_sql(project: Project, dataset: str, log: Log) -> dict[str, Any]:
    """Write `sql`: each question's SQL text, proved to read back as its query, and what it returns in DuckDB.

    Raises:
        DataError: a query does not survive the way to SQL and back; no such table may train or score anything.
    """
    made = made_of(project, dataset, "sql")  # before they are read
    with rare_collections():
        rows, gold = _sql_rows(load_tables(project, dataset), load_questions(project, dataset), dataset, log)
    folder = project.path(dataset, "sql")
    with replacing_folder(folder) as fresh:
        pq.write_table(pa.Table.from_pylist(rows, schema=_SQL), fresh / "sql.parquet", compression="zstd")
        failed = [r for r in rows if r["status"] != "ok"]
        facts = {
            **made,
            **sql_facts(rows),
            "failures": [{k: r[k] for k in ("id", "sql", "message")} for r in failed],
        }
        # What comes after it in the lineage reads tables and questions too, and knows of their change by this.
        write_manifest(fresh, content_hash(file_hash(fresh / "sql.parquet"), made), facts)
    keep(results_path(project, dataset), gold, log)
    log(f"{len(failed)} gold queries do not run")
    return read_manifest(folder, made_by="")


def _sql_rows(
    tables: dict[str, Table], questions: Sequence[Question], dataset: str, log: Log
) -> tuple[list[dict[str, Any]], list[tuple[Job, Outcome]]]:
    """The rows of `sql`, and what gold returned as predictions are scored. Raises DataError as `make_sql` does.

    Gold runs on its table under the name that predictions know it by, which is all that differs from the text in `sql`;
    the check that scores gold against itself runs that one. In scored splits, gold also runs as the model is to write
    it, with values cased as in the question, where that is another text.
    """
    texts = [to_sql(q.query, tables[q.table_id].schema) for q in questions]
    log(f"reading {len(texts):,} gold queries back from their SQL, and executing them in DuckDB")
    stop = threading.Event()
    with SqlExecutor() as executor, ThreadPoolExecutor(1) as pool:
        # The children that execute leave this process time to read.
        lost_queries = pool.submit(_lost, tables, questions, texts, stop)
        try:
            databases = {id: table.prompted for id, table in tables.items()}
            jobs = [Job(databases[q.table_id], to_sql(q.query, tables[q.table_id].schemas[0])) for q in questions]
            scored = [q for q in questions if q.split in SCORED]
            jobs += [Job(databases[q.table_id], q.completion(tables[q.table_id])) for q in scored]
            outcomes = executor.run(jobs, progress=every(log, 10_000))
            lost = lost_queries.result()
        except BaseException:
            stop.set()
            raise
    if lost:
        raise DataError(f"{dataset}: {len(lost)} queries do not read back from their SQL:\n" + "\n".join(lost[:20]))
    rows = []
    for question, sql, outcome in zip(questions, texts, outcomes):
        ordered, bag = result_fingerprints(outcome)
        rows.append(
            {
                "id": question.id,
                "split": question.split,
                "table_id": question.table_id,
                "sql": sql,
                "category": question.query.category,
                "aggregate": AGGREGATES[question.query.aggregate] or "none",
                "conditions": len(question.query.conditions),
                "status": outcome.status,
                "message": outcome.message,
                "fingerprint": ordered,
                "bag_fingerprint": bag,
                "degenerate": is_degenerate(outcome),
            }
        )
    return rows, list(zip(jobs, outcomes))[len(questions) :]


def _lost(
    tables: dict[str, Table], questions: Sequence[Question], texts: Sequence[str], stop: threading.Event
) -> list[str]:
    """Queries that do not survive the way to SQL and back; not all of them once `stop` is set."""
    lost = []
    for question, sql in zip(questions, texts):
        if stop.is_set():
            break
        if not _reads_back(question.query, sql, tables[question.table_id].schema):
            lost.append(f"{question.id}: {sql}")
    return lost


def _reads_back(query: Query, sql: str, schema: TableSchema) -> bool:
    try:
        return normal_form(from_sql(sql, schema), schema) == normal_form(query, schema)
    except SketchError:
        return False


def leaks(project: Project, dataset: str) -> tuple[list[str], list[tuple[str, str]]]:
    """(tables asked about in a split that is not theirs, pairs of tables in two splits with the same content)."""
    tables = load_tables(project, dataset)
    return shared_tables(tables, load_questions(project, dataset)), same_content_across_splits(tables)


def same_again(outcome: Outcome, truth: dict[str, Any]) -> bool:
    """Whether gold, run once more, gives the result that `sql` has of it."""
    return result_fingerprints(outcome) == (truth["fingerprint"], truth["bag_fingerprint"])


load_usable = load_questions
"""Every question trains and is scored: gold that does not run in DuckDB is still a question, and `sql` lists it."""


def about(project: Project, dataset: str) -> None:
    """Nothing to say about the data beyond what the assets' manifests hold."""
