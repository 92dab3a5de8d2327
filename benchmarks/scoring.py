"""Scoring a split of WikiSQL with the executor, beside the official evaluator's way of working: same predictions.

    python benchmarks/scoring.py [--predictions FILE] [--wrong 0.3] [--limit N] [--workers N] [--json FILE]

Gold and predicted queries of every question are executed and their results compared (EX). Predictions are the `sql` of
a predictions.parquet, or gold with a seeded share of mutations (one slot changed each), as a model makes errors.

- ours: SqlExecutor with all its safety on: the allow-list, limited child processes, a locked-down DuckDB. Timed from
  tables in memory to verdicts: building Arrow tables, starting workers, feeding, executing, fingerprints. Twice:
  `cold`, with nothing known, so that gold is executed too; and as `t2s evaluate` scores, with gold's results kept by
  content (gold/kept_results.py) and its fingerprints at hand, both since `sql` was made. `seconds` and `speedup` are
  of the second, `cold_seconds` and `cold_speedup` of the first.
- official: the way of salesforce/WikiSQL's lib/dbengine.py and evaluate.py, written again here: one SQLite connection,
  one query at a time, the table's columns looked up in sqlite_master before each; through SQLAlchemy, as the `records`
  library that it uses does. It keeps nothing, so it executes gold and prediction of every question. Its database is
  built outside the timed part, as the official archive ships .db files.
  The original itself no longer runs on today's libraries (records 0.6 takes a pooled connection for each query and
  never gives it back); on those of its day (records 0.5.2, SQLAlchemy 1.3) it took 0.15 ms a query where this one took
  0.18 ms, so `speedup` is up to a fifth kinder to us than the original would be.
- sqlite3: the same without SQLAlchemy, a lower bound of that way; not the baseline, for nobody's evaluator is so lean.

Neither of the two has a time limit, a memory limit, or a guard. Both read structured queries, not SQL text, so
predictions that are none are left out of the comparison for all three.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import re
import resource
import sqlite3
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from t2s_assets.text2sql.collector import rare_collections
from t2s_assets.text2sql.datasets.wikisql import SourceQuestion, SourceTable, read_wikisql
from t2s_assets.text2sql.execution import Job, Outcome, SqlExecutor
from t2s_assets.text2sql.gold.kept_results import GoldResults, keep
from t2s_assets.text2sql.gold.sketch import Table
from t2s_assets.text2sql.query import AGGREGATES, OPERATORS, Query, SketchError, from_sql, parse_number, to_sql
from t2s_assets.text2sql.records import peak_resident_bytes
from t2s_assets.text2sql.results import result_fingerprints
from t2s_assets.text2sql.schema import TABLE

Execute = Callable[[str, dict[str, Any]], list[tuple[Any, ...]]]


@dataclass(frozen=True)
class Item:
    """One question: its table, as read and as prepared, its gold and the prediction, as queries and as SQL text."""

    table: SourceTable
    prepared: Table
    gold: Query
    gold_sql: str
    predicted: Query
    predicted_sql: str


def mutated(query: Query, table: SourceTable, draw: random.Random) -> Query:
    """`query` with one slot changed: column, aggregate, or a condition's column, operator or value, or a condition
    left out."""
    sketch = json.loads(query.to_json())
    width = len(table.header)
    slots = ["sel", "agg"] + (["column", "operator", "value", "left out"] if sketch["conds"] else [])
    slot = draw.choice(slots)
    if slot == "sel":
        sketch["sel"] = draw.randrange(width)
    elif slot == "agg":
        # SUM and AVG of text are 0 in SQLite and an error in DuckDB: no model of ours may write them.
        sketch["agg"] = draw.randrange(6 if table.types[sketch["sel"]] == "real" else 4)
    else:
        i = draw.randrange(len(sketch["conds"]))
        column, operator, value = sketch["conds"][i]
        if slot == "column":
            column = draw.choice([c for c, kind in enumerate(table.types) if kind == table.types[column]])
        elif slot == "operator":
            operator = (operator + draw.randint(1, 2)) % 3
        elif slot == "value" and table.rows:
            cell = draw.choice(table.rows)[column]
            value = cell if table.types[column] == "text" or parse_number(cell) is not None else value
        sketch["conds"][i : i + 1] = [] if slot == "left out" else [[column, operator, value]]
    return Query.from_json(sketch, width=width)


def items(archive: Path, predictions: Path | None, wrong: float, limit: int | None) -> list[Item]:
    """The test split with its predictions."""
    source = read_wikisql(archive)
    tables = {t.id: t for t in source.tables if t.split == "test"}
    prepared = {t.id: Table(t.id, t.split, t.header, t.schema(TABLE), t.rows) for t in tables.values()}
    asked = [q for q in source.questions if q.split == "test"][:limit]
    written: dict[str, str] | None = None
    if predictions is not None:
        import pyarrow.parquet as pq

        written = {r["id"]: r["sql"] for r in pq.read_table(predictions, columns=["id", "sql"]).to_pylist()}
    draw = random.Random(13)
    found = []
    for question in asked:
        table = tables[question.table_id]
        schema = prepared[table.id].schema
        if written is None:
            predicted = mutated(question.query, table, draw) if draw.random() < wrong else question.query
            text = to_sql(predicted, schema)
        else:
            text = written.get(question.id, "")
            try:
                predicted = from_sql(text, schema)
            except SketchError:
                continue
        if _runs_in_both(question, table):
            found.append(
                Item(table, prepared[table.id], question.query, to_sql(question.query, schema), predicted, text)
            )
    return found


def _runs_in_both(question: SourceQuestion, table: SourceTable) -> bool:
    """SUM and AVG of a text column, a handful in WikiSQL, are 0 in SQLite and an error in DuckDB."""
    return AGGREGATES[question.query.aggregate] not in ("SUM", "AVG") or table.types[question.query.column] == "real"


@dataclass(frozen=True)
class Scored:
    """EX verdicts, what gold returned, seconds, and the workers' peak memory in MB, all together."""

    verdicts: list[bool]
    gold: list[tuple[Job, Outcome]]
    seconds: float
    workers_mb: float


def ours(asked: list[Item], workers: int, results: Path, truths: list[str | None] | None = None) -> Scored:
    """Score with gold's results from a file, which may not be there, and its fingerprints, where they are known."""
    start = time.perf_counter()
    databases = {}
    jobs = []
    with SqlExecutor(workers=workers) as executor, rare_collections():
        executor.start(len(asked))
        for item in asked:
            if item.table.id not in databases:
                databases[item.table.id] = item.prepared.prompted
            jobs += [Job(databases[item.table.id], sql) for sql in (item.gold_sql, item.predicted_sql)]
        outcomes = GoldResults(results, lambda line: None).run(executor, jobs)
        peak = sum(peak_mb(worker.process.pid) for worker in executor._workers)
    truths = truths or fingerprints(outcomes[::2])
    verdicts = [gold is not None and gold == mine for gold, mine in zip(truths, fingerprints(outcomes[1::2]))]
    return Scored(verdicts, list(zip(jobs, outcomes))[::2], time.perf_counter() - start, peak)


def fingerprints(outcomes: list[Outcome]) -> list[str | None]:
    return [result_fingerprints(outcome)[0] for outcome in outcomes]


def peak_mb(pid: int) -> float:
    """Peak resident memory of a running process."""
    peak = peak_resident_bytes(pid)
    if peak is not None:
        return peak / 2**20
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20  # macOS, in bytes


# ------------------------------------------------------------------------------------------- the official way

_SCHEMA = re.compile(r"\((.+)\)")
_NUMBER = re.compile(r"[-+]?\d*\.\d+|\d+")


def official_name(table_id: str) -> str:
    return table_id if table_id.startswith("table") else "table_" + table_id.replace("-", "_")


def build_database(tables: list[SourceTable], path: Path) -> None:
    """The split as one SQLite file, laid out as the official archive's: col0, col1, ..., text in lower case."""
    connection = sqlite3.connect(path)
    for t in tables:
        name = official_name(t.id)
        connection.execute(f"CREATE TABLE {name} ({', '.join(f'col{i} {kind}' for i, kind in enumerate(t.types))})")
        rows = [[parse_number(c) if k == "real" else c.lower() for c, k in zip(row, t.types)] for row in t.rows]
        connection.executemany(f"INSERT INTO {name} VALUES ({', '.join('?' * len(t.types))})", rows)
    connection.commit()
    connection.close()


def official_result(execute: Execute, table_id: str, query: Query) -> list[Any]:
    """One query as the official evaluator runs it."""
    name = official_name(table_id)
    created = execute("SELECT sql from sqlite_master WHERE tbl_name = :name", {"name": name})[0][0]
    kinds = dict(column.split() for column in _SCHEMA.findall(created)[0].split(", "))
    select = f"col{query.column}"
    if query.aggregate:
        select = f"{AGGREGATES[query.aggregate]}({select})"
    tests, bound = [], {}
    for condition in query.conditions:
        value, column = condition.value, f"col{condition.column}"
        if isinstance(value, str):
            value = value.lower()
            if kinds[column] == "real":
                whole = parse_number(value)
                value = whole if whole is not None else float(_NUMBER.findall(value)[0])
        tests.append(f"{column} {OPERATORS[condition.operator]} :{column}")
        bound[column] = value
    where = f"WHERE {' AND '.join(tests)}" if tests else ""
    return [row[0] for row in execute(f"SELECT {select} AS result FROM {name} {where}", bound)]


def official(asked: list[Item], execute: Execute) -> tuple[list[bool], float]:
    """EX verdicts and seconds of the official way."""
    start = time.perf_counter()
    verdicts = []
    for item in asked:
        gold = official_result(execute, item.table.id, item.gold)
        try:
            predicted: Any = official_result(execute, item.table.id, item.predicted)
        except (IndexError, ValueError, sqlite3.Error) as error:
            predicted = repr(error)
        verdicts.append(predicted == gold)
    return verdicts, time.perf_counter() - start


def with_sqlalchemy(path: Path, asked: list[Item]) -> tuple[list[bool], float]:
    import sqlalchemy

    engine = sqlalchemy.create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:

        def execute(sql: str, bound: dict[str, Any]) -> list[tuple[Any, ...]]:
            return [tuple(row) for row in connection.execute(sqlalchemy.text(sql), bound)]

        return official(asked, execute)


def with_sqlite3(path: Path, asked: list[Item]) -> tuple[list[bool], float]:
    connection = sqlite3.connect(path)
    try:
        return official(asked, lambda sql, bound: connection.execute(sql, bound).fetchall())
    finally:
        connection.close()


# ------------------------------------------------------------------------------------------------ the figures


_WHO = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)


def cpu_seconds() -> float:
    """CPU time of this process and of its children that have ended."""
    spent = (resource.getrusage(who) for who in _WHO)
    return sum(usage.ru_utime + usage.ru_stime for usage in spent)


def measured(asked: list[Item], workers: int, results: Path, known: bool) -> tuple[list[bool], float, float, float]:
    """`ours` in this process: verdicts, seconds, seconds of CPU, and peak memory in MB, its own and its workers'.

    With `known`, gold's results are put into the file beforehand, untimed.
    """
    import pyarrow as pa

    pa.array([])  # imports pandas; imports are outside the timed part of the official way, too
    truths = None
    if known:
        gold = ours(asked, workers, results).gold
        keep(results, gold, lambda line: None)
        truths = fingerprints([outcome for _, outcome in gold])
    before = cpu_seconds()
    scored = ours(asked, workers, results, truths)
    return scored.verdicts, scored.seconds, cpu_seconds() - before, peak_mb(os.getpid()) + scored.workers_mb


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--archive",
        type=Path,
        default=Path(os.environ.get("T2S_WIKISQL_ARCHIVE", "../shared/wikisql/data.tar.bz2")),
        help="WikiSQL's data.tar.bz2 or its unpacked folder",
    )
    parser.add_argument("--predictions", type=Path, help="a predictions.parquet; mutations of gold otherwise")
    parser.add_argument("--wrong", type=float, default=0.3, help="share of mutated predictions")
    parser.add_argument("--limit", type=int, help="questions; all of the split otherwise")
    parser.add_argument("--workers", type=int, default=2, help="SQL workers")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    if options.limit is not None and options.limit < 1:
        parser.error("--limit: at least one question is needed")
    asked = items(options.archive, options.predictions, options.wrong, options.limit)
    if not asked:
        parser.error("no question is left: the predictions hold none of the test split's that parses")

    # Each in a process of its own, whose memory is not that of reading the whole archive, which comes before.
    spawn = multiprocessing.get_context("spawn")
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        for way in ("cold", "gold kept"):
            with ProcessPoolExecutor(1, mp_context=spawn) as pool:
                results = Path(folder) / "results"
                figures[way] = pool.submit(measured, asked, options.workers, results, way != "cold").result()
            _, seconds, cpu, _ = figures[way]
            print(f"ours, {way}: {len(asked):,} questions in {seconds:.2f} s, {cpu:.2f} s of CPU", flush=True)
    mine, cold, cold_cpu, cold_peak = figures["cold"]
    again, seconds, cpu, peak = figures["gold kept"]
    assert again == mine, "verdicts depend on what is kept"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "test.db"
        build_database(list({i.table.id: i.table for i in asked}.values()), path)
        before = cpu_seconds()
        theirs, baseline = with_sqlalchemy(path, asked)
        baseline_cpu = cpu_seconds() - before
        print(f"official way: {baseline:.1f} s, {baseline_cpu:.1f} s of CPU", flush=True)
        before = cpu_seconds()
        _, lean = with_sqlite3(path, asked)
        lean_cpu = cpu_seconds() - before
        print(f"sqlite3 alone: {lean:.1f} s, {lean_cpu:.1f} s of CPU", flush=True)
    report = {
        "questions": len(asked),
        "seconds": round(seconds, 2),
        "baseline_seconds": round(baseline, 2),
        "speedup": round(baseline / seconds, 2),
        "speedup_is": "with gold's results kept by content, as t2s evaluate scores; the baseline executes all",
        "peak_rss_mb": round(max(peak, cold_peak), 1),
        "cold_seconds": round(cold, 2),
        "cold_speedup": round(baseline / cold, 2),
        "cpu_seconds": round(cpu, 2),
        "cold_cpu_seconds": round(cold_cpu, 2),
        "baseline_cpu_seconds": round(baseline_cpu, 2),
        "sqlite3_seconds": round(lean, 2),
        "sqlite3_cpu_seconds": round(lean_cpu, 2),
        "workers": options.workers,
        "right": sum(mine),
        "verdicts_that_differ": sum(a != b for a, b in zip(mine, theirs)),
    }
    print(" ".join(f"{key}={value}" for key, value in report.items()))
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
