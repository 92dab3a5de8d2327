"""Where everything is kept: the address (dataset, asset, experiment) as a path, and writing without half files."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
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


@dataclass(frozen=True)
class Project:
    """The folders of one checkout: `configs` is read, `storage` is written."""

    configs: Path
    storage: Path

    @classmethod
    def find(cls) -> Project:
        """`T2S_CONFIGS` and `T2S_STORAGE` where set, else `configs/` and `storage/` of this checkout."""
        root = Path(__file__).resolve().parents[2]
        return cls(
            configs=Path(os.environ.get("T2S_CONFIGS") or root / "configs").absolute(),
            storage=Path(os.environ.get("T2S_STORAGE") or root / "storage").absolute(),
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
        if name not in config_files.dataset_names(self.configs):
            there = config_files.dataset_names(self.configs)
            raise ConfigError(f"no dataset {name!r} in {self.configs}; there are {there}")
        return dataset_config.read_dataset(self.configs / name / "dataset.yaml")

    def experiment(self, dataset: str, name: str) -> config.Experiment:
        """The experiment's config. Raises ConfigError."""
        there = config_files.experiment_names(self.configs, dataset)
        if name not in there:
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
    fresh = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.new")
    fresh.mkdir()
    held = os.open(fresh, os.O_RDONLY)  # the lock says that the writer lives; the system frees it when it does not
    fcntl.flock(held, fcntl.LOCK_EX)
    try:
        yield fresh
        old = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.old")
        if folder.exists():
            folder.rename(old)
        try:
            fresh.rename(folder)
        except OSError:
            if old.exists():
                old.rename(folder)
            raise
        shutil.rmtree(old, ignore_errors=True)
    finally:
        os.close(held)
        shutil.rmtree(fresh, ignore_errors=True)


def remove_leftovers(path: Path, *, after_seconds: float = 60) -> list[Path]:
    """Remove what processes that were killed while writing `path` left beside it, and return it.

    A folder of a living writer is locked by it. A file is taken for left over when it was not written to for a day.
    What is younger than `after_seconds` is kept: its writer may not have come to locking it.
    """
    removed = []
    for kind in ("new", "old"):
        for left in path.parent.glob(f".{path.name}.{'[0-9a-f]' * 8}.{kind}"):
            try:
                age = time.time() - left.stat().st_mtime
                if left.is_dir() and age >= after_seconds and (kind == "new" or path.exists()) and not _locked(left):
                    shutil.rmtree(left)
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
    if not folder.exists():
        for old in sorted(folder.parent.glob(f".{folder.name}.*.old"))[:1]:
            old.rename(folder)


@contextmanager
def replacing_file(path: Path) -> Iterator[Path]:
    """A temporary path that becomes `path` when the block ends well, and vanishes when it does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path)
    fresh = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.new")
    try:
        yield fresh
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
