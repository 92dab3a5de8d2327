"""Texts in UTF-8, in UTF-16, and in what their letters tell."""

from __future__ import annotations

import codecs
import json
from pathlib import Path

import pytest

from t2s_assets.text2sql.datasets.question_files import QuestionFile
from t2s_assets.text2sql.text_encoding import encoding_of_file, guessed, in_utf8


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


@pytest.mark.parametrize(
    ("codec", "text"),
    [
        ("cp1251", "имя,город\nИван,Москва\nОльга,Казань\n"),
        ("cp1253", "όνομα,πόλη\nΓιώργος,Αθήνα\n"),
        ("cp1255", "שם,עיר\nדוד,תל אביב\nשרה,חיפה\nיוסף,ירושלים\nמרים,באר שבע\nיעקב,נתניה\n"),
        ("cp1256", "الاسم,المدينة\nمحمد,القاهرة\n"),
        ("gb18030", "id,姓名,城市\n1,王伟,北京\n2,李娜,上海\n"),
        ("big5", "姓名,城市\n陳大文,臺北\n"),
        ("cp932", "名前,都市\n田中,東京\nさくら,京都\n"),
        ("cp949", "이름,도시\n김철수,서울\n"),
        ("cp1251", "code,name\nA1,Кофе Arabica\nB2,Чай Ceylon\nC3,Вода\n"),
    ],
)
def test_letters_tell_another_script(codec: str, text: str) -> None:
    assert guessed([b"only ASCII\n", *text.encode(codec).splitlines(keepends=True)]) == codec


@pytest.mark.parametrize(
    "text",
    [
        "name,stadt\nMüller,Köln\nGroß,Zürich\n",
        "nom,ville\nHÉLÈNE,BESANÇON\nNOËL,SÈTE\n",
        "name\nSØREN\nBJØRN\nÅSE\nÞór\n",
        "ÄÖÜ,ß\n1,2\n",
        "ÉTÉ\nÇA\n",
        "value\n±0.5\n½\n20°C\n12 m²\n",
        "price\n€10\n£7.50\n",
        "“quoted” – and … more\n",
        "plain\n",
    ],
)
def test_letters_of_the_west_are_windows_1252(text: str) -> None:
    assert guessed(text.encode("cp1252").splitlines(keepends=True)) == "cp1252"
