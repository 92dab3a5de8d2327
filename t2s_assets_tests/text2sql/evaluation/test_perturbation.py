"""Test-suite accuracy: what a copy holds, and which wrong queries it tells from the gold."""

from __future__ import annotations

import datetime as dt
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest

from t2s_assets.text2sql.evaluation import perturbation
from t2s_assets.text2sql.evaluation.perturbation import (
    MAX_QUERIES,
    MAX_ROWS,
    Case,
    conditions,
    perturbed,
    suite_verdicts,
)
from t2s_assets.text2sql.execution import Database, Job, Relation, SqlExecutor
from t2s_assets.text2sql.query import Query, to_sql
from t2s_assets.text2sql.results import result_fingerprints
from t2s_assets.text2sql.schema import Column, TableSchema

COLUMNS = [("Name", "VARCHAR COLLATE NOCASE"), ("Year", "DOUBLE"), ("Club", "VARCHAR COLLATE NOCASE")]
ROWS = [("Anna", 1990.0, "AIK"), ("Bo", 1991.0, "IFK"), ("Cid", 1992.0, "IFK"), ("Dan", None, "GIF")]
DATABASE = Database.of(Relation.from_rows("t", COLUMNS, ROWS))


class Suite:
    """Verdicts by one executor for all tests."""

    def __init__(self, executor: SqlExecutor) -> None:
        self.executor = executor

    def __call__(self, gold: str, predicted: str, *, database: Database = DATABASE, copies: int = 5) -> bool:
        golds = {database.key: [gold]}
        return suite_verdicts(self.executor, [Case(database, gold, predicted)], golds, copies=copies, seed=17)[0]


@pytest.fixture(scope="module")
def verdict() -> Iterator[Suite]:
    with SqlExecutor(workers=1) as executor:
        yield Suite(executor)


def rows_of(database: Database) -> list[tuple[Any, ...]]:
    (relation,) = database.relations
    return list(zip(*(column.to_pylist() for column in relation.data.columns)))


# --------------------------------------------------------------------------------------------------- conditions


@pytest.mark.parametrize(
    ("sql", "found"),
    [
        ("SELECT a FROM t WHERE \"Year\" > 1990 AND b = 'x'", [("year", ">", 1990), ("b", "=", "x")]),
        ("SELECT a FROM t WHERE 5 < a", [("a", ">", 5)]),
        ("SELECT a FROM t WHERE a >= -2.5", [("a", ">=", -2.5)]),
        ("SELECT a FROM t WHERE a BETWEEN 1 AND 3", [("a", ">=", 1), ("a", "<=", 3)]),
        ("SELECT a FROM t WHERE a IN ('x', 'y')", [("a", "=", "x"), ("a", "=", "y")]),
        ("SELECT a FROM t WHERE d > DATE '2024-02-01'", [("d", ">", "2024-02-01")]),
        ("SELECT a FROM t WHERE b = TRUE OR c IS NOT FALSE", [("b", "=", True), ("c", "=", False)]),
        ("SELECT a FROM t WHERE (b) AND NOT c", [("b", "=", True), ("c", "=", True)]),
        ("SELECT a FROM t WHERE a = b", []),
        ("SELECT a FROM t", []),
        ("no SQL at all (", []),
    ],
)
def test_conditions_are_read_from_any_sql(sql: str, found: list[Any]) -> None:
    assert sorted(conditions(sql), key=repr) == sorted(found, key=repr)


# ------------------------------------------------------------------------------------------------------- copies

GOLD = 'SELECT "Name" FROM t WHERE "Year" > 1990 AND "Club" = \'IFK\''


def test_copies_are_seeded() -> None:
    first = perturbed(DATABASE, [GOLD], copies=3, seed=1)
    again = perturbed(DATABASE, [GOLD], copies=3, seed=1)
    assert [rows_of(c) for c in first] == [rows_of(c) for c in again]
    assert [c.key for c in first] == [c.key for c in again]
    assert len({c.key for c in first}) == 3
    other = perturbed(DATABASE, [GOLD], copies=3, seed=2)
    assert not {c.key for c in first} & {c.key for c in other}
    assert [rows_of(c) for c in first] != [rows_of(c) for c in other]


def test_a_copy_has_rows_on_both_sides_of_every_condition() -> None:
    for copy in perturbed(DATABASE, [GOLD], copies=8, seed=3):
        added = [(year, str(club).lower()) for _, year, club in rows_of(copy)]
        assert any(year is not None and year > 1990 and club == "ifk" for year, club in added)
        assert any(year is not None and year <= 1990 and club == "ifk" for year, club in added)
        assert any(year is not None and year > 1990 and club != "ifk" for year, club in added)
        assert (copy.relations[0].name, copy.relations[0].columns) == ("t", tuple(COLUMNS))


def test_rows_are_dropped_and_cells_swapped() -> None:
    columns = [("a", "BIGINT"), ("b", "VARCHAR")]
    database = Database.of(Relation.from_rows("t", columns, [(i, f"x{i}") for i in range(200)]))
    (copy,) = perturbed(database, [], copies=1, seed=5)
    rows = rows_of(copy)
    assert 140 < len(rows) < 195
    swapped = sum(b != f"x{a}" for a, b in rows)
    assert 40 < swapped < len(rows)
    # A swap moves cells and makes none.
    assert max(Counter(a for a, _ in rows).values()) == max(Counter(b for _, b in rows).values()) == 1


def test_a_large_table_gives_small_copies() -> None:
    relation = Relation("t", (("a", "BIGINT"),), pa.table({"a": list(range(5000))}))
    (copy,) = perturbed(Database.of(relation), [], copies=1, seed=5)
    assert copy.relations[0].data.num_rows == MAX_ROWS


def test_many_golds_shape_no_more_than_some_rows() -> None:
    database = Database.of(Relation.from_rows("t", [("a", "BIGINT")], []))
    golds = [f"SELECT a FROM t WHERE a = {1000 * n} AND b = 2" for n in range(30)]  # no column b here
    copies = [{a for (a,) in rows_of(c)} for c in perturbed(database, golds, copies=3, seed=1)]
    near = [{n for n in range(30) if a & {1000 * n - 1, 1000 * n, 1000 * n + 1}} for a in copies]
    assert [len(n) for n in near] == [MAX_QUERIES] * 3
    assert near[0] != near[1]


def test_a_table_without_rows_gets_some(verdict: Suite) -> None:
    database = Database.of(Relation.from_rows("t", COLUMNS, []))
    assert len(rows_of(perturbed(database, [GOLD], copies=1, seed=0)[0])) == 3
    assert not verdict(GOLD, 'SELECT "Name" FROM t WHERE "Year" < 0', database=database)


def test_dates_that_python_has_not_stand_in_no_copy(verdict: Suite) -> None:
    days = pa.array([2**31 - 1, -(2**31) + 1, 19000], pa.int32()).cast(pa.date32())  # infinity, -infinity, 2022-01-08
    database = Database.of(Relation("t", (("day", "DATE"),), pa.table({"day": days})))
    assert verdict("SELECT COUNT(day) FROM t", "SELECT COUNT(day) FROM t", database=database)
    assert not verdict("SELECT COUNT(day) FROM t", "SELECT 3", database=database)


@pytest.mark.parametrize(
    ("sql_type", "cells", "condition"),
    [
        ("DATE", ["2024-02-29", None], "> DATE '2024-02-29'"),
        ("TINYINT", [127, 5], "= 127"),
        ("DECIMAL(6, 2)", [None, None], "> 9999.99"),
        ("DOUBLE", [1e300, -1e300], "> 1e300"),
        ("BOOLEAN", [True, False], "= 'true'"),
        ("TIMESTAMP", [None], "> '2024-01-01 00:00:00'"),
    ],
)
def test_every_type_of_column_has_copies(sql_type: str, cells: list[Any], condition: str) -> None:
    cells = [dt.date.fromisoformat(c) if isinstance(c, str) else c for c in cells]
    database = Database.of(Relation.from_rows("t", [("a", sql_type)], [(c,) for c in cells]))
    for copy in perturbed(database, [f"SELECT a FROM t WHERE a {condition}"], copies=5, seed=1):
        assert copy.relations[0].data.schema.types == database.relations[0].data.schema.types


@pytest.mark.parametrize(
    ("sql_type", "literal", "value"),
    [
        ("DATE", "DATE '9999-12-31'", dt.date.max),
        ("DATE", "'0001-01-01'", dt.date.min),
        ("TIMESTAMP", "'9999-12-31 23:59:59.999999'", dt.datetime.max),
        ("TIME", "'23:59:59.999999'", dt.time.max),
        ("BIGINT", "9223372036854775807", 2**63 - 1),
        ("DECIMAL(38, 0)", "9" * 309, None),
        ("DOUBLE", "9" * 309, None),
        ("BIGINT", "'" + "9" * 400 + "'", None),
    ],
)
@pytest.mark.parametrize("operator", ["=", "<>", ">", ">=", "<", "<="])
def test_the_ends_of_a_type_have_neighbours_on_one_side(sql_type: str, literal: str, value: Any, operator: str) -> None:
    database = Database.of(Relation.from_rows("t", [("a", sql_type)], []))
    for copy in perturbed(database, [f"SELECT a FROM t WHERE a {operator} {literal}"], copies=5, seed=1):
        cells = {row[0] for row in rows_of(copy)}
        assert value is None or value in cells or operator != "="


@pytest.mark.parametrize(
    ("sql_type", "condition", "meets"),
    [
        ("TIMESTAMP", "> TIMESTAMP '2024-01-01 10:00:00'", lambda cell: cell > dt.datetime(2024, 1, 1, 10)),
        ("TIMESTAMP", "<= '2024-01-01 10:00:00.25'", lambda cell: cell <= dt.datetime(2024, 1, 1, 10, 0, 0, 250_000)),
        ("TIMESTAMP", "= '2024-01-01'", lambda cell: cell == dt.datetime(2024, 1, 1)),
        ("TIME", "< TIME '10:00:00'", lambda cell: cell < dt.time(10)),
        ("BOOLEAN", "= TRUE", lambda cell: cell),
        ("BOOLEAN", "<> 'false'", lambda cell: cell),
        ("BOOLEAN", "IS FALSE", lambda cell: not cell),
        ("BOOLEAN", "", lambda cell: cell),
    ],
)
def test_conditions_of_every_type_are_met_and_missed(sql_type: str, condition: str, meets: Any) -> None:
    database = Database.of(Relation.from_rows("t", [("a", sql_type)], []))
    for copy in perturbed(database, [f"SELECT a FROM t WHERE a {condition}"], copies=3, seed=1):
        assert sorted(bool(meets(row[0])) for row in rows_of(copy)) == [False, True]


# ------------------------------------------------------------------------------------------------------ verdicts


@pytest.mark.parametrize(
    "lucky",
    [
        # Each returns what the gold returns on the table itself.
        'SELECT "Name" FROM t WHERE "Club" = \'IFK\'',
        'SELECT "Name" FROM t WHERE "Year" > 1990',
        'SELECT "Name" FROM t WHERE "Year" > 1990.5 AND "Club" = \'IFK\'',
        'SELECT "Name" FROM t WHERE "Year" > 1990 AND "Club" <> \'AIK\'',
        """SELECT "Name" FROM t WHERE "Name" IN ('Bo', 'Cid')""",
        "SELECT 'Bo' UNION ALL SELECT 'Cid'",
    ],
)
def test_a_query_that_is_right_by_luck_is_caught(lucky: str, verdict: Suite) -> None:
    gold, found = verdict.executor.run([Job(DATABASE, GOLD), Job(DATABASE, lucky)])
    assert result_fingerprints(found) == result_fingerprints(gold)
    assert not verdict(GOLD, lucky)


def test_luck_with_aggregates_is_caught(verdict: Suite) -> None:
    one = Database.of(Relation.from_rows("t", COLUMNS, [("Anna", 5.0, "AIK"), ("Bo", 7.0, "IFK")]))
    gold = """SELECT MAX("Year") FROM t WHERE "Club" = 'AIK'"""
    for aggregate in ("MIN", "SUM", "AVG"):
        assert not verdict(gold, gold.replace("MAX", aggregate), database=one, copies=10)


@pytest.mark.parametrize(
    "same",
    [
        GOLD,
        """SELECT "Name" FROM t WHERE "Club" = 'ifk' AND "Year" > 1990.0""",
        """SELECT name FROM t WHERE NOT ("Year" <= 1990 OR "Club" <> 'IFK')""",
    ],
)
def test_another_way_to_write_it_is_right(same: str, verdict: Suite) -> None:
    assert verdict(GOLD, same)


def test_without_copies_nothing_speaks_against_it(verdict: Suite) -> None:
    assert verdict(GOLD, 'SELECT "Name" FROM t', copies=0)


def test_a_gold_that_does_not_run_says_nothing(verdict: Suite) -> None:
    assert verdict("SELECT missing FROM t", 'SELECT "Name" FROM t')
    assert not verdict(GOLD, "SELECT missing FROM t")


def test_a_verdict_does_not_depend_on_its_neighbours(verdict: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random sketches against random others on one table: together, in parts, and one by one."""
    draw = random.Random(2)
    schema = TableSchema("t", tuple(Column(n, "real" if t == "DOUBLE" else "text") for n, t in COLUMNS))

    def sketch() -> str:
        conds = [[0, 0, "Bo"], [1, 1, 1990], [1, 2, 1992], [2, 0, "IFK"]]
        chosen = draw.sample(conds, draw.randint(0, 2))
        return to_sql(
            Query.from_json({"sel": draw.randrange(3), "agg": draw.choice([0, 1, 3]), "conds": chosen}, width=3), schema
        )

    golds = [sketch() for _ in range(12)]
    cases = [Case(DATABASE, gold, sketch()) for gold in golds for _ in range(2)] + [Case(DATABASE, g, g) for g in golds]
    shape = {DATABASE.key: golds}
    together = suite_verdicts(verdict.executor, cases, shape, copies=3, seed=1)
    assert together[-12:] == [True] * 12
    assert not all(together)
    alone = [suite_verdicts(verdict.executor, [case], shape, copies=3, seed=1)[0] for case in cases[:6]]
    assert alone == together[:6]
    monkeypatch.setattr(perturbation, "_CASES_AT_A_TIME", 5)
    assert suite_verdicts(verdict.executor, cases, shape, copies=3, seed=1) == together
