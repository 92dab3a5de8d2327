"""Structured queries: SQL text and back, whatever stands in column names and values."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from t2s_assets.text2sql.datasets.wikisql import SourceQuestion, read_wikisql
from t2s_assets.text2sql.decoding.spelt_numbers import numbers_in
from t2s_assets.text2sql.query import (
    AGGREGATES,
    Condition,
    Query,
    SketchError,
    cased_as_in,
    condition_number,
    from_sql,
    identifier,
    normal_form,
    number_literal,
    parse_number,
    table_identifier,
    to_sql,
)
from t2s_assets.text2sql.schema import Column, TableSchema, column_names
from t2s_assets_tests.text2sql.execution.test_guard import ALMOST_SQL

HERE = Path(__file__).parent
SCHEMA = TableSchema(
    "t",
    (
        Column("Name", "text"),
        Column("Year", "real"),
        Column("Max Weight (kg)", "text"),
        Column('odd "name"', "text"),
        Column("select", "text"),
    ),
)


def sketches() -> list[tuple[str, str]]:
    """(SQL, what is expected) of each pair of lines in sketches.sql."""
    lines = (HERE / "sketches.sql").read_text(encoding="utf-8").splitlines()
    lines = [line for line in lines if line and not line.startswith("--")]
    return list(zip(lines[::2], lines[1::2]))


@pytest.mark.parametrize(("sql", "expected"), sketches())
def test_what_sql_means(sql: str, expected: str) -> None:
    if expected.startswith("!"):
        with pytest.raises(SketchError, match=re.escape(expected[1:].strip())):
            from_sql(sql, SCHEMA)
    else:
        assert from_sql(sql, SCHEMA) == Query.from_json(json.loads(expected), width=5)


@pytest.mark.parametrize(
    "sql",
    [
        *["", ";", " \n", "(" * 5000, "SELECT " + "(" * 5000 + "1" + ")" * 5000, "\0", "'" * 999],
        *["SELECT VAR_MAP(1)", "SELECT DATETIME(1) FROM t", 'SELECT "Name" FROM t WHERE MATCH_AGAINST(1,2)'],
    ],
)
def test_what_is_no_sql_is_a_sketch_error(sql: str) -> None:
    with pytest.raises(SketchError):
        from_sql(sql, SCHEMA)


@given(ALMOST_SQL | ALMOST_SQL.map('SELECT "Name" FROM t WHERE '.__add__) | ALMOST_SQL.map("SELECT ".__add__))
@settings(max_examples=200, deadline=None)
def test_any_text_is_a_query_or_a_sketch_error(text: str) -> None:
    try:
        assert isinstance(from_sql(text, SCHEMA), Query)
    except SketchError as error:
        assert str(error)


def test_endless_digits_are_a_sketch_error() -> None:
    for digits in ("9" * 400, "9" * 5000, "1." + "0" * 5000 + "e999"):
        with pytest.raises(SketchError, match="finite number"):
            from_sql(f'SELECT "Name" FROM t WHERE "Year" = {digits}', SCHEMA)


# ---------------------------------------------------------------------------------------------- there and back

TEXT = st.one_of(
    st.text(st.characters(blacklist_categories=["Cs"]), max_size=20),
    st.sampled_from(
        ["'", '"', "''", '""', "\\", "\\'", "--", "/*", ";", "$$", "%s", "{}", "?", "a\nb", "\0", "NULL", "ı", "İ", "ß"]
    ),
    st.from_regex(r"[-−]?[0-9]{1,3}(,[0-9]{3})*(\.[0-9]*)?", fullmatch=True),
)
NUMBER = st.one_of(
    st.integers(-(10**20), 10**20), st.floats(allow_nan=False, allow_infinity=False), st.sampled_from([0, -0.0, 1e-320])
)


@st.composite
def schemas(draw: st.DrawFn) -> TableSchema:
    names = column_names(draw(st.lists(TEXT, min_size=1, max_size=5)))
    kinds = draw(st.lists(st.sampled_from(["text", "real"]), min_size=len(names), max_size=len(names)))
    return TableSchema(draw(st.sampled_from(["t", "select", 'odd "name"'])), tuple(map(Column, names, kinds)))


@st.composite
def queries(draw: st.DrawFn) -> tuple[Query, TableSchema]:
    schema = draw(schemas())
    column = st.integers(0, len(schema.columns) - 1)
    conditions = st.lists(st.builds(Condition, column, st.integers(0, 2), st.one_of(TEXT, NUMBER)), max_size=4)
    return Query(draw(column), draw(st.integers(0, 5)), tuple(draw(conditions))), schema


@given(queries())
@settings(deadline=None, max_examples=200)
def test_every_query_reads_back_from_its_sql(case: tuple[Query, TableSchema]) -> None:
    query, schema = case
    sql = to_sql(query, schema)
    again = from_sql(sql, schema)
    assert normal_form(again, schema) == normal_form(query, schema)
    assert to_sql(again, schema) == sql


@given(queries())
@settings(deadline=None, max_examples=60)
def test_duckdb_reads_the_sql_as_we_do(case: tuple[Query, TableSchema]) -> None:
    query, schema = case
    assume(not any("\0" in str(c.value) for c in query.conditions))  # no SQL text can carry it to DuckDB
    assume(query.aggregate not in (4, 5) or schema.columns[query.column].type == "real")
    kinds = ", ".join(f"{identifier(c.name)} {'DOUBLE' if c.type == 'real' else 'VARCHAR'}" for c in schema.columns)
    with duckdb.connect() as connection:
        connection.execute(f"CREATE TABLE {table_identifier(schema.name)} ({kinds})")
        numbers = [c for c in query.conditions if schema.columns[c.column].type == "real"]
        if all(condition_number(c.value) is not None for c in numbers):
            connection.execute(to_sql(query, schema)).fetchall()
        # A value reaches DuckDB as it was written.
        for c in query.conditions:
            if schema.columns[c.column].type == "text":
                literal = to_sql(Query(0, 0, (c,)), schema).split(" = ", 1)
                if (
                    c.operator == 0
                    and '"' not in schema.columns[c.column].name
                    and " = " not in schema.columns[c.column].name
                ):
                    assert connection.execute(f"SELECT {literal[1]}").fetchall() == [(str(c.value),)]


@given(queries())
@settings(deadline=None, max_examples=60)
def test_json_is_wikisqls(case: tuple[Query, TableSchema]) -> None:
    query, schema = case
    assert Query.from_json(json.loads(query.to_json()), width=len(schema.columns)) == query


@pytest.mark.parametrize("name", ["t", "a_1", "T", "1a", "select", "order", "a b", 'a"b', "", "ä", "main", "values"])
def test_table_names_are_quoted_where_duckdb_needs_it(name: str) -> None:
    with duckdb.connect() as connection:
        if not name:
            assert table_identifier(name) == '""'
            return
        connection.execute(f"CREATE TABLE {table_identifier(name)} (a INTEGER)")
        assert connection.execute("SELECT table_name FROM duckdb_tables()").fetchall() == [(name,)]
        connection.execute(f"SELECT a FROM {table_identifier(name)}")


def test_the_text_is_readable() -> None:
    query = Query(2, 3, (Condition(0, 0, "O'Brien"), Condition(1, 1, "1,990.50"), Condition(3, 2, 7)))
    assert to_sql(query, SCHEMA) == (
        'SELECT COUNT("Max Weight (kg)") FROM t '
        'WHERE "Name" = \'O\'\'Brien\' AND "Year" > 1990.5 AND "odd ""name""" < \'7\''
    )
    assert [Query(0, 0).category, Query(0, 0, query.conditions).category, query.category] == [
        "simple",
        "filter",
        "aggregation",
    ]


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ({}, "sel, agg and conds"),
        ({"sel": 0, "agg": 0}, "sel, agg and conds"),
        ({"sel": 0, "agg": 0, "conds": None}, "sel, agg and conds"),
        ({"sel": 0, "agg": 0, "conds": [[0, 0]]}, "sel, agg and conds"),
        ({"sel": 0, "agg": 0, "conds": [3]}, "sel, agg and conds"),
        ({"sel": 5, "agg": 0, "conds": []}, "sel must be an integer from 0 to 4; got 5"),
        ({"sel": -1, "agg": 0, "conds": []}, "sel must be an integer from 0 to 4; got -1"),
        ({"sel": True, "agg": 0, "conds": []}, "sel must be an integer"),
        ({"sel": "0", "agg": 0, "conds": []}, "sel must be an integer"),
        ({"sel": 0, "agg": 6, "conds": []}, "agg must be an integer from 0 to 5; got 6"),
        ({"sel": 0, "agg": 0, "conds": [[5, 0, "x"]]}, "conds column must be an integer from 0 to 4"),
        ({"sel": 0, "agg": 0, "conds": [[0, 3, "x"]]}, "conds operator must be an integer from 0 to 2"),
        ({"sel": 0, "agg": 0, "conds": [[0, 0, None]]}, "a string or a number; got None"),
        ({"sel": 0, "agg": 0, "conds": [[0, 0, True]]}, "a string or a number; got True"),
        ({"sel": 0, "agg": 0, "conds": [[0, 0, ["x"]]]}, "a string or a number"),
        ({"sel": 0, "agg": 0, "conds": [[0, 0, float("nan")]]}, "must be finite; got nan"),
        ({"sel": 0, "agg": 0, "conds": [[0, 0, float("inf")]]}, "must be finite; got inf"),
        ({"sel": 0, "agg": 0, "conds": [[0, 0, 10**400]]}, "must be finite; got 1000"),
    ],
)
def test_broken_sketches_are_refused(sql: dict[str, Any], message: str) -> None:
    with pytest.raises(SketchError, match=re.escape(message)):
        Query.from_json(sql, width=5)


# -------------------------------------------------------------------------------------------------- normal form


def meaning(*conditions: tuple[int, int, Any], column: int = 0, aggregate: int = 0) -> Any:
    return normal_form(Query(column, aggregate, tuple(Condition(*c) for c in conditions)), SCHEMA)


def test_order_case_and_repetition_of_conditions_do_not_matter() -> None:
    assert meaning((0, 0, "LUND"), (1, 0, 5)) == meaning((1, 0, 5), (0, 0, "lund"), (0, 0, "Lund"))


@pytest.mark.parametrize("value", [5, 5.0, "5", "5.0", " 5 ", "+5", "05", "5 kg", "€5"])
def test_one_number_has_one_form_on_a_real_column(value: Any) -> None:
    assert meaning((1, 0, value)) == meaning((1, 0, 5))


@pytest.mark.parametrize("value", [0, 0.0, -0.0, "0", "-0", "−0.0"])
def test_zero_has_one_form(value: Any) -> None:
    assert meaning((1, 0, value)) == meaning((1, 0, 0))


def test_text_that_looks_like_a_number_stays_text_on_a_text_column() -> None:
    assert meaning((0, 0, "5")) != meaning((0, 0, "5.0"))
    assert meaning((0, 0, "1,000")) != meaning((0, 0, "1000"))


def test_what_differs_is_told_apart() -> None:
    forms = [
        meaning(),
        meaning(column=1),
        meaning(aggregate=1),
        meaning((0, 0, "a")),
        meaning((0, 1, "a")),
        meaning((2, 0, "a")),
        meaning((0, 0, "b")),
        meaning((0, 0, "a"), (2, 0, "a")),
        meaning((0, 0, "a ")),
        meaning((1, 0, 5)),
        meaning((1, 0, -5)),
        meaning((1, 0, 5.000001)),
    ]
    assert len(set(forms)) == len(forms)


# ------------------------------------------------------------------------------------------------------ numbers


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("8", 8),
        (" 8,848 ", 8848),
        ("1,234,567.89", 1234567.89),
        ("-3.5", -3.5),
        ("\u22123.5", -3.5),
        ("\u20133", -3),
        ("+7", 7),
        (".5", 0.5),
        ("5.", 5),
        ("1e3", 1000),
        ("2.5E-2", 0.025),
        ("007", 7),
        ("", None),
        (" ", None),
        ("-", None),
        (".", None),
        ("n/a", None),
        ("5 kg", None),
        ("1 000", None),
        ("1,00", None),
        ("1,0000", None),
        ("1.2.3", None),
        ("1_000", None),
        ("0x1F", None),
        ("nan", None),
        ("inf", None),
        ("Infinity", None),
        ("1e999", None),
        ("9" * 400, None),
        ("½", None),
        ("²", None),
    ],
)
def test_numbers_as_people_write_them(text: str, number: float | None) -> None:
    assert parse_number(text) == number


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (5, 5),
        (5.5, 5.5),
        ("€100,000", 100000),
        ("about -3.5 m", -3.5),
        ("12-5", 12),
        ("1,990", 1990),
        ("no digit", None),
        ("", None),
        ("x 1e999", None),
        (10**400, None),
    ],
)
def test_the_number_in_a_condition(value: Any, number: float | None) -> None:
    assert condition_number(value) == number


@pytest.mark.parametrize(
    ("value", "literal"),
    [
        (9007199254740993, "9007199254740993"),
        ("9007199254740993", "9007199254740993"),
        ("−9,007,199,254,740,993.0", "-9007199254740993"),
        ("no. 9007199254740993", "9007199254740993"),
        ("1.90", "1.9"),
        ("2.50e3", "2500"),
        ("-0.0", "0"),
        ("1e-999999999", "0"),
        (5.0, "5"),
    ],
)
def test_sql_holds_all_digits_of_a_whole_number(value: Any, literal: str) -> None:
    schema = TableSchema("t", (Column("n", "real"),))
    sql = to_sql(Query(0, 0, (Condition(0, 0, value),)), schema)
    assert sql == f'SELECT "n" FROM t WHERE "n" = {literal}'
    assert normal_form(from_sql(sql, schema), schema) == normal_form(Query(0, 0, (Condition(0, 0, value),)), schema)


def test_no_decimal_has_more_digits_than_duckdb_compares_with_whole_numbers() -> None:
    digits = "1." + "123456789" * 3
    with duckdb.connect() as connection:
        connection.execute("CREATE TABLE t (n BIGINT)")
        connection.execute("INSERT INTO t VALUES (9223372036854775807)")
        with pytest.raises(duckdb.ConversionException):
            connection.execute(f"SELECT n FROM t WHERE n > {digits}")
        for text in numbers_in(digits):
            assert connection.execute(f"SELECT n FROM t WHERE n > {text}").fetchall() == [(9223372036854775807,)]


def test_numbers_that_one_float_holds_are_one_to_exact_match() -> None:
    schema = TableSchema("t", (Column("n", "real"),))
    forms = {normal_form(Query(0, 0, (Condition(0, 0, v),)), schema) for v in (2**53, 2**53 + 1, str(2**53 + 1))}
    assert len(forms) == 1


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_number_literals_are_exact_and_plain(number: float) -> None:
    text = number_literal(number)
    assert float(text) == number
    assert re.fullmatch(r"-?\d+(\.\d*[1-9])?", text)
    assert text != "-0"


# -------------------------------------------------------------------------------------------------------- casing


@pytest.mark.parametrize(
    ("question", "value", "cased"),
    [
        ("who is from LUND?", "Lund", "LUND"),
        ("who is from Lund or LUND?", "Lund", "Lund"),
        ("who is from Malmö?", "Lund", "Lund"),
        ("who is ÅSA", "Åsa", "ÅSA"),
        ("where is i\u0307stanbul", "İstanbul", "i\u0307stanbul"),
        ("is it İ or lund", "Lund", "Lund"),  # lower-casing İ shifts what follows it
        ("any", "", ""),
    ],
)
def test_values_are_cased_as_the_question_spells_them(question: str, value: str, cased: str) -> None:
    query = Query(0, 0, (Condition(0, 0, value),))
    found = cased_as_in(question, query, SCHEMA)
    assert found.conditions[0].value == cased
    assert normal_form(found, SCHEMA) == normal_form(query, SCHEMA)


def test_numbers_are_not_cased() -> None:
    query = Query(0, 0, (Condition(1, 0, "5 KG"),))
    assert cased_as_in("which weighs 5 kg?", query, SCHEMA) == query


# ------------------------------------------------------------------------------------------------- the real thing


def lost(archive: Path, *splits: str) -> tuple[int, list[str]]:
    """How many questions of the splits there are, and the SQL of those that do not read back."""
    source = read_wikisql(archive)
    schemas = {t.id: t.schema(t.id) for t in source.tables if t.split in splits}
    asked = [q for q in source.questions if q.split in splits]

    def survives(question: SourceQuestion) -> bool:
        schema = schemas[question.table_id]
        return normal_form(from_sql(to_sql(question.query, schema), schema), schema) == normal_form(
            question.query, schema
        )

    return len(asked), [to_sql(q.query, schemas[q.table_id]) for q in asked if not survives(q)]


@pytest.mark.wikisql
def test_dev_and_test_of_wikisql_read_back(wikisql_archive: Path) -> None:
    count, failed = lost(wikisql_archive, "validation", "test")
    assert count > 10_000
    assert failed == []


@pytest.mark.slow
@pytest.mark.wikisql
def test_train_of_wikisql_reads_back(wikisql_archive: Path) -> None:
    count, failed = lost(wikisql_archive, "train")
    assert count > 50_000
    assert failed == []


def test_the_aggregates_are_wikisqls_in_its_order() -> None:
    assert AGGREGATES == ("", "MAX", "MIN", "COUNT", "SUM", "AVG")
