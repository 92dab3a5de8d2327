"""The Python that a model card shows: it needs transformers alone (and peft for an adapter), nothing of this package.

It writes the prompt as `prompts.render_tables` does, generates greedily, and puts the table's own name into the SQL.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from t2s_assets.text2sql.config import FolderModel, GgufModel, HubModel, WheelModel
from t2s_assets.text2sql.prompts import PromptFormat
from t2s_assets.text2sql.query import table_identifier
from t2s_assets.text2sql.schema import TABLE, Column, TableSchema

BASE_VARIABLE = "T2S_BASE_MODEL"
"""The environment variable that an exported adapter takes the path of its base from, where that is no hub's or
wheel's."""

OWN_TABLE = "mountains"
"""What the table of the example is called in the database of a user."""


@dataclass(frozen=True)
class Example:
    """A question about tables, with the rows that `template: samples` shows."""

    question: str
    schemas: tuple[TableSchema, ...]
    rows: tuple[tuple[tuple[object, ...], ...], ...]


def example(format: PromptFormat) -> Example:
    """The example of a card: one table, or two where the model is asked about named tables."""
    if format.gold == "sketch":
        columns = (Column("Name", "text"), Column("Height (m)", "real"))
        return Example("How high is K2?", (TableSchema(TABLE, columns),), ((("K2", 8611), ("Lhotse", 8516)),))
    number, name, day = Column("id", "real", "BIGINT"), Column("name", "text", "VARCHAR"), Column("day", "text", "DATE")
    mountain = Column("mountain_id", "real", "BIGINT")
    return Example(
        "Who climbed K2?",
        (TableSchema(OWN_TABLE, (number, name)), TableSchema("climbs", (mountain, Column("climber", "text"), day))),
        (((1, "K2"), (2, "Lhotse")), ((1, "Compagnoni", "1954-07-31"), (2, "Luchsinger", "1956-05-18"))),
    )


def snippet(
    format: PromptFormat,
    source: WheelModel | HubModel | FolderModel | GgufModel,
    *,
    what: Literal["merged", "adapter"],
    dtype: str,
    nf4: bool,
    shown: Sequence[Sequence[Sequence[str]]] | None,
) -> str:
    """The code. `dtype` and `nf4` are the base's, for an adapter; `shown` are the example's sample values, by table
    and column."""
    parts = [
        _loading(source, what, dtype, nf4, sketch=format.gold == "sketch"),
        _prompt(format),
        _GENERATE,
        *([_OVER] if format.gold == "sketch" else []),
        _asking(format, shown),
    ]
    return "\n".join(parts)


def _loading(source: object, what: str, dtype: str, nf4: bool, *, sketch: bool) -> str:
    adapter = what == "adapter"
    from_gguf = isinstance(source, (WheelModel, GgufModel))
    names = ["AutoModelForCausalLM", "AutoTokenizer"]
    if adapter:
        names += [
            "GenerationConfig",
            *(["GgufConfig"] if from_gguf else []),
            *(["BitsAndBytesConfig"] if nf4 and not from_gguf else []),
        ]
    lines = ["import os"] if adapter and not isinstance(source, HubModel) else []
    lines += ["import re"] if sketch else []
    lines += [""] if lines else []
    lines += ["from peft import PeftModel"] if adapter else []
    lines += [f"from transformers import {', '.join(sorted(names))}", "", 'FOLDER = "."  # where this card lies']
    lines.append("tokenizer = AutoTokenizer.from_pretrained(FOLDER)")
    if not adapter:
        return "\n".join([*lines, 'model = AutoModelForCausalLM.from_pretrained(FOLDER, dtype="auto")', ""])
    options = [f'dtype="{dtype}"']
    if isinstance(source, HubModel):
        where = f"{json.dumps(source.repo)}, revision={json.dumps(source.revision)}"
    elif from_gguf:
        lines.append(f'gguf = os.environ["{BASE_VARIABLE}"]  # the path of the GGUF file')
        where = "os.path.dirname(gguf), gguf_file=os.path.basename(gguf)"
        options.append("quantization_config=GgufConfig(dequantize=True)")
    else:
        where = f'os.environ["{BASE_VARIABLE}"]'
    if nf4 and not from_gguf:
        options.append(
            'quantization_config=BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", '
            f'bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype="{dtype}")'
        )
    lines.append("base = AutoModelForCausalLM.from_pretrained(")
    lines += [*(f"    {option}," for option in (where, *options)), ")"]
    lines.append("base.generation_config = GenerationConfig.from_pretrained(FOLDER)")
    lines.append("model = PeftModel.from_pretrained(base, FOLDER)")
    return "\n".join([*lines, ""])


def _prompt(format: PromptFormat) -> str:
    """The function that writes the prompt, for this format alone."""
    samples = format.template == "samples"
    column = "name, kind, values" if samples else "name, kind"
    given = "'\"{}\" {}'.format(name.replace('\"', '\"\"'), kind)"
    if samples:
        given += ' + (f" [{\'; \'.join(values)}]" if values else "")'
    lines = ["", "def prompt_for(tables, question):", "    lines = []", "    for table, columns in tables.items():"]
    lines.append(f"        shown = [{given} for {column} in columns]")
    lines.append("        lines.append(f\"{table}({', '.join(shown)})\")")
    lines.append('    body = "\\n".join([*lines, f"Question: {\' \'.join(question.split())}", "SQL:"])')
    if format.template == "chat":
        lines.append('    messages = [{"role": "user", "content": body}]')
        lines.append("    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)")
    else:
        bos = json.dumps(format.bos, ensure_ascii=False) + " + " if format.bos else ""
        lines.append(f'    return {bos}body + "\\n"')
    return "\n".join([*lines, ""])


_GENERATE = """
def generate(prompt):
    inputs = tokenizer(prompt, add_special_tokens=False, return_tensors="pt").to(model.device)
    written = model.generate(**inputs)[0, inputs["input_ids"].shape[1] :]
    return tokenizer.decode(written, skip_special_tokens=True, clean_up_tokenization_spaces=False).strip()
"""

_OVER = r'''
def over(table, sql):  # outside of quotes, t is the table
    own = '"' + table.replace('"', '""') + '"'
    quoted = r"""("(?:[^"]|"")*"|'(?:[^']|'')*')|\bt\b"""
    return re.sub(quoted, lambda found: found[1] or own, sql)
'''


def _asking(format: PromptFormat, shown: Sequence[Sequence[Sequence[str]]] | None) -> str:
    """The call, with the example."""
    asked = example(format)
    tables = []
    for number, schema in enumerate(asked.schemas):
        columns = []
        for place, column in enumerate(schema.columns):
            kind = column.type if format.gold == "sketch" else column.shown_type
            values = f", {json.dumps(list(shown[number][place]), ensure_ascii=False)}" if shown else ""
            columns.append(f"({json.dumps(column.name)}, {json.dumps(kind)}{values})")
        tables.append(f"{json.dumps(table_identifier(schema.name))}: [{', '.join(columns)}]")
    lines = ["", "tables = {", *(f"    {t}," for t in tables), "}"]
    lines.append(f"sql = generate(prompt_for(tables, {json.dumps(asked.question)}))")
    lines.append(f'print(over("{OWN_TABLE}", sql))' if format.gold == "sketch" else "print(sql)")
    return "\n".join([*lines, ""])
