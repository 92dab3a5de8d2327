"""Commands that make assets."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from t2s_assets_tests.cli.conftest import FRUIT, T2S, found
from t2s_assets_tests.projects import SHOP, ProjectFiles, question
from t2s_assets_tests.serving import ONE_EACH

MOSTLY_SOUND = SHOP | {
    "train": (
        SHOP["train"][0],
        [*SHOP["train"][1], *(question("fruit", f"name them, {i} times", 0) for i in range(20))],
    )
}
"""One training query of 28 does not run."""


def test_prepare_and_list(t2s: T2S, shop: ProjectFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.dataset("shop", MOSTLY_SOUND)
    found(shop, monkeypatch)
    assert "nothing" in t2s("list").out
    ended = t2s("prepare", "shop/tiny")
    assert ended.status == 0, ended.err
    assert "next: t2s train shop/tiny" in ended.out
    shown = t2s("list").out
    assert "33 questions" in shown and "1 gold queries that do not run" in shown and "prompts" in shown


def test_list_describes_what_it_can_read(t2s: T2S, shop: ProjectFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    found(shop, monkeypatch)
    shop.yaml("shop", "dataset", {"description": "A shop [closed]", "source": {"kind": "bundled"}})
    (shop.project.configs / "shop" / "broken.yaml").write_text("colour: red\n")
    shop.yaml("shop", "tiny copy", "")
    shop.dataset("my-shop")
    ended = t2s("list")
    out = " ".join(re.sub("[│┃]", " ", ended.out).split())  # cells are as wide as the folder's path lets them be
    assert "file name is" in out and "got 'tiny copy'" in out
    assert "folder name is" in out and "got 'my-shop'" in out
    assert ended.status == 0 and "A shop [closed]" in out
    assert "shop/tiny" in out and "error: " in out and "colour: unknown key" in out


def test_an_output_that_cannot_show_a_letter_is_told_of_in_one_line(
    shop: ProjectFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    found(shop, monkeypatch)
    shop.yaml("shop", "dataset", {"description": "商店", "source": {"kind": "bundled"}})
    command = [sys.executable, "-m", "t2s_assets.cli", "list"]
    ended = subprocess.run(command, env=os.environ | {"PYTHONIOENCODING": "latin-1"}, capture_output=True, text=True)
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: the output's encoding, iso8859-1, has no ") and ended.stderr.count("\n") == 1
    assert ended.stderr.rstrip().endswith("set PYTHONIOENCODING=utf-8")


def test_list_shows_the_rest_where_a_record_is_broken(
    t2s: T2S, shop: ProjectFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    found(shop, monkeypatch)
    for asset, file in (("tables", "manifest.json"), ("champion", "champion.json"), ("report/tiny", "manifest.json")):
        broken = shop.project.path("shop", asset) / file
        broken.parent.mkdir(parents=True)
        broken.write_text("{")
    ended = t2s("list")
    out = " ".join(re.sub("[│┃]", " ", ended.out).split())
    assert ended.status == 0 and "shop/tiny" in out
    for command in ("t2s prepare shop", "t2s champion shop", "t2s run shop/tiny"):
        assert f"make it again with: {command}" in out


def test_prepare_refuses_a_leak_between_splits(
    t2s: T2S, project_files: ProjectFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables, questions = SHOP["test"]
    project_files.dataset("leaky", {**SHOP, "test": (tables, [*questions, SHOP["dev"][1][0]])})
    found(project_files, monkeypatch)
    ended = t2s("prepare", "leaky")
    assert ended.status == 1 and ended.err.startswith("error: ") and "single" in ended.err


def test_data_that_dagster_would_stop_at_go_no_further(
    t2s: T2S, shop: ProjectFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    found(shop, monkeypatch)
    for command in ("prepare", "run"):
        ended = t2s(command, "shop/tiny")
        assert ended.status == 1
        assert ended.err.startswith("error: shop: gold queries that do not run: 1 of 8 in train"), ended.err
    shop.dataset("shop", {"train": MOSTLY_SOUND["train"]})
    ended = t2s("prepare", "shop/tiny")
    assert ended.status == 1 and "no gold query of the validation and test splits runs" in ended.err
    assert not shop.project.path("shop", "prompts").exists()


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["train", "peaks/nope"], "no experiment 'nope'"),
        (["prepare", "nope"], "no dataset 'nope'"),
        (["champion", "nope"], "no dataset 'nope'"),
        (["champion", "peaks"], "no experiment has predictions yet"),
        (["train", "peaks/untrained"], "make it with: t2s prepare peaks/untrained"),
        (["evaluate", "peaks/untrained"], "make it with: t2s prepare peaks/untrained"),
        (["report", "peaks/untrained"], "make it with: t2s evaluate peaks/untrained"),
        (["reproduce", "peaks/untrained"], "manifest.json is not there; make it with: t2s train"),
    ],
)
def test_errors_of_the_pipeline_name_the_next_step(
    t2s: T2S, serving: ProjectFiles, words: list[str], problem: str
) -> None:
    ended = t2s(*words)
    assert ended.status == 1 and ended.err.startswith("error: ") and problem in ended.err


def test_a_plan_for_another_machine_needs_neither_weights_nor_the_device(
    t2s: T2S, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("T2S_CONFIGS", str(Path(__file__).resolve().parents[2] / "configs"))
    fits = t2s("train", "wikisql/tinyllama", "--plan", "--memory-gb", "24")
    assert fits.status == 0 and "GB of 24.0 GB available" in fits.out and "adapter 50.5 MB" in fits.out
    too_small = t2s("train", "wikisql/tinyllama", "--plan", "--memory-gb", "8")
    assert too_small.status == 1 and "use training.batch_size: " in too_small.err
    assert t2s("train", "wikisql/tinyllama", "--memory-gb", "8").status == 2


def test_run_does_it_all(
    t2s: T2S, project_files: ProjectFiles, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project_files.dataset("peaks", ONE_EACH)
    project_files.experiment("peaks", "tiny", base=tiny_base, evaluation={"latency_questions": 2})
    found(project_files, monkeypatch)
    ended = t2s("run", "peaks/tiny")
    assert ended.status == 0, ended.err
    assert "champion of peaks: tiny" in ended.out
    assert "peaks/tiny on all 2 test questions" in ended.out
    shown = t2s("list").out
    assert "champion" in shown and "of 2 test questions" in shown
    asked = t2s("ask", "-m", "peaks", "--ddl", FRUIT, "which fruit is cheapest?")
    assert asked.status == 0 and "FROM fruit" in asked.out
    again = t2s("train", "peaks/tiny")
    assert "already trained" in again.out
