"""`t2s repl`."""

from __future__ import annotations

import json
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest

from t2s_assets.cli.repl import Session
from t2s_assets.text2sql.inference import Text2SQL
from t2s_assets.text2sql.sources import open_source
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
        "choose a table first", "no table 'nothing'", "nothing to run yet", "no command \\nonsense",
        "'veg' is only a schema", "\\table needs a name; there are: fruit, veg",
    ):  # fmt: skip
        assert problem in ended.err
    assert "CREATE TABLE fruit" in ended.out and "FROM fruit" in ended.out and "FROM veg" in ended.out
    assert "* veg" in ended.out and "┃" in ended.out and "\\quit" in ended.out
    assert re.search(r"^\d+ rows?", ended.err, re.MULTILINE)
    assert "never read" not in ended.out


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
