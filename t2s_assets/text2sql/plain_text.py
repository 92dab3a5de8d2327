"""Special tokens that a user types are text: only a prompt's own ones steer the model.

A tokenizer reads `<|im_end|>` as one token wherever it stands. `protect` marks such spellings in what a user wrote, and
`encode` gives the tokens of a prompt with the marked ones spelled out. Prompts without one are tokenised as ever.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

_MARK = "\ufdd0"
"""A noncharacter of Unicode, which no text that people exchange holds."""


def protect(tokenizer: Any, text: str) -> str:
    """`text` of a user with the spellings of special tokens marked, for `encode`."""
    text = text.replace(_MARK, "")
    names = special_spellings(tokenizer)
    return re.sub("|".join(map(re.escape, names)), lambda m: _marked(m.group()), text) if names else text


def encode(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of texts that already hold their special tokens; marked ones become plain text."""
    ids = tokenizer(list(texts), add_special_tokens=False).input_ids if texts else []
    for at, text in enumerate(texts):
        if _MARK in text:
            ids[at] = _encode_marked(tokenizer, text)
    return ids


def decode(tokenizer: Any, tokens: Sequence[int], *, skip_special_tokens: bool = False) -> str:
    """The text of tokens, to the letter: some tokenizers are set to take spaces before signs away."""
    return tokenizer.decode(tokens, skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=False)


def _encode_marked(tokenizer: Any, text: str) -> list[int]:
    found: list[int] = []
    marked = "|".join(re.escape(_marked(name)) for name in special_spellings(tokenizer))
    for number, piece in enumerate(re.split(f"({marked})", text)):
        if piece:
            plain = {"split_special_tokens": True} if number % 2 else {}
            found += tokenizer(piece.replace(_MARK, ""), add_special_tokens=False, **plain).input_ids
    return found


def _marked(name: str) -> str:
    return name[0] + _MARK + name[1:]


def special_spellings(tokenizer: Any) -> list[str]:
    """Every spelling that the tokenizer reads as one special token, the longest first."""
    added = {str(t.content) for t in tokenizer.added_tokens_decoder.values() if t.special}
    return sorted(added | set(tokenizer.all_special_tokens), key=lambda name: (-len(name), name))
