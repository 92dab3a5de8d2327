"""Config files: how each of them is read, what they are called, and what a section of one is.

Unknown keys, wrong types and broken bounds are all reported at once, each with its file and field.
"""

from __future__ import annotations

import os
import re
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidatorFunctionWrapHandler, field_validator

from t2s_assets.text2sql.errors import ConfigError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
DATASET_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")

# What tells the members of a union apart.
_TAGS = ("kind", "source", "engine")

Fraction = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """A part of a config file: immutable, no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Settings(Section):
    """A section of numbers and choices."""

    @field_validator("*", mode="wrap")
    @classmethod
    def _yes_is_no_number(cls, value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        checked = handler(value)
        # Pydantic would read `rank: yes` as rank 1.
        if isinstance(value, bool) and not isinstance(checked, bool):
            raise ValueError("this is no yes-or-no field")
        return checked


class _UniqueKeyLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice, where plain YAML keeps the last in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise yaml.constructor.ConstructorError(None, None, f"{key!r} is no key", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


Model = TypeVar("Model", bound=Section)


def read_config(model: type[Model], path: Path) -> Model:
    """The file at `path` as a `model`; where that has a field `like`, over the file beside it that it names.

    Raises:
        ConfigError: the file is missing or no YAML mapping, or breaks rules: every one of them is named.
    """
    if "like" not in model.model_fields:
        return validated(model, read_yaml(path, model.model_fields), path)
    content = _over_what_it_is_like(path, model, (path.stem,))
    return validated(model, content, f"{path} (like {content['like']})" if content.get("like") else path)


def _over_what_it_is_like(path: Path, model: type[BaseModel], chain: tuple[str, ...]) -> dict[str, Any]:
    content = read_yaml(path, model.model_fields)
    like = content.get("like")
    if like is None:
        return content
    there = [name for name in experiment_names(path.parent.parent, path.parent.name) if name not in chain]
    if like in chain:
        raise ConfigError(f"{path}: like: {' -> '.join([*chain, like])} goes round in a circle; there are {there}")
    if like not in there:
        raise ConfigError(f"{path}: like: names another experiment of {path.parent}; got {like!r}, there are {there}")
    below = _over_what_it_is_like(path.with_name(f"{like}.yaml"), model, (*chain, like))
    return _over(below | {"description": _set_apart(like, content)}, content, [model])


def _set_apart(like: str, content: dict[str, Any]) -> str:
    """How an experiment is described that does not describe itself: by what it changes."""
    changed = " and ".join(name for name in content if name != "like")
    return f"like {like}, with other {changed}" if changed else f"like {like}"


def _over(below: dict[str, Any], above: dict[str, Any], sections: Sequence[type[BaseModel]]) -> dict[str, Any]:
    """`above`, and what it leaves out as it is in `below`; a section of another kind replaces the one below.

    A null takes a setting away, so that its default holds, where null is no value of the field: one of `sections`.
    """
    merged = dict(below)
    for key, value in above.items():
        there = below.get(key)
        known = [s.model_fields[key].annotation for s in sections if key in s.model_fields]
        if value is None and known and not any(type(None) in getattr(a, "__args__", ()) for a in known):
            merged.pop(key, None)
            continue
        if isinstance(value, dict) and isinstance(there, dict):
            same = all(value.get(tag, there.get(tag)) == there.get(tag) for tag in _TAGS)
            value = _over(there, value, [m for a in known for m in _models_in(a)]) if same else value
        merged[key] = value
    return merged


def read_yaml(path: Path, keys: Iterable[str]) -> dict[str, Any]:
    """The mapping in the file at `path`; `keys` are those that an error says it wants. Raises ConfigError."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _UniqueKeyLoader)
    except FileNotFoundError as e:
        there = _shown(p.name for p in path.parent.glob("*.yaml")) if path.parent.is_dir() else "no such folder"
        raise ConfigError(f"{path}: no such file; {path.parent} holds {there}") from e
    except (OSError, UnicodeDecodeError, RecursionError, yaml.YAMLError) as e:
        raise ConfigError(f"{path}: not readable as YAML: {e}") from e
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: a mapping of {', '.join(keys)} is wanted; got {content!r}")
    return content


def validated(model: type[Model], content: dict[str, Any], where: Path | str) -> Model:
    """`content`, read from `where`, as a `model`. Raises ConfigError that names every problem."""
    try:
        return model.model_validate(content)
    except ValidationError as e:
        raise ConfigError(_all_problems(where, model, e)) from e


def _all_problems(where: Path | str, model: type[BaseModel], error: ValidationError) -> str:
    problems = []
    for problem in error.errors(include_url=False):
        field = ".".join(str(part) for part in problem["loc"]) or "(the file)"
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            message = f"unknown key; known here: {', '.join(_known_keys(model, problem['loc'][:-1]))}"
        elif problem["type"] == "tuple_type":
            message = f"a list is wanted; got {problem['input']!r}"
        elif problem["type"] != "missing" and not isinstance(problem["input"], (dict, BaseModel)):
            message = f"{message}; got {problem['input']!r}"
        problems.append(f"  {field}: {message}")
    count = len(problems)
    return f"{where}: {count} problem{'s' if count > 1 else ''}\n" + "\n".join(problems)


def _known_keys(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """The keys that the section at `location` takes; a union's tag is a part of the location and names a member."""
    sections: list[type[BaseModel]] = [model]
    for part in location:
        inner = [
            a for s in sections if part in s.model_fields for a in _models_in(s.model_fields[str(part)].annotation)
        ]
        tagged = [s for s in sections if _tag(s) == part]
        sections = inner or tagged or sections
    return [name for s in sections for name in s.model_fields]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for a in getattr(annotation, "__args__", ()) for m in _models_in(a)]


def _tag(section: type[BaseModel]) -> str | None:
    fields = section.model_fields
    field = next((fields[name] for name in _TAGS if name in fields), None)
    values = getattr(field.annotation, "__args__", ()) if field else ()
    return values[0] if values and isinstance(values[0], str) else None


def dataset_names(configs: Path) -> list[str]:
    """The datasets under `configs`: its folders that hold a dataset.yaml, without those that are `misnamed`."""
    return [name for name in _folders(configs) if DATASET_NAME.fullmatch(name)]


def experiment_names(configs: Path, dataset: str) -> list[str]:
    """The experiments of `dataset`: every YAML file beside its dataset.yaml that is not `misnamed`."""
    return [name for name in _files(configs, dataset) if _suits_a_partition(name)]


def misnamed(configs: Path, dataset: str | None = None) -> dict[str, ConfigError]:
    """Folders of datasets, or of `dataset` the experiments' files, that are passed over, each with the rule it breaks.

    A copy that a file manager made while something runs must stop nothing but itself.
    """
    if dataset is None:
        rule = "a dataset's folder name is letters, digits and _, a letter first"
        return {
            name: ConfigError(f"{configs}: {rule}; got {name!r}")
            for name in _folders(configs)
            if not DATASET_NAME.fullmatch(name)
        }
    return {
        name: ConfigError(f"{configs / dataset}: a file name is letters, digits, _ . and -, not ...; got {name!r}")
        for name in _files(configs, dataset)
        if not _suits_a_partition(name)
    }


def _folders(configs: Path) -> list[str]:
    return _shown(p.parent.name for p in configs.glob("*/dataset.yaml"))


def _files(configs: Path, dataset: str) -> list[str]:
    return _shown(p.stem for p in (configs / dataset).glob("*.yaml") if p.name != "dataset.yaml")


def _suits_a_partition(name: str) -> bool:
    # Three points in a row mean a range where Dagster reads the names of partitions.
    return _NAME.fullmatch(name) is not None and "..." not in name


def _shown(names: Iterable[str]) -> list[str]:
    """`names` in order without hidden ones: folders that are being written, and what editors and macOS put there."""
    return sorted(n for n in names if not n.startswith("."))


def expand_path(text: str, relative_to: Path) -> Path:
    """`text` with $VARIABLES and ~ expanded, relative to a folder.

    Raises:
        ConfigError: a variable is not set.
    """
    missing = [v for v in re.findall(r"\$\{?(\w+)\}?", text) if not os.environ.get(v)]
    if missing:
        raise ConfigError(f"{text}: set the environment variable {', '.join(missing)} to a path")
    return relative_to / Path(os.path.expandvars(text)).expanduser()
