"""Schema linking for schemas that are longer than a prompt may be: which tables and columns a question is about.

The method is lexical and looks at names alone, not at rows. It is the old name-matching idea of schema linking (as the
features of IRNet, Guo et al. 2019, arXiv:1905.08205, and RAT-SQL, Wang et al. 2020, arXiv:1911.04942, take it), with
idf weights over the schema. RESDSQL (Li et al. 2023, arXiv:2302.05965) ranks tables and columns with a trained model
instead and finds more; nothing is trained here, so it works on a database that nobody has asked about before.

1. Names and the question become words: lower case, no accents, split at signs, at digits and at camelCase, and of
   Chinese each character one.
2. A question word and a name's word are alike by 1 when equal; else by the shorter one's share of the longer one when
   it opens it (`order`, `orders`); else by the Dice coefficient of their trigrams from 0.5 on.
3. A word weighs log(1 + N / n): N names in the schema, n of them with that word. A name's score is the weight of its
   matched words, each times its likeness, times the matched share of the name's whole weight. A matched column also
   gets half its table's score.
4. From the best score downwards: a matched column brings itself; a matched table its first column and those called
   name, title or the like. A table that comes in is joined to those before it over the shortest way of key columns, by
   further tables where it must be, and key columns between kept tables stay. Key columns are told by their names: the
   same name with a word such as id, code or key in two tables, or `customer_id` and `customers.id`.
5. The columns of kept tables that nothing matched come next. Then the tables that nothing matched, those with most
   joins first: of each what step 4 says of a table, and at last their other columns in turn.
6. The longest beginning of that order within the budget is kept, with tables and columns in the schema's own order.

Prompts to train on show what their gold names (`named_in`) before all of that, so that no name is learnt that is not
there to be read; which columns the question alone finds is measured without it.

What it cannot see: synonyms, a value that names a column (`from Oslo`), keys whose names differ (`manager_id`).
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import sqlglot
from sqlglot import exp

from t2s_assets.text2sql.errors import PromptError
from t2s_assets.text2sql.schema import TableSchema

Place = tuple[int, int]
"""A column: its table's position and its own."""

# Chinese and Japanese have no blank between words, and most of their characters tell by themselves.
_HAN = r"\u2e80-\u2fdf\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_WORD = re.compile(rf"[{_HAN}]|[^\W\d_{_HAN}]+|\d+")
_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
KEY_WORDS = frozenset("id key code no nr num number uuid guid".split())
LABEL_WORDS = frozenset("name title label caption".split())
# They stand in every question and in names such as "date of birth", where they tell nothing.
_FUNCTION_WORDS = frozenset(
    "a all an and any are as at be been by can did do does for from give had has have how i in is it its many me my"
    " of on or our per please show tell that the their them there these they this to was we were what when where which"
    " who whose with you your".split()
)
_LEAST_LIKENESS = 0.5
_SHORTEST_FUZZY = 4
_TABLE_SHARE = 0.5


def link(
    question: str,
    schemas: Sequence[TableSchema],
    budget: int,
    measure: Callable[[Sequence[TableSchema]], int],
    *,
    keep: Collection[tuple[str, str]] = (),
) -> tuple[TableSchema, ...]:
    """The tables and columns most related to the question whose `measure` (of the whole, say in tokens) is <= budget.

    All of them where they fit. `measure` must not fall when a table or column is added; it is called about
    log2(columns) times. `keep` are (table, column) pairs that stay, over the budget too.

    Raises:
        PromptError: there are no tables, or the single most related column does not fit.
    """
    schemas = tuple(schemas)
    if not schemas:
        raise PromptError("there are no tables to ask about; give a schema with at least one")
    if measure(schemas) <= budget:
        return schemas
    kept = [(t, c) for t, table in enumerate(schemas) for c, column in enumerate(table.columns)]
    kept = [(t, c) for t, c in kept if (schemas[t].name, schemas[t].columns[c].name) in keep]
    steps = [*([kept] if kept else []), *_steps(_index(schemas), question)]
    low, high = 0, len(steps)  # the first `low` steps fit, `high` do not
    while high - low > 1:
        middle = (low + high) // 2
        if measure(_kept(schemas, steps[:middle])) <= budget:
            low = middle
        else:
            high = middle
    if not low and not kept and (size := measure(_kept(schemas, steps[:1]))) > budget:
        table, column = steps[0][0]
        raise PromptError(
            f"the schema does not fit into {budget} tokens, not even with {schemas[table].name!r} and its column "
            f"{schemas[table].columns[column].name!r} alone, which take {size}; raise prompt.max_length, or shorten "
            "the question"
        )
    return _kept(schemas, steps[: max(low, 1)])


def named_in(sql: str, schemas: Sequence[TableSchema]) -> set[tuple[str, str]]:
    """The (table, column) pairs that names in DuckDB SQL may stand for, in the tables that it reads.

    Of a table of which it names no column, as in `SELECT COUNT(*) FROM t`, the first. A star names none.
    """
    tree = sqlglot.parse_one(sql, read="duckdb")
    read = {table.name.casefold() for table in tree.find_all(exp.Table)}
    names = {name.name.casefold() for name in tree.find_all(exp.Identifier)}
    found = set()
    for schema in schemas:
        if schema.name.casefold() in read:
            columns = [column.name for column in schema.columns]
            named = [name for name in columns if name.casefold() in names] or columns[:1]
            found |= {(schema.name, name) for name in named}
    return found


def recall(kept: Iterable[TableSchema], gold_columns: Iterable[tuple[str, str]]) -> float | None:
    """Share of the gold query's columns that were kept.

    Numerator: distinct (table, column) pairs of `gold_columns` that `kept` holds, names compared ignoring case.
    Denominator: the distinct pairs. None where the gold uses no column, as `SELECT COUNT(*) FROM t`.
    """
    wanted = {(t.casefold(), c.casefold()) for t, c in gold_columns}
    there = {(t.name.casefold(), c.name.casefold()) for t in kept for c in t.columns}
    return len(wanted & there) / len(wanted) if wanted else None


def key_pairs(schemas: Sequence[TableSchema]) -> list[tuple[Place, Place]]:
    """Pairs of columns in different tables that seem to be keys of one another, by their names; each pair once."""
    joins = _index(tuple(schemas)).joins
    found: dict[tuple[Place, Place], None] = {}
    for others in joins.values():
        for places in others.values():
            for here, there in zip(places[::2], places[1::2]):
                found[min(here, there), max(here, there)] = None
    return sorted(found)


def _kept(schemas: Sequence[TableSchema], steps: Iterable[Iterable[Place]]) -> tuple[TableSchema, ...]:
    columns: dict[int, set[int]] = defaultdict(set)
    for step in steps:
        for table, column in step:
            columns[table].add(column)
    return tuple(
        TableSchema(schemas[t].name, tuple(schemas[t].columns[c] for c in sorted(columns[t]))) for t in sorted(columns)
    )


# ------------------------------------------------------------------------------------------------- words, likeness


@lru_cache(maxsize=1 << 16)
def words(text: str) -> tuple[str, ...]:
    """The words of a name or a question, normalised; those that tell nothing are left out unless there is no other."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    found = [w.casefold() for part in _HUMP.split(plain) for w in _WORD.findall(part)]
    return tuple([w for w in found if w not in _FUNCTION_WORDS] or found)


@lru_cache(maxsize=1 << 18)
def likeness(a: str, b: str) -> float:
    """How alike two words are, from 0 to 1; see the module's text."""
    if a == b:
        return 1.0
    short, long = sorted((a, b), key=len)
    if len(short) < _SHORTEST_FUZZY or short.isdecimal():
        return 0.0
    if long.startswith(short):
        return len(short) / len(long)
    first, second = _trigrams(a), _trigrams(b)
    dice = 2 * len(first & second) / (len(first) + len(second))
    return dice if dice >= _LEAST_LIKENESS else 0.0


@lru_cache(maxsize=1 << 16)
def _trigrams(word: str) -> frozenset[str]:
    return frozenset(word[i : i + 3] for i in range(len(word) - 2))


# ------------------------------------------------------------------------------------------------ the schema, once


@dataclass(frozen=True)
class _Index:
    """What does not depend on the question."""

    table_words: tuple[tuple[str, ...], ...]
    column_words: tuple[tuple[tuple[str, ...], ...], ...]
    weights: dict[str, float]
    joins: dict[int, dict[int, tuple[Place, ...]]]  # table -> table -> the key columns of both sides


@lru_cache(maxsize=8)
def _index(schemas: tuple[TableSchema, ...]) -> _Index:
    table_words = tuple(words(t.name) for t in schemas)
    column_words = tuple(tuple(words(c.name) for c in t.columns) for t in schemas)
    names = [*table_words, *(w for columns in column_words for w in columns)]
    counts = Counter(word for name in names for word in set(name))
    weights = {word: math.log1p(len(names) / n) for word, n in counts.items()}
    return _Index(table_words, column_words, weights, _joins(table_words, column_words))


def _joins(
    table_words: Sequence[tuple[str, ...]], column_words: Sequence[Sequence[tuple[str, ...]]]
) -> dict[int, dict[int, tuple[Place, ...]]]:
    sharing: dict[tuple[str, ...], list[Place]] = defaultdict(list)
    for table, columns in enumerate(column_words):
        for column, name in enumerate(columns):
            if len(name) > 1 and KEY_WORDS & set(name):
                sharing[name].append((table, column))
            elif len(name) == 1 and name[0] in KEY_WORDS and table_words[table]:
                for owner in {table_words[table], _singular(table_words[table])}:
                    sharing[(*owner, *name)].append((table, column))
    joins: dict[int, dict[int, tuple[Place, ...]]] = defaultdict(dict)
    for places in sharing.values():
        for here in places:
            for there in places:
                if here[0] != there[0]:
                    known = joins[here[0]].get(there[0], ())
                    joins[here[0]][there[0]] = (*known, here, there)
    return joins


def _singular(name: tuple[str, ...]) -> tuple[str, ...]:
    """`customers` as in `customer_id`, for the plural forms that table names mostly have."""
    last = name[-1]
    if last.endswith("ies") and len(last) > 4:
        return (*name[:-1], last[:-3] + "y")
    return (*name[:-1], last[:-1]) if last.endswith("s") and len(last) > 3 else name


# ------------------------------------------------------------------------------------------------------ the order


def _steps(index: _Index, question: str) -> Iterator[list[Place]]:
    """What is kept next, best first: each step is the columns that come in together."""
    asked = words(question)
    score = lru_cache(maxsize=None)(lambda name: _score(name, asked, index.weights))
    tables = [score(name) for name in index.table_words]
    own = [[score(name) for name in columns] for columns in index.column_words]
    ranked: list[tuple[float, int, int]] = []  # (-score, table, column or -1 for the table itself)
    for table, columns in enumerate(own):
        if tables[table]:
            ranked.append((-tables[table], table, -1))
        ranked += [(-s - _TABLE_SHARE * tables[table], table, column) for column, s in enumerate(columns) if s]
    kept: dict[int, set[int]] = {}
    for _, table, column in sorted(ranked):
        places = [(table, column)] if column >= 0 else _face(index, table)
        yield [*places, *_take(index, kept, places)]
    best = [max([tables[t], *own[t]]) for t in range(len(tables))]
    for table in sorted(kept, key=lambda t: (-best[t], t)):
        for column in range(len(own[table])):
            if column not in kept[table]:
                kept[table].add(column)
                yield [(table, column)]
    unmatched = sorted(set(range(len(tables))) - set(kept), key=lambda t: (-len(index.joins.get(t, ())), t))
    for table in unmatched:
        places = _face(index, table)
        yield [*places, *_take(index, kept, places, bridge=False)]
    for column in range(max(map(len, own))):
        for table in unmatched:
            if column < len(own[table]) and column not in kept[table]:
                kept[table].add(column)
                yield [(table, column)]


def _score(name: tuple[str, ...], asked: tuple[str, ...], weights: dict[str, float]) -> float:
    whole = sum(weights[w] for w in name)
    matched = sum(weights[w] * max((likeness(w, a) for a in asked), default=0.0) for w in name)
    return matched * matched / whole if whole else 0.0


def _face(index: _Index, table: int) -> list[Place]:
    """The columns that a table is asked about by: its first, and its names."""
    names = index.column_words[table]
    return [(table, c) for c, name in enumerate(names) if c == 0 or LABEL_WORDS & set(name)]


def _take(index: _Index, kept: dict[int, set[int]], places: Iterable[Place], *, bridge: bool = True) -> list[Place]:
    """Add `places` to `kept`, and return the key columns that come with them."""
    keys: list[Place] = []
    for table, column in places:
        if table not in kept:
            way = _way(index, table, kept) if bridge else [table]
            before = set(kept)
            for new in way:
                kept.setdefault(new, set())
            # Only between neighbours of the way and tables that were there: the way's tables are means, not ends.
            for new in [table, *(way if len(way) > 1 else ())]:
                for other in [*before, *way]:
                    keys += index.joins.get(new, {}).get(other, ()) if other != new else ()
        kept[table].add(column)
    keys = [p for p in dict.fromkeys(keys) if p[1] not in kept[p[0]]]
    for table, column in keys:
        kept[table].add(column)
    return keys


def _way(index: _Index, start: int, kept: dict[int, set[int]]) -> list[int]:
    """The tables from `start` up to, not with, the nearest kept one over keys; `start` alone where none is reached."""
    came_from: dict[int, int | None] = {start: None}
    queue = deque([start])
    while queue:
        table = queue.popleft()
        if table in kept:
            way = []
            back = came_from[table]
            while back is not None:
                way.append(back)
                back = came_from[back]
            return way
        for other in sorted(index.joins.get(table, ())):
            if other not in came_from:
                came_from[other] = table
                queue.append(other)
    return [start]
