"""The folder that an export writes to: one that nothing is lost by, replaced as a whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from t2s_assets.text2sql import adapters
from t2s_assets.text2sql.adapters import Adapter
from t2s_assets.text2sql.errors import DataError, StorageError
from t2s_assets.text2sql.storage import MANIFEST, Project, read_json, replacing_folder

FILES = "files"
"""In the manifest of an exported folder: the files beside it. `force` deletes no others."""


def free_folder(folder: Path, project: Project, adapter: Adapter, *, force: bool) -> Path:
    """Where to write, with links followed. Raises StorageError where something is in the way."""
    place = folder.expanduser().resolve()
    if place.is_relative_to(project.storage.resolve()):
        raise StorageError(f"--to: {folder} is inside {project.storage}, whose folders are assets; give one outside")
    if Path.cwd().is_relative_to(place) or adapter.folder.resolve().is_relative_to(place):
        raise StorageError(
            f"--to: {folder} would be replaced as a whole, and this command runs or reads in it; give a new folder"
        )
    if not place.exists():
        return place
    if not place.is_dir():
        raise StorageError(f"--to: {folder} is a file; give a folder")
    there = sorted(p.name for p in place.iterdir())
    if not there:
        return place
    if not force:
        raise StorageError(f"--to: {folder} is not empty, it holds {there[0]}; give a new folder, or --force")
    if (other := _not_of_an_export(place, there)) is not None:
        raise StorageError(
            f"--to: {folder} holds {other}, which no export wrote, so --force does not replace it; give a new folder"
        )
    return place


def _not_of_an_export(folder: Path, names: Sequence[str]) -> str | None:
    """The first of a folder's names that the export that its manifest is of, if any, did not write."""
    try:
        manifest = read_json(folder / MANIFEST, made_by="t2s export")
    except (DataError, OSError):
        return names[0]
    written = manifest.get(FILES) if isinstance(manifest, dict) and adapters.EXPORTED in manifest else None
    own = {MANIFEST, *written} if isinstance(written, list) else set()
    return next((name for name in names if name not in own or (folder / name).is_dir()), None)


@contextmanager
def writing(folder: Path) -> Iterator[Path]:
    """A new folder that takes the place of `folder`. Raises StorageError where it cannot be written."""
    from safetensors import SafetensorError

    try:
        with replacing_folder(folder) as fresh:
            yield fresh
    except (OSError, SafetensorError) as e:  # safetensors reports a full disk in an error of its own
        why = f"{e.strerror}: {e.filename}" if isinstance(e, OSError) and e.strerror else e
        raise StorageError(f"--to: {folder} cannot be written ({why}); make room, or give another folder") from e


def megabytes(folder: Path) -> float:
    """Of a folder's files, 10^6 bytes each."""
    return sum(p.stat().st_size for p in folder.iterdir()) / 1e6
