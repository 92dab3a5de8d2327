"""The benchmarks run as anyone runs them, on the smallest of data, and write what they promise."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from t2s_assets_tests.projects import ProjectFiles
from t2s_assets_tests.trainable import trained_towns
from t2s_assets_tests.warm import WarmPython

ROOT = Path(__file__).parent.parent
MINI = ROOT / "t2s_assets" / "text2sql" / "datasets" / "mini"


@pytest.fixture(scope="module")
def towns(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> ProjectFiles:
    return trained_towns(tmp_path_factory.mktemp("benchmarks"), tiny_base)


def bench(name: str, to: Path, *arguments: str, files: ProjectFiles | None = None) -> Any:
    """What it writes; of one that runs models, where `files` has them, in a process that has imported the libraries."""
    line = [str(ROOT / "benchmarks" / f"{name}.py"), *arguments, "--json", str(to)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    if files is None:
        done = subprocess.run([sys.executable, *line], cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    else:
        folders = {"T2S_STORAGE": str(files.project.storage), "T2S_CONFIGS": str(files.project.configs)}
        child = WarmPython(line, environment=environment | folders)
        said = child.stdout.read()
        assert child.wait(60) == 0, said
    return json.loads(to.read_text())


def test_scoring(tmp_path: Path) -> None:
    found = bench("scoring", tmp_path / "s.json", "--archive", str(MINI), "--limit", "60")
    assert {"questions", "seconds", "baseline_seconds", "speedup", "peak_rss_mb"} <= found.keys()
    assert found["questions"] == 60
    assert 30 < found["right"] < 60
    assert found["verdicts_that_differ"] == 0


def test_opening(tmp_path: Path) -> None:
    found = bench("opening", tmp_path / "o.json", "--rows", "300", "--repeats", "1", "--shapes", "mixed", "nasty")
    assert list(found) == ["mixed", "nasty"]
    for figures in found.values():
        assert figures["rows"] == figures["baseline_rows"] == figures["all_rows_rows"] == 300
        assert {"seconds", "cpu_seconds", "peak_rss_mb", "baseline_ratio", "all_rows_ratio"} <= figures.keys()


def test_training(tmp_path: Path, towns: ProjectFiles) -> None:
    given = ("--experiment", "towns/tiny", "--examples", "16", "--validation", "4", "--logging", "1")
    found = bench("training", tmp_path / "t.json", *given, files=towns)
    promised = {"examples_per_s", "speedup", "val_loss", "baseline_val_loss", "matmul_share", "peak_rss_gb"}
    assert promised <= found.keys()
    # The same examples in the same order at the same rates: only rounding tells the two engines apart.
    assert found["val_loss"] == pytest.approx(found["baseline_val_loss"], rel=0.01)
    assert len(found["ours"]["losses"]) == len(found["baseline"]["losses"]) > 1


def test_passes(tmp_path: Path, towns: ProjectFiles) -> None:
    given = ("--experiment", "towns/tiny", "--split", "test", "--limit", "6")
    found = bench("passes", tmp_path / "p.json", *given, files=towns)
    assert found["0"]["wrong_tokens_a_query"] == 0
    assert found["0"]["passes_mean"] > 2 * found["16"]["passes_mean"] >= 2


def test_decoding(tmp_path: Path, towns: ProjectFiles) -> None:
    given = ("--model", "towns/tiny", "--limit", "6", "--single", "2", "--max-new-tokens", "12", "--engines", "lookup")
    found = bench("decoding", tmp_path / "d.json", *given, files=towns)
    promised = ["single_p50_ms", "single_p95_ms", "single_speedup_p50", "batch_qps", "batch_speedup"]
    assert {*promised, "same_answers_share", "validity"} <= found.keys()
    assert [engine["engine"] for engine in found["engines"]] == ["ours", "generate", "lookup"]


def test_ablation(tmp_path: Path, towns: ProjectFiles) -> None:
    given = ("--model", "towns/tiny", "--limit", "3", "--threads", "1", "--only", "none", "grammar, both *")
    found = bench("ablation", tmp_path / "a.json", *given, files=towns)
    assert list(found) == ["none", "grammar, both *"]
    assert all(row["n"] == 3 for row in found.values())


def test_same_answers(tmp_path: Path, towns: ProjectFiles) -> None:
    given = ("--model", "towns/tiny", "--limit", "6", "--max-new-tokens", "12", "--dtypes", "float32")
    found = bench("same_answers", tmp_path / "s.json", *given, files=towns)
    assert (found["float32"]["n"], found["float32"]["other_answers"]) == (6, 0)


def test_busy(tmp_path: Path, towns: ProjectFiles) -> None:
    given = ("--model", "towns/tiny", "--limit", "2", "--busy", "0", "1")
    found = bench("busy", tmp_path / "b.json", *given, files=towns)
    assert [(row["busy"], row["same_answers"], row["of"]) for row in found] == [(0, 2, 2), (1, 2, 2)]
    assert all(row["free_ms"]["p50"] > 0 and row["all_ms"]["p50"] > 0 for row in found)
