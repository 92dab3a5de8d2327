"""Checkpoints that are whole or do not count, and one trainer at a time in their folder.

A checkpoint is sealed when all its files are on the disk: a file with their sizes and hashes is written last. One
without a seal (killed while writing) or that differs from its seal (a crash of the machine, a bad disk) is passed
over, visibly, for the one before.
"""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from t2s_assets.text2sql.errors import StorageError
from t2s_assets.text2sql.processes.locking import only_one
from t2s_assets.text2sql.storage import file_hash, flush, flush_all, write_json

Log = Callable[[str], None]

SEAL = "whole.json"
_STATE = "trainer_state.json"
_UNWRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EIO, errno.EEXIST)


def seal(folder: Path) -> None:
    """Say that everything in `folder` is there: flushed to the disk, and listed with sizes and hashes."""
    flush_all(folder)
    files = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name != SEAL):
        files[str(path.relative_to(folder))] = {"bytes": path.stat().st_size, "sha256": file_hash(path)}
    write_json(folder / SEAL, {"files": files})
    flush(folder)


def damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint, or None when it is whole."""
    try:
        files = json.loads((folder / SEAL).read_text())["files"]
    except FileNotFoundError:
        return "it was not finished"
    except (OSError, ValueError, KeyError, TypeError):
        return f"{SEAL} cannot be read"
    for name, wanted in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != wanted["bytes"] or file_hash(path) != wanted["sha256"]:
            return f"{name} is not what was written"
    return None


def step_of(checkpoint: Path) -> int:
    """The optimizer step after which a checkpoint was written."""
    return int(checkpoint.name.split("-")[1])


def last_whole(folder: Path, log: Log = lambda line: None) -> Path | None:
    """The newest whole checkpoint under `folder`, or None. Each that is passed over is told and removed.

    The best checkpoint so far, which may become the adapter, must be whole too.
    """
    found = sorted(folder.glob("checkpoint-*"), key=step_of, reverse=True)
    for checkpoint in found:
        problem = damage(checkpoint)
        if problem is None:
            best = json.loads((checkpoint / _STATE).read_text()).get("best_model_checkpoint")
            if best is None or (Path(best).name != checkpoint.name and damage(folder / Path(best).name) is not None):
                problem = f"its best checkpoint, {Path(best).name}, is not whole" if best else None
        if problem is None:
            return checkpoint
        log(f"{checkpoint.name} is passed over: {problem}")
        shutil.rmtree(checkpoint, ignore_errors=True)
    return None


def older(folder: Path, file: Path) -> bool:
    """Whether everything in `folder` was written before `file`; False where one of them is not there."""
    written = [p.stat().st_mtime_ns for p in folder.rglob("*")]
    return bool(written) and file.exists() and max(written) <= file.stat().st_mtime_ns


def only_trainer(folder: Path, log: Log, *, wait_seconds: float = 90) -> AbstractContextManager[None]:
    """Hold the lock of an experiment's checkpoints: two trainings would write into each other's.

    Raises:
        T2SError: another process holds it still, after a while of waiting.
    """
    note = f", and its checkpoints are in {folder}"
    return only_one(folder / ".lock", "training this experiment", log, note=note, wait_seconds=wait_seconds)


def write_failure(error: Exception, folder: Path) -> StorageError | None:
    """The error to show when writing under `folder` failed, or None when `error` is about something else."""
    text = str(error)
    full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in text
    # torch reports a short write in its own words and without a code.
    short = isinstance(error, RuntimeError) and ("PytorchStreamWriter" in text or "inline_container" in text)
    free = _free_mb(folder)
    if full or (short and free < 512):
        return StorageError(
            f"{folder}: the disk is full ({free:,.0f} MB free). Make room, or move the storage folder to another disk "
            "and set T2S_STORAGE to it, and give the same command again: it goes on from the last whole checkpoint. "
            "The last good adapter was left as it is"
        )
    if getattr(error, "errno", None) in _UNWRITABLE or short:
        return StorageError(f"{folder} cannot be written ({text}); mend that, or set T2S_STORAGE to another folder")
    return None


def _free_mb(folder: Path) -> float:
    while not folder.exists():
        folder = folder.parent
    try:
        return shutil.disk_usage(folder).free / 1e6
    except OSError:
        return 0.0
