"""`tables`, `questions` and `sql` as prepared, whatever the kind of gold: read, counted, and of one making."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from t2s_assets.text2sql.errors import DataError
from t2s_assets.text2sql.gold.protocol import Facts, Log
from t2s_assets.text2sql.storage import Project, read_manifest


def read_prepared(path: Path, dataset: str, **options: Any) -> pa.Table:
    """A Parquet file of `tables`, `questions` or `sql`. Raises DataError where it is not there yet, or is broken."""
    made_by = f"t2s prepare {dataset}"
    if not path.exists():
        raise DataError(f"{path} is not there; make it with: {made_by}")
    try:
        return pq.read_table(path, **options)
    except (pa.ArrowException, OSError) as e:
        raise DataError(f"{path} cannot be read ({e}); make it again with: {made_by}") from e


MADE_OF = "made_of"
_MADE_OF = {"questions": ("tables",), "sql": ("tables", "questions")}


def made_of(project: Project, dataset: str, asset: str) -> Facts:
    """For the manifest of `questions` or `sql`: the data versions of what it is made of."""
    return {MADE_OF: {n: m["data_version"] for n, m in manifests(project, dataset, _MADE_OF[asset]).items()}}


def manifests(project: Project, dataset: str, assets: Iterable[str]) -> dict[str, Facts]:
    """The manifests of assets of a dataset, by name. Raises DataError when one is not there."""
    made_by = f"t2s prepare {dataset}"
    return {asset: read_manifest(project.path(dataset, asset), made_by=made_by) for asset in assets}


def check_made_of(dataset: str, made: Mapping[str, Facts]) -> None:
    """See that `questions` and `sql`, by the manifests in `made`, are of the `tables` and `questions` that there are.

    An earlier version's, which do not say, pass. Raises DataError: gold of other questions would be taken for theirs.
    """
    stale = [
        f"{asset} is of {name} {was}, which is now {made[name]['data_version']}"
        for asset in _MADE_OF
        for name, was in made[asset].get(MADE_OF, {}).items()
        if was != made[name]["data_version"]
    ]
    if stale:
        raise DataError(f"{dataset}: {'; '.join(stale)}; make them again with: t2s prepare {dataset}")


def sql_facts(rows: Sequence[Facts]) -> Facts:
    """What the manifest of `sql` counts of its rows, whatever the kind of gold."""
    return {
        "questions": dict(Counter(r["split"] for r in rows)),
        "category": dict(Counter(r["category"] for r in rows)),
        "aggregate": dict(Counter(r["aggregate"] for r in rows)),
        "conditions": {str(k): v for k, v in sorted(Counter(r["conditions"] for r in rows).items())},
        "gold_that_does_not_run": dict(Counter(r["split"] for r in rows if r["status"] != "ok")),
        "gold_without_an_answer": dict(Counter(r["split"] for r in rows if r["degenerate"])),
    }


def every(log: Log, step: int) -> Callable[[int, int], None]:
    """A progress callback that logs after each `step` things done."""
    shown = 0

    def progress(done: int, total: int) -> None:
        nonlocal shown
        if done - shown >= step:
            shown = done
            log(f"{done:,} of {total:,}")

    return progress
