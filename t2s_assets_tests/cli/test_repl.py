"""`t2s repl`."""

from __future__ import annotations

import json
import re
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import duckdb
import pytest

from t2s_assets.cli import show
from t2s_assets.cli.repl import Session, lines
from t2s_assets.text2sql import feedback
from t2s_assets.text2sql.comparison.champion import CHAMPION
from t2s_assets.text2sql.dataset_config import OwnDataset, read_dataset
from t2s_assets.text2sql.datasets.own import read_own
from t2s_assets.text2sql.inference import Text2SQL
from t2s_assets.text2sql.storage import write_json, write_manifest
from t2s_assets.text2sql.tables.sources import open_source
from t2s_assets.text2sql.trained import find_adapter
from t2s_assets_tests.cli.conftest import FRUIT, T2S
from t2s_assets_tests.projects import ProjectFiles


def test_repl_reads_lines_and_survives_errors(t2s: T2S, serving: ProjectFiles, tmp_path: Path) -> None:
    schema = tmp_path / "two.json"
    tables = [
        {"table": "fruit", "header": ["name"], "types": ["text"], "rows": [["Plum"], ["Pear"]]},
        {"table": "veg", "header": ["kind", "price"], "types": ["text", "real"]},
    ]
    schema.write_text(json.dumps(tables))
    typed = [
        "how?", "\\table nothing", "\\run", "\\table FRUIT", "\\schema", "which fruit?", "\\run", "", "\\nonsense",
        "\\table veg", "dearest?", "\\run", "\\table", "\\tables", "\\help", "\\quit", "never read",
    ]  # fmt: skip
    ended = t2s("repl", "-m", "peaks/tiny", "--schema", schema, stdin="\n".join(typed) + "\n")
    assert ended.status == 0
    for problem in (
        "choose a table first", "no table 'nothing'", "no answer yet", "no command \\nonsense",
        "'veg' is only a schema", "\\table needs a name; there are: fruit, veg",
    ):  # fmt: skip
        assert problem in ended.err
    assert "CREATE TABLE fruit" in ended.out and "FROM fruit" in ended.out and "FROM veg" in ended.out
    assert "* veg" in ended.out and "┃" in ended.out and "\\quit" in ended.out
    assert re.search(r"^\d+ rows?", ended.err, re.MULTILINE)
    assert "never read" not in ended.out


def test_feedback_is_kept_and_becomes_training_questions(
    t2s: T2S, serving: ProjectFiles, tmp_path: Path, peaks: Path
) -> None:
    typed = [
        "\\right", "how high is K2?", "\\correct SELECT nonsense FROM peaks", "\\correct DROP TABLE peaks", "\\correct",
        "\\correct select name from PEAKS where \"Height (m)\" > 8550", "which is highest?", "\\explain", "\\right",
    ]  # fmt: skip
    ended = t2s("repl", "-m", "peaks/tiny", "--db", peaks, stdin="\n".join(typed) + "\n")
    assert ended.status == 0
    for said in ("no answer yet", "nonsense", "one SELECT is wanted; got DROP", "needs the SQL", "in words:"):
        assert said in ended.err
    kept = serving.project.path("peaks", "feedback", "tiny") / "feedback.jsonl"
    fixed, right = map(json.loads, kept.read_text().splitlines())
    written = 'SELECT "Name" FROM peaks WHERE "Height (m)" > 8550'
    assert (fixed["question"], fixed["verdict"], fixed["sql"]) == ("how high is K2?", "corrected", written)
    assert fixed["given_sql"].startswith("SELECT") and fixed["given_sql"] != written
    assert (right["question"], right["verdict"]) == ("which is highest?", "right")
    assert right["sql"] == right["given_sql"]
    columns = [{"name": "Name", "type": "text"}, {"name": "Height (m)", "type": "real"}]
    assert fixed["schema"] == [{"table": "peaks", "columns": columns}]
    assert fixed["database"] == str(peaks) and datetime.fromisoformat(fixed["time"]).tzinfo is not None
    assert fixed["model"].startswith("peaks/tiny ")

    assert t2s("init", "mine", "--database", peaks).status == 0
    questions = serving.project.configs / "mine" / "questions.jsonl"
    before = len(questions.read_text().splitlines())
    assert "added 2" in t2s("feedback", "peaks/tiny", "--into", "mine").out
    assert "added 0 questions to" in (again := t2s("feedback", "peaks/tiny", "--into", "mine").out)
    assert "2 were there" in again
    source = read_own(read_own_config(questions.with_name("dataset.yaml")), folder=questions.parent)
    assert [q.sql for q in source.questions[before:]] == [written, right["sql"]]
    refused = t2s("feedback", "peaks/tiny", "--into", "peaks")
    assert refused.status == 1 and "reader: own" in refused.err
    none = t2s("feedback", "peaks/free", "--into", "mine")
    assert none.status == 1 and "no feedback there" in none.err


def test_what_was_said_last_of_a_question_holds(t2s: T2S, serving: ProjectFiles, tmp_path: Path, peaks: Path) -> None:
    typed = [
        "how high is K2?", "\\right", "\\correct SELECT 1 AS n FROM peaks", "\\correct SELECT Name FROM peaks",
        "x" * 5000, "\\right",
    ]  # fmt: skip
    ended = t2s("repl", "-m", "peaks/free", "--db", peaks, stdin="\n".join(typed) + "\n")
    assert ended.err.count("kept for 'how high is K2?' in") == 3 or "has no valid SQL to call right" in ended.err
    assert ended.err.splitlines()[-1] == "error: no answer yet; ask a question first"
    assert t2s("init", "other", "--database", peaks).status == 0
    questions = serving.project.configs / "other" / "questions.jsonl"
    before = len(questions.read_text().splitlines())
    done = t2s("feedback", "peaks/free", "--into", "other").out
    assert "added 1 question to" in done and "gave way to later feedback" in done
    (added,) = questions.read_text().splitlines()[before:]
    assert json.loads(added)["sql"] == 'SELECT "Name" FROM peaks'
    questions.unlink()
    gone = t2s("feedback", "peaks/free", "--into", "other")
    assert gone.status == 1 and "questions.jsonl: cannot be read" in gone.err


def test_a_correction_is_over_the_names_of_the_users_own_file(t2s: T2S, serving: ProjectFiles, tmp_path: Path) -> None:
    table = tmp_path / "peaks.csv"
    table.write_text("Name,Height  (m)\nK2,8611\n")
    shown, own = "Height (m)", "Height  (m)"
    typed = ["how high?", *(f'\\correct SELECT "{name}" FROM peaks' for name in (shown, own))]
    ended = t2s("repl", "-m", "peaks/tiny", "--db", table, stdin="\n".join(typed) + "\n")
    assert "the correction does not run" in ended.err and ended.err.count("kept for 'how high?'") == 1
    kept = serving.project.path("peaks", "feedback", "tiny") / "feedback.jsonl"
    assert json.loads(kept.read_text().split("\n")[-2])["sql"] == f'SELECT "{own}" FROM peaks'


def test_a_table_of_a_schema_is_corrected_as_it_is_shown(t2s: T2S, serving: ProjectFiles, tmp_path: Path) -> None:
    with duckdb.connect(tmp_path / "sold.duckdb") as db:
        db.execute("CREATE SCHEMA sales; CREATE TABLE sales.fruit (name TEXT, price INT); CREATE TABLE veg (name TEXT)")
        db.execute("INSERT INTO sales.fruit VALUES ('Plum', 3)")
    queries = [
        "SELECT name FROM sales.fruit",
        "SELECT fruit.name FROM fruit",
        "WITH fruit AS (SELECT name FROM sales.fruit) SELECT name FROM fruit",
        "SELECT 1 FROM veg",
    ]
    typed = ["\\table sales.fruit", "which?", *(f"\\correct {sql}" for sql in queries)]
    ended = t2s("repl", "-m", "peaks/tiny", "--db", tmp_path / "sold.duckdb", stdin="\n".join(typed) + "\n")
    assert ended.out.count("Plum") == 3
    assert ended.err.count("kept for 'which?'") == 3 and "the correction cannot be used" in ended.err
    kept = serving.project.path("peaks", "feedback", "tiny") / "feedback.jsonl"
    with duckdb.connect(tmp_path / "sold.duckdb", read_only=True) as db:
        for line in kept.read_text().splitlines()[-3:]:
            sql = json.loads(line)["sql"]
            assert sql in ended.out and db.execute(sql).fetchall() == [("Plum",)]


def test_feedback_goes_where_its_tables_are(t2s: T2S, serving: ProjectFiles, tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "fruit.csv").write_text("name,price\nPlum,3\n")
    with duckdb.connect(folder / "other.duckdb") as db:
        db.execute("CREATE SCHEMA sales; CREATE TABLE sales.fruit (name TEXT); CREATE TABLE fruit (name TEXT)")
    assert t2s("init", "files", "--database", folder).status == 0
    questions = serving.project.configs / "files" / "questions.jsonl"
    before = questions.read_text()
    shutil.rmtree(serving.project.path("peaks", "feedback", "tiny"), ignore_errors=True)
    for db, table in (("other.duckdb", "fruit"), ("other.duckdb", "sales.fruit")):
        typed = [f"\\table {table}", "which?", "\\correct SELECT name FROM fruit"]
        t2s("repl", "-m", "peaks/tiny", "--db", folder / db, stdin="\n".join(typed) + "\n")
    assert "added 0 questions" in (done := t2s("feedback", "peaks/tiny", "--into", "files").out)
    assert "2 are about tables that it does not have" in done and questions.read_text() == before
    for sql in ("SELECT name FROM fruit", "SELECT price FROM fruit"):
        typed = ["which?", f"\\correct {sql}"]
        t2s("repl", "-m", "peaks/tiny", "--db", folder / "fruit.csv", stdin="\n".join(typed) + "\n")
        done = t2s("feedback", "peaks/tiny", "--into", "files").out
    added = questions.read_text().removeprefix(before).splitlines()
    assert [json.loads(line)["sql"] for line in added] == ['SELECT "name" FROM fruit']
    line = len(before.splitlines()) + 1
    assert f"questions.jsonl:{line} has other SQL for 'which?'; change or remove that line" in done


def test_what_was_withheld_is_corrected_over_the_users_names(serving: ProjectFiles, peaks: Path) -> None:
    with closing(Text2SQL.load("peaks/tiny", project=serving.project)) as model:
        table = open_source(db=peaks).table()
        answer = model.ask("how high is K2?", table)
        assert answer.valid
        withheld = replace(answer, valid=False, sql="", abstained="unsure", problem="unsure")
        assert feedback.given(model, withheld, table) == answer.sql != answer.generated


def read_own_config(file: Path) -> OwnDataset:
    config = read_dataset(file)
    assert isinstance(config, OwnDataset)
    return config


def test_a_session_switches_between_models(t2s: T2S, serving: ProjectFiles, peaks: Path) -> None:
    question = "which peak is the highest of all?"
    typed = ["\\models", question, "\\model peaks/short", question, "\\model nope/nope", "\\model peaks/tiny", question]
    ended = t2s("repl", "-m", "peaks/tiny", "--db", peaks, stdin="\n".join(typed) + "\n")
    assert ended.status == 0
    assert "* peaks/tiny" in ended.out and "  peaks/short" in ended.out
    assert "peaks/short answers" in ended.err and "no trained adapter nope/nope" in ended.err
    first, second, third = [line for line in ended.out.splitlines() if line.startswith(("SELECT", "--"))]
    assert first == third != second


def test_a_session_tells_a_copy_of_storage_from_storage(
    t2s: T2S, serving: ProjectFiles, peaks: Path, tmp_path: Path
) -> None:
    """Another adapter under the same names, as another machine's storage has it."""
    copy = tmp_path / "peaks" / "adapter" / "tiny"
    shutil.copytree(serving.project.path("peaks", "adapter", "short"), copy)
    question = "which peak is the highest of all?"
    typed = [question, f"\\model {copy}", question, "\\models", "\\model peaks/tiny", question]
    ended = t2s("repl", "-m", "peaks/tiny", "--db", peaks, stdin="\n".join(typed) + "\n")
    first, second, third = [line for line in ended.out.splitlines() if line.startswith(("SELECT", "--"))]
    assert first == third != second
    assert f"{copy} answers" in ended.err and "peaks/tiny answers" in ended.err
    assert "  peaks/tiny" in ended.out and "* peaks/tiny" not in ended.out


def test_a_champion_that_is_loaded_is_not_loaded_again(
    serving: ProjectFiles, capfd: pytest.CaptureFixture[str]
) -> None:
    source = open_source(ddl=FRUIT)

    def load(name: str) -> Text2SQL:
        raise AssertionError(f"{name} is loaded")

    champion = serving.project.path("peaks", "champion") / CHAMPION
    champion.parent.mkdir(parents=True)
    write_json(champion, {"experiment": "tiny"})
    version = find_adapter("peaks/tiny", serving.project).version
    write_manifest(champion.parent, "v", {"experiment": "tiny", "adapter_version": version})
    try:
        with Text2SQL.load("peaks/tiny", project=serving.project) as model:
            Session(model, source, source.table(), load=load).handle("\\model peaks")
    finally:
        shutil.rmtree(champion.parent)
    assert "peaks/tiny answers" in capfd.readouterr().err


def test_repl_ends_with_its_input(t2s: T2S, serving: ProjectFiles) -> None:
    ended = t2s("repl", "-m", "peaks/tiny", "--ddl", FRUIT, stdin="cheapest?")
    assert ended.status == 0 and "FROM fruit" in ended.out


def test_ctrl_c_stops_an_answer_and_not_the_session(serving: ProjectFiles, capfd: pytest.CaptureFixture[str]) -> None:
    source = open_source(ddl=FRUIT)
    with Text2SQL.load("peaks/tiny", project=serving.project) as model:
        session = Session(model, source, source.table())

        calls = 0

        def interrupt(frame: FrameType, event: str, argument: object) -> None:
            nonlocal calls
            calls += event == "call" and frame.f_globals.get("__name__", "").startswith("t2s_assets.text2sql.decoding")
            if calls == 20:
                sys.setprofile(None)
                signal.raise_signal(signal.SIGINT)

        def typed() -> Iterator[str]:
            sys.setprofile(interrupt)
            yield "which fruit is cheapest?"
            sys.setprofile(None)
            yield "which fruit is dearest?"

        # A process started in the background ignores SIGINT; this one is to be interrupted either way.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            session.read(typed())
        finally:
            signal.signal(signal.SIGINT, before)
        expected = model.ask("which fruit is dearest?", source.table()).sql
    out, err = capfd.readouterr()
    assert err.count("stopped") == 1
    assert out == expected + "\n"


def test_lines_that_cannot_be_kept_are_read_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The history is in storage, which may be read-only, or of several people."""
    from prompt_toolkit.application import create_app_session
    from prompt_toolkit.input import create_pipe_input
    from prompt_toolkit.output import DummyOutput

    history = tmp_path / "cache" / "repl_history"
    history.parent.touch()
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    session: Any = SimpleNamespace(prompt=lambda: "> ", suggestion="")
    with create_pipe_input() as typed, create_app_session(input=typed, output=DummyOutput()):
        typed.send_text("how many?\r\\tables\r\x04")
        assert list(lines(session, history)) == ["how many?", "\\tables"]
    assert f"is not kept for the next session: {history}: " in capsys.readouterr().err


def test_sql_keeps_its_lines_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    show.print_sql(f"{FRUIT}\n-- \x1b[31m")
    out = re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out)
    assert out.splitlines()[0].rstrip() == FRUIT and "\x1b" not in out and "\\x1b[31m" in out
