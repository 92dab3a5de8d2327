"""What tests ask of pytest itself, of which not every release is capable."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

FIXTURE = """
import pytest

@pytest.fixture
def given():
    return 1
"""


def test_fixtures_of_a_folder_are_found_in_any_order_of_files(tmp_path: Path) -> None:
    """As for `pytest training/test_a.py test_b.py training/test_c.py`."""
    inner = tmp_path / "outer" / "inner"
    inner.mkdir(parents=True)
    for folder in (inner.parent, inner):
        (folder / "__init__.py").touch()
    (inner / "conftest.py").write_text(FIXTURE)
    files = [inner / "test_a.py", inner.parent / "test_b.py", inner / "test_c.py"]
    for file, argument in zip(files, ("given", "", "given")):
        file.write_text(f"def test({argument}): pass\n")
    line = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--rootdir={tmp_path}", *map(str, files)]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True)
    assert "3 passed" in done.stdout, done.stdout
