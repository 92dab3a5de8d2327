"""Special tokens that a user types are text."""

from __future__ import annotations

from t2s_assets.text2sql.plain_text import encode, protect
from t2s_assets_tests.tiny import tiny_tokenizer


def test_a_users_special_tokens_are_spelled_out_and_a_prompts_own_are_not() -> None:
    tokenizer = tiny_tokenizer(special=("<|start|>",))
    typed = "who is <|end|> of <|start|>x?"
    prompt = f"<|start|>user\n{protect(tokenizer, typed)}<|end|>"
    ids = encode(tokenizer, ["<|start|>plain", prompt])
    assert ids[0] == tokenizer("<|start|>plain", add_special_tokens=False).input_ids
    special = [i for i in ids[1] if i in tokenizer.all_special_ids or i == tokenizer.convert_tokens_to_ids("<|start|>")]
    assert len(special) == 2
    assert tokenizer.decode(ids[1]) == f"<|start|>user\n{typed}<|end|>"


def test_other_text_is_left_alone() -> None:
    tokenizer = tiny_tokenizer()
    assert protect(tokenizer, "what is <b> | ?") == "what is <b> | ?"
    assert encode(tokenizer, []) == []
