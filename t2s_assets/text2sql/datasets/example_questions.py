"""Example questions over a database that nobody has asked about yet: a start for `t2s init`, made of its own schema.

They are sentences of a few fixed kinds. They show what a questions file looks like and that the database runs; they
teach a model these sentences and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import pyarrow as pa
import pyarrow.compute as pc

from t2s_assets.text2sql.datasets.own import OwnTable
from t2s_assets.text2sql.execution import Database, Job, Relation, SqlExecutor
from t2s_assets.text2sql.linking import KEY_WORDS, LABEL_WORDS, key_pairs, words
from t2s_assets.text2sql.query import identifier, string_literal, table_identifier
from t2s_assets.text2sql.results import is_degenerate

_LONGEST_VALUE = 40


@dataclass(frozen=True)
class ExampleQuestion:
    """A question and its DuckDB SQL."""

    question: str
    sql: str


def example_questions(tables: Sequence[OwnTable], *, limit: int = 30) -> list[ExampleQuestion]:
    """Up to `limit` questions that run on the tables and have an answer, of as many kinds and tables as there are."""
    queues = [list(_joins(tables)), *(_turned(list(_about(table)), i) for i, table in enumerate(tables))]
    dealt = [q for turn in zip_longest(*queues) for q in turn if q is not None]
    candidates = list({q.question: q for q in dealt}.values())[: 2 * limit]
    database = Database.of(*(Relation(t.schema.name, _typed(t), t.data) for t in tables))
    with SqlExecutor() as executor:
        outcomes = executor.run([Job(database, q.sql) for q in candidates])
    return [q for q, outcome in zip(candidates, outcomes) if not is_degenerate(outcome)][:limit]


def _turned(questions: list[ExampleQuestion], by: int) -> list[ExampleQuestion]:
    """The same questions from another one on, so that not every table is asked the same thing first."""
    by %= max(1, len(questions))
    return questions[by:] + questions[:by]


def _typed(table: OwnTable) -> tuple[tuple[str, str], ...]:
    return tuple((c.name, kind) for c, kind in zip(table.schema.columns, table.types))


def _spoken(name: str) -> str:
    return " ".join(name.replace("_", " ").split())


def _is_key(name: str) -> bool:
    return bool(KEY_WORDS & set(words(name)))


def _of_type(table: OwnTable, *kinds: str, keys: bool = False) -> list[str]:
    typed = zip(table.schema.columns, table.types)
    return [c.name for c, kind in typed if kind.startswith(kinds) and (keys or not _is_key(c.name))]


def _label(table: OwnTable) -> str:
    """The column that tells rows apart to people: a name, or text whose values seldom repeat, or the first one."""
    texts = _of_type(table, "VARCHAR")
    named = [t for t in texts if LABEL_WORDS & set(words(t))]
    telling = [t for t in texts if not _repeats(table, t)]
    return (named or telling or [table.schema.columns[0].name])[0]


def _grouping(table: OwnTable) -> str | None:
    """A text column whose values repeat, and that is not the label."""
    label = _label(table)
    return next((n for n in _of_type(table, "VARCHAR") if n != label and _repeats(table, n)), None)


def _repeats(table: OwnTable, column: str) -> bool:
    return 1 < pc.count_distinct(table.data[column]).as_py() <= table.data.num_rows // 2


def _usual_value(column: pa.ChunkedArray) -> str | None:
    counts = [(-c["counts"], c["values"]) for c in column.value_counts().to_pylist() if c["values"] is not None]
    fit = [pair for pair in counts if pair[1].strip() and pair[1].isprintable() and len(pair[1]) <= _LONGEST_VALUE]
    return min(fit)[1] if fit else None


def _about(table: OwnTable) -> Iterator[ExampleQuestion]:
    """Questions about one table, the plain ones first."""
    name, spoken = table_identifier(table.schema.name), _spoken(table.schema.name)
    label = _label(table)
    numbers = _of_type(table, "BIGINT", "HUGEINT", "DOUBLE", "DECIMAL")
    group = _grouping(table)
    yield ExampleQuestion(f"How many {spoken} are there?", f"SELECT COUNT(*) FROM {name}")
    if group is not None and (value := _usual_value(table.data[group])) is not None:
        where = f"WHERE {identifier(group)} = {string_literal(value)}"
        yield ExampleQuestion(
            f"Which {spoken} have {value} as their {_spoken(group)}?",
            f"SELECT {identifier(label)} FROM {name} {where}",
        )
    if numbers:
        yield ExampleQuestion(
            f"What is the highest {_spoken(numbers[0])} among the {spoken}?",
            f"SELECT MAX({identifier(numbers[0])}) FROM {name}",
        )
    if group is not None:
        yield ExampleQuestion(
            f"How many {spoken} are there for each {_spoken(group)}?",
            f"SELECT {identifier(group)}, COUNT(*) FROM {name} GROUP BY {identifier(group)}",
        )
    if numbers:
        number = identifier(numbers[-1])
        yield ExampleQuestion(
            f"Show the {_spoken(label)} and {_spoken(numbers[-1])} of the {spoken} above the average "
            f"{_spoken(numbers[-1])}.",
            f"SELECT {identifier(label)}, {number} FROM {name} WHERE {number} > (SELECT AVG({number}) FROM {name})",
        )
        yield ExampleQuestion(
            f"Name the three {spoken} with the largest {_spoken(numbers[0])}.",
            f"SELECT {identifier(label)} FROM {name} WHERE {identifier(numbers[0])} IS NOT NULL "
            f"ORDER BY {identifier(numbers[0])} DESC, {identifier(label)} LIMIT 3",
        )
    for date in _of_type(table, "DATE", "TIMESTAMP")[:1]:
        yield ExampleQuestion(
            f"How many {spoken} are there in each year of {_spoken(date)}?",
            f"SELECT YEAR({identifier(date)}), COUNT(*) FROM {name} GROUP BY YEAR({identifier(date)})",
        )
    for flag in _of_type(table, "BOOLEAN")[:1]:
        yield ExampleQuestion(
            f"How many {spoken} are {_spoken(flag)}?", f"SELECT COUNT(*) FROM {name} WHERE {identifier(flag)}"
        )
    for column in [c.name for c in table.schema.columns if not _is_key(c.name)][:4]:
        yield ExampleQuestion(
            f"List the different values of {_spoken(column)} in {spoken}.",
            f"SELECT DISTINCT {identifier(column)} FROM {name}",
        )


def _joins(tables: Sequence[OwnTable]) -> Iterator[ExampleQuestion]:
    """Questions over two tables, where a column that is unique in one seems to be meant by a column of the other."""
    for pair in key_pairs([t.schema for t in tables]):
        for (many, there), (one, here) in (pair, pair[::-1]):
            key = tables[one].schema.columns[here].name
            unique = pc.count_distinct(tables[one].data[key]).as_py() == tables[one].data.num_rows > 0
            reference = tables[many].schema.columns[there].name
            if not unique or pc.count_distinct(tables[many].data[reference]).as_py() == tables[many].data.num_rows:
                continue
            inner, outer = table_identifier(tables[one].schema.name), table_identifier(tables[many].schema.name)
            label = _label(tables[one])
            yield ExampleQuestion(
                f"How many {_spoken(tables[many].schema.name)} does each of the {_spoken(tables[one].schema.name)} "
                f"have, by {_spoken(label)}?",
                f"SELECT b.{identifier(label)}, COUNT(*) FROM {outer} AS a JOIN {inner} AS b "
                f"ON a.{identifier(reference)} = b.{identifier(key)} GROUP BY b.{identifier(label)}",
            )
