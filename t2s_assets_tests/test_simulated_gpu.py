"""Training and answering on CUDA, as far as a device that is simulated shows it: see `simulated_gpu`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from t2s_assets_tests.projects import ProjectFiles
from t2s_assets_tests.simulated_gpu.train import answers
from t2s_assets_tests.trainable import add_experiment, add_towns, prepare
from t2s_assets_tests.training_runs import train

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        sys.platform != "linux" or not shutil.which("c++"), reason="the simulated GPU needs Linux and a compiler"
    ),
]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What registers the device with torch, compiled."""
    import torch

    folder, built = Path(torch.__file__).parent, tmp_path_factory.mktemp("gpu") / "device.so"
    source = Path(__file__).parent / "simulated_gpu" / "device.cpp"
    flags = ["-std=c++20", "-O1", "-shared", "-fPIC", f"-I{folder / 'include'}", f"-L{folder / 'lib'}"]
    subprocess.run(["c++", str(source), *flags, "-lc10", "-ltorch_cpu", "-o", str(built)], check=True)
    return built


def on_gpu(files: ProjectFiles, name: str, library: Path) -> dict[str, Any]:
    """What a process found in which the device is there; trained until step 4, broken off, and gone on with."""
    import torch

    variables = {"LD_PRELOAD": str(library), "LD_LIBRARY_PATH": str(Path(torch.__file__).parent / "lib")}
    done = subprocess.run(
        [sys.executable, "-m", "t2s_assets_tests.simulated_gpu.train", str(files.project.configs.parent), name],
        env={**os.environ, **variables, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    return json.loads(next(line for line in done.stdout.splitlines() if line.startswith("FOUND"))[5:])


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"questions_a_table": 4, "group_by_length": False},
        {"gradient_checkpointing": True, "best": "ex", "hardware": {"dtype": "bfloat16"}},
        {"hardware": {"dtype": "float16"}},
    ],
    ids=["float32", "shared schemas", "bfloat16, checkpointing, answers", "float16"],
)
def test_a_gpu_trains_and_answers_as_the_cpu_does(
    tmp_path: Path, tiny_base: Path, library: Path, settings: dict[str, Any]
) -> None:
    files = add_towns(ProjectFiles(tmp_path), tiny_base)
    prepare(files, "tiny")
    settings = {"max_steps": 6} | settings
    hardware = {"dtype": "float32", "attention": "sdpa"} | settings.pop("hardware", {})
    for device in ("cpu", "cuda"):
        add_experiment(files, tiny_base, device, **settings, hardware=hardware | {"device": device})
        prepare(files, device)
    found = on_gpu(files, "cuda", library)
    manifest, _ = train(files, "cpu")
    assert "going on from checkpoint-2" in found["lines"] or "going on from checkpoint-4" in found["lines"]
    close = 1e-4 if hardware["dtype"] == "float32" else 5e-3
    for loss in ("train_loss", "validation_loss"):
        assert found["manifest"][loss] == pytest.approx(manifest[loss], rel=close)
    if hardware["dtype"] == "float32":
        assert found["answers"] == answers(files.project, "cpu")
    assert all(found["answers"])
