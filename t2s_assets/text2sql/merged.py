"""A tuned model ready to decode: its adapter merged and kept on disk so, its weights as `decoding.weights` says."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

from t2s_assets.text2sql import adapters, base_models
from t2s_assets.text2sql.adapters import Adapter
from t2s_assets.text2sql.base_models import Placement
from t2s_assets.text2sql.config import DecodingConfig
from t2s_assets.text2sql.storage import MANIFEST, Project, content_hash, read_json, replacing_folder, write_json

_LOG = logging.getLogger(__name__)


def load_ready(adapter: Adapter, project: Project, placement: Placement, decoding: DecodingConfig) -> tuple[Any, Any]:
    """(model, tokenizer) of an adapter for decoding.

    Merged weights are kept under `cache/merged`, one copy for each adapter, and read from there while adapter, base
    and number format stay the same: that saves loading PEFT and merging. A quantised base is not merged.

    Raises:
        ModelError: the base at hand is another, the weights are broken, or `int8` where it cannot be.
    """
    if placement.quantization == "none":
        model, tokenizer = _merged(adapter, project, placement)
    else:
        model, tokenizer = adapters.load_tuned(adapter, project, placement)
    return with_weights(model, decoding), tokenizer


def with_weights(model: Any, decoding: DecodingConfig) -> Any:
    """`model` for a Decoder, with the weights that `decoding.weights` says, and laid out for it where that can be.

    Raises ModelError for `int8` where it cannot be.
    """
    if decoding.weights == "full":
        from t2s_assets.text2sql.decoding.packed import packed

        return packed(model)
    from t2s_assets.text2sql.decoding.int8 import with_int8

    return with_int8(model)


def _merged(adapter: Adapter, project: Project, placement: Placement) -> tuple[Any, Any]:
    base = base_models.fetch(adapter.experiment.base_model, project)
    adapters.check_base(adapter, base)
    state = (adapter.folder / adapters.WEIGHTS).stat()
    key = content_hash(adapter.version, base.identity, placement.dtype, state.st_size, state.st_mtime_ns)
    folder = project.cache("merged", content_hash(str(adapter.folder.resolve()))[:16])
    if (folder / MANIFEST).is_file() and read_json(folder / MANIFEST, made_by="").get("key") == key:
        model = base_models.load_model(replace(base, folder=folder), placement)
        return model.eval(), base_models.tokenizer_from(adapter.folder)
    model, tokenizer = adapters.load_tuned(adapter, project, placement)
    try:
        with replacing_folder(folder) as fresh:
            model.save_pretrained(fresh)
            write_json(fresh / MANIFEST, {"key": key, "adapter": str(adapter.folder)})
    except OSError as e:
        _LOG.warning("the merged weights are not kept in %s, so the next start is slower: %s", folder, e)
    return model, tokenizer
