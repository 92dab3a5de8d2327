"""How long one answer takes beside other processes: on as many threads as get a core, and on all of them.

    python benchmarks/busy.py [--model wikisql/smollm2-cpu] [--limit 20] [--busy 0 1 2] [--json FILE]

The questions are `decoding.py`'s. For each number of `--busy` processes,
each question is answered in turn by one decoder that takes fewer threads when cores are wanted, as `t2s ask` does, and
by one that keeps to torch's threads. The SQL is the same. Run it on an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from decoding import load, questions

from t2s_assets.text2sql.config import DecodingConfig
from t2s_assets.text2sql.decoding import Decoder
from t2s_assets.text2sql.errors import T2SError
from t2s_assets.text2sql.evaluation.generations import options as decoding_options
from t2s_assets.text2sql.merged import with_weights
from t2s_assets.text2sql.metrics import percentiles
from t2s_assets.text2sql.storage import Project

BUSY = "while True: sum(i * i for i in range(100_000))"


@contextmanager
def busy(count: int) -> Iterator[None]:
    """So many processes that each want a core."""
    processes = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(count)]
    try:
        time.sleep(1)
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="wikisql/smollm2-cpu", help="DATASET/EXPERIMENT")
    parser.add_argument("--limit", type=int, default=20, help="questions")
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 1, 2], help="numbers of processes beside")
    parser.add_argument("--json", type=Path, help="write the figures here")
    given = parser.parse_args()
    if given.limit < 1 or min(given.busy) < 0:
        parser.error("--limit: at least one question is needed; --busy: no number below 0")
    project = Project.find()
    try:
        asked = questions(given.model, given.limit, project)
        model, tokenizer = load(given.model, "auto", project)
    except T2SError as e:
        sys.exit(f"{e}\n(this benchmark needs a trained model with its prompts)")
    model = with_weights(model, DecodingConfig())
    found = []
    for count in given.busy:
        ways = {
            "free": Decoder(model, tokenizer, decoding_options(DecodingConfig(), waited_for=True)),
            "all": Decoder(model, tokenizer, decoding_options(DecodingConfig())),
        }
        taken: dict[str, list[float]] = {way: [] for way in ways}
        same = 0
        with torch.inference_mode(), busy(count):
            for decoder in ways.values():
                decoder.generate(asked[:1])
            for request in asked:
                texts = set()
                for way, decoder in ways.items():
                    decoder.forget()
                    began = time.perf_counter()
                    texts.add(decoder.generate([request])[0].text)
                    taken[way].append(1000 * (time.perf_counter() - began))
                same += len(texts) == 1
        row = {
            "busy": count,
            "threads": torch.get_num_threads(),
            "free_ms": percentiles(taken["free"]),
            "all_ms": percentiles(taken["all"]),
            "speedup_p50": statistics.median(taken["all"]) / statistics.median(taken["free"]),
            "same_answers": same,
            "of": len(asked),
        }
        found.append(row)
        shown = {way: ", ".join(f"{k} {v:,.0f} ms" for k, v in row[f"{way}_ms"].items()) for way in ways}
        print(
            f"beside {count}: on free cores {shown['free']}; on all {row['threads']} threads {shown['all']}; "
            f"{row['speedup_p50']:.2f} times; {same} of {len(asked)} answers the same",
            flush=True,
        )
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
