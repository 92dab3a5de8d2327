"""Batches beside single questions on SmolLM2-135M itself, as `mini/smollm2` loads it, over the bundled questions."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from t2s_assets.text2sql import base_models, prepare
from t2s_assets.text2sql.config import DecodingConfig
from t2s_assets.text2sql.decoding import Decoder, DecodingOptions, Request
from t2s_assets.text2sql.evaluation.examination import request_for
from t2s_assets.text2sql.merged import with_weights
from t2s_assets.text2sql.prompt_datasets import build_examples
from t2s_assets.text2sql.prompts import clean_question, resolve_format
from t2s_assets.text2sql.storage import Project

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
QUESTIONS = 500


@pytest.mark.slow
def test_a_batch_gives_the_answers_of_one_at_a_time(tmp_path: Path) -> None:
    import torch

    torch.set_num_threads(os.cpu_count() or 1)
    project = Project(CONFIGS, tmp_path)
    config = project.experiment("mini", "smollm2")
    for make in (prepare.make_tables, prepare.make_questions, prepare.make_sql):
        make(project, "mini", log=lambda line: None)
    base = base_models.fetch(config.base_model, project)
    tokenizer = base_models.load_tokenizer(base)
    format = resolve_format(config.prompt, tokenizer)
    requests: list[Request] = []
    for split in ("validation", "test"):
        tables = prepare.load_tables(project, "mini", [split])
        asked = {q.id: q for q in prepare.load_usable(project, "mini", [split])}
        for example in build_examples(format, tokenizer, project, "mini", split):
            schemas, text = tables[example.table_id].schemas, clean_question(asked[example.id].text)
            requests.append(request_for(example.prompt, text, schemas, format.gold))
    requests = requests[:QUESTIONS]
    assert len(requests) == QUESTIONS

    placement = base_models.Placement("cpu", "float32", "sdpa", "none")
    model = with_weights(base_models.load_model(base, placement).eval(), DecodingConfig())
    with torch.inference_mode():
        together = Decoder(model, tokenizer, DecodingOptions(max_new_tokens=64)).generate(requests)
        single = Decoder(model, tokenizer, DecodingOptions(max_new_tokens=64, batch_size=1, draft_tokens=8))
        alone = [single.generate([request])[0] for request in requests]
    assert [c.text for c in together] == [c.text for c in alone]
    assert len({c.text for c in alone}) > QUESTIONS / 3
