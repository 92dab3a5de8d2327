"""Help, usage errors, and `t2s ask`."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from t2s_assets.cli import show
from t2s_assets.text2sql.tables import user_tables
from t2s_assets_tests.cli.conftest import FRUIT, T2S
from t2s_assets_tests.projects import ProjectFiles


def test_help_needs_no_heavy_library() -> None:
    code = (
        "import sys; from t2s_assets.cli import app; app(['--help'], standalone_mode=False);"
        "print(sorted({'torch', 'transformers', 'duckdb', 'pyarrow', 'sqlglot', 'pydantic'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    "command", ["prepare", "train", "evaluate", "report", "run", "champion", "list", "ask", "batch", "repl", "export"]
)
def test_every_command_has_help(t2s: T2S, command: str) -> None:
    shown = t2s(command, "--help")
    assert shown.status == 0 and f"{command} [OPTIONS]" in shown.out
    assert command in t2s("--help").out


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["ask"], "Missing"),
        (["nonsense"], "No such command"),
        (["train", "mini"], "DATASET/EXPERIMENT is wanted"),
        (["ask", "-m", "peaks/tiny", "how?"], "one of --ddl, --schema, --db"),
        (["ask", "-m", "peaks/tiny", "how?", "--ddl", FRUIT, "--db", "x.csv"], "--ddl and --db"),
        (["ask", "-m", "peaks/tiny", "how?", "--ddl", FRUIT, "--device", "tpu"], "cpu, cuda or mps"),
    ],
)
def test_wrong_usage_has_status_2(t2s: T2S, serving: ProjectFiles, words: list[str], problem: str) -> None:
    ended = t2s(*words)
    assert ended.status == 2
    assert problem in re.sub(r"[\s│]+", " ", ended.err)


def test_no_name_of_a_table_and_no_cell_steers_the_terminal(t2s: T2S, serving: ProjectFiles, tmp_path: Path) -> None:
    with duckdb.connect(tmp_path / "two.duckdb") as db:
        db.execute('CREATE TABLE "a\x1b[31m" (n INT); CREATE TABLE b (n INT)')
    ended = t2s("ask", "-m", "peaks/tiny", "--db", tmp_path / "two.duckdb", "how many?")
    assert ended.status == 1 and "\\x1b[31m" in ended.err and "\x1b" not in ended.err
    assert show.cell_text("a\x1b[31m\n") == "a\\x1b[31m\\n"
    assert show.cell_text([True, None, 1.0, ["\x1b"]]) == "[true, NULL, 1, [\\x1b]]"
    assert show.cell_text("می\u200cخواهم\u202e") == "می\u200cخواهم\\u202e"


def test_ask_prints_sql_alone_on_standard_output(t2s: T2S, serving: ProjectFiles) -> None:
    ended = t2s("ask", "--model", "peaks/tiny", "--ddl", FRUIT, "which fruit is cheapest?")
    assert ended.status == 0
    assert re.fullmatch(r"SELECT .* FROM fruit.*\n", ended.out)
    assert re.search(
        r"sequence probability 0\.\d\d \(not calibrated\); \d+ tokens; prefill \d+ ms, decode \d+ ms, total \d+ ms",
        ended.err,
    )


def test_ask_says_what_became_null(t2s: T2S, serving: ProjectFiles, tmp_path: Path) -> None:
    (tmp_path / "ages.csv").write_text("age\n3\nN/A\n12\n")  # whatever the SQL is, it uses the only column
    words = ["ask", "-m", "peaks/tiny", "--db", tmp_path / "ages.csv", "what is the highest age?"]
    note = "column \"age\" holds numbers; 1 other cell counts as NULL, 'N/A' in row 2"
    plain = t2s(*words)
    assert f"note: {note}\n" in plain.err and "note" not in plain.out
    assert json.loads(t2s(*words, "--json").out)["notes"] == [note]
    assert t2s(*words, "--run").err.count(note) == 1


def test_ask_runs_and_shows_rows(t2s: T2S, serving: ProjectFiles, peaks: Path) -> None:
    ended = t2s("ask", "-m", "peaks/tiny", "--db", peaks, "--run", "how high is k2?")
    assert ended.status == 0
    assert "FROM peaks" in ended.out and "┃" in ended.out
    assert re.search(r"^\d+ rows?", ended.err, re.MULTILINE)
    assert "\x1b" not in ended.out.split("\n", 1)[1]


def test_ask_as_json(t2s: T2S, serving: ProjectFiles, peaks: Path) -> None:
    ended = t2s("ask", "-m", "peaks/tiny", "--db", peaks, "--run", "--json", "how high is k2?")
    answer = json.loads(ended.out)
    assert (ended.status, ended.err) == (0, "")
    assert answer["valid"] is True and answer["table"] == "peaks" and answer["result"]["status"] == "ok"
    assert {"sequence_probability", "tokens", "prefill_ms", "decode_ms", "total_ms"} <= answer.keys()


def test_rows_of_a_part_of_the_table_are_marked_beside_them(
    t2s: T2S, serving: ProjectFiles, peaks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["ask", "-m", "peaks/tiny", "--db", peaks, "--run", "how many are there?"]
    mark = "-- of the first 1 row of the table alone: those behind are neither found nor counted"
    whole = t2s(*words)
    assert mark not in whole.out and json.loads(t2s(*words, "--json").out)["result"]["partial"] is False
    monkeypatch.setattr(user_tables, "MAX_CELLS", 2)
    cut = t2s(*words)
    assert cut.status == 0 and cut.out.splitlines()[-1] == mark
    result = json.loads(t2s(*words, "--json").out)["result"]
    assert (result["partial"], result["rows_copied"]) == (True, 1)


def test_ask_explains(t2s: T2S, serving: ProjectFiles, peaks: Path) -> None:
    words = ["ask", "-m", "peaks/tiny", "--db", peaks, "--explain", "how high is k2?"]
    assert re.search(r"^in words: .*“(Name|Height \(m\))” in peaks", t2s(*words).err, re.MULTILINE)
    assert " in peaks" in json.loads(t2s(*words, "--json").out)["in_words"]


def test_ask_says_plainly_when_sql_is_not_valid(t2s: T2S, serving: ProjectFiles) -> None:
    ended = t2s("ask", "-m", "peaks/free", "--ddl", FRUIT, "which fruit is cheapest?")
    assert ended.status == 1
    assert ended.out.startswith("-- not valid: ")
    assert all(line.startswith("--") for line in ended.out.splitlines())


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--ddl", FRUIT, " "], "the question is empty"),
        (["--ddl", "create table e ()", "how?"], "has no columns"),
        (["--db", "missing.csv", "how?"], "missing.csv: no such file"),
        (["--schema", "missing.json", "how?"], "no such file: 'missing.json'"),
        (["--ddl", FRUIT + ";" + FRUIT.replace("fruit", "veg"), "how?"], "there are: fruit, veg"),
        (["--ddl", FRUIT, "--table", "veg", "how?"], "no table 'veg'; there are: fruit"),
        (["--ddl", FRUIT, "--run", "how?"], "--run needs rows"),
        (
            ["--ddl", f"CREATE TABLE w ({', '.join(f'column_{i} INT' for i in range(300))})", "how?"],
            "prompt.max_length = 512",
        ),
        (["--ddl", FRUIT, "-m", "peaks/untrained", "how?"], "no trained adapter peaks/untrained"),
    ],
)
def test_errors_of_ask_are_one_clear_line(t2s: T2S, serving: ProjectFiles, words: list[str], problem: str) -> None:
    model = [] if "-m" in words else ["-m", "peaks/tiny"]
    ended = t2s("ask", *model, *words)
    assert ended.status == 1
    assert ended.err.startswith("error: ") and ended.err.count("\n") == 1
    assert problem in ended.err and ended.out == ""
