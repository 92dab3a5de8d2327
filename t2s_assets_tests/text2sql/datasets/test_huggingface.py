"""WikiSQL as the Hub's conversion lays it out, from real Parquet files through `datasets`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from t2s_assets.text2sql.dataset_config import HubSource, WikiSQLDataset
from t2s_assets.text2sql.datasets import read_source
from t2s_assets.text2sql.datasets.huggingface import source_from_rows
from t2s_assets.text2sql.datasets.wikisql import read_wikisql
from t2s_assets.text2sql.errors import DataError
from t2s_assets_tests.projects import SHOP, write_wikisql

NAMES = {"train": "train", "dev": "validation", "test": "test"}

TABLE = pa.struct(
    [
        *((n, pa.string()) for n in ("header_note", "page_title", "page_id")),
        ("header", pa.list_(pa.string())),
        ("types", pa.list_(pa.string())),
        ("id", pa.string()),
        *((n, pa.string()) for n in ("section_title", "caption", "name")),
        ("rows", pa.list_(pa.list_(pa.string()))),
    ]
)
CONDS = pa.struct(
    [
        ("column_index", pa.list_(pa.int32())),
        ("operator_index", pa.list_(pa.int32())),
        ("condition", pa.list_(pa.string())),
    ]
)
SQL = pa.struct([("human_readable", pa.string()), ("sel", pa.int32()), ("agg", pa.int32()), ("conds", CONDS)])
SCHEMA = pa.schema([("phase", pa.int32()), ("question", pa.string()), ("table", TABLE), ("sql", SQL)])


def rows(split: str) -> list[dict[str, Any]]:
    """The questions of a split in the Hub's schema."""
    tables, questions = SHOP[split]
    by_id = {t["id"]: t for t in tables}
    return [
        {
            "phase": 1,
            "question": q["question"],
            "table": by_id[q["table_id"]] | {"page_title": "", "section_title": "", "caption": "", "name": "t"},
            "sql": {
                "human_readable": "",
                "sel": q["sql"]["sel"],
                "agg": q["sql"]["agg"],
                "conds": {
                    "column_index": [c[0] for c in q["sql"]["conds"]],
                    "operator_index": [c[1] for c in q["sql"]["conds"]],
                    "condition": [str(c[2]) for c in q["sql"]["conds"]],
                },
            },
        }
        for q in questions
    ]


def write_copy(folder: Path, splits: tuple[str, ...] = ("train", "dev", "test")) -> Path:
    """A local copy of the Hub's converted repository."""
    for split in splits:
        path = folder / "default" / NAMES[split] / "0000.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows(split), schema=SCHEMA), path)
    return folder


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No Hub, and a cache of this test alone."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def config(**settings: Any) -> WikiSQLDataset:
    return WikiSQLDataset.model_validate({"description": "d", "source": {"kind": "hub"} | settings})


@pytest.mark.usefixtures("offline")
def test_a_local_copy_is_the_archive(tmp_path: Path) -> None:
    write_copy(tmp_path / "copy")
    said: list[str] = []
    found = read_source(config(repo="./copy"), folder=tmp_path, downloads=tmp_path / "none", log=said.append)
    archive = read_wikisql(write_wikisql(tmp_path / "archive"))
    assert list(found.tables) == list(archive.tables)
    assert [(q.id, q.split, q.table_id, q.text) for q in found.questions] == [
        (q.id, q.split, q.table_id, q.text) for q in archive.questions
    ]
    # The conversion spells every value as text; the queries mean the same.
    assert [(q.query.column, q.query.aggregate) for q in found.questions] == [
        (q.query.column, q.query.aggregate) for q in archive.questions
    ]
    assert [[str(c.value) for c in q.query.conditions] for q in found.questions] == [
        [str(c.value) for c in q.query.conditions] for q in archive.questions
    ]
    assert said == ["train: 8 questions", "validation: 2 questions", "test: 3 questions"]


@pytest.mark.usefixtures("offline")
def test_a_missing_split_is_named(tmp_path: Path) -> None:
    folder = write_copy(tmp_path / "copy", ("train", "test"))
    with pytest.raises(DataError, match=r"no split validation; there are \['test', 'train'\]"):
        read_source(config(repo=str(folder)), folder=tmp_path, downloads=tmp_path)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("content", [None, b"no parquet"])
def test_a_folder_without_parquet_files(tmp_path: Path, content: bytes | None) -> None:
    (tmp_path / "copy").mkdir()
    if content is not None:
        (tmp_path / "copy" / "train.parquet").write_bytes(content)
    with pytest.raises(DataError, match=r"copy cannot be loaded .*must hold the Parquet files"):
        read_source(config(repo="./copy"), folder=tmp_path, downloads=tmp_path)


def test_a_missing_folder_is_not_looked_for_on_the_hub(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"source.repo: no folder at {tmp_path}/copy"):
        read_source(config(repo="./copy"), folder=tmp_path, downloads=tmp_path)


def test_a_local_copy_has_no_revision() -> None:
    with pytest.raises(ValidationError, match="a local copy has no revision"):
        HubSource(kind="hub", repo="/somewhere", revision="main")
    assert HubSource(kind="hub").revision == "refs/convert/parquet"


def test_a_hub_out_of_reach_says_so_and_the_way_out(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path\n"
        "from t2s_assets.text2sql.dataset_config import WikiSQLDataset\n"
        "from t2s_assets.text2sql.datasets import read_source\n"
        "from t2s_assets.text2sql.errors import DataError\n"
        "config = WikiSQLDataset.model_validate({'description': 'd', 'source': {'kind': 'hub'}})\n"
        "try:\n"
        "    read_source(config, folder=Path('.'), downloads=Path('.'))\n"
        "except DataError as e:\n"
        "    print(e)\n"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Salesforce/wikisql at refs/convert/parquet cannot be loaded" in done.stdout
    assert "put WikiSQL's data.tar.bz2 on this machine and use source: {kind: local, path: ...}" in done.stdout


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r["sql"].update(sel=9), "train row 1: sel must be an integer from 0 to 3; got 9"),
        (lambda r: r.update(question=" "), "train row 1: question must be a non-empty string"),
        (lambda r: r["table"].update(types=["text"]), "train row 1: table 'fruit': types must be 4 of text or real"),
        (lambda r: r["table"].update(rows=[["x"]]), "train row 1: table 'fruit': row 0 must have 4 cells"),
        (lambda r: r.pop("sql"), "train row 1: key 'sql' is missing"),
        (lambda r: r.update(table=None), "train row 1: 'NoneType' object is not subscriptable"),
        (lambda r: r["sql"]["conds"]["condition"].pop(), "train row 1: zip() argument 3 is shorter"),
    ],
)
def test_broken_rows_are_named(change: Any, message: str) -> None:
    broken = rows("train")[:1]
    broken[0]["table"] = dict(broken[0]["table"])
    change(broken[0])
    with pytest.raises(DataError) as caught:
        source_from_rows({"train": broken}, name="copy", log=lambda line: None)
    assert "copy: 1 broken rows" in str(caught.value)
    assert message in str(caught.value)


def test_a_table_in_two_splits_is_a_leak() -> None:
    with pytest.raises(DataError, match="test row 1: table 'fruit' is also in train"):
        source_from_rows({"train": rows("train"), "test": rows("train")[:1]}, name="copy", log=lambda line: None)
