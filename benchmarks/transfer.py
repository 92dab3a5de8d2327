"""What a model trained on one dataset knows of another: its adapter and its untrained base on a validation sample.

    python benchmarks/transfer.py --model mini/smollm2 --dataset wikisql [--limit 1000] [--json FILE]

Both answer the same seeded sample of the other dataset's validation questions, in the adapter's prompt format and under
the same grammar. Prints EM, EX, EX strict and validity with 95 % Wilson intervals. Test questions are never read.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from t2s_assets.text2sql import base_models
from t2s_assets.text2sql.decoding import Decoder
from t2s_assets.text2sql.evaluation.examination import request_for
from t2s_assets.text2sql.evaluation.generations import options, record
from t2s_assets.text2sql.evaluation.scoring import score
from t2s_assets.text2sql.merged import load_ready, with_weights
from t2s_assets.text2sql.metrics import rate
from t2s_assets.text2sql.prepare import load_tables, load_usable, sample
from t2s_assets.text2sql.prompt_datasets import build_examples
from t2s_assets.text2sql.prompts import clean_question
from t2s_assets.text2sql.storage import Project
from t2s_assets.text2sql.trained import find_adapter

MEASURES = {"em": "EM", "ex": "EX", "ex_strict": "EX strict", "valid": "validity"}


def main() -> None:
    """Ask both models, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mini/smollm2", metavar="DATASET/EXPERIMENT")
    parser.add_argument("--dataset", default="wikisql", help="another dataset, prepared with `t2s prepare`")
    parser.add_argument("--limit", type=int, default=1000, help="validation questions")
    parser.add_argument("--json", type=Path, metavar="FILE")
    given = parser.parse_args()
    project = Project.find()
    adapter = find_adapter(given.model, project)
    decoding = adapter.experiment.decoding
    placement = base_models.place_answering(adapter.experiment.hardware)
    base = base_models.fetch(adapter.experiment.base_model, project)
    tokenizer = base_models.load_tokenizer(base)
    examples = build_examples(adapter.format, tokenizer, project, given.dataset, "validation")
    prompts = {e.id: e.prompt for e in examples}
    tables = load_tables(project, given.dataset, ["validation"])
    usable = load_usable(project, given.dataset, ["validation"])
    asked = list(sample(usable, given.limit, seed=17, key=lambda q: q.id))
    requests = [
        request_for(prompts[q.id], clean_question(q.text), tables[q.table_id].schemas, adapter.format.gold)
        for q in asked
    ]
    found: dict[str, dict[str, Any]] = {}
    for name in ("tuned", "untrained base"):
        if name == "tuned":
            network, _ = load_ready(adapter, project, placement, decoding)
        else:
            network = with_weights(base_models.load_model(base, placement).eval(), decoding)
        completions = Decoder(network, tokenizer, options(decoding)).generate(requests)
        answers = {q.id: record(c) for q, c in zip(asked, completions)}
        rows = score(project, given.dataset, asked, tables, answers, print)
        # EX strict leaves out the questions whose gold returns nothing.
        found[name] = {m: rate([r[m] for r in rows if r[m] is not None]) for m in MEASURES}
    print(f"{given.model} on {len(asked):,} of {len(usable):,} validation questions of {given.dataset}")
    for name, rates in found.items():
        shown = ", ".join(
            f"{label} {rates[m]['value']:.1%} ({rates[m]['low']:.1%}-{rates[m]['high']:.1%})"
            for m, label in MEASURES.items()
        )
        print(f"  {name:15} {shown}")
    if given.json:
        given.json.write_text(json.dumps({"questions": len(asked), **found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
