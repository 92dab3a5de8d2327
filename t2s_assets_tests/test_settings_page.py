"""docs/settings.md names every field of the config files, says what it does, and is what its script writes."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from t2s_assets.text2sql.config import Experiment
from t2s_assets.text2sql.config_files import Section
from t2s_assets.text2sql.dataset_config import OwnDataset, WikiSQLDataset

DOCS = Path(__file__).parent.parent / "docs"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("settings_page", DOCS / "settings.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_what_its_script_writes(script: ModuleType) -> None:
    assert (DOCS / "settings.md").read_text() == script.page(), "write it again: python docs/settings.py"


@pytest.mark.parametrize("model", [Experiment, OwnDataset, WikiSQLDataset])
def test_every_field_stands_on_it_and_says_what_it_does(script: ModuleType, model: type[Section]) -> None:
    page, schema = script.page(), model.model_json_schema()
    for section in (schema, *schema["$defs"].values()):
        assert section["description"].split(".")[0] in page
        for name, field in section["properties"].items():
            is_tag, is_section = "const" in field, bool(script._members(field, schema))
            assert is_tag or f"| `{name}` | " in page
            assert is_tag or is_section or field.get("description"), f"{section['title']}.{name} says nothing"
