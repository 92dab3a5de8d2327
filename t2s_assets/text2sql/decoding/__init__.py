"""Decoding: from prompts to SQL, valid by construction, one code path for one question and for many.

`Decoder` is imported on first use, because it needs torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from t2s_assets.text2sql.decoding.types import Completion, DecodingOptions, Request

if TYPE_CHECKING:
    from t2s_assets.text2sql.decoding.decoder import Decoder

__all__ = ["Completion", "Decoder", "DecodingOptions", "Request"]


def __getattr__(name: str) -> Any:
    if name == "Decoder":
        from t2s_assets.text2sql.decoding.decoder import Decoder

        return Decoder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
