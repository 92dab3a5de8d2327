"""Questions to SQL with a trained adapter: the Python API, which the command line uses too.

    from t2s_assets.text2sql.inference import Text2SQL

    model = Text2SQL.load("mini/smollm2")
    answer = model.ask("how high is K2?", "mountains.csv")

The model writes SQL over a table called `t`, as it was trained to. That SQL is parsed and checked against the schema
before anybody sees it, and comes back with the names of the user's table. Only `run=True` executes it, in the
executor's limited child processes and on a copy of the rows.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from t2s_assets.text2sql import base_models
from t2s_assets.text2sql.adapters import Adapter
from t2s_assets.text2sql.answers import Answer, Latency
from t2s_assets.text2sql.config import DecodingConfig
from t2s_assets.text2sql.decoding.types import Completion, Request
from t2s_assets.text2sql.errors import ModelError, PromptError, T2SError
from t2s_assets.text2sql.evaluation.confidence import load_confidence, reason_to_abstain
from t2s_assets.text2sql.evaluation.examination import request_for
from t2s_assets.text2sql.evaluation.generations import options
from t2s_assets.text2sql.evaluation.guidance import Content, settled, uses_table_content
from t2s_assets.text2sql.execution import Database, Job, Limits, Outcome, SqlExecutor
from t2s_assets.text2sql.merged import load_ready
from t2s_assets.text2sql.plain_text import encode
from t2s_assets.text2sql.prompts import clean_question, shown_tables
from t2s_assets.text2sql.storage import Project
from t2s_assets.text2sql.tables.asked import Asked, OneTable, asked_about
from t2s_assets.text2sql.tables.copies import Copies
from t2s_assets.text2sql.tables.sources import UserDatabase, UserTable, as_asked
from t2s_assets.text2sql.tables.stored_text import StoredText, as_stored
from t2s_assets.text2sql.tables.topic import off_topic
from t2s_assets.text2sql.tables.user_tables import rows_copied, tables_of
from t2s_assets.text2sql.trained import find_adapter

_LIMITS = Limits(seconds=10.0)
"""Somebody waits for this one result, of up to ten million cells."""

_TOGETHER = 100_000_000
"""Bytes of copied tables whose queries wait to be run together."""


_Result = TypeVar("_Result")


class Text2SQL:
    """A loaded model that answers questions about tables. Not for several threads at once.

    A context manager; `close` ends the processes that `run=True` started.
    """

    def __init__(self, adapter: Adapter, decoder: Any, tokenizer: Any) -> None:
        self.adapter = adapter
        self._decoder, self._tokenizer = decoder, tokenizer
        self._executor: SqlExecutor | None = None
        predictions = adapter.folder.parent.parent / "predictions" / adapter.folder.name
        self.calibration = load_confidence(predictions, adapter.version, adapter.experiment.decoding)

    @classmethod
    def load(
        cls,
        model: str | Path,
        *,
        project: Project | None = None,
        device: str | None = None,
        decoding: DecodingConfig | None = None,
    ) -> Text2SQL:
        """Load an adapter on its base.

        `model` is `dataset/experiment`, a dataset (its champion), or an adapter's folder. `device` (cpu, cuda, mps)
        and `decoding` replace those of the experiment.

        Raises:
            T2SError: no such adapter, an adapter of another base, or a device that is not here.
        """
        project = project or Project.find()
        adapter = find_adapter(model, project)
        if decoding is not None:
            adapter = replace(adapter, experiment=adapter.experiment.model_copy(update={"decoding": decoding}))
        decoding = adapter.experiment.decoding
        hardware = adapter.experiment.hardware
        if device is not None:
            hardware = hardware.model_copy(update={"device": device})
        placement = base_models.place_answering(hardware)
        network, tokenizer = load_ready(adapter, project, placement, decoding)
        from t2s_assets.text2sql.decoding import Decoder

        return cls(adapter, Decoder(network, tokenizer, options(decoding, waited_for=True)), tokenizer)

    def __enter__(self) -> Text2SQL:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the executor's processes; the next `run=True` starts new ones."""
        if self._executor is not None:
            self._executor.close()
            self._executor = None

    def ask(
        self, question: str, table: Any, *, run: bool = False, name: str | None = None, min_confidence: float = 0.0
    ) -> Answer:
        """The answer to one question about one table, or about all tables of a database (models of SQL text).

        `table` is whatever `sources.as_asked` takes: a path to a database, CSV, Parquet or schema file, CREATE
        TABLE text, a data frame; `name` chooses among several tables. With `run` the SQL is executed. An answer
        less likely to be right than `min_confidence` is withheld.

        Raises:
            T2SError: the question is empty, the table has no columns, the prompt is over the model's length.
        """
        about = as_asked(table, name, many=self.answers_over_many)
        answer = self.ask_many([(question, about)], run=run, min_confidence=min_confidence)[0]
        if isinstance(answer, T2SError):
            raise answer
        return answer

    @property
    def answers_over_many(self) -> bool:
        """Whether it was trained on SQL text over several tables, rather than on one table at a time."""
        return self.adapter.format.gold == "sql"

    def ask_many(
        self,
        asked: Sequence[tuple[str, UserTable | UserDatabase]],
        *,
        run: bool = False,
        min_confidence: float = 0.0,
    ) -> list[Answer | T2SError]:
        """Answers in the order of `asked`, decoded together; a question that cannot be asked gives its error.

        In a batch `prefill_ms` and `decode_ms` hold the time spent on its other questions too, and `total_ms` is
        the batch's time.
        """
        if min_confidence > 0 and self.calibration is None:
            raise ModelError(
                f"{self.adapter.folder}: no calibration of this adapter, as it decodes now, beside it, so nothing is "
                "known of how often its answers are right; run t2s evaluate on at least 50 validation questions, or "
                "leave out --min-confidence"
            )
        started = time.perf_counter()
        results: list[Answer | T2SError | None] = [None] * len(asked)
        copies = Copies(typed=self.answers_over_many)
        requests: dict[int, Request] = {}
        abouts: dict[int, Asked] = {}
        for position, (question, table) in enumerate(asked):
            try:
                abouts[position] = asked_about(table, self.adapter.format.gold, copies)
                requests[position] = self._request(question, abouts[position])
            except T2SError as e:
                results[position] = e
        completions = self._completions(requests)
        read = self._settle(asked, abouts, requests, completions)
        for position, completion in completions.items():
            results[position] = (
                completion
                if isinstance(completion, T2SError)
                else self._answer(
                    requests[position],
                    abouts[position],
                    asked[position][1],
                    completion,
                    read=position in read,
                    run=run,
                    min_confidence=min_confidence,
                    started=started,
                )
            )
        answers = [r for r in results if r is not None]
        return self._run(answers, [table for _, table in asked], copies) if run else answers

    def _answer(
        self,
        request: Request,
        about: Asked,
        table: UserTable | UserDatabase,
        completion: Completion,
        *,
        read: bool,
        run: bool,
        min_confidence: float,
        started: float,
    ) -> Answer:
        """What a completion says over the user's tables; `read`: whether their rows were read to make it."""
        generated = completion.text.strip()
        stored = _as_stored(generated, about, run)
        sql, problem = about.checked(stored.sql) if completion.finished else (generated, None)
        if completion.stuck:
            problem = "no SQL over these tables continues what was written so far; ask in other words"
        elif not completion.finished:
            limit = self.adapter.experiment.decoding.max_new_tokens
            problem = f"cut off at decoding.max_new_tokens = {limit} before the SQL ended"
        probability = abstained = withheld = None
        at_most = False
        if self.calibration is not None:
            named = [table.name] if isinstance(table, UserTable) else []
            strange = not stored.found and off_topic(request.question, request.schemas, *named)
            probability = self.calibration.probability(completion.logprob)
            at_most = self.calibration.at_most(completion.logprob)
            abstained = reason_to_abstain(self.calibration, completion.logprob, strange, min_confidence)
        if abstained is not None:
            withheld = sql if problem is None else None
            sql, problem = "", abstained
        return Answer(
            question=request.question,
            table=table.name,
            sql=sql,
            generated=generated,
            valid=problem is None,
            problem=problem,
            probability=probability,
            probability_at_most=at_most,
            abstained=abstained,
            withheld_sql=withheld,
            text_in_any_case=stored.any_case,
            uses_table_content=read or self.adapter.format.uses_table_content or stored.respelt,
            confidence=math.exp(min(0.0, completion.logprob)),
            tokens=completion.n_tokens,
            forward_passes=completion.forward_passes,
            latency=Latency(
                1000 * completion.prefill_seconds,
                1000 * completion.decode_seconds,
                1000 * (time.perf_counter() - started),
            ),
            # `run` takes its own of what it runs.
            notes=()
            if abstained is not None or (run and not problem)
            else about.notes_for(generated, ran=False, question=request.question),
        )

    def run(
        self, answers: Sequence[Answer | T2SError], tables: Sequence[UserTable | UserDatabase]
    ) -> list[Answer | T2SError]:
        """The answers with the outcomes of their SQL, where it is valid. Each runs on a copy of its tables' rows."""
        return self._run(answers, tables, Copies(typed=self.answers_over_many))

    def _run(
        self, answers: Sequence[Answer | T2SError], tables: Sequence[UserTable | UserDatabase], copies: Copies
    ) -> list[Answer | T2SError]:
        """`run`, with what was copied so far for these questions: what is copied for one is let go of before the next,
        and queries wait for others while their tables are small."""
        results = list(answers)
        jobs: dict[int, Job] = {}
        outcomes: dict[int, Outcome] = {}
        for position, (answer, table) in enumerate(zip(answers, tables, strict=True)):
            if not (isinstance(answer, Answer) and answer.valid):
                continue
            sql = answer.generated
            try:
                about = asked_about(table, self.adapter.format.gold, copies)
                jobs[position] = Job(about.database_for(sql), sql)
            except T2SError as e:
                results[position] = e
                continue
            notes = about.notes_for(sql, ran=True, question=answer.question)
            results[position] = replace(answer, rows_copied=about.rows_copied_for(sql), notes=notes)
            if sum({job.database.key: job.database.size for job in jobs.values()}.values()) > _TOGETHER:
                outcomes |= self._outcomes(jobs)
                jobs = {}
        for position, outcome in (outcomes | self._outcomes(jobs)).items():
            answer = results[position]
            assert isinstance(answer, Answer)
            results[position] = replace(answer, outcome=outcome)
        return results

    def run_sql(self, sql: str, about: UserTable | UserDatabase) -> tuple[Outcome, int | None]:
        """What a person's SQL over the tables' own names gives, in the executor and on copies of the rows as `run`'s;
        and how many rows of a table were copied, where that is not all.

        Raises:
            DataError: only a schema was given.
        """
        typed = self.answers_over_many
        tables = Copies(typed=typed).of(sql, {t.path[-1]: t for t in tables_of(about)}).values()
        outcome = self._outcomes({0: Job(Database.of(*(t.own_relation(typed=typed) for t in tables)), sql)})[0]
        return outcome, rows_copied(t.rows(typed=typed) for t in tables)

    def _outcomes(self, jobs: dict[int, Job]) -> dict[int, Outcome]:
        """What the jobs give; one whose table does not load into the executor gives that as its error."""

        def run(positions: list[int]) -> dict[int, Outcome]:
            return dict(zip(positions, self._started().run([jobs[p] for p in positions])))

        return {
            p: Outcome("error", message=str(o)) if isinstance(o, T2SError) else o
            for p, o in _together_or_alone(run, list(jobs)).items()
        }

    def _started(self) -> SqlExecutor:
        self._executor = self._executor or SqlExecutor(limits=_LIMITS)
        return self._executor

    def _request(self, question: str, about: Asked) -> Request:
        format = self.adapter.format
        rows = about.sample_rows if format.uses_table_content else None
        prompt, shown = shown_tables(format, self._tokenizer, about.schemas, question, rows=rows)
        try:
            prompt.encode()
        except UnicodeEncodeError as e:
            raise PromptError(
                f"question or schema hold half a character, {e.object[e.start]!r}; give valid Unicode"
            ) from e
        length = len(encode(self._tokenizer, [prompt])[0])
        room = self.adapter.experiment.decoding.max_new_tokens
        context = getattr(self._decoder.model.config, "max_position_embeddings", None)
        if length >= format.max_length or (context and length + room > context):
            limit = f"prompt.max_length = {format.max_length} tokens for prompt and SQL, with which it was trained"
            if length < format.max_length:
                limit = f"a context of {context} tokens, of which decoding.max_new_tokens = {room} are kept for the SQL"
            columns = sum(len(s.columns) for s in shown)
            raise PromptError(
                f"the prompt has {length} tokens ({columns} columns), and the model has {limit}; leave out "
                "columns that the question does not need, shorten the question, or train with a higher limit"
            )
        return request_for(prompt, clean_question(question), about.schemas, format.gold)

    def _settle(
        self,
        asked: Sequence[tuple[str, UserTable | UserDatabase]],
        abouts: dict[int, Asked],
        requests: dict[int, Request],
        completions: dict[int, Completion | T2SError],
    ) -> set[int]:
        """Make the completions what is answered in the end (`guidance.settled`); those whose tables' rows were read.

        A question whose table cannot be read, or does not load into the executor, gets that error in place of an
        answer.
        """
        decoding = self.adapter.experiment.decoding
        done = {p: c for p, c in completions.items() if isinstance(c, Completion)}
        read = {p for p in done if uses_table_content(decoding) and asked[p][1].has_rows}

        def settle(positions: list[int]) -> dict[int, Completion]:
            contents = [Content.of(abouts[p].database) if p in read else None for p in positions]
            given = [requests[p] for p in positions], [done[p] for p in positions], contents
            return dict(zip(positions, settled(self._decoder, *given, decoding, self._started())))

        completions |= _together_or_alone(settle, list(done))
        return {p for p in read if isinstance(completions[p], Completion)}

    def _completions(self, requests: dict[int, Request]) -> dict[int, Completion | T2SError]:
        """What the model writes; a request with a grammar that is too large gives that error."""

        def generate(positions: list[int]) -> dict[int, Completion]:
            return dict(zip(positions, self._decoder.generate([requests[p] for p in positions])))

        return _together_or_alone(generate, list(requests))


def _together_or_alone(
    work: Callable[[list[int]], dict[int, _Result]], positions: list[int]
) -> dict[int, _Result | T2SError]:
    """`work` on all positions in one go; where one of them spoils it, on each alone, and that one has its error."""
    if not positions:
        return {}
    try:
        return {**work(positions)}
    except T2SError as e:
        if len(positions) == 1:
            return {positions[0]: e}
    return {p: result for position in positions for p, result in _together_or_alone(work, [position]).items()}


def _as_stored(generated: str, about: Asked, run: bool) -> StoredText:
    """`generated` as the cells spell its texts, where the rows are read anyway. SQL text is compared to the letter and
    stays as it is."""
    if not isinstance(about, OneTable):
        return StoredText(generated)
    try:
        read = about.table.has_rows and (run or "content" in vars(about.table))
        table = about.looked_at(generated, ran=True) if read else about.table
        return as_stored(generated, table, table.content if read else None)
    except T2SError:  # `run` gives that as the answer
        return as_stored(generated, about.table, None)
