"""The bundled dataset: large and varied enough to learn from, right in every answer, and not to be had by guessing."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import pytest

from t2s_assets.text2sql.dataset_config import WikiSQLDataset
from t2s_assets.text2sql.datasets import MINI, read_source
from t2s_assets.text2sql.datasets.wikisql import Source, SourceQuestion, SourceTable, read_wikisql
from t2s_assets.text2sql.execution import Job, Outcome, SqlExecutor
from t2s_assets.text2sql.gold.sketch import Table, same_content_across_splits, shared_tables
from t2s_assets.text2sql.query import AGGREGATES, Query, condition_number, from_sql, normal_form, parse_number, to_sql
from t2s_assets.text2sql.results import is_degenerate, result_fingerprints

Answers = tuple[list[Outcome], dict[str, list[Outcome]]]


@pytest.fixture(scope="module")
def source() -> Source:
    return read_wikisql(MINI)


@pytest.fixture(scope="module")
def tables(source: Source) -> dict[str, Table]:
    return {t.id: Table(t.id, t.split, t.header, t.schema(t.id), t.rows) for t in source.tables}


def blind_queries(table: Table) -> list[Query]:
    """Every query that can be asked without a value: each column under each aggregate that it takes."""
    kinds = [c.type for c in table.schema.columns]
    return [Query(i, a) for i, kind in enumerate(kinds) for a in range(6 if kind == "real" else 4)]


@pytest.fixture(scope="module")
def answers(source: Source, tables: dict[str, Table]) -> Answers:
    """What every gold query returns, and what every blind query returns on each table."""
    gold = [Job(tables[q.table_id].database, to_sql(q.query, tables[q.table_id].schema)) for q in source.questions]
    blind = [(t, q) for t in tables.values() for q in blind_queries(t)]
    with SqlExecutor() as executor:
        found = executor.run([*gold, *(Job(t.database, to_sql(q, t.schema)) for t, q in blind)])
    by_table: dict[str, list[Outcome]] = {}
    for (table, _), outcome in zip(blind, found[len(gold) :]):
        by_table.setdefault(table.id, []).append(outcome)
    return found[: len(gold)], by_table


def shares(values: Iterable[Any]) -> dict[Any, float]:
    counts = Counter(values)
    return {k: n / sum(counts.values()) for k, n in counts.items()}


# ----------------------------------------------------------------------------------------------------------- size


def test_there_is_enough_of_it(source: Source) -> None:
    assert len(source.tables) >= 48
    assert len(source.questions) >= 1600
    assert min(Counter(q.split for q in source.questions).values()) >= 250
    assert min(Counter(t.split for t in source.tables).values()) >= 8


def test_it_is_what_the_bundled_source_reads(source: Source) -> None:
    config = WikiSQLDataset.model_validate({"description": "d", "source": {"kind": "bundled"}})
    assert read_source(config, folder=MINI, downloads=MINI) == source


def test_tables_are_of_a_table_s_size(source: Source) -> None:
    for table in source.tables:
        assert 8 <= len(table.rows) <= 40, table.id
        assert 4 <= len(table.header) <= 9, table.id
        assert len(set(table.rows)) == len(table.rows), table.id
        assert len({h.casefold() for h in table.header}) == len(table.header), table.id


def test_every_table_is_asked_about(source: Source) -> None:
    asked = Counter(q.table_id for q in source.questions)
    assert set(asked) == {t.id for t in source.tables}
    assert max(asked.values()) < 0.05 * len(source.questions)


def test_number_columns_hold_numbers(source: Source) -> None:
    for table in source.tables:
        for i, kind in enumerate(table.types):
            cells = [row[i] for row in table.rows]
            if kind == "real":
                assert all(cell.strip() == "" or parse_number(cell) is not None for cell in cells), (table.id, i)


def test_it_is_awkward_where_real_tables_are(source: Source) -> None:
    headers = [h for t in source.tables for h in t.header]
    cells = [c for t in source.tables for row in t.rows for c in row]
    numeric_text = [
        (t.id, i)
        for t in source.tables
        for i, kind in enumerate(t.types)
        if kind == "text" and all(re.fullmatch(r"[\d/:.–-]+", row[i]) for row in t.rows)
    ]
    assert sum("(" in h or "," in h for h in headers) >= 10  # units
    assert sum(len(h) > 25 for h in headers) >= 5
    assert sum(re.fullmatch(r"\d{1,3}(,\d{3})+", c) is not None for c in cells) >= 50
    assert sum("'" in c or "’" in c for c in cells) >= 10
    assert sum(any(ord(ch) > 127 and ch.isalpha() for ch in c) for c in cells) >= 50
    assert len(numeric_text) >= 3


# --------------------------------------------------------------------------------------------------------- splits


def test_splits_share_no_table_and_no_content(source: Source, tables: dict[str, Table]) -> None:
    assert shared_tables(tables, source.questions) == []  # type: ignore[arg-type]
    assert same_content_across_splits(tables) == []


# What a reader would look under for each table.
FIELDS = {
    "chemistry": ("element-properties", "element-discoveries"),
    "mineralogy": ("common-minerals", "famous-diamonds"),
    "physical geography": (
        "eight-thousanders",
        "european-high-points",
        "great-rivers",
        "notable-lakes",
        "famous-eruptions",
        "large-deserts",
        "national-parks",
    ),
    "film and television": ("palme-dor-films", "breaking-bad-final-season"),
    "literature": ("classic-novels",),
    "athletic and motor sports": (
        "champions-league-finals",
        "football-world-cups",
        "roland-garros-womens-finals",
        "olympic-field-records",
        "grand-prix-circuits",
        "formula-one-champions",
    ),
    "popular music and instruments": ("bowie-albums", "stringed-instruments"),
    "cities, building and transport networks": (
        "relocated-capitals",
        "long-suspension-bridges",
        "skyscrapers-by-height",
        "metro-networks",
        "international-airports",
    ),
    "history and politics": ("english-and-british-monarchs", "women-prime-ministers", "field-and-sea-battles"),
    "economics": ("currencies-and-central-banks",),
    "education": ("old-universities",),
    "astronomy and spaceflight": ("major-moons", "apollo-crewed-flights", "planetary-probes"),
    "writing systems": ("invented-scripts",),
    "dog breeding": ("dog-breed-standards",),
    "inventions": ("landmark-us-patents",),
    "shipping": ("ocean-liners",),
    "food": ("protected-cheeses",),
    "ornithology": ("notable-birds",),
    "botany": ("famous-trees",),
    "scientific prizes": ("nobel-science-laureates",),
    "painting": ("museum-paintings",),
    "computing": ("early-home-computers",),
    "chess": ("world-chess-title-matches",),
    "aircraft": ("passenger-aircraft",),
    "opera": ("opera-premieres",),
}


def test_splits_are_of_different_fields(source: Source) -> None:
    field = {table: name for name, tables in FIELDS.items() for table in tables}
    assert sorted(field) == sorted(t.id for t in source.tables)
    splits: dict[str, set[str]] = {}
    for table in source.tables:
        splits.setdefault(field[table.id], set()).add(table.split)
    assert {name: found for name, found in splits.items() if len(found) > 1} == {}


def test_tables_of_different_splits_name_different_things(source: Source) -> None:
    """No two tables of different splits tell mostly of the same things."""

    def names(table: SourceTable) -> set[str]:
        return {
            row[i].casefold() for row in table.rows for i, kind in enumerate(table.types) if kind == "text" and i == 0
        }

    for a in source.tables:
        for b in source.tables:
            if a.split < b.split and names(a) and names(b):
                shared = names(a) & names(b)
                assert len(shared) < 0.5 * min(len(names(a)), len(names(b))), (a.id, b.id, shared)


def test_no_question_is_asked_twice(source: Source) -> None:
    asked = Counter(" ".join(re.findall(r"\w+", q.text.casefold())) for q in source.questions)
    assert {q: n for q, n in asked.items() if n > 1} == {}


# ---------------------------------------------------------------------------------------------------------- answers


def test_every_gold_query_runs_and_answers(source: Source, answers: Answers) -> None:
    broken = [(q.id, q.text, o.status, o.message) for q, o in zip(source.questions, answers[0]) if is_degenerate(o)]
    assert broken == []


def test_no_count_is_of_nothing(source: Source, answers: Answers) -> None:
    zero = [
        q.id
        for q, o in zip(source.questions, answers[0])
        if AGGREGATES[q.query.aggregate] == "COUNT" and o.rows == ((0,),)
    ]
    assert zero == []


def test_every_gold_query_reads_back(source: Source, tables: dict[str, Table]) -> None:
    for question in source.questions:
        schema = tables[question.table_id].schema
        again = from_sql(to_sql(question.query, schema), schema)
        assert normal_form(again, schema) == normal_form(question.query, schema)


def test_conditions_are_as_in_wikisql(source: Source, tables: dict[str, Table]) -> None:
    for question in source.questions:
        schema = tables[question.table_id].schema
        columns = [c.column for c in question.query.conditions]
        assert len(set(columns)) == len(columns), question.id
        for condition in question.query.conditions:
            assert str(condition.value).lower() in question.text.lower(), question.id
            if schema.columns[condition.column].type == "real":
                assert condition_number(condition.value) is not None, question.id
            else:
                assert condition.operator == 0, question.id


def test_sums_and_means_are_of_numbers(source: Source, tables: dict[str, Table]) -> None:
    for question in source.questions:
        if question.query.aggregate in (4, 5):
            assert tables[question.table_id].schema.columns[question.query.column].type == "real", question.id


# -------------------------------------------------------------------------------------------------- distributions


@pytest.mark.parametrize(
    ("measure", "wikisql", "tolerance"),
    [
        # Shares in WikiSQL's training split, from Zhong et al. 2017 and its files.
        (lambda q: [q.query.aggregate], {0: 0.72, 1: 0.06, 2: 0.06, 3: 0.09, 4: 0.04, 5: 0.04}, 0.04),
        (lambda q: [len(q.query.conditions)], {0: 0.02, 1: 0.67, 2: 0.24, 3: 0.06, 4: 0.01}, 0.05),
        (lambda q: [c.operator for c in q.query.conditions], {0: 0.83, 1: 0.09, 2: 0.08}, 0.05),
    ],
)
def test_distributions_are_near_wikisqls(
    source: Source, measure: Any, wikisql: dict[int, float], tolerance: float
) -> None:
    for split in ("train", "validation", "test"):
        found = shares(v for q in source.questions if q.split == split for v in measure(q))
        for value in wikisql.keys() | found.keys():
            assert abs(found.get(value, 0) - wikisql.get(value, 0)) < tolerance, (split, value, found)


def test_values_are_often_cased_unlike_the_table(source: Source) -> None:
    values = [(q, str(c.value)) for q in source.questions for c in q.query.conditions if isinstance(c.value, str)]
    assert 0.2 < sum(v not in q.text for q, v in values) / len(values) < 0.6


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def frame(question: SourceQuestion, table: SourceTable) -> str:
    """The question with its values and the words of its table's headers blanked out: what a template would share."""
    text = question.text.casefold()
    for condition in question.query.conditions:
        text = text.replace(str(condition.value).casefold(), " _ ")
    header = {w for h in table.header for w in words(h)}
    return re.sub(r"_( _)+", "_", " ".join("_" if w in header or w == "_" else w for w in words(text)))


def test_no_frame_is_common(source: Source) -> None:
    by_id = {t.id: t for t in source.tables}
    frames = shares(frame(q, by_id[q.table_id]) for q in source.questions)
    assert max(frames.values()) < 0.02
    assert len(frames) > 0.9 * len(source.questions)


def test_questions_begin_in_many_ways(source: Source) -> None:
    openings = shares(tuple(words(q.text)[:3]) for q in source.questions)
    assert max(openings.values()) < 0.03
    assert max(shares(words(q.text)[0] for q in source.questions).values()) < 0.2
    assert 0.2 < sum(q.text.rstrip().endswith("?") for q in source.questions) / len(source.questions) < 0.95


def test_columns_are_mostly_paraphrased(source: Source) -> None:
    by_id = {t.id: t for t in source.tables}
    verbatim = [by_id[q.table_id].header[q.query.column].casefold() in q.text.casefold() for q in source.questions]
    assert sum(verbatim) / len(verbatim) < 0.5


# --------------------------------------------------------------------------------------------- not by guessing


def score(source: Source, answers: Answers, choose: Any) -> float:
    """EX of answering each question with the blind query that `choose` picks from its table's."""
    right = 0
    for question, gold in zip(source.questions, answers[0]):
        blind = answers[1][question.table_id]
        right += result_fingerprints(blind[choose(question.table_id)])[0] == result_fingerprints(gold)[0]
    return right / len(source.questions)


def test_a_model_that_ignores_the_question_scores_under_a_tenth(
    source: Source, tables: dict[str, Table], answers: Answers
) -> None:
    def place(table_id: str, column: Sequence[int], aggregate: int) -> int:
        return blind_queries(tables[table_id]).index(Query(column[0], aggregate))

    def columns(table_id: str, kind: str) -> list[int]:
        found = [i for i, c in enumerate(tables[table_id].schema.columns) if c.type == kind]
        return found or [0]

    assert score(source, answers, lambda t: place(t, columns(t, "text"), 0)) < 0.1
    assert score(source, answers, lambda t: place(t, columns(t, "real"), 0)) < 0.1
    assert score(source, answers, lambda t: place(t, columns(t, "text"), 3)) < 0.1


def test_not_even_the_luckiest_blind_query_of_each_table_scores_a_tenth(source: Source, answers: Answers) -> None:
    """Chosen with the gold answers in hand: no model that reads the schema alone, and knows no value, does better."""
    fingerprints = {t: [result_fingerprints(o)[0] for o in found] for t, found in answers[1].items()}
    hits: dict[str, Counter[int]] = {t: Counter() for t in fingerprints}
    for question, gold in zip(source.questions, answers[0]):
        wanted = result_fingerprints(gold)[0]
        hits[question.table_id].update(i for i, f in enumerate(fingerprints[question.table_id]) if f == wanted)
    luckiest = sum(max(c.values(), default=0) for c in hits.values())
    assert luckiest / len(source.questions) < 0.1
