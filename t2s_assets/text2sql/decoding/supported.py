"""Which models can be decoded here, by their configuration."""

from __future__ import annotations

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
