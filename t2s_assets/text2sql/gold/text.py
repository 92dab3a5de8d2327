"""Gold of SQL text: a question on a database of any number of tables, answered by any SELECT (docs/own-data.md).

What `prepare` needs of a kind of gold; sketch.py is its sibling for WikiSQL's sketch. Nothing is dropped in
silence: a question whose SQL cannot be used is listed in `left_out.jsonl` of `questions`, one whose SQL does not run
in `sql`, both with file, line and reason and with a count in the manifest.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from t2s_assets.text2sql.dataset_config import OwnDataset
from t2s_assets.text2sql.datasets.own import OwnTable, read_own
from t2s_assets.text2sql.dialects.reading import SqlTextError, read_sql, reads_the_clock, shape
from t2s_assets.text2sql.errors import DataError
from t2s_assets.text2sql.execution import Job, Limits, Outcome, SqlExecutor
from t2s_assets.text2sql.gold.kept_results import SCORED, keep, results_path
from t2s_assets.text2sql.gold.prepared import every, made_of, read_prepared, sql_facts
from t2s_assets.text2sql.gold.protocol import Facts, Log
from t2s_assets.text2sql.gold.splits import GRAINS, Dealt, deal
from t2s_assets.text2sql.gold.text_questions import OwnDatabase, TableFile, TextQuestion, fingerprint
from t2s_assets.text2sql.results import is_degenerate
from t2s_assets.text2sql.schema import Column, TableSchema
from t2s_assets.text2sql.sql import normal_form
from t2s_assets.text2sql.sql.resolving import NormalFormError
from t2s_assets.text2sql.storage import (
    Project,
    content_hash,
    file_hash,
    read_json,
    read_manifest,
    replacing_folder,
    write_json,
    write_manifest,
)

FORMAT = "sql"
"""How prompts call this kind of gold."""
ERROR_KINDS = normal_form.ERROR_KINDS

_LISTED = 100

_TABLES = pa.schema(
    [
        *((n, pa.string()) for n in ("database", "name", "file")),
        *((n, pa.list_(pa.string())) for n in ("columns", "types", "sql_types")),
        ("rows", pa.int64()),
        ("cut", pa.bool_()),
    ]
)
_SOURCE = pa.schema(
    [
        *((n, pa.string()) for n in ("id", "where", "split", "table_id", "question", "sql")),
        ("tables", pa.list_(pa.string())),
    ]
)
_QUESTIONS = pa.schema([*_SOURCE, ("source_sql", pa.string())])
_SQL = pa.schema(
    [
        *((n, pa.string()) for n in ("id", "split", "table_id", "where", "sql", "category", "aggregate")),
        ("conditions", pa.int64()),
        ("ordered", pa.bool_()),
        *((n, pa.string()) for n in ("no_normal_form", "status", "message", "fingerprint", "bag_fingerprint")),
        ("degenerate", pa.bool_()),
    ]
)


# ---------------------------------------------------------------------------------------------------- tables


def make_tables(project: Project, dataset: str, log: Log) -> Facts:
    """Read databases and questions and write `tables` and, beside it, what `make_questions` needs."""
    config = project.dataset(dataset)
    assert isinstance(config, OwnDataset)
    source = read_own(config, folder=project.configs / dataset, log=log)
    folder = project.path(dataset, "tables")
    with replacing_folder(folder) as fresh:
        (fresh / "data").mkdir()
        rows = []
        for database, tables in source.databases.items():
            for table in tables:
                file = f"data/{len(rows):05d}.parquet"
                pq.write_table(table.data, fresh / file, compression="zstd")
                rows.append(_table_row(database, file, table))
        pq.write_table(pa.Table.from_pylist(rows, schema=_TABLES), fresh / "tables.parquet", compression="zstd")
        name = Path(source.file).name
        questions = [
            {
                "id": q.id,
                "where": f"{name}:{q.line}",
                "split": q.split,
                "table_id": q.database,
                "question": q.text,
                "sql": q.sql,
                "tables": q.tables,
            }
            for q in source.questions
        ]
        path = fresh / "source_questions.parquet"
        pq.write_table(pa.Table.from_pylist(questions, schema=_SOURCE), path, compression="zstd")
        every_table = [t for tables in source.databases.values() for t in tables]
        _write_kept(fresh / _KEPT, source.databases)
        facts = {
            "tables": {database: len(tables) for database, tables in source.databases.items()},
            "rows": sum(t.data.num_rows for t in every_table),
            "columns": sum(t.data.num_columns for t in every_table),
            "tables_without_rows": sum(not t.data.num_rows for t in every_table),
            "number_cells_that_are_none": sum(t.lost for t in every_table),
            "tables_cut": [f"{r['database']}.{r['name']}: the first {r['rows']:,} rows" for r in rows if r["cut"]],
        }
        files = sorted(p.relative_to(fresh).as_posix() for p in fresh.rglob("*.parquet"))
        files += [_KEPT] if (fresh / _KEPT).exists() else []
        write_manifest(fresh, content_hash(*(file_hash(fresh / f) for f in files)), facts)
    return read_manifest(folder, made_by="")


_KEPT = "sqlite_types.json"
"""By database, table and column, what SQLite makes of columns that it keeps otherwise than their copies say."""


def _write_kept(path: Path, databases: Mapping[str, Sequence[OwnTable]]) -> None:
    tables = {name: {t.schema.name: dict(t.kept) for t in tables if t.kept} for name, tables in databases.items()}
    kept = {name: found for name, found in tables.items() if found}
    if kept:
        write_json(path, kept)


def _read_kept(project: Project, dataset: str) -> dict[str, dict[str, dict[str, str]]]:
    path = project.path(dataset, "tables") / _KEPT
    return read_json(path, made_by=f"t2s prepare {dataset}") if path.exists() else {}


def _table_row(database: str, file: str, table: OwnTable) -> dict[str, Any]:
    return {
        "database": database,
        "name": table.schema.name,
        "file": file,
        "columns": [c.name for c in table.schema.columns],
        "types": [c.type for c in table.schema.columns],
        "sql_types": table.types,
        "rows": table.data.num_rows,
        "cut": table.cut,
    }


def load_tables(project: Project, dataset: str, splits: Iterable[str] | None = None) -> dict[str, OwnDatabase]:
    """The prepared databases by name; `splits` makes no difference, since a database may serve several."""
    folder = project.path(dataset, "tables")
    found: dict[str, list[TableFile]] = {}
    for row in read_prepared(folder / "tables.parquet", dataset).to_pylist():
        columns = tuple(Column(*c) for c in zip(row["columns"], row["types"], row["sql_types"]))
        table = TableFile(TableSchema(row["name"], columns), tuple(row["sql_types"]), folder / row["file"])
        found.setdefault(row["database"], []).append(table)
    return {name: OwnDatabase(name, tuple(tables)) for name, tables in found.items()}


def tables_version(project: Project, dataset: str, splits: Iterable[str]) -> str:
    """What names the content of all databases, whatever the splits."""
    listed = project.path(dataset, "tables") / "tables.parquet"
    files = sorted({row["file"] for row in read_prepared(listed, dataset, columns=["file"]).to_pylist()})
    files += [_KEPT] if (listed.parent / _KEPT).exists() else []
    return content_hash(file_hash(listed), *(file_hash(listed.parent / file) for file in files))


# ------------------------------------------------------------------------------------------------- questions


def make_questions(project: Project, dataset: str, log: Log) -> Facts:
    """Write `questions`: gold as DuckDB SQL, and the split of each question; what is unusable goes to `left_out`.

    Raises:
        DataError: no question's SQL can be used.
    """
    made = made_of(project, dataset, "questions")  # before they are read
    config = project.dataset(dataset)
    assert isinstance(config, OwnDataset)
    source = read_prepared(project.path(dataset, "tables") / "source_questions.parquet", dataset).to_pylist()
    databases = load_tables(project, dataset)
    kept, left_out = [], []
    with _Translator(config.dialect, databases, _read_kept(project, dataset)) as translator:
        for row in source:
            try:
                sql = translator.gold_sql(row)
            except SqlTextError as e:
                left_out.append({k: row[k] for k in ("where", "id", "question", "sql")} | {"reason": str(e)})
                continue
            kept.append(row | {"sql": sql, "source_sql": row["sql"]})
    for out in left_out[:20]:
        log(f"{out['where']}: left out: {out['reason']}")
    if not kept:
        raise DataError(
            f"{dataset}: the SQL of none of its {len(source)} questions can be used as dialect: {config.dialect}; "
            f"the first reason, at {left_out[0]['where']}: {left_out[0]['reason']}"
        )
    split_by = _deal_out(kept, config, log)
    folder = project.path(dataset, "questions")
    with replacing_folder(folder) as fresh:
        pq.write_table(pa.Table.from_pylist(kept, schema=_QUESTIONS), fresh / "questions.parquet", compression="zstd")
        lines = (json.dumps(out, ensure_ascii=False) + "\n" for out in left_out)
        (fresh / "left_out.jsonl").write_text("".join(lines), encoding="utf-8")
        asked = Counter((r["table_id"], r["question"].lower()) for r in kept)
        facts = {
            **made,
            "questions": dict(Counter(r["split"] for r in kept)),
            "duplicates": sum(n - 1 for n in asked.values()),
            "split_by": split_by,
            "left_out": len(left_out),
            "left_out_first": left_out[:_LISTED],
        }
        files = ("questions.parquet", "left_out.jsonl")
        write_manifest(fresh, content_hash(*(file_hash(fresh / f) for f in files)), facts)
    log(f"{len(kept):,} questions, {len(left_out)} left out, {facts['duplicates']} asked twice of the same database")
    return read_manifest(folder, made_by="")


class _Translator:
    """Reads gold of a dialect; where its meaning hangs on the rows, it asks them, each question once."""

    def __init__(
        self,
        dialect: str,
        databases: Mapping[str, OwnDatabase],
        kept: Mapping[str, Mapping[str, Mapping[str, str]]],
    ) -> None:
        self._dialect, self._databases, self._kept = dialect, databases, kept
        self._executor = SqlExecutor(workers=1)
        self._asked: dict[tuple[str, str], bool] = {}

    def __enter__(self) -> _Translator:
        self._executor.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._executor.__exit__(*error)

    def gold_sql(self, row: dict[str, Any]) -> str:
        """The row's SQL as DuckDB SQL over the tables that its prompt shows. Raises SqlTextError."""
        name = row["table_id"]
        schemas = [_as_kept(s, self._kept.get(name, {}).get(s.name, {})) for s in self._databases[name].schemas]
        sql = read_sql(row["sql"], self._dialect, schemas, partial(self._holds, name))
        if reads_the_clock(sql, schemas):
            raise SqlTextError("reads the clock, so that its result, kept since `sql` was made, is another one later")
        shown = {table.casefold() for table in row["tables"]}
        if shown and (missing := [t for t in shape(sql).tables if t not in shown]):
            raise SqlTextError(f"reads {', '.join(missing)}, which its `tables` do not name")
        return sql

    def _holds(self, name: str, sql: str) -> bool:
        """Whether a query for counterexamples runs and finds none."""
        if (name, sql) not in self._asked:
            outcome = self._executor.run_one(self._databases[name].database, sql)
            self._asked[name, sql] = outcome.status == "ok" and not outcome.rows
        return self._asked[name, sql]


def _as_kept(schema: TableSchema, kept: Mapping[str, str]) -> TableSchema:
    """A schema with the types that its columns have to SQLite."""
    return replace(schema, columns=tuple(replace(c, sql_type=kept.get(c.name, c.sql_type)) for c in schema.columns))


def _deal_out(rows: list[dict[str, Any]], config: OwnDataset, log: Log) -> str:
    """Give each row its split; returns how that was found."""
    if rows[0]["split"] is not None:
        return "given with the questions"
    dealt = [
        Dealt(r["id"], r["table_id"], shape(r["sql"]).tables, r["sql"].casefold(), " ".join(r["question"].split()))
        for r in rows
    ]
    splits, grain = deal(dealt, config.split)
    for row in rows:
        row["split"] = splits[row["id"]]
    said = f"dealt out by {grain} with seed {config.split.seed}: {GRAINS[grain]}"
    log(said)
    return said


def load_questions(project: Project, dataset: str, splits: Iterable[str] | None = None) -> list[TextQuestion]:
    """The questions whose SQL can be read, in their order, of all splits or some."""
    path = project.path(dataset, "questions") / "questions.parquet"
    filters = [("split", "in", list(splits))] if splits is not None else None
    return [
        TextQuestion(r["id"], r["split"], r["table_id"], r["question"], r["sql"], tuple(r["tables"]), r["where"])
        for r in read_prepared(path, dataset, filters=filters).to_pylist()
    ]


def load_usable(project: Project, dataset: str, splits: Iterable[str] | None = None) -> list[TextQuestion]:
    """The questions whose gold runs: those train and are scored."""
    path = project.path(dataset, "sql") / "sql.parquet"
    table = read_prepared(path, dataset, columns=["id", "status"])
    runs = {i for i, status in zip(*(table[c].to_pylist() for c in ("id", "status"))) if status == "ok"}
    return [q for q in load_questions(project, dataset, splits) if q.id in runs]


def leaks(project: Project, dataset: str) -> tuple[list[str], list[tuple[str, str]]]:
    """(questions asked of one database in two splits, pairs of questions in two splits with the same gold)."""
    first: dict[tuple[str, str], TextQuestion] = {}
    gold: dict[tuple[str, str], TextQuestion] = {}
    asked, same = [], []
    for q in load_questions(project, dataset):
        other = first.setdefault((q.table_id, " ".join(q.text.split()).casefold()), q)
        if other.split != q.split:
            asked.append(f"{q.where} ({q.split}) and {other.where} ({other.split})")
        other = gold.setdefault((q.table_id, q.sql.casefold()), q)
        if other.split != q.split:
            same.append((other.id, q.id))
    return asked, same


# ------------------------------------------------------------------------------------------------------- sql


def make_sql(project: Project, dataset: str, log: Log) -> Facts:
    """Write `sql`: each gold with its kind, whether it has a normal form, and what it returns in DuckDB.

    Raises:
        DataError: no gold runs.
    """
    made = made_of(project, dataset, "sql")  # before they are read
    databases = load_tables(project, dataset)
    questions = load_questions(project, dataset)
    rows: list[dict[str, Any]] = []
    for q in questions:
        kind = asdict(shape(q.sql))
        del kind["tables"]
        row = {"id": q.id, "split": q.split, "table_id": q.table_id, "where": q.where, "sql": q.sql}
        rows.append(row | kind | {"no_normal_form": _no_normal_form(q, databases[q.table_id])})
    log(f"executing {len(rows):,} gold queries in DuckDB")
    with SqlExecutor() as executor:
        jobs = [Job(databases[q.table_id].database, q.sql) for q in questions]
        outcomes = executor.run(jobs, progress=every(log, 10_000))
    gold = [ran for q, ran in zip(questions, zip(jobs, outcomes)) if q.split in SCORED]
    for row, outcome in zip(rows, outcomes):
        outcome = _whole(outcome)
        row |= {
            "status": outcome.status,
            "message": outcome.message,
            "fingerprint": fingerprint(outcome, row["ordered"]),
            "bag_fingerprint": fingerprint(outcome, False),
            "degenerate": is_degenerate(outcome),
        }
    failed = [r for r in rows if r["status"] != "ok"]
    for row in failed[:20]:
        log(f"{row['where']}: does not run ({row['status']}): {row['message'].splitlines()[0]}")
    if len(failed) == len(rows):
        raise DataError(f"{dataset}: no gold query runs; the first, at {rows[0]['where']}: {rows[0]['message']}")
    folder = project.path(dataset, "sql")
    with replacing_folder(folder) as fresh:
        pq.write_table(pa.Table.from_pylist(rows, schema=_SQL), fresh / "sql.parquet", compression="zstd")
        facts = {
            **made,
            **sql_facts(rows),
            "gold_without_a_normal_form": [f"{r['where']}: {r['no_normal_form']}" for r in rows if r["no_normal_form"]],
            "left_out": read_manifest(project.path(dataset, "questions"), made_by=f"t2s prepare {dataset}")["left_out"],
            "failures": [{k: r[k] for k in ("id", "where", "sql", "message")} for r in failed],
        }
        # What comes after it in the lineage reads tables and questions too, and knows of their change by this.
        write_manifest(fresh, content_hash(file_hash(fresh / "sql.parquet"), made), facts)
    keep(results_path(project, dataset), gold, log)
    log(f"{len(failed)} gold queries do not run")
    return read_manifest(folder, made_by="")


def _whole(outcome: Outcome) -> Outcome:
    """A result of which not all came back cannot be compared, so it counts as an error."""
    if not outcome.truncated:
        return outcome
    return replace(Outcome("error"), message=f"returns more than {Limits().max_rows:,} rows, too many to compare")


def _no_normal_form(question: TextQuestion, about: OwnDatabase) -> str:
    try:
        normal_form.normal_form(question.sql, about.schemas)
    except NormalFormError as e:
        return str(e)
    return ""


def same_again(outcome: Outcome, truth: dict[str, Any]) -> bool:
    """Whether gold, run once more, gives the result that `sql` has of it."""
    return fingerprint(outcome, truth["ordered"]) == truth["fingerprint"]


def about(project: Project, dataset: str) -> Facts:
    """How questions were split, and what is left out of training and scoring, with the reasons."""
    questions = read_manifest(project.path(dataset, "questions"), made_by=f"t2s prepare {dataset}")
    sql = read_manifest(project.path(dataset, "sql"), made_by=f"t2s prepare {dataset}")
    failures = [{"where": f["where"], "reason": f["message"]} for f in sql["failures"]]
    unusable = [{"where": f["where"], "reason": f["reason"]} for f in questions["left_out_first"]]
    return {
        "split_by": questions["split_by"],
        "left_out": {"sql_that_cannot_be_read": questions["left_out"], "sql_that_does_not_run": len(failures)},
        "left_out_first": [*unusable, *failures][:_LISTED],
        "gold_without_a_normal_form": len(sql["gold_without_a_normal_form"]),
    }
