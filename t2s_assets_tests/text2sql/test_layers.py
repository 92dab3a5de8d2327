"""The library's layers, as its docstring lists them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from t2s_assets import text2sql

LIBRARY = Path(text2sql.__file__).parent
OURS = f"{text2sql.__name__}."
LAYERS = re.findall(r"^    ([a-z_]+)  ", text2sql.__doc__, flags=re.M)


def imports(file: Path) -> Iterator[str]:
    """The dotted names that a file imports, inside functions too; of `from a import b` both a and a.b."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_the_layers_are_the_librarys_packages() -> None:
    assert set(LAYERS) == {init.parent.name for init in LIBRARY.glob("*/__init__.py")}


def test_a_package_imports_none_that_is_listed_below_it() -> None:
    upward = [
        f"{file.relative_to(LIBRARY)}: {name}"
        for place, layer in enumerate(LAYERS)
        for file in (LIBRARY / layer).rglob("*.py")
        for name in imports(file)
        if name.startswith(OURS) and name.removeprefix(OURS).partition(".")[0] in LAYERS[place + 1 :]
    ]
    assert upward == []


def test_the_library_imports_no_dagster_but_pipes() -> None:
    found = {name.partition(".")[0] for file in LIBRARY.rglob("*.py") for name in imports(file)}
    assert {name for name in found if name.startswith("dagster")} == {"dagster_pipes"}
