"""Decoding that tries its answers: against the schema alone, or against the table's rows.

Where the greedy answer will not do, further answers are drawn from the model's own distribution under the grammar,
ranked by log-probability, and the first that will do is taken; if none does, the greedy one stays. What will do:

- binding, for answers of SQL text: DuckDB runs it over empty tables. Under the grammar few but unfinished ones fail.
- execution guidance (Wang et al. 2018, arXiv:1807.03100), off unless the config asks: it runs and returns something.
  This and value grounding read cell values, which WikiSQL's leaderboard marks.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

from t2s_assets.text2sql.config import DecodingConfig
from t2s_assets.text2sql.decoding.grounding import MAX_VALUES, Cells, Stored, ground
from t2s_assets.text2sql.decoding.types import Completion, Request
from t2s_assets.text2sql.execution import Database, Job, Outcome, Relation, SqlExecutor
from t2s_assets.text2sql.schema import TableSchema

SAMPLES = 8
"""Answers drawn for a question whose greedy one will not do."""


@dataclass(frozen=True)
class Content:
    """What may be read of one question's tables: the database its SQL runs on, and its columns' text cells."""

    database: Database
    cells: Cells

    @classmethod
    def of(cls, database: Database) -> Content:
        """Everything in the tables that the SQL runs on."""
        return cls(database, functools.partial(_stored, database))


_STORED: WeakKeyDictionary[Database, dict[str, Stored | None]] = WeakKeyDictionary()


def _stored(database: Database, name: str) -> Stored | None:
    """The text cells of the columns of a name. Kept with the database: its questions and their draws share them."""
    kept = _STORED.setdefault(database, {})
    wanted = name.casefold()
    if wanted not in kept:
        kept[wanted] = _text_cells(database, wanted)
    return kept[wanted]


def _text_cells(database: Database, wanted: str) -> Stored | None:
    columns = [
        (sql_type.upper(), relation.data.column(at).unique())
        for relation in database.relations
        for at, (name, sql_type) in enumerate(relation.columns)
        if name.casefold() == wanted and sql_type.upper().startswith(("VARCHAR", "TEXT"))
    ]
    if not columns or sum(len(cells) for _, cells in columns) > MAX_VALUES:
        return None
    ignores_case = all(sql_type.endswith(" COLLATE NOCASE") for sql_type, _ in columns)
    values = (cell for _, cells in columns for cell in cells.to_pylist() if cell is not None)
    return Stored(values, ignores_case=ignores_case)


def content_read(config: DecodingConfig) -> list[str]:
    """The settings by which answers depend on cell values."""
    return [f"decoding.{name}" for name in ("execution_guided", "value_grounding") if getattr(config, name)]


def uses_table_content(config: DecodingConfig) -> bool:
    """Whether answers depend on cell values."""
    return bool(content_read(config))


def usable(outcome: Outcome) -> bool:
    """Whether a query ran and returned anything but NULLs."""
    return outcome.ok and any(cell is not None for row in outcome.rows for cell in row)


def settled(
    decoder: Any,
    requests: Sequence[Request],
    completions: Sequence[Completion],
    contents: Sequence[Content | None],
    config: DecodingConfig,
    executor: SqlExecutor,
) -> list[Completion]:
    """The completions as they are answered in the end: those that do not bind drawn anew, and `improved`."""
    results = bound(decoder, requests, completions, executor) if config.grammar == "schema" else list(completions)
    return improved(decoder, requests, results, contents, config, executor)


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

    def grounded(at: int, completion: Completion) -> Completion:
        if not config.value_grounding:
            return completion
        return replace(completion, text=ground(completion.text.strip(), contents[at].cells))  # type: ignore[union-attr]

    for at in where:
        results[at] = grounded(at, results[at])
    if not config.execution_guided:
        return results
    jobs = [Job(contents[at].database, results[at].text.strip()) for at in where]  # type: ignore[union-attr]
    failed = [at for at, outcome in zip(where, executor.run(jobs)) if not usable(outcome)]
    for at, mine in _drawn(decoder, requests, failed):
        mine = [grounded(at, c) for c in mine]
        results[at] = likeliest(results[at], mine, contents[at].database, executor, usable)  # type: ignore[union-attr]
    return results


def unbound(requests: Sequence[Request], completions: Sequence[Completion], executor: SqlExecutor) -> list[int]:
    """The positions of answers of SQL text that DuckDB refuses over empty tables of their schemas.

    That is: names that are not in scope, columns that are not grouped, types that do not go together, and what the
    executor's guard refuses. Requests of a sketch are passed over: its grammar allows nothing of the kind.
    """
    where = [at for at, request in enumerate(requests) if request.kind == "select"]
    jobs = [Job(empty_tables(requests[at].schemas), completions[at].text.strip()) for at in where]
    return [at for at, outcome in zip(where, executor.run(jobs)) if not outcome.ok]


def bound(
    decoder: Any, requests: Sequence[Request], completions: Sequence[Completion], executor: SqlExecutor
) -> list[Completion]:
    """The completions, with the likeliest draw that binds in place of each that is `unbound`."""
    results = list(completions)
    for at, mine in _drawn(decoder, requests, unbound(requests, completions, executor)):
        results[at] = binding(requests[at], results[at], mine, executor)
    return results


def binding(request: Request, greedy: Completion, drawn: Sequence[Completion], executor: SqlExecutor) -> Completion:
    """The likeliest of the drawn answers that binds, else the greedy one."""
    return likeliest(greedy, drawn, empty_tables(request.schemas), executor, lambda outcome: outcome.ok)


def draws(request: Request) -> list[Request]:
    """The request for each further answer."""
    return [replace(request, draw=number) for number in range(1, SAMPLES + 1)]


def _drawn(
    decoder: Any, requests: Sequence[Request], failed: Sequence[int]
) -> Iterator[tuple[int, Sequence[Completion]]]:
    """Each failed position with its further answers, all decoded together."""
    drawn = decoder.generate([draw for at in failed for draw in draws(requests[at])])
    for place, at in enumerate(failed):
        yield at, drawn[place * SAMPLES : (place + 1) * SAMPLES]


@functools.lru_cache(maxsize=64)
def empty_tables(schemas: tuple[TableSchema, ...]) -> Database:
    """The tables of `schemas` without rows. Kept: the questions on one database share it."""
    relations = [
        Relation.from_rows(
            s.name, [(c.name, c.sql_type or ("DOUBLE", "VARCHAR")[c.type == "text"]) for c in s.columns], []
        )
        for s in schemas
    ]
    return Database.of(*relations)


def likeliest(
    greedy: Completion,
    drawn: Sequence[Completion],
    database: Database,
    executor: SqlExecutor,
    will_do: Callable[[Outcome], bool],
) -> Completion:
    """The likeliest of the drawn answers whose outcome on `database` will do, else the greedy one; the draws' cost is
    its own either way."""
    distinct: dict[str, Completion] = {}
    for completion in sorted(drawn, key=lambda c: -c.logprob):
        if completion.finished and completion.text.strip() != greedy.text.strip():
            distinct.setdefault(completion.text.strip(), completion)
    outcomes = executor.run([Job(database, text) for text in distinct])
    best = next((c for c, outcome in zip(distinct.values(), outcomes) if will_do(outcome)), greedy)
    return replace(
        best,
        forward_passes=greedy.forward_passes + sum(c.forward_passes for c in drawn),
        prefill_seconds=greedy.prefill_seconds,
        decode_seconds=greedy.decode_seconds + max(c.prefill_seconds + c.decode_seconds for c in drawn),
    )
