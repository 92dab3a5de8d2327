"""Checkpoints: whole or passed over, one trainer at a time, and errors of the disk in words."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from t2s_assets.text2sql.errors import T2SError
from t2s_assets.text2sql.training.checkpoints import SEAL, damage, last_whole, older, only_trainer, seal, write_failure


def checkpoint(folder: Path, step: int, *, best: int | None = None) -> Path:
    made = folder / f"checkpoint-{step}"
    made.mkdir()
    (made / "optimizer.pt").write_bytes(b"momentum" * 100)
    state = {"best_model_checkpoint": str(folder / f"checkpoint-{best}") if best else None}
    (made / "trainer_state.json").write_text(json.dumps(state))
    seal(made)
    return made


def test_the_newest_whole_one_counts(tmp_path: Path) -> None:
    checkpoint(tmp_path, 200)
    newest = checkpoint(tmp_path, 1000)
    lines: list[str] = []
    assert last_whole(tmp_path, lines.append) == newest
    assert lines == []
    assert last_whole(tmp_path / "nothing") is None


@pytest.mark.parametrize(
    ("harm", "problem"),
    [
        (lambda c: (c / SEAL).unlink(), "it was not finished"),
        (lambda c: (c / SEAL).write_text("{"), "whole.json cannot be read"),
        (lambda c: (c / "optimizer.pt").unlink(), "optimizer.pt is missing"),
        (lambda c: (c / "optimizer.pt").write_bytes(b"momentum"), "optimizer.pt is not what was written"),
        (lambda c: (c / "optimizer.pt").write_bytes(b"momentuM" * 100), "optimizer.pt is not what was written"),
    ],
)
def test_a_damaged_one_is_told_removed_and_the_one_before_taken(tmp_path: Path, harm: object, problem: str) -> None:
    before, newest = checkpoint(tmp_path, 9), checkpoint(tmp_path, 10)
    harm(newest)  # type: ignore[operator]
    assert damage(newest) == problem
    lines: list[str] = []
    assert last_whole(tmp_path, lines.append) == before
    assert lines == [f"checkpoint-10 is passed over: {problem}"]
    assert not newest.exists()


def test_what_is_in_folders_of_a_checkpoint_is_sealed_and_sealed_again(tmp_path: Path) -> None:
    made = checkpoint(tmp_path, 1)
    (made / "ranks").mkdir()
    (made / "ranks" / "0.pt").write_bytes(b"momentum")
    for _ in range(2):
        seal(made)
        assert damage(made) is None
    (made / "ranks" / "0.pt").write_bytes(b"momentuM")
    assert damage(made) == "ranks/0.pt is not what was written"


def test_without_its_best_one_a_checkpoint_is_passed_over(tmp_path: Path) -> None:
    """Or the run would end with another adapter than it says."""
    first, best = checkpoint(tmp_path, 1), checkpoint(tmp_path, 2)
    checkpoint(tmp_path, 3, best=2)
    assert last_whole(tmp_path) == tmp_path / "checkpoint-3"
    (best / "optimizer.pt").unlink()
    lines: list[str] = []
    assert last_whole(tmp_path, lines.append) == first
    assert lines[0] == "checkpoint-3 is passed over: its best checkpoint, checkpoint-2, is not whole"
    alone = checkpoint(tmp_path, 4, best=4)
    assert last_whole(tmp_path) == alone


def test_checkpoints_are_older_than_what_was_written_after_the_last_of_them(tmp_path: Path) -> None:
    work, manifest = tmp_path / "work", tmp_path / "manifest.json"
    work.mkdir()
    manifest.touch()
    assert not older(work, manifest), "nothing is there"
    for name, written in (("first", 100), ("last", 300)):
        (work / name).touch()
        os.utime(work / name, (written, written))
    for written, expected in ((200, False), (300, True), (400, True)):
        os.utime(manifest, (written, written))
        assert older(work, manifest) is expected
    assert not older(work, tmp_path / "none.json")


def test_one_trainer_at_a_time(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from t2s_assets.text2sql.training.checkpoints import only_trainer\n"
        "with only_trainer(Path(sys.argv[1]), print):\n    print('holding', flush=True); sys.stdin.read()\n"
    )
    line = [sys.executable, "-c", code, str(tmp_path)]
    holder = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdin is not None
    assert holder.stdout.readline() == "holding\n"
    lines: list[str] = []
    with pytest.raises(T2SError, match=rf"process {holder.pid} is training this experiment already"):
        with only_trainer(tmp_path, lines.append, wait_seconds=0.1):
            pass
    assert lines == [f"process {holder.pid} is training this experiment; waiting up to 0 s for it"]
    holder.kill()
    holder.wait()
    holder.stdin.close()
    holder.stdout.close()
    with only_trainer(tmp_path, lines.append, wait_seconds=5):
        pass


def test_errors_of_the_disk_are_told_apart(tmp_path: Path) -> None:
    full = write_failure(OSError(errno.ENOSPC, "No space left on device"), tmp_path / "x")
    assert full is not None and "the disk is full" in str(full) and "T2S_STORAGE" in str(full)
    packed = write_failure(RuntimeError("Error: No space left on device (os error 28)"), tmp_path)
    assert packed is not None and "the disk is full" in str(packed)
    readonly = write_failure(OSError(errno.EROFS, "Read-only file system"), tmp_path)
    assert readonly is not None and "cannot be written" in str(readonly)
    short = write_failure(RuntimeError("PytorchStreamWriter failed writing file data/0"), tmp_path)
    assert short is not None
    assert write_failure(RuntimeError("shapes do not match"), tmp_path) is None
    assert write_failure(FileNotFoundError(errno.ENOENT, "no such file"), tmp_path) is None
