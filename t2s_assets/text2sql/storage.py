"""Where everything is kept: the address (dataset, asset, experiment) as a path, and writing without half files."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from t2s_assets.text2sql import config, dataset_config
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
        if name not in config.dataset_names(self.configs):
            there = config.dataset_names(self.configs)
            raise ConfigError(f"no dataset {name!r} in {self.configs}; there are {there}")
        return dataset_config.read_dataset(self.configs / name / "dataset.yaml")

    def experiment(self, dataset: str, name: str) -> config.Experiment:
        """The experiment's config. Raises ConfigError."""
        there = config.experiment_names(self.configs, dataset)
        if name not in there:
            raise ConfigError(f"no experiment {name!r} in {self.configs / dataset}; there are {there}")
        return config.read_config(config.Experiment, self.configs / dataset / f"{name}.yaml")


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """A new empty folder that takes `folder`'s place when the block ends well, and vanishes when it does not.

    What was in `folder` before stays whole until then.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    restore_interrupted(folder)
    fresh = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.new")
    fresh.mkdir()
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
        shutil.rmtree(fresh, ignore_errors=True)


def restore_interrupted(folder: Path) -> None:
    """Put the old folder back where a process was killed between moving it away and moving the new one in."""
    if not folder.exists():
        for old in sorted(folder.parent.glob(f".{folder.name}.*.old"))[:1]:
            old.rename(folder)


@contextmanager
def replacing_file(path: Path) -> Iterator[Path]:
    """A temporary path that becomes `path` when the block ends well, and vanishes when it does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
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
