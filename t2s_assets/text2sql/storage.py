"""Where everything is kept: the address (dataset, asset, experiment) as a path, and writing without half files.

Neither a killed process nor a loss of power leaves one: what takes a place is on the disk first.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import hashlib
import json
import os
import shutil
import stat
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from t2s_assets.text2sql import config, config_files, dataset_config
from t2s_assets.text2sql.errors import ConfigError, DataError

MANIFEST = "manifest.json"

# A folder cannot be renamed to the name of one that holds something.
_TAKEN = (errno.ENOTEMPTY, errno.EEXIST)


@dataclass(frozen=True)
class Project:
    """The folders of one checkout: `configs` is read, `storage` is written."""

    configs: Path
    storage: Path

    @classmethod
    def find(cls) -> Project:
        """`T2S_CONFIGS` and `T2S_STORAGE` where set, else `configs/` and `storage/` of this checkout.

        A ~ is expanded: in a `.env`, which Dagster reads, no shell does it.
        """
        root = Path(__file__).resolve().parents[2]
        return cls(
            configs=Path(os.environ.get("T2S_CONFIGS") or root / "configs").expanduser().absolute(),
            storage=Path(os.environ.get("T2S_STORAGE") or root / "storage").expanduser().absolute(),
        )

    def path(self, dataset: str, asset: str, experiment: str | None = None) -> Path:
        """The folder of one address."""
        folder = self.storage / dataset / asset
        return folder / experiment if experiment else folder

    def cache(self, *parts: str) -> Path:
        """A folder for what can be made again: downloads, unpacked base weights."""
        return self.storage.joinpath("cache", *parts)

    def dataset(self, name: str) -> dataset_config.DatasetConfig:
        """The dataset's config. Raises ConfigError."""
        if name not in (there := config_files.dataset_names(self.configs)):
            if (problem := config_files.misnamed(self.configs).get(name)) is not None:
                raise problem
            raise ConfigError(f"no dataset {name!r} in {self.configs}; there are {there}")
        return dataset_config.read_dataset(self.configs / name / "dataset.yaml")

    def experiment(self, dataset: str, name: str) -> config.Experiment:
        """The experiment's config. Raises ConfigError."""
        there = config_files.experiment_names(self.configs, dataset)
        if name not in there:
            if (problem := config_files.misnamed(self.configs, dataset).get(name)) is not None:
                raise problem
            raise ConfigError(f"no experiment {name!r} in {self.configs / dataset}; there are {there}")
        return config_files.read_config(config.Experiment, self.configs / dataset / f"{name}.yaml")


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """A new empty folder that takes `folder`'s place when the block ends well, and vanishes when it does not.

    What was in `folder` before stays whole until then. What killed processes left beside it is removed.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    restore_interrupted(folder)
    remove_leftovers(folder)
    fresh = _beside(folder, "new")
    fresh.mkdir()
    held = os.open(fresh, os.O_RDONLY)  # the lock says that the writer lives; the system frees it when it does not
    fcntl.flock(held, fcntl.LOCK_EX)
    try:
        yield fresh
        _share(fresh)
        flush_all(fresh)
        _swap(fresh, folder)
    finally:
        os.close(held)
        shutil.rmtree(fresh, ignore_errors=True)


def _share(folder: Path) -> None:
    """Let others read a folder's files as far as the umask does: safetensors writes its own for their owner alone."""
    probe = folder / ".mode"
    probe.touch()
    allowed = stat.S_IMODE(probe.stat().st_mode)
    probe.unlink()
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod(stat.S_IMODE(path.stat().st_mode) | allowed)


def _swap(fresh: Path, folder: Path) -> None:
    """Move `fresh` to `folder`, and remove what was there."""
    moved: list[Path] = []
    while True:
        old = _beside(folder, "old")
        try:
            folder.rename(old)
            moved.append(old)
        except FileNotFoundError:  # the first of its name
            pass
        try:
            fresh.rename(folder)
            break
        except OSError as e:
            # A reader that looks between the two takes the writer for killed and puts the old folder back.
            if e.errno in _TAKEN:
                continue
            if moved and not folder.exists():
                moved[-1].rename(folder)
            raise
    flush(folder.parent)
    for old in moved:
        _discard(old)


def flush_all(folder: Path) -> None:
    """Have a folder and all that is in it on the disk."""
    for path in folder.rglob("*"):
        if path.is_file() or path.is_dir():
            flush(path)
    flush(folder)


def flush(path: Path) -> None:
    """Have a file's content, or the names that a folder holds, on the disk: a loss of power does not take them."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    except OSError as e:
        # Some network file systems have no such thing for folders.
        if not (path.is_dir() and e.errno in (errno.EINVAL, errno.ENOTSUP, errno.EBADF)):
            raise
    finally:
        os.close(opened)


def _discard(old: Path) -> None:
    """Remove a folder that was replaced. Half removed, it must not be what a reader puts back."""
    gone = old.with_suffix(".gone")
    try:
        old.rename(gone)
    except FileNotFoundError:  # put back by a reader, and moved away again
        return
    shutil.rmtree(gone, ignore_errors=True)


def _beside(path: Path, kind: str) -> Path:
    """A new name for something beside `path` that becomes it, or that it was."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.{kind}")


def _left_beside(path: Path, kind: str) -> list[Path]:
    """What has such a name."""
    return list(path.parent.glob(f".{glob.escape(path.name)}.{'[0-9a-f]' * 8}.{kind}"))


def remove_leftovers(path: Path, *, after_seconds: float = 60) -> list[Path]:
    """Remove what processes that were killed while writing `path` left beside it, and return it.

    A folder of a living writer is locked by it. A file is taken for left over when it was not written to for a day.
    What is younger than `after_seconds` is kept: its writer may not have come to locking it.
    """
    removed = []
    for kind in ("new", "old", "gone"):
        for left in _left_beside(path, kind):
            try:
                age = time.time() - left.stat().st_mtime
                if left.is_dir() and age >= after_seconds and (kind != "old" or path.exists()) and not _locked(left):
                    (_discard if kind == "old" else shutil.rmtree)(left)
                elif left.is_file() and age >= max(after_seconds, 86_400):
                    left.unlink()
                else:
                    continue
            except OSError:  # another process removed it, or it is not ours to remove
                continue
            removed.append(left)
    return removed


def _locked(folder: Path) -> bool:
    opened = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(opened)
    return False


def restore_interrupted(folder: Path) -> None:
    """Put the old folder back where a process was killed between moving it away and moving the new one in."""
    if folder.exists():
        return
    try:
        old = max(_left_beside(folder, "old"), key=lambda p: p.stat().st_mtime_ns, default=None)
        if old is not None:
            old.rename(folder)
    except FileNotFoundError:  # another reader did, meanwhile
        pass
    except OSError as e:  # its writer lives, and has moved the new one in
        if e.errno not in _TAKEN:
            raise


@contextmanager
def replacing_file(path: Path) -> Iterator[Path]:
    """A temporary path that becomes `path` when the block ends well, and vanishes when it does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path)
    fresh = _beside(path, "new")
    try:
        yield fresh
        flush(fresh)
        os.replace(fresh, path)
    finally:
        fresh.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write `content` as readable JSON, whole or not at all."""
    with replacing_file(path) as fresh:
        fresh.write_text(json.dumps(content, indent=2, ensure_ascii=False, sort_keys=False) + "\n", encoding="utf-8")


def read_json(path: Path, *, made_by: str) -> Any:
    """The JSON file at `path`.

    Raises:
        DataError: it is not there (then `made_by` is the way out) or it is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as e:
        raise DataError(f"{path} is not there; make it with: {made_by}") from e
    except ValueError as e:
        raise DataError(f"{path} is not JSON ({e}); make it again with: {made_by}") from e


def content_hash(*parts: Any) -> str:
    """SHA-256, 16 hexadecimal digits, over JSON-able parts; a mapping's order of keys does not matter."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]


def file_hash(path: Path, *, length: int = 64) -> str:
    """SHA-256 of a file's bytes, `length` hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as f:
        while block := f.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:length]


def write_manifest(folder: Path, version: str, facts: Mapping[str, Any]) -> None:
    """Put the data version and the facts of a materialization beside its files."""
    write_json(folder / MANIFEST, {"data_version": version, **facts})


def read_manifest(folder: Path, *, made_by: str) -> dict[str, Any]:
    """What `write_manifest` wrote. Raises DataError with `made_by` as the way out."""
    restore_interrupted(folder)
    return read_json(folder / MANIFEST, made_by=made_by)


def is_made(folder: Path) -> bool:
    """Whether `folder` holds a materialization; one that a killed process moved away counts, and is put back."""
    restore_interrupted(folder)
    return (folder / MANIFEST).is_file()


def find_manifest(folder: Path, *, made_by: str) -> dict[str, Any] | None:
    """As `read_manifest`; None where nothing was made."""
    return read_manifest(folder, made_by=made_by) if is_made(folder) else None
