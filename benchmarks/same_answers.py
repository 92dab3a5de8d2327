"""Do a batch and one question at a time give the same SQL? In each number format, on a trained model.

    python benchmarks/same_answers.py [--model wikisql/smollm2-cpu] [--limit 500] [--dtypes float32 ...] [--json FILE]

The questions are `decoding.py`'s: a seeded sample of the test split's tables, all questions of each. Every one is
answered in batches, as an evaluation does, and alone with guesses, as `t2s ask` does. In float32 the answers must be
the same, and the exit status says so; in 16 bits the order of additions can change a choice, and the rate is told.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch
from decoding import load, questions, shown

from t2s_assets.text2sql.config import DecodingConfig
from t2s_assets.text2sql.decoding import Decoder
from t2s_assets.text2sql.errors import T2SError
from t2s_assets.text2sql.evaluation.generations import options as decoding_options
from t2s_assets.text2sql.merged import with_weights
from t2s_assets.text2sql.metrics import rate
from t2s_assets.text2sql.storage import Project


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="wikisql/smollm2-cpu", help="DATASET/EXPERIMENT")
    parser.add_argument("--limit", type=int, default=500, help="questions")
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument(
        "--dtypes", nargs="+", choices=["float32", "bfloat16", "float16"], default=["float32", "bfloat16"]
    )
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    if options.limit < 1:
        parser.error("--limit: at least one question is needed")
    project, found = Project.find(), {}
    for dtype in options.dtypes:
        try:
            requests = questions(options.model, options.limit, project)
            model, tokenizer = load(options.model, dtype, project)
        except T2SError as e:
            sys.exit(f"{e}\n(this benchmark needs a trained model with its prompts)")
        model = with_weights(model, DecodingConfig())
        with torch.inference_mode():
            settings = decoding_options(DecodingConfig(max_new_tokens=options.max_new_tokens))
            together = Decoder(model, tokenizer, settings).generate(requests)
            single = Decoder(model, tokenizer, settings)
            alone = []
            for index in shown(dtype, range(len(requests))):
                alone += single.generate([requests[index]])
        differ = [one.text != other.text for one, other in zip(alone, together)]
        found[dtype] = {"other_answers": sum(differ), **rate(differ)}
        low, high = (100 * found[dtype][name] for name in ("low", "high"))
        print(f"{dtype}: {sum(differ)} of {len(differ)} answers differ ({low:.2f}-{high:.2f} %)", flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    sys.exit(1 if found.get("float32", {}).get("other_answers") else 0)


if __name__ == "__main__":
    main()
