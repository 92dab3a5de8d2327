"""`t2s batch`."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

from t2s_assets.cli.batch import CHUNK, Batch
from t2s_assets.text2sql.config import DecodingConfig
from t2s_assets.text2sql.errors import T2SError
from t2s_assets.text2sql.evaluation.confidence import Confidence, decoded_as
from t2s_assets.text2sql.inference import Text2SQL
from t2s_assets.text2sql.tables import user_tables
from t2s_assets.text2sql.tables.sources import from_ddl
from t2s_assets.text2sql.trained import find_adapter
from t2s_assets_tests.cli.conftest import FRUIT, T2S
from t2s_assets_tests.projects import ProjectFiles


def _jsonl(path: Path, records: list[object]) -> Path:
    path.write_text("".join(r + "\n" if isinstance(r, str) else json.dumps(r) + "\n" for r in records))
    return path


def _answers(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_batch_keeps_order_and_stops_for_no_line(t2s: T2S, serving: ProjectFiles, peaks: Path, tmp_path: Path) -> None:
    questions = _jsonl(
        tmp_path / "q.jsonl",
        [
            {"id": 7, "question": "how high is K2?"},
            "{broken",
            {"question": ""},
            "",
            {"query": "x"},
            '{"question": "K\\ud800?"}',
            {"question": "cheapest?", "schema": FRUIT},
            {"question": "cheapest?", "schema": {"table": "veg", "columns": [{"name": "a", "type": "text"}]}},
            {"question": "cheapest?", "schema": {"columns": []}},
            {"question": "how?", "table": "nowhere"},
            {"question": "And Lhotse?"},
        ],
    )
    out = tmp_path / "a.jsonl"
    ended = t2s("batch", "-m", "peaks/tiny", "--in", questions, "--out", out, "--db", peaks)
    rows = _answers(out)
    assert ended.status == 0, ended.err
    assert (
        "10 questions: 4 answered, 0 of them with SQL that is not valid; 0 without an answer; 6 failed; see"
        in ended.err
    )
    assert [r["line"] for r in rows] == [1, 2, 3, 5, 6, 7, 8, 9, 10, 11]
    assert ["error" in r for r in rows] == [False, True, True, True, True, False, False, True, True, False]
    assert rows[0]["id"] == 7 and [r.get("table") for r in rows if "sql" in r] == ["peaks", "fruit", "veg", "peaks"]
    assert "line 2: not JSON" in str(rows[1]["error"]) and "empty" in str(rows[2]["error"])
    assert "no table 'nowhere'" in str(rows[8]["error"])


def test_a_question_with_a_bare_comma_is_told_of(t2s: T2S, serving: ProjectFiles, peaks: Path, tmp_path: Path) -> None:
    (tmp_path / "q.csv").write_text('id,question\n1,Which peak, in Nepal, is highest?\n2,"K2, how high?"\n')
    out = tmp_path / "a.jsonl"
    ended = t2s("batch", "-m", "peaks/tiny", "--in", tmp_path / "q.csv", "--out", out, "--db", peaks)
    first, second = _answers(out)
    assert "2 more cells than the header has" in str(first["error"]) and first["id"] == "1"
    assert second["question"] == "K2, how high?" and "sql" in second
    assert "1 failed" in ended.err


def test_batch_goes_on_where_it_was(t2s: T2S, serving: ProjectFiles, tmp_path: Path) -> None:
    asked = [{"question": f"which fruit costs {n}?"} for n in range(CHUNK + 6)]
    questions, out = _jsonl(tmp_path / "q.jsonl", list(asked)), tmp_path / "a.jsonl"
    words = ["batch", "-m", "peaks/tiny", "--in", questions, "--out", out, "--ddl", FRUIT]
    t2s(*words)
    whole = out.read_text()
    lines = whole.splitlines(keepends=True)
    assert [json.loads(line)["question"] for line in lines] == [a["question"] for a in asked]
    out.write_text("".join(lines[:3]) + lines[3][:20])
    ended = t2s(*words)
    assert f"{CHUNK + 6} questions (3 were there already): {CHUNK + 6} answered" in ended.err
    assert [json.loads(line)["sql"] for line in out.read_text().splitlines()] == [json.loads(x)["sql"] for x in lines]
    again = t2s(*words)
    assert f"({CHUNK + 6} were there already)" in again.err


@pytest.mark.parametrize("force", [False, True])
def test_a_second_batch_on_the_same_answers_is_refused_and_the_first_keeps_them(
    t2s: T2S, serving: ProjectFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, force: bool
) -> None:
    asked = [{"question": f"which fruit costs {n}?"} for n in range(CHUNK + 6)]
    questions, out = _jsonl(tmp_path / "q.jsonl", list(asked)), tmp_path / "a.jsonl"
    words = ["batch", "-m", "peaks/tiny", "--in", questions, "--out", out, "--ddl", FRUIT]
    answered, refused = Text2SQL.ask_many, []

    def second_meanwhile(model: Text2SQL, chunk: object, **settings: object) -> object:
        job = Batch(questions, out, from_ddl(FRUIT), None)
        with pytest.raises(T2SError) as caught:
            job.work(model, force=force)
        refused.append(str(caught.value))
        return answered(model, chunk, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(Text2SQL, "ask_many", second_meanwhile)
    ended = t2s(*words)
    assert ended.status == 0 and f"{CHUNK + 6} answered" in ended.err
    assert len(refused) == 2 and all(f"another t2s batch is writing {out}" in told for told in refused)
    assert [r["question"] for r in _answers(out)] == [a["question"] for a in asked]
    assert [p.name for p in tmp_path.iterdir() if "a.jsonl" in p.name] == ["a.jsonl"]


def test_batch_refuses_answers_to_other_questions_or_of_another_model(
    t2s: T2S, serving: ProjectFiles, tmp_path: Path
) -> None:
    questions, out = _jsonl(tmp_path / "q.jsonl", [{"question": "cheapest?"}]), tmp_path / "a.jsonl"
    t2s("batch", "-m", "peaks/tiny", "--in", questions, "--out", out, "--ddl", FRUIT)
    before = out.read_text()
    other = t2s("batch", "-m", "peaks/short", "--in", questions, "--out", out, "--ddl", FRUIT)
    assert other.status == 1 and "answers of another model" in other.err
    _jsonl(questions, [{"question": "dearest?"}])
    changed = t2s("batch", "-m", "peaks/tiny", "--in", questions, "--out", out, "--ddl", FRUIT)
    assert changed.status == 1 and "answers to other questions" in changed.err
    assert out.read_text() == before
    forced = t2s("batch", "-m", "peaks/tiny", "--in", questions, "--out", out, "--ddl", FRUIT, "--force")
    assert forced.status == 0 and [r["question"] for r in _answers(out)] == ["dearest?"]


def test_answers_without_a_question_are_never_dropped(t2s: T2S, serving: ProjectFiles, tmp_path: Path) -> None:
    asked: list[object] = [{"question": "cheapest?"}, {"question": "dearest?"}]
    questions, out = _jsonl(tmp_path / "q.jsonl", asked), tmp_path / "a.jsonl"
    words = ["batch", "-m", "peaks/tiny", "--in", questions, "--out", out, "--ddl", FRUIT]
    t2s(*words)
    before = out.read_text()
    for fewer in (asked[:1], []):
        _jsonl(questions, fewer)
        ended = t2s(*words)
        assert ended.status == 1 and f"has questions ({len(fewer)})" in ended.err
    _jsonl(questions, asked)
    out.write_text("{broken}\n".join(before.splitlines(keepends=True)))
    broken = t2s(*words)
    assert broken.status == 1 and "row 2 is no answer" in broken.err and "{broken}" in out.read_text()


@pytest.mark.parametrize(
    "changed",
    [
        ["--ddl", "CREATE TABLE fruit (name TEXT, price REAL, kind TEXT)"],
        ["--ddl", FRUIT, "--run"],
        ["--ddl", FRUIT, "--min-confidence", "0"],
    ],
    ids=["table", "run", "decoding"],
)
def test_batch_does_not_mix_answers_made_otherwise(
    t2s: T2S, serving: ProjectFiles, tmp_path: Path, changed: list[str]
) -> None:
    questions, out = _jsonl(tmp_path / "q.jsonl", [{"question": "cheapest?"}]), tmp_path / "a.jsonl"
    words = ["batch", "-m", "peaks/tiny", "--in", questions, "--out", out]
    t2s(*words, "--ddl", FRUIT)
    before = out.read_text()
    config = serving.project.configs / "peaks" / "tiny.yaml"
    as_it_was = config.read_text()
    if "--min-confidence" in changed:
        config.write_text(as_it_was + "decoding: {grammar: none, max_new_tokens: 24}\n")
    try:
        ended = t2s(*words, *changed)
    finally:
        config.write_text(as_it_was)
    assert ended.status == 1 and "line 1 was made with another table or schema, --run" in ended.err
    assert out.read_text() == before


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_rows_of_data_that_changed_are_asked_for_again(
    t2s: T2S, serving: ProjectFiles, peaks: Path, tmp_path: Path, suffix: str
) -> None:
    asked: list[object] = [{"question": "how high?"}, {"question": "K2?"}]
    questions, out = _jsonl(tmp_path / "q.jsonl", asked), tmp_path / f"a.{suffix}"
    words = ["batch", "-m", "peaks/tiny", "--in", questions, "--out", out, "--db", peaks]
    t2s(*words, "--run")
    before = out.read_text()
    peaks.touch()
    same = t2s(*words, "--run")
    assert "(2 were there already)" in same.err and "asked again" not in same.err and out.read_text() == before
    peaks.write_text('Name,"Height (m)"\nK3,1\n')
    changed = t2s(*words, "--run")
    assert f"{peaks}: its rows are not those of the answer to line 1; the 2 answers from there on" in changed.err
    assert "were there already" not in changed.err and out.read_text() != before
    assert "asked again" not in t2s(*words, "--run").err


def test_answers_that_hang_on_no_rows_of_the_source_stay(
    t2s: T2S, serving: ProjectFiles, peaks: Path, tmp_path: Path
) -> None:
    own = {"question": "how many?", "schema": {"columns": [{"name": "n", "type": "real"}], "rows": [[1]]}}
    questions, out = _jsonl(tmp_path / "q.jsonl", [own, {"question": "how high?"}]), tmp_path / "a.jsonl"
    words = ["batch", "-m", "peaks/tiny", "--in", questions, "--out", out, "--db", peaks]
    t2s(*words)
    peaks.write_text('Name,"Height (m)"\nK3,1\n')
    assert "(2 were there already)" in t2s(*words).err
    t2s(*words, "--run", "--force")
    peaks.write_text('Name,"Height (m)"\nK4,1\n')
    changed = t2s(*words, "--run")
    assert "the answer to line 2; the 1 answers from there on" in changed.err
    assert "(1 were there already)" in changed.err


def test_results_of_a_part_of_a_table_are_counted(
    t2s: T2S, serving: ProjectFiles, peaks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(user_tables, "MAX_CELLS", 2)
    questions = _jsonl(tmp_path / "q.jsonl", [{"question": "how many?"}, {"question": "how high?"}, {"question": ""}])
    for out in (tmp_path / "a.jsonl", tmp_path / "a.csv"):
        words = ["batch", "-m", "peaks/tiny", "--in", questions, "--out", out, "--db", peaks, "--run"]
        for ended in (t2s(*words), t2s(*words)):
            assert "1 failed; 2 ran on a part of a long table; see" in ended.err


def test_a_line_may_bring_a_schema_of_its_own_again(t2s: T2S, serving: ProjectFiles, tmp_path: Path) -> None:
    lines: list[object] = [{"question": "cheapest?", "schema": FRUIT}, {"question": "cheapest?", "schema": "nonsense"}]
    questions, out = _jsonl(tmp_path / "q.jsonl", lines), tmp_path / "a.jsonl"
    words = ["batch", "-m", "peaks/tiny", "--in", questions, "--out", out]
    t2s(*words)
    assert "(2 were there already)" in t2s(*words).err
    _jsonl(questions, [{"question": "cheapest?", "schema": FRUIT.replace("price", "cost")}, lines[1]])
    assert "line 1 was made with another table" in t2s(*words).err


@pytest.mark.parametrize("name", ["notes.jsonl", "notes.csv"])
def test_batch_leaves_a_file_of_something_else_alone(
    t2s: T2S, serving: ProjectFiles, tmp_path: Path, name: str
) -> None:
    questions, out = _jsonl(tmp_path / "q.jsonl", [{"question": "cheapest?"}]), tmp_path / name
    out.write_text("my notes\n")
    ended = t2s("batch", "-m", "peaks/tiny", "--in", questions, "--out", out, "--ddl", FRUIT)
    assert ended.status == 1 and "holds no answers" in ended.err
    assert out.read_text() == "my notes\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_batch_reads_and_writes_csv_and_resumes_it(
    t2s: T2S, serving: ProjectFiles, peaks: Path, tmp_path: Path, encoding: str
) -> None:
    questions, out = tmp_path / "q.csv", tmp_path / "a.csv"
    with questions.open("w", encoding=encoding, newline="") as f:
        rows = [["a", 'how high,\n"K2"?'], ["b", ""], ["c", "which are over 8,600?"], ["d", "which are not K2?"]]
        csv.writer(f).writerows([["id", "question"], *rows])
    words = ["batch", "-m", "peaks/tiny", "--in", questions, "--out", out, "--db", peaks, "--run"]
    ended = t2s(*words)
    assert "4 questions: 3 answered" in ended.err, ended.err
    whole = out.read_bytes()
    with out.open(newline="") as f:
        answers = list(csv.DictReader(f))
    assert [(r["id"], r["question"]) for r in answers] == [tuple(r) for r in rows]
    assert [r["valid"] for r in answers] == ["true", "", "true", "true"]
    assert [r["uses_table_content"] for r in answers] == ["false", "", "false", "false"]
    assert {"probability", "abstained"} <= answers[0].keys()
    assert answers[0]["notes"] == "[]" and 'the question says "not"' in json.loads(answers[3]["notes"])[0]
    assert "the question is empty" in answers[1]["error"]
    assert json.loads(answers[0]["result"])["status"] == "ok"
    out.write_bytes(whole[:-30])
    ended = t2s(*words)
    assert (
        "(3 were there already): 3 answered, 0 of them with SQL that is not valid; 0 without an answer; 1 failed"
        in ended.err
    )
    assert out.read_bytes() == whole


@pytest.mark.parametrize(
    ("input_name", "content", "output_name", "problem"),
    [
        ("q.txt", "x", "a.jsonl", ".jsonl or .csv is wanted"),
        ("q.jsonl", None, "a.jsonl", "no such file"),
        ("q.csv", "id,text\n1,x\n", "a.csv", "a column named question is wanted"),
        ("q.jsonl", "{}\n", "q.jsonl", "give another"),
        ("q.jsonl", "{}\n", "nowhere/a.jsonl", "there is no folder"),
        ("q.jsonl", b'{"question": "\xe9"}\n', "a.jsonl", "neither UTF-8 nor UTF-16 with its mark"),
        ("q.jsonl", "{}".encode("utf-16")[:-1], "a.jsonl", "neither UTF-8 nor UTF-16 with its mark"),
    ],
)
def test_errors_of_batch_files(
    t2s: T2S,
    serving: ProjectFiles,
    tmp_path: Path,
    input_name: str,
    content: str | bytes | None,
    output_name: str,
    problem: str,
) -> None:
    if content is not None:
        (tmp_path / input_name).write_bytes(content if isinstance(content, bytes) else content.encode())
    ended = t2s(
        "batch", "-m", "peaks/tiny", "--in", tmp_path / input_name, "--out", tmp_path / output_name, "--ddl", FRUIT
    )
    assert ended.status == 1 and problem in ended.err


def test_a_cell_of_any_length_is_read_again(t2s: T2S, serving: ProjectFiles, tmp_path: Path) -> None:
    questions, out = tmp_path / "q.csv", tmp_path / "a.csv"
    with questions.open("w", newline="") as f:
        csv.writer(f).writerows([["question"], ["cheapest? " * 20_000], ["dearest?"]])
    words = ["batch", "-m", "peaks/tiny", "--in", questions, "--out", out, "--ddl", FRUIT]
    assert "2 questions: 1 answered" in t2s(*words).err
    whole = out.read_text()
    assert "(2 were there already)" in t2s(*words).err and out.read_text() == whole


def test_ctrl_c_says_how_to_go_on(
    t2s: T2S, serving: ProjectFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Text2SQL, "ask_many", stop)
    questions, out = _jsonl(tmp_path / "q.jsonl", [{"question": "cheapest?"}]), tmp_path / "a.jsonl"
    words = ["batch", "-m", "peaks/tiny", "--in", questions, "--out", out, "--ddl", FRUIT]
    ended = t2s(*words)
    assert ended.status == 130 and "and the same command goes on" in ended.err
    assert "the same command without --force goes on" in t2s(*words, "--force").err


def test_unsure_answers_are_withheld(t2s: T2S, serving: ProjectFiles, tmp_path: Path) -> None:
    questions, out = _jsonl(tmp_path / "q.jsonl", [{"question": "which price?"}]), tmp_path / "a.jsonl"
    words = ["batch", "-m", "peaks/tiny", "--in", questions, "--out", out, "--ddl", FRUIT, "--min-confidence", "0.9"]
    none = t2s(*words)
    assert none.status == 1 and "no calibration of this adapter" in none.err
    version = find_adapter("peaks/tiny", serving.project).version
    calibrated = Confidence(version, 50, (-1.0, 0.0), (0.1, 0.2), -9.0, decoded_as(DecodingConfig()))
    folder = serving.project.path("peaks", "predictions", "tiny")
    folder.mkdir(parents=True)
    try:
        calibrated.save(folder)
        ended = t2s(*words)
        again = t2s(*words)
    finally:
        shutil.rmtree(folder)
    counted = "0 answered, 0 of them with SQL that is not valid; 1 without an answer; 0 failed"
    assert ended.status == 0 and counted in ended.err and f"(1 were there already): {counted}" in again.err
    assert str(_answers(out)[0]["withheld_sql"]).startswith("SELECT ")
    assert "below --min-confidence 0.9" in str(_answers(out)[0]["abstained"])


def test_a_file_that_cannot_be_written_is_one_line(t2s: T2S, serving: ProjectFiles, tmp_path: Path) -> None:
    questions = _jsonl(tmp_path / "q.jsonl", [{"question": "cheapest?"}])
    ended = t2s("batch", "-m", "peaks/tiny", "--in", questions, "--out", f"{'a' * 300}.jsonl", "--ddl", FRUIT)
    assert ended.status == 1 and ended.err.splitlines()[-1].startswith("error: ") and "Traceback" not in ended.err
