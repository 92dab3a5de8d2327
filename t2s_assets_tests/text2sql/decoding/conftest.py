"""A tiny language model with a real byte-level tokenizer."""

from __future__ import annotations

from typing import Any

import pytest

from t2s_assets_tests.tiny import tiny_model, tiny_tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return tiny_tokenizer()


@pytest.fixture(scope="session")
def model(tokenizer: Any) -> Any:
    # More rows than tokens, as many published models have.
    return tiny_model(len(tokenizer) + 24)
