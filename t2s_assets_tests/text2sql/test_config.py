"""Config files: the shipped ones load, and a broken one says all that is wrong with it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from t2s_assets.text2sql.config import Experiment, LoraSettings
from t2s_assets.text2sql.config_files import dataset_names, expand_path, experiment_names, misnamed, read_config
from t2s_assets.text2sql.dataset_config import OwnDataset, WikiSQLDataset, read_dataset
from t2s_assets.text2sql.errors import ConfigError
from t2s_assets.text2sql.storage import Project

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs"
SHIPPED = sorted(p for p in CONFIGS.glob("*/*.yaml"))

EXPERIMENT: dict[str, Any] = {
    "description": "d",
    "base_model": {"source": "folder", "path": "/somewhere"},
    "training": {"epochs": 1},
}
DATASET: dict[str, Any] = {"description": "d", "source": {"kind": "bundled"}}


def problems(tmp_path: Path, content: Any, model: Any = Experiment) -> str:
    """The message that reading a file with `content` ends with."""
    path = tmp_path / "x.yaml"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        read_config(model, path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    return message


def accepted(tmp_path: Path, content: Any, model: Any = Experiment) -> Any:
    path = tmp_path / "x.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return read_config(model, path)


# ------------------------------------------------------------------------------------------------- shipped files


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_every_shipped_config_loads_and_opens_with_its_command(path: Path) -> None:
    if path.name == "dataset.yaml":
        read_dataset(path)
    else:
        read_config(Experiment, path)
    opening = path.read_text(encoding="utf-8").split("\n\n")[0]
    assert opening.startswith("#")
    comments = "\n".join(line for line in opening.splitlines() if line.startswith("#"))
    assert re.search(r"make \w+|t2s \w+", comments)


def test_every_shipped_dataset_is_found_and_retrains_an_experiment_of_its_own() -> None:
    assert dataset_names(CONFIGS) == ["mini", "wikisql"]
    for name in dataset_names(CONFIGS):
        retrain = read_dataset(CONFIGS / name / "dataset.yaml").retrain
        assert retrain is not None
        assert retrain.experiment in experiment_names(CONFIGS, name)


# ------------------------------------------------------------------------------------------------ what each says


def leaves(model: type[BaseModel]) -> Iterator[str]:
    """The names of all fields of a model and of the models in it that hold a value, not a section."""
    for name, field in model.model_fields.items():
        inner = list(_models(field.annotation))
        if inner:
            for section in inner:
                yield from leaves(section)
        else:
            yield name


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for a in getattr(annotation, "__args__", ()) for m in _models(a)]


# A union's tag is read by pydantic; the description is for people.
@pytest.mark.parametrize(
    "name",
    sorted(
        {*leaves(Experiment), *leaves(WikiSQLDataset), *leaves(OwnDataset)}
        - {"source", "kind", "engine", "description", "reader"}
    ),
)
def test_every_field_is_read_somewhere(name: str) -> None:
    sources = (p for p in (ROOT / "t2s_assets").rglob("*.py") if p.name not in ("config.py", "dataset_config.py"))
    read = re.compile(rf"\.{name}\b|(?:Model|Source)\([^)]*\b{name}=")
    assert any(read.search(p.read_text(encoding="utf-8")) for p in sources), f"no code reads {name}"


def test_defaults_are_complete(tmp_path: Path) -> None:
    experiment = accepted(tmp_path, EXPERIMENT)
    assert experiment.training.epochs == 1
    assert experiment.lora.targets[0] == "q_proj"
    assert experiment.prompt.template == "plain"


def test_a_config_does_not_change(tmp_path: Path) -> None:
    experiment = accepted(tmp_path, EXPERIMENT)
    with pytest.raises(ValueError, match="frozen"):
        experiment.training.epochs = 2


# ---------------------------------------------------------------------------------------- experiments like others


def like(tmp_path: Path, **files: dict[str, Any]) -> Path:
    """The path of the first of the experiments in a dataset's folder."""
    for name, content in files.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return tmp_path / f"{next(iter(files))}.yaml"


def test_what_an_experiment_leaves_out_is_as_in_what_it_is_like(tmp_path: Path) -> None:
    first = EXPERIMENT | {"lora": {"rank": 8, "alpha": 99}, "training": {"budget_minutes": 5, "seed": 3}}
    second = {"description": "second", "like": "first", "lora": {"rank": 4}}
    third = {"like": "second", "training": {"budget_minutes": None, "epochs": 2}, "decoding": {"grammar": "none"}}
    found = read_config(Experiment, like(tmp_path, third=third, second=second, first=first))
    assert (found.description, found.like) == ("like second, with other decoding and training", "second")
    assert (found.lora.rank, found.lora.alpha) == (4, 99)
    assert (found.training.budget_minutes, found.training.epochs, found.training.seed) == (None, 2, 3)
    assert found.decoding.grammar == "none"
    assert Experiment.model_validate(found.resolved()).model_dump() == found.model_dump() | {"like": None}


def test_null_takes_away_a_setting_of_what_an_experiment_is_like(tmp_path: Path) -> None:
    first = EXPERIMENT | {
        "prompt": {"template": "samples", "sample_values": 5, "max_length": 300},
        "lora": {"rank": 8},
        "training": {"budget_minutes": 5, "best": "ex", "eval_share": 0.1},
        "evaluation": {"validation_limit": 7},
    }
    second = {
        "like": "first",
        "prompt": {"template": "plain", "sample_values": None},
        "lora": None,
        "training": {"best": "loss", "eval_share": None},
        "evaluation": {"validation_limit": None},
    }
    found = read_config(Experiment, like(tmp_path, second=second, first=first))
    assert (found.prompt.template, found.prompt.max_length) == ("plain", 300)
    assert found.lora == LoraSettings() and "lora" not in found.resolved()
    assert (found.training.best, found.training.budget_minutes) == ("loss", 5)
    assert found.evaluation.validation_limit is None  # a value of its own there, and not the default
    for taken in ({"training": None}, {"base_model": None}):
        with pytest.raises(ConfigError, match=f"{next(iter(taken))}: Field required"):
            read_config(Experiment, like(tmp_path, second={"like": "first"} | taken, first=first))


def test_a_base_of_another_kind_replaces_the_other_whole(tmp_path: Path) -> None:
    above = {"like": "first", "base_model": {"source": "hub", "repo": "a/b", "revision": "0" * 40}}
    found = read_config(Experiment, like(tmp_path, second=above, first=EXPERIMENT)).base_model
    assert (found.source, found.repo) == ("hub", "a/b")
    same = {"like": "first", "base_model": {"path": "/elsewhere"}}
    found = read_config(Experiment, like(tmp_path, second=same, first=EXPERIMENT)).base_model
    assert (found.source, found.path) == ("folder", "/elsewhere")


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        (
            {"a": {"like": "gone"}, "b": EXPERIMENT},
            r"like: names another experiment of .*; got 'gone', there are \['b'\]",
        ),
        ({"a": {"like": ["b"]}, "b": EXPERIMENT}, r"got \['b'\], there are \['b'\]"),
        ({"a": {"like": "dataset"}, "dataset": DATASET}, r"got 'dataset', there are \[\]"),
        ({"a": {"like": "a"}}, r"a\.yaml: like: a -> a goes round in a circle"),
        ({"a": {"like": "b"}, "b": {"like": "c"}, "c": {"like": "b"}}, r"c\.yaml: like: a -> b -> c -> b goes round"),
        (
            {"a": {"like": "b"}, "b": EXPERIMENT | {"colour": "red"}},
            r"a\.yaml \(like b\): 1 problem\n  colour: unknown",
        ),
    ],
)
def test_a_like_that_cannot_be_followed(tmp_path: Path, files: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        read_config(Experiment, like(tmp_path, **files))


# ---------------------------------------------------------------------------------------------------- all at once


def test_all_problems_come_at_once_each_with_its_field(tmp_path: Path) -> None:
    broken = {
        "base_model": {"source": "folder", "pat": "/x"},
        "training": {"epochs": 1, "max_steps": 5, "batch_size": 0, "learning_rate": "fast"},
        "prompt": {"template": "fancy"},
        "lora": {"rank": 9000, "targets": []},
        "colour": "red",
    }
    message = problems(tmp_path, broken)
    for said in (
        "9 problems",
        "  description: Field required",
        "  base_model.folder.path: Field required",
        "  base_model.folder.pat: unknown key; known here: source, path",
        "  training.batch_size: Input should be greater than or equal to 1; got 0",
        "  training.learning_rate: Input should be a valid number, unable to parse string as a number; got 'fast'",
        "  prompt.template: Input should be 'plain', 'chat' or 'samples'; got 'fancy'",
        "  lora.rank: Input should be less than or equal to 512; got 9000",
        "  lora.targets: Tuple should have at least 1 item",
        "  colour: unknown key; known here: description, like, base_model, hardware, prompt, lora, training, ",
    ):
        assert said in message, message


@pytest.mark.parametrize(
    ("section", "content", "known"),
    [
        ("hardware", {"gpu": 1}, "device, dtype, attention, quantization"),
        ("prompt", {"temperature": 1}, "template, sample_values, max_length"),
        ("lora", {"r": 1}, "rank, alpha, dropout, targets"),
        ("decoding", {"beams": 4}, "grammar, max_new_tokens, weights, execution_guided, value_grounding, batch_tokens"),
        (
            "evaluation",
            {"limit": 4},
            "test_limit, validation_limit, baseline, latency_questions, test_suite_copies, seed, processes",
        ),
        ("base_model", {"source": "hub", "repo": "a/b", "revision": "c", "sha": "d"}, "source, repo, revision"),
        ("base_model", {"source": "gguf", "path": "x", "file": "d"}, "source, path"),
    ],
)
def test_an_unknown_key_lists_the_known_ones(tmp_path: Path, section: str, content: Any, known: str) -> None:
    message = problems(tmp_path, EXPERIMENT | {section: content})
    assert re.search(rf"{section}\.\S+: unknown key; known here: {known}$", message)


@pytest.mark.parametrize(
    ("source", "known"),
    [
        ({"kind": "local", "path": "x", "sha256": "y"}, "kind, path"),
        ({"kind": "url", "url": "http://x/y", "retries": 3}, "kind, url, sha256"),
        ({"kind": "hub", "name": "y"}, "kind, repo, revision"),
        ({"kind": "bundled", "path": "y"}, "kind"),
    ],
)
def test_an_unknown_key_of_a_source_lists_those_of_its_kind(tmp_path: Path, source: Any, known: str) -> None:
    message = problems(tmp_path, DATASET | {"source": source}, WikiSQLDataset)
    assert re.search(rf"source\.\w+\.\w+: unknown key; known here: {known}$", message)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"training": {}}, "training: give exactly one of epochs, max_steps, budget_minutes; got none"),
        ({"training": {"epochs": 1, "budget_minutes": 1}}, "exactly one of epochs, max_steps, budget_minutes; got"),
        (
            {"training": {"epochs": 1, "eval_steps": 300}},
            "save_steps must be a multiple of eval_steps; got 200 and 300",
        ),
        ({"training": {"epochs": 1, "packing": True}}, "packing joins examples in one row"),
        ({"training": {"epochs": 1, "packing": True, "group_by_length": True}}, "choose one"),
        ({"training": {"epochs": 1, "learning_rate": float("inf")}}, "Input should be a finite number; got inf"),
        ({"training": {"epochs": float("nan")}}, "training.epochs: "),
        ({"lora": {"dropout": 1}}, "lora.dropout: Input should be less than 1; got 1"),  # which would train nothing
        ({"training": {"epochs": 1, "batch_size": True}}, "training.batch_size: this is no yes-or-no field; got True"),
        ({"training": {"epochs": 1, "batch_size": 1.5}}, "training.batch_size: "),
        ({"training": {"epochs": 1, "batch_size": None}}, "training.batch_size: "),
        ({"training": {"epochs": 1, "packing": "perhaps"}}, "training.packing: "),
        ({"training": [1, 2]}, "training: Input should be a valid dictionary"),
        ({"training": None}, "training: Input should be a valid dictionary"),
        ({"lora": {"targets": "q_proj"}}, "lora.targets: a list is wanted; got 'q_proj'"),
        ({"prompt": {"sample_values": 5}}, "sample_values is read by template: samples only"),
        ({"base_model": {"path": "x"}}, "base_model: Unable to extract tag using discriminator 'source'"),
        ({"base_model": {"source": "magic"}}, "'wheel', 'hub', 'folder', 'gguf'"),
        ({"base_model": "TinyLlama"}, "base_model: "),
        ({"base_model": {"source": "hub", "repo": "a/b"}}, "base_model.hub.revision: Field required"),
        ({"description": ""}, "description: String should have at least 1 character"),
        ({3: 4}, "3: "),
    ],
)
def test_wrong_values_name_field_rule_and_value(tmp_path: Path, sections: Any, message: str) -> None:
    assert message in problems(tmp_path, EXPERIMENT | sections)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"source": {"kind": "url", "url": "ftp://x"}}, "source.url.url: String should match pattern"),
        ({"source": {"kind": "url", "url": "http://x", "sha256": "abc"}}, "source.url.sha256: String should match"),
        ({"source": {"kind": "ftp"}}, "'bundled', 'local', 'url', 'hub'"),
        ({"source": {"kind": "local"}}, "source.local.path: Field required"),
        ({"retrain": {"experiment": "x", "cron": "daily"}}, "retrain.cron: five fields with a space"),
        (
            {"retrain": {"experiment": "x", "cron": "99 3 * * 0"}},
            "retrain.cron: '99' is no minute: 0 to 59, as *, N or N-M, /STEP after any, several joined by commas; "
            "got '99 3 * * 0'",
        ),
        ({"retrain": {"cron": "0 3 * * 0"}}, "retrain.experiment: Field required"),
    ],
)
def test_wrong_dataset_values(tmp_path: Path, settings: Any, message: str) -> None:
    assert message in problems(tmp_path, DATASET | settings, WikiSQLDataset)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a mapping of description, like, base_model"),
        ("# only a comment\n", "a mapping of description, like, base_model"),
        ("- a\n- b\n", "a mapping of description, like, base_model"),
        ("just text", "got 'just text'"),
        ("a: b: c", "not readable as YAML"),
        ("a: [1, 2", "not readable as YAML"),
        ("a: !!python/object/apply:os.system ['true']", "not readable as YAML"),
        ("? [a, b]\n: c\n", "is no key"),
        ("[" * 20_000, "not readable as YAML"),
        (b"\xff\xfe\x00", "not readable as YAML"),
        (b"a: \x00", "not readable as YAML"),
        ("description: a\ndescription: b\n", "key 'description' is given twice"),
        ("training:\n  epochs: 1\n  seed: 1\n  epochs: 2\n", "key 'epochs' is given twice"),
    ],
)
def test_what_is_no_mapping(tmp_path: Path, text: Any, message: str) -> None:
    assert message in problems(tmp_path, text)


def test_a_key_given_twice_is_named_with_its_line(tmp_path: Path) -> None:
    assert "line 4" in problems(tmp_path, "training:\n  epochs: 1\n  seed: 1\n  epochs: 2\n")


def test_a_missing_file_says_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "there.yaml").write_text("a: b")
    with pytest.raises(ConfigError, match=r"no such file; .* holds \['there.yaml'\]"):
        read_config(Experiment, tmp_path / "x.yaml")
    with pytest.raises(ConfigError, match="no such folder"):
        read_config(Experiment, tmp_path / "nowhere" / "x.yaml")


# ---------------------------------------------------------------------------------------------------------- names


def test_names_come_from_folders_and_files(tmp_path: Path) -> None:
    for path in (
        "b/dataset.yaml",
        "b/one.yaml",
        "b/two-2.5.yaml",
        "b/notes.txt",
        "a/dataset.yaml",
        "no_dataset/x.yaml",
    ):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).touch()
    assert dataset_names(tmp_path) == ["a", "b"]
    assert experiment_names(tmp_path, "b") == ["one", "two-2.5"]
    assert experiment_names(tmp_path, "a") == []


def test_hidden_files_and_folders_are_no_names(tmp_path: Path) -> None:
    """`t2s init` that was killed, an editor's lock (a link to nothing) and what macOS puts beside a file."""
    for path in ("a/dataset.yaml", "a/one.yaml", ".x.01234567.new/dataset.yaml", "a/._one.yaml", "a/._dataset.yaml"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).touch()
    for name in (".#one.yaml", ".#dataset.yaml"):
        (tmp_path / "a" / name).symlink_to("somebody@host.1234:5678")
    assert dataset_names(tmp_path) == ["a"]
    assert experiment_names(tmp_path, "a") == ["one"]
    with pytest.raises(ConfigError, match=r"holds \['dataset.yaml', 'one.yaml'\]"):
        read_config(Experiment, tmp_path / "a" / "two.yaml")


@pytest.mark.parametrize("name", ["1st", "my data", "a-b", "ö"])
def test_a_dataset_name_must_suit_an_asset_key(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "dataset.yaml").touch()
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "dataset.yaml").touch()
    assert dataset_names(tmp_path) == ["a"]
    (problem,) = misnamed(tmp_path).items()
    assert problem[0] == name
    with pytest.raises(ConfigError, match=re.escape(f"letters, digits and _, a letter first; got {name!r}")):
        Project(tmp_path, tmp_path).dataset(name)


@pytest.mark.parametrize("name", ["one two", "v1...2"])
def test_an_experiment_name_must_suit_a_partition_key(tmp_path: Path, name: str) -> None:
    (tmp_path / "a").mkdir()
    for each in ("dataset", "one", name):
        (tmp_path / "a" / f"{each}.yaml").touch()
    assert experiment_names(tmp_path, "a") == ["one"]
    assert list(misnamed(tmp_path, "a")) == [name]
    with pytest.raises(ConfigError, match=re.escape(f"letters, digits, _ . and -, not ...; got {name!r}")):
        Project(tmp_path, tmp_path).experiment("a", name)


# ---------------------------------------------------------------------------------------------------------- paths


def test_paths_are_expanded_and_relative_to_their_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("T2S_TEST_PLACE", "/place")
    monkeypatch.setenv("HOME", "/home/someone")
    assert expand_path("$T2S_TEST_PLACE/x", tmp_path) == Path("/place/x")
    assert expand_path("${T2S_TEST_PLACE}/x", tmp_path) == Path("/place/x")
    assert expand_path("~/x", tmp_path) == Path("/home/someone/x")
    assert expand_path("x/y", tmp_path) == tmp_path / "x/y"
    assert expand_path("/x/y", tmp_path) == Path("/x/y")


@pytest.mark.parametrize("value", [None, ""])
def test_a_variable_that_is_not_set_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    monkeypatch.delenv("T2S_TEST_PLACE", raising=False)
    if value is not None:
        monkeypatch.setenv("T2S_TEST_PLACE", value)
    with pytest.raises(ConfigError, match="set the environment variable T2S_TEST_PLACE to a path"):
        expand_path("$T2S_TEST_PLACE/x", tmp_path)
