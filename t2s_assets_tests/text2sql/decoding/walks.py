"""Random walks through the grammar of SELECT, guided and not, over several databases."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np

from t2s_assets.text2sql.decoding import Request
from t2s_assets.text2sql.decoding.grammar import GuideFactory
from t2s_assets.text2sql.decoding.scopes import Scopes, kinds
from t2s_assets.text2sql.decoding.select_grammar import spellings
from t2s_assets.text2sql.query import identifier
from t2s_assets.text2sql.schema import Column, TableSchema
from t2s_assets_tests.text2sql.decoding.select_queries import QUERIES, SHOP

EOS = 0
LONGEST = 160

DATABASES = {
    "shop": SHOP,
    "one": (
        TableSchema(
            "games",
            (
                Column("id", "real", "BIGINT"),
                Column("player", "text", "VARCHAR"),
                Column("score", "real", "DECIMAL(10,2)"),
                Column("won", "text", "BOOLEAN"),
                Column("start", "text", "TIME"),
                Column("played", "text", "TIMESTAMP"),
                Column("day", "text", "DATE"),
            ),
        ),
    ),
    "shared": (
        TableSchema("a", (Column("id", "real", "BIGINT"), Column("name", "text"), Column("value", "real", "DOUBLE"))),
        TableSchema("b", (Column("id", "real", "BIGINT"), Column("name", "text"), Column("value", "text", "DATE"))),
        TableSchema("c", (Column("a_id", "real", "BIGINT"), Column("name", "text", "BOOLEAN"))),
    ),
    "odd": (
        TableSchema("Order Üb", (Column('a"b', "text"), Column("x y", "real"), Column("select", "text", "DATE"))),
        TableSchema("select", (Column("Größe", "real", "BIGINT"), Column("名", "text"), Column("x y", "text"))),
    ),
}

# One value a type and row: numbers, dates and NULLs that real tables hold.
VALUES = {
    "VARCHAR": ("'a'", "'12'", "NULL"),
    "DOUBLE": ("1", "2.5", "-3"),
    "BIGINT": ("1", "2", "NULL"),
    "DECIMAL(10,2)": ("1.5", "2.25", "0"),
    "DATE": ("'2024-01-31'", "NULL", "'2023-05-05'"),
    "TIMESTAMP": ("'2024-01-31 10:00:00'", "NULL", "'2023-05-05 00:00:00'"),
    "TIME": ("'10:00:00'", "'11:30:00'", "NULL"),
    "BOOLEAN": ("TRUE", "FALSE", "NULL"),
}

_WORDS = """
| FROM | FROM | FROM | FROM |, |, |, |)|)|)|)|)|(| AS k| AS n| AS t1| JOIN | LEFT JOIN | FULL OUTER JOIN 
| CROSS JOIN | ON | USING (| WHERE | GROUP BY | GROUP BY | HAVING | QUALIFY | ORDER BY | ORDER BY | LIMIT 3
| UNION | UNION ALL | EXCEPT | AND | OR |NOT| = | <> | > | IS NULL| IS NOT NULL| IS DISTINCT FROM | IN (
| NOT IN (| BETWEEN | LIKE | NOT ILIKE | + | - | * | / | % | // | | |*|-|SELECT |SELECT |(SELECT |WITH 
|DISTINCT |EXISTS(|ANY (|ALL (|ALL|ROLLUP (| ASC| DESC| NULLS LAST| OVER (| OVER (|PARTITION BY| FILTER(WHERE 
| ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW|CASE WHEN |CASE | WHEN | THEN | ELSE | END|NULL|TRUE
|INTERVAL 3 DAY|DATE '2024-02-29'|CURRENT_DATE|NOW()|'a'|'10:00:00'|'2024-01-05'|5|1|2|2.5|'YEAR', |YEAR FROM 
|CAST(|TRY_CAST(|EXTRACT(|IF(|NULLIF(|COALESCE(|LEAST(|BIGINT|DOUBLE|TEXT|DATE|TIMESTAMP|BOOLEAN|COUNT(*)
|RANK()|NTILE(4)|0.5|'%Y'|'^[a-z]+@'|k|n|t1
| ESCAPE '!'|1e3|'2024-1-5 10:00'|DAYOFWEEK FROM | EXCEPT ALL |CUBE (|CASE WHEN | AS größe|größe|ANY(| OFFSET 1|, 'g'
"""
_CLOSING = (")", ")", ")", " END", " THEN ", " FROM ", " AS k", " AS n", " ON ", " = ", " OVER (", "1", "'a'")


def words(schemas: tuple[TableSchema, ...], functions: Sequence[str] = tuple(kinds.FUNCTIONS)) -> list[str]:
    """What a walk writes next: pieces of SQL, functions, and the schema's names, bare and with their tables."""
    pieces = [word for line in _WORDS.strip().split("\n") for word in line[1:].split("|")]
    pieces += ["||"] + [f"{name}(" for name in functions] + 3 * ["COUNT(", "SUM(", "MAX("]
    for schema, alias in zip(schemas, ("k", "n", "t1", "k")):
        table, columns = spellings(schema.name)[0], [spellings(column.name)[0] for column in schema.columns]
        pieces += [f"{table} AS {alias}", *2 * [table], *4 * columns, f" AS {table}"]
        pieces += [f"{name}.{column}" for name, column in zip((table, alias) * 9, columns)]
    return [piece for piece in pieces if piece]


def word_tokenizer() -> Any:
    """A byte-level tokenizer that has most words of SQL and of the databases as tokens, so that walks are short."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1500, special_tokens=["<|end|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    texts = QUERIES + [word for schemas in DATABASES.values() for word in words(schemas)]
    bpe.train_from_iterator(texts * 5, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|end|>")


@dataclass
class Walk:
    """Where a walk ended: `sql` is None where it did not within LONGEST tokens, `stuck` is where nothing was left."""

    sql: str | None
    stuck: str | None = None


def walk(
    guides: GuideFactory, tokenizer: Any, schemas: tuple[TableSchema, ...], seed: int, *, scoped: bool = True
) -> Walk:
    """One random walk. It writes random words as far as they are admitted, now and then a random token instead, and
    past a random length rather what brings it to an end. Without `scoped` it goes by the grammar alone."""
    draw = random.Random(seed)
    guide = guides.guide(Request("", "", schemas, "select"))
    functions = draw.sample(list(kinds.FUNCTIONS), 8)
    pieces = [tuple(tokenizer(word).input_ids) for word in words(schemas, functions)]
    tables = [f"{end}{spellings(s.name)[0]}" for s in schemas for end in (" FROM ", "")]
    closing = [tuple(tokenizer(word).input_ids) for word in (*_CLOSING, *tables)]
    written: list[int] = guide.forced()
    scopes = Scopes(schemas)
    target = draw.randint(5, 40)

    def text() -> str:
        return tokenizer.decode(written)

    def may(token: int) -> bool:
        return bool(guide.allowed()[token]) and (not scoped or guide.admits(token))

    while len(written) < LONGEST:
        if guide.ended or (len(written) > target and may(EOS)):
            return Walk(text())
        draw.shuffle(pieces)
        tried = [*draw.sample(closing, len(closing)), *pieces] if len(written) > target else pieces
        last = text()[-1:]
        for piece in tried if draw.random() < 0.997 else ():
            # A word after a word is another one, not its end.
            shown = tokenizer.decode(piece)
            if (last.isalnum() and shown[0].isalnum()) or last == shown[0] == "'":
                continue
            # No word is the beginning of a name that is made up.
            if scoped and shown[-1].isalnum() and not scopes.admits(f"{text()}{shown} ".encode()):
                continue
            done = 0
            while done < len(piece) and may(piece[done]):
                guide.accept(piece[done])
                done += 1
            if done == len(piece):
                written += [*piece, *guide.forced()]
                break
            guide.undo(done)
        else:
            rest = np.flatnonzero(guide.allowed()).tolist()
            draw.shuffle(rest)
            token = next((token for token in rest if not scoped or guide.admits(token)), None)
            if token is None:
                return Walk(None, stuck=text())
            if token == EOS:
                return Walk(text())
            guide.accept(token)
            written += [token, *guide.forced()]
    return Walk(None)


def connected(schemas: tuple[TableSchema, ...], *, rows: bool = False) -> duckdb.DuckDBPyConnection:
    """DuckDB with the tables, empty or of three rows."""
    connection = duckdb.connect()
    for schema in schemas:
        types = [c.sql_type or ("DOUBLE", "VARCHAR")[c.type == "text"] for c in schema.columns]
        declared = ", ".join(f"{identifier(c.name)} {t}" for c, t in zip(schema.columns, types))
        connection.execute(f"CREATE TABLE {identifier(schema.name)} ({declared})")
        for row in range(3 if rows else 0):
            values = ", ".join(VALUES[t][row] for t in types)
            connection.execute(f"INSERT INTO {identifier(schema.name)} VALUES ({values})")
    return connection
