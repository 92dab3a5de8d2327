"""The `predictions` of an experiment: what the tuned model and its untrained base answer, and whether it is right."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from t2s_assets.text2sql.config import DecodingConfig
from t2s_assets.text2sql.config_files import validated
from t2s_assets.text2sql.decoding.types import Request
from t2s_assets.text2sql.errors import DataError
from t2s_assets.text2sql.evaluation.confidence import Verdict, fit_confidence
from t2s_assets.text2sql.evaluation.examination import Examination
from t2s_assets.text2sql.evaluation.generations import Generated, Generations, Log, options
from t2s_assets.text2sql.evaluation.guidance import Content, content_read, settled, uses_table_content
from t2s_assets.text2sql.evaluation.scoring import Row, Scorer
from t2s_assets.text2sql.execution import SqlExecutor
from t2s_assets.text2sql.gold.prepared import MADE_OF
from t2s_assets.text2sql.gold.protocol import Question
from t2s_assets.text2sql.metrics import percentiles
from t2s_assets.text2sql.prepare import load_usable, sample
from t2s_assets.text2sql.storage import (
    MANIFEST,
    Project,
    content_hash,
    file_hash,
    read_manifest,
    replacing_folder,
    write_json,
    write_manifest,
)
from t2s_assets.text2sql.tables.topic import off_topic

DECODING = "decoding"

_SCHEMA = pa.schema(
    [
        *(
            (n, pa.string())
            for n in ("id", "split", "table_id", "question", "gold_sql", "sql", "parsed", "unparsed_because")
        ),
        *((n, pa.string()) for n in ("category", "aggregate")),
        ("conditions", pa.int64()),
        ("predicted_aggregate", pa.string()),
        ("status", pa.string()),
        ("message", pa.string()),
        ("fingerprint", pa.string()),
        ("gold_fingerprint", pa.string()),
        ("gold_degenerate", pa.bool_()),
        *((n, pa.bool_()) for n in ("valid", "em", "ex", "ex_strict", "test_suite")),
        ("errors", pa.list_(pa.string())),
        ("logprob", pa.float64()),
        ("tokens", pa.int64()),
        ("forward_passes", pa.int64()),
        ("finished", pa.bool_()),
        ("result", pa.string()),
        ("gold_result", pa.string()),
    ]
)


def answer_share(
    project: Project, dataset: str, experiment: str, *, rank: int, ranks: int, wait: Callable[[], None], log: Log
) -> None:
    """Generate one rank's share of the answers that `make_predictions` then finds. `wait` returns when all call it."""
    asked = Examination.of(project, dataset, experiment)
    if rank == 0:
        cache = Generations(project.cache("generations"), asked.config.decoding, log)
        for key in asked.keys():
            cache.join(key)  # what a killed evaluation left: all ranks are to share the same rest
        asked.tuned()  # unpacks the base and keeps the merged weights, which others then only read
    wait()
    asked.answers(log, rank=rank, ranks=ranks)
    wait()


def make_predictions(project: Project, dataset: str, experiment: str, log: Log = print) -> dict[str, Any]:
    """Answer the validation and test samples of an experiment, score them, and write `predictions`.

    Generation resumes where a killed run stopped, and the base's answers are kept by content, since they stay the
    same from training to training.
    """
    asked = Examination.of(project, dataset, experiment)
    config, chosen, tables, requests = asked.config, asked.chosen, asked.tables, asked.requests
    answers, base_answers, redrawn = asked.settled_answers(log)
    latency = measure_latency(asked, log)

    kept = asked.kept_scores(log)
    sets = {}
    with Scorer(project, dataset, list(chosen), tables, log) as scorer:
        asked.check_unchanged()  # the gold that the scorer has just read is that of the questions

        def scored(name: str, questions: Sequence[Question], answers: Generated) -> list[Row]:
            def score(part: Sequence[Question]) -> list[Row]:
                return scorer.with_suite(part, scorer.score(part, answers), config.evaluation)

            return kept.rows(name, questions, answers, score)

        sets["predictions.parquet"] = scored("adapter", asked.everything, answers)
        if config.evaluation.baseline:
            sets["base.parquet"] = scored("base", chosen["test"], base_answers)
    asked.check_unchanged()
    folder = project.path(dataset, "predictions", experiment)
    with replacing_folder(folder) as fresh:
        for name, rows in sets.items():
            pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), fresh / name, compression="zstd")
        write_json(fresh / "latency.json", latency)
        verdicts = _verdicts(sets["predictions.parquet"], requests)
        confidence = fit_confidence(verdicts, asked.adapter.version, config.decoding)
        if confidence is not None:
            confidence.save(fresh)
        total = {s: sum(1 for q in load_usable(project, dataset, [s])) for s in chosen}
        facts = {
            "questions": {s: len(questions) for s, questions in chosen.items()},
            "of": total,
            "adapter_version": asked.adapter.version,
            "gold_version": asked.gold_version,
            MADE_OF: {
                "adapter": asked.adapter.version,
                "prompts": asked.prompts["data_version"],
                "sql": asked.prompts[MADE_OF]["sql"],
            },
            DECODING: config.decoding.model_dump(exclude_defaults=True),
            "uses_table_content": [*asked.adapter.format.content_read, *content_read(config.decoding)],
            "latency_p95_ms": latency["total_ms"].get("p95"),
            "error_kinds": list(asked.gold.ERROR_KINDS),
            **({"redrawn": redrawn} if redrawn else {}),
        }
        if (about := asked.gold.about(project, dataset)) is not None:
            facts["data"] = about | {"linking": asked.prompts.get("linking")}
        write_manifest(fresh, content_hash(*(file_hash(fresh / name) for name in sorted(sets))), facts)
    kept.forget()
    return read_manifest(folder, made_by="")


def _verdicts(rows: Sequence[Row], requests: dict[str, Request]) -> list[Verdict]:
    """What confidence is fitted on: validation answers only."""
    return [
        Verdict(r["logprob"], r["ex"], off_topic(requests[r["id"]].question, requests[r["id"]].schemas))
        for r in rows
        if r["split"] == "validation"
    ]


def measure_latency(asked: Examination, log: Log) -> dict[str, Any]:
    """Milliseconds from one test question to its answer, as `t2s ask` gives it: draws and looking at tables included.

    The questions are a sample, and each is asked as the first about its tables: nothing of their schema is kept. Cold
    (weights loaded and first answer) apart from warm ones, which leave the cold query out. `prefill` and `decode`
    are the model's own time; what else `total` has is the executor's. Timings belong to the machine that they were
    taken on.
    """
    from t2s_assets.text2sql.decoding import Decoder

    decoding = asked.config.decoding
    reads = uses_table_content(decoding)
    started = time.perf_counter()
    model, tokenizer = asked.tuned()
    loaded = time.perf_counter()
    decoder = Decoder(model, tokenizer, options(decoding, waited_for=True))
    evaluation = asked.config.evaluation
    questions = list(
        sample(asked.chosen["test"], evaluation.latency_questions, seed=evaluation.seed, key=lambda q: q.id)
    )
    timings, first = [], 0.0
    with SqlExecutor() as executor:
        for position, question in enumerate(questions):
            decoder.forget_tables()
            begun = time.perf_counter()
            request = [asked.requests[question.id]]
            content = Content.of(asked.tables[question.table_id].prompted) if reads else None
            (completion,) = settled(decoder, request, decoder.generate(request), [content], decoding, executor)
            taken = time.perf_counter() - begun
            if position == 0:
                first = taken
            if position > 0 or len(questions) == 1:
                timings.append((taken, completion))
    total = [1000 * s for s, _ in timings]
    found = {
        "n": len(timings),
        "cold_load_ms": round(1000 * (loaded - started), 1),
        "cold_first_ms": round(1000 * first, 1),
        "total_ms": _rounded(percentiles(total)),
        "prefill_ms": _rounded(percentiles([1000 * c.prefill_seconds for _, c in timings])),
        "decode_ms": _rounded(percentiles([1000 * c.decode_seconds for _, c in timings])),
        "tokens_a_query": round(sum(c.n_tokens for _, c in timings) / max(1, len(timings)), 1),
        "forward_passes_a_query": round(sum(c.forward_passes for _, c in timings) / max(1, len(timings)), 1),
        "each_ms": [round(t, 1) for t in total],
    }
    shares = ", ".join(f"{name} {value} ms" for name, value in found["total_ms"].items())
    log(f"latency of {found['n']} single queries: {shares}")
    return found


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {k: round(v, 1) for k, v in values.items()}


def decoded_otherwise(project: Project, dataset: str, experiment: str, predictions: Mapping[str, Any]) -> list[str]:
    """The settings of `decoding` that predictions, by their manifest, were not made with: what they were and are."""
    was = predictions.get(DECODING)
    if was is None:
        return []
    # A setting that came later was what it is without being set.
    now = project.experiment(dataset, experiment).decoding.model_dump()
    was = DecodingConfig().model_dump() | was
    return [f"decoding.{name} was {was[name]}, is {value}" for name, value in now.items() if was[name] != value]


def recorded_decoding(
    project: Project, dataset: str, experiment: str, predictions: Mapping[str, Any]
) -> DecodingConfig | None:
    """How predictions were decoded, by their manifest; None where that does not say.

    Raises:
        ConfigError: what it says breaks rules.
    """
    found = predictions.get(DECODING)
    where = project.path(dataset, "predictions", experiment) / MANIFEST
    return None if found is None else validated(DecodingConfig, found, where)


def load_predictions(
    project: Project, dataset: str, experiment: str, name: str = "predictions", *, split: str | None = None
) -> list[dict[str, Any]]:
    """The rows of `predictions`, or of `base` for the untrained model, of one split or of both.

    Raises:
        DataError: `predictions` are not there, or either cannot be read.
    """
    folder, made_by = project.path(dataset, "predictions", experiment), f"t2s evaluate {dataset}/{experiment}"
    read_manifest(folder, made_by=made_by)
    path = folder / f"{name}.parquet"
    filters = [("split", "==", split)] if split is not None else None
    try:
        return pq.read_table(path, filters=filters).to_pylist()
    except FileNotFoundError as e:
        if name == "base":  # where `evaluation.baseline` is false
            return []
        raise DataError(f"{path} is not there; make it with: {made_by}") from e
    except pa.ArrowException as e:
        raise DataError(f"{path} cannot be read ({e}); make it again with: {made_by}") from e


def first_predictions(folder: Path, columns: Sequence[str], count: int) -> tuple[list[dict[str, Any]], int]:
    """(these columns of the first rows of the `predictions` in a folder, how many rows there are in all).

    Raises:
        OSError, ValueError: they are not there, or cannot be read.
    """
    with pq.ParquetFile(folder / "predictions.parquet") as file:
        first = next(file.iter_batches(batch_size=count, columns=list(columns)), None)
        return [] if first is None else first.to_pylist(), file.metadata.num_rows
