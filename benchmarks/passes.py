"""Forward passes that an answer takes when the model writes the gold SQL: what forced tokens and guesses save.

    python benchmarks/passes.py [--experiment wikisql/smollm2-cpu] [--split validation] [--limit 400] [--json FILE]

No model is needed: at each point where one would choose, the gold's next token is chosen. So the figures belong to the
grammar, the guesses and the questions, not to a machine or an adapter. Guesses are made of the question and the names
of its columns; their rules were written by looking at questions of the training split.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
from itertools import accumulate
from pathlib import Path
from typing import Any

from decoding import percentile

from t2s_assets.text2sql import base_models
from t2s_assets.text2sql.decoding.drafts import Drafter
from t2s_assets.text2sql.decoding.grammar import GuideFactory
from t2s_assets.text2sql.decoding.rows import Row
from t2s_assets.text2sql.errors import T2SError
from t2s_assets.text2sql.evaluation.examination import request_for
from t2s_assets.text2sql.plain_text import encode
from t2s_assets.text2sql.prepare import gold_of, load_tables, load_usable
from t2s_assets.text2sql.prompt_datasets import load_prompts
from t2s_assets.text2sql.prompts import clean_question
from t2s_assets.text2sql.storage import Project

GUESSES = (0, 4, 8, 16)


def walked(row: Row, gold: list[int], guesses: int, eos: int) -> tuple[int, int] | None:
    """Passes until `row` has written `gold`, and guessed tokens that were wrong; None where the grammar refuses it, or
    spells a forced text by other tokens."""
    passes = wrong = 0
    while not row.done:
        guessed = len(row.feed(guesses)) - 1 - row.points[0].offset
        at = list(accumulate((len(point.segment) for point in row.points), initial=len(row.written)))
        chosen = [gold[place] if place < len(gold) else eos for place in at]
        if row.written != gold[: at[0]]:
            return None
        for point, token in zip(row.points, chosen):
            if point.allowed is not None and not point.allowed[token]:
                return None
            if point.segment[:1] != [token]:
                break
            guessed -= len(point.segment)

        def choice(number: int, refused: int | None = None, chosen: list[int] = chosen) -> tuple[int, float] | None:
            return None if refused is not None else (chosen[number], 0.0)

        row.choose(choice, frozenset([eos]))
        passes, wrong = passes + 1, wrong + guessed
    return (passes, wrong) if row.written == gold and not row.stuck else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiment", default="wikisql/smollm2-cpu", help="DATASET/EXPERIMENT with prompts")
    parser.add_argument("--split", default="validation")
    parser.add_argument("--limit", type=int, default=400, help="questions, seeded")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    if options.limit < 1:
        parser.error("--limit: at least one question is needed")
    project = Project.find()
    dataset, _, experiment = options.experiment.partition("/")
    try:
        kind = gold_of(project, dataset).FORMAT
        base = base_models.fetch(project.experiment(dataset, experiment).base_model, project)
        tables = load_tables(project, dataset, [options.split])
        prompts = {row["id"]: row for row in load_prompts(project, dataset, experiment)[options.split]}
        questions = [q for q in load_usable(project, dataset, [options.split]) if q.id in prompts]
    except T2SError as e:
        sys.exit(f"{e}\n(this benchmark needs prepared prompts: t2s prepare)")
    questions = random.Random(17).sample(questions, min(options.limit, len(questions)))
    tokenizer = base_models.load_tokenizer(base)
    eos = tokenizer.eos_token_id
    guides = GuideFactory(tokenizer, frozenset([eos]), len(tokenizer))
    drafter = Drafter(tokenizer, frozenset([eos]))

    found: dict[str, Any] = {"experiment": options.experiment, "split": options.split}
    for guesses in GUESSES:
        passes, wrong, tokens = [], 0, 0
        for question in questions:
            prompt, schemas = prompts[question.id]["prompt"], tables[question.table_id].schemas
            request = request_for(prompt, clean_question(question.text), schemas, kind)
            ids, gold = encode(tokenizer, [prompt, prompts[question.id]["completion"]])
            row = Row(0, request, ids, shared=0, limit=len(gold) + 32)
            row.guide, row.draft = guides.guide(request), drafter.draft(request, ids)
            row.start(0)
            if (ended := walked(row, gold, guesses, eos)) is not None:
                passes.append(ended[0])
                wrong += ended[1]
                tokens += len(gold) + 1
        if not passes:
            sys.exit(f"no gold of {options.experiment}'s {options.split} split is in the grammar as training spells it")
        figures = {
            "questions": len(passes),
            "left_out": len(questions) - len(passes),
            "tokens_a_query": round(tokens / len(passes), 1),
            "passes_mean": round(statistics.mean(passes), 2),
            "passes_p95": percentile(passes, 0.95),
            "wrong_tokens_a_query": round(wrong / len(passes), 1),
        }
        found[str(guesses)] = figures
        print(f"{guesses} guesses a pass: {' '.join(f'{key}={value}' for key, value in figures.items())}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
