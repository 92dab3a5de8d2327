"""Weights laid out for the CPU: the answers are transformers' own, and what cannot be laid out stays as it was."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from t2s_assets.text2sql.decoding import Decoder, DecodingOptions
from t2s_assets.text2sql.decoding.packed import PackedModel, packed, packed_from
from t2s_assets.text2sql.query import from_sql
from t2s_assets_tests.tiny import random_requests, tiny_model

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="PyTorch has no oneDNN here")


def tiny_qwen(vocabulary: int) -> Any:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(7)
    config = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=96,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        initializer_range=0.3,
        tie_word_embeddings=True,
        eos_token_id=0,
        use_sliding_window=False,
    )
    model = Qwen2ForCausalLM(config).eval()
    for layer in model.model.layers:  # biases start at zero
        for projection in (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj):
            torch.nn.init.normal_(projection.bias, std=0.3)
    return model


@pytest.mark.parametrize("make", [tiny_model, tiny_qwen])
@pytest.mark.parametrize(("batch_size", "draft_tokens"), [(1, 8), (16, 0)])
def test_answers_token_for_token_those_of_transformers(
    tokenizer: Any, make: Any, batch_size: int, draft_tokens: int
) -> None:
    model = make(len(tokenizer) + 24)
    quick = packed(model)
    assert isinstance(quick, PackedModel)
    requests = random_requests(30, tables=12, seed=31)
    for grammar in ("schema", "none"):
        options = DecodingOptions(grammar, max_new_tokens=32, batch_size=batch_size, draft_tokens=draft_tokens)
        before = Decoder(model, tokenizer, options).generate(requests)
        after = Decoder(quick, tokenizer, options).generate(requests)
        assert [c.token_ids for c in after] == [c.token_ids for c in before]
        assert [c.logprob for c in after] == pytest.approx([c.logprob for c in before], abs=1e-3)


def test_half_precision_answers_keep_to_the_grammar(tokenizer: Any) -> None:
    quick = packed(tiny_model(len(tokenizer)).to(torch.bfloat16))
    requests = random_requests(8, tables=3, seed=12)
    assert all(from_sql(c.text, r.schema) for r, c in zip(requests, Decoder(quick, tokenizer).generate(requests)))


def test_what_cannot_be_laid_out_stays(tokenizer: Any) -> None:
    from peft import LoraConfig, get_peft_model

    half = tiny_model(len(tokenizer)).to(torch.float16)
    training = tiny_model(len(tokenizer)).train()
    adapted = get_peft_model(tiny_model(len(tokenizer)), LoraConfig(target_modules=["q_proj"])).eval()
    for model in (half, training, adapted, adapted.base_model.model):
        assert packed(model) is model


@pytest.mark.parametrize("make", [tiny_model, tiny_qwen])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_read_from_a_folder_it_answers_the_same(tokenizer: Any, make: Any, dtype: torch.dtype, tmp_path: Path) -> None:
    if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this processor does not multiply bfloat16")
    make(len(tokenizer)).to(dtype).save_pretrained(str(tmp_path))
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=dtype).eval()
    read = packed_from(tmp_path, dtype)
    assert isinstance(read, PackedModel) and read.dtype == dtype
    requests = random_requests(20, tables=8, seed=3)
    ours = Decoder(read, tokenizer).generate(requests)
    assert [c.token_ids for c in ours] == [c.token_ids for c in Decoder(packed(model), tokenizer).generate(requests)]


def test_what_only_transformers_can_load_is_left_to_it(tokenizer: Any, tmp_path: Path) -> None:
    model = tiny_model(len(tokenizer))
    model.save_pretrained(str(tmp_path))
    assert packed_from(tmp_path, torch.bfloat16) is None  # it holds float32
    settings = json.loads((tmp_path / "config.json").read_text())
    rope = settings["rope_parameters"] | {"rope_type": "linear", "factor": 2.0}
    for change in ({"rope_parameters": rope}, {"hidden_act": "gelu"}, {"architectures": ["MistralForCausalLM"]}):
        (tmp_path / "config.json").write_text(json.dumps(settings | change))
        assert packed_from(tmp_path, torch.float32) is None, change


def test_a_start_imports_none_of_transformers_models(tokenizer: Any, tmp_path: Path) -> None:
    model = tiny_model(len(tokenizer))
    model.save_pretrained(str(tmp_path))
    code = (
        "import sys, torch; from pathlib import Path; from t2s_assets.text2sql.decoding import Decoder; "
        "from t2s_assets.text2sql.decoding.packed import packed_from; "
        f"assert packed_from(Path({str(tmp_path)!r}), torch.float32) is not None; "
        "import t2s_assets.text2sql.decoding.decoder; print('transformers.modeling_utils' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr[-1000:]
