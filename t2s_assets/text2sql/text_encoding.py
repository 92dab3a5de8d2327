"""The encoding of text files that people bring: UTF-8, or UTF-16 with its mark, which SQL Server's tools write."""

from __future__ import annotations

import codecs
from pathlib import Path


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
