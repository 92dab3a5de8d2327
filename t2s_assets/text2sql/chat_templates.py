"""A base model's chat template: a program of its own, which may fail, and may ask what day it is."""

from __future__ import annotations

import datetime
from typing import Any

from t2s_assets.text2sql.errors import PromptError

_DAY = datetime.datetime(2024, 7, 26)
"""The day that Llama 3's templates say where they are told none."""

_ASKS = "strftime_now"
"""The function by which transformers tells a template the time."""

_DIRECTIVES = ("a", "A", "b", "B", "d", "-d", "j", "m", "-m", "y", "Y", "H", "I", "M", "S", "p")


def without_today(template: Any) -> Any:
    """A tokenizer's `chat_template` (text, or texts by name, or None) that says one day for ever, where it says today.

    Else a model would be asked otherwise than it was trained as soon as the day is over, and its prompts could not be
    made again. The day is in the template's text, so that whoever else has the tokenizer writes the same prompt.
    """
    if isinstance(template, dict):
        return {name: without_today(text) for name, text in template.items()}
    if not template or _ASKS not in template or template.startswith(_FIXED):
        return template
    return _FIXED + template


def _fixed() -> str:
    said = "".join(f" | replace('%{d}', '{_DAY.strftime(f'%{d}')}')" for d in _DIRECTIVES)
    return f"{{%- macro {_ASKS}(format) -%}}{{{{ format{said} }}}}{{%- endmacro -%}}"


_FIXED = _fixed()


def as_chat(tokenizer: Any, text: str) -> str:
    """`text` as a user's message in the tokenizer's chat template, up to where the answer begins.

    Raises:
        PromptError: the template fails.
    """
    messages = [{"role": "user", "content": text}]
    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except Exception as e:  # it raises what it likes
        raise PromptError(
            f"prompt.template: chat: the base's chat template cannot write a user's message ({type(e).__name__}: "
            f"{' '.join(str(e).split())}); use template: plain or samples, or another base model"
        ) from e
