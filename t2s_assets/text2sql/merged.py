"""A tuned model ready to decode: its adapter merged and kept on disk so, its weights as `decoding.weights` says."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from t2s_assets.text2sql import adapters, base_models, parity
from t2s_assets.text2sql.adapters import Adapter
from t2s_assets.text2sql.base_models import BaseModel, Placement
from t2s_assets.text2sql.config import DecodingConfig
from t2s_assets.text2sql.storage import MANIFEST, Project, content_hash, replacing_folder, write_json

_LOG = logging.getLogger(__name__)
# A new number makes merged weights that older code kept count as others.
_CODE = 3


def load_ready(adapter: Adapter, project: Project, placement: Placement, decoding: DecodingConfig) -> tuple[Any, Any]:
    """(model, tokenizer) of an adapter for decoding.

    Merged weights are kept under `cache/merged`, one copy for each adapter, and read from there while adapter, base
    and number format stay the same: that saves loading PEFT and merging. A merge that changes answers (`parity`) is
    not used: the adapter then stays beside its base, slower, and a warning says so.

    Raises:
        ModelError: the base at hand is another, the weights are broken, or `int8` where it cannot be.
    """
    model = _merged(adapter, project, placement, decoding)
    return with_weights(model, decoding), base_models.tokenizer_from(adapter.folder)


def with_weights(model: Any, decoding: DecodingConfig) -> Any:
    """`model` for a Decoder, with the weights that `decoding.weights` says, and laid out for it where that can be.

    Raises ModelError for `int8` where it cannot be.
    """
    if decoding.weights == "full":
        from t2s_assets.text2sql.decoding.packed import PackedModel, packed

        return model if isinstance(model, PackedModel) else packed(model)
    from t2s_assets.text2sql.decoding.int8 import with_int8

    return with_int8(model)


def _merged(adapter: Adapter, project: Project, placement: Placement, decoding: DecodingConfig) -> Any:
    base = base_models.fetch(adapter.experiment.base_model, project)
    adapters.check_base(adapter, base)
    state = (adapter.folder / adapters.WEIGHTS).stat()
    key = content_hash(_CODE, adapter.version, base.identity, placement.as_dict(), state.st_size, state.st_mtime_ns)
    folder = project.cache("merged", content_hash(str(adapter.folder.resolve()))[:16])
    known: dict[str, Any] = {}
    try:
        if (folder / MANIFEST).is_file():
            known = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if known.get("key") == key and not known["refused"]:
            return _kept(folder, base, placement, decoding)
    except Exception as e:  # safetensors, torch and transformers raise whatever a broken file makes them
        _LOG.warning("the merged weights kept in %s cannot be read (%s: %s); merging anew", folder, type(e).__name__, e)
        known = {}
    if known.get("key") != key:
        known = _merge(adapter, project, placement, folder, key)
    if known["refused"]:
        _LOG.warning("the adapter is not merged, which would be faster: %s", known["refused"])
        return adapters.load_unmerged(adapter, project, placement)[0]
    if "model" in known:  # it could not be kept
        return known["model"]
    return _kept(folder, base, placement, decoding)


def _kept(folder: Path, base: BaseModel, placement: Placement, decoding: DecodingConfig) -> Any:
    """The merged model that is kept in `folder`."""
    if placement.device == "cpu" and decoding.weights == "full":
        import torch

        from t2s_assets.text2sql.decoding.packed import packed_from

        if (model := packed_from(folder, getattr(torch, placement.dtype))) is not None:
            return model
    # The base's own weights are not read: a merged model has its own, in the compute type.
    return base_models.load_model(replace(base, folder=folder), replace(placement, quantization="none")).eval()


def _merge(adapter: Adapter, project: Project, placement: Placement, folder: Path, key: str) -> dict[str, Any]:
    """Merge, compare, and keep under `folder` what came of it, which is returned; `model` too if it cannot be kept."""
    from safetensors import SafetensorError

    probe = parity.load_probe(adapter, project)
    if not probe:
        _LOG.warning(
            "%s has no %s, so whether merging changes its answers is not checked", adapter.folder, parity.PROBE
        )
    unmerged, tokenizer = adapters.load_unmerged(adapter, project, placement)
    before = parity.said(unmerged, tokenizer, probe)
    del unmerged
    model, _ = adapters.load_tuned(adapter, project, placement)
    found = parity.compare(before, parity.said(model, tokenizer, probe))
    made: dict[str, Any] = {"key": key, "adapter": str(adapter.folder), "parity": str(found)}
    made["refused"] = None if found.kept else str(found)
    try:
        with replacing_folder(folder) as fresh:
            if found.kept:
                model.save_pretrained(fresh)
            write_json(fresh / MANIFEST, made)
    except (OSError, SafetensorError) as e:  # safetensors reports a full disk in an error of its own
        _LOG.warning("the merged weights are not kept in %s, so the next start is slower: %s", folder, e)
        return made | {"model": model}
    return made
