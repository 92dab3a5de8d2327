"""The worked example in examples/shop: its database, its questions, and the chain over them."""

from __future__ import annotations

import importlib.util
import json
import random
import re
import shutil
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import duckdb
import pytest
from sqlglot import exp, parse_one

from t2s_assets.text2sql.decoding.acceptance import Acceptance
from t2s_assets.text2sql.evaluation.predictions import make_predictions
from t2s_assets.text2sql.execution import Database, Job, Outcome, Relation, SqlExecutor
from t2s_assets.text2sql.prepare import load_questions, load_tables, make_questions, make_sql, make_tables
from t2s_assets.text2sql.prompt_datasets import make_prompts
from t2s_assets.text2sql.reports.report import make_report
from t2s_assets.text2sql.results import is_degenerate, result_fingerprints
from t2s_assets.text2sql.training import train
from t2s_assets_tests.conftest import ROOT
from t2s_assets_tests.projects import ProjectFiles

SHOP = ROOT / "examples" / "shop"
SECTIONS: dict[str, dict[str, Any]] = {
    "prompt": {"max_length": 700},
    "training": {"max_steps": 2, "batch_size": 2, "eval_steps": 2, "eval_examples": 2, "save_steps": 2},
    "decoding": {"grammar": "none", "max_new_tokens": 16},
    "evaluation": {"test_limit": 4, "validation_limit": 2, "latency_questions": 1, "baseline": False},
}
Content = dict[str, tuple[list[tuple[str, str]], list[tuple[Any, ...]]]]


@pytest.fixture(scope="module")
def questions() -> list[dict[str, str]]:
    return [json.loads(line) for line in (SHOP / "questions.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def content() -> Content:
    """Every table of the file that ships: columns with types, rows."""
    return _content(SHOP / "shop.duckdb")


def _content(path: Path) -> Content:
    with duckdb.connect(str(path), read_only=True) as connection:
        names = [row[0] for row in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()]
        return {
            name: (
                [(row[0], row[1]) for row in connection.execute(f"DESCRIBE {name}").fetchall()],
                connection.execute(f"FROM {name} ORDER BY ALL").fetchall(),
            )
            for name in names
        }


@pytest.fixture(scope="module")
def outcomes(content: Content, questions: list[dict[str, str]]) -> list[list[Outcome]]:
    """What each query returns on the database, and on two copies whose rows stand in another order."""
    draw = random.Random(5)
    databases = []
    for _ in range(3):
        relations = [Relation.from_rows(name, columns, rows) for name, (columns, rows) in content.items()]
        databases.append(Database.of(*relations))
        content = {n: (columns, draw.sample(rows, len(rows))) for n, (columns, rows) in content.items()}
    with SqlExecutor() as executor:
        return [executor.run([Job(database, q["sql"]) for q in questions]) for database in databases]


def test_the_script_makes_the_file_that_ships(tmp_path: Path, content: Content) -> None:
    _script().build(tmp_path / "shop.duckdb")
    assert _content(tmp_path / "shop.duckdb") == content
    assert (SHOP / "shop.duckdb").stat().st_size < 700_000


def _script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("shop_build", SHOP / "build.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_database_is_awkward_where_real_ones_are(content: Content) -> None:
    cells = [cell for _, rows in content.values() for row in rows for cell in row]
    texts = [cell for cell in cells if isinstance(cell, str)]
    types = {kind.split("(")[0] for columns, _ in content.values() for _, kind in columns}
    assert len(content) == 10
    assert None in cells and any("'" in t for t in texts) and any(not t.isascii() for t in texts)
    assert {"INTEGER", "VARCHAR", "DATE", "TIMESTAMP", "BOOLEAN", "DECIMAL", "DOUBLE"} <= types


def test_there_are_150_questions_asked_once_each(questions: list[dict[str, str]]) -> None:
    assert len(questions) == 150
    assert len({re.sub(r"\W+", " ", q["question"]).strip().lower() for q in questions}) == 150
    assert len({parse_one(q["sql"], read="duckdb").sql().lower() for q in questions}) == 150


def test_they_share_no_frame(questions: list[dict[str, str]]) -> None:
    """No opening of three words in more than 3 % of the questions."""
    openings = Counter(" ".join(q["question"].lower().split()[:3]) for q in questions)
    assert openings.most_common(1)[0][1] <= 4, openings.most_common(3)


def test_every_query_has_an_answer(questions: list[dict[str, str]], outcomes: list[list[Outcome]]) -> None:
    broken = [(q["question"], o.status, o.message) for q, o in zip(questions, outcomes[0]) if is_degenerate(o)]
    assert broken == []


def test_answers_do_not_depend_on_the_order_of_rows(
    questions: list[dict[str, str]], outcomes: list[list[Outcome]]
) -> None:
    unstable = []
    for question, *results in zip(questions, *outcomes):
        ordered = parse_one(question["sql"], read="duckdb").args.get("order") is not None
        fingerprints = {result_fingerprints(o)[0 if ordered else 1] for o in results}
        if len(fingerprints) > 1:
            unstable.append(question["question"])
    assert unstable == []


def test_sql_covers_the_whole_range(questions: list[dict[str, str]]) -> None:
    """How many queries have each feature, with the least that a reader of the example can learn from."""
    trees = [parse_one(q["sql"], read="duckdb") for q in questions]
    tables = [len({t.name for t in tree.find_all(exp.Table)}) for tree in trees]
    counts = {
        "one table, no condition": sum(
            n == 1 and not any(tree.find(exp.Where, exp.Group, exp.Order, exp.AggFunc, exp.Window) for tree in [t])
            for n, t in zip(tables, trees)
        ),
        "filter": sum(tree.find(exp.Where) is not None for tree in trees),
        "aggregate": sum(tree.find(exp.AggFunc) is not None for tree in trees),
        "two tables": sum(n == 2 for n in tables),
        "three tables and more": sum(n >= 3 for n in tables),
        "four tables and more": sum(n >= 4 for n in tables),
        "GROUP BY": sum(tree.find(exp.Group) is not None for tree in trees),
        "HAVING": sum(tree.find(exp.Having) is not None for tree in trees),
        "ORDER BY with LIMIT": sum(tree.args.get("limit") is not None for tree in trees),
        "sub-query": sum(len(list(tree.find_all(exp.Select))) > 1 for tree in trees),
        "CTE": sum(tree.find(exp.CTE) is not None for tree in trees),
        "window": sum(tree.find(exp.Window) is not None for tree in trees),
        "set operation": sum(isinstance(tree, exp.SetOperation) for tree in trees),
        "dates": sum(bool(re.search(r"DATE|YEAR|MONTH|DAY|HOUR|TIMESTAMP|_on\b|hired|opened", t.sql())) for t in trees),
    }
    wanted = dict.fromkeys(counts, 6) | {"filter": 60, "aggregate": 60, "GROUP BY": 35, "sub-query": 30, "dates": 20}
    assert {k: n for k, n in counts.items() if n < wanted[k]} == {}


def test_a_model_may_write_every_query(tmp_path: Path, questions: list[dict[str, str]]) -> None:
    """So that `t2s check-data shop` finds nothing, as the page says."""
    files = ProjectFiles(tmp_path)
    shutil.copytree(SHOP, files.project.configs / "shop")
    for make in (make_tables, make_questions):
        make(files.project, "shop", [].append)
    acceptance = Acceptance(load_tables(files.project, "shop")["shop"].schemas)
    stops = {q.text: acceptance.stops_at(q.sql) for q in load_questions(files.project, "shop")}
    assert len(stops) == len(questions) and {text: stop for text, stop in stops.items() if stop is not None} == {}


def test_the_whole_chain(tmp_path: Path, tiny_base: Path) -> None:
    """As the page walks it, with a tiny model in place of SmolLM2."""
    files = ProjectFiles(tmp_path)
    shutil.copytree(SHOP, files.project.configs / "shop", ignore=shutil.ignore_patterns("smollm2.yaml"))
    files.experiment("shop", "tiny", base=tiny_base, **SECTIONS)
    project, said = files.project, [].append
    for make in (make_tables, make_questions, make_sql):
        facts = make(project, "shop", said)
    assert facts["gold_that_does_not_run"] == {} and sum(facts["questions"].values()) == 150
    # The tiny tokenizer knows no words, so the ten tables are too long for it and linking must choose among them.
    facts = make_prompts(project, "shop", "tiny", said)
    assert facts["linking"]["train"]["linked"] > 0
    train(project, "shop", "tiny", log=said)
    make_predictions(project, "shop", "tiny", said)
    report = make_report(project, "shop", "tiny", said)
    assert report["n"] == 4 and report["of"] == facts["examples"]["test"]
