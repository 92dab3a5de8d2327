"""WikiSQL from the Hugging Face Hub, or from a local copy of such a repository's Parquet files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from t2s_assets.text2sql.config_files import expand_path
from t2s_assets.text2sql.dataset_config import HubSource
from t2s_assets.text2sql.datasets.wikisql import Source, SourceQuestion, SourceTable, parse_question, parse_table
from t2s_assets.text2sql.errors import DataError
from t2s_assets.text2sql.query import SketchError

_SPLITS = ("train", "validation", "test")


def read_hub(source: HubSource, *, folder: Path, log: Callable[[str], None] = lambda line: None) -> Source:
    """Every table and question of the converted WikiSQL on the Hub: one row a question, its table inside it.

    A `repo` that is a path (`/...`, `./...`, `~/...`, `$VARIABLE/...`, relative to `folder`) is read from there, and
    the Hub is not asked.

    Raises:
        DataError: the repository cannot be loaded, or rows are not WikiSQL's.
    """
    from datasets import load_dataset

    name, revision = source.repo, source.revision if not source.is_local else None
    if source.is_local:
        path = expand_path(source.repo, folder)
        if not path.is_dir():
            raise DataError(f"source.repo: no folder at {path}; it must hold the Parquet files of WikiSQL's conversion")
        name = str(path)
    try:
        data = load_dataset(name, revision=revision)
    except Exception as e:  # datasets raises errors of its own, of huggingface_hub, of requests and of fsspec
        if source.is_local:
            raise DataError(
                f"source.repo: {name} cannot be loaded ({type(e).__name__}: {e}); it must hold the Parquet files of "
                "WikiSQL's conversion, as in refs/convert/parquet of Salesforce/wikisql"
            ) from e
        raise DataError(
            f"{name} at {revision} cannot be loaded ({type(e).__name__}: {e}); with no network, put WikiSQL's "
            "data.tar.bz2 on this machine and use source: {kind: local, path: ...}, or name a local copy of the "
            "Parquet files as repo"
        ) from e
    missing = [s for s in _SPLITS if s not in data]
    if missing:
        raise DataError(f"{name}: no split {', '.join(missing)}; there are {sorted(data)}")
    return source_from_rows({s: data[s] for s in _SPLITS}, name=name, log=log)


def source_from_rows(splits: dict[str, Any], *, name: str, log: Callable[[str], None]) -> Source:
    """From the Hub's rows: `question`, `table` {id, header, types, rows}, `sql` {sel, agg, conds}.

    The Hub's conversion writes all condition values as text, and conditions as three parallel lists.

    Raises:
        DataError: rows break the format; the message lists the first of them.
    """
    tables: dict[str, SourceTable] = {}
    questions: list[SourceQuestion] = []
    problems: list[str] = []
    for split, rows in splits.items():
        for number, row in enumerate(rows, 1):
            try:
                known = tables.get(row["table"]["id"])
                if known is None:
                    known = parse_table(row["table"], split)
                    tables[known.id] = known
                elif known.split != split:
                    raise ValueError(f"table {known.id!r} is also in {known.split}")
                conds = row["sql"]["conds"]
                triples = list(zip(conds["column_index"], conds["operator_index"], conds["condition"], strict=True))
                record = {
                    "question": row["question"],
                    "table_id": known.id,
                    "sql": {"sel": row["sql"]["sel"], "agg": row["sql"]["agg"], "conds": triples},
                }
                questions.append(parse_question(record, split, f"{split}-{number}", tables))
            except (KeyError, TypeError, ValueError, SketchError) as e:
                problems.append(f"{split} row {number}: {f'key {e} is missing' if isinstance(e, KeyError) else e}")
        log(f"{split}: {len(rows):,} questions")
    if problems:
        shown = "\n".join(f"  {p}" for p in problems[:20])
        rest = f"\n  ... and {len(problems) - 20} more" if len(problems) > 20 else ""
        raise DataError(f"{name}: {len(problems)} broken rows; mend or remove them:\n{shown}{rest}")
    return Source(tuple(tables.values()), tuple(questions))
