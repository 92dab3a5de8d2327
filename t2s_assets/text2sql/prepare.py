"""From a source to the `tables`, `questions` and `sql` of a dataset, for every kind of gold (gold/protocol.py)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from t2s_assets.text2sql.dataset_config import OwnDataset
from t2s_assets.text2sql.execution import Job, SqlExecutor
from t2s_assets.text2sql.gold.prepared import read_prepared
from t2s_assets.text2sql.gold.protocol import Facts, Gold, Log
from t2s_assets.text2sql.storage import Project


def gold_of(project: Project, dataset: str) -> Gold:
    """The kind of gold of a dataset, by the `reader` of its dataset.yaml."""
    from t2s_assets.text2sql.gold import sketch, text

    return text if isinstance(project.dataset(dataset), OwnDataset) else sketch  # type: ignore[return-value]


def make_tables(project: Project, dataset: str, log: Log = print) -> Facts:
    """Read the source and write `tables` and, beside it, what `make_questions` needs. Returns the facts."""
    return gold_of(project, dataset).make_tables(project, dataset, log)


def make_questions(project: Project, dataset: str, log: Log = print) -> Facts:
    """Write `questions` from what the source gave. Returns the facts, exact duplicates among them."""
    return gold_of(project, dataset).make_questions(project, dataset, log)


def make_sql(project: Project, dataset: str, log: Log = print) -> Facts:
    """Write `sql`: each question's SQL text and what it returns in DuckDB. Returns the facts."""
    return gold_of(project, dataset).make_sql(project, dataset, log)


def load_tables(project: Project, dataset: str, splits: Iterable[str] | None = None) -> dict[str, Any]:
    """What questions are asked about, by id: the tables of all splits or some, or the databases."""
    return gold_of(project, dataset).load_tables(project, dataset, splits)


def load_questions(project: Project, dataset: str, splits: Iterable[str] | None = None) -> list[Any]:
    """The prepared questions in their order, of all splits or some."""
    return gold_of(project, dataset).load_questions(project, dataset, splits)


def load_usable(project: Project, dataset: str, splits: Iterable[str] | None = None) -> list[Any]:
    """The questions that train and are scored, in their order, of all splits or some."""
    return gold_of(project, dataset).load_usable(project, dataset, splits)


def leaks(project: Project, dataset: str) -> tuple[list[str], list[tuple[str, str]]]:
    """(what must not be in two splits and is, pairs across splits that are worth a look). Empty is right."""
    return gold_of(project, dataset).leaks(project, dataset)


def gold_against_gold(project: Project, dataset: str, log: Log = print) -> dict[str, Any]:
    """Score gold as if it were predicted: every gold query of validation and test runs once more.

    Returns `n`, the questions whose gold runs, and `wrong`, the ids whose second result differs from the first:
    an evaluator that does not give its own gold 100 % measures nothing.
    """
    splits = ("validation", "test")
    tables = load_tables(project, dataset, splits)
    gold = [r for r in load_sql(project, dataset, splits).values() if r["status"] == "ok"]
    log(f"scoring {len(gold):,} gold queries against themselves")
    with SqlExecutor() as executor:
        outcomes = executor.run([Job(tables[r["table_id"]].database, r["sql"]) for r in gold])
    same = gold_of(project, dataset).same_again
    wrong = [r["id"] for r, outcome in zip(gold, outcomes) if not same(outcome, r)]
    return {"n": len(gold), "wrong": wrong}


def load_sql(project: Project, dataset: str, splits: Iterable[str] | None = None) -> dict[str, dict[str, Any]]:
    """The rows of `sql` by question id, of all splits or some."""
    path = project.path(dataset, "sql") / "sql.parquet"
    filters = [("split", "in", list(splits))] if splits is not None else None
    return {r["id"]: r for r in read_prepared(path, dataset, filters=filters).to_pylist()}


def sample(items: list[Any], limit: int | None, *, seed: int, key: Callable[[Any], str]) -> Iterator[Any]:
    """`limit` of the items, or all with None, in their order; which ones depends on their keys and the seed alone.

    Hashing each key, rather than drawing positions, keeps a smaller sample inside a larger one.
    """
    if limit is None or limit >= len(items):
        yield from items
        return
    rank = sorted(range(len(items)), key=lambda i: hashlib.sha256(f"{seed}:{key(items[i])}".encode()).digest())
    chosen = set(rank[:limit])
    yield from (item for i, item in enumerate(items) if i in chosen)
