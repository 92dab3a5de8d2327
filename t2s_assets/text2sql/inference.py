"""Questions to SQL with a trained adapter: the Python API, which the command line uses too.

    from t2s_assets.text2sql.inference import Text2SQL

    model = Text2SQL.load("mini/smollm2")
    answer = model.ask("how high is K2?", "mountains.csv")

The model writes SQL over a table called `t`, as it was trained to. That SQL is parsed and checked against the schema
before anybody sees it, and comes back with the names of the user's table. Only `run=True` executes it, in the
executor's limited child processes and on a copy of the rows.
"""

from __future__ import annotations

import datetime
import decimal
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from t2s_assets.text2sql import adapters, base_models
from t2s_assets.text2sql.adapters import Adapter
from t2s_assets.text2sql.asked import Asked, asked_about
from t2s_assets.text2sql.champion import CHAMPION
from t2s_assets.text2sql.confidence import load_confidence, reason_to_abstain, shared_words
from t2s_assets.text2sql.config import DecodingConfig
from t2s_assets.text2sql.decoding.types import Completion, Request
from t2s_assets.text2sql.errors import ExecutionError, ModelError, PromptError, T2SError
from t2s_assets.text2sql.execution import Database, Job, Outcome, SqlExecutor
from t2s_assets.text2sql.generations import options
from t2s_assets.text2sql.guidance import Content, improved, uses_table_content
from t2s_assets.text2sql.merged import load_ready
from t2s_assets.text2sql.predictions import request_for
from t2s_assets.text2sql.prompts import clean_question, encode, shown_tables
from t2s_assets.text2sql.sources import UserDatabase, UserTable, as_asked
from t2s_assets.text2sql.storage import MANIFEST, Project, read_json


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one answer: from the prompt to the model's first choice (`prefill`), from there to its last
    (`decode`), and the whole from question to checked SQL (`total`); execution is not in it."""

    prefill_ms: float
    decode_ms: float
    total_ms: float


@dataclass(frozen=True)
class Answer:
    """What the model answered.

    sql: over the user's table where it is valid, else as generated.
    generated: what the model wrote, over `t`.
    valid: it parses, passes the executor's allow-list and names only what the schema has; else `problem` says why.
    confidence: the probability that the model gave to the tokens that it chose, together. It is not calibrated: it
        ranks answers, but is not how often they are right.
    probability: how likely the answer is right, calibrated on validation questions (confidence.py); None where the
        model has no calibration.
    abstained: why no answer is given although one was written; it is then not valid, and `sql` is empty.
    outcome: what running it gave, with `run=True` and valid SQL.
    uses_table_content: cell values were read to write it (sample values, execution guidance, value grounding).
    rows_copied: how many of the table's rows it ran on where that is not all of them.
    """

    question: str
    table: str
    sql: str
    generated: str
    valid: bool
    problem: str | None
    confidence: float
    tokens: int
    forward_passes: int
    latency: Latency
    uses_table_content: bool = False
    probability: float | None = None
    abstained: str | None = None
    outcome: Outcome | None = None
    rows_copied: int | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """The result's column names; empty where nothing ran."""
        return self.outcome.columns if self.outcome else ()

    @property
    def rows(self) -> tuple[tuple[Any, ...], ...]:
        """The result's rows; empty where nothing ran."""
        return self.outcome.rows if self.outcome else ()

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        content: dict[str, Any] = {
            "question": self.question,
            "table": self.table,
            "sql": self.sql,
            "valid": self.valid,
            "problem": self.problem,
            "sequence_probability": round(self.confidence, 6),
            "probability": None if self.probability is None else round(self.probability, 4),
            "abstained": self.abstained,
            "uses_table_content": self.uses_table_content,
            "tokens": self.tokens,
            "forward_passes": self.forward_passes,
            "prefill_ms": round(self.latency.prefill_ms, 1),
            "decode_ms": round(self.latency.decode_ms, 1),
            "total_ms": round(self.latency.total_ms, 1),
        }
        if self.outcome is not None:
            content["result"] = {
                "status": self.outcome.status,
                "message": self.outcome.message,
                "columns": list(self.outcome.columns),
                "rows": [[_plain(cell) for cell in row] for row in self.outcome.rows],
                "truncated": self.outcome.truncated,
                "rows_copied": self.rows_copied,
            }
        return content


def _plain(cell: Any) -> Any:
    """A cell as JSON holds it: decimals and dates as text, and NaN and infinities, which JSON lacks."""
    if isinstance(cell, float) and not math.isfinite(cell):
        return str(cell)
    if isinstance(cell, (list, tuple)):
        return [_plain(c) for c in cell]
    if isinstance(cell, dict):
        return {str(k): _plain(v) for k, v in cell.items()}
    if isinstance(cell, (decimal.Decimal, datetime.date, datetime.time, datetime.timedelta, bytes)):
        return str(cell)
    return cell


def find_adapter(model: str | Path, project: Project) -> Adapter:
    """The adapter that `dataset/experiment`, `dataset` (its champion) or a folder names.

    Raises:
        T2SError: there is none, or it is not whole; the message lists the trained ones.
    """
    text = str(model)
    folder = Path(text).expanduser()
    if text.startswith((".", "/", "~")) or (folder / MANIFEST).is_file():
        if not (folder / MANIFEST).is_file():
            raise ModelError(f"--model: {folder} is no adapter's folder, it has no {MANIFEST}; {_trained(project)}")
        return _opened(folder, "t2s train, which writes such a folder")
    dataset, _, experiment = text.partition("/")
    if not experiment:
        champion = project.path(dataset, "champion") / CHAMPION
        if not champion.is_file():
            raise ModelError(
                f"--model: {text!r} has no champion yet; choose one with t2s champion {text}, or give "
                f"DATASET/EXPERIMENT or a folder; {_trained(project)}"
            )
        experiment = read_json(champion, made_by=f"t2s champion {dataset}")["experiment"]
    folder = project.path(dataset, "adapter", experiment)
    if not (folder / MANIFEST).is_file():
        raise ModelError(
            f"--model: no trained adapter {dataset}/{experiment}; {_trained(project)}. "
            f"Train it with: t2s run {dataset}/{experiment}"
        )
    return _opened(folder, f"t2s train {dataset}/{experiment}")


def _opened(folder: Path, made_by: str) -> Adapter:
    try:
        return adapters.open_adapter(folder, made_by=made_by)
    except (ValueError, KeyError, TypeError) as e:
        raise ModelError(f"{folder}: its records are broken ({e}); train again with: {made_by}") from e


def trained(project: Project) -> list[str]:
    """The adapters that there are, as `dataset/experiment`."""
    found = sorted(p.parent for p in project.storage.glob(f"*/adapter/*/{MANIFEST}") if p.parent.name[0] != ".")
    return [f"{p.parts[-3]}/{p.name}" for p in found]


def _trained(project: Project) -> str:
    found = sorted(p.parent for p in project.storage.glob(f"*/adapter/*/{MANIFEST}") if p.parent.name[0] != ".")
    names = [f"{p.parts[-3]}/{p.name}" for p in found]
    return f"trained are: {', '.join(names)}" if names else "none is trained yet"


class Text2SQL:
    """A loaded model that answers questions about tables. Not for several threads at once.

    A context manager; `close` ends the processes that `run=True` started.
    """

    def __init__(self, adapter: Adapter, decoder: Any, tokenizer: Any) -> None:
        self.adapter = adapter
        self._decoder, self._tokenizer = decoder, tokenizer
        self._executor: SqlExecutor | None = None
        predictions = adapter.folder.parent.parent / "predictions" / adapter.folder.name
        self.calibration = load_confidence(predictions, adapter.version)

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
        placement = base_models.place(hardware)
        try:
            network, tokenizer = load_ready(adapter, project, placement, decoding)
        except T2SError:
            raise
        except Exception as e:  # peft and safetensors raise whatever a broken file makes them
            raise ModelError(f"{adapter.folder}: the adapter cannot be loaded ({type(e).__name__}: {e})") from e
        from t2s_assets.text2sql.decoding import Decoder

        return cls(adapter, Decoder(network, tokenizer, options(decoding)), tokenizer)

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
                f"{self.adapter.folder}: no calibration of this adapter beside it, so nothing is known of how often "
                "its answers are right; run t2s evaluate on at least 50 validation questions, or leave it out"
            )
        started = time.perf_counter()
        results: list[Answer | T2SError | None] = [None] * len(asked)
        requests: dict[int, Request] = {}
        abouts: dict[int, Asked] = {}
        for position, (question, table) in enumerate(asked):
            try:
                abouts[position] = asked_about(table, self.adapter.format.gold)
                requests[position] = self._request(question, abouts[position])
            except T2SError as e:
                results[position] = e
        completions = self._completions(requests)
        looked = self._look_at_tables(asked, abouts, requests, completions)
        for position, completion in completions.items():
            if isinstance(completion, T2SError):
                results[position] = completion
                continue
            table = asked[position][1]
            generated = completion.text.strip()
            sql, problem = abouts[position].checked(generated)
            if problem is None and not completion.finished:
                limit = self.adapter.experiment.decoding.max_new_tokens
                problem = f"cut off at decoding.max_new_tokens = {limit} before the SQL ended"
            probability = abstained = None
            if self.calibration is not None:
                shared = shared_words(requests[position].question, requests[position].schemas, table.name)
                probability = self.calibration.probability(completion.logprob)
                abstained = reason_to_abstain(self.calibration, completion.logprob, shared, min_confidence)
            if abstained is not None:
                sql, problem = "", abstained
            results[position] = Answer(
                question=requests[position].question,
                table=table.name,
                sql=sql,
                generated=generated,
                valid=problem is None,
                problem=problem,
                probability=probability,
                abstained=abstained,
                uses_table_content=position in looked or self.adapter.format.uses_table_content,
                confidence=math.exp(min(0.0, completion.logprob)),
                tokens=completion.n_tokens,
                forward_passes=completion.forward_passes,
                latency=Latency(
                    1000 * completion.prefill_seconds,
                    1000 * completion.decode_seconds,
                    1000 * (time.perf_counter() - started),
                ),
            )
        answers = [r for r in results if r is not None]
        return self.run(answers, [table for _, table in asked]) if run else answers

    def run(
        self, answers: Sequence[Answer | T2SError], tables: Sequence[UserTable | UserDatabase]
    ) -> list[Answer | T2SError]:
        """The answers with the outcomes of their SQL, where it is valid. Each runs on a copy of its tables' rows."""
        results = list(answers)
        abouts: dict[int, Asked] = {}
        jobs: dict[int, Job] = {}
        for position, (answer, table) in enumerate(zip(answers, tables, strict=True)):
            if isinstance(answer, Answer) and answer.valid:
                try:
                    abouts[position] = asked_about(table, self.adapter.format.gold)
                    jobs[position] = Job(abouts[position].database, answer.generated)
                except T2SError as e:
                    results[position] = e
        for position, outcome in self._outcomes(jobs).items():
            answer = results[position]
            assert isinstance(answer, Answer)
            results[position] = replace(answer, outcome=outcome, rows_copied=abouts[position].rows_copied)
        return results

    def run_sql(self, sql: str, about: UserTable | UserDatabase) -> Outcome:
        """What a person's SQL over the tables' own names gives, in the executor and on copies of the rows as `run`'s.

        Raises:
            DataError: only a schema was given.
        """
        tables = about.tables if isinstance(about, UserDatabase) else (about,)
        relations = [t.relation(t.path[-1], typed=self.answers_over_many) for t in tables]
        return self._outcomes({0: Job(Database.of(*relations), sql)})[0]

    def _outcomes(self, jobs: dict[int, Job]) -> dict[int, Outcome]:
        """All in one go; where a table does not load into the executor, each on its own."""
        if not jobs:
            return {}
        self._executor = self._executor or SqlExecutor()
        try:
            return dict(zip(jobs, self._executor.run(list(jobs.values()))))
        except ExecutionError as e:
            if len(jobs) == 1:
                return {position: Outcome("error", message=str(e)) for position in jobs}
        found: dict[int, Outcome] = {}
        for position, job in jobs.items():
            found |= self._outcomes({position: job})
        return found

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

    def _look_at_tables(
        self,
        asked: Sequence[tuple[str, UserTable | UserDatabase]],
        abouts: dict[int, Asked],
        requests: dict[int, Request],
        completions: dict[int, Completion | T2SError],
    ) -> set[int]:
        """Execution guidance and value grounding, in place, where the config asks and rows were given; for which."""
        decoding = self.adapter.experiment.decoding
        if not uses_table_content(decoding):
            return set()
        done = {p: c for p, c in completions.items() if isinstance(c, Completion) and asked[p][1].has_rows}
        contents = [Content.of(abouts[p].database) for p in done]
        self._executor = self._executor or SqlExecutor()
        after = improved(
            self._decoder, [requests[p] for p in done], list(done.values()), contents, decoding, self._executor
        )
        completions.update(zip(done, after))
        return set(done)

    def _completions(self, requests: dict[int, Request]) -> dict[int, Completion | T2SError]:
        """All in one batch; where one request spoils it (a grammar that is too large), each on its own."""
        try:
            return dict(zip(requests, self._decoder.generate(list(requests.values()))))
        except T2SError as e:
            if len(requests) == 1:
                return dict.fromkeys(requests, e)
        found: dict[int, Completion | T2SError] = {}
        for position, request in requests.items():
            found |= self._completions({position: request})
        return found
