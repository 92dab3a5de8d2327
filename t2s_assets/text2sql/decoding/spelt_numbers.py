"""The numbers that a question spells."""

from __future__ import annotations

import re

from t2s_assets.text2sql.query import number_literal, parse_number

_NUMBER = re.compile(r"(?:\d[\d,]*(?:\.\d+)?|(?<![A-Za-z])\.\d+)(?:[eE][-+]?\d+)?")
_MINUS = "-\u2212\u2012\u2013\u2014"


def numbers_in(question: str) -> list[str]:
    """SQL spellings of every number in `question`, in order, without repetition.

    A run of digits and commas gives the number with its thousands separators removed and the parts between
    the commas; a mantissa is a number without its exponent too; a minus sign before a number may be a dash:
    both signs are given.
    """
    found: dict[str, None] = {}
    for match in _NUMBER.finditer(question):
        text = match.group()
        mantissa = re.split("[eE]", text)[0]
        spellings = [text, text.replace(",", ""), mantissa, mantissa.replace(",", ""), *mantissa.split(",")]
        negative = match.start() > 0 and question[match.start() - 1] in _MINUS
        for spelling in spellings:
            number = parse_number(spelling)
            if number is not None:
                found.update(dict.fromkeys([number_literal(number)] + [number_literal(-number)] * negative))
    return list(found)
