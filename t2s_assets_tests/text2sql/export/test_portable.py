"""Folders that transformers 4 reads too, and 5 as before."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoConfig, AutoTokenizer, LlamaConfig

from t2s_assets.text2sql.export.portable import make_config_portable, make_tokenizer_portable
from t2s_assets.text2sql.storage import read_json
from t2s_assets_tests.tiny import tiny_tokenizer

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 256,
}


@pytest.mark.parametrize("rope", [{"rope_type": "default", "rope_theta": 123.0}, LLAMA3], ids=["plain", "scaled"])
def test_a_config_has_the_older_names_too(rope: dict[str, object], tmp_path: Path) -> None:
    LlamaConfig(rope_parameters=dict(rope), max_position_embeddings=1024, dtype="bfloat16").save_pretrained(tmp_path)
    before = AutoConfig.from_pretrained(tmp_path)
    make_config_portable(tmp_path)
    written = read_json(tmp_path / "config.json", made_by="")
    assert (written["rope_theta"], written["torch_dtype"]) == (rope["rope_theta"], "bfloat16")
    scaling = {k: v for k, v in rope.items() if k != "rope_theta"}
    assert written.get("rope_scaling") == (scaling if "factor" in rope else None)
    after = AutoConfig.from_pretrained(tmp_path)
    assert after.rope_parameters == before.rope_parameters == rope and after.dtype == before.dtype


def test_a_tokenizer_has_the_older_class_and_reads_the_same(tmp_path: Path) -> None:
    made = tiny_tokenizer(special=("<|start|>", "<|more|>"), extra_special_tokens=["<|more|>"])
    made.save_pretrained(tmp_path / "first")
    AutoTokenizer.from_pretrained(tmp_path / "first").save_pretrained(tmp_path / "again")
    path = tmp_path / "again" / "tokenizer_config.json"
    assert read_json(path, made_by="")["tokenizer_class"] == "TokenizersBackend"
    make_tokenizer_portable(tmp_path / "again")
    written = read_json(path, made_by="")
    assert written["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert written["model_input_names"] == ["input_ids", "attention_mask"]
    assert written["additional_special_tokens"] == ["<|more|>"] and "extra_special_tokens" not in written
    assert not {"is_local", "local_files_only", "name_or_path"} & written.keys()
    read = AutoTokenizer.from_pretrained(tmp_path / "again")
    text = "what is the <|more|> year?<|end|>"
    assert read(text).input_ids == made(text).input_ids and read.all_special_tokens == made.all_special_tokens
    assert read.decode(read(text).input_ids, skip_special_tokens=True) == "what is the  year?"
