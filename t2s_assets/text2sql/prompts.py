"""One prompt format for training and inference: schema and question in, SQL out.

A format is written into the adapter's folder when it is trained and read back from there for inference, so the two
cannot differ. Every prompt ends at a token boundary (a line break or the chat template's own header), so that
prompt and completion can be tokenised apart; `encode_example` is the one place where they are joined.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from t2s_assets.text2sql.chat_templates import as_chat
from t2s_assets.text2sql.config import PromptConfig
from t2s_assets.text2sql.errors import DataError, PromptError
from t2s_assets.text2sql.linking import link
from t2s_assets.text2sql.plain_text import encode, protect
from t2s_assets.text2sql.query import identifier, table_identifier
from t2s_assets.text2sql.schema import TableSchema, one_line
from t2s_assets.text2sql.storage import (
    read_json,
    write_json,
)

FORMAT_FILE = "prompt_format.json"

_SCHEMA_SHARE = 0.75
"""How much of `max_length` a prompt over several tables may take before columns are chosen; the rest is for SQL."""

_SAMPLE_CHARACTERS = 40


class PromptFormat(PromptConfig):
    """The prompt section of an experiment with what it resolved to on the base model."""

    version: Literal[1] = 1
    bos: str = Field("", description="Text put before every prompt, where the tokenizer wants a first token.")
    gold: Literal["sketch", "sql"] = Field(
        "sketch", description="What is answered: WikiSQL's sketch over one table `t`, or any SELECT over named tables."
    )

    @property
    def content_read(self) -> list[str]:
        """The settings by which cell values are shown to the model, which WikiSQL's leaderboard marks."""
        return ["prompt.template"] if self.template == "samples" else []

    @property
    def uses_table_content(self) -> bool:
        """Whether cell values are shown to the model."""
        return bool(self.content_read)

    def save(self, folder: Path) -> None:
        """Write the format into `folder`."""
        write_json(folder / FORMAT_FILE, self.model_dump(exclude_defaults=False))

    @classmethod
    def load(cls, folder: Path) -> PromptFormat:
        """The format in an adapter's folder. Raises DataError."""
        path = folder / FORMAT_FILE
        content = read_json(path, made_by="t2s train, which writes it beside the adapter")
        try:
            if content["template"] != "samples":
                content.pop("sample_values", None)
            return cls.model_validate(content)
        except (KeyError, TypeError, ValueError) as e:
            raise DataError(
                f"{path} is no prompt format that this version reads ({e}); without it the model cannot be asked "
                "as it was trained. Train again, or use the version that wrote it"
            ) from e


def resolve_format(config: PromptConfig, tokenizer: Any, gold: Literal["sketch", "sql"] = "sketch") -> PromptFormat:
    """The format of an experiment for its base model's tokenizer and its dataset's kind of gold.

    Raises:
        PromptError: `template: chat`, and the tokenizer has no chat template.
    """
    if config.template == "chat" and not tokenizer.chat_template:
        raise PromptError(
            "prompt.template: chat needs a base model with a chat template, and this tokenizer has none; "
            "use template: plain or samples, or an instruct model"
        )
    adds_bos = config.template != "chat" and tokenizer("").input_ids[:1] == [tokenizer.bos_token_id]
    settings = config.model_dump(exclude_unset=True)
    if gold != "sketch":  # the default stays unset, so that what was made before this field keeps its version
        settings["gold"] = gold
    return PromptFormat(**settings, bos=tokenizer.bos_token if adds_bos and tokenizer.bos_token else "")


def schema_text(
    schema: TableSchema, samples: Sequence[Sequence[str]] | None = None, *, gold: Literal["sketch", "sql"] = "sketch"
) -> str:
    """The table in one line: name, quoted columns, types (WikiSQL's two for a sketch), and with `samples` some values
    of each column."""
    columns = []
    for i, column in enumerate(schema.columns):
        text = f"{identifier(column.name)} {column.type if gold == 'sketch' else column.shown_type}"
        if samples and samples[i]:
            text += f" [{'; '.join(samples[i])}]"
        columns.append(text)
    return f"{table_identifier(schema.name)}({', '.join(columns)})"


def sample_values(rows: Sequence[Sequence[Any]], width: int, count: int) -> list[list[str]]:
    """The first `count` distinct non-empty values of each column, each at most 40 characters and one line."""
    found: list[dict[str, None]] = [{} for _ in range(width)]
    for row in rows:
        for values, cell in zip(found, row):
            if len(values) < count and cell is not None and str(cell).strip():
                values[" ".join(str(cell).split())[:_SAMPLE_CHARACTERS]] = None
    return [list(values) for values in found]


def clean_question(question: str) -> str:
    """The question as it stands in prompts: in one line, without NUL bytes. Raises PromptError where it is no text."""
    if not isinstance(question, str):
        raise PromptError(f"the question: text is wanted; got {type(question).__name__}")
    return one_line(question)


def render(
    format: PromptFormat,
    tokenizer: Any,
    schema: TableSchema,
    question: str,
    *,
    rows: Sequence[Sequence[Any]] | None = None,
) -> str:
    """The model's input for one question on one table; see `render_tables`."""
    return render_tables(format, tokenizer, [schema], question, rows=None if rows is None else [rows])


def render_tables(
    format: PromptFormat,
    tokenizer: Any,
    schemas: Sequence[TableSchema],
    question: str,
    *,
    rows: Sequence[Sequence[Sequence[Any]]] | None = None,
) -> str:
    """The model's input for one question; `rows`, of each schema, are read by `template: samples` only.

    Raises:
        PromptError: the question is empty, a schema has no columns, `samples` got no rows to sample, or the base's
            chat template fails.
    """
    question = clean_question(question)
    if not question:
        raise PromptError("the question is empty; ask something about the table")
    for schema in schemas:
        if not schema.columns:
            raise PromptError(f"table {schema.name!r} has no columns; give a schema with at least one")
    samples: list[list[list[str]] | None] = [None] * len(schemas)
    if format.template == "samples":
        if rows is None:
            raise PromptError(
                "this model was trained with sample values in its prompt, so it needs the table's rows, not only a "
                "schema; give a database, CSV or Parquet file"
            )
        samples = [sample_values(r, len(s.columns), format.sample_values) for r, s in zip(rows, schemas)]
    lines = [schema_text(schema, values, gold=format.gold) for schema, values in zip(schemas, samples)]
    body = protect(tokenizer, "\n".join([*lines, f"Question: {question}", "SQL:"]))
    if format.template == "chat":
        return as_chat(tokenizer, body)
    return f"{format.bos}{body}\n"


def shown_tables(
    format: PromptFormat,
    tokenizer: Any,
    schemas: Sequence[TableSchema],
    question: str,
    *,
    rows: Sequence[Sequence[Sequence[Any]]] | None = None,
    keep: Collection[tuple[str, str]] = (),
) -> tuple[str, tuple[TableSchema, ...]]:
    """The prompt, and the tables in it: all of them where they fit, else those that linking.py chooses.

    A prompt over one table `t` always shows it whole. One over named tables may take three quarters of `max_length`,
    or as much as the (table, column) pairs of `keep` take, which it always shows.
    """
    shown: tuple[TableSchema, ...] = tuple(schemas)
    prompt = render_tables(format, tokenizer, shown, question, rows=rows)
    budget = int(_SCHEMA_SHARE * format.max_length)
    if format.gold == "sketch" or _tokens(tokenizer, prompt) <= budget:
        return prompt, shown

    def rendered(kept: Sequence[TableSchema]) -> str:
        return render_tables(format, tokenizer, kept, question, rows=_rows_of(kept, schemas, rows))

    shown = link(question, schemas, budget, lambda kept: _tokens(tokenizer, rendered(kept)), keep=keep)
    return rendered(shown), shown


def _tokens(tokenizer: Any, prompt: str) -> int:
    return len(encode(tokenizer, [prompt])[0])


def _rows_of(
    kept: Sequence[TableSchema], schemas: Sequence[TableSchema], rows: Sequence[Sequence[Sequence[Any]]] | None
) -> list[list[list[Any]]] | None:
    """The rows of the kept columns, by the schemas that they were given for."""
    if rows is None:
        return None
    whole = {schema.name: (schema, r) for schema, r in zip(schemas, rows)}
    found = []
    for part in kept:
        schema, table_rows = whole[part.name]
        places = [i for i, column in enumerate(schema.columns) if column in part.columns]
        found.append([[row[i] for i in places] for row in table_rows])
    return found


IGNORED = -100
"""The label of a token that is not learnt."""


def encode_example(prompt_ids: list[int], completion_ids: list[int], eos: int) -> dict[str, list[int]]:
    """One training example: `input_ids` and `labels`, where prompt tokens carry IGNORED and EOS is learnt."""
    answer = [*completion_ids, eos]
    return {"input_ids": prompt_ids + answer, "labels": [IGNORED] * len(prompt_ids) + answer}
