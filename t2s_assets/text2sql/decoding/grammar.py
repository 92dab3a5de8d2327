"""What SQL may be written for one question: a grammar, from which llguidance makes token masks.

The grammar is the WikiSQL sketch over one table, byte for byte as `query.to_sql` writes it:

    SELECT [AGG(]"column"[)] FROM table [WHERE "column" op value [AND ...]]

with the table's own column names, the aggregates that bind on a column's type, at most four conditions,
string values that are spans of the question as typed, and numbers that the question spells. Whatever it
allows parses, binds and runs. Any SELECT has a wider grammar (select_grammar.py) and a guide that knows scopes.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from typing import Any

import llguidance.hf
from llguidance import LLMatcher

from t2s_assets.text2sql.decoding.guide import Guide, ScopedGuide
from t2s_assets.text2sql.decoding.scopes import Scopes
from t2s_assets.text2sql.decoding.select_grammar import any_of, select_grammar
from t2s_assets.text2sql.decoding.spelt_numbers import numbers_in
from t2s_assets.text2sql.decoding.types import Request
from t2s_assets.text2sql.errors import ModelError, PromptError
from t2s_assets.text2sql.plain_text import special_spellings
from t2s_assets.text2sql.query import MAX_CONDITIONS, identifier, table_identifier
from t2s_assets.text2sql.schema import TableSchema

_KEPT_SELECTS = 16

_UNFORCED = '%llguidance {"no_forcing": true}\n'
"""Before a grammar: whatever text is the only one left, the model writes its tokens itself."""


def sketch_grammar(schema: TableSchema, question: str, *, lead: str = "") -> str:
    """The grammar for one question on one table, in llguidance's dialect of Lark.

    `lead` is text that the tokenizer puts before the first word of any text (a space, in SentencePiece
    models).
    """
    text = [identifier(column.name) for column in schema.columns if column.type == "text"]
    real = [identifier(column.name) for column in schema.columns if column.type == "real"]
    numbers = numbers_in(question)
    selected, tests, terminals = [], [], []
    if text:
        selected.append('TEXT_COLUMN | ANY_AGGREGATE "(" TEXT_COLUMN ")"')
        terminals.append(f"TEXT_COLUMN: {any_of(text)}")
        if question:
            chunks = [character.replace("'", "''") for character in question]
            terminals.append(f"SPAN: %regex {json.dumps({'substring_chunks': chunks})}")
            # The quotes belong to the terminal, so that a closing quote and a doubled one are told apart.
            terminals.append('STRING: "\'" (SPAN & /\\S((?s:.*)\\S)?/) "\'"')
            tests.append("TEXT_COLUMN OPERATOR STRING")
    if real:
        selected.append('REAL_COLUMN | ANY_AGGREGATE "(" REAL_COLUMN ")" | REAL_AGGREGATE "(" REAL_COLUMN ")"')
        terminals.append(f"REAL_COLUMN: {any_of(real)}")
        terminals.append('REAL_AGGREGATE: "SUM" | "AVG"')
        if numbers:
            terminals.append(f"NUMBER: {any_of(numbers)}")
            tests.append("REAL_COLUMN OPERATOR NUMBER")
    where = f'(" WHERE " test (" AND " test){{0,{MAX_CONDITIONS - 1}}})?' if tests else ""
    source = json.dumps(f" FROM {table_identifier(schema.name)}")
    rules = [
        f"start: {json.dumps(lead + 'SELECT ')} selected {source} {where}",
        f"selected: {' | '.join(selected)}",
        *([f"test: {' | '.join(tests)}", 'OPERATOR: " = " | " > " | " < "'] if tests else []),
        'ANY_AGGREGATE: "MAX" | "MIN" | "COUNT"',
        *terminals,
    ]
    return "\n".join(rules)


class GuideFactory:
    """Makes guides for one tokenizer, for any number of threads. Building one takes about half a second: keep it.

    Raises `ModelError` for a tokenizer that is not a fast one.
    """

    def __init__(self, tokenizer: Any, eos: frozenset[int], vocabulary: int) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise ModelError(
                f"decoding.grammar: schema needs a fast tokenizer, and {type(tokenizer).__name__} is not "
                "one; convert it (AutoTokenizer does where it can), or set decoding.grammar: none"
            )
        self._vocabulary = vocabulary
        self._eos = eos
        self._special = special_spellings(tokenizer)
        self._selects: OrderedDict[tuple[TableSchema, ...], tuple[LLMatcher, Scopes]] = OrderedDict()
        self._choosing = threading.Lock()
        self._tokens = llguidance.hf.from_tokenizer(
            tokenizer, n_vocab=max(vocabulary, len(tokenizer)), eos_token=sorted(eos)
        )
        probe = tokenizer("SELECT", add_special_tokens=False).input_ids
        self.lead = self._tokens.decode_bytes(probe).decode().removesuffix("SELECT")

    def guide(self, request: Request) -> Guide:
        """A guide at the start of a completion.

        Raises `PromptError` if llguidance refuses the grammar, or a sketch has not one table.
        """
        schemas = request.schemas
        if request.kind == "select":
            matcher, scopes = self._select(schemas)
            return ScopedGuide(matcher.deep_copy(), self._vocabulary, scopes, self._bytes, self._eos)
        if len(schemas) != 1:
            raise PromptError(
                f"decoding: a sketch has one table, and this request has {len(schemas)}; use kind: select"
            )
        return Guide(
            self._matcher(sketch_grammar(schemas[0], request.question, lead=self.lead), schemas), self._vocabulary
        )

    def forget(self) -> None:
        """Drop what is kept of tables."""
        with self._choosing:
            self._selects.clear()

    def _bytes(self, token: int) -> bytes:
        return self._tokens.decode_bytes([token])

    def _select(self, schemas: tuple[TableSchema, ...]) -> tuple[LLMatcher, Scopes]:
        """The matcher of these tables and their scopes, kept because they do not depend on the question."""
        with self._choosing:
            kept = self._selects.pop(schemas, None)
            if kept is None:
                kept = self._matcher(select_grammar(schemas, lead=self.lead), schemas), Scopes(schemas)
            self._selects[schemas] = kept
            if len(self._selects) > _KEPT_SELECTS:
                self._selects.popitem(last=False)
            return kept

    def _matcher(self, grammar: str, schemas: tuple[TableSchema, ...]) -> LLMatcher:
        names = [name for schema in schemas for name in (schema.name, *(column.name for column in schema.columns))]
        if any(spelling in name for spelling in self._special for name in names):
            # Forced text is tokenised as a prompt's own, where these are special tokens and not their spelling.
            grammar = _UNFORCED + grammar
        matcher = LLMatcher(self._tokens, grammar, log_level=0)
        if matcher.is_error():
            columns = sum(len(schema.columns) for schema in schemas)
            raise PromptError(
                f"decoding: no grammar for {', '.join(repr(s.name) for s in schemas)} with {columns} columns: "
                f"{matcher.get_error().splitlines()[0]}; rename or drop columns, or set "
                "decoding.grammar: none"
            )
        return matcher
