"""Looking a dataset over: each kind of mistake is found, all in one go, and a good dataset passes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from t2s_assets.text2sql.config import TrainingConfig
from t2s_assets.text2sql.data_checks.check import DataCheck, check
from t2s_assets.text2sql.data_checks.cost import training_cost
from t2s_assets.text2sql.data_checks.findings import Finding, suggestion, unbalanced
from t2s_assets.text2sql.errors import ConfigError
from t2s_assets.text2sql.schema import Column, TableSchema
from t2s_assets.text2sql.storage import write_manifest
from t2s_assets_tests.own_data import EXPERIMENT, QUESTIONS, add_library
from t2s_assets_tests.projects import SHOP, ProjectFiles

MISTAKES = [
    ("How many authers?", "SELECT COUNT(*) FROM authers"),
    ("Which names?", "SELECT nam FROM authors"),
    ("Which days?", "SELECT a.days FROM authors a"),
    ("Which is broken?", "SELEC name FROM authors"),
    ("Remove them", "DROP TABLE authors"),
    '{"question": "cut',
    '{"question": "no answer given"}',
    ("Who are  the AUTHORS?", "SELECT id FROM authors"),
    ("Who comes from Mars?", "SELECT name FROM authors WHERE country = 'Mars'"),
]
FIRST = len(QUESTIONS) + 1


def _of(found: DataCheck, kind: str) -> dict[str, str]:
    return {f.where: f.message for f in found.findings if f.kind == kind}


def _line(number: int) -> str:
    return f"questions.jsonl:{FIRST + number}"


@pytest.fixture(scope="module")
def mistaken(tmp_path_factory: pytest.TempPathFactory) -> DataCheck:
    files = add_library(ProjectFiles(tmp_path_factory.mktemp("mistaken")), [*QUESTIONS, *MISTAKES])
    before = sorted(p.name for p in files.root.iterdir())
    found = check(files.project, "library")
    assert sorted(p.name for p in files.root.iterdir()) == before  # nothing is left behind
    return found


def test_every_mistake_is_found_in_one_go(mistaken: DataCheck) -> None:
    assert mistaken.complete
    unusable = _of(mistaken, "SQL that cannot be used")
    assert set(unusable) == {_line(0), _line(3), _line(4)}
    assert "did you mean 'authors'?" in unusable[_line(0)]
    assert "does not parse" in unusable[_line(3)] and "DROP" in unusable[_line(4)]
    broken = _of(mistaken, "SQL that does not run")
    assert set(broken) == {_line(1), _line(2)}
    assert "column 'nam': did you mean 'name'?" in broken[_line(1)]
    assert "column 'days' is in Loans" in broken[_line(2)]
    unreadable = _of(mistaken, "unreadable")
    assert set(unreadable) == {_line(5), _line(6)}
    assert "not JSON" in unreadable[_line(5)] and "sql must be a non-empty string" in unreadable[_line(6)]
    assert {f.kind for f in mistaken.errors} == {"SQL that cannot be used", "SQL that does not run", "unreadable"}


def test_what_is_to_judge_is_a_warning(mistaken: DataCheck) -> None:
    assert "another answer than questions.jsonl:1" in _of(mistaken, "asked twice")[_line(7)]
    assert "returns no row" in _of(mistaken, "no answer")[_line(8)]
    assert {f.kind for f in mistaken.warnings} == {"asked twice", "no answer", "balance"}


def test_counts_and_balance(mistaken: DataCheck) -> None:
    assert mistaken.tables == 3
    assert sum(mistaken.questions.values()) == len(QUESTIONS) + 4  # those whose SQL can be read
    assert sum(n for counts in mistaken.categories.values() for n in counts.values()) == len(QUESTIONS) + 4
    assert any("dealt out by question" in note for note in mistaken.notes)
    assert any("library has none yet" in note for note in mistaken.notes)


def test_lengths_and_cost_of_an_experiment(project_files: ProjectFiles, tiny_base: Path) -> None:
    add_library(project_files)
    project_files.experiment("library", "tiny", base=tiny_base, **EXPERIMENT)
    found = check(project_files.project, "library", rate=100)
    assert found.experiment == "tiny" and found.complete and not found.errors
    assert found.cost is not None and found.cost.examples == found.questions["train"]
    assert found.cost.minutes == pytest.approx(found.cost.passes * found.cost.tokens / 100 / 60)
    assert not project_files.project.storage.joinpath("library").exists()
    write_manifest(project_files.project.path("library", "adapter", "tiny"), "v", {"tokens_a_second": 50.0})
    project_files.experiment(
        "library", "tiny", base=tiny_base, **(EXPERIMENT | {"prompt": {"max_length": found.lengths["train"]["p50"]}})
    )
    found = check(project_files.project, "library", "tiny")
    assert found.cost is not None and found.cost.rate == 50
    write_manifest(project_files.project.path("library", "adapter", "tiny"), "v", {"tokens_a_second": 0.0})
    found = check(project_files.project, "library", "tiny")
    assert found.cost is not None and found.cost.rate is None and found.cost.minutes is None
    assert found.findings or any("show a choice of columns" in note for note in found.notes)


def test_an_experiment_that_cannot_train_is_an_error(project_files: ProjectFiles, tiny_base: Path) -> None:
    add_library(project_files)
    project_files.experiment("library", "tiny", base=tiny_base, **(EXPERIMENT | {"prompt": {"max_length": 20}}))
    found = check(project_files.project, "library")
    assert "max_length" in _of(found, "prompts")["tiny"] and found.errors and found.cost is None


def test_a_database_that_cannot_be_read_and_lines_at_once(project_files: ProjectFiles) -> None:
    add_library(project_files, MISTAKES, databases={"a": "../../nowhere.duckdb", "b": "../../library.csv"})
    project_files.root.joinpath("library.csv").write_text("x,y\n1,2\n")
    found = check(project_files.project, "library")
    assert not found.complete
    messages = " ".join(f.message for f in found.errors)
    assert "nowhere.duckdb: no such file" in messages and "database must be one of a, b" in messages


def test_the_same_question_in_two_splits_is_a_leak(project_files: ProjectFiles) -> None:
    splits = ["train", "validation", "test"]
    records: list[Any] = [
        {"question": q, "sql": sql, "split": splits[i % 3]} for i, (q, sql) in enumerate(QUESTIONS[:9])
    ]
    records += [
        {"question": QUESTIONS[0][0], "sql": "SELECT born FROM authors", "split": "test"},
        {"question": "Anything new?", "sql": QUESTIONS[0][1], "split": "validation"},
    ]
    add_library(project_files, records)
    found = check(project_files.project, "library")
    assert len(_of(found, "leak between splits")) == 1 and len(_of(found, "alike in two splits")) == 1
    assert [f.level for f in found.findings if f.kind == "leak between splits"] == ["error"]


def test_wikisql_s_layout(project_files: ProjectFiles) -> None:
    tables, questions = SHOP["test"]
    project_files.dataset("fruit", {**SHOP, "test": (tables, [*questions, questions[0]])})
    found = check(project_files.project, "fruit")
    assert found.complete and not found.errors
    assert set(_of(found, "asked twice")) == {"train-6", "test-4"}
    assert len(_of(found, "SQL that does not run")) == 1  # the sum of names
    project_files.dataset("leaky", {**SHOP, "test": (tables, [*questions, SHOP["dev"][1][0]])})
    assert "'single' is not among the tables of this split" in check(project_files.project, "leaky").errors[0].message


def test_broken_lines_of_wikisql_s_layout(project_files: ProjectFiles) -> None:
    data = project_files.dataset("fruit") / "data"
    with (data / "train.jsonl").open("a") as f:
        f.write('{"question": 1}\nnonsense\n')
    found = check(project_files.project, "fruit")
    assert not found.complete and len(_of(found, "unreadable")) == 1 and len(found.errors) == 2
    assert all("data/train.jsonl:" in f.message for f in found.errors)


def test_hidden_files_beside_a_dataset_are_none_of_it(project_files: ProjectFiles) -> None:
    folder = add_library(project_files, [*QUESTIONS, '{"question": "cut']).project.configs / "library"
    (folder / ".#dataset.yaml").symlink_to("somebody@host.1234:5678")
    assert set(_of(check(project_files.project, "library"), "unreadable")) == {_line(0)}


def test_a_line_separator_inside_a_left_out_question(project_files: ProjectFiles) -> None:
    add_library(project_files, [*QUESTIONS, ("How many\u2028authers?", "SELECT COUNT(*) FROM authers\u2028")])
    found = check(project_files.project, "library")
    assert found.complete and set(_of(found, "SQL that cannot be used")) == {_line(0)}


def test_gold_that_no_model_may_write(project_files: ProjectFiles, tiny_base: Path) -> None:
    outside = [
        ("All but the year", "SELECT * EXCLUDE (born) FROM authors"),
        (
            "Which book is dearer than the first?",
            "SELECT title FROM books WHERE price > (SELECT 12 FROM books WHERE id = 1)",
        ),
    ]
    add_library(project_files, [*QUESTIONS, *outside])
    found = _of(check(project_files.project, "library"), "SQL that a model may not write")
    assert set(found) == {_line(0), _line(1)}
    assert "the grammar stops at 'EXCLUDE" in found[_line(0)] and "decoding.grammar: none" in found[_line(0)]
    assert "the grammar stops at '1)'" in found[_line(1)]  # of several rows there is no value
    settings = EXPERIMENT | {"decoding": {"grammar": "none"}}
    project_files.experiment("library", "tiny", base=tiny_base, **settings)
    assert not _of(check(project_files.project, "library"), "SQL that a model may not write")
    project_files.experiment("library", "tiny", base=tiny_base, **(EXPERIMENT | {"decoding": {"grammar": "schema"}}))
    assert len(_of(check(project_files.project, "library"), "SQL that a model may not write")) == 2


def test_which_experiment_is_meant(project_files: ProjectFiles, tiny_base: Path) -> None:
    add_library(project_files)
    for name in ("one", "two"):
        project_files.experiment("library", name, base=tiny_base, **EXPERIMENT)
    found = check(project_files.project, "library")
    assert found.experiment is None and any("one, two: name one" in note for note in found.notes)
    with pytest.raises(ConfigError, match="no experiment 'three'"):
        check(project_files.project, "library", "three")


# ---------------------------------------------------------------------------------------------------- the parts


SCHEMAS = (
    TableSchema("customers", (Column("customer_id", "real"), Column("birth_year", "real"))),
    TableSchema("orders", (Column("order_id", "real"), Column("customer_id", "real"))),
)


@pytest.mark.parametrize(
    ("sql", "hint"),
    [
        ("SELECT birthyear FROM customers", "column 'birthyear': did you mean 'birth_year'?"),
        ("SELECT * FROM custumers", "table 'custumers': did you mean 'customers'?"),
        ("SELECT birth_year FROM orders", "column 'birth_year' is in customers"),
        ("SELECT o.custmer_id FROM orders AS o", "column 'custmer_id': did you mean 'customer_id'"),
        ("WITH odd AS (SELECT order_id AS n FROM orders) SELECT n FROM odd", ""),
        ("SELECT zzz FROM orders", ""),
        ("SELECT FROM WHERE", ""),
    ],
)
def test_suggestion(sql: str, hint: str) -> None:
    found = suggestion(sql, "duckdb", SCHEMAS)
    assert found.startswith(hint) and bool(found) == bool(hint)


def test_unbalanced() -> None:
    many = {"train": 50, "validation": 12, "test": 12}
    assert unbalanced({"simple": many}) == []
    found = unbalanced({"simple": many, "join": {"train": 0, "validation": 0, "test": 1}})
    assert found == [Finding("warning", "balance", "", "category 'join' is tested and never trained")]
    levels = [f.level for f in unbalanced({"simple": {"train": 20, "validation": 0, "test": 3}})]
    assert levels == ["error", "warning"]


def test_cost_of_passes_steps_and_minutes(tmp_path: Path) -> None:
    passes = training_cost(TrainingConfig(epochs=3), 100, 6_000, rate=50)
    assert (passes.passes, passes.minutes) == (3, 6)
    steps = training_cost(TrainingConfig(max_steps=50, batch_size=4), 100, 6_000, rate=100)
    assert (steps.passes, steps.minutes) == (2, 2)
    ranks = TrainingConfig(max_steps=50, batch_size=4, gradient_accumulation=2, processes=3)
    assert training_cost(ranks, 100, 6_000, rate=100, nodes=2).passes == 2 * 2 * 3 * 2
    budget = training_cost(TrainingConfig(budget_minutes=2), 100, 6_000, rate=100)
    assert (budget.passes, budget.minutes) == (2, 2)
    unknown = training_cost(TrainingConfig(epochs=3), 100, 6_000, rate=None, adapter=tmp_path)
    assert unknown.minutes is None and unknown.basis == "no rate is known"
