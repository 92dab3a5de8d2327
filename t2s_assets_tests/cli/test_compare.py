"""`t2s compare`: what it prints, what it writes, what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from t2s_assets_tests.cli.conftest import T2S, found
from t2s_assets_tests.projects import ProjectFiles
from t2s_assets_tests.scored import prepare_gold, row, save
from t2s_assets_tests.serving import ONE_EACH

Scored = Callable[..., None]


@pytest.fixture
def scored(project_files: ProjectFiles, monkeypatch: pytest.MonkeyPatch) -> Scored:
    """Gives an experiment of `towns` predictions on validation and test questions, one letter each, r for right."""
    found(project_files, monkeypatch)
    now = prepare_gold(project_files)

    def add(name: str, verdicts: str, **sections: Any) -> None:
        project_files.experiment("towns", name, base=Path("not-loaded"), **sections)
        rows = [
            row(f"{split[0]}{i}", right=v == "r", split=split, question=f"question {i} \x1b[31m[of] {split}?")
            for split in ("validation", "test")
            for i, v in enumerate(verdicts)
        ]
        save(project_files.project, "towns", name, rows, gold=now)

    return add


@pytest.mark.slow
def test_experiments_that_were_run_are_compared(
    t2s: T2S, project_files: ProjectFiles, tiny_base: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    project_files.dataset("peaks", ONE_EACH)
    project_files.experiment("peaks", "tiny", base=tiny_base, evaluation={"latency_questions": 2})
    project_files.yaml("peaks", "free", {"like": "tiny", "decoding": {"grammar": "none", "max_new_tokens": 16}})
    found(project_files, monkeypatch)
    for name in ("tiny", "free"):
        assert t2s("run", f"peaks/{name}").status == 0
    ended = t2s("compare", "peaks/tiny", "peaks/free", "--json", tmp_path / "made" / "it.json")
    assert ended.status == 0, ended.err
    assert "peaks: all 2 validation questions, answered by all" in ended.out
    assert "decoding.grammar schema -> none" in ended.out and "min, that of peaks/tiny" in ended.out
    written = json.loads((tmp_path / "made" / "it.json").read_text())
    tiny, free = written["experiments"]
    assert tiny["adapter"] == free["adapter"] and tiny["predictions"] != free["predictions"]
    assert tiny["overall"]["validity"]["value"] == 1.0 and free["overall"]["validity"]["n"] == 2
    assert [s["field"] for s in written["comparisons"][0]["settings"]] == [
        "decoding.grammar",
        "decoding.max_new_tokens",
    ]
    assert free["latency_p95_ms"] > 0 and free["adapter_mb"] > 0
    assert written["notes"] == []


def test_a_comparison_in_tables(t2s: T2S, scored: Scored) -> None:
    scored("a", "wwwwwwrrrr")
    scored("b", "rrrrrrrrrr", lora={"rank": 8, "alpha": 8.5}, evaluation={"test_limit": 30, "baseline": False})
    ended = t2s("compare", "towns/a", "towns/b")
    assert ended.status == 0 and not ended.err
    lines = [" ".join(line.split()) for line in ended.out.splitlines()]
    assert lines[0] == "towns: all 10 validation questions, answered by all (95 % intervals)"
    perfect = "100.0 % (72.2-100.0)"
    assert f"b 10 {' '.join([perfect] * 5)}" in lines
    assert "EX against towns/a, question by question: McNemar's exact test" in lines
    assert "b +60.0 points (+20.1 to +83.2) 6 0 p = 0.031 better by more than chance" in lines
    assert f"simple 10 40.0 % (16.8-68.7) {perfect} +6 -0" in lines
    assert "a 1.5 min not known 19.6 MB the reference" in lines
    at = lines.index("b 1.5 min not known 19.6 MB lora.rank 4 -> 8")
    assert lines[at + 1 : at + 4] == [
        "lora.alpha 8 -> 8.5",
        "evaluation.test_limit null -> 30",
        "evaluation.baseline true -> false",
    ]
    assert "note: " not in ended.out


def test_a_narrow_terminal_cuts_nothing_off(t2s: T2S, scored: Scored, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("TTY_COMPATIBLE", "1"), ("COLUMNS", "80")):
        monkeypatch.setenv(name, value)
    long = "a-name-of-more-than-half-a-line-of-a-terminal"
    scored("b", "wr")
    scored(long, "rr")
    out = t2s("compare", "towns/b", f"towns/{long}").out
    table = out[out.index("───") : out.index("EX against")].splitlines()[1:]
    assert "…" not in out and max(map(len, table)) <= 80
    assert "".join(line.split()[0] for line in table if line and line[0] != " ") == f"b{long}"


def test_several_comparisons_say_how_they_are_adjusted(t2s: T2S, scored: Scored) -> None:
    scored("a", "wwwwwwr")
    scored("b", "rrrrrrr")
    scored("c", "wwwwwww")
    ended = t2s("compare", "towns/a", "towns/b", "towns/c")
    assert "McNemar's exact test, adjusted for 2 comparisons (Holm)" in ended.out
    assert "p = 0.062" in ended.out and "better" not in ended.out


def test_to_choose_by_test_questions_is_told_as_what_it_is(t2s: T2S, scored: Scored) -> None:
    scored("a", "rw")
    scored("b", "rr")
    said = "to choose by these figures is to tune on the test split"
    ended = t2s("compare", "towns/a", "towns/b", "--split", "test")
    assert said in ended.out and "2 test questions" in ended.out
    assert said not in t2s("compare", "towns/a", "towns/b").out
    assert t2s("compare", "towns/a", "towns/b", "--split", "train").status == 2


def test_questions_won_and_lost_are_shown(t2s: T2S, scored: Scored) -> None:
    scored("a", "rwww")
    scored("b", "wrrr")
    ended = t2s("compare", "towns/a", "towns/b", "--show", "2")
    assert "won by towns/b, right in towns/b and wrong in towns/a: 2 of 3" in ended.out
    assert "lost by towns/b, right in towns/a and wrong in towns/b: 1 of 1" in ended.out
    shown = ended.out[ended.out.index("won by") :]
    assert shown.index("v1 ") < shown.index("v2 ") and "v3 " not in shown
    assert shown.index("lost by") < shown.index("v0 ")
    assert "v1  question 1 \\x1b[31m[of] validation?" in shown and "\x1b" not in ended.out
    sql = ['gold     SELECT "Town" FROM "x"', 'towns/a  SELECT "River" FROM t', 'towns/b  SELECT "Town" FROM t']
    assert "".join(f"    {line}\n" for line in sql) in shown


def test_json_alone_on_standard_output(t2s: T2S, scored: Scored) -> None:
    scored("a", "rw")
    scored("b", "wr")
    ended = t2s("compare", "towns/a", "towns/b", "--json", "-")
    written = json.loads(ended.out)
    assert (written["version"], written["reference"], written["split"]) == (1, "towns/a", "validation")
    (b,) = written["comparisons"]
    assert (b["won_questions"], b["lost_questions"]) == (["v1"], ["v0"])
    assert t2s("compare", "towns/a", "towns/b", "--json", "-", "--show", "1").status == 2
    for no_file in ("", "."):
        ended = t2s("compare", "towns/a", "towns/b", "--json", no_file)
        assert ended.status == 2 and f"a file is wanted, or -; got {no_file!r}" in ended.err and not ended.out


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["towns/a", "villages/a"], "compared on the questions of one dataset; got 2: towns, villages"),
        (["towns/a", "towns/a"], "towns/a is named twice"),
        (["towns/a", "towns/new"], "towns/new has no predictions; make some with: t2s run towns/new"),
        (["towns/a", "towns/nope"], "no experiment 'nope'"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_line(
    t2s: T2S, project_files: ProjectFiles, scored: Scored, words: list[str], problem: str
) -> None:
    scored("a", "rw")
    project_files.experiment("towns", "new", base=Path("not-loaded"))
    prepare_gold(project_files, "villages")
    project_files.experiment("villages", "a", base=Path("not-loaded"))
    ended = t2s("compare", *words)
    assert ended.status == 1 and not ended.out
    assert ended.err.startswith("error: ") and problem in ended.err and ended.err.count("\n") == 1


def test_one_experiment_is_no_comparison(t2s: T2S, scored: Scored) -> None:
    scored("a", "rw")
    assert t2s("compare", "towns/a").status == 2
    assert t2s("compare", "towns/a", "towns").status == 2


def test_no_model_library_is_loaded(project_files: ProjectFiles, scored: Scored) -> None:
    scored("a", "rw")
    scored("b", "rr")
    program = (
        "import sys; from t2s_assets.cli import app; app(sys.argv[1:], standalone_mode=False)\n"
        "heavy = {'torch', 'transformers', 'peft', 'numba', 'matplotlib'} & sys.modules.keys()\n"
        "sys.exit(f'loaded: {heavy}' if heavy else 0)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, "compare", "towns/a", "towns/b", "--show", "1"], capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
