"""WikiSQL from the Hugging Face Hub, or from a local copy of such a repository's Parquet files."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from t2s_assets.text2sql.config import HubSource
from t2s_assets.text2sql.datasets.wikisql import Source, SourceQuestion, SourceTable
from t2s_assets.text2sql.errors import DataError
from t2s_assets.text2sql.query import Query

_SPLITS = ("train", "validation", "test")


def read_hub(source: HubSource, *, log: Callable[[str], None] = lambda line: None) -> Source:
    """Every table and question of the converted WikiSQL on the Hub: one row a question, its table inside it.

    Raises:
        DataError: the repository cannot be loaded, or a row is not WikiSQL's.
    """
    from datasets import load_dataset

    try:
        data = load_dataset(source.repo, revision=source.revision)
    except Exception as e:  # datasets raises errors of its own, of huggingface_hub, of requests and of fsspec
        raise DataError(
            f"{source.repo} at {source.revision} cannot be loaded ({type(e).__name__}: {e}); with no network, put "
            "WikiSQL's data.tar.bz2 on this machine and use source: {kind: local, path: ...}"
        ) from e
    missing = [s for s in _SPLITS if s not in data]
    if missing:
        raise DataError(f"{source.repo}: no split {', '.join(missing)}; there are {sorted(data)}")
    return source_from_rows({s: data[s] for s in _SPLITS}, name=source.repo, log=log)


def source_from_rows(splits: dict[str, Any], *, name: str, log: Callable[[str], None]) -> Source:
    """From the Hub's rows: `question`, `table` {id, header, types, rows}, `sql` {sel, agg, conds}.

    The Hub's conversion writes all condition values as text, and conditions as three parallel lists.
    """
    tables: dict[str, SourceTable] = {}
    questions = []
    for split, rows in splits.items():
        for number, row in enumerate(rows, 1):
            try:
                table = row["table"]
                known = tables.get(table["id"])
                if known is None:
                    known = tables[table["id"]] = SourceTable(
                        table["id"],
                        split,
                        tuple(table["header"]),
                        tuple(table["types"]),
                        tuple(tuple(r) for r in table["rows"]),
                    )
                conds = row["sql"]["conds"]
                sketch = {
                    "sel": row["sql"]["sel"],
                    "agg": row["sql"]["agg"],
                    "conds": list(zip(conds["column_index"], conds["operator_index"], conds["condition"])),
                }
                query = Query.from_json(sketch, width=len(known.header))
            except Exception as e:
                raise DataError(f"{name} {split} row {number}: {type(e).__name__}: {e}") from e
            if known.split != split:
                raise DataError(f"{name} {split} row {number}: table {known.id!r} is also in {known.split}")
            questions.append(SourceQuestion(f"{split}-{number}", split, known.id, row["question"].strip(), query))
        log(f"{split}: {len(rows):,} questions")
    return Source(tuple(tables.values()), tuple(questions))
