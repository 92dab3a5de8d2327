"""What an adapter that is exported is: its base, what was measured of it, and all that a model card tells."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

from t2s_assets.text2sql import adapters, base_models, records
from t2s_assets.text2sql.adapters import Adapter
from t2s_assets.text2sql.base_models import BaseModel, Placement
from t2s_assets.text2sql.config import DecodingConfig
from t2s_assets.text2sql.config_files import dataset_names
from t2s_assets.text2sql.dataset_config import HubSource
from t2s_assets.text2sql.errors import ConfigError
from t2s_assets.text2sql.evaluation.predictions import recorded_decoding
from t2s_assets.text2sql.export.model_card import Subject
from t2s_assets.text2sql.storage import Project, find_manifest, read_json, read_manifest

What = Literal["merged", "adapter"]
Log = Callable[[str], None]

_FACTS = (
    *("steps", "examples_seen", "epochs", "validation_loss", "world_size", "versions", "prompts_version"),
    *("taken_from", "examples"),
)
"""Of an adapter's manifest: what a card says of the training."""

_LIBRARIES = ("python", "torch", "transformers", "peft")


@dataclass(frozen=True)
class Source:
    """An adapter to be exported, with what stands beside it."""

    project: Project
    adapter: Adapter
    base: BaseModel
    address: str
    facts: Mapping[str, Any]
    trained: Placement
    """As it was trained, on a device that is here."""


def source_of(project: Project, adapter: Adapter, device: str | None, log: Log) -> Source:
    """An adapter with its base, on `device` or, without one, where it answers. Raises T2SError: it has another base."""
    base = base_models.fetch(adapter.experiment.base_model, project, log=log)
    adapters.check_base(adapter, base)
    hardware = adapter.experiment.hardware
    here = base_models.place_answering(hardware if device is None else hardware.model_copy(update={"device": device}))
    resolved = read_json(adapter.folder / adapters.RESOLVED_CONFIG, made_by=adapter.made_by)
    trained = resolved.get("placement") or here.as_dict()
    address = _address(project, adapter, resolved)
    manifest = read_manifest(adapter.folder, made_by=adapter.made_by)
    facts = {name: manifest[name] for name in _FACTS if manifest.get(name) is not None}
    if (prompts := _asset(project, "prompts", address)) is not None:
        if prompts["data_version"] == facts.get("prompts_version"):
            facts["examples"] = prompts["examples"]
    placement = replace(here, dtype=trained["dtype"], quantization=trained["quantization"])
    return Source(project, adapter, base, address, facts, placement)


def _address(project: Project, adapter: Adapter, resolved: Mapping[str, Any]) -> str:
    """`dataset/experiment`; of a folder whose records name none, and that is no asset's, its name."""
    if given := resolved.get("address"):
        return "/".join(given)
    folder = adapter.folder.resolve()
    if folder.parent.name == "adapter" and folder.parent.parent.parent == project.storage.resolve():
        return f"{folder.parent.parent.name}/{folder.name}"
    return folder.name


def _asset(project: Project, asset: str, address: str) -> dict[str, Any] | None:
    """The manifest of an experiment's asset; None where there is none."""
    dataset, slash, experiment = address.partition("/")
    return find_manifest(project.path(dataset, asset, experiment), made_by=f"t2s run {address}") if slash else None


def subject_of(source: Source, what: What, dtype: str, settings: Any, tokenizer: Any, found: str | None) -> Subject:
    """What the card tells: of weights in `dtype`, generated from by `settings`, that answer as `found` by `parity`."""
    adapter, project = source.adapter, source.project
    ends = settings.eos_token_id if isinstance(settings.eos_token_id, list) else [settings.eos_token_id]
    description, hub = _data(project, source.address)
    report, decoding = _report(project, source.address, adapter.version)
    return Subject(
        address=source.address,
        what=what,
        adapter=adapter,
        dtype=dtype,
        placement={"dtype": source.trained.dtype, "quantization": source.trained.quantization},
        facts=source.facts,
        ends=[(tokenizer.convert_ids_to_tokens(e), e) for e in ends],
        parity=found,
        licence=base_models.licence(adapter.experiment.base_model, source.base, project),
        description=description,
        hub_dataset=hub,
        report=report,
        decoding=decoding,
        versions=_versions(),
    )


def _versions() -> dict[str, str]:
    """Of this package, where it is installed, and of the libraries that write the folder."""
    try:
        own = {"t2s-assets": version("t2s-assets")}
    except PackageNotFoundError:
        own = {}
    return own | {k: v for k, v in records.versions().items() if k in _LIBRARIES}


def _data(project: Project, address: str) -> tuple[str | None, str | None]:
    """A dataset's description, and its name on the Hub where it comes from there; None where its file does not say."""
    name = address.partition("/")[0]
    if name not in dataset_names(project.configs):
        return None, None
    try:
        config = project.dataset(name)
    except ConfigError:
        return None, None
    source = getattr(config, "source", None)
    hub = source.repo if isinstance(source, HubSource) and not source.is_local else None
    return config.description, hub


def _report(
    project: Project, address: str, adapter_version: str
) -> tuple[dict[str, Any] | None, DecodingConfig | None]:
    """The report of this very adapter and how its answers were decoded, as far as either is there."""
    if _asset(project, "report", address) is None:
        return None, None
    dataset, _, experiment = address.partition("/")
    path = project.path(dataset, "report", experiment) / "report.json"
    report = read_json(path, made_by=f"t2s report {address}")
    if report.get("adapter") != adapter_version:
        return None, None
    predictions = _asset(project, "predictions", address) or {}
    if predictions.get("adapter_version") != adapter_version:
        return report, None
    return report, recorded_decoding(project, dataset, experiment, predictions)
