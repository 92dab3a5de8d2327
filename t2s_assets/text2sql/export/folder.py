"""A tuned model as a folder for other programs: its merged weights, or the adapter alone, with a card.

What is written holds no path of this machine and no row of the data, and the same adapter gives the same bytes.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from t2s_assets.text2sql import adapters, base_models, parity
from t2s_assets.text2sql.adapters import Adapter
from t2s_assets.text2sql.base_models import BaseModel
from t2s_assets.text2sql.config import Experiment, HubModel, WheelModel
from t2s_assets.text2sql.errors import ModelError, StorageError
from t2s_assets.text2sql.export.card_snippet import BASE_VARIABLE
from t2s_assets.text2sql.export.model_card import CARD, Subject, model_card
from t2s_assets.text2sql.export.place import FILES, free_folder, megabytes, writing
from t2s_assets.text2sql.export.portable import make_config_portable, make_tokenizer_portable
from t2s_assets.text2sql.export.source import Source, What, source_of, subject_of
from t2s_assets.text2sql.storage import MANIFEST, Project, file_hash, read_json, write_json, write_manifest
from t2s_assets.text2sql.trained import find_adapter

Log = Callable[[str], None]

_SPREAD = ("processes", "sharding")
"""Of the settings of a training: how it was spread over ranks, which says nothing of the adapter."""


@dataclass(frozen=True)
class Exported:
    """What was written, and where: `size_mb` in 10^6 bytes, `dtype` of merged weights."""

    folder: Path
    address: str
    version: str
    dtype: str | None
    size_mb: float


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
    folder = free_folder(folder, project, adapter, force=force)
    if file_hash(adapter.folder / adapters.WEIGHTS, length=16) != adapter.version:
        raise ModelError(
            f"{adapter.folder}: {adapters.WEIGHTS} does not hold the weights that its {MANIFEST} tells of "
            f"({adapter.version}), so no card could say what they are; train again with: "
            f"{adapter.made_by}"
        )
    source = source_of(project, adapter, device, log)
    if source.base.folder.resolve().is_relative_to(folder):
        raise StorageError(f"--to: {folder} holds the base model of {source.address}; give a new folder")
    writes = _merged if what == "merged" else _adapter
    log(f"{source.address}: adapter version {adapter.version}")
    return writes(source, folder, dtype, log)


def _merged(source: Source, folder: Path, dtype: str | None, log: Log) -> Exported:
    adapter, placement = source.adapter, source.trained
    wanted = dtype or placement.dtype
    probe = parity.load_probe(adapter, source.project)
    before = None
    if probe:
        log(f"asking {len(probe)} validation examples of the adapter beside its base, in {placement.dtype}")
        unmerged, tokenizer = adapters.load_unmerged(adapter, source.project, placement)
        before = parity.said(unmerged, tokenizer, probe)
        del unmerged
    else:
        log(f"warning: {adapter.folder} has no {parity.PROBE}, so whether merging changes answers is not checked")
    log(f"merging in {wanted}")
    model, tokenizer = adapters.load_tuned(adapter, source.project, placement, dtype=wanted)
    settings = _generation(source.base, adapter, tokenizer)
    _settle(model, tokenizer, settings)
    with writing(folder) as fresh:
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
        subject = subject_of(source, "merged", wanted, settings, tokenizer, None if found is None else str(found))
        _describe(subject, tokenizer, fresh)
    return Exported(folder, source.address, adapter.version, wanted, megabytes(folder))


def _refusal(address: str, dtype: str, found: parity.Parity) -> str:
    other = "" if dtype == "float32" else "--dtype float32 (twice the size), or "
    return f"{address}: merged in {dtype} it does not answer as before: {found}; use {other}--what adapter"


def _adapter(source: Source, folder: Path, dtype: str | None, log: Log) -> Exported:
    adapter = source.adapter
    tokenizer = base_models.tokenizer_from(adapter.folder)
    settings = _generation(source.base, adapter, tokenizer)
    with writing(folder) as fresh:
        log(f"writing {adapter.size_mb:,.1f} MB of weights to {folder}")
        shutil.copyfile(adapter.folder / adapters.WEIGHTS, fresh / adapters.WEIGHTS)
        write_json(fresh / adapters.PEFT_CONFIG, _adapter_config(adapter))
        settings.save_pretrained(fresh)
        _save_tokenizer(tokenizer, fresh)
        write_json(fresh / adapters.RESOLVED_CONFIG, _resolved(source))
        _describe(subject_of(source, "adapter", source.trained.dtype, settings, tokenizer, None), tokenizer, fresh)
    return Exported(folder, source.address, adapter.version, None, megabytes(folder))


def _adapter_config(adapter: Adapter) -> dict[str, Any]:
    """PEFT's, with the base as others find it: by the hub's name and revision, or not at all.

    A name that is none of the hub's would be looked for there. `target_modules` is a set, in another order each time.
    """
    config = read_json(adapter.folder / adapters.PEFT_CONFIG, made_by=adapter.made_by)
    source = adapter.experiment.base_model
    hub = isinstance(source, HubModel)
    config["base_model_name_or_path"] = source.repo if hub else None
    config["revision"] = source.revision if hub else None
    config["target_modules"] = sorted(config["target_modules"])
    return dict(sorted(config.items()))


def _resolved(source: Source) -> dict[str, Any]:
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
    facts[FILES] = sorted(p.name for p in folder.iterdir())
    write_manifest(folder, subject.adapter.version, facts | dict(subject.facts))


def _size(model: Any) -> int:
    """Bytes of a model's parameters, those that are tied counted once."""
    return sum(p.numel() * p.element_size() for p in model.parameters())
