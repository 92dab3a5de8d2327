"""Verdicts on generated text beside gold of SQL text."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from t2s_assets.text2sql.gold.text_questions import OwnDatabase, TableFile, TextQuestion
from t2s_assets.text2sql.schema import Column, TableSchema

SCHEMA = TableSchema("towns", (Column("name", "text", "VARCHAR"), Column("people", "real", "BIGINT")))
PLAIN = 'SELECT "name" FROM towns WHERE "people" > 5'
# DuckDB knows the pseudo-column, sqlglot does not.
WITHOUT_FORM = 'SELECT "name" FROM towns WHERE rowid = 1'


@pytest.fixture(scope="module")
def towns(tmp_path_factory: pytest.TempPathFactory) -> OwnDatabase:
    path = tmp_path_factory.mktemp("towns") / "towns.parquet"
    pq.write_table(pa.table({"name": ["Lund", "Ystad"], "people": [9, 2]}), path)
    return OwnDatabase("towns", (TableFile(SCHEMA, ("VARCHAR", "BIGINT"), path),))


@pytest.mark.parametrize(
    ("gold", "text", "em", "errors"),
    [
        (PLAIN, PLAIN, True, []),
        (PLAIN, "select NAME from Towns where 5 < people", True, []),
        (PLAIN, "SELECT name FROM towns WHERE people > 6", False, ["value"]),
        (PLAIN, WITHOUT_FORM, False, ["unparsable"]),
        (PLAIN, "SELECT VAR_MAP(1) FROM towns", False, ["unparsable"]),
        (PLAIN, "the towns", False, ["unparsable"]),
        (WITHOUT_FORM, WITHOUT_FORM, True, []),
        (WITHOUT_FORM, "select NAME from Towns\nwhere rowid=1", True, []),
        (WITHOUT_FORM, "SELECT name FROM towns WHERE rowid = 2", False, ["no normal form"]),
        (WITHOUT_FORM, PLAIN, False, ["no normal form"]),
        (WITHOUT_FORM, "the towns", False, ["unparsable"]),
    ],
)
def test_a_verdict(towns: OwnDatabase, gold: str, text: str, em: bool, errors: list[Any]) -> None:
    found = TextQuestion("q1", "test", "towns", "?", gold).verdict(text, towns)
    assert (found.em, found.errors) == (em, errors)
    assert found.em is (found.errors == [])
    assert (found.parsed is None) is (errors == ["unparsable"]) is (found.unparsed_because != "")


def test_sample_rows_have_nothing_for_dates_that_python_has_not(tmp_path: Path) -> None:
    days = pa.array([2**31 - 1, 19000], pa.int32()).cast(pa.date32())  # the first is DuckDB's infinity
    pq.write_table(pa.table({"day": days}), tmp_path / "t.parquet")
    schema = TableSchema("t", (Column("day", "text", "DATE"),))
    found = OwnDatabase("d", (TableFile(schema, ("DATE",), tmp_path / "t.parquet"),))
    assert found.sample_rows == (((None,), (dt.date(2022, 1, 8),)),)
