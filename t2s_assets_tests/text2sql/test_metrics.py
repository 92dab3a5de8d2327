"""The measures, against published values and against an evaluator written apart from ours."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from t2s_assets.text2sql.datasets.wikisql import read_wikisql
from t2s_assets.text2sql.execution import Database, Job, Outcome, Relation, SqlExecutor
from t2s_assets.text2sql.metrics import (
    ERROR_KINDS,
    breakdown,
    error_kinds,
    exact_match,
    mcnemar,
    parse_prediction,
    percentiles,
    rate,
    summary,
)
from t2s_assets.text2sql.query import Query, to_sql
from t2s_assets.text2sql.results import result_fingerprints
from t2s_assets.text2sql.schema import Column, TableSchema
from t2s_assets_tests.text2sql.agreement import TEXT_SUM, UNEXPLAINED, Agreement, agreement, cases
from t2s_assets_tests.text2sql.official import Official

SCHEMA = TableSchema("t", (Column("Name", "text"), Column("Year", "real"), Column("Club", "text")))


def query(sel: int = 0, agg: int = 0, *conds: list[Any]) -> Query:
    return Query.from_json({"sel": sel, "agg": agg, "conds": list(conds)}, width=3)


# ------------------------------------------------------------------------------------------------------ the rates


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [
        # Newcombe 1998, Statistics in Medicine 17:857, table I, method 3 (Wilson score without correction).
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_intervals_are_wilsons(hits: int, n: int, low: float, high: float) -> None:
    found = rate([True] * hits + [False] * (n - hits))
    assert found["value"] == hits / n
    assert found["n"] == n
    assert found["low"] == pytest.approx(low, abs=5e-5)
    assert found["high"] == pytest.approx(high, abs=5e-5)


def test_the_ends_of_the_scale() -> None:
    perfect, none = rate([True] * 10), rate([False] * 10)
    assert (perfect["value"], perfect["high"]) == (1.0, pytest.approx(1.0))
    assert perfect["high"] is not None and perfect["high"] <= 1.0
    assert none["low"] == 0.0
    assert perfect["low"] == pytest.approx(0.7225, abs=5e-5)
    assert rate([]) == {"value": None, "low": None, "high": None, "n": 0}


@pytest.mark.parametrize(
    ("lost", "won", "p"),
    [
        # Two-sided sign test, from binomial tables (n = lost + won, 1/2).
        (0, 0, 1.0),
        (0, 5, 0.0625),
        (1, 9, 0.021484375),
        (2, 8, 0.109375),
        (5, 5, 1.0),
        (3, 12, 0.035156),
    ],
)
def test_mcnemar_is_the_exact_sign_test(lost: int, won: int, p: float) -> None:
    first = [True] * lost + [False] * won + [True, False] * 7
    second = [False] * lost + [True] * won + [True, False] * 7
    found = mcnemar(first, second)
    assert (found["lost"], found["won"], found["n"]) == (lost, won, lost + won + 14)
    assert found["p"] == pytest.approx(p, abs=1e-6)
    assert mcnemar(second, first)["p"] == pytest.approx(p, abs=1e-6)


def test_mcnemar_of_many_questions_stays_a_probability() -> None:
    found = mcnemar([True] * 4000 + [False] * 4000, [False] * 4000 + [True] * 4000)
    assert found["p"] == 1.0
    assert 0 <= mcnemar([True] * 3000 + [False] * 5000, [False] * 3000 + [True] * 5000)["p"] < 1e-100


def test_mcnemar_wants_the_same_questions() -> None:
    with pytest.raises(ValueError, match="got 2 and 1"):
        mcnemar([True, False], [True])


def test_percentiles_are_nearest_rank() -> None:
    # The worked example of the nearest-rank method: 15, 20, 35, 40, 50.
    assert percentiles([35, 20, 15, 50, 40], (0.05, 0.3, 0.4, 0.5, 1.0)) == {
        "p5": 15,
        "p30": 20,
        "p40": 20,
        "p50": 35,
        "p100": 50,
    }
    assert percentiles([]) == {}
    assert percentiles([7.0]) == {"p50": 7.0, "p95": 7.0, "p99": 7.0}


def test_percentiles_count_exactly_at_every_size() -> None:
    for n in range(1, 1001):
        found = percentiles(range(1, n + 1))
        assert found == {"p50": -(-n // 2), "p95": -(-95 * n // 100), "p99": -(-99 * n // 100)}


# ----------------------------------------------------------------------------------------------------- exact match


@pytest.mark.parametrize(
    ("sql", "right"),
    [
        ('SELECT "Name" FROM t WHERE "Year" = 1990 AND "Club" = \'IFK\'', True),
        ('SELECT "Name" FROM t WHERE "Club" = \'ifk\' AND "Year" = 1990.0', True),
        ("select name from T where (year = '1990') and 'IFK' = club;", True),
        ('SELECT "Name" FROM t WHERE "Club" = \'IFK\' AND "Year" = 1990 AND "Year" = 1990', True),
        ('SELECT "Name" FROM t WHERE "Year" = 1990 AND "Club" = \'IFK \'', False),
        ('SELECT "Name" FROM t WHERE "Year" > 1990 AND "Club" = \'IFK\'', False),
        ('SELECT "Name" FROM t WHERE "Year" = 1990', False),
        ('SELECT "Name" FROM t WHERE "Year" = \'about 1990\' AND "Club" = \'IFK\'', False),
        ('SELECT "Club" FROM t WHERE "Year" = 1990 AND "Club" = \'IFK\'', False),
        ('SELECT COUNT("Name") FROM t WHERE "Year" = 1990 AND "Club" = \'IFK\'', False),
        ('SELECT DISTINCT "Name" FROM t WHERE "Year" = 1990 AND "Club" = \'IFK\'', False),
        ('SELECT "Name" FROM other WHERE "Year" = 1990 AND "Club" = \'IFK\'', False),
        ('SELECT "Name" FROM t WHERE "Year" = 1990 AND "Club" = \'IFK\'; SELECT 1', False),
        ("", False),
        ("no SQL", False),
    ],
)
def test_exact_match(sql: str, right: bool) -> None:
    gold = query(0, 0, [1, 0, "1,990"], [2, 0, "IFK"])
    predicted, reason = parse_prediction(sql, SCHEMA)
    assert exact_match(predicted, gold, SCHEMA) is right
    assert (predicted is None) == bool(reason)


@pytest.mark.parametrize(
    ("value", "right"),
    [("€5", True), (5, True), ("5.0", True), ("€5.0", False), ("$5", False), (6, False)],
)
def test_gold_that_holds_a_number_inside_text_matches_the_number_and_its_own_text(value: Any, right: bool) -> None:
    gold = query(0, 0, [1, 0, "€5"])
    assert exact_match(query(0, 0, [1, 0, value]), gold, SCHEMA) is right
    assert error_kinds(query(0, 0, [1, 0, value]), gold, SCHEMA) == ([] if right else ["value"])


@pytest.mark.parametrize(
    ("predicted", "kinds"),
    [
        (query(0, 0, [1, 0, 5], [2, 0, "IFK"]), []),
        (None, ["unparsable"]),
        (query(1, 0, [1, 0, 5], [2, 0, "IFK"]), ["SELECT column"]),
        (query(0, 3, [1, 0, 5], [2, 0, "IFK"]), ["aggregate"]),
        (query(0, 0, [1, 0, 5]), ["WHERE column"]),
        (query(0, 0, [1, 0, 5], [2, 0, "IFK"], [0, 0, "x"]), ["WHERE column"]),
        (query(0, 0, [1, 0, 5], [0, 0, "IFK"]), ["WHERE column"]),
        (query(0, 0, [1, 1, 5], [2, 0, "IFK"]), ["operator"]),
        (query(0, 0, [1, 0, 6], [2, 0, "IFK"]), ["value"]),
        (query(0, 0, [1, 2, 6], [2, 0, "AIK"]), ["operator", "value"]),
        (query(2, 1, [1, 2, 6]), list(ERROR_KINDS[1:])),
        (query(0, 0, [1, 0, 5], [1, 0, 6], [2, 0, "IFK"]), ["WHERE column", "value"]),
    ],
)
def test_error_kinds(predicted: Query | None, kinds: list[str]) -> None:
    assert error_kinds(predicted, query(0, 0, [1, 0, 5], [2, 0, "ifk"]), SCHEMA) == kinds


def test_only_an_exact_match_has_no_error() -> None:
    draw = random.Random(5)
    gold = query(0, 0, [1, 1, 5], [1, 2, 9])
    for _ in range(500):
        conds = [[1, draw.randint(0, 2), draw.choice([5, 9])] for _ in range(draw.randint(1, 3))]
        predicted = query(0, 0, *conds)
        assert bool(error_kinds(predicted, gold, SCHEMA)) != exact_match(predicted, gold, SCHEMA)


# -------------------------------------------------------------------------------------------------------- summary


def row(em: int, ex: int, strict: int, valid: int, degenerate: int, kind: str = "filter") -> dict[str, Any]:
    verdicts = {"em": em, "ex": ex, "ex_strict": strict, "valid": valid, "gold_degenerate": degenerate}
    return {k: bool(v) for k, v in verdicts.items()} | {"category": kind}


ROWS = [
    row(1, 1, 1, 1, 0),
    row(0, 1, 0, 1, 1),  # another query without an answer: right for EX, not counted by EX strict
    row(0, 0, 1, 1, 0),  # the rows of the gold in another order
    row(0, 0, 0, 0, 0, "simple"),
]


def test_each_measure_has_its_own_denominator() -> None:
    found = summary(ROWS)
    assert {k: (r["value"], r["n"]) for k, r in found.items()} == {
        "em": (0.25, 4),
        "ex": (0.5, 4),
        "ex_strict": (2 / 3, 3),
        "test_suite": (None, 0),
        "validity": (0.75, 4),
    }


def test_the_test_suite_counts_only_where_it_ran() -> None:
    rows = [ROWS[0] | {"test_suite": verdict} for verdict in (True, False, None)]
    assert (summary(rows)["test_suite"]["value"], summary(rows)["test_suite"]["n"]) == (0.5, 2)


def test_a_breakdown_adds_up() -> None:
    found = breakdown(ROWS, "category")
    assert list(found) == ["filter", "simple"]
    assert found["filter"]["em"]["n"] + found["simple"]["em"]["n"] == 4
    assert found["simple"]["validity"]["value"] == 0
    assert breakdown([], "category") == {}


# ---------------------------------------------------------------------------------------- the official evaluator


def agreed(archive: Path, split: str, limit: int | None) -> Agreement:
    with SqlExecutor() as running:
        return agreement(cases(read_wikisql(archive), split, limit, None), running)


def explained(found: Agreement) -> bool:
    """Gold agrees with itself everywhere, and every difference has a cause that docs/agreement.md names."""
    unexplained = [why for _, why in found.causes if why == UNEXPLAINED]
    return not unexplained and not [why for kind, why in found.causes if kind == "gold" and why != TEXT_SUM]


@pytest.mark.wikisql
def test_verdicts_are_those_of_the_official_evaluator(wikisql_archive: Path) -> None:
    found = agreed(wikisql_archive, "validation", 300)
    assert found.compared.total() > 2000
    assert explained(found), found.examples
    assert found.causes.total() < 0.05 * found.compared.total()


@pytest.mark.slow
@pytest.mark.wikisql
@pytest.mark.parametrize("split", ["validation", "test"])
def test_all_verdicts_are_those_of_the_official_evaluator(wikisql_archive: Path, split: str) -> None:
    found = agreed(wikisql_archive, split, None)
    assert found.compared.total() > 25_000
    assert explained(found), found.examples


def test_the_official_evaluator_of_these_tests() -> None:
    """The reference itself, on cases worked out by hand."""
    rows = [["Lund", "1,990"], ["LUND", "−3.5"], ["Kiruna", ""]]
    reference = Official(["text", "real"], rows)
    assert reference.execute({"sel": 1, "agg": 0, "conds": [[0, 0, "lunD"]]}) == [1990.0, -3.5]
    assert reference.execute({"sel": 0, "agg": 3, "conds": [[1, 1, "-4"]]}) == [2]
    assert reference.execute({"sel": 1, "agg": 4, "conds": []}) == [1986.5]
    assert reference.execute({"sel": 0, "agg": 0, "conds": [[1, 0, "about 1990 or so"]]}) == ["lund"]
    assert reference.execute({"sel": 0, "agg": 0, "conds": [[1, 0, 7]]}) == []


@pytest.fixture(scope="module")
def executor() -> Any:
    with SqlExecutor() as running:
        yield running


def test_official_semantics_hold_on_awkward_cells(executor: SqlExecutor) -> None:
    rows = [("Lund", 1990.0), ("LUND", -3.5), ("Åsa", None), ("åsa", 0.0), ("", 1e15)]
    relation = Relation.from_rows("t", [("Name", "VARCHAR COLLATE NOCASE"), ("Year", "DOUBLE")], rows)
    reference = Official(["text", "real"], [(a, "" if b is None else repr(b)) for a, b in rows])
    schema = TableSchema("t", SCHEMA.columns[:2])
    sketches = [
        {"sel": s, "agg": a, "conds": c}
        for s in (0, 1)
        for a in ((0, 1, 2, 3) if s == 0 else range(6))
        for c in ([], [[0, 0, "lund"]], [[0, 0, "ÅSA"]], [[0, 1, "lund"]], [[1, 2, 1]], [[1, 1, "−5"]], [[0, 0, "x"]])
    ]
    jobs = [Job(Database.of(relation), to_sql(Query.from_json(s, width=2), schema)) for s in sketches]
    for sketch, outcome in zip(sketches, executor.run(jobs)):
        theirs = Outcome("ok", rows=tuple((cell,) for cell in reference.execute(sketch)))
        assert result_fingerprints(outcome) == result_fingerprints(theirs), sketch
