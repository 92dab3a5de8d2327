"""What the grammar, value grounding, execution guidance and int8 weights add, on validation questions.

    python benchmarks/ablation.py --model wikisql/smollm2-cpu [--limit 200] [--threads 2] [--json FILE]

Prints a Markdown table: EM, EX, validity (95 % Wilson intervals), and milliseconds of one question at a time. Every
variant answers the same seeded sample of the validation split, one question after another; schemas are fed anew each
time. Test questions are never read. The variants marked with * read cell values.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from t2s_assets.text2sql import base_models
from t2s_assets.text2sql.config import DecodingConfig
from t2s_assets.text2sql.decoding import Decoder, Request
from t2s_assets.text2sql.evaluation.examination import request_for
from t2s_assets.text2sql.evaluation.generations import options
from t2s_assets.text2sql.evaluation.guidance import Content, settled, uses_table_content
from t2s_assets.text2sql.evaluation.scoring import score
from t2s_assets.text2sql.execution import SqlExecutor
from t2s_assets.text2sql.merged import load_ready
from t2s_assets.text2sql.metrics import percentiles, rate
from t2s_assets.text2sql.prepare import load_tables, load_usable, sample
from t2s_assets.text2sql.prompt_datasets import load_prompts
from t2s_assets.text2sql.prompts import clean_question
from t2s_assets.text2sql.storage import Project
from t2s_assets.text2sql.trained import find_adapter

VARIANTS: dict[str, dict[str, Any]] = {
    "none": {"grammar": "none"},
    "grammar": {},
    "grammar, grounding *": {"value_grounding": True},
    "grammar, execution guidance *": {"execution_guided": True},
    "grammar, both *": {"value_grounding": True, "execution_guided": True},
    "grammar, int8": {"weights": "int8"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, metavar="DATASET/EXPERIMENT")
    parser.add_argument("--limit", type=int, default=200, help="validation questions")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="*", choices=list(VARIANTS), default=list(VARIANTS), help="variants to run")
    parser.add_argument("--json", type=Path, metavar="FILE")
    given = parser.parse_args()

    import torch

    torch.set_num_threads(given.threads)
    project = Project.find()
    dataset, experiment = given.model.split("/")
    adapter = find_adapter(given.model, project)
    placement = base_models.place_answering(adapter.experiment.hardware)
    base = DecodingConfig(max_new_tokens=adapter.experiment.decoding.max_new_tokens)
    tables = load_tables(project, dataset, ["validation"])
    prompts = {r["id"]: r["prompt"] for r in load_prompts(project, dataset, experiment)["validation"].to_list()}
    asked = list(sample(load_usable(project, dataset, ["validation"]), given.limit, seed=17, key=lambda q: q.id))
    gold = adapter.format.gold
    requests = [request_for(prompts[q.id], clean_question(q.text), tables[q.table_id].schemas, gold) for q in asked]
    contents = [Content.of(tables[q.table_id].prompted) for q in asked]
    full = load_ready(adapter, project, placement, base)
    found: dict[str, dict[str, Any]] = {}
    texts: dict[str, list[str]] = {}
    in_float32 = (placement.device, placement.dtype) == ("cpu", "float32")
    for name in given.only:
        if VARIANTS[name].get("weights") == "int8" and not in_float32:
            print(f"left out: {name}: int8 weights are for float32 on a CPU, this is {placement.dtype}", flush=True)
            continue
        config = base.model_copy(update=VARIANTS[name])
        network, tokenizer = full if config.weights == "full" else load_ready(adapter, project, placement, config)
        answers, milliseconds = answer(
            Decoder(network, tokenizer, options(config, waited_for=True)), requests, contents, config
        )
        rows = score(project, dataset, asked, tables, {q.id: a for q, a in zip(asked, answers)}, print)
        found[name] = {
            "n": len(rows),
            **{m: rate([r[m] for r in rows]) for m in ("em", "ex", "valid")},
            "ms": percentiles(milliseconds),
            "uses_table_content": uses_table_content(config),
        }
        texts[name] = [a["text"] for a in answers]
        if "grammar" in texts:
            same = sum(a == b for a, b in zip(texts[name], texts["grammar"]))
            found[name]["same_as_grammar"] = same / len(asked)
    print(markdown(found))
    if given.json:
        given.json.write_text(json.dumps(found, indent=2))


def answer(
    decoder: Decoder, requests: list[Request], contents: list[Any], config: DecodingConfig
) -> tuple[list[dict[str, Any]], list[float]]:
    """Answers as `predictions` keeps them, and the milliseconds of each."""
    answers, milliseconds = [], []
    with SqlExecutor() as executor:
        decoder.generate(requests[:1])
        for request, content in zip(requests, contents):
            decoder.forget()
            started = time.perf_counter()
            completions = settled(decoder, [request], decoder.generate([request]), [content], config, executor)
            milliseconds.append(1000 * (time.perf_counter() - started))
            answers.append(vars(completions[0]))
    return answers, milliseconds


def markdown(found: dict[str, dict[str, Any]]) -> str:
    """The table for docs/decoding.md."""
    lines = [
        "| | EM | EX | validity | p50 ms | p95 ms | same SQL as `grammar` |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, row in found.items():
        rates = " | ".join(shown(row[m]) for m in ("em", "ex", "valid"))
        same = f"{row['same_as_grammar']:.1%}" if "same_as_grammar" in row else ""
        lines.append(f"| {name} | {rates} | {row['ms']['p50']:.0f} | {row['ms']['p95']:.0f} | {same} |")
    n = next(iter(found.values()))["n"]
    return "\n".join([*lines, "", f"n = {n} validation questions. * reads cell values."])


def shown(rate: dict[str, Any]) -> str:
    return f"{rate['value']:.1%} ({rate['low']:.1%}-{rate['high']:.1%})"


if __name__ == "__main__":
    main()
