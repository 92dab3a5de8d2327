"""Questions to SQL through real adapters on a tiny base. Its weights are random: what it says is checked, not why."""

from __future__ import annotations

import json
import logging
import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pytest

from t2s_assets.text2sql import adapters, inference
from t2s_assets.text2sql.answers import Answer
from t2s_assets.text2sql.comparison.champion import CHAMPION
from t2s_assets.text2sql.config import DecodingConfig
from t2s_assets.text2sql.errors import DataError, ModelError, PromptError
from t2s_assets.text2sql.execution import Job, Outcome, SqlExecutor, check_sql
from t2s_assets.text2sql.inference import Text2SQL
from t2s_assets.text2sql.storage import MANIFEST, Project, write_json, write_manifest
from t2s_assets.text2sql.tables import user_tables
from t2s_assets.text2sql.tables.sources import as_table, from_ddl, open_source
from t2s_assets.text2sql.tables.user_tables import Content, UserTable
from t2s_assets.text2sql.trained import find_adapter
from t2s_assets_tests.projects import ProjectFiles

QUESTIONS = ["How high is K2?", "which peaks are over 8,500 in Nepal", "Name the lowest", "how many are there?"]


@pytest.fixture(scope="module")
def tiny(served: ProjectFiles) -> Text2SQL:
    with Text2SQL.load("peaks/tiny", project=served.project) as model:
        yield model


@pytest.fixture
def peaks(tmp_path: Path) -> UserTable:
    path = tmp_path / "high peaks.csv"
    path.write_text('Name,"Height (m)",Country\nK2,"8,611",Pakistan\nLhotse,8516,Nepal\nMakalu,8485,Nepal\n')
    return as_table(path)


def test_three_lines(served: ProjectFiles, tiny: Text2SQL, peaks: UserTable) -> None:
    answer = tiny.ask("How high is K2?", peaks)
    assert answer.valid and answer.problem is None
    assert answer.sql.startswith("SELECT ") and 'FROM "high peaks"' in answer.sql
    check_sql(answer.sql, {"high peaks": [c.name for c in peaks.columns]})
    assert 0 <= answer.confidence <= 1
    assert answer.tokens > 3 and answer.forward_passes >= 1
    latency = answer.latency
    assert 0 < latency.prefill_ms and 0 <= latency.decode_ms
    assert latency.prefill_ms + latency.decode_ms <= latency.total_ms
    assert (answer.outcome, answer.rows, answer.columns) == (None, (), ())


def test_running_gives_rows_on_a_copy(tiny: Text2SQL, peaks: UserTable) -> None:
    outcomes = [tiny.ask(q, peaks, run=True).outcome for q in QUESTIONS]
    assert [o.status for o in outcomes if o] == ["ok"] * len(QUESTIONS)
    assert all(len(o.columns) == 1 for o in outcomes if o)


def test_of_a_large_table_the_columns_are_copied_that_the_sql_names(
    tiny: Text2SQL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sums and counts are then the table's, of SQL that a model or a person wrote; and what was copied for a question
    does not wait for the others to be copied too."""
    path = tmp_path / "tours.duckdb"
    with duckdb.connect(str(path)) as db:
        db.execute("CREATE TABLE tours AS SELECT i AS days, i * 2 AS fee, 'Guide ' || i AS guide FROM range(9) AS r(i)")
    monkeypatch.setattr(user_tables, "MAX_ROWS", 2)
    monkeypatch.setattr(user_tables, "MAX_CELLS", 18)
    tours = open_source(db=path).table()
    outcome, rows_copied = tiny.run_sql("SELECT sum(fee), count(*) FROM tours WHERE days > 3", tours)
    assert (outcome.rows, rows_copied) == (((60, 5),), None)
    outcome, rows_copied = tiny.run_sql("SELECT count(*) FROM (SELECT * FROM tours)", tours)
    assert (outcome.rows, rows_copied) == (((6,),), 6)

    monkeypatch.setattr(inference, "_TOGETHER", 0)
    copies: list[set[str]] = []
    run = SqlExecutor.run

    def counted(self: SqlExecutor, jobs: list[Job]) -> list[Outcome]:
        copies.append({job.database.key for job in jobs})
        return run(self, jobs)

    monkeypatch.setattr(SqlExecutor, "run", counted)
    answers = tiny.ask_many([(question, tours) for question in QUESTIONS], run=True)
    assert [a.outcome.ok for a in answers if isinstance(a, Answer) and a.outcome] == [True] * len(QUESTIONS)
    assert max(map(len, copies)) == 1 and len(copies) >= len(QUESTIONS)


def test_many_at_once_answer_as_one_by_one(tiny: Text2SQL, peaks: UserTable) -> None:
    other = from_ddl("CREATE TABLE fruit (name TEXT, price REAL)").table()
    asked = [(q, t) for q in QUESTIONS for t in (peaks, other)]
    together = tiny.ask_many(asked)
    assert [a.sql for a in together if isinstance(a, Answer)] == [tiny.ask(q, t).sql for q, t in asked]
    assert [a.table for a in together if isinstance(a, Answer)] == ["high peaks", "fruit"] * len(QUESTIONS)


def test_what_cannot_be_asked_spoils_nothing_else(tiny: Text2SQL, peaks: UserTable) -> None:
    wide = UserTable.of("wide", [f"column number {i}" for i in range(400)], ["text"] * 400, where="test")
    found = tiny.ask_many([("How high?", peaks), ("  ", peaks), ("how?", wide), ("And K2?", peaks)], run=True)
    assert [type(a) for a in found] == [Answer, PromptError, PromptError, Answer]
    assert "the question is empty" in str(found[1])
    assert "400 columns" in str(found[2]) and "prompt.max_length = 512" in str(found[2])


def test_a_table_that_cannot_be_read_spoils_no_other_answer_that_looks_at_rows(
    served: ProjectFiles, peaks: UserTable
) -> None:
    def unreadable(typed: bool) -> Content:
        raise DataError("its file is gone")

    gone = UserTable.of("gone", ["Name"], ["text"], unreadable, where="test")
    guided = DecodingConfig(execution_guided=True)
    with Text2SQL.load("peaks/tiny", project=served.project, decoding=guided) as model:
        first, failed, last = model.ask_many([(QUESTIONS[0], peaks), (QUESTIONS[0], gone), (QUESTIONS[1], peaks)])
        assert isinstance(failed, DataError) and "its file is gone" in str(failed)
        assert isinstance(first, Answer) and first.uses_table_content
        assert isinstance(last, Answer) and last.sql == model.ask(QUESTIONS[1], peaks).sql


def test_an_answer_that_was_cut_off_says_so(served: ProjectFiles, peaks: UserTable) -> None:
    for grammar in ("schema", "none"):
        short = DecodingConfig(max_new_tokens=3, grammar=grammar)
        with Text2SQL.load("peaks/tiny", project=served.project, decoding=short) as model:
            answer = model.ask(QUESTIONS[0], peaks)
        assert not answer.valid and answer.problem == "cut off at decoding.max_new_tokens = 3 before the SQL ended"


def test_rows_that_were_not_given_are_missed_only_when_run(tiny: Text2SQL) -> None:
    ddl = "CREATE TABLE fruit (name TEXT, price REAL)"
    assert tiny.ask("cheapest?", ddl).valid
    with pytest.raises(DataError, match="only a schema"):
        tiny.ask("cheapest?", ddl, run=True)


def test_an_empty_question_is_refused(tiny: Text2SQL, peaks: UserTable) -> None:
    for question in ("", " \n\t", "\0"):
        with pytest.raises(PromptError, match="the question is empty"):
            tiny.ask(question, peaks)


def test_half_a_character_is_refused(tiny: Text2SQL, peaks: UserTable) -> None:
    with pytest.raises(PromptError, match="half a character"):
        tiny.ask("how high is K\ud800?", peaks)


def test_a_prompt_over_the_trained_length_is_refused(served: ProjectFiles, peaks: UserTable) -> None:
    model = Text2SQL.load("peaks/short", project=served.project)
    with pytest.raises(
        PromptError, match=r"the prompt has \d+ tokens \(3 columns\).* prompt.max_length = 48 .*leave out"
    ):
        model.ask("How high is K2, and how high are all the others of them, one by one?", peaks)


def test_a_prompt_over_the_models_context_is_refused(served: ProjectFiles, tiny: Text2SQL, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny.adapter.folder, tmp_path / "long")
    content = json.loads((folder / "prompt_format.json").read_text())
    write_json(folder / "prompt_format.json", content | {"max_length": 100_000})
    model = Text2SQL.load(folder, project=served.project)
    wide = UserTable.of("wide", [f"column number {i}" for i in range(200)], ["text"] * 200, where="test")
    with pytest.raises(PromptError, match=r"a context of 1024 tokens, of which decoding.max_new_tokens = 128"):
        model.ask("how?", wide)


def test_free_text_is_checked_and_called_what_it_is(served: ProjectFiles, peaks: UserTable) -> None:
    with Text2SQL.load("peaks/free", project=served.project) as model:
        answer = model.ask("How high is K2?", peaks, run=True)
    assert not answer.valid and answer.problem
    assert answer.sql == answer.generated
    assert answer.outcome is None


def test_sample_values_need_rows(served: ProjectFiles, peaks: UserTable) -> None:
    with Text2SQL.load("peaks/samples", project=served.project) as model:
        assert model.ask("How high is K2?", peaks).valid
        with pytest.raises(PromptError, match="needs the table's rows"):
            model.ask("cheapest?", "CREATE TABLE fruit (name TEXT, price REAL)")


def test_an_answer_as_json(tiny: Text2SQL, peaks: UserTable) -> None:
    answer = tiny.ask("How high is K2?", peaks, run=True)
    content = json.loads(json.dumps(answer.as_dict(), allow_nan=False))
    assert content["sql"] == answer.sql and content["valid"] is True
    assert math.isclose(content["sequence_probability"], answer.confidence, abs_tol=1e-6)
    assert content["result"]["status"] == "ok"
    assert [tuple(r) for r in content["result"]["rows"]] == list(answer.rows)


# ------------------------------------------------------------------------------------------- finding an adapter


def test_an_adapter_by_address_champion_and_folder(served: ProjectFiles, caplog: pytest.LogCaptureFixture) -> None:
    project = served.project
    folder = project.path("peaks", "adapter", "tiny")
    assert find_adapter("peaks/tiny", project).folder == folder
    assert find_adapter(folder, project).folder == folder
    with pytest.raises(ModelError, match="'peaks' has no champion yet; choose one with t2s champion peaks"):
        find_adapter("peaks", project)
    with champion(project, "free", find_adapter("peaks/free", project).version), caplog.at_level(logging.WARNING):
        assert find_adapter("peaks", project).folder == project.path("peaks", "adapter", "free")
    assert not caplog.records


@contextmanager
def champion(project: Project, experiment: str, version: str) -> Iterator[None]:
    """`peaks` with an experiment that became champion with an adapter of that version."""
    folder = project.path("peaks", "champion")
    write_json(folder / CHAMPION, {"experiment": experiment})
    write_manifest(folder, "v", {"experiment": experiment, "adapter_version": version})
    try:
        yield
    finally:
        shutil.rmtree(folder)


def test_a_champion_that_was_trained_again_serves_and_says_so_once(
    served: ProjectFiles, caplog: pytest.LogCaptureFixture
) -> None:
    project = served.project
    now = find_adapter("peaks/free", project).version
    with champion(project, "free", "of-before"), caplog.at_level(logging.WARNING):
        assert find_adapter("peaks", project).version == find_adapter("peaks", project).version == now
        (said,) = [r.getMessage() for r in caplog.records]
        assert f"(adapter of-before, now {now})" in said and "t2s run peaks/free" in said
        find_adapter("peaks/free", project)
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("model", "problem"),
    [
        ("peaks/untrained", "no trained adapter peaks/untrained; trained are: peaks/free, peaks/samples"),
        ("peaks/untrained", "Train it with: t2s run peaks/untrained"),
        ("nothing/here", r"no trained adapter nothing/here; .*There is no .*nothing/here.yaml to train it from"),
        ("nothing", "'nothing' has no champion yet"),
        ("./nowhere", "is no adapter's folder"),
        ("", "has no champion yet"),
    ],
)
def test_a_missing_adapter(served: ProjectFiles, model: str, problem: str) -> None:
    with pytest.raises(ModelError, match=problem):
        find_adapter(model, served.project)


def test_no_adapter_at_all(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="none is trained yet"):
        find_adapter("peaks/tiny", Project(tmp_path / "configs", tmp_path / "storage"))


def _copy(served: ProjectFiles, tmp_path: Path) -> Path:
    return shutil.copytree(served.project.path("peaks", "adapter", "tiny"), tmp_path / "copy")


def test_an_adapter_of_another_base_is_refused(served: ProjectFiles, tmp_path: Path) -> None:
    folder = _copy(served, tmp_path)
    records = json.loads((folder / adapters.RESOLVED_CONFIG).read_text())
    write_json(folder / adapters.RESOLVED_CONFIG, records | {"base_identity": "0" * 16})
    with pytest.raises(ModelError, match=r"trained on base weights 0000000000000000, but .* holds"):
        Text2SQL.load(folder, project=served.project)


def test_a_base_that_is_gone_is_named(served: ProjectFiles, tmp_path: Path) -> None:
    folder = _copy(served, tmp_path)
    records = json.loads((folder / adapters.RESOLVED_CONFIG).read_text())
    records["experiment"]["base_model"]["path"] = str(tmp_path / "gone")
    write_json(folder / adapters.RESOLVED_CONFIG, records)
    with pytest.raises(ModelError, match="gone is no model folder"):
        Text2SQL.load(folder, project=served.project)


def test_broken_adapters_are_refused(served: ProjectFiles, tmp_path: Path) -> None:
    folder = _copy(served, tmp_path)
    weights = folder / adapters.WEIGHTS
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match=r"the adapter cannot be loaded .*; train again with: t2s train"):
        Text2SQL.load(folder, project=served.project)
    weights.unlink()
    with pytest.raises(ModelError, match=r"adapter_model.safetensors is missing"):
        Text2SQL.load(folder, project=served.project)
    weights.write_bytes(whole)
    write_json(folder / adapters.RESOLVED_CONFIG, {"experiment": {}})
    with pytest.raises(ModelError, match="its records are broken"):
        Text2SQL.load(folder, project=served.project)
    (folder / MANIFEST).unlink()
    with pytest.raises(ModelError, match="is no adapter's folder"):
        Text2SQL.load(folder, project=served.project)


def test_a_device_that_is_not_here_is_refused(served: ProjectFiles) -> None:
    import torch

    absent = next(
        d for d, here in (("mps", torch.backends.mps.is_available()), ("cuda", torch.cuda.is_available())) if not here
    )
    with pytest.raises(ModelError, match=f"hardware.device: {absent} is not on this machine"):
        Text2SQL.load("peaks/tiny", project=served.project, device=absent)
