"""Every verdict of ours beside the official evaluator's, and the cause of each that differs (docs/agreement.md).

    python -m t2s_assets_tests.text2sql.agreement ARCHIVE [--split test] [--limit N] [--predictions FILE]

Predicted are the gold itself, mutations of it with each slot changed once, and a model's predictions where given.
"""

from __future__ import annotations

import argparse
import json
import random
import sqlite3
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from t2s_assets.text2sql.datasets.wikisql import Source, SourceTable, read_wikisql
from t2s_assets.text2sql.execution import Database, Job, SqlExecutor
from t2s_assets.text2sql.gold.sketch import Table
from t2s_assets.text2sql.metrics import exact_match
from t2s_assets.text2sql.query import Query, SketchError, condition_number, from_sql, parse_number, to_sql
from t2s_assets.text2sql.results import result_fingerprints
from t2s_assets.text2sql.schema import TableSchema
from t2s_assets_tests.text2sql.official import Official, Sketch, same_form

UNEXPLAINED = "unexplained"
TEXT_SUM = "SUM or AVG of a text column"
TWICE = "two conditions on one column"
INSIDE = "a number inside other text"
DIGITS = "results that differ after the twelfth digit"
SPELLING = "a number spelled otherwise (EM)"
NO_SKETCH = "SQL that says more than the sketch"


@dataclass
class Agreement:
    """How many verdicts of each kind of prediction were compared, and what the causes of differences are."""

    compared: Counter[str] = field(default_factory=Counter)
    right: Counter[str] = field(default_factory=Counter)
    causes: Counter[tuple[str, str]] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def differ(self, kind: str, cause: str, example: str) -> None:
        self.causes[kind, cause] += 1
        self.examples.setdefault(cause, example)


@dataclass(frozen=True)
class Case:
    """One prediction: `sketch` is None where its SQL text is no structured query."""

    kind: str
    id: str
    table: SourceTable
    gold: Sketch
    sketch: Sketch | None
    sql: str


def mutations(sketch: Sketch, table: SourceTable, draw: random.Random) -> Iterator[tuple[str, Sketch]]:
    """Neighbours of a query: each slot changed once, a condition left out, the conditions the other way round."""
    width = len(table.header)
    if width > 1:
        yield "column", sketch | {"sel": draw.choice([i for i in range(width) if i != sketch["sel"]])}
    yield "aggregate", sketch | {"agg": draw.choice([i for i in range(6) if i != sketch["agg"]])}
    conds = sketch["conds"]
    if not conds:
        return
    i = draw.randrange(len(conds))
    column, operator, value = conds[i]
    rest = conds[:i] + conds[i + 1 :]
    others = [c for c, kind in enumerate(table.types) if kind == table.types[column] and c != column]
    if others:
        yield "condition's column", sketch | {"conds": [*rest, [draw.choice(others), operator, value]]}
    yield "operator", sketch | {"conds": [*rest, [column, (operator + draw.randint(1, 2)) % 3, value]]}
    cells = [
        row[column] for row in table.rows if table.types[column] == "text" or parse_number(row[column]) is not None
    ]
    if cells:
        yield "value", sketch | {"conds": [*rest, [column, operator, draw.choice(cells)]]}
    yield "upper-case value", sketch | {"conds": [*rest, [column, operator, str(value).upper()]]}
    yield "condition left out", sketch | {"conds": rest}
    yield "condition added", sketch | {"conds": [*conds, [column, (operator + 1) % 3, value]]}
    yield "order of conditions", sketch | {"conds": conds[::-1]}


def cases(source: Source, split: str, limit: int | None, predicted: dict[str, str] | None) -> list[Case]:
    """Gold, its mutations, and a model's answers where there are any, on every question of a split or a sample."""
    tables = {t.id: t for t in source.tables if t.split == split}
    draw = random.Random(11)
    asked = [q for q in source.questions if q.split == split and tables[q.table_id].rows]
    if limit is not None and limit < len(asked):
        asked = draw.sample(asked, limit)
    found = []
    for question in sorted(asked, key=lambda q: q.table_id):
        table = tables[question.table_id]
        schema, gold = table.schema("t"), json.loads(question.query.to_json())
        for kind, sketch in (("gold", gold), *mutations(gold, table, draw)):
            sql = to_sql(Query.from_json(sketch, width=len(table.header)), schema)
            found.append(Case(kind, question.id, table, gold, sketch, sql))
        if predicted is not None and question.id in predicted:
            text = predicted[question.id]
            try:
                sketch = json.loads(from_sql(text, schema).to_json())
            except SketchError:
                sketch = None
            found.append(Case("model", question.id, table, gold, sketch, text))
    return found


def agreement(compared: list[Case], executor: SqlExecutor) -> Agreement:
    """Ours and the official verdicts on every case, EX and EM; cases of one table must follow one another."""
    schemas: dict[str, TableSchema] = {}
    databases: dict[str, Database] = {}
    for case in compared:
        t = case.table
        if t.id not in databases:
            schemas[t.id] = t.schema("t")
            databases[t.id] = Table(t.id, t.split, t.header, schemas[t.id], t.rows).database_as("t")
    prints = [result_fingerprints(o)[0] for o in executor.run([Job(databases[c.table.id], c.sql) for c in compared])]
    found, truth = Agreement(), {}
    official: tuple[str, Official] | None = None
    for case, ours in zip(compared, prints):
        t = case.table
        if official is None or official[0] != t.id:
            official = t.id, Official(t.types, t.rows)
        theirs = _official_result(official[1], case.sketch)
        if case.kind == "gold":
            truth = {"ours": ours, "theirs": theirs}
        ex = ours is not None and ours == truth["ours"], theirs == truth["theirs"]
        query = None if case.sketch is None else Query.from_json(case.sketch, width=len(t.header))
        gold = Query.from_json(case.gold, width=len(t.header))
        em = (
            exact_match(query, gold, schemas[t.id]),
            case.sketch is not None and same_form(case.sketch, case.gold),
        )
        found.compared[case.kind] += 1
        found.right[case.kind] += ex[0]
        about = f"{case.id}: {case.sql}"
        if ex[0] != ex[1]:
            found.differ(case.kind, cause(case, theirs, truth["theirs"]), f"EX ours {ex[0]}, {about}")
        if em[0] != em[1]:
            spelled = (
                em[0] and case.sketch is not None and same_form(*(_numbers(s, t) for s in (case.sketch, case.gold)))
            )
            found.differ(case.kind, SPELLING if spelled else UNEXPLAINED, f"EM ours {em[0]}, {about}")
    return found


def _official_result(official: Official, sketch: Sketch | None) -> Any:
    """The official result with parameters bound by column, as lib/dbengine.py does; the error's text where it fails."""
    if sketch is None:
        return "no structured query"
    try:
        return official.execute(sketch, by_column=True)
    except (IndexError, sqlite3.Error) as error:
        return repr(error)


def _numbers(sketch: Sketch, table: SourceTable) -> Sketch:
    """The sketch with the values of number columns as the numbers that they spell."""
    conds = [[c, o, condition_number(v) if table.types[c] == "real" else v] for c, o, v in sketch["conds"]]
    return sketch | {"conds": conds}


def cause(case: Case, theirs: Any, truth: Any) -> str:
    """Why two EX verdicts differ: the first of the known causes that the case shows."""
    if case.sketch is None:
        return NO_SKETCH
    types = case.table.types
    if any(s["agg"] > 3 and types[s["sel"]] == "text" for s in (case.sketch, case.gold)):
        return TEXT_SUM
    columns = [c for c, _, _ in case.sketch["conds"]]
    if len(set(columns)) < len(columns):
        return TWICE
    for sketch in (case.sketch, case.gold):
        if any(types[c] == "real" and isinstance(v, str) and parse_number(v) is None for c, _, v in sketch["conds"]):
            return INSIDE
    if isinstance(theirs, list) and isinstance(truth, list) and _rounded(theirs) == _rounded(truth):
        return DIGITS
    return UNEXPLAINED


def _rounded(cells: list[Any]) -> list[Any]:
    return [f"{cell:.12g}" if isinstance(cell, (int, float)) else cell for cell in cells]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path)
    parser.add_argument("--split", choices=["validation", "test"], default="test")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--predictions", type=Path)
    options = parser.parse_args()
    predicted = None
    if options.predictions:
        import pyarrow.parquet as pq

        rows = pq.read_table(options.predictions, columns=["id", "sql"]).to_pylist()
        predicted = {r["id"]: r["sql"] for r in rows}
    compared = cases(read_wikisql(options.archive), options.split, options.limit, predicted)
    with SqlExecutor() as executor:
        found = agreement(compared, executor)
    for kind, n in found.compared.items():
        causes = {c: k for (of, c), k in found.causes.items() if of == kind}
        print(f"{kind}: {n:,} compared, {found.right[kind]:,} right, {sum(causes.values())} differ: {causes}")
    for why, example in found.examples.items():
        print(f"  {why}: {example}")


if __name__ == "__main__":
    main()
