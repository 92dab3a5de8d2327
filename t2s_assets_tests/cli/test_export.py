"""`t2s export`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from t2s_assets.text2sql.comparison.champion import CHAMPION
from t2s_assets.text2sql.export.card_snippet import BASE_VARIABLE
from t2s_assets.text2sql.storage import read_manifest, write_json, write_manifest
from t2s_assets_tests.cli.conftest import FRUIT, T2S, found
from t2s_assets_tests.projects import ProjectFiles
from t2s_assets_tests.serving import save_adapter
from t2s_assets_tests.trainable import add_towns


@pytest.fixture
def towns(project_files: ProjectFiles, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> ProjectFiles:
    add_towns(project_files, tiny_base)
    save_adapter(project_files.project, "towns", "tiny")
    return found(project_files, monkeypatch)


def version_of(files: ProjectFiles) -> str:
    return str(read_manifest(files.project.path("towns", "adapter", "tiny"), made_by="")["data_version"])


def test_export_says_what_it_wrote(t2s: T2S, towns: ProjectFiles, tmp_path: Path) -> None:
    ended = t2s("export", "towns/tiny", "--to", tmp_path / "out")
    assert (ended.status, ended.err) == (0, "")
    told = rf"exported towns/tiny, version {version_of(towns)} \(merged, float32, \d\.\d MB\), to {tmp_path}/out"
    assert re.fullmatch(told, ended.out.splitlines()[-1]) and (tmp_path / "out" / "model.safetensors").is_file()
    assert "merging in float32" in ended.out and f"MB of weights to {tmp_path}/out" in ended.out
    again = t2s("export", "towns/tiny", "--to", tmp_path / "out")
    assert again.status == 1 and again.err.count("\n") == 1 and "is not empty" in again.err
    forced = t2s("export", "towns/tiny", "--to", tmp_path / "out", "--what", "adapter", "--force")
    assert "(adapter, " in forced.out and not (tmp_path / "out" / "model.safetensors").exists()


def test_an_exported_adapter_is_a_model_to_ask(
    t2s: T2S, towns: ProjectFiles, tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(BASE_VARIABLE, str(tiny_base))
    assert t2s("export", "towns/tiny", "--to", tmp_path / "out", "--what", "adapter").status == 0
    question = ["--ddl", FRUIT, "which fruit is cheapest?"]
    asked, direct = (t2s("ask", "-m", model, *question) for model in (tmp_path / "out", "towns/tiny"))
    assert (asked.status, asked.out) == (direct.status, direct.out)
    merged = t2s("export", tmp_path / "out", "--to", tmp_path / "merged")
    assert f"version {version_of(towns)} (merged, float32" in merged.out
    refused = t2s("ask", "-m", tmp_path / "merged", *question)
    assert refused.status == 1 and "holds merged weights" in refused.err and refused.err.count("\n") == 1


def test_a_champion_that_was_trained_again_is_exported_with_a_warning(
    t2s: T2S, towns: ProjectFiles, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = towns.project.path("towns", "champion")
    write_json(folder / CHAMPION, {"experiment": "tiny"})
    write_manifest(folder, "v", {"experiment": "tiny", "adapter_version": "of-before"})
    ended = t2s("export", "towns", "--to", tmp_path / "out", "--what", "adapter")
    assert f"exported towns/tiny, version {version_of(towns)} " in ended.out
    (warned,) = [r.getMessage() for r in caplog.records if "became champion" in r.getMessage()]
    assert f"(adapter of-before, now {version_of(towns)})" in warned


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["export", "towns/tiny"], "Missing option '--to'"),
        (["export", "towns/tiny", "--to", "x", "--what", "both"], "merged or adapter is wanted; got 'both'"),
        (["export", "towns/tiny", "--to", "x", "--dtype", "int8"], "float32, bfloat16 or float16 is wanted"),
        (["export", "towns/tiny", "--to", "x", "--what", "adapter", "--dtype", "float16"], "--dtype is for merged"),
        (["export", "towns/tiny", "--to", "x", "--device", "tpu"], "cpu, cuda or mps"),
    ],
)
def test_wrong_usage(t2s: T2S, towns: ProjectFiles, words: list[str], problem: str) -> None:
    ended = t2s(*words)
    assert ended.status == 2 and problem in re.sub(r"[\s│]+", " ", ended.err)


@pytest.mark.parametrize(
    ("model", "problem"), [("towns/gone", "no trained adapter towns/gone"), ("towns", "has no champion yet")]
)
def test_a_model_that_is_not_there(t2s: T2S, towns: ProjectFiles, tmp_path: Path, model: str, problem: str) -> None:
    ended = t2s("export", model, "--to", tmp_path / "out")
    assert ended.status == 1 and problem in ended.err and ended.err.count("\n") == 1
    assert not (tmp_path / "out").exists()
