"""Decoding against transformers' `generate` and another engine: same weights, same prompts, in one run.

    python benchmarks/decoding.py --model FOLDER [--limit 100] [--json FILE] [--threads N] [--engines ...]

FOLDER holds a causal LM as `save_pretrained` writes it, or a PEFT adapter, which is merged into its base.
The questions are a seeded sample of WikiSQL's test split (`--archive`, or T2S_WIKISQL_ARCHIVE). Engines:

- ours: `Decoder` with the grammar, on weights laid out as `t2s ask` has them; alone with guesses, every schema seen
  for the first time, and batched;
- generate: `model.generate` greedily, in its default setting, alone and in left-padded batches;
- lookup: `generate` with prompt-lookup decoding, alone (transformers has it for one row only);
- ctranslate2: the same weights in the same precision, alone and batched; skipped with a line where it is
  not installed (`pip install ctranslate2`).

`generate` stops at `--max-new-tokens`, as ours does. A model not trained to write SQL and stop makes it
run to that limit, which flatters ours: give a trained one.

`same_answers_share` compares ours under the grammar with `generate`, which has none, so it counts what the grammar
repairs as another answer; `same_answers_without_grammar` compares both without.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import torch

from t2s_assets.text2sql.datasets.wikisql import read_wikisql
from t2s_assets.text2sql.decoding import Decoder, DecodingOptions, Request
from t2s_assets.text2sql.decoding.packed import packed
from t2s_assets.text2sql.prompts import FORMAT_FILE, TABLE, PromptFormat, render
from t2s_assets.text2sql.query import identifier, table_identifier
from t2s_assets.text2sql.schema import TableSchema

ENGINES = ("lookup", "ctranslate2")
BATCH_SIZES = (4, 8, 16, 32)


@dataclass
class Timings:
    """What one engine did with every question: SQL text, seconds and seconds to the first token of
    each alone, tokens and forward passes in all, and batched questions a second by batch size."""

    texts: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    first_token: list[float] = field(default_factory=list)
    tokens: int = 0
    passes: int | None = None
    batch_qps: dict[int, float] = field(default_factory=dict)


def load(folder: Path, dtype: str) -> tuple[Any, Any]:
    """Model and tokenizer of a folder, an adapter merged in float32 before the cast."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if (folder / "adapter_config.json").is_file():
        from peft import AutoPeftModelForCausalLM

        model = AutoPeftModelForCausalLM.from_pretrained(folder, dtype=torch.float32).merge_and_unload()
    else:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return model.to(device, getattr(torch, dtype)).eval(), AutoTokenizer.from_pretrained(folder)


def questions(archive: Path, folder: Path, tokenizer: Any, limit: int) -> list[Request]:
    """A seeded sample of the test split, as prompts in the model's format (else the plain one)."""
    source = read_wikisql(archive)
    tables = {table.id: table for table in source.tables if table.split == "test"}
    asked = [question for question in source.questions if question.split == "test"]
    sample = random.Random(17).sample(asked, min(limit, len(asked)))
    prompt_format = PromptFormat.load(folder) if (folder / FORMAT_FILE).is_file() else PromptFormat()
    requests = []
    for question in sample:
        table = tables[question.table_id]
        schema = table.schema(TABLE)
        prompt = render(prompt_format, tokenizer, schema, question.text, rows=table.rows)
        requests.append(Request(prompt, question.text, schema))
    return requests


def runs(sql: str, schema: TableSchema) -> bool:
    """Whether DuckDB binds `sql` over an empty table of this schema (nothing is executed)."""
    columns = [f"{identifier(c.name)} {'DOUBLE' if c.type == 'real' else 'VARCHAR'}" for c in schema.columns]
    with duckdb.connect(config={"enable_external_access": "false"}) as connection:
        connection.execute(f"CREATE TABLE {table_identifier(schema.name)} ({', '.join(columns)})")
        try:
            statements = connection.extract_statements(sql)
            connection.execute(f"EXPLAIN {sql}")
        except duckdb.Error:
            return False
    return len(statements) == 1


def ours(
    model: Any, tokenizer: Any, requests: Sequence[Request], max_new_tokens: int
) -> tuple[Timings, list[float], list[str]]:
    """Our engine, the seconds of each question asked again when its schema is known, and answers without grammar."""
    alone = Decoder(model, tokenizer, DecodingOptions(max_new_tokens=max_new_tokens, batch_size=1, draft_tokens=8))
    alone.generate(requests[:2])
    result, again = Timings(passes=0), []
    for request in requests:
        alone.forget()
        start = time.perf_counter()
        completion = alone.generate([request])[0]
        result.seconds.append(time.perf_counter() - start)
        result.texts.append(completion.text)
        result.first_token.append(completion.prefill_seconds)
        result.tokens += completion.n_tokens
        result.passes += completion.forward_passes
        start = time.perf_counter()
        alone.generate([request])
        again.append(time.perf_counter() - start)
    batched = Decoder(model, tokenizer, DecodingOptions(max_new_tokens=max_new_tokens))
    batched.generate(requests[:2])
    batched.forget()
    start = time.perf_counter()
    batched.generate(requests)
    result.batch_qps[batched.options.batch_size] = len(requests) / (time.perf_counter() - start)
    free = Decoder(model, tokenizer, DecodingOptions("none", max_new_tokens=max_new_tokens)).generate(requests)
    return result, again, [completion.text for completion in free]


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


def generate(model: Any, tokenizer: Any, requests: Sequence[Request], max_new_tokens: int, **settings: Any) -> Timings:
    """transformers' `generate`, greedy; batched too unless `settings` ask for prompt lookup."""
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    settings = {"max_new_tokens": max_new_tokens, "do_sample": False, "pad_token_id": pad, **settings}
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
    for request in requests:
        streamer, start = _FirstToken(), time.perf_counter()
        inputs = encode([request.prompt])
        written = model.generate(**inputs, **settings, streamer=streamer)[0, inputs["input_ids"].shape[1] :]
        result.texts.append(tokenizer.decode(written, skip_special_tokens=True))
        result.seconds.append(time.perf_counter() - start)
        result.first_token.append(streamer.at - start)
        result.tokens += len(written)
    hook.remove()
    if "prompt_lookup_num_tokens" not in settings:
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        for size in BATCH_SIZES:
            start = time.perf_counter()
            for at in range(0, len(requests), size):
                written = model.generate(**encode([r.prompt for r in requests[at : at + size]]), **settings)
                tokenizer.batch_decode(written, skip_special_tokens=True)
            result.batch_qps[size] = len(requests) / (time.perf_counter() - start)
    return result


def with_ctranslate2(model: Any, tokenizer: Any, requests: Sequence[Request], max_new_tokens: int) -> Timings | None:
    """CTranslate2 with the same weights, or None where it is not installed."""
    try:
        import ctranslate2
        from ctranslate2.converters import TransformersConverter
    except ImportError:
        print("ctranslate2: not installed (pip install ctranslate2), skipped")
        return None
    result = Timings()
    compute = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}[model.dtype]
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
        for request in requests:
            arrivals: list[float] = []

            def note(step: Any, arrivals: list[float] = arrivals) -> bool:
                arrivals.append(time.perf_counter())
                return False

            start = time.perf_counter()
            written = answer([request.prompt], note)[0]
            result.texts.append(tokenizer.decode(written, skip_special_tokens=True))
            result.seconds.append(time.perf_counter() - start)
            result.first_token.append(arrivals[0] - start)
            result.tokens += len(written)
        for size in BATCH_SIZES:
            start = time.perf_counter()
            for at in range(0, len(requests), size):
                answer([request.prompt for request in requests[at : at + size]])
            result.batch_qps[size] = len(requests) / (time.perf_counter() - start)
    return result


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of the values do not exceed."""
    return sorted(values)[max(0, -int(-share * len(values) // 1) - 1)]


def summary(name: str, timings: Timings, requests: Sequence[Request], reference: Timings) -> dict[str, Any]:
    """One engine's figures: milliseconds alone, tokens and forward passes, batched questions a second."""
    total = sum(timings.seconds)
    return {
        "engine": name,
        "p50_ms": round(1000 * statistics.median(timings.seconds), 1),
        "p95_ms": round(1000 * percentile(timings.seconds, 0.95), 1),
        "ttft_p50_ms": round(1000 * statistics.median(timings.first_token), 1),
        "tokens_per_second": round(timings.tokens / total, 1),
        "tokens_per_query": round(timings.tokens / len(requests), 1),
        "passes_per_query": None if timings.passes is None else round(timings.passes / len(requests), 2),
        "batch_qps": {str(size): round(qps, 2) for size, qps in timings.batch_qps.items()},
        "same_answers_share": sum(a == b for a, b in zip(timings.texts, reference.texts)) / len(requests),
        "validity": sum(runs(t, r.schema) for r, t in zip(requests, timings.texts)) / len(requests),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder of a causal LM or of a PEFT adapter")
    parser.add_argument(
        "--archive",
        type=Path,
        default=Path(os.environ.get("T2S_WIKISQL_ARCHIVE", "../shared/wikisql/data.tar.bz2")),
        help="WikiSQL's data.tar.bz2 or its unpacked folder",
    )
    parser.add_argument("--limit", type=int, default=100, help="questions")
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")
    parser.add_argument("--threads", type=int, help="CPU threads of every engine (torch's default otherwise)")
    parser.add_argument("--engines", nargs="*", choices=ENGINES, default=list(ENGINES), help="beside ours and generate")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    if options.limit < 1:
        parser.error("--limit: at least one question is needed")
    if options.threads:
        torch.set_num_threads(options.threads)
    model, tokenizer = load(options.model, options.dtype)
    requests = questions(options.archive, options.model, tokenizer, options.limit)

    measured: dict[str, Timings] = {}
    with torch.inference_mode():
        measured["ours"], again, free = ours(packed(model), tokenizer, requests, options.max_new_tokens)
        print(f"ours: {len(requests)} questions done", flush=True)
        # Every ratio, and every comparison of answers, is against this one.
        measured["generate"] = generate(model, tokenizer, requests, options.max_new_tokens)
        if "lookup" in options.engines:
            measured["lookup"] = generate(
                model, tokenizer, requests, options.max_new_tokens, prompt_lookup_num_tokens=10
            )
        if "ctranslate2" in options.engines:
            other = with_ctranslate2(model, tokenizer, requests, options.max_new_tokens)
            if other is not None:
                measured["ctranslate2"] = other

    engines = [summary(name, timings, requests, measured["generate"]) for name, timings in measured.items()]
    mine, reference = engines[0], engines[1]
    batch_qps = max(mine["batch_qps"].values())
    report = {
        "questions": len(requests),
        "dtype": options.dtype,
        "device": str(model.device),
        "threads": torch.get_num_threads(),
        "single_p50_ms": mine["p50_ms"],
        "single_p95_ms": mine["p95_ms"],
        "single_known_schema_p50_ms": round(1000 * statistics.median(again), 1),
        "single_speedup_p50": round(reference["p50_ms"] / mine["p50_ms"], 2),
        "batch_qps": batch_qps,
        "batch_speedup": round(batch_qps / max(reference["batch_qps"].values()), 2),
        "same_answers_share": mine["same_answers_share"],
        "same_answers_without_grammar": sum(a == b for a, b in zip(free, measured["generate"].texts)) / len(requests),
        "validity": mine["validity"],
        "engines": engines,
    }
    for engine in engines:
        print(" ".join(f"{key}={value}" for key, value in engine.items()))
    print(
        f"alone: {report['single_speedup_p50']}x generate at p50; batched: {report['batch_speedup']}x generate "
        f"at its best batch size; same answers: {report['same_answers_share']:.1%} "
        f"(without grammar {report['same_answers_without_grammar']:.1%}); "
        f"valid: {report['validity']:.1%}"
    )
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
