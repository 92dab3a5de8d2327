"""What a model may do beside greedy decoding: abstain, look at the table, read int8 weights, start from merged ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from t2s_assets.text2sql import adapters
from t2s_assets.text2sql.confidence import FILE, Confidence, decoded_as
from t2s_assets.text2sql.config import DecodingConfig
from t2s_assets.text2sql.errors import ModelError
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
    assert withheld.as_dict()["abstained"] == withheld.problem
    assert "below --min-confidence 0.5" in withheld.problem


def test_a_question_about_something_else_gets_no_sql(calibrated: ProjectFiles, peaks: UserTable) -> None:
    with Text2SQL.load("peaks/tiny", project=calibrated.project) as model:
        answer = model.ask("who won the election?", peaks)
    assert answer.sql == "" and not answer.valid
    assert answer.abstained.startswith("cannot be answered from this table")


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
    assert "right with probability" in shown.err
