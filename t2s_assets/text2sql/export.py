"""A tuned model as a folder for other programs: its merged weights, or the adapter alone, with a card.

What is written holds no path of this machine and no row of the data, and the same adapter gives the same bytes.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from t2s_assets.text2sql import adapters, base_models, parity, records
from t2s_assets.text2sql.adapters import Adapter
from t2s_assets.text2sql.base_models import BaseModel, Placement
from t2s_assets.text2sql.card_snippet import BASE_VARIABLE
from t2s_assets.text2sql.config import DecodingConfig, Experiment, HubModel, WheelModel
from t2s_assets.text2sql.config_files import dataset_names
from t2s_assets.text2sql.dataset_config import HubSource
from t2s_assets.text2sql.errors import ConfigError, DataError, ModelError, StorageError
from t2s_assets.text2sql.model_card import CARD, Subject, model_card
from t2s_assets.text2sql.portable import make_config_portable, make_tokenizer_portable
from t2s_assets.text2sql.predictions import recorded_decoding
from t2s_assets.text2sql.storage import (
    MANIFEST,
    Project,
    file_hash,
    find_manifest,
    read_json,
    read_manifest,
    replacing_folder,
    write_json,
    write_manifest,
)
from t2s_assets.text2sql.trained import find_adapter

What = Literal["merged", "adapter"]
Log = Callable[[str], None]

_ADAPTER_CONFIG = "adapter_config.json"
_SPREAD = ("processes", "sharding")
"""Of the settings of a training: how it was spread over ranks, which says nothing of the adapter."""

_FACTS = (
    *("steps", "examples_seen", "epochs", "validation_loss", "world_size", "versions", "prompts_version"),
    *("taken_from", "examples"),
)
"""Of an adapter's manifest: what a card says of the training."""

_FILES = "files"
"""In the manifest of an exported folder: the files beside it. `force` deletes no others."""

_LIBRARIES = ("python", "torch", "transformers", "peft")


@dataclass(frozen=True)
class Exported:
    """What was written, and where: `size_mb` in 10^6 bytes, `dtype` of merged weights."""

    folder: Path
    address: str
    version: str
    dtype: str | None
    size_mb: float


@dataclass(frozen=True)
class _Source:
    """An adapter to be exported, with what stands beside it."""

    project: Project
    adapter: Adapter
    base: BaseModel
    address: str
    facts: Mapping[str, Any]
    trained: Placement
    """As it was trained, on a device that is here."""


def export(
    project: Project,
    model: str | Path,
    folder: Path,
    *,
    what: What = "merged",
    dtype: str | None = None,
    device: str | None = None,
    force: bool = False,
    log: Log = print,
) -> Exported:
    """Write an adapter, or its base with it merged in, to `folder`.

    `model` is what `find_adapter` takes. `dtype` is the number format of merged weights; without it, the one that the
    adapter was trained beside. Merged weights are read back from what was written, and have to answer a few validation
    examples as the adapter beside its base does (`parity`). `force` replaces what an earlier export wrote.

    Raises:
        T2SError: there is no such adapter or its weights are not those of its records; `folder` holds something, or
            cannot be written; the merge changes answers.
    """
    adapter = find_adapter(model, project)
    folder = _free(folder, project, adapter, force=force)
    if file_hash(adapter.folder / adapters.WEIGHTS, length=16) != adapter.version:
        raise ModelError(
            f"{adapter.folder}: {adapters.WEIGHTS} does not hold the weights that its {MANIFEST} tells of "
            f"({adapter.version}), so no card could say what they are; train again"
        )
    source = _source(project, adapter, device, log)
    if source.base.folder.resolve().is_relative_to(folder):
        raise StorageError(f"--to: {folder} holds the base model of {source.address}; give a new folder")
    writes = _merged if what == "merged" else _adapter
    log(f"{source.address}: adapter version {adapter.version}")
    return writes(source, folder, dtype, log)


def _free(folder: Path, project: Project, adapter: Adapter, *, force: bool) -> Path:
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
    written = manifest.get(_FILES) if isinstance(manifest, dict) and adapters.EXPORTED in manifest else None
    own = {MANIFEST, *written} if isinstance(written, list) else set()
    return next((name for name in names if name not in own or (folder / name).is_dir()), None)


def _source(project: Project, adapter: Adapter, device: str | None, log: Log) -> _Source:
    base = base_models.fetch(adapter.experiment.base_model, project, log=log)
    adapters.check_base(adapter, base)
    hardware = adapter.experiment.hardware
    here = base_models.place_answering(hardware if device is None else hardware.model_copy(update={"device": device}))
    resolved = read_json(adapter.folder / adapters.RESOLVED_CONFIG, made_by="t2s train")
    trained = resolved.get("placement") or here.as_dict()
    address = _address(project, adapter, resolved)
    manifest = read_manifest(adapter.folder, made_by="t2s train")
    facts = {name: manifest[name] for name in _FACTS if manifest.get(name) is not None}
    if (prompts := _asset(project, "prompts", address)) is not None:
        if prompts["data_version"] == facts.get("prompts_version"):
            facts["examples"] = prompts["examples"]
    placement = replace(here, dtype=trained["dtype"], quantization=trained["quantization"])
    return _Source(project, adapter, base, address, facts, placement)


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


def _merged(source: _Source, folder: Path, dtype: str | None, log: Log) -> Exported:
    adapter, placement = source.adapter, source.trained
    wanted = dtype or placement.dtype
    probe = parity.load_probe(adapter, source.project)
    before = None
    if probe:
        log(f"asking {len(probe)} validation examples of the adapter beside its base, in {placement.dtype}")
        unmerged, tokenizer = _loaded(adapters.load_unmerged, adapter, source.project, placement)
        before = parity.said(unmerged, tokenizer, probe)
        del unmerged
    else:
        log(f"warning: {adapter.folder} has no {parity.PROBE}, so whether merging changes answers is not checked")
    log(f"merging in {wanted}")
    model, tokenizer = _loaded(adapters.load_tuned, adapter, source.project, placement, dtype=wanted)
    settings = _generation(source.base, adapter, tokenizer)
    _settle(model, tokenizer, settings)
    with _writing(folder) as fresh:
        log(f"writing {_size(model) / 1e6:,.0f} MB of weights to {folder}")
        model.save_pretrained(fresh)
        settings.save_pretrained(fresh)
        make_config_portable(fresh)
        _save_tokenizer(tokenizer, fresh)
        del model
        found = None
        if before is not None:
            log("asking the same of what was written")
            written = replace(source.base, folder=fresh)
            again = base_models.load_model(written, replace(placement, dtype=wanted, quantization="none")).eval()
            found = parity.compare(before, parity.said(again, base_models.tokenizer_from(fresh), probe))
            del again
            if not found.kept:
                raise ModelError(_refusal(source.address, wanted, found))
        subject = _subject(source, "merged", wanted, settings, tokenizer, None if found is None else str(found))
        _describe(subject, tokenizer, fresh)
    return Exported(folder, source.address, adapter.version, wanted, _megabytes(folder))


def _refusal(address: str, dtype: str, found: parity.Parity) -> str:
    other = "" if dtype == "float32" else "--dtype float32 (twice the size), or "
    return f"{address}: merged in {dtype} it does not answer as before: {found}; use {other}--what adapter"


def _adapter(source: _Source, folder: Path, dtype: str | None, log: Log) -> Exported:
    adapter = source.adapter
    tokenizer = base_models.tokenizer_from(adapter.folder)
    settings = _generation(source.base, adapter, tokenizer)
    with _writing(folder) as fresh:
        log(f"writing {adapter.size_mb:,.1f} MB of weights to {folder}")
        shutil.copyfile(adapter.folder / adapters.WEIGHTS, fresh / adapters.WEIGHTS)
        write_json(fresh / _ADAPTER_CONFIG, _adapter_config(adapter))
        settings.save_pretrained(fresh)
        _save_tokenizer(tokenizer, fresh)
        write_json(fresh / adapters.RESOLVED_CONFIG, _resolved(source))
        _describe(_subject(source, "adapter", source.trained.dtype, settings, tokenizer, None), tokenizer, fresh)
    return Exported(folder, source.address, adapter.version, None, _megabytes(folder))


def _adapter_config(adapter: Adapter) -> dict[str, Any]:
    """PEFT's, with the base as others find it: by the hub's name and revision, or not at all.

    A name that is none of the hub's would be looked for there. `target_modules` is a set, in another order each time.
    """
    config = read_json(adapter.folder / _ADAPTER_CONFIG, made_by="t2s train")
    source = adapter.experiment.base_model
    hub = isinstance(source, HubModel)
    config["base_model_name_or_path"] = source.repo if hub else None
    config["revision"] = source.revision if hub else None
    config["target_modules"] = sorted(config["target_modules"])
    return dict(sorted(config.items()))


def _resolved(source: _Source) -> dict[str, Any]:
    """What `open_adapter` reads: the base and how it is asked, and the settings that a card tells of."""
    given = source.adapter.experiment.resolved()
    if not isinstance(source.adapter.experiment.base_model, (HubModel, WheelModel)):
        given["base_model"]["path"] = f"${BASE_VARIABLE}"
    given["training"] = {k: v for k, v in given["training"].items() if k not in _SPREAD}
    experiment = {k: v for k, v in given.items() if k not in ("launch", "evaluation")}
    return {
        "address": source.address.split("/"),
        "experiment": Experiment.model_validate(experiment).resolved(),
        "base_identity": source.adapter.base_identity,
        "placement": {"dtype": source.trained.dtype, "quantization": source.trained.quantization},
    }


def _generation(base: BaseModel, adapter: Adapter, tokenizer: Any) -> Any:
    """How answers are generated: greedily, to the tokens that end one for `decoding.Decoder` too.

    Nothing is taken over of the base's own settings, which may sample or penalise repetition.
    """
    from transformers import AutoConfig, GenerationConfig

    try:
        of_base = GenerationConfig.from_pretrained(str(base.folder))
    except OSError:  # it has none
        of_base = GenerationConfig.from_model_config(AutoConfig.from_pretrained(str(base.folder)))
    also = of_base.eos_token_id if isinstance(of_base.eos_token_id, list) else [of_base.eos_token_id]
    ends = [tokenizer.eos_token_id, *sorted({e for e in also if e not in (None, tokenizer.eos_token_id)})]
    return GenerationConfig(
        do_sample=False,
        max_new_tokens=adapter.experiment.decoding.max_new_tokens,
        eos_token_id=ends if len(ends) > 1 else ends[0],
        pad_token_id=tokenizer.pad_token_id,
    )


def _settle(model: Any, tokenizer: Any, settings: Any) -> None:
    """Have the model's own settings say what the generation's do."""
    model.generation_config = settings
    model.config.eos_token_id = settings.eos_token_id
    model.config.pad_token_id = settings.pad_token_id


def _save_tokenizer(tokenizer: Any, folder: Path) -> None:
    tokenizer.save_pretrained(str(folder))
    make_tokenizer_portable(folder)


def _describe(subject: Subject, tokenizer: Any, folder: Path) -> None:
    """The card, the prompt format, and the manifest."""
    subject.adapter.format.save(folder)
    (folder / CARD).write_text(model_card(subject, tokenizer), encoding="utf-8")
    facts: dict[str, Any] = {adapters.EXPORTED: subject.what, "address": subject.address}
    facts |= {"dtype": subject.dtype} if subject.what == "merged" else {}
    facts[_FILES] = sorted(p.name for p in folder.iterdir())
    write_manifest(folder, subject.adapter.version, facts | dict(subject.facts))


def _subject(source: _Source, what: What, dtype: str, settings: Any, tokenizer: Any, found: str | None) -> Subject:
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


def _loaded(load: Callable[..., tuple[Any, Any]], adapter: Adapter, *given: Any, **options: Any) -> tuple[Any, Any]:
    try:
        return load(adapter, *given, **options)
    except (ModelError, MemoryError):
        raise
    except Exception as e:  # peft and safetensors raise whatever a broken file makes them
        raise ModelError(f"{adapter.folder}: the adapter cannot be loaded ({type(e).__name__}: {e})") from e


@contextmanager
def _writing(folder: Path) -> Iterator[Path]:
    """A new folder that takes the place of `folder`. Raises StorageError where it cannot be written."""
    from safetensors import SafetensorError

    try:
        with replacing_folder(folder) as fresh:
            yield fresh
    except (OSError, SafetensorError) as e:  # safetensors reports a full disk in an error of its own
        why = f"{e.strerror}: {e.filename}" if isinstance(e, OSError) and e.strerror else e
        raise StorageError(f"--to: {folder} cannot be written ({why}); make room, or give another folder") from e


def _size(model: Any) -> int:
    """Bytes of a model's parameters, those that are tied counted once."""
    return sum(p.numel() * p.element_size() for p in model.parameters())


def _megabytes(folder: Path) -> float:
    return sum(p.stat().st_size for p in folder.iterdir()) / 1e6
