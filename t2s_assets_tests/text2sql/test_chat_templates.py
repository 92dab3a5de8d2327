"""Chat templates of bases: what they may ask for, and what they may raise."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from t2s_assets.text2sql import base_models
from t2s_assets.text2sql.chat_templates import as_chat, without_today
from t2s_assets.text2sql.errors import PromptError
from t2s_assets_tests.tiny import CHAT_TEMPLATE, tiny_tokenizer

LLAMA_3 = """
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{{- "Today Date: " + date_string + "\n" }}"""
"""The lines of Llama 3.2's template that say the day."""


def with_template(template: Any) -> Any:
    tokenizer = tiny_tokenizer(special=("<|start|>",))
    tokenizer.chat_template = template
    return tokenizer


def test_a_template_that_says_the_day_says_the_same_on_every_day(tmp_path: Path) -> None:
    with_template(LLAMA_3 + CHAT_TEMPLATE).save_pretrained(tmp_path / "base")
    tokenizer = base_models.tokenizer_from(tmp_path / "base")
    wanted = "Today Date: 26 Jul 2024\n<|start|>user\nx<|end|>\n<|start|>assistant\n"
    assert as_chat(tokenizer, "x") == wanted
    # So does the tokenizer beside an adapter, read by us or by others.
    tokenizer.save_pretrained(tmp_path / "adapter")
    again = base_models.tokenizer_from(tmp_path / "adapter")
    assert again.chat_template == tokenizer.chat_template and as_chat(again, "x") == wanted
    written = (tmp_path / "adapter" / "chat_template.jinja").read_text()
    assert as_chat(with_template(written), "x") == wanted


def test_the_day_in_other_words() -> None:
    for form, wanted in (("%Y-%m-%d", "2024-07-26"), ("%A, %B %-d %y, %H:%M", "Friday, July 26 24, 00:00")):
        assert as_chat(with_template(without_today(f"{{{{ strftime_now('{form}') }}}}")), "x") == wanted


def test_other_templates_are_left_alone() -> None:
    for template in (None, "", CHAT_TEMPLATE):
        assert without_today(template) == template
    named = without_today({"default": CHAT_TEMPLATE, "tool_use": LLAMA_3})
    assert named["default"] == CHAT_TEMPLATE and named["tool_use"] == without_today(LLAMA_3) != LLAMA_3


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{{ raise_exception('a system\nmessage is wanted') }}", "TemplateError: a system message is wanted)"),
        ("{{ messages[0]['content'] + 1 }}", "TypeError: can only"),
        ("{{ messages", "TemplateSyntaxError: "),
    ],
)
def test_a_template_that_fails_is_refused(template: str, why: str) -> None:
    with pytest.raises(PromptError, match=re.escape(f"user's message ({why}")) as refused:
        as_chat(with_template(template), "x")
    assert "use template: plain or samples" in str(refused.value) and "\n" not in str(refused.value)
