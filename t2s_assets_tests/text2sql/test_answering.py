"""What a model may do beside greedy decoding: abstain, look at the table, read int8 weights, start from merged ones."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from t2s_assets.cli import show
from t2s_assets.text2sql import adapters
from t2s_assets.text2sql.config import DecodingConfig
from t2s_assets.text2sql.decoding.types import Completion
from t2s_assets.text2sql.errors import ModelError
from t2s_assets.text2sql.evaluation.confidence import FILE, Confidence, decoded_as
from t2s_assets.text2sql.inference import Text2SQL
from t2s_assets.text2sql.tables.sources import as_table, from_ddl
from t2s_assets.text2sql.tables.user_tables import UserTable
from t2s_assets.text2sql.trained import find_adapter
from t2s_assets_tests.cli.conftest import T2S, t2s  # noqa: F401
from t2s_assets_tests.projects import ProjectFiles


@pytest.fixture
def peaks(tmp_path: Path) -> UserTable:
    path = tmp_path / "peaks.csv"
    path.write_text('Name,"Height (m)",Country\nK2,"8,611",Pakistan\nLhotse,8516,Nepal\nMakalu,8485,Nepal\n')
    return as_table(path)


@pytest.fixture
def calibrated(served: ProjectFiles) -> ProjectFiles:
    """A calibration beside `peaks/tiny` that finds every answer half as likely right as wrong."""
    folder = served.project.path("peaks", "predictions", "tiny")
    folder.mkdir(parents=True)
    version = find_adapter("peaks/tiny", served.project).version
    Confidence(version, 100, (-50.0, 0.0), (0.25, 0.4), 0.5, decoded_as(DecodingConfig())).save(folder)
    yield served
    (folder / FILE).unlink()
    folder.rmdir()


def test_an_unsure_answer_is_withheld_when_a_minimum_is_given(calibrated: ProjectFiles, peaks: UserTable) -> None:
    with Text2SQL.load("peaks/tiny", project=calibrated.project) as model:
        given = model.ask("what is the height of K2?", peaks)
        assert given.valid and given.sql and 0.25 <= given.probability <= 0.4
        withheld = model.ask("what is the height of K2?", peaks, min_confidence=0.5, run=True)
    assert (withheld.sql, withheld.valid, withheld.outcome) == ("", False, None)
    assert withheld.generated == given.generated
    assert withheld.withheld_sql == withheld.as_dict()["withheld_sql"] == given.sql and given.withheld_sql is None
    assert withheld.as_dict()["abstained"] == withheld.problem
    assert "below --min-confidence 0.5" in withheld.problem


def test_a_question_about_something_else_gets_no_sql(calibrated: ProjectFiles, peaks: UserTable) -> None:
    with Text2SQL.load("peaks/tiny", project=calibrated.project) as model:
        answer = model.ask("who won the election?", peaks)
    assert answer.sql == "" and not answer.valid and answer.withheld_sql.startswith("SELECT ")
    assert answer.abstained.startswith("cannot be answered from this table")


def test_a_question_that_names_a_cell_is_about_the_table(
    calibrated: ProjectFiles, peaks: UserTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Text2SQL.load("peaks/tiny", project=calibrated.project) as model:
        writes(model, monkeypatch, 'SELECT "Name" FROM t WHERE "Country" = \'nepal\'')
        assert model.ask("who is from nepal?", peaks, run=True).rows == (("Lhotse",), ("Makalu",))
        writes(model, monkeypatch, 'SELECT "Name" FROM t WHERE "Country" = \'peru\'')
        assert model.ask("who is from peru?", peaks, run=True).abstained


def test_texts_are_shown_as_the_cells_spell_them_where_rows_are_read(
    served: ProjectFiles, peaks: UserTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Text2SQL.load("peaks/tiny", project=served.project) as model:
        writes(model, monkeypatch, 'SELECT "Height (m)" FROM t WHERE "Name" = \'k2\'')
        unread = model.ask("how high is k2?", peaks)
        read = model.ask("how high is k2?", peaks, run=True)
        schema = model.ask("how high is k2?", from_ddl('CREATE TABLE peaks ("Name" TEXT, "Height (m)" REAL)').table())
    assert (unread.sql[-4:], unread.text_in_any_case, unread.uses_table_content) == ("'k2'", True, False)
    assert (read.sql[-4:], read.text_in_any_case, read.uses_table_content) == ("'K2'", False, True)
    assert (read.rows, read.generated) == (((8611,),), unread.generated)
    assert schema.text_in_any_case


def writes(model: Text2SQL, monkeypatch: pytest.MonkeyPatch, sql: str, logprob: float = -1.0) -> None:
    """Let the model write `sql`, whatever it is asked."""
    completion = Completion(sql, (), logprob, 9, 0, 9, 0.0, 0.0, True)
    monkeypatch.setattr(model._decoder, "generate", lambda requests: [completion] * len(requests))


def test_a_minimum_needs_a_calibration(served: ProjectFiles, peaks: UserTable) -> None:
    with Text2SQL.load("peaks/tiny", project=served.project) as model:
        assert model.ask("how high?", peaks).probability is None
        with pytest.raises(ModelError, match="no calibration of this adapter"):
            model.ask("how high?", peaks, min_confidence=0.5)


def test_looking_at_the_table_is_marked(served: ProjectFiles, peaks: UserTable) -> None:
    looking = DecodingConfig(execution_guided=True, value_grounding=True)
    with Text2SQL.load("peaks/tiny", project=served.project, decoding=looking) as model:
        assert model.ask("How high is Lhotze?", peaks).uses_table_content
        schema = from_ddl("CREATE TABLE peaks (name TEXT, height REAL)").table()
        assert not model.ask("How high is Lhotze?", schema).uses_table_content
    with Text2SQL.load("peaks/tiny", project=served.project) as model:
        assert not model.ask("How high is Lhotze?", peaks).uses_table_content


@pytest.mark.skipif(
    torch.backends.quantized.engine not in ("x86", "fbgemm", "onednn"), reason="PyTorch's x86 kernels are not here"
)
def test_int8_weights_answer(served: ProjectFiles, peaks: UserTable) -> None:
    from t2s_assets.text2sql.decoding.int8 import Int8Linear

    quick = DecodingConfig(weights="int8")
    with Text2SQL.load("peaks/tiny", project=served.project, device="cpu", decoding=quick) as model:
        assert any(isinstance(m, Int8Linear) for m in model._decoder.model.modules())
        assert model.ask("How high is K2?", peaks).valid


def test_the_second_start_reads_merged_weights(
    served: ProjectFiles, peaks: UserTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Text2SQL.load("peaks/tiny", project=served.project) as model:
        first = model.ask("How high is K2?", peaks)

    def again(*_: object) -> None:
        raise AssertionError("merged again")

    monkeypatch.setattr(adapters, "load_tuned", again)
    with Text2SQL.load("peaks/tiny", project=served.project) as model:
        second = model.ask("How high is K2?", peaks)
    assert (second.generated, second.confidence) == (first.generated, pytest.approx(first.confidence))


def test_ask_says_why_there_is_no_answer(
    calibrated: ProjectFiles,
    t2s: T2S,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("T2S_CONFIGS", str(calibrated.project.configs))
    monkeypatch.setenv("T2S_STORAGE", str(calibrated.project.storage))
    ddl = "CREATE TABLE peaks (name TEXT, height REAL)"
    shown = t2s("ask", "-m", "peaks/tiny", "--ddl", ddl, "--min-confidence", "0.9", "which height has K2?")
    assert shown.status == 1 and shown.out.startswith("-- no answer: an answer would be right with probability")
    assert re.search(r"^-- withheld: SELECT .* FROM peaks", shown.out, re.MULTILINE)
    assert "right with probability" not in shown.err and "tokens; prefill" in shown.err
    unsure = t2s("ask", "-m", "peaks/tiny", "--ddl", ddl, "which height has K2?")
    assert unsure.status == 0 and unsure.out.startswith("SELECT ")
    assert re.search(r"^warning: more likely wrong than right$", unsure.err, re.MULTILINE)
    assert re.search(r"right with probability (at most )?0\.[23]\d; \d+ tokens", unsure.err)


def test_the_lowest_step_of_a_calibration_is_shown_as_a_bound(
    served: ProjectFiles, peaks: UserTable, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with Text2SQL.load("peaks/tiny", project=served.project) as model:
        fit = Confidence("v", 100, (-9.0, -5.0, -1.0), (0.2, 0.2, 0.9), 0.0, {})
        monkeypatch.setattr(model, "calibration", fit)
        for logprob, sure in ((-30.0, "at most 0.20"), (-6.0, "at most 0.20"), (-3.0, "0.55"), (-0.5, "0.90")):
            writes(model, monkeypatch, 'SELECT MAX("Height (m)") FROM t', logprob)
            show.print_answer(model.ask("what is the highest?", peaks))
            shown = capsys.readouterr().err
            assert f"right with probability {sure};" in shown
            assert ("warning: more likely wrong than right" in shown) is (logprob < -4)
