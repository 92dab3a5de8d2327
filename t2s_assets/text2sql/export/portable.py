"""Model folders that older readers take too.

What transformers 5 saves, transformers 4 reads otherwise or not at all, and with it the servers and converters that
build on it. Of a config it takes 10,000 for the base of the rotary embedding, without a word (vllm issue 42624), and of
a tokenizer it knows no class `TokenizersBackend` (ms-swift issue 8098). The older names are written beside the new
ones, or in their place where both versions read them; transformers 5 loads the same from either.
"""

from __future__ import annotations

from pathlib import Path

from t2s_assets.text2sql.storage import read_json, write_json

_OF_THIS_MACHINE = ("is_local", "local_files_only", "name_or_path")
"""Of a tokenizer's settings: how it was loaded here."""


def make_config_portable(folder: Path) -> None:
    """Add the older names of the number format and of the rotary embedding to `config.json`.

    Rotary settings of their own for each type of layer have no older name and stay as they are.
    """
    path = folder / "config.json"
    config = read_json(path, made_by="t2s export")
    if "dtype" in config:
        config["torch_dtype"] = config["dtype"]
    rope = config.get("rope_parameters") or {}
    if "rope_theta" in rope:
        config["rope_theta"] = rope["rope_theta"]
        if "partial_rotary_factor" in rope:
            config["partial_rotary_factor"] = rope["partial_rotary_factor"]
        if rope.get("rope_type", "default") != "default":
            config["rope_scaling"] = {k: v for k, v in rope.items() if k not in ("rope_theta", "partial_rotary_factor")}
    write_json(path, dict(sorted(config.items())))


def make_tokenizer_portable(folder: Path) -> None:
    """Give `tokenizer_config.json` the older class and names, and leave out how it was loaded on this machine."""
    path = folder / "tokenizer_config.json"
    config = {k: v for k, v in read_json(path, made_by="t2s export").items() if k not in _OF_THIS_MACHINE}
    if config.get("tokenizer_class") == "TokenizersBackend":
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
        # The older class returns token_type_ids where nothing else is said, which generate refuses.
        config.setdefault("model_input_names", ["input_ids", "attention_mask"])
    if isinstance(config.get("extra_special_tokens"), list):
        config["additional_special_tokens"] = config.pop("extra_special_tokens")
    write_json(path, dict(sorted(config.items())))
