"""int8 weights: near the full ones, for short passes only, and refused where they cannot be."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from t2s_assets.text2sql.decoding import Decoder, DecodingOptions
from t2s_assets.text2sql.decoding.int8 import SHORT, Int8Linear, with_int8
from t2s_assets.text2sql.errors import ModelError
from t2s_assets_tests.tiny import random_requests

on_x86 = pytest.mark.skipif(
    torch.backends.quantized.engine not in ("x86", "fbgemm", "onednn"), reason="PyTorch's x86 kernels are not here"
)


@on_x86
def test_short_inputs_are_near_and_long_ones_exact() -> None:
    torch.manual_seed(1)
    linear = torch.nn.Linear(64, 96)
    quantised = Int8Linear(linear)
    with torch.inference_mode():
        short, long = torch.randn(1, SHORT, 64), torch.randn(1, SHORT + 1, 64)
        error = (quantised(short) - linear(short)).norm() / linear(short).norm()
        assert 0 < error < 0.03
        assert torch.equal(quantised(long), linear(long))


@on_x86
def test_answers_are_mostly_those_of_full_weights(model: Any, tokenizer: Any) -> None:
    requests = random_requests(20, tables=5, seed=4)
    options = DecodingOptions(max_new_tokens=40, batch_size=1)
    full = Decoder(model, tokenizer, options).generate(requests)
    quick = Decoder(with_int8(copy.deepcopy(model)), tokenizer, options).generate(requests)
    # Random weights leave close calls; a trained model has fewer.
    assert sum(a.text == b.text for a, b in zip(full, quick)) >= 12


def test_other_number_formats_are_refused(model: Any) -> None:
    with pytest.raises(ModelError, match=r"decoding\.weights: int8 is for float32"):
        with_int8(copy.deepcopy(model).to(torch.bfloat16))
