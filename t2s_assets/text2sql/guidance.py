"""Decoding that looks at the table: execution guidance and value grounding, both off unless the config asks.

Execution guidance (Wang et al. 2018, arXiv:1807.03100) keeps the greedy answer where it runs and returns something.
Where not, further answers are drawn from the model's own distribution under the grammar, ranked by log-probability,
and the first that runs and returns something is taken; if none does, the greedy one stays. Both read cell values,
which WikiSQL's leaderboard marks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from t2s_assets.text2sql.config import DecodingConfig
from t2s_assets.text2sql.decoding.grounding import Cells, ground
from t2s_assets.text2sql.decoding.types import Completion, Request
from t2s_assets.text2sql.execution import Database, Job, Outcome, SqlExecutor

SAMPLES = 8
"""Answers drawn for a question whose greedy one is not usable."""


@dataclass(frozen=True)
class Content:
    """What may be read of one question's tables: the database its SQL runs on, and its columns' text cells."""

    database: Database
    cells: Cells

    @classmethod
    def of(cls, database: Database) -> Content:
        """Everything in the tables that the SQL runs on."""

        def cells(name: str) -> list[str]:
            columns = [
                relation.data.column(at)
                for relation in database.relations
                for at, (column, _) in enumerate(relation.columns)
                if column.casefold() == name.casefold()
            ]
            return [cell for column in columns for cell in column.to_pylist() if isinstance(cell, str)]

        return cls(database, cells)


def uses_table_content(config: DecodingConfig) -> bool:
    """Whether answers depend on cell values."""
    return config.execution_guided or config.value_grounding


def usable(outcome: Outcome) -> bool:
    """Whether a query ran and returned anything but NULLs."""
    return outcome.ok and any(cell is not None for row in outcome.rows for cell in row)


def improved(
    decoder: Any,
    requests: Sequence[Request],
    completions: Sequence[Completion],
    contents: Sequence[Content | None],
    config: DecodingConfig,
    executor: SqlExecutor,
) -> list[Completion]:
    """The completions after grounding and execution guidance, as far as `config` asks for them.

    A request whose content is None stays as it is. A grounded completion keeps its tokens and log-probability: they
    are those of the text that the model wrote. `forward_passes` and times count the draws.
    """
    results = list(completions)
    where = [at for at, content in enumerate(contents) if content is not None]

    def settled(at: int, completion: Completion) -> Completion:
        if not config.value_grounding:
            return completion
        return replace(completion, text=ground(completion.text.strip(), contents[at].cells))  # type: ignore[union-attr]

    for at in where:
        results[at] = settled(at, results[at])
    if not config.execution_guided:
        return results
    jobs = [Job(contents[at].database, results[at].text.strip()) for at in where]  # type: ignore[union-attr]
    failed = [at for at, outcome in zip(where, executor.run(jobs)) if not usable(outcome)]
    draws = [replace(requests[at], draw=number) for at in failed for number in range(1, SAMPLES + 1)]
    drawn = decoder.generate(draws)
    for place, at in enumerate(failed):
        mine = drawn[place * SAMPLES : (place + 1) * SAMPLES]
        results[at] = _first_usable(results[at], [settled(at, c) for c in mine], contents[at].database, executor)  # type: ignore[union-attr]
    return results


def _first_usable(
    greedy: Completion, drawn: Sequence[Completion], database: Database, executor: SqlExecutor
) -> Completion:
    distinct: dict[str, Completion] = {}
    for completion in sorted(drawn, key=lambda c: -c.logprob):
        if completion.finished and completion.text.strip() != greedy.text.strip():
            distinct.setdefault(completion.text.strip(), completion)
    outcomes = executor.run([Job(database, text) for text in distinct])
    best = next((c for c, outcome in zip(distinct.values(), outcomes) if usable(outcome)), greedy)
    return replace(
        best,
        forward_passes=greedy.forward_passes + sum(c.forward_passes for c in drawn),
        prefill_seconds=greedy.prefill_seconds,
        decode_seconds=greedy.decode_seconds + max(c.prefill_seconds + c.decode_seconds for c in drawn),
    )
