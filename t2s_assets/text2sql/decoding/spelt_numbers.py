"""The numbers that a question spells."""

from __future__ import annotations

import re
from decimal import Decimal

from t2s_assets.text2sql.query import exact_number, number_literal

_NUMBER = re.compile(r"(?:\d[\d,]*(?:\.\d+)?|(?<![A-Za-z])\.\d+)(?:[eE][-+]?\d+)?")
_WITH_ZEROS = re.compile(r"-?(?:0|[1-9]\d*)\.\d{0,9}0")
_MINUS = "-\u2212\u2012\u2013\u2014"


def numbers_in(question: str) -> list[str]:
    """SQL spellings of every number in `question`, in order, without repetition.

    A run of digits and commas gives the number with its thousands separators removed and the parts between
    the commas; a mantissa is a number without its exponent too; a minus sign before a number may be a dash:
    both signs are given. A decimal that ends in zeros is given with them too: models copy 1.90, and where it may not
    come they are at a loss after 1.9.
    """
    found: dict[str, None] = {}
    for match in _NUMBER.finditer(question):
        text = match.group()
        mantissa = re.split("[eE]", text)[0]
        spellings = [text, text.replace(",", ""), mantissa, mantissa.replace(",", ""), *mantissa.split(",")]
        negative = match.start() > 0 and question[match.start() - 1] in _MINUS
        for spelling in spellings:
            number = exact_number(spelling)
            if number is not None:
                found.update(dict.fromkeys(_literals(number, spelling)))
                if negative:
                    found.update(dict.fromkeys(_literals(number.copy_negate(), f"-{spelling}")))
    return list(found)


def _literals(number: Decimal, spelling: str) -> list[str]:
    """`number` as SQL is written here, and as it is spelt where that is the same with zeros at its end."""
    literal = number_literal(number)
    return [literal, spelling] if _WITH_ZEROS.fullmatch(spelling) else [literal]
