"""Reading WikiSQL into `tables`, `questions` and `sql`, beside plain Python with json and sqlite3, in one run.

    python benchmarks/reading.py [--archive FILE] [--json FILE]

Ours makes the three Parquet assets from the archive: every query is written as SQL, read back, and executed in
DuckDB in guarded child processes, with fingerprints of its result. The baseline does the same work the plain way:
`tarfile` and `json`, one in-memory SQLite database a table, the query with bound parameters, its result hashed, JSON
lines out; it checks nothing. Memory is the sum of the peaks of the process and of its largest child.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import sqlite3
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

from t2s_assets.text2sql import prepare
from t2s_assets.text2sql.query import AGGREGATES, OPERATORS, condition_number, parse_number
from t2s_assets.text2sql.storage import Project

SPLITS = ("train", "dev", "test")


def ours(archive: Path, folder: Path) -> int:
    """The three assets in `folder`. Returns the number of questions."""
    configs = folder / "configs" / "wikisql"
    configs.mkdir(parents=True)
    source = {"kind": "local", "path": str(archive)}
    (configs / "dataset.yaml").write_text(json.dumps({"description": "WikiSQL", "source": source}))
    project = Project(configs=configs.parent, storage=folder / "storage")
    say = lambda line: print(f"  {line}", file=sys.stderr)  # noqa: E731
    prepare.make_tables(project, "wikisql", say)
    prepare.make_questions(project, "wikisql", say)
    return sum(prepare.make_sql(project, "wikisql", say)["questions"].values())


def plain(archive: Path, folder: Path) -> int:
    """The same work with json and sqlite3. Returns the number of questions."""
    tables: dict[str, dict[str, Any]] = {}
    questions = []
    with tarfile.open(archive) as tar:
        for member in tar:
            name = Path(member.name).name
            lines = tar.extractfile(member) if member.isfile() and name.endswith(".jsonl") else None
            if lines is None:
                continue
            for line in lines:
                row = json.loads(line)
                if name.endswith(".tables.jsonl"):
                    tables[row["id"]] = row
                elif name.removesuffix(".jsonl") in SPLITS:
                    questions.append(row)
    asked: dict[str, list[dict[str, Any]]] = {}
    for question in questions:
        asked.setdefault(question["table_id"], []).append(question)
    with (folder / "sql.jsonl").open("w") as out:
        for table_id, members in asked.items():
            table = tables[table_id]
            connection = sqlite3.connect(":memory:")
            columns = ", ".join(f"col{i} {t}" for i, t in enumerate(table["types"]))
            connection.execute(f"CREATE TABLE t ({columns})")
            rows = [
                [parse_number(str(c)) if t == "real" else str(c).lower() for c, t in zip(row, table["types"])]
                for row in table["rows"]
            ]
            connection.executemany(f"INSERT INTO t VALUES ({', '.join('?' * len(table['types']))})", rows)
            for question in members:
                sql, bound = _statement(question["sql"], table["types"])
                result = connection.execute(sql, bound).fetchall()
                digest = hashlib.sha256(json.dumps(result).encode()).hexdigest()
                out.write(json.dumps({"question": question["question"], "sql": sql, "result": digest}) + "\n")
            connection.close()
    return len(questions)


def _statement(query: dict[str, Any], types: list[str]) -> tuple[str, list[Any]]:
    column, aggregate = f"col{query['sel']}", AGGREGATES[query["agg"]]
    tests, bound = [], []
    for index, operator, value in query["conds"]:
        number = condition_number(value) if types[index] == "real" else None
        bound.append(number if number is not None else str(value).lower())
        tests.append(f"col{index} {OPERATORS[operator]} ?")
    where = f" WHERE {' AND '.join(tests)}" if tests else ""
    return f"SELECT {f'{aggregate}({column})' if aggregate else column} FROM t{where}", bound


def peak_gb() -> float:
    unit = 1 if sys.platform == "darwin" else 1024
    both = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(both) * unit / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--archive", type=Path, default=os.environ.get("T2S_WIKISQL_ARCHIVE"))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.archive is None or not options.archive.exists():
        parser.error(f"no WikiSQL archive at {options.archive}; give --archive or set T2S_WIKISQL_ARCHIVE")
    seconds = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, read in (("ours", ours), ("plain", plain)):
            place = Path(folder) / name
            place.mkdir()
            started = time.perf_counter()
            questions = read(options.archive.resolve(), place)
            seconds[name] = time.perf_counter() - started
            print(f"{name:<6}{questions:>8,} questions {seconds[name]:8.1f} s", flush=True)
            if name == "ours":
                peak = peak_gb()
    found = {
        "questions": questions,
        "seconds": round(seconds["ours"], 1),
        "baseline_seconds": round(seconds["plain"], 1),
        "speedup": round(seconds["plain"] / seconds["ours"], 2),
        "peak_rss_gb": round(peak, 2),
    }
    print(f"ratio {found['speedup']}, peak memory {found['peak_rss_gb']} GB")
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
