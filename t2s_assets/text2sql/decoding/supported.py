"""Which models can be decoded here, by their configuration."""

from __future__ import annotations

import sys
from typing import Any

from t2s_assets.text2sql.errors import ModelError


def heads_sharing_a_key(config: Any) -> int:
    """How many query heads share one key head in a model of this (text) configuration."""
    return config.num_attention_heads // (getattr(config, "num_key_value_heads", None) or config.num_attention_heads)


def check_model(model: Any) -> None:
    """Refuse a model whose attention `steps.attend` does not reproduce. Raises `ModelError`."""
    config = model.config.get_text_config(decoder=True)
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if other := sorted(kinds - {"full_attention"}):
        raise ModelError(
            f"decoding: model type {config.model_type!r} has layers of kind {other}; only full attention can "
            "be decoded. Choose a base model with full attention in every layer"
        )
    for field in ("attn_logit_softcapping", "sliding_window"):
        if getattr(config, field, None) and getattr(config, f"use_{field}", True):
            raise ModelError(
                f"decoding: model type {config.model_type!r} sets {field}={getattr(config, field)!r}; "
                "its attention cannot be decoded. Choose a base model without it"
            )
    if hasattr(model, "modules"):  # not what `packed` made, which is of models that pass
        _check_attention(model.get_base_model() if hasattr(model, "get_base_model") else model, config.model_type)


def _check_attention(model: Any, kind: str) -> None:
    """Refuse attention that does not go through transformers' `AttentionInterface`, or looks ahead."""
    # A model that uses the interface looks its attention up in this table; others have theirs, whatever they are told.
    if not hasattr(sys.modules[type(model).__module__], "ALL_ATTENTION_FUNCTIONS"):
        raise ModelError(
            f"decoding: model type {kind!r} computes attention by itself, and not through transformers' "
            "AttentionInterface, so it cannot be decoded. Choose a base model of another family"
        )
    if any(getattr(module, "is_causal", None) is False for module in model.modules()):
        raise ModelError(
            f"decoding: in model type {kind!r} tokens attend to those after them, so it cannot write text. Choose a "
            "base model that is a causal language model"
        )
