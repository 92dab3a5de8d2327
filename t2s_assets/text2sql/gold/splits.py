"""Dealing questions out to train, validation and test, so that what is tested was not trained on.

What stays together is chosen from the coarsest down: all questions of a database; all questions that share a table or a
wording, directly or through others; all questions with the same gold or wording. Table, gold and wording are those of
one database: what two databases are asked in the same words are two questions. The first grain that gives validation
and test at least half of what `split` asks for, and leaves training at least half of its share, is taken.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

from t2s_assets.text2sql.dataset_config import SplitSettings
from t2s_assets.text2sql.storage import content_hash


@dataclass(frozen=True)
class Dealt:
    """One question to deal out: what must stay together at each grain."""

    id: str
    database: str
    tables: tuple[str, ...]
    gold: str
    text: str


GRAINS = {
    "database": "no database is in two splits",
    "tables": "no table is in two splits",
    "question": "no gold query and no wording of one database is in two splits; tables are",
}


def deal(questions: Sequence[Dealt], settings: SplitSettings) -> tuple[dict[str, str], str]:
    """(the split of each question by id, the grain of GRAINS by which they were dealt out).

    Which unit goes where depends on the seed and the ids in it alone.
    """
    same: list[list[Hashable]] = [
        [("gold", q.database, q.gold), ("text", q.database, q.text.casefold())] for q in questions
    ]
    by_grain: dict[str, list[list[Hashable]]] = {
        "database": [[q.database] for q in questions],
        "tables": [[*keys, *(("table", q.database, t) for t in q.tables)] for keys, q in zip(same, questions)],
        "question": same,
    }
    for grain, keys in by_grain.items():
        units = together(keys)
        names = {unit: min(questions[i].id for i in members) for unit, members in units.items()}
        sizes = {names[u]: len(members) for u, members in units.items()}
        splits = _deal_units(sizes, settings)
        totals = Counter[str]()
        for name, size in sizes.items():
            totals[splits[name]] += size
        if grain == "question" or _fair(totals, len(questions), settings):
            return {questions[i].id: splits[names[u]] for u, members in units.items() for i in members}, grain
    raise AssertionError("the finest grain is always taken")


def together(keys: Sequence[Iterable[Hashable]]) -> dict[int, list[int]]:
    """Positions that share a key, directly or through others, by the first of each group (union-find)."""
    parent = list(range(len(keys)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    owner: dict[Hashable, int] = {}
    for i, group in enumerate(keys):
        for key in group:
            a, b = root(owner.setdefault(key, i)), root(i)
            parent[max(a, b)] = min(a, b)
    units: dict[int, list[int]] = {}
    for i in range(len(keys)):
        units.setdefault(root(i), []).append(i)
    return units


def _deal_units(sizes: dict[str, int], settings: SplitSettings) -> dict[str, str]:
    """Units in seeded order go to test, then to validation, while they fit what is wanted there; the rest trains."""
    total = sum(sizes.values())
    room = {"test": settings.test * total, "validation": settings.validation * total}
    found = {}
    for name in sorted(sizes, key=lambda n: content_hash(settings.seed, n)):
        # At most half of a unit over what is wanted, so that one large unit does not take it all.
        split = next((s for s, left in room.items() if left > 0 and sizes[name] <= 2 * left), "train")
        found[name] = split
        if split != "train":
            room[split] -= sizes[name]
    return found


def _fair(totals: Counter[str], n: int, settings: SplitSettings) -> bool:
    wanted = {"validation": settings.validation, "test": settings.test}
    wanted["train"] = 1 - sum(wanted.values())
    return all(totals[split] >= share * n / 2 for split, share in wanted.items())
