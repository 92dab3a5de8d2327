"""The reader of WikiSQL's layout: what is right is read whole, what is broken is named with its file and line."""

from __future__ import annotations

import bz2
import io
import json
import shutil
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import duckdb
import pytest

from t2s_assets.text2sql.datasets import wikisql
from t2s_assets.text2sql.datasets.wikisql import Source, read_wikisql
from t2s_assets.text2sql.errors import DataError
from t2s_assets.text2sql.query import identifier, to_sql
from t2s_assets_tests.projects import SHOP, question, table, write_wikisql

MEMBERS = [f"data/{split}{kind}.jsonl" for split in ("train", "dev", "test") for kind in (".tables", "")]


def pack(folder: Path, path: Path, mode: str = "w:bz2", *, prefix: str = "", members: list[str] = MEMBERS) -> Path:
    """A tar file of an unpacked archive's members."""
    with tarfile.open(path, mode) as archive:
        for member in members:
            archive.add(folder / member, prefix + member)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_wikisql(tmp_path / "wikisql")


@pytest.fixture
def archive(folder: Path, tmp_path: Path) -> Path:
    return pack(folder, tmp_path / "data.tar.bz2")


def problem(path: Path) -> str:
    """The message that reading `path` ends with."""
    with pytest.raises(DataError) as caught:
        read_wikisql(path)
    return str(caught.value)


def line(folder: Path, file: str, number: int, content: Any) -> Path:
    """Replace a line of one of the files."""
    path = folder / "data" / file
    lines = path.read_bytes().splitlines()
    lines[number - 1] = content if isinstance(content, bytes) else json.dumps(content).encode()
    path.write_bytes(b"\n".join(lines) + b"\n")
    return folder


def one_table(folder: Path, record: dict[str, Any], *questions: dict[str, Any]) -> Source:
    return read_wikisql(write_wikisql(folder, {"train": ([record], list(questions))}))


# ------------------------------------------------------------------------------------------------- what is right


def test_tables_and_questions_come_as_they_stand(folder: Path) -> None:
    source = read_wikisql(folder)
    assert [(t.id, t.split) for t in source.tables] == [
        ("fruit", "train"),
        ("empty", "train"),
        ("single", "validation"),
        ("peaks", "test"),
    ]
    fruit = source.tables[0]
    assert fruit.header == tuple(SHOP["train"][0][0]["header"])
    assert fruit.types == ("text", "real", "text", "text")
    assert fruit.rows[0] == ("Apple", "1.20", "Autumn", "O'Hara")
    assert [c.name for c in fruit.schema("t").columns] == ["Name", "Price (€)", 'The "best" season', "column 4"]
    assert [c.name for c in source.tables[1].schema("t").columns] == ["Year", "year (2)", "Club"]
    assert Counter(q.split for q in source.questions) == {"train": 8, "validation": 2, "test": 3}
    first = source.questions[0]
    assert (first.id, first.table_id, first.text) == ("train-1", "fruit", "which fruit does o'hara sell in AUTUMN?")
    assert to_sql(first.query, fruit.schema("t")) == (
        'SELECT "Name" FROM t WHERE "column 4" = \'O\'\'Hara\' AND "The ""best"" season" = \'Autumn\''
    )


@pytest.mark.parametrize("mode", ["w", "w:bz2", "w:gz", "w:xz"])
@pytest.mark.parametrize("prefix", ["", "./"])
def test_every_kind_of_tar_reads_as_its_folder(folder: Path, tmp_path: Path, mode: str, prefix: str) -> None:
    assert read_wikisql(pack(folder, tmp_path / "archive", mode, prefix=prefix)) == read_wikisql(folder)


def test_the_folder_may_be_named_with_or_without_data(folder: Path) -> None:
    assert read_wikisql(folder / "data") == read_wikisql(folder)


def test_order_of_members_does_not_matter(folder: Path, tmp_path: Path) -> None:
    backwards = pack(folder, tmp_path / "backwards.tar.bz2", members=MEMBERS[::-1])
    assert read_wikisql(backwards) == read_wikisql(folder)


def test_progress_is_said(folder: Path) -> None:
    said: list[str] = []
    read_wikisql(folder, log=said.append)
    assert said == ["train: 2 tables, 8 questions", "validation: 1 tables, 2 questions", "test: 1 tables, 3 questions"]


def test_blank_lines_missing_last_newline_and_a_byte_order_mark_are_fine(folder: Path) -> None:
    expected = read_wikisql(folder)
    path = folder / "data" / "dev.jsonl"
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(lines))
    assert read_wikisql(folder) == expected
    path.write_bytes(b"\n\n".join(lines))  # line numbers, and ids with them, move on; texts stay
    assert [q.text for q in read_wikisql(folder).questions] == [q.text for q in expected.questions]


def test_a_table_that_nobody_asks_about_is_kept(folder: Path) -> None:
    source = one_table(folder, table("lonely", ["a"], "t", [["x"]]))
    assert [t.id for t in source.tables] == ["lonely"]
    assert source.questions == ()


def test_tables_of_no_row_and_one_row(folder: Path) -> None:
    assert one_table(folder, table("none", ["a"], "t", [])).tables[0].rows == ()
    assert one_table(folder, table("one", ["a"], "r", [["1"]])).tables[0].rows == (("1",),)


def test_two_thousand_columns(folder: Path) -> None:
    header = [f"column {i}" if i % 3 else "same" for i in range(2000)]
    source = one_table(
        folder, table("wide", header, "t" * 2000, [["x"] * 2000]), question("wide", "x?", 1999, 0, [[1998, 0, "x"]])
    )
    schema = source.tables[0].schema("t")
    assert len({c.name.casefold() for c in schema.columns}) == 2000
    assert to_sql(source.questions[0].query, schema) == (
        f"SELECT {identifier(header[1999])} FROM t WHERE {identifier(schema.columns[1998].name)} = 'x'"
    )


HEADERS = [
    *("", " ", "\t", "a", "A", "a ", "a (2)", "a\nb", "a b", 'say "x"', "''", "50%", "{}", "%s", "select", "SELECT"),
    *("with\0nul", "\0", "ß", "SS", "Åsa", "åsa", "--", "/*", ";", "$1", "?", ":x", "\\", "\u202e", "🥭", "x" * 300),
]


def test_any_header_becomes_a_name_that_duckdb_takes(folder: Path) -> None:
    source = one_table(folder, table("odd", HEADERS, "t" * len(HEADERS), [[str(i) for i in range(len(HEADERS))]]))
    names = [c.name for c in source.tables[0].schema("t").columns]
    assert len({n.casefold() for n in names}) == len(HEADERS)
    assert all(n == " ".join(n.split()) and n and "\0" not in n for n in names)
    assert names[:8] == ["column 1", "column 2", "column 3", "a", "A (2)", "a (3)", "a (2) (2)", "a b"]
    with duckdb.connect() as connection:
        connection.execute(f"CREATE TABLE t ({', '.join(f'{identifier(n)} INTEGER' for n in names)})")
        connection.execute("INSERT INTO t SELECT " + ", ".join(map(str, range(len(names)))))
        for i, name in enumerate(names):
            assert connection.execute(f"SELECT {identifier(name)} FROM t").fetchall() == [(i,)]


def test_cells_that_are_no_strings_become_text(folder: Path) -> None:
    record = table("t", ["a"], "r", [[None], [5], [1.5], [True], [float("nan")], [float("-inf")]])
    assert one_table(folder, record).tables[0].rows == (("",), ("5",), ("1.5",), ("True",), ("nan",), ("-inf",))


# --------------------------------------------------------------------------------------------- broken archives


def test_a_missing_archive_says_what_it_should_be(tmp_path: Path) -> None:
    message = problem(tmp_path / "data.tar.bz2")
    assert "no such file or folder" in message
    assert "unpacked folder" in message
    assert str(tmp_path / "data.tar.bz2") in message


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.99])
def test_a_truncated_archive(archive: Path, share: float) -> None:
    content = archive.read_bytes()
    archive.write_bytes(content[: int(len(content) * share)])
    message = problem(archive)
    assert str(archive) in message
    assert "get it again" in message


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
def test_truncation_shows_in_every_compression(folder: Path, tmp_path: Path, mode: str) -> None:
    path = pack(folder, tmp_path / "archive", mode)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "get it again" in problem(path)


@pytest.mark.parametrize("at", [0, 4, 0.2, 0.5, 0.9])
def test_a_corrupt_archive(archive: Path, at: float) -> None:
    content = bytearray(archive.read_bytes())
    start = at if isinstance(at, int) else int(len(content) * at)
    content[start : start + 8] = b"\xff" * 8
    archive.write_bytes(content)
    assert "get it again" in problem(archive)


@pytest.mark.parametrize("content", [b"", b"<html>404 Not Found</html>", b"\0" * 4096, bz2.compress(b"no tar at all")])
def test_what_is_no_archive(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "data.tar.bz2"
    path.write_bytes(content)
    assert "get it again" in problem(path)


@pytest.mark.parametrize("member", MEMBERS)
def test_a_missing_member_is_named(folder: Path, tmp_path: Path, member: str) -> None:
    packed = pack(folder, tmp_path / "part.tar.bz2", members=[m for m in MEMBERS if m != member])
    assert member in problem(packed)
    (folder / member).unlink()
    message = problem(folder)
    assert f"{member} not there" in message
    assert not any(f"{m}, " in message.split("not there")[0] for m in MEMBERS)


def test_an_empty_folder_names_all_that_it_should_hold(tmp_path: Path) -> None:
    assert all(member in problem(tmp_path) for member in MEMBERS)


def test_a_member_given_twice_is_refused(folder: Path, tmp_path: Path) -> None:
    path = pack(folder, tmp_path / "twice.tar", "w", members=[*MEMBERS, MEMBERS[0]])
    assert "data/train.tables.jsonl is in the archive twice" in problem(path)


@pytest.mark.parametrize(
    "name", ["../data/dev.jsonl", "/data/dev.jsonl", "data/../../data/dev.jsonl", "x/data/dev.jsonl"]
)
def test_members_elsewhere_are_ignored_and_nothing_is_written(folder: Path, tmp_path: Path, name: str) -> None:
    path = pack(folder, tmp_path / "hostile.tar", "w")
    before = sorted(p for p in tmp_path.rglob("*"))
    with tarfile.open(path, "a") as archive:
        info = tarfile.TarInfo(name)
        info.size = 5
        archive.addfile(info, io.BytesIO(b"wrong"))
    assert read_wikisql(path) == read_wikisql(folder)
    assert sorted(p for p in tmp_path.rglob("*")) == before


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE])
def test_links_and_devices_are_no_members(folder: Path, tmp_path: Path, kind: bytes) -> None:
    path = pack(folder, tmp_path / "links.tar", "w", members=MEMBERS[:-1])
    with tarfile.open(path, "a") as archive:
        info = tarfile.TarInfo(MEMBERS[-1])
        info.type, info.linkname = kind, "/etc/passwd"
        archive.addfile(info)
    assert f"{MEMBERS[-1]} not in the archive" in problem(path)


@pytest.mark.parametrize("name", ["data/train.jsonl", "zeros.bin"])
def test_a_bomb_is_refused_by_what_it_declares(tmp_path: Path, name: str) -> None:
    info = tarfile.TarInfo(name)
    info.size = 50 << 40  # the refusal comes before its content, so none is here
    path = tmp_path / "bomb.tar.bz2"
    path.write_bytes(bz2.compress(info.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 20)))
    message = problem(path)
    assert f"unpacks to more than {wikisql.UNPACKED_BYTES:,} bytes" in message
    assert name in message


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
def test_a_bomb_in_an_extending_header_is_refused_unread(tmp_path: Path, kind: bytes) -> None:
    """tarfile would read such a header to memory, whole, before it names any member."""
    info = tarfile.TarInfo("data/train.jsonl")
    info.type, info.size = kind, 50 << 40
    path = tmp_path / "bomb.tar.bz2"
    path.write_bytes(bz2.compress(info.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 20)))
    assert f"long names take more than {wikisql.HEADER_BYTES:,} bytes" in problem(path)


def test_a_chain_of_extending_headers_is_refused(tmp_path: Path) -> None:
    """Each asks for the next, so that a chain of thousands would end the interpreter's stack."""
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XGLTYPE, 0
    path = tmp_path / "chain.tar.bz2"
    path.write_bytes(bz2.compress(info.tobuf(tarfile.GNU_FORMAT) * 5000 + bytes(1024)))
    assert f"more than {wikisql.HEADER_BYTES:,} bytes" in problem(path)


def test_ordinary_extending_headers_are_read(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "pax.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for member in MEMBERS:
            info = archive.gettarinfo(folder / member, member)
            info.pax_headers = {"comment": "x" * 200}
            with (folder / member).open("rb") as content:
                archive.addfile(info, content)
    assert read_wikisql(path) == read_wikisql(folder)


def test_many_small_members_are_a_bomb_too(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wikisql, "UNPACKED_BYTES", 100_000)
    path = pack(folder, tmp_path / "many.tar", "w", members=[])
    with tarfile.open(path, "w:bz2") as archive:
        for i in range(20):
            info = tarfile.TarInfo(f"filler-{i}")
            info.size = 10_000
            archive.addfile(info, io.BytesIO(bytes(10_000)))
    assert "unpacks to more than 100,000 bytes" in problem(path)


def test_a_bomb_in_one_line_is_bounded_by_its_size(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line(folder, "dev.jsonl", 1, b"[" * 200_000)
    assert "data/dev.jsonl:1: not JSON" in problem(folder)


# ------------------------------------------------------------------------------------------------- broken lines

GOOD_TABLE = table("t", ["a", "b"], "tr", [["x", "1"]])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"id": "single", "header": ["Town"', "is the line cut short?"),
        (b"nonsense", "not JSON"),
        (b'{"id": "caf\xe9"}', "not JSON"),
        (b'"\\ud800"', "not JSON"),
        (b'{"id": "\\ud800", "header": ["a"], "types": ["text"], "rows": []}', "surrogates not allowed"),
        (b"1" * 5000, "not JSON"),
        (b'"text"', "a JSON object is wanted"),
        (b"[1, 2]", "a JSON object is wanted"),
        (b"null", "a JSON object is wanted"),
        (b"{}", "key 'header' is missing"),
        ({**GOOD_TABLE, "id": ""}, "id must be a non-empty string"),
        ({**GOOD_TABLE, "id": 7}, "id must be a non-empty string; got 7"),
        ({k: v for k, v in GOOD_TABLE.items() if k != "id"}, "key 'id' is missing"),
        ({**GOOD_TABLE, "header": []}, "header must be a non-empty list of strings"),
        ({**GOOD_TABLE, "header": "ab"}, "header must be a non-empty list of strings"),
        ({**GOOD_TABLE, "header": ["a", 5]}, "header must be a non-empty list of strings"),
        ({**GOOD_TABLE, "types": ["text"]}, "types must be 2 of text or real"),
        ({**GOOD_TABLE, "types": ["text", "number"]}, "types must be 2 of text or real"),
        ({**GOOD_TABLE, "types": ["text", ["real"]]}, "types must be 2 of text or real"),
        ({**GOOD_TABLE, "rows": None}, "rows must be a list of rows"),
        ({**GOOD_TABLE, "rows": {"x": 1}}, "rows must be a list of rows"),
        ({**GOOD_TABLE, "rows": [["x", "1"], ["y"]]}, "row 1 must have 2 cells"),
        ({**GOOD_TABLE, "rows": [["x", "1", "2"]]}, "row 0 must have 2 cells"),
        ({**GOOD_TABLE, "rows": ["xy"]}, "row 0 must have 2 cells"),
        ({**GOOD_TABLE, "rows": [["x", ["1"]]]}, "row 0 must have 2 cells"),
        ({**GOOD_TABLE, "id": "fruit"}, "table 'fruit' was given before, in train"),
    ],
)
def test_a_broken_table_is_named_with_its_line(folder: Path, content: Any, message: str) -> None:
    found = problem(line(folder, "dev.tables.jsonl", 1, content))
    assert "data/dev.tables.jsonl:1: " in found
    assert message in found


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"table_id": "single", "question": "How', "is the line cut short?"),
        (b"{}", "key 'question' is missing"),
        (question("single", "", 0), "question must be a non-empty string; got ''"),
        (question("single", " \n\t", 0), "question must be a non-empty string"),
        ({**question("single", "x", 0), "question": None}, "question must be a non-empty string; got None"),
        (question("nowhere", "x", 0), "table 'nowhere' is not among the tables of this split"),
        (question("fruit", "x", 0), "table 'fruit' is not among the tables of this split"),
        ({**question("single", "x", 0), "table_id": ["single"]}, "is not among the tables of this split"),
        ({**question("single", "x", 0), "sql": "SELECT 1"}, "sel, agg and conds"),
        ({**question("single", "x", 0), "sql": None}, "sel, agg and conds"),
        (question("single", "x", 2), "sel must be an integer from 0 to 1; got 2"),
        (question("single", "x", 0, 9), "agg must be an integer from 0 to 5; got 9"),
        (question("single", "x", 0, 0, [[0, 3, "x"]]), "conds operator must be an integer from 0 to 2; got 3"),
        (question("single", "x", 0, 0, [[0, 0, float("inf")]]), "must be finite; got inf"),
    ],
)
def test_a_broken_question_is_named_with_its_line(folder: Path, content: Any, message: str) -> None:
    found = problem(line(folder, "dev.jsonl", 2, content))
    assert "data/dev.jsonl:2: " in found
    assert message in found


def test_several_problems_are_reported_at_once(folder: Path) -> None:
    line(folder, "train.jsonl", 3, b"{")
    line(folder, "train.jsonl", 8, question("nowhere", "x", 0))
    line(folder, "dev.tables.jsonl", 1, b"[]")
    line(folder, "test.jsonl", 1, question("peaks", "x", 5))
    found = problem(folder)
    assert "6 broken lines; mend or remove them" in found  # the two questions of dev lost their table
    for where in ("train.jsonl:3", "train.jsonl:8", "dev.tables.jsonl:1", "dev.jsonl:1", "dev.jsonl:2", "test.jsonl:1"):
        assert f"data/{where}: " in found


def test_a_thousand_problems_are_counted_and_the_first_shown(folder: Path) -> None:
    (folder / "data" / "train.jsonl").write_bytes(b"{\n" * 1000)
    found = problem(folder)
    assert "1000 broken lines" in found
    assert "... and 980 more" in found
    assert len(found.splitlines()) == 22


def test_a_table_given_twice_in_one_split(folder: Path) -> None:
    path = folder / "data" / "train.tables.jsonl"
    path.write_bytes(path.read_bytes() + path.read_bytes().splitlines(keepends=True)[0])
    assert "data/train.tables.jsonl:3: table 'fruit' was given before, in train" in problem(folder)


def test_utf_16_is_no_jsonl(folder: Path) -> None:
    path = folder / "data" / "dev.jsonl"
    path.write_bytes(path.read_text(encoding="utf-8").encode("utf-16"))
    assert "data/dev.jsonl:1: not JSON" in problem(folder)


def test_problems_in_an_archive_are_named_alike(folder: Path, tmp_path: Path) -> None:
    line(folder, "test.jsonl", 2, b"{")
    assert "data/test.jsonl:2: not JSON" in problem(pack(folder, tmp_path / "data.tar.bz2"))


# ---------------------------------------------------------------------------------------------- the real thing


@pytest.mark.wikisql
def test_the_archive_is_read_whole(wikisql_archive: Path) -> None:
    source = read_wikisql(wikisql_archive)
    questions = Counter(q.split for q in source.questions)
    tables = Counter(t.split for t in source.tables)
    assert questions["train"] > 50_000
    assert min(questions["validation"], questions["test"]) > 3_000
    assert min(tables.values()) > 1_000
    own = {t.id: t.split for t in source.tables}
    assert all(own[q.table_id] == q.split for q in source.questions)
    assert len({q.id for q in source.questions}) == len(source.questions)


@pytest.mark.wikisql
def test_the_real_archive_cut_short(wikisql_archive: Path, tmp_path: Path) -> None:
    if wikisql_archive.is_dir():
        shutil.copytree(wikisql_archive, tmp_path / "cut")
        path = next((tmp_path / "cut").rglob("test.jsonl"))
    else:
        path = Path(shutil.copy(wikisql_archive, tmp_path / "cut"))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    assert problem(tmp_path / "cut")
