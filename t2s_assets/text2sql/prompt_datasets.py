"""The `prompts` of an experiment: the prompt and completion of each question, in its format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from t2s_assets.text2sql import base_models
from t2s_assets.text2sql.config import Experiment
from t2s_assets.text2sql.errors import DataError, PromptError
from t2s_assets.text2sql.gold.prepared import check_made_of, manifests
from t2s_assets.text2sql.linking import named_in, recall
from t2s_assets.text2sql.metrics import percentiles
from t2s_assets.text2sql.plain_text import encode
from t2s_assets.text2sql.prepare import gold_of, load_tables, load_usable
from t2s_assets.text2sql.prompts import PromptFormat, resolve_format, shown_tables
from t2s_assets.text2sql.storage import Project, content_hash, read_manifest, replacing_folder, write_manifest

SOURCES = ("tables", "questions", "sql")
"""The assets that prompts are made of."""

BASE_IDENTITY = "base_identity"
"""Of a manifest of prompts: the base model whose tokenizer they are written and counted with."""


@dataclass(frozen=True)
class PromptExample:
    """One question as the model sees it, and for training the completion it should write.

    `table_id` names what it is asked about: a table, or a database. `linked` says that the prompt shows a choice of
    its columns, and `recall` the share of the gold's columns that its question alone finds (None: whole, or the gold
    names none).
    """

    id: str
    table_id: str
    prompt: str
    completion: str
    linked: bool = False
    recall: float | None = None


def build_examples(
    format: PromptFormat, tokenizer: Any, project: Project, dataset: str, split: str
) -> list[PromptExample]:
    """The prompts of one split, in the order of its usable questions (gold/protocol.py says which are).

    Those of `train` show the columns that their gold names, whatever the question finds.
    """
    tables = load_tables(project, dataset, [split])
    examples = []
    for question in load_usable(project, dataset, [split]):
        about = tables[question.table_id]
        schemas = question.shown(about)
        rows = about.sample_rows if format.uses_table_content else None
        if rows is not None:
            rows = [r for r, schema in zip(rows, about.schemas) if schema in schemas]
        prompt, shown = shown_tables(format, tokenizer, schemas, question.text, rows=rows)
        found = recall(shown, question.columns(about)) if shown != schemas else None
        if split == "train" and shown != schemas:
            keep = named_in(question.sql, schemas)
            prompt, _ = shown_tables(format, tokenizer, schemas, question.text, rows=rows, keep=keep)
        completion = question.completion(about)
        examples.append(PromptExample(question.id, question.table_id, prompt, completion, shown != schemas, found))
    return examples


def make_prompts(project: Project, dataset: str, experiment: str, log: Callable[[str], None] = print) -> dict[str, Any]:
    """Write `prompts` as a `datasets.DatasetDict` with `prompt`, `completion` and their token counts.

    Training examples longer than `max_length` would lose the end of their SQL and their EOS, so they are kept
    out of training, counted and listed. The token counts of `train` are of those that are left.

    Raises:
        DataError: the dataset is not prepared, or has no training question.
        PromptError: every training example is too long.
    """
    from datasets import Dataset, DatasetDict, Features, Value

    config = project.experiment(dataset, experiment)
    made_of = data_versions(project, dataset)  # before they are read: what replaces them meanwhile is other data
    base = base_models.fetch(config.base_model, project, log=log)
    tokenizer = base_models.load_tokenizer(base)
    gold = gold_of(project, dataset)
    format = resolve_format(config.prompt, tokenizer, gold.FORMAT)
    texts, counts = ("id", "table_id", "prompt", "completion"), ("prompt_tokens", "completion_tokens")
    features = Features({n: Value("string") for n in texts} | {n: Value("int64") for n in counts})
    splits, statistics, too_long, linking = {}, {}, {}, {}
    for split in ("train", "validation", "test"):
        examples = build_examples(format, tokenizer, project, dataset, split)
        if split == "train" and not examples:
            raise DataError(f"{dataset}: no training question; give some split: train")
        prompt_ids = encode(tokenizer, [e.prompt for e in examples])
        completion_ids = encode(tokenizer, [e.completion for e in examples])
        lengths = [len(p) + len(c) + 1 for p, c in zip(prompt_ids, completion_ids)]
        fits = [n <= format.max_length for n in lengths]
        too_long[split] = [e.id for e, ok in zip(examples, fits) if not ok]
        keep = fits if split == "train" else [True] * len(examples)
        if examples and not any(keep):
            raise PromptError(
                f"{dataset}/{experiment}: every {split} example is longer than prompt.max_length = "
                f"{format.max_length} tokens (the shortest has {min(lengths)}); raise it"
            )
        rows = [
            {
                "id": e.id,
                "table_id": e.table_id,
                "prompt": e.prompt,
                "completion": e.completion,
                "prompt_tokens": len(p),
                "completion_tokens": len(c) + 1,
            }
            for e, p, c, k in zip(examples, prompt_ids, completion_ids, keep)
            if k
        ]
        # By column, since a split without examples has no row that names them.
        splits[split] = Dataset.from_dict({n: [r[n] for r in rows] for n in features}, features=features)
        statistics[split] = length_statistics([n for n, k in zip(lengths, keep) if k])
        linking[split] = linking_facts(examples)
        tokens = ", ".join(f"{name} {n:,}" for name, n in statistics[split].items())
        shown = f" of tokens {tokens}" if tokens else ""
        log(f"{split}: {len(rows):,} prompts{shown}; {len(too_long[split]):,} over max_length")
    folder = project.path(dataset, "prompts", experiment)
    with replacing_folder(folder) as fresh:
        # One file each: an empty split gets none by default, and is then not read back.
        DatasetDict(splits).save_to_disk(fresh / "dataset", num_shards=dict.fromkeys(splits, 1))
        format.save(fresh)
        facts = {
            "made_of": made_of,
            BASE_IDENTITY: base.identity,
            "examples": {s: len(d) for s, d in splits.items()},
            "tokens": statistics,
            "over_max_length": {s: len(ids) for s, ids in too_long.items()},
            "over_max_length_ids": {s: ids[:100] for s, ids in too_long.items()},
            "template": format.template,
            "uses_table_content": format.uses_table_content,
        }
        if any(found["linked"] for found in linking.values()):
            facts["linking"] = linking
        digest = content_hash([list(s[c]) for s in splits.values() for c in ("id", "prompt", "completion")])
        write_manifest(fresh, content_hash(digest, format.model_dump(exclude_defaults=True)), facts)
    return read_manifest(folder, made_by="")


def data_versions(project: Project, dataset: str) -> dict[str, str]:
    """The data versions of `SOURCES` as they are now. Raises DataError when one is not there, or of other data."""
    made = manifests(project, dataset, SOURCES)
    check_made_of(dataset, made)
    return {name: manifest["data_version"] for name, manifest in made.items()}


def prompts_manifest(project: Project, dataset: str, experiment: str) -> dict[str, Any]:
    """The manifest of an experiment's prompts.

    Raises:
        DataError: they are not there, or they are of other data than the dataset now has, or do not say of which.
    """
    made_by = f"t2s prepare {dataset}/{experiment}"
    manifest = read_manifest(project.path(dataset, "prompts", experiment), made_by=made_by)
    was = manifest.get("made_of", {})
    changed = [
        f"{name} was {was.get(name, 'not recorded')}, is {version}"
        for name, version in data_versions(project, dataset).items()
        if was.get(name) != version
    ]
    if changed:
        raise DataError(
            f"{dataset}/{experiment}: its prompts are of other data ({'; '.join(changed)}); make them again with: "
            f"{made_by}"
        )
    return manifest


def check_made_for(
    project: Project, dataset: str, experiment: str, config: Experiment, base: base_models.BaseModel
) -> None:
    """See that an experiment's prompts were made with the settings that it has now: those of `prompt`, and its base.

    Raises:
        DataError: they were made with others. Of a manifest that does not say with which base, only `prompt` is told.
    """
    made_by = f"t2s prepare {dataset}/{experiment}"
    folder = project.path(dataset, "prompts", experiment)
    format = PromptFormat.load(folder)
    now = {f"prompt.{name}": value for name, value in config.prompt.model_dump().items()}
    was = {f"prompt.{name}": getattr(format, name) for name in type(config.prompt).model_fields}
    manifest = read_manifest(folder, made_by=made_by)
    if BASE_IDENTITY in manifest:
        was["base_model"], now["base_model"] = manifest[BASE_IDENTITY], base.identity
    if changed := [f"{name} was {was[name]}, is {value}" for name, value in now.items() if was[name] != value]:
        raise DataError(
            f"{dataset}/{experiment}: its prompts were made with other settings ({'; '.join(changed)}); make them "
            f"again with: {made_by}"
        )


def linking_facts(examples: Sequence[PromptExample]) -> dict[str, Any]:
    """How many prompts show a choice of columns (`linked` of `of`), and what that loses.

    recall: mean over linked prompts of the share of the gold's columns that the question alone finds; `n` leaves out
    golds without a column. whole: of these n, the share where it finds every one of them.
    """
    found = [e.recall for e in examples if e.linked and e.recall is not None]
    return {
        "linked": sum(e.linked for e in examples),
        "of": len(examples),
        "n": len(found),
        "recall": round(sum(found) / len(found), 4) if found else None,
        "whole": round(sum(r == 1 for r in found) / len(found), 4) if found else None,
    }


def length_statistics(lengths: Sequence[int]) -> dict[str, float]:
    """Mean, maximum, and 50th, 95th and 99th percentile (nearest rank) of token counts; empty for no examples."""
    if not lengths:
        return {}
    return {"mean": round(sum(lengths) / len(lengths), 1), **percentiles(lengths), "max": max(lengths)}


def load_prompts(project: Project, dataset: str, experiment: str) -> Any:
    """The saved `datasets.DatasetDict` of an experiment.

    Raises:
        DataError: as `prompts_manifest` does, or its files are broken.
    """
    from datasets import load_from_disk

    prompts_manifest(project, dataset, experiment)
    folder = project.path(dataset, "prompts", experiment) / "dataset"
    try:
        return load_from_disk(str(folder))
    except Exception as e:  # datasets and pyarrow raise whatever a broken file makes them
        raise DataError(
            f"{folder} cannot be read ({type(e).__name__}: {e}); make it again with: t2s prepare {dataset}/{experiment}"
        ) from e


def first_example(folder: Path) -> dict[str, Any] | None:
    """The first training example of the `prompts` in a folder, read without the `datasets` library; None of none."""
    for path in sorted((folder / "dataset" / "train").glob("*.arrow")):
        with pa.memory_map(str(path)) as file, pa.ipc.open_stream(file) as batches:
            for batch in batches:
                if batch.num_rows:
                    return batch.slice(0, 1).to_pylist()[0]
    return None


def prompt_problems(data: Any, tokenizer: Any) -> Counter[str]:
    """What would spoil training: examples without a prompt or a completion, or that end before their SQL does."""
    problems: Counter[str] = Counter()
    for row in data["train"]:
        problems["empty completion"] += not row["completion"].strip()
        problems["empty prompt"] += not row["prompt"].strip()
        problems["EOS inside the completion"] += tokenizer.eos_token in row["completion"]
    return +problems
