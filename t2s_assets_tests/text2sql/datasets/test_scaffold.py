"""`t2s init`: what it writes is whole, and every example question has an answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest
import yaml

from t2s_assets.text2sql.config import Experiment
from t2s_assets.text2sql.config_files import read_config
from t2s_assets.text2sql.data_checks.check import check
from t2s_assets.text2sql.dataset_config import read_dataset
from t2s_assets.text2sql.datasets.scaffold import EXPERIMENT, init
from t2s_assets.text2sql.errors import ConfigError, DataError
from t2s_assets_tests.conftest import ROOT
from t2s_assets_tests.own_data import write_csv, write_duckdb, write_sqlite
from t2s_assets_tests.projects import ProjectFiles


def _quiet(line: str) -> None:
    pass


@pytest.mark.parametrize(
    ("file", "write"), [("lib.duckdb", write_duckdb), ("lib's.sqlite", write_sqlite), ("lib: csv", write_csv)]
)
def test_its_data_is_right_at_once(project_files: ProjectFiles, file: str, write: Callable[[Path], Path]) -> None:
    folder = init(project_files.project, "mine", write(project_files.root / file), _quiet)
    assert sorted(p.name for p in folder.iterdir()) == ["dataset.yaml", "questions.jsonl", f"{EXPERIMENT}.yaml"]
    assert read_dataset(folder / "dataset.yaml").databases == f"../../{file}"  # type: ignore[union-attr]
    (folder / f"{EXPERIMENT}.yaml").unlink()  # its tokenizer is a download
    found = check(project_files.project, "mine")
    assert found.complete and found.errors == []
    assert all(found.questions.values())
    assert not [f for f in found.findings if f.kind in ("no answer", "asked twice")]


def test_the_questions_cover_tables_and_joins(project_files: ProjectFiles) -> None:
    folder = init(project_files.project, "mine", write_duckdb(project_files.root / "lib.duckdb"), _quiet)
    lines = [json.loads(line) for line in (folder / "questions.jsonl").read_text().splitlines()]
    sql = "\n".join(line["sql"] for line in lines)
    assert len(lines) >= 20 and len({line["question"] for line in lines}) == len(lines)
    for part in ("FROM authors", "FROM books", '"Loans"', "JOIN", "GROUP BY", "ORDER BY", "MAX(", "WHERE"):
        assert part in sql


def test_a_database_elsewhere_is_named_by_its_whole_path(
    project_files: ProjectFiles, tmp_path_factory: pytest.TempPathFactory
) -> None:
    database = write_duckdb(tmp_path_factory.mktemp("elsewhere") / "lib.duckdb")
    folder = init(project_files.project, "mine", database, _quiet)
    assert yaml.safe_load((folder / "dataset.yaml").read_text())["databases"] == str(database)


def test_its_experiment_is_the_shipped_base() -> None:
    shipped = read_config(Experiment, ROOT / "configs" / "mini" / "smollm2.yaml")
    example = read_config(Experiment, ROOT / "examples" / "shop" / "smollm2.yaml")
    assert example.base_model == shipped.base_model


def test_and_so_is_the_one_it_writes(project_files: ProjectFiles) -> None:
    folder = init(project_files.project, "mine", write_duckdb(project_files.root / "lib.duckdb"), _quiet)
    written = read_config(Experiment, folder / f"{EXPERIMENT}.yaml")
    assert written.base_model == read_config(Experiment, ROOT / "configs" / "mini" / "smollm2.yaml").base_model


def test_what_of_the_database_is_left_out_is_said(project_files: ProjectFiles) -> None:
    path = write_duckdb(project_files.root / "lib.duckdb")
    with duckdb.connect(str(path)) as db:
        db.execute("CREATE SCHEMA old; CREATE TABLE old.u AS SELECT 1 AS a")
    said: list[str] = []
    init(project_files.project, "mine", path, said.append)
    assert said[0] == f"{path}: left out old.u: only tables of the schema main are read"


def test_nothing_is_overwritten(project_files: ProjectFiles) -> None:
    database = write_duckdb(project_files.root / "lib.duckdb")
    there = project_files.project.configs / "mine"
    there.mkdir()
    (there / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is there already and is left as it is"):
        init(project_files.project, "mine", database, _quiet)
    assert [p.name for p in there.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("name", ["", "../up", "1st", "a b", "mine/"])
def test_a_name_is_a_dataset_s(project_files: ProjectFiles, name: str) -> None:
    with pytest.raises(ConfigError, match="a dataset's name is letters, digits and _"):
        init(project_files.project, name, project_files.root, _quiet)


def test_a_database_that_is_none_leaves_nothing_behind(project_files: ProjectFiles) -> None:
    with pytest.raises(DataError, match="no such file"):
        init(project_files.project, "mine", project_files.root / "nowhere.duckdb", _quiet)
    assert list(project_files.project.configs.iterdir()) == []


def test_a_database_without_rows_still_has_counts(project_files: ProjectFiles) -> None:
    folder = project_files.root / "csv"
    folder.mkdir()
    (folder / "t.csv").write_text("name,b\n")
    made = init(project_files.project, "mine", folder, _quiet)
    assert [json.loads(line)["sql"] for line in (made / "questions.jsonl").read_text().splitlines()] == [
        "SELECT COUNT(*) FROM t"
    ]
