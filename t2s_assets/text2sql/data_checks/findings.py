"""What is wrong, or worth a look, in prepared questions and their SQL: the single looks of `t2s check-data`."""

from __future__ import annotations

import difflib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from t2s_assets.text2sql.query import names_given
from t2s_assets.text2sql.schema import TableSchema

SPLITS = ("train", "validation", "test")
_FEW = 10


@dataclass(frozen=True)
class Finding:
    """One thing found. An `error` must be mended; a `warning` is for a person to judge.

    kind: what sort of thing, for grouping. where: file and line, or a question's id; empty for the whole dataset.
    """

    level: Literal["error", "warning"]
    kind: str
    where: str
    message: str


def suggestion(sql: str, dialect: str, schemas: Sequence[TableSchema]) -> str:
    """What names in `sql` that the schema does not know may have been meant for; empty where nothing is alike."""
    try:
        tree = sqlglot.parse_one(sql, read=dialect)
    except (SqlglotError, RecursionError):
        return ""
    own = names_given(tree, tables=True)
    tables = {t.name.casefold(): t.name for t in schemas}
    used = {node.name.casefold() for node in tree.find_all(exp.Table)} - own
    # Columns of the tables that the query reads come first: a name may be alike in many others.
    near = {c.name.casefold(): c.name for t in schemas if t.name.casefold() in used for c in t.columns}
    everywhere = {c.name.casefold(): c.name for t in schemas for c in t.columns}
    hints = []
    for kind, nodes, names in (("table", exp.Table, tables), ("column", exp.Column, near or everywhere)):
        for name in dict.fromkeys(n.name for n in tree.find_all(nodes) if n.name):
            if name.casefold() in names or name.casefold() in own:
                continue
            alike = difflib.get_close_matches(name.casefold(), names, n=3, cutoff=0.6)
            elsewhere = [t.name for t in schemas if t.column_index(name) is not None] if nodes is exp.Column else []
            if alike:
                hints.append(f"{kind} {name!r}: did you mean {' or '.join(repr(names[a]) for a in alike)}?")
            elif elsewhere:
                hints.append(f"column {name!r} is in {', '.join(elsewhere[:5])}")
    return " ".join(hints)


def repeated(questions: Iterable[Any]) -> list[Finding]:
    """Questions asked twice of one table or database inside a split; `leaks` sees those in two splits.

    Questions have id, split, table_id, text; those of a dataset of one's own `sql` and `where`.
    """
    asked: dict[tuple[str, str, str], list[Any]] = defaultdict(list)
    for q in questions:
        asked[q.split, q.table_id, " ".join(q.text.split()).casefold()].append(q)
    found = []
    for (*_, text), same in asked.items():
        if len(same) < 2:
            continue
        answers = {gold.casefold() if isinstance(gold := _gold(q), str) else gold for q in same}
        others = ", ".join(place(q) for q in same[:-1])
        what = "the same question as" if len(answers) == 1 else "the same question with another answer than"
        found.append(Finding("warning", "asked twice", place(same[-1]), f"{what} {others}: {text!r:.100}"))
    return found


def _gold(question: Any) -> Any:
    return question.sql if hasattr(question, "sql") else question.query


def place(question: Any) -> str:
    """File and line of a question, or its id."""
    return getattr(question, "where", "") or question.id


def leaking(leaks: tuple[list[str], list[tuple[str, str]]], own: bool) -> list[Finding]:
    """Findings of what `prepare.leaks` returns; with `own`, of a dataset of one's own."""
    certain, pairs = leaks
    what = (
        "asked in two splits, so a model is tested on what it was trained on"
        if own
        else ("a table that is asked about in a split that is not its own")
    )
    found = [Finding("error", "leak between splits", place, what) for place in certain]
    why = "the same SQL in two splits" if own else "tables with the same content in two splits"
    return found + [Finding("warning", "alike in two splits", f"{a}, {b}", why) for a, b in pairs]


def balance(rows: Iterable[Mapping[str, Any]], by: str) -> dict[str, dict[str, int]]:
    """Questions for each value of `by` (category or aggregate) and split, the most frequent value first."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        counts[str(row[by])][row["split"]] += 1
    ordered = sorted(counts, key=lambda value: (-counts[value].total(), value))
    return {value: {split: counts[value][split] for split in SPLITS} for value in ordered}


def unbalanced(categories: Mapping[str, Mapping[str, int]]) -> list[Finding]:
    """Splits without questions, and categories that are tested and not trained."""
    totals = {split: sum(counts[split] for counts in categories.values()) for split in SPLITS}
    found = []
    for split, n in totals.items():
        if not n and split != "test":
            need = "trains" if split == "train" else "chooses the checkpoint and the champion"
            found.append(
                Finding("error", "balance", "", f"no question is in the split {split!r}, which {need}; add questions")
            )
        elif n < _FEW:
            few = f"the split {split!r} has only {n} question{'' if n == 1 else 's'}: its figures will say little"
            found.append(Finding("warning", "balance", "", few))
    for category, counts in categories.items():
        if counts["test"] and not counts["train"]:
            found.append(Finding("warning", "balance", "", f"category {category!r} is tested and never trained"))
    return found
