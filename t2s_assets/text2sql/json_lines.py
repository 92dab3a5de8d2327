"""Rows appended to a JSONL file as they come, and read again after a kill at any moment."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def append_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Add rows to a file, which need not be there; they are on disk when this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Joined to a line that a kill cut short, the first row would be lost with it.
    cut = path.exists() and _ends_mid_line(path)
    with path.open("a", encoding="utf-8") as out:
        out.write("\n" if cut else "")
        out.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        out.flush()
        os.fsync(out.fileno())


def whole_rows(path: Path, *fields: str) -> list[dict[str, Any]]:
    """The rows that have all `fields`; a last line cut short by a kill is left out. None where there is no file."""
    if not path.exists():
        return []
    rows = []
    # Not splitlines(): it also splits at characters that may stand inside a JSON string.
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and all(field in row for field in fields):
            rows.append(row)
    return rows


def _ends_mid_line(path: Path) -> bool:
    with path.open("rb") as file:
        if not file.seek(0, os.SEEK_END):
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"
