"""The reader of one's own data: three kinds of database give the same dataset, and bad input says all that is wrong."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb
import pytest

from t2s_assets.text2sql import prepare
from t2s_assets.text2sql.datasets.own import read_database
from t2s_assets.text2sql.errors import ConfigError, DataError
from t2s_assets.text2sql.json_lines import whole_rows
from t2s_assets.text2sql.storage import Project, read_manifest
from t2s_assets_tests.own_data import QUESTIONS, add_library, write_csv, write_duckdb, write_sqlite
from t2s_assets_tests.projects import ProjectFiles

silent = [].append


def make_all(project: Project) -> dict[str, dict[str, Any]]:
    return {
        "tables": prepare.make_tables(project, "library", silent),
        "questions": prepare.make_questions(project, "library", silent),
        "sql": prepare.make_sql(project, "library", silent),
    }


def test_three_kinds_of_database_give_the_same_answers(tmp_path: Path) -> None:
    """Types differ where SQLite has none; what the questions return does not."""
    found = {}
    writers: dict[str, Callable[[Path], Path]] = {"a.duckdb": write_duckdb, "b.sqlite": write_sqlite, "c": write_csv}
    for name, write in writers.items():
        (tmp_path / f"project-{name}").mkdir()
        files = ProjectFiles(tmp_path / f"project-{name}")
        dialect = "sqlite" if name == "b.sqlite" else "duckdb"
        add_library(files, databases=str(write(files.root / name)), dialect=dialect)
        facts = make_all(files.project)
        assert facts["sql"]["failures"] == [] and facts["sql"]["gold_without_a_normal_form"] == []
        assert facts["sql"]["gold_without_an_answer"] == {}
        assert sum(facts["questions"]["questions"].values()) == len(QUESTIONS)
        rows = prepare.load_sql(files.project, "library")
        found[name] = {i: (r["split"], r["fingerprint"], r["category"]) for i, r in rows.items()}
        (database,) = prepare.load_tables(files.project, "library").values()
        books = next(s for s in database.schemas if s.name == "books")
        shown = {c.name: c.shown_type for c in books.columns}
        assert shown["id"] == "integer" and shown["title"] == "text"
        assert shown["published"] == ("text" if dialect == "sqlite" else "date")
        assert prepare.gold_against_gold(files.project, "library", silent)["wrong"] == []
    first, *others = found.values()
    assert all(other == first for other in others)


def test_all_problems_come_at_once_with_their_lines(project_files: ProjectFiles) -> None:
    lines = [
        {"question": "fine?", "sql": "SELECT 1"},
        "{cut short",
        {"question": " ", "sql": 3},
        {"question": "x", "sql": "SELECT 1", "databse": "library", "split": "dev", "tables": ["nope"]},
        {"question": "x", "sql": "SELECT 1", "database": "other", "id": ""},
        {"question": "x", "sql": "SELECT 1", "id": "q1"},
        ["no object"],
        '{"question": "\\ud800", "sql": "SELECT 1"}',
    ]
    add_library(project_files, [line if isinstance(line, str) else json.dumps(line) for line in lines])
    with pytest.raises(DataError) as caught:
        prepare.make_tables(project_files.project, "library", silent)
    message = str(caught.value)
    for wanted in (
        "questions.jsonl:2: not JSON",
        "questions.jsonl:3: question must be a non-empty string; got ' '",
        "questions.jsonl:3: sql must be a non-empty string; got 3",
        "questions.jsonl:4: unknown key 'databse'; known are question, sql, database, tables, split, id",
        "questions.jsonl:4: split must be one of train, validation, test; got 'dev'",
        "questions.jsonl:4: tables: no 'nope'; there are Loans, authors, books",
        "questions.jsonl:5: database must be one of library; got 'other'",
        "questions.jsonl:5: id must be a non-empty string",
        "questions.jsonl:6: id 'q1' was given before, in line 1",
        "questions.jsonl:7: a JSON object is wanted",
        "questions.jsonl:8: question holds half a character",
    ):
        assert wanted in message
    assert not project_files.project.path("library", "tables").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"databases": "missing.duckdb"}, "missing.duckdb: no such file"),
        ({"databases": {"a": "missing.duckdb", "b": "gone.sqlite"}}, "2 problems in its data"),
        ({"databases": "../.."}, "is a folder without CSV or Parquet files"),
        ({"databases": "dataset.yaml"}, "neither a DuckDB, SQLite or Parquet file"),
        ({"databases": "$NO_SUCH_FOLDER/x"}, "set the environment variable NO_SUCH_FOLDER"),
        ({"questions": "missing.jsonl"}, "missing.jsonl: cannot be read"),
    ],
)
def test_files_that_cannot_be_read(project_files: ProjectFiles, settings: dict[str, Any], message: str) -> None:
    add_library(project_files, **settings)
    with pytest.raises(DataError) as caught:
        prepare.make_tables(project_files.project, "library", silent)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reader": "magic"}, "reader: one of wikisql, own is wanted; got 'magic'"),
        ({"dialect": "dbase"}, "dialect: not among "),
        ({"split": {"test": 0.9, "validation": 0.2}}, "split: validation and test are shares"),
        ({"split": {"tests": 0.1}}, "split.tests: unknown key; known here: validation, test, seed"),
        ({"source": {"kind": "bundled"}}, "source: unknown key; known here: reader, description, databases"),
        ({"databases": {}}, "databases"),
    ],
)
def test_broken_settings(project_files: ProjectFiles, settings: dict[str, Any], message: str) -> None:
    add_library(project_files, **settings)
    with pytest.raises(ConfigError) as caught:
        project_files.project.dataset("library")
    assert message in str(caught.value)


def test_what_cannot_be_gold_is_left_out_and_listed(project_files: ProjectFiles) -> None:
    bad = [
        ("a\u2028?", "SELEC 1"),
        ("b?", "SELECT nam FROM authors"),
        ("c?", "SELECT * FROM read_csv('/etc/passwd')"),
        {
            "question": "d?",
            "sql": "SELECT title FROM books JOIN authors ON author_id = authors.id",
            "tables": ["books"],
        },
        ("e?", "SELECT 1 / CAST(name AS INTEGER) FROM authors"),
        ("f?", "SELECT name FROM authors WHERE current_date > DATE '2024-01-01'"),
    ]
    add_library(project_files, [*QUESTIONS, *bad])
    facts = make_all(project_files.project)
    folder = project_files.project.path("library", "questions")
    listed = whole_rows(folder / "left_out.jsonl")
    first = len(QUESTIONS) + 1
    assert [out["where"] for out in listed] == [
        f"questions.jsonl:{n}" for n in (first, first + 2, first + 3, first + 5)
    ]
    assert (
        facts["questions"]["left_out"] == 4
        and listed[3]["reason"].startswith("reads the clock")
        and "its `tables` do not name" in listed[2]["reason"]
    )
    assert [f["where"] for f in facts["sql"]["failures"]] == [f"questions.jsonl:{n}" for n in (first + 1, first + 4)]
    assert '"nam"' in facts["sql"]["failures"][0]["message"]
    usable = prepare.load_usable(project_files.project, "library")
    assert len(usable) == len(QUESTIONS)
    assert read_manifest(folder, made_by="")["left_out_first"] == listed


def test_a_dataset_of_the_wrong_dialect_is_refused_with_the_first_reason(project_files: ProjectFiles) -> None:
    add_library(project_files, [("a?", "SELECT TOP 3 [name] FROM authors")])
    prepare.make_tables(project_files.project, "library", silent)
    with pytest.raises(DataError, match=r"none of its 1 questions .* dialect: duckdb.*questions\.jsonl:1"):
        prepare.make_questions(project_files.project, "library", silent)


def test_splits_that_are_given_are_kept_and_leaks_are_found(project_files: ProjectFiles) -> None:
    given = [
        {"question": "Who?", "sql": "SELECT name FROM authors", "split": "train"},
        {"question": "who? ", "sql": "SELECT name FROM authors WHERE id > 0", "split": "test"},
        {"question": "Whom?", "sql": "SELECT name FROM authors", "split": "validation"},
    ]
    add_library(project_files, given)
    facts = make_all(project_files.project)
    assert facts["questions"]["questions"] == {"train": 1, "test": 1, "validation": 1}
    assert facts["questions"]["split_by"] == "given with the questions"
    asked, same_gold = prepare.leaks(project_files.project, "library")
    assert asked == ["questions.jsonl:2 (test) and questions.jsonl:1 (train)"]
    assert same_gold == [("q1", "q3")]


def test_a_split_for_some_is_an_error(project_files: ProjectFiles) -> None:
    add_library(project_files, [{"question": "a", "sql": "SELECT 1", "split": "train"}, ("b", "SELECT 2")])
    with pytest.raises(DataError, match="1 questions give a split and 1 do not"):
        prepare.make_tables(project_files.project, "library", silent)


def test_several_databases_are_split_by_database(project_files: ProjectFiles) -> None:
    paths, questions = {}, []
    for i in range(10):
        name = f"d{i}"
        paths[name] = str(write_duckdb(project_files.root / f"{name}.duckdb"))
        questions += [{"question": q, "sql": sql, "database": name} for q, sql in QUESTIONS[:3]]
    add_library(project_files, questions, databases=paths)
    facts = make_all(project_files.project)
    assert facts["tables"]["tables"] == dict.fromkeys(paths, 3)
    assert facts["questions"]["split_by"].startswith("dealt out by database")
    assert facts["questions"]["questions"] == {"train": 21, "test": 6, "validation": 3}


def test_sqlite_keeps_whole_numbers_and_counts_cells_that_are_none(project_files: ProjectFiles) -> None:
    path = project_files.root / "odd.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE t (a INTEGER, b INTEGER, c REAL, d, e TEXT)")
        connection.executemany("INSERT INTO t VALUES (?, ?, ?, ?, ?)", [(1, "x", 1.5, 7, "7"), (2, 3, 2, 8, "y")])
        connection.commit()
    add_library(project_files, [("a?", "SELECT a, b, c, d, e FROM t")], databases=str(path), dialect="sqlite")
    facts = make_all(project_files.project)
    assert facts["tables"]["number_cells_that_are_none"] == 1
    (database,) = prepare.load_tables(project_files.project, "library").values()
    assert [c.sql_type for c in database.schemas[0].columns] == ["BIGINT", "BIGINT", "DOUBLE", "BIGINT", "VARCHAR"]


def test_types_of_duckdb_survive(project_files: ProjectFiles) -> None:
    path = project_files.root / "types.duckdb"
    with closing(duckdb.connect(str(path))) as connection:
        connection.execute(
            "CREATE TABLE t AS SELECT 1::HUGEINT AS h, 2::TINYINT AS i, 1.5::FLOAT AS f, TRUE AS b, "
            "DATE '2024-01-31' AS d, TIME '10:00' AS tm, TIMESTAMP '2024-01-31 10:00:00' AS ts, "
            "TIMESTAMPTZ '2024-01-31 10:00:00+02' AS tz, 1.25::DECIMAL(9,3) AS n, [1] AS l, 'x'::VARCHAR AS s, "
            "[1.25::DECIMAL(9,3)] AS m"
        )
    sql = (
        "SELECT i // 2, b AND TRUE, d + INTERVAL 1 DAY, hour(tm), date_trunc('month', ts), hour(tz), n * 2, l, s, m "
        "FROM t"
    )
    add_library(project_files, [("a?", sql)], databases=str(path))
    facts = make_all(project_files.project)
    assert facts["sql"]["failures"] == []
    (database,) = prepare.load_tables(project_files.project, "library").values()
    shown = {c.name: c.shown_type for c in database.schemas[0].columns}
    assert shown == {
        **{"h": "real", "i": "integer", "f": "real", "b": "boolean", "d": "date", "tm": "time", "ts": "timestamp"},
        **{"tz": "timestamp", "n": "decimal", "l": "text", "s": "text", "m": "text"},
    }


def test_tables_of_other_schemas_are_left_out_and_said(project_files: ProjectFiles) -> None:
    path = project_files.root / "schemas.duckdb"
    with closing(duckdb.connect(str(path))) as connection:
        connection.execute("CREATE TABLE t (a INTEGER); CREATE SCHEMA old; CREATE TABLE old.u (b INTEGER)")
    add_library(project_files, [("a?", "SELECT a FROM t")], databases=str(path))
    said: list[str] = []
    assert prepare.make_tables(project_files.project, "library", said.append)["tables"] == {"schemas": 1}
    assert any("left out old.u" in line for line in said)


def test_a_duckdb_file_is_not_opened_anew_for_each_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "many.duckdb"
    with duckdb.connect(str(path)) as connection:
        for number in range(5):
            connection.execute(f"CREATE TABLE t{number} AS SELECT {number} AS n")
    opened = []
    connect = duckdb.connect

    def counted(*args: Any, **options: Any) -> duckdb.DuckDBPyConnection:
        """Marks what it opens by a setting that all connections to one instance share."""
        connection = connect(*args, **options)
        setting = "perfect_ht_threshold"
        opened.append(connection.execute(f"SELECT current_setting('{setting}')").fetchall() != [(7,)])
        connection.execute(f"SET GLOBAL {setting} = 7")
        return connection

    monkeypatch.setattr(duckdb, "connect", counted)
    assert [t.data["n"].to_pylist() for t in read_database(path)] == [[n] for n in range(5)]
    assert sum(opened) == 2  # once for the names of its tables
    with connect(str(path)) as connection:  # nothing is left open
        connection.execute("DROP TABLE t0")


def test_what_is_broken_in_other_schemas_is_left_out_unread(tmp_path: Path) -> None:
    path = tmp_path / "schemas.duckdb"
    with closing(duckdb.connect(str(path))) as connection:
        connection.execute("CREATE TABLE t (a INTEGER); CREATE SCHEMA old; CREATE TABLE old.gone (b INTEGER)")
        connection.execute("CREATE VIEW old.broken AS FROM old.gone; DROP TABLE old.gone")
    said: list[str] = []
    assert [t.schema.name for t in read_database(path, said.append)] == ["t"]
    assert said == [f"{path}: left out old.broken: only tables of the schema main are read"]


def test_a_database_whose_tables_are_all_in_other_schemas_says_so(tmp_path: Path) -> None:
    path = tmp_path / "schemas.duckdb"
    with closing(duckdb.connect(str(path))) as connection:
        connection.execute("CREATE SCHEMA old; CREATE TABLE old.u (b INTEGER)")
    with pytest.raises(DataError, match=r"no table in its schema main, .* a database that has old\.u there: CREATE"):
        read_database(path)


@pytest.mark.parametrize("view", ["SELECT nope FROM gone", "SELECT CAST(a AS INTEGER) AS a FROM words"])
def test_a_table_that_cannot_be_read_says_how_to_go_on(tmp_path: Path, view: str) -> None:
    path = tmp_path / "broken.duckdb"
    with closing(duckdb.connect(str(path))) as connection:
        connection.execute("CREATE TABLE words AS SELECT 'x' AS a; CREATE TABLE gone (nope INTEGER)")
        connection.execute(f"CREATE VIEW v AS {view}; DROP TABLE gone")
    with pytest.raises(DataError, match=r"'v' cannot be read .*; mend or remove that table or view, or give a copy"):
        read_database(path)


def test_a_column_that_prompts_cannot_show_is_refused(project_files: ProjectFiles) -> None:
    path = project_files.root / "odd.duckdb"
    with closing(duckdb.connect(str(path))) as connection:
        connection.execute('CREATE TABLE t ("a\nb" INTEGER)')
    add_library(project_files, [("a?", "SELECT 1")], databases=str(path))
    with pytest.raises(DataError, match=r"column 'a\\nb' cannot be shown as it is .* to 'a b'"):
        prepare.make_tables(project_files.project, "library", silent)
