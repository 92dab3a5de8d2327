"""From a source to tables, questions and SQL: counted facts, no leaks, and nothing half made."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from t2s_assets.text2sql import prepare
from t2s_assets.text2sql.datasets.wikisql import read_wikisql
from t2s_assets.text2sql.errors import DataError, T2SError
from t2s_assets.text2sql.execution import Job, SqlExecutor
from t2s_assets.text2sql.gold import sketch
from t2s_assets.text2sql.gold.sketch import same_content_across_splits, shared_tables
from t2s_assets.text2sql.prepare import (
    gold_against_gold,
    load_questions,
    load_sql,
    load_tables,
    make_questions,
    make_sql,
    make_tables,
    sample,
)
from t2s_assets.text2sql.query import from_sql, normal_form
from t2s_assets.text2sql.storage import Project, read_manifest
from t2s_assets_tests.projects import SHOP, ProjectFiles, question, table, write_wikisql


def silent(line: str) -> None:
    """Progress that nobody wants to see."""


def make_all(project: Project, dataset: str = "shop") -> dict[str, dict[str, Any]]:
    """The facts of the three assets."""
    return {
        "tables": make_tables(project, dataset, silent),
        "questions": make_questions(project, dataset, silent),
        "sql": make_sql(project, dataset, silent),
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, dict[str, dict[str, Any]]]:
    files = ProjectFiles(tmp_path_factory.mktemp("made"))
    files.dataset("shop")
    return files.project, make_all(files.project)


Made = tuple[Project, dict[str, dict[str, Any]]]


def without_version(facts: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in facts.items() if k != "data_version"}


# ---------------------------------------------------------------------------------------------------------- facts


def test_facts_of_tables(made: Made) -> None:
    assert without_version(made[1]["tables"]) == {
        "tables": {"train": 2, "validation": 1, "test": 1},
        "rows": 8,
        "columns": 11,
        "tables_without_rows": 1,
        "number_cells_that_are_none": 1,  # "n/a"; an empty cell is none either, but says so
    }


def test_facts_of_questions(made: Made) -> None:
    tables = made[1]["tables"]["data_version"]
    assert without_version(made[1]["questions"]) == {
        "made_of": {"tables": tables},
        "questions": {"train": 8, "validation": 2, "test": 3},
        "duplicates": 1,  # "name them all" and "Name them all"
    }


def test_facts_of_sql(made: Made) -> None:
    facts = made[1]["sql"]
    assert facts["questions"] == {"train": 8, "validation": 2, "test": 3}
    assert facts["category"] == {"filter": 6, "aggregation": 4, "simple": 3}
    assert sum(facts["category"].values()) == sum(facts["aggregate"].values()) == 13
    assert facts["aggregate"] == {"none": 9, "MAX": 1, "COUNT": 1, "SUM": 1, "MIN": 1}
    assert facts["conditions"] == {"0": 6, "1": 6, "2": 1}
    # No row of an empty table, and no town below 100.
    assert facts["gold_without_an_answer"] == {"train": 2, "validation": 1}


def test_gold_that_does_not_run_is_counted_listed_and_kept(made: Made) -> None:
    project, facts = made
    assert facts["sql"]["gold_that_does_not_run"] == {"train": 1}
    (failure,) = facts["sql"]["failures"]
    assert failure["id"] == "train-7"
    assert failure["sql"] == 'SELECT SUM("Name") FROM fruit'
    assert "VARCHAR" in failure["message"]
    kept = load_sql(project, "shop", ["train"])["train-7"]
    assert (kept["status"], kept["fingerprint"], kept["degenerate"]) == ("error", None, True)
    assert "train-7" in {q.id for q in load_questions(project, "shop", ["train"])}


def test_everything_comes_back_as_it_was_read(made: Made, tmp_path: Path) -> None:
    project, _ = made
    source = read_wikisql(write_wikisql(tmp_path))
    tables = load_tables(project, "shop")
    assert [(t.id, t.split, t.header, t.rows) for t in tables.values()] == [
        (t.id, t.split, t.header, t.rows) for t in source.tables
    ]
    assert [t.schema for t in tables.values()] == [t.schema(t.id) for t in source.tables]
    assert [(q.id, q.split, q.table_id, q.text, q.query) for q in load_questions(project, "shop")] == [
        (q.id, q.split, q.table_id, q.text, q.query) for q in source.questions
    ]


def test_splits_can_be_loaded_alone(made: Made) -> None:
    project, _ = made
    assert set(load_tables(project, "shop", ["test"])) == {"peaks"}
    assert [q.id for q in load_questions(project, "shop", ["test", "validation"])] == [
        *("validation-1", "validation-2", "test-1", "test-2", "test-3")
    ]
    assert set(load_sql(project, "shop", ["validation"])) == {"validation-1", "validation-2"}


def test_sql_is_readable_and_means_its_query(made: Made) -> None:
    project, _ = made
    tables, rows = load_tables(project, "shop"), load_sql(project, "shop")
    assert rows["train-1"]["sql"] == (
        'SELECT "Name" FROM fruit WHERE "column 4" = \'O\'\'Hara\' AND "The ""best"" season" = \'Autumn\''
    )
    for asked in load_questions(project, "shop"):
        schema = tables[asked.table_id].schema
        assert normal_form(from_sql(rows[asked.id]["sql"], schema), schema) == normal_form(asked.query, schema)


def test_answers_are_duckdbs(made: Made) -> None:
    project, _ = made
    tables, rows = load_tables(project, "shop"), load_sql(project, "shop")
    expected = {
        "train-1": ["Apple"],
        "train-2": [1100.0],
        "train-3": [1],
        "train-8": [],
        "validation-1": [94393.0],
        "test-1": [8611.0],
        "test-3": ["K2", "Lhotse"],
    }
    with SqlExecutor() as executor:
        for id, answer in expected.items():
            found = executor.run_one(tables[rows[id]["table_id"]].database, rows[id]["sql"])
            assert [r[0] for r in found.rows] == answer, rows[id]["sql"]
    assert rows["train-4"]["fingerprint"] == rows["train-5"]["fingerprint"] != rows["train-3"]["fingerprint"]


def test_numbers_are_numbers_and_text_ignores_case(made: Made) -> None:
    fruit = load_tables(made[0], "shop")["fruit"]
    (relation,) = fruit.database.relations
    assert [kind for _, kind in relation.columns] == [
        "VARCHAR COLLATE NOCASE",
        "DOUBLE",
        *["VARCHAR COLLATE NOCASE"] * 2,
    ]
    assert relation.data.column(1).to_pylist() == [1.2, 1100.0, None, None]
    with SqlExecutor() as executor:
        found = executor.run([Job(fruit.database_as("t"), 'SELECT "Name" FROM t WHERE "column 4" = \'GÖRAN\'')])
    assert found[0].rows == (("Pear",),)


def test_gold_scores_all_of_itself(made: Made) -> None:
    assert gold_against_gold(made[0], "shop", silent) == {"n": 5, "wrong": []}


def test_sql_that_does_not_read_back_as_its_query_makes_nothing(
    project_files: ProjectFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Queries are read back while children execute them; one that means something else must still stop it all."""
    project_files.dataset("shop")
    project = project_files.project
    make_tables(project, "shop", silent)
    make_questions(project, "shop", silent)
    written = sketch.to_sql
    monkeypatch.setattr(sketch, "to_sql", lambda query, schema: written(query, schema).replace(" = ", " > "))
    with pytest.raises(DataError, match=r"queries do not read back from their SQL:\n[a-z]+-\d+: SELECT"):
        make_sql(project, "shop", silent)
    assert not project.path("shop", "sql").exists()


# ---------------------------------------------------------------------------------------------------------- leaks


def test_clean_splits_have_no_leak(made: Made) -> None:
    tables = load_tables(made[0], "shop")
    assert shared_tables(tables, load_questions(made[0], "shop")) == []
    assert same_content_across_splits(tables) == []


def test_a_question_on_another_splits_table_is_a_leak(made: Made) -> None:
    tables, questions = load_tables(made[0], "shop"), load_questions(made[0], "shop")
    moved = sketch.Question("test-9", "test", "fruit", "which?", questions[0].query)
    assert shared_tables(tables, [*questions, moved]) == ["fruit"]


def test_one_content_under_two_names_is_found_across_splits(project_files: ProjectFiles) -> None:
    rows = [["K2", "8611"]]
    content = {
        "train": (
            [
                table("a", ["Peak", "Height"], "tr", rows),
                table("twin of a in its own split", ["Peak", "Height"], "tr", rows),
                table("other rows", ["Peak", "Height"], "tr", [["K3", "1"]]),
                table("other header", ["Peak", "Depth"], "tr", rows),
                table("empty", ["Peak", "Height"], "tr", []),
            ],
            [],
        ),
        "dev": ([table("empty too", ["Peak", "Height"], "tr", [])], []),
        "test": ([table("b", ["PEAK", "height"], "tr", [["k2", "8611"]])], []),
    }
    project_files.dataset("twins", content)
    make_tables(project_files.project, "twins", silent)
    assert same_content_across_splits(load_tables(project_files.project, "twins")) == [("a", "b")]


# --------------------------------------------------------------------------------------------------- data versions


def test_the_same_data_has_the_same_version(made: Made, project_files: ProjectFiles, tmp_path: Path) -> None:
    project_files.dataset("shop")
    versions = {k: f["data_version"] for k, f in make_all(project_files.project).items()}
    assert versions == {k: f["data_version"] for k, f in made[1].items()}
    assert versions == {k: f["data_version"] for k, f in make_all(project_files.project).items()}
    assert len(set(versions.values())) == 3


@pytest.mark.parametrize(
    ("change", "changed"),
    [
        (lambda tables, questions: tables[0]["rows"][0].__setitem__(0, "Quince"), {"tables", "sql"}),
        (lambda tables, questions: questions[0].update(question="which fruit?"), {"tables", "questions", "sql"}),
        (lambda tables, questions: questions.pop(), {"tables", "questions", "sql"}),
    ],
)
def test_other_data_has_another_version(
    made: Made, project_files: ProjectFiles, change: Any, changed: set[str]
) -> None:
    content = json.loads(json.dumps(SHOP))
    change(*content["train"])
    project_files.dataset("shop", content)
    after = make_all(project_files.project)
    assert {k for k in after if after[k]["data_version"] != made[1][k]["data_version"]} == changed


# ------------------------------------------------------------------------------------------- what was good stays


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_source_that_breaks_leaves_the_assets_as_they_were(project_files: ProjectFiles) -> None:
    data = project_files.dataset("shop")
    make_all(project_files.project)
    before = contents(project_files.project.storage)
    (data / "data" / "dev.jsonl").write_text('{"table_id"')
    with pytest.raises(DataError, match=r"data/dev.jsonl:1: not JSON"):
        make_tables(project_files.project, "shop", silent)
    shutil.rmtree(data)
    with pytest.raises(DataError, match="no such file or folder"):
        make_tables(project_files.project, "shop", silent)
    assert contents(project_files.project.storage) == before


@pytest.mark.parametrize("asset", ["tables", "questions", "sql"])
def test_a_failure_while_writing_leaves_the_asset_as_it_was(
    project_files: ProjectFiles, monkeypatch: pytest.MonkeyPatch, asset: str
) -> None:
    project_files.dataset("shop")
    make_all(project_files.project)
    before = contents(project_files.project.storage)

    def full_disk(*args: Any, **kwargs: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(sketch, "write_manifest", full_disk)
    with pytest.raises(OSError, match="no space left"):
        getattr(prepare, f"make_{asset}")(project_files.project, "shop", silent)
    assert contents(project_files.project.storage) == before


def test_a_killed_make_leaves_the_asset_as_it_was(project_files: ProjectFiles) -> None:
    project_files.dataset("shop")
    project = project_files.project
    make_all(project)
    before = contents(project.path("shop", "sql"))
    code = (
        "from t2s_assets.text2sql import prepare\n"
        "from t2s_assets.text2sql.gold import sketch\n"
        "from t2s_assets.text2sql.storage import Project\n"
        "import time\n"
        "def stop(*args): print('writing', flush=True); time.sleep(60)\n"
        "sketch.write_manifest = stop\n"
        "if __name__ == '__main__': prepare.make_sql(Project.find(), 'shop', lambda line: None)\n"
    )
    script = project_files.root / "killed.py"
    script.write_text(code)
    environment = {"T2S_CONFIGS": str(project.configs), "T2S_STORAGE": str(project.storage)}
    environment["PYTHONPATH"] = str(Path(prepare.__file__).parents[2])
    child = subprocess.Popen(
        [sys.executable, str(script)], env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "writing\n"
    os.kill(child.pid, signal.SIGKILL)
    child.wait(10)
    child.stdout.close()
    assert contents(project.path("shop", "sql")) == before
    assert make_sql(project, "shop", silent) == read_manifest(project.path("shop", "sql"), made_by="")


def test_assets_that_are_not_there_say_how_to_make_them(project_files: ProjectFiles) -> None:
    project_files.dataset("shop")
    project = project_files.project
    for load in (load_tables, load_questions, load_sql, make_questions, make_sql):
        with pytest.raises(T2SError, match="make it with: t2s prepare shop"):
            load(project, "shop")


def test_assets_that_are_cut_off_say_how_to_make_them_again(project_files: ProjectFiles) -> None:
    project_files.dataset("shop")
    project = project_files.project
    for make in (make_tables, make_questions, make_sql):
        make(project, "shop", silent)
    for asset, load in (("tables", load_tables), ("questions", load_questions), ("sql", load_sql)):
        file = project.path("shop", asset) / f"{asset}.parquet"
        file.write_bytes(file.read_bytes()[:-20])
        with pytest.raises(DataError, match=rf"{asset}.parquet cannot be read .*make it again with: t2s prepare shop"):
            load(project, "shop")


# ------------------------------------------------------------------------------------------------ odd but allowed


def test_a_dataset_without_questions(project_files: ProjectFiles) -> None:
    project_files.dataset("quiet", {"train": ([table("a", ["x"], "t", [["1"]])], [])})
    facts = make_all(project_files.project, "quiet")
    assert facts["questions"]["questions"] == {}
    assert facts["sql"]["failures"] == []
    assert gold_against_gold(project_files.project, "quiet", silent) == {"n": 0, "wrong": []}


def test_a_table_of_two_thousand_columns(project_files: ProjectFiles) -> None:
    header = [f"c{i}" for i in range(2000)]
    wide = table("wide", header, "tr" * 1000, [[str(i) for i in range(2000)]] * 3)
    asked = [question("wide", "c1999 where c1998 is 1998", 1999, 0, [[1998, 0, "1998"]])]
    project_files.dataset("wide", {"train": ([wide], asked)})
    facts = make_all(project_files.project, "wide")
    assert facts["sql"]["failures"] == []
    assert facts["sql"]["gold_without_an_answer"] == {}


@pytest.mark.parametrize("id", ["1-10015132-16", "select", 'a "b"', "Å", "x" * 200, "a.b", "information_schema"])
def test_any_table_id_is_an_sql_name(project_files: ProjectFiles, id: str) -> None:
    content = {"train": ([table(id, ["x"], "t", [["1"]])], [question(id, "x?", 0)])}
    project_files.dataset("odd", content)
    facts = make_all(project_files.project, "odd")
    assert facts["sql"]["failures"] == []
    assert facts["sql"]["gold_without_an_answer"] == {}


def test_values_that_no_sql_can_carry_are_listed_not_lost(project_files: ProjectFiles) -> None:
    asked = [question("a", "nul?", 0, 0, [[0, 0, "a\0b"]]), question("a", "huge?", 1, 0, [[1, 1, "1e999"]])]
    project_files.dataset("odd", {"train": ([table("a", ["x", "n"], "tr", [["1", "2"]])], asked)})
    facts = make_all(project_files.project, "odd")["sql"]
    assert facts["questions"] == {"train": 2}
    assert {f["id"] for f in facts["failures"]} <= {"train-1", "train-2"}
    assert sum(facts["gold_without_an_answer"].values()) == 2


# -------------------------------------------------------------------------------------------------------- samples


def test_samples_are_seeded_nested_and_in_order() -> None:
    items = [f"test-{i}" for i in range(500)]

    def drawn(limit: int | None, seed: int = 17) -> list[str]:
        return list(sample(items, limit, seed=seed, key=str))

    assert drawn(100) == drawn(100) == sorted(drawn(100), key=items.index)
    assert len(drawn(100)) == 100
    assert set(drawn(50)) < set(drawn(100))
    assert drawn(100) != drawn(100, seed=18)
    assert drawn(None) == drawn(500) == drawn(9999) == items
    # What is drawn depends on the keys alone, not on their places.
    assert set(sample(items[::-1], 100, seed=17, key=str)) == set(drawn(100))


# ------------------------------------------------------------------------------------------------- the real thing


@pytest.mark.slow
@pytest.mark.wikisql
def test_wikisql_is_prepared_whole(wikisql_archive: Path, project_files: ProjectFiles) -> None:
    source = {"kind": "local", "path": str(wikisql_archive)}
    project_files.yaml("wikisql", "dataset", {"description": "d", "source": source})
    started = time.monotonic()
    facts = make_all(project_files.project, "wikisql")
    assert time.monotonic() - started < 120
    asked, failed = facts["sql"]["questions"], facts["sql"]["gold_that_does_not_run"]
    assert sum(asked.values()) == len(load_questions(project_files.project, "wikisql"))
    # WikiSQL's own noise: sums over text columns, and numbers that are none, all of them in the training split.
    assert set(failed) == {"train"}
    broken = [row for row in load_sql(project_files.project, "wikisql").values() if row["status"] != "ok"]
    assert len(broken) == failed["train"] < 0.02 * asked["train"]
    for row in broken:
        of_text = row["aggregate"] in ("SUM", "AVG") and "Binder Error: No function matches" in row["message"]
        assert of_text or "Conversion Error: Could not convert string" in row["message"], row
    tables = load_tables(project_files.project, "wikisql")
    assert shared_tables(tables, load_questions(project_files.project, "wikisql")) == []
