"""A trained adapter's folder: what is in it, and how it becomes a model again."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from t2s_assets.text2sql import base_models
from t2s_assets.text2sql.base_models import BaseModel, Placement
from t2s_assets.text2sql.config import Experiment
from t2s_assets.text2sql.errors import ModelError
from t2s_assets.text2sql.prompts import FORMAT_FILE, PromptFormat
from t2s_assets.text2sql.storage import MANIFEST, Project, file_hash, is_made, read_json, read_manifest

RESOLVED_CONFIG = "experiment.json"
METRICS = "training.json"
CURVE = "trainer_state.json"
PEFT_CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
EXPORTED = "exported"
"""In the manifest of an exported folder: what it holds, `merged` or `adapter`."""

SCHEDULE = "schedule.json"
"""What a clock decided in the training, such as its number of steps: with it another training does the same."""

_RECORDS = (MANIFEST, RESOLVED_CONFIG, METRICS, CURVE, FORMAT_FILE, PEFT_CONFIG)


@dataclass(frozen=True)
class Adapter:
    """The folder of one trained adapter."""

    folder: Path
    experiment: Experiment
    format: PromptFormat
    base_identity: str
    version: str
    made_by: str = field(compare=False)
    """The way out where a file of it turns out to be broken."""

    @property
    def size_mb(self) -> float:
        """Size of the LoRA weights, in 10^6 bytes."""
        return (self.folder / WEIGHTS).stat().st_size / 1e6


def open_adapter(folder: Path, *, made_by: str) -> Adapter:
    """The adapter in `folder`. Raises DataError when it is not there, ModelError when it is not whole."""
    manifest = read_manifest(folder, made_by=made_by)
    if manifest.get(EXPORTED) == "merged":
        raise ModelError(
            f"{folder} holds merged weights, which other programs load; t2s answers with adapters: give "
            "DATASET/EXPERIMENT, or a folder that t2s export wrote with --what adapter"
        )
    if not (folder / WEIGHTS).is_file():
        raise ModelError(f"{folder}: {WEIGHTS} is missing; train again with: {made_by}")
    resolved = read_json(folder / RESOLVED_CONFIG, made_by=made_by)
    return Adapter(
        folder=folder,
        experiment=Experiment.model_validate(resolved["experiment"]),
        format=PromptFormat.load(folder),
        base_identity=resolved["base_identity"],
        version=manifest["data_version"],
        made_by=made_by,
    )


def damage(folder: Path) -> str | None:
    """What is wrong with the files of a trained adapter, or None where they are whole or none was trained."""
    if not is_made(folder):
        return None
    records = {*_RECORDS, *(path.name for path in folder.glob("*.json"))}
    for name in sorted(records):
        try:
            json.loads((folder / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return f"{name} is missing"
        except ValueError as e:
            return f"{name} is not JSON ({e})"
    if not (folder / WEIGHTS).is_file():
        return f"{WEIGHTS} is missing"
    if file_hash(folder / WEIGHTS, length=16) != read_manifest(folder, made_by="")["data_version"]:
        return f"{WEIGHTS} does not hold the weights that {MANIFEST} tells of"
    try:
        base_models.tokenizer_from(folder)
    except ModelError as e:
        return str(e)
    return None


def trained_otherwise(adapter: Adapter, config: Experiment) -> list[str]:
    """The base and the settings of LoRA and training that made the adapter and are others in `config`, a line each."""
    lines = []
    base, wanted = (e.base_model.model_dump(mode="json") for e in (adapter.experiment, config))
    for name in sorted(base.keys() | wanted.keys()):
        if base.get(name) != wanted.get(name):
            lines.append(f"base_model.{name} was {base.get(name)}, is {wanted.get(name)}")
    for section in ("lora", "training"):
        was, now = getattr(adapter.experiment, section), getattr(config, section)
        # Of a field that neither gives, a later version may have another default.
        for name in sorted(was.model_fields_set | now.model_fields_set):
            if getattr(was, name) != getattr(now, name):
                lines.append(f"{section}.{name} was {getattr(was, name)}, is {getattr(now, name)}")
    return lines


def load_unmerged(adapter: Adapter, project: Project, placement: Placement) -> tuple[Any, Any]:
    """(model, tokenizer): the base as placed, with the adapter beside it, as it was trained.

    Raises:
        ModelError: the base at hand is not the one the adapter was trained on.
    """
    base = base_models.load_model(_base_of(adapter, project), placement)
    return _with_adapter(base, adapter).eval(), base_models.tokenizer_from(adapter.folder)


def load_tuned(
    adapter: Adapter, project: Project, placement: Placement, *, dtype: str | None = None
) -> tuple[Any, Any]:
    """(model, tokenizer) with the adapter merged into the base, in the compute type or in `dtype`.

    A 4-bit base is merged in the compute type, into the weights that its 4 bits stand for: those the adapter was
    trained with. Merging into 4 bits would round the adapter away (qlora issue 28, peft 1043). For another `dtype` the
    sum is made in the wider of the two and rounded once.

    Raises:
        ModelError: the base at hand is not the one the adapter was trained on.
    """
    base = base_models.load_model(_base_of(adapter, project), placement)
    if placement.quantization != "none":
        base = base.dequantize()
    tokenizer = base_models.tokenizer_from(adapter.folder)
    if dtype in (None, placement.dtype):
        return _with_adapter(base, adapter).merge_and_unload().eval(), tokenizer
    import torch

    wanted = getattr(torch, dtype)
    base = base.to(torch.promote_types(wanted, getattr(torch, placement.dtype)))
    return _with_adapter(base, adapter).merge_and_unload().to(wanted).eval(), tokenizer


def _base_of(adapter: Adapter, project: Project) -> BaseModel:
    base = base_models.fetch(adapter.experiment.base_model, project)
    check_base(adapter, base)
    return base


def _with_adapter(base: Any, adapter: Adapter) -> Any:
    from peft import PeftModel

    try:
        return PeftModel.from_pretrained(base, str(adapter.folder))
    except MemoryError:
        raise
    except Exception as e:  # peft and safetensors raise whatever a broken file makes them
        raise ModelError(
            f"{adapter.folder}: the adapter cannot be loaded ({type(e).__name__}: {e}); train again with: "
            f"{adapter.made_by}"
        ) from e


def check_base(adapter: Adapter, base: BaseModel) -> None:
    """Raises ModelError unless `base` holds the weights that the adapter was trained on."""
    if base.identity != adapter.base_identity:
        raise ModelError(
            f"{adapter.folder}: trained on base weights {adapter.base_identity}, but {base.folder} holds "
            f"{base.identity}; on another base the adapter means nothing. Restore the base or train again"
        )
