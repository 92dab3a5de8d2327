"""Files of Spider and BIRD as they are: arrays with their keys, and databases in folders of their own."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from t2s_assets.text2sql import prepare
from t2s_assets.text2sql.data_checks.check import check
from t2s_assets.text2sql.datasets.sqlite_types import affinity_of
from t2s_assets.text2sql.errors import DataError
from t2s_assets.text2sql.execution import SqlExecutor
from t2s_assets_tests.projects import ProjectFiles

TABLES = {
    "museum": [
        "CREATE TABLE visitor (id INTEGER PRIMARY KEY, name TEXT, age TEXT, joined DATE, fee DECIMAL(6,2))",
        "INSERT INTO visitor VALUES (1, 'Ida', '31', '2019-04-01', 10), (2, 'Per', '', '', 12.5), "
        "(3, 'Åsa', 'unknown', NULL, NULL)",
        "CREATE TABLE visit (visitor_id INTEGER, hall TEXT, year DATE)",
        "INSERT INTO visit VALUES (1, 'A', 2019), (1, 'B', '2020-01-01'), (2, 'A', 2021)",
    ],
    "harbour": [
        "CREATE TABLE ship (id INTEGER PRIMARY KEY, name TEXT, tons REAL)",
        "INSERT INTO ship VALUES (1, 'Vega', 10.5), (2, 'Nova', 20)",
    ],
    "unasked": ["CREATE TABLE t (a INTEGER)"],
}
SPIDER = [
    {
        "db_id": "museum",
        "query": "SELECT T1.name, count(*) FROM visitor AS T1 JOIN visit AS T2 ON T1.id = T2.visitor_id GROUP BY T1.id",
        "query_toks": ["SELECT"],
        "query_toks_no_value": ["select"],
        "question": "How often did each visitor come?",
        "question_toks": ["How"],
        "sql": {"from": {}},
    },
    {"db_id": "museum", "query": "SELECT strftime('%Y', joined) FROM visitor", "question": "Who joined in what year?"},
    {"db_id": "museum", "query": "SELECT sum(age), avg(age) FROM visitor", "question": "How old are they together?"},
    {"db_id": "harbour", "query": 'SELECT name FROM ship WHERE name = "Vega"', "question": "Which ship is Vega?"},
]
BIRD = [
    {
        "question_id": i,
        "db_id": q["db_id"],
        "question": q["question"],
        "evidence": "a hint",
        "SQL": q["query"],
        "difficulty": "simple",
    }
    for i, q in enumerate(SPIDER)
]


def write_spider(files: ProjectFiles, questions: Any, **settings: Any) -> ProjectFiles:
    """A dataset `spider` with its databases in `database/NAME/NAME.sqlite`."""
    for name, statements in TABLES.items():
        folder = files.root / "database" / name
        folder.mkdir(parents=True)
        (folder / "schema.sql").write_text(";".join(statements), encoding="utf-8")
        with closing(sqlite3.connect(folder / f"{name}.sqlite")) as connection:
            for statement in statements:
                connection.execute(statement)
            connection.commit()
    text = questions if isinstance(questions, str) else json.dumps(questions, indent=4)
    (files.root / "train_spider.json").write_text(text, encoding="utf-8")
    content = {
        "reader": "own",
        "description": "for a test",
        "databases": "../../database",
        "questions": "../../train_spider.json",
        "dialect": "sqlite",
    }
    files.yaml("spider", "dataset", content | settings)
    return files


def make_all(files: ProjectFiles) -> tuple[dict[str, Any], list[str]]:
    said: list[str] = []
    facts = {
        "tables": prepare.make_tables(files.project, "spider", said.append),
        "questions": prepare.make_questions(files.project, "spider", said.append),
        "sql": prepare.make_sql(files.project, "spider", said.append),
    }
    return facts, said


def mentions(said: Iterable[str], text: str) -> int:
    return sum(text in line for line in said)


@pytest.mark.parametrize("questions", [SPIDER, BIRD])
def test_questions_are_read_as_they_are(project_files: ProjectFiles, questions: list[dict[str, Any]]) -> None:
    facts, _ = make_all(write_spider(project_files, questions))
    assert facts["tables"]["tables"] == {"harbour": 1, "museum": 2}
    assert facts["questions"]["left_out"] == 0 and facts["sql"]["failures"] == []
    read = {q.text: q for q in prepare.load_questions(project_files.project, "spider")}
    often = read["How often did each visitor come?"]
    assert often.where == "train_spider.json:1" and often.id == "q1" and often.table_id == "museum"
    assert often.sql.endswith('GROUP BY T1."id", T1."name"')


@pytest.mark.parametrize(
    ("questions", "told"),
    [
        (SPIDER, {"query_toks": 1, "query_toks_no_value": 1, "question_toks": 1, "sql": 1}),
        (BIRD, {"evidence": 4, "difficulty": 4, "question_id": 4}),
        ([q | {"annotator": "x"} for q in SPIDER[1:]], {"annotator": 3}),
    ],
)
def test_keys_that_are_not_read_are_told_once(
    project_files: ProjectFiles, questions: list[dict[str, Any]], told: dict[str, int]
) -> None:
    said: list[str] = []
    prepare.make_tables(write_spider(project_files, questions).project, "spider", said.append)
    assert mentions(said, "is not read") == len(told)
    for key, n in told.items():
        assert mentions(said, f"train_spider.json: key {key!r} of {n} questions is not read") == 1


def test_lines_hold_such_records_too(project_files: ProjectFiles) -> None:
    facts, _ = make_all(write_spider(project_files, "\n".join(map(json.dumps, BIRD))))
    assert sum(facts["questions"]["questions"].values()) == len(BIRD)


@pytest.mark.parametrize(
    ("questions", "message"),
    [
        ('[{"question": "cut', "begins as a JSON array and is none"),
        ("[]", "no question in it"),
        ([SPIDER[0], "no object"], "train_spider.json:2: a JSON object is wanted"),
        ([SPIDER[0], SPIDER[1] | {"db_id": "gone"}], "train_spider.json:2: database must be one of museum; got 'gone'"),
        ([q | {"splits": "train"} for q in SPIDER], "unknown key 'splits'"),
        ([SPIDER[0] | {"id": 1}, SPIDER[1] | {"id": 1}], "id '1' was given before, in record 1"),
        ([SPIDER[0] | {"sql": "SELECT 1"}], "train_spider.json:1: unknown key 'query'"),
    ],
)
def test_broken_arrays(project_files: ProjectFiles, questions: Any, message: str) -> None:
    with pytest.raises(DataError) as caught:
        prepare.make_tables(write_spider(project_files, questions).project, "spider", [].append)
    assert message in str(caught.value)


def test_one_mistake_in_every_record_is_told_once(project_files: ProjectFiles) -> None:
    questions = [q | {"splits": "train"} for q in SPIDER]
    with pytest.raises(DataError, match=r"splits'.*is split meant\? \(and 3 more like it\)") as caught:
        prepare.make_tables(write_spider(project_files, questions).project, "spider", [].append)
    assert str(caught.value).count("splits") == 1


def test_check_data_puts_broken_records_of_an_array_aside(project_files: ProjectFiles) -> None:
    found = check(write_spider(project_files, [SPIDER[0], {"db_id": "museum"}, *SPIDER[1:]]).project, "spider")
    assert found.complete and sum(found.questions.values()) == len(SPIDER)
    assert {f.where for f in found.errors if f.kind == "unreadable"} == {"train_spider.json:2"}


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        # DECIMAL keeps 10 as a whole number beside 12.5, so that 10 / 4 is 2.
        ("SELECT fee / 4 FROM visitor", "whether fee is one in fee / 4 cannot be told"),
        ("SELECT joined FROM visitor WHERE joined > 2010", "compares text with a number"),
        # DATE makes the number 2010 of '2010', and all text is greater.
        ("SELECT name FROM visitor WHERE joined > '2010'", "the column joined is declared as numbers"),
        ("SELECT name FROM visitor WHERE joined BETWEEN '2019' AND '2020-01-01'", "'2019' may be a number beside it"),
        ("SELECT name FROM visitor WHERE joined > age", "age may be a number beside it"),
        ("SELECT name FROM visitor WHERE strftime('%Y', joined) <= joined", "than which all text is greater"),
        ("SELECT hall FROM visit WHERE year > '2019'", "the column year holds text and numbers"),
        ("SELECT name, count(*) FROM visitor", "selects name without grouping by it"),
    ],
)
def test_what_declared_types_and_rows_leave_open_is_left_out(
    project_files: ProjectFiles, query: str, reason: str
) -> None:
    added = {"db_id": "museum", "query": query, "question": "Which?"}
    facts, _ = make_all(write_spider(project_files, [*SPIDER, added]))
    (left_out,) = facts["questions"]["left_out_first"]
    assert reason in left_out["reason"] and left_out["where"] == "train_spider.json:5"


def test_results_are_those_of_sqlite(project_files: ProjectFiles) -> None:
    write_spider(project_files, SPIDER)
    make_all(project_files)
    database = prepare.load_tables(project_files.project, "spider")["museum"]
    path = project_files.root / "database" / "museum" / "museum.sqlite"
    asked = {q["question"]: q["query"] for q in SPIDER if q["db_id"] == "museum"}
    with SqlExecutor() as executor, closing(sqlite3.connect(path)) as connection:
        for q in prepare.load_questions(project_files.project, "spider"):
            if q.table_id == "museum":
                mine = executor.run_one(database.database, q.sql).rows
                assert sorted(map(tuple, mine), key=repr) == sorted(connection.execute(asked[q.text]), key=repr)


@pytest.mark.parametrize(
    ("declared", "affinity"),
    [
        ("BIGINT", "INTEGER"),
        ("POINT", "INTEGER"),
        ("varchar(20)", "TEXT"),
        ("CHARINT", "INTEGER"),
        ("", "BLOB"),
        ("double precision", "REAL"),
        ("DATE", "NUMERIC"),
        ("STRING", "NUMERIC"),
    ],
)
def test_affinities_as_sqlite_documents_them(declared: str, affinity: str) -> None:
    assert affinity_of(declared) == affinity


def test_a_folder_of_databases_that_no_question_names_is_read_whole(tmp_path: Path) -> None:
    files = write_spider(ProjectFiles(tmp_path), [{k: v for k, v in q.items() if k != "db_id"} for q in SPIDER])
    with pytest.raises(DataError, match="database must be one of harbour, museum, unasked; got None"):
        prepare.make_tables(files.project, "spider", [].append)
