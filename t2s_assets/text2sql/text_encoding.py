"""The encoding of text files that people bring: UTF-8, UTF-16 with its mark, which SQL Server's tools write, or one
that only its letters tell."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

LATIN = "cp1252"
"""What spreadsheets write on Windows in most of Europe and America: Latin-1 for the most part."""

_LATIN = (LATIN, "cp1250", "cp1254")
_OF_OTHER_SCRIPTS = ("cp1251", "cp1253", "cp1255", "cp1256", "gb18030", "big5", "cp932", "cp949")
_LINES = 1000
"""Lines that tell an encoding."""

_BYTES = 8
"""Of letters beyond ASCII, that tell one of another script."""

# No byte of these stands within a letter of any of the encodings.
_WORD = re.compile(rb"[^\s,;\"]*[\x80-\xff][^\s,;\"]*")


def encoding_of(start: bytes) -> str:
    """The codec for a text that begins with these bytes, two at least: UTF-16 where its mark stands there, or UTF-8.

    Either drops the mark.
    """
    return "utf-16" if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"


def encoding_of_file(path: Path) -> str:
    """The codec for a text file. Raises OSError."""
    with path.open("rb") as f:
        return encoding_of(f.read(2))


def in_utf8(content: bytes) -> bytes:
    """A text in UTF-8. What is not of the encoding that it seems to be stays as it is."""
    encoding = encoding_of(content[:2])
    try:
        return content if encoding == "utf-8-sig" else content.decode(encoding).encode()
    except UnicodeDecodeError:
        return content


def guessed(lines: Iterable[bytes]) -> str:
    """The codec of a text that is not UTF-8, by its first lines with bytes beyond ASCII: one of another script where
    `LATIN` makes no sense of their words, and that one makes words which are all in its script (charset-normalizer)."""
    from charset_normalizer import from_bytes

    telling = b"".join(islice((line for line in lines if not line.isascii()), _LINES))
    found = from_bytes(b"\n".join(_WORD.findall(telling)), cp_isolation=[*_LATIN, *_OF_OTHER_SCRIPTS])
    best = found.best()
    if best is None or any(match.encoding in _LATIN for match in found):
        return LATIN
    words = [word for word in re.findall(r"\w+", str(best)) if not word.isascii()]
    size = sum(len(letter.encode(best.encoding)) for word in words for letter in word if not letter.isascii())
    mixed = sum(re.search("[A-Za-z]", word) is not None for word in words)
    return best.encoding if size >= _BYTES and 5 * mixed < len(words) else LATIN
