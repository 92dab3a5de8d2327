"""Results of gold that are kept: what is found again, what never is, and that scores do not depend on it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from t2s_assets.text2sql.evaluation.scoring import score
from t2s_assets.text2sql.execution import Database, Job, Limits, Outcome, Relation, SqlExecutor
from t2s_assets.text2sql.gold import kept_results
from t2s_assets.text2sql.gold.kept_results import GoldResults, keep, results_path
from t2s_assets.text2sql.prepare import load_questions, load_tables, make_questions, make_sql, make_tables
from t2s_assets_tests.own_data import add_library
from t2s_assets_tests.projects import ProjectFiles
from t2s_assets_tests.trainable import TOWNS

COLUMNS = [("Town", "VARCHAR COLLATE NOCASE"), ("People", "DOUBLE"), ("Arms", "BLOB")]
DATABASE = Database.of(Relation.from_rows("t", COLUMNS, [("Linz", 210000.0, b"\0\xff"), ("Graz", None, None)]))
NAMES = Job(DATABASE, 'SELECT "Town" FROM t')
ENDLESS = Job(DATABASE, "SELECT count(*) FROM " + ", ".join(f"t t{i}" for i in range(40)))
LIMITS = Limits(seconds=0.5)


@pytest.fixture(scope="module")
def executor() -> Iterator[SqlExecutor]:
    with SqlExecutor(workers=1, limits=LIMITS) as running:
        yield running


def kept(path: Path, gold: list[tuple[Job, Outcome]], log: list[str] | None = None) -> GoldResults:
    keep(path, gold, [].append, LIMITS)
    return GoldResults(path, (log if log is not None else []).append, LIMITS)


def found_again(path: Path, executor: SqlExecutor, *sql: str) -> list[str]:
    """Those of the queries whose outcome is found again, as it was."""
    jobs = [Job(DATABASE, text) for text in sql]
    gold = list(zip(jobs, executor.run(jobs)))
    results = kept(path, gold)
    assert all(repr(results.get(job)) in ("None", repr(outcome)) for job, outcome in gold)  # NaN is not NaN
    return [job.sql for job in jobs if results.get(job) is not None]


def test_what_is_known_runs_nowhere(tmp_path: Path, executor: SqlExecutor) -> None:
    outcome = executor.run([NAMES])[0]
    results = kept(tmp_path / "results", [(NAMES, outcome)])
    with SqlExecutor(workers=1, limits=LIMITS) as idle:
        assert results.run(idle, [NAMES, NAMES]) == [outcome, outcome]
        assert not idle._workers
        other = Job(DATABASE, 'SELECT "People" FROM t')
        first, second, third = results.run(idle, [NAMES, other, NAMES])
        assert (first, third) == (outcome, outcome)
        assert second.rows == ((210000.0,), (None,))
        assert idle._workers[0].started_queries == 1


def test_another_table_text_limit_or_code_is_not_known(
    tmp_path: Path, executor: SqlExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "results"
    assert kept(path, [(NAMES, executor.run([NAMES])[0])]).get(NAMES)
    changed = Database.of(Relation.from_rows("t", COLUMNS, [("Linz", 210000.0, b"\0\xff"), ("Graz", 1.0, None)]))
    results = GoldResults(path, [].append, LIMITS)
    assert results.get(Job(changed, NAMES.sql)) is None
    assert results.get(Job(DATABASE, NAMES.sql + " ")) is None
    assert GoldResults(path, [].append, Limits(seconds=0.6)).get(NAMES) is None
    monkeypatch.setattr("duckdb.__version__", "0.1")
    kept_results._environment.cache_clear()
    assert GoldResults(path, [].append, LIMITS).get(NAMES) is None
    monkeypatch.undo()
    kept_results._environment.cache_clear()
    assert GoldResults(path, [].append, LIMITS).get(NAMES)


def test_every_kind_of_value_is_found_as_it_was(tmp_path: Path, executor: SqlExecutor) -> None:
    values = (
        "1.5::DOUBLE, 'nan'::DOUBLE, '-inf'::FLOAT, NULL, TRUE, 12345678901234567890::HUGEINT, 0.0000001",
        "'Ä ''x'' \"y\" 😀', 'line\nbreak', ''",
        "DATE '2020-02-29', DATE 'infinity', TIME '01:02:03.5', TIMESTAMP '2020-01-01 00:00:00.000001', INTERVAL 1 DAY",
        "[1.5, NULL], [['a'], []], TIMESTAMP '12000-01-01 00:00:00', ['inf'::DOUBLE]",
    )
    queries = [f"SELECT {columns}" for columns in values] + [
        "SELECT * FROM t",
        "SELECT * FROM t WHERE \"Town\" = 'nowhere'",
    ]
    assert found_again(tmp_path / "results", executor, *queries) == queries


def test_only_results_that_stay_the_same_are_kept(tmp_path: Path, executor: SqlExecutor) -> None:
    changing = ["SELECT current_date", "SELECT Now()", "SELECT age(DATE '2020-01-01')", "SELECT LocalTimestamp"]
    failing = ["SELECT missing FROM t", "SELECT 'x'::INT", "DROP TABLE t", ENDLESS.sql]
    constant = ["SELECT 'now'", "SELECT today FROM (SELECT 1 AS today)"]
    assert executor.run([ENDLESS])[0].status == "timeout"
    assert found_again(tmp_path / "results", executor, *changing, *failing, *constant) == constant[:1]
    whole = executor.run([NAMES])[0]
    for status in ("timeout", "memory", "crashed", "error", "refused"):
        ended = dataclasses.replace(whole, status=status)
        assert kept(tmp_path / "results", [(NAMES, ended)]).get(NAMES) is None


def test_a_file_is_bounded(tmp_path: Path, executor: SqlExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    queries = [f"SELECT {number}" for number in range(10, 20)]
    assert found_again(tmp_path / "results", executor, *queries) == queries
    one = (tmp_path / "results").stat().st_size // 10
    monkeypatch.setattr(kept_results, "MAX_FILE_BYTES", 5 * one)
    assert 4 < len(found_again(tmp_path / "results", executor, *queries)) < 9
    monkeypatch.setattr(kept_results, "MAX_BYTES", 10)
    assert found_again(tmp_path / "results", executor, *queries) == []


def test_what_is_not_as_it_was_written_is_executed_and_said(tmp_path: Path, executor: SqlExecutor) -> None:
    path = tmp_path / "results"
    outcome = executor.run([NAMES])[0]
    kept(path, [(NAMES, outcome)])
    whole = path.read_bytes()
    key, _, payload = whole.rstrip().split(b" ", 2)
    failed = payload.replace(b'"ok"', b'"error"')
    for content, said in (
        (whole.replace(b"Linz", b"Wien"), "is not what was written"),
        (whole[:-20], "is not what was written"),
        (b" ".join((key, kept_results._checksum(key, b"[1]"), b"[1]")), "sent no JSON object"),
        (b" ".join((key, kept_results._checksum(key, failed), failed)), "answered a query with|sent something|is none"),
        (b"something else\n\0\xff\n" + whole, "left out 2 lines"),
        (b"", None),
    ):
        path.write_bytes(content)
        log: list[str] = []
        results = GoldResults(path, log.append, LIMITS)
        assert results.run(executor, [NAMES])[0].rows == outcome.rows
        said_of_file = [line for line in log if str(path) in line]
        assert len(said_of_file) == (said is not None)
        if said:
            assert any(part in said_of_file[0] for part in said.split("|")), said_of_file
    path.unlink()
    assert GoldResults(path, [].append, LIMITS).get(NAMES) is None


# ---------------------------------------------------------------------------------------------------- scoring


def scored(files: ProjectFiles, dataset: str, wrong: dict[str, str]) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows and log of scoring the completions of gold as answers, but for some."""
    tables = load_tables(files.project, dataset, ["test"])
    questions = load_questions(files.project, dataset, ["test"])
    text = {q.id: wrong.get(q.id) or q.completion(tables[q.table_id]) for q in questions}
    more = {"logprob": -1.0, "n_tokens": 9, "forward_passes": 4, "finished": True}
    log: list[str] = []
    answers = {i: {"text": t} | more for i, t in text.items()}
    return score(files.project, dataset, questions, tables, answers, log.append), log


@pytest.mark.parametrize("dataset", ["towns", "library"])
def test_scores_are_the_same_with_and_without(tmp_path: Path, dataset: str) -> None:
    files = ProjectFiles(tmp_path)
    if dataset == "towns":
        files.dataset("towns", TOWNS)
    else:
        add_library(files)
    for make in (make_tables, make_questions, make_sql):
        make(files.project, dataset, [].append)
    rows, log = scored(files, dataset, {})
    assert all(r["ex"] for r in rows)
    assert [line for line in log if line.startswith(f"executing 0 of {2 * len(rows)} queries")]
    wrong = {rows[0]["id"]: "SELECT 1"}
    again, log = scored(files, dataset, wrong)
    assert [line for line in log if line.startswith(f"executing 1 of {2 * len(rows)} queries")]
    results_path(files.project, dataset).unlink()
    without, log = scored(files, dataset, wrong)
    assert [line for line in log if line.startswith(f"executing {2 * len(rows)} of {2 * len(rows)} queries")]
    assert repr(without) == repr(again)
    assert not without[0]["ex"] and all(r["ex"] for r in without[1:])
