"""With which settings an experiment's predictions were made, and in which of them two experiments differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypedDict

from t2s_assets.text2sql import adapters
from t2s_assets.text2sql.config import Experiment
from t2s_assets.text2sql.config_files import validated
from t2s_assets.text2sql.evaluation.predictions import DECODING, recorded_decoding
from t2s_assets.text2sql.storage import Project, read_json

# Words about an experiment, which set nothing.
_NO_SETTINGS = {"description", "like"}

# What an adapter hangs on; the rest may be changed without training it again.
_TRAINING = ("base_model", "prompt", "lora", "training", "launch")


class SettingDifference(TypedDict):
    """A field, dotted as in `lora.rank`, and its values; a value is None where there is no such field too."""

    field: str
    reference: Any
    other: Any


def settings_behind(
    project: Project, dataset: str, experiment: str, predictions: Mapping[str, Any], *, trained_since: bool
) -> Experiment:
    """The settings that predictions, by their manifest, were made with: those of the adapter's training as recorded
    beside it, and of decoding as recorded with them.

    What neither records is as the experiment's file says now, and so is training where the adapter was `trained_since`.

    Raises:
        ConfigError: the file, or one of the records, breaks rules.
    """
    config = project.experiment(dataset, experiment)
    found: dict[str, Any] = {}
    record = project.path(dataset, "adapter", experiment) / adapters.RESOLVED_CONFIG
    if record.exists() and not trained_since:
        resolved = read_json(record, made_by=f"t2s train {dataset}/{experiment}")
        trained = validated(Experiment, resolved["experiment"], record)
        found = {name: getattr(trained, name) for name in _TRAINING}
    if (decoding := recorded_decoding(project, dataset, experiment, predictions)) is not None:
        found[DECODING] = decoding
    return config.model_copy(update=found)


def setting_differences(reference: Experiment, other: Experiment) -> list[SettingDifference]:
    """The fields in which two experiments differ, defaults filled in, in the order of the config file."""
    before, after = (dict(_fields(e.model_dump(mode="json", exclude=_NO_SETTINGS))) for e in (reference, other))
    names = [*before, *(name for name in after if name not in before)]
    return [
        SettingDifference(field=name, reference=before.get(name), other=after.get(name))
        for name in names
        if before.get(name) != after.get(name)
    ]


def _fields(section: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in section.items():
        if isinstance(value, dict):
            yield from _fields(value, f"{above}{name}.")
        else:
            yield above + name, value
