"""Ctrl-C while a library is imported that turns an interrupt into an error of its own, as transformers does."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from t2s_assets.cli.repl import Session
from t2s_assets.text2sql import base_models, evaluation
from t2s_assets.text2sql.errors import ModelError
from t2s_assets.text2sql.evaluation import entry, predictions
from t2s_assets.text2sql.inference import Text2SQL
from t2s_assets_tests.cli.conftest import FRUIT, T2S, found
from t2s_assets_tests.projects import ProjectFiles
from t2s_assets_tests.serving import ONE_EACH

pytestmark = pytest.mark.usefixtures("heard")


@pytest.fixture(params=[ModelError, ImportError])
def interrupted(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """What takes the place of an import that is interrupted."""

    def importing(*_: object) -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise request.param("could not be imported") from None

    return importing


@pytest.mark.parametrize("command", ["ask", "batch", "repl"])
def test_a_model_that_loads(
    t2s: T2S,
    serving: ProjectFiles,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    interrupted: Callable[..., Any],
    command: str,
) -> None:
    monkeypatch.setattr(base_models, "tokenizer_from", interrupted)
    questions = tmp_path / "q.jsonl"
    questions.write_text(json.dumps({"question": "cheapest?"}) + "\n")
    words = {"ask": ["cheapest?"], "batch": ["--in", questions, "--out", tmp_path / "a.jsonl"], "repl": []}[command]
    ended = t2s(command, "-m", "peaks/tiny", "--ddl", FRUIT, *words)
    assert (ended.status, ended.out, ended.err) == (130, "", "")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_prompts_and_an_evaluation(
    t2s: T2S, shop: ProjectFiles, monkeypatch: pytest.MonkeyPatch, interrupted: Callable[..., Any]
) -> None:
    found(shop, monkeypatch)
    shop.dataset("shop", ONE_EACH)
    monkeypatch.setattr(base_models, "load_tokenizer", interrupted)
    monkeypatch.setattr(predictions, "make_predictions", interrupted)
    kept = f"error: stopped by SIGINT; {evaluation.GOES_ON}\n"
    for command, said in {"prepare": "", "evaluate": kept}.items():
        ended = t2s(command, "shop/tiny")
        assert (ended.status, ended.err) == (130, said)


def test_a_rank_of_an_evaluation(
    shop: ProjectFiles,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    interrupted: Callable[..., Any],
) -> None:
    found(shop, monkeypatch)
    monkeypatch.setattr("sys.argv", ["evaluation", "shop/tiny"])
    monkeypatch.setattr(predictions, "make_predictions", interrupted)
    assert entry.main() == 130
    assert "error" not in capfd.readouterr().out


def test_a_session_goes_on_and_tells_later_errors(
    t2s: T2S, serving: ProjectFiles, monkeypatch: pytest.MonkeyPatch, interrupted: Callable[..., Any]
) -> None:
    load, close = Text2SQL.load, Session.close

    def first_alone(model: str, **options: Any) -> Text2SQL:
        return load(model, **options) if model == "peaks/tiny" else interrupted()

    def closed(session: Session) -> None:
        close(session)
        raise OSError("not of the interrupt")

    monkeypatch.setattr(Text2SQL, "load", first_alone)
    monkeypatch.setattr(Session, "close", closed)
    ended = t2s("repl", "-m", "peaks/tiny", "--ddl", FRUIT, stdin="\\model peaks/free\ncheapest?")
    assert "FROM fruit" in ended.out
    assert [line for line in ended.err.splitlines() if "token" not in line] == [
        "stopped",
        "error: not of the interrupt",
    ]
    assert ended.status == 1
