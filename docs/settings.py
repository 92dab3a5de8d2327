"""Write docs/settings.md, every field of the config files, from the models that read them.

python docs/settings.py [--into docs/settings.md]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from t2s_assets.text2sql import config, dataset_config
from t2s_assets.text2sql.config_files import Section

PAGE = Path(__file__).with_name("settings.md")

OPENING = """\
# Settings

Every field of the two kinds of config files, written from the code that reads them (`docs/settings.py`). Unknown keys,
wrong types and broken rules are refused, all at once. A field without a default has to be given.
"""

EXPERIMENT = """
## An experiment: `configs/<dataset>/<experiment>.yaml`

What it leaves out is as in the experiment that it is `like`, where it names one ([training.md](training.md)).
"""

DATASET = """
## A dataset: `configs/<dataset>/dataset.yaml`

`reader: own` is for databases and questions of one's own ([own-data.md](own-data.md)), `reader: wikisql`, the default,
for data in WikiSQL's layout.
"""

_BOUNDS = {"minimum": ">= ", "exclusiveMinimum": "> ", "maximum": "<= ", "exclusiveMaximum": "< "}


def sections(model: type[Section]) -> str:
    """A heading and a table for `model` and for each section in it."""
    schema = model.model_json_schema()
    parts = [_table("The file", schema, schema)]
    seen: set[str] = set()
    todo = [(name, field) for name, field in schema["properties"].items()]
    while todo:
        path, field = todo.pop(0)
        members = _members(field, schema)
        for name in members:
            if (path, name) in seen:
                continue
            seen.add((path, name))
            section = schema["$defs"][name]
            tag = next((f"{k}: {v['const']}" for k, v in section["properties"].items() if "const" in v), "")
            parts.append(_table(f"`{path}`" + (f", `{tag}`" if tag else ""), section, schema))
            todo += [(f"{path}.{inner}", value) for inner, value in section["properties"].items()]
    return "\n".join(parts)


def _members(field: dict[str, Any], schema: dict[str, Any]) -> list[str]:
    """The names of the sections that a field may hold."""
    either = [field, *field.get("anyOf", ()), *field.get("oneOf", ())]
    return [part["$ref"].rsplit("/", 1)[1] for part in either if "$ref" in part]


def _table(heading: str, section: dict[str, Any], schema: dict[str, Any]) -> str:
    about = " ".join(section.get("description", "").split())
    lines = [f"### {heading}", "", about, ""]
    fields = {name: field for name, field in section["properties"].items() if "const" not in field}
    if fields:
        lines += ["| field | values | default | |", "| --- | --- | --- | --- |"]
    required = section.get("required", ())
    for name, field in fields.items():
        default = "" if name in required else _default(field, schema)
        cells = (f"`{name}`", _values(field, schema), default, field.get("description", ""))
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + ("\n" if fields else "")


def _default(field: dict[str, Any], schema: dict[str, Any]) -> str:
    value = field.get("default")
    if _members(field, schema) and value is not None:
        return "the section's"
    if isinstance(value, list):
        return ", ".join(f"`{item}`" for item in value)
    return f"`{json.dumps(value) if not isinstance(value, str) else value}`"


def _values(field: dict[str, Any], schema: dict[str, Any]) -> str:
    if _members(field, schema):
        return "a section"
    if "anyOf" in field:
        return " or ".join(_values(part, schema) for part in field["anyOf"])
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    kind = field.get("type", "")
    if kind == "array":
        return "a list of texts"
    if kind == "object":
        return f"a mapping of names to {_values(field['additionalProperties'], schema)}s"
    named = {"string": "text", "boolean": "`true`, `false`", "integer": "whole number"}.get(kind, kind)
    bounds = ", ".join(f"{sign}{field[bound]}" for bound, sign in _BOUNDS.items() if bound in field)
    return f"{named} {bounds}".strip()


def page() -> str:
    """The whole page."""
    own, wikisql = dataset_config.OwnDataset, dataset_config.WikiSQLDataset
    return "".join(
        [
            OPENING,
            EXPERIMENT,
            "\n",
            sections(config.Experiment),
            DATASET,
            "\n## `reader: own`\n\n",
            sections(own),
            "\n## `reader: wikisql`\n\n",
            sections(wikisql),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--into", type=Path, default=PAGE)
    parser.parse_args().into.write_text(page())


if __name__ == "__main__":
    main()
