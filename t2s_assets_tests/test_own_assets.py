"""A dataset of one's own through every asset, and the model asked about a database of several tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from t2s_assets.definitions import build_definitions
from t2s_assets.text2sql.answers import Answer
from t2s_assets.text2sql.evaluation.predictions import load_predictions
from t2s_assets.text2sql.inference import Text2SQL
from t2s_assets.text2sql.prepare import load_sql
from t2s_assets.text2sql.prompt_datasets import load_prompts, make_prompts
from t2s_assets.text2sql.storage import read_json
from t2s_assets.text2sql.tables.sources import open_source
from t2s_assets_tests.own_data import EXPERIMENT, QUESTIONS, add_library, write_csv
from t2s_assets_tests.projects import ProjectFiles

BROKEN = [("Which is broken?", "SELEC name FROM authors"), ("Which has no column?", "SELECT nam FROM authors")]
ASSETS = {"tables", "questions", "sql", "prompts", "adapter", "predictions", "report", "champion"}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> ProjectFiles:
    files = add_library(ProjectFiles(tmp_path_factory.mktemp("own")), [*QUESTIONS, *BROKEN])
    files.experiment("library", "tiny", base=tiny_base, **EXPERIMENT)
    return files


@pytest.fixture(scope="module")
def made(library: ProjectFiles) -> dict[str, dg.AssetMaterialization]:
    """The whole group, made by its job as the configs alone define it."""
    with pytest.MonkeyPatch.context() as patch, dg.DagsterInstance.ephemeral() as instance:
        patch.setenv("OMP_NUM_THREADS", "1")
        job = build_definitions(library.project).resolve_job_def("library_retrain")
        result = job.execute_in_process(instance=instance, partition_key="tiny", raise_on_error=False)
        problems = [e.event_specific_data for e in result.all_events if e.event_type_value == "STEP_FAILURE"]
        assert result.success, problems
        return {e.asset_key.path[-1]: e.materialization for e in result.get_asset_materialization_events()}


def test_every_asset_is_made_from_configs_alone(made: dict[str, dg.AssetMaterialization]) -> None:
    assert set(made) == ASSETS
    assert made["questions"].metadata["split_by"].value.startswith("dealt out by question with seed 17")
    assert made["questions"].metadata["left_out"].value == 1
    assert made["sql"].metadata["gold_that_does_not_run"].value == 1


def test_prompts_show_all_tables_under_their_names(library: ProjectFiles, made: Any) -> None:
    prompts = load_prompts(library.project, "library", "tiny")
    row = next(r for r in prompts["train"] if "Member name" in r["completion"])
    assert row["prompt"].splitlines()[:3] == [
        '"Loans"("book_id" integer, "Member name" text, "days" integer)',
        'authors("id" integer, "name" text, "born" integer, "country" text)',
        'books("id" integer, "author_id" integer, "title" text, "published" date, "price" decimal, "lent" boolean)',
    ]
    asked = {r["id"] for split in prompts.values() for r in split}
    assert len(asked) == len(QUESTIONS)  # neither of the broken two


def test_scores_and_report(library: ProjectFiles, made: Any) -> None:
    rows = load_predictions(library.project, "library", "tiny")
    gold = load_sql(library.project, "library")
    assert len(rows) == 6 and all(r["gold_sql"] == gold[r["id"]]["sql"] for r in rows)
    report = read_json(library.project.path("library", "report", "tiny") / "report.json", made_by="")
    assert set(report["test"]["by_category"]) <= {"simple", "filter", "aggregation", "join", "order", "group"} | {
        "nested",
        "window",
        "set operation",
    }
    assert list(report["test"]["errors"])[:3] == ["unparsable", "set operation", "SELECT"]
    assert report["data"]["left_out"] == {"sql_that_cannot_be_read": 1, "sql_that_does_not_run": 1}
    reasons = {out["where"]: out["reason"] for out in report["data"]["left_out_first"]}
    assert "questions.jsonl:23" in reasons and '"nam"' in reasons["questions.jsonl:24"]
    page = (library.project.path("library", "report", "tiny") / "report.md").read_text()
    assert "questions.jsonl:23" in page and "dealt out by question" in page


def test_gold_as_prediction_is_right_in_every_measure(library: ProjectFiles, made: Any) -> None:
    from t2s_assets.text2sql.evaluation.scoring import score
    from t2s_assets.text2sql.prepare import load_tables, load_usable

    questions = load_usable(library.project, "library")
    more = {"logprob": -1.0, "n_tokens": 9, "forward_passes": 4, "finished": True}
    answers = {q.id: {"text": q.sql} | more for q in questions}
    rows = score(library.project, "library", questions, load_tables(library.project, "library"), answers, [].append)
    assert len(rows) == len(QUESTIONS)
    assert all(r["em"] and r["ex"] and r["ex_strict"] and r["valid"] and not r["errors"] for r in rows)


VERDICTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "the same in other words": (
        "Who wrote Sult?",
        "SELECT name FROM books, authors WHERE 'Sult' = title AND authors.id = author_id",
        {"em": True, "ex": True, "errors": []},
    ),
    "the same result by another query": (
        "How many books are there?",
        "SELECT COUNT(title) FROM books",
        {"em": False, "ex": True, "errors": ["SELECT"]},
    ),
    "right rows in the wrong order": (
        "Books from dear to cheap",
        "SELECT title FROM books ORDER BY price",
        {"em": False, "ex": False, "errors": ["ORDER BY"]},
    ),
    "rows in another order where none is asked for": (
        "Who are the authors?",
        "SELECT name FROM authors ORDER BY name DESC",
        {"em": False, "ex": True, "errors": ["ORDER BY"]},
    ),
    "text in another case is another text": (
        "Which authors come from Sweden?",
        "SELECT upper(name) FROM authors WHERE country = 'Sweden'",
        {"em": False, "ex": False, "errors": ["SELECT"]},
    ),
    "a wrong value": (
        "Which authors come from Sweden?",
        "SELECT name FROM authors WHERE country = 'Norway'",
        {"em": False, "ex": False, "errors": ["value"]},
    ),
    "no such column": ("Who are the authors?", "SELECT nam FROM authors", {"em": False, "errors": ["unparsable"]}),
    "something else than a query": ("Who are the authors?", "DROP TABLE authors", {"valid": False, "em": False}),
}


def test_verdicts(library: ProjectFiles, made: Any) -> None:
    from t2s_assets.text2sql.evaluation.scoring import score
    from t2s_assets.text2sql.prepare import load_tables, load_usable

    by_text = {q.text: q for q in load_usable(library.project, "library")}
    tables = load_tables(library.project, "library")
    more = {"logprob": -1.0, "n_tokens": 9, "forward_passes": 4, "finished": True}
    for name, (text, sql, wanted) in VERDICTS.items():
        q = by_text[text]
        (row,) = score(library.project, "library", [q], tables, {q.id: {"text": sql} | more}, [].append)
        assert {k: row[k] for k in wanted} == wanted, name


def test_a_split_without_questions_has_no_rows(library: ProjectFiles) -> None:
    from t2s_assets.text2sql.evaluation.scoring import score

    assert score(library.project, "library", [], {}, {}, [].append) == []


def test_ask_about_a_whole_database(library: ProjectFiles, made: Any, tmp_path: Path) -> None:
    """The tiny model's answers are noise; that prompt, check and execution are over all tables is not."""
    with Text2SQL.load("library/tiny", project=library.project) as model:
        database = open_source(db=library.root / "library.duckdb")
        folder = open_source(db=write_csv(tmp_path / "library"))
        for source in (database, folder):
            answer = model.ask("Who wrote Sult?", source)
            assert isinstance(answer, Answer) and not answer.valid
        chosen = source.asked(None, many=model.answers_over_many)
        right = 'SELECT a."name" FROM authors AS a JOIN books AS b ON b."author_id" = a."id" WHERE b."title" = \'Sult\''
        from dataclasses import replace

        (done,) = model.run([replace(answer, generated=right, sql=right, valid=True, problem=None)], [chosen])
        assert isinstance(done, Answer) and done.rows == (("Knut Hamsun",),)
        assert model.ask("Who wrote Sult?", source, name="books").table == "books"


def test_the_grammar_of_select_holds_over_a_whole_database(library: ProjectFiles, made: Any) -> None:
    from t2s_assets.text2sql.config import DecodingConfig

    decoding = DecodingConfig(grammar="schema", max_new_tokens=60)
    with Text2SQL.load("library/tiny", project=library.project, decoding=decoding) as model:
        answer = model.ask("Who wrote Sult?", open_source(db=library.root / "library.duckdb"))
    assert isinstance(answer, Answer)
    assert answer.generated.lstrip("(").startswith(("SELECT ", "WITH "))


def test_a_schema_over_the_budget_is_linked_and_says_what_that_loses(
    library: ProjectFiles, tiny_base: Path, made: Any
) -> None:
    path = library.experiment("library", "short", base=tiny_base, **(EXPERIMENT | {"prompt": {"max_length": 200}}))
    try:
        facts = make_prompts(library.project, "library", "short", [].append)
    finally:
        path.unlink()
    linking = facts["linking"]["train"]
    assert linking["linked"] == linking["of"] > 0
    assert 0 < linking["recall"] <= 1
    assert facts["tokens"]["train"]["max"] < 400
    prompts = load_prompts(library.project, "library", "short")["train"]
    assert all(r["prompt_tokens"] <= 150 for r in prompts)
    assert json.dumps(facts)
