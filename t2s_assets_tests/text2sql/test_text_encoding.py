"""Texts in UTF-8 and UTF-16."""

from __future__ import annotations

import codecs
import json
from pathlib import Path

import pytest

from t2s_assets.text2sql.datasets.question_files import QuestionFile
from t2s_assets.text2sql.text_encoding import encoding_of_file, in_utf8


@pytest.mark.parametrize(
    ("mark", "encoding"),
    [
        (b"", "utf-8"),
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
    ],
)
def test_marks_say_the_encoding_and_are_no_text(tmp_path: Path, mark: bytes, encoding: str) -> None:
    for text in ("größe\n", ""):
        content = mark + text.encode(encoding)
        (tmp_path / "a.sql").write_bytes(content)
        assert (tmp_path / "a.sql").read_text(encoding_of_file(tmp_path / "a.sql")) == text
        assert in_utf8(content).decode("utf-8-sig") == text


def test_what_is_not_what_it_seems_stays() -> None:
    broken = codecs.BOM_UTF16_LE + b"odd"
    assert in_utf8(broken) == broken


@pytest.mark.parametrize("array", [True, False])
def test_questions_in_utf_16(array: bool) -> None:
    asked = [{"question": "wie groß?"}, {"question": "wie alt?"}]
    text = json.dumps(asked, indent=1) if array else "\r\n".join(map(json.dumps, asked))
    problems: list[str] = []
    file = QuestionFile(Path("q.json"), text.encode("utf-16"))
    assert list(file.records(problems)) == [(1, asked[0]), (2, asked[1])] and not problems
    rest = QuestionFile(Path("q.json"), file.without({1}))
    assert [record for _, record in rest.records(problems)] == [asked[1]] and not problems
