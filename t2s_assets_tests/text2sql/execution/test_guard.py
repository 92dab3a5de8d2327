from __future__ import annotations

import sys

import duckdb
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sqlglot.dialects.duckdb import DuckDB

from t2s_assets.text2sql.execution import RefusedSQL, check_sql
from t2s_assets.text2sql.execution.functions import FUNCTIONS, KEYWORDS
from t2s_assets.text2sql.execution.guard import allow_sql
from t2s_assets.text2sql.execution.lexer import MAX_CHARACTERS, MAX_DEPTH, RULES
from t2s_assets_tests.text2sql.execution.conftest import BIG, RACES, RUNS, TABLE, benign, hostile

SCHEMA = {relation.name: dict(relation.columns) for relation in (TABLE, RACES, RUNS, BIG)}


def verdict(sql: str, check=check_sql) -> str:
    """The rule that refuses `sql`, or "passes"."""
    try:
        check(sql, SCHEMA)
    except RefusedSQL as error:
        return error.rule
    return "passes"


def test_the_hostile_corpus_is_large() -> None:
    assert len({sql for _, sql in hostile()}) >= 300
    assert {rule for rule, _ in hostile()} - {"limits"} <= set(RULES)


@pytest.mark.parametrize(("rule", "sql"), hostile())
def test_hostile_query_is_refused_or_left_to_the_limits(rule: str, sql: str) -> None:
    expected = "passes" if rule == "limits" else rule
    assert verdict(sql) == expected
    assert verdict(sql, allow_sql) == expected


@pytest.mark.parametrize("sql", benign())
def test_analysts_query_passes(sql: str) -> None:
    assert verdict(sql) == "passes"
    assert verdict(sql, allow_sql) == "passes"


@pytest.mark.parametrize(
    ("sql", "flat"),
    [
        ('SELECT "Name" FROM "table" WHERE "Name" = \'x\' AND "Year" > -1.5', True),
        ('SELECT max("year") FROM races;', True),
        ("SELECT count(*) FROM Races WHERE \"NAME\" <> ''", True),
        ('SELECT "Name" FROM "table" WHERE "Year" = \'1990\'', False),  # a string that DuckDB casts to a number
        ('SELECT "Name" FROM "table" WHERE "Name" = 1', False),
        ('SELECT "Name" FROM "table" WHERE "table" = \'x\'', False),  # no column of that name
        ("SELECT Name FROM races", False),
        ('SELECT "Name" FROM "table" WHERE "Name" = \'x\' OR "Year" = 1', False),
        ('SELECT upper("Name") FROM "table"', False),
    ],
)
def test_flat_queries_are_those_whose_conditions_cannot_fail(sql: str, flat: bool) -> None:
    assert allow_sql(sql, SCHEMA) is flat


@pytest.mark.parametrize("name", ["current_date", "values", "lateral", "unnest"])
def test_a_bare_name_that_is_a_keyword_is_left_to_the_tree(name: str) -> None:
    """Such a table may be given, but what its bare name means is for the parser to say."""
    schema = {name: {"a": "VARCHAR"}}
    assert not _verdict_is_flat(f'SELECT "a" FROM {name}', schema)
    assert _verdict_is_flat(f'SELECT "a" FROM "{name}"', schema)


def _verdict_is_flat(sql: str, schema: dict[str, dict[str, str]]) -> bool:
    try:
        return allow_sql(sql, schema)
    except RefusedSQL:
        return False


def test_the_error_names_the_rule_and_what_broke_it() -> None:
    with pytest.raises(RefusedSQL) as caught:
        check_sql("SELECT * FROM secrets", SCHEMA)
    assert (caught.value.rule, caught.value.fragment) == ("table", "secrets")
    assert "only the given tables" in str(caught.value)


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("SELECT 1;", "passes"),
        ("SELECT 1 ;\n; -- done", "passes"),
        ("SELECT 1; /* one */ ;", "passes"),
        (";", "statement"),
        ("; -- nothing", "statement"),
        (";SELECT 1", "statement"),
        ("SELECT 1; SELECT 2", "statement"),
    ],
)
def test_a_query_may_end_in_semicolons_and_holds_none(sql: str, said: str) -> None:
    assert verdict(sql) == said


def test_tables_are_found_ignoring_case_and_unchecked_without_a_schema() -> None:
    assert verdict('SELECT 1 FROM "TABLE"') == "passes"
    assert check_sql("SELECT a FROM anything", None).sql() == "SELECT a FROM anything"
    with pytest.raises(RefusedSQL):
        check_sql("SELECT a FROM read_text('x')", None)


def test_a_real_column_may_be_called_like_a_session_function() -> None:
    schema = {"t": ["user", "current_schema"]}
    assert check_sql('SELECT "user", current_schema FROM t', schema).sql("duckdb")
    allow_sql('SELECT "user" FROM t', {"t": {"user": "VARCHAR"}})
    with pytest.raises(RefusedSQL, match="session"):
        allow_sql('SELECT "user" FROM "user"', {"user": {"a": "VARCHAR"}})


def test_the_size_of_a_query_is_limited() -> None:
    assert verdict("SELECT '" + "x" * (MAX_CHARACTERS - 9) + "'") == "passes"
    assert verdict("SELECT '" + "x" * (MAX_CHARACTERS - 8) + "'") == "length"


@pytest.mark.parametrize(
    ("before", "middle", "after"),
    [
        ("SELECT ", "(", ")"),
        ("SELECT ", "lower(", ")"),
        ("SELECT ", "[", "]"),
        ("SELECT ", "CASE WHEN true THEN ", " END"),
        ("SELECT ", "CASE WHEN ", " THEN true END"),
        ("SELECT ", "CAST(", " AS INT)"),
        ("SELECT ", "(SELECT ", ")"),
        ("SELECT ", "1 IN (", ")"),
        ("SELECT ", "1 IN (SELECT ", ")"),
        ("SELECT * FROM ", "(SELECT * FROM ", ")"),
        ("SELECT * FROM ", "(", ")"),
        ("SELECT ", "sum(1) OVER (ORDER BY ", ")"),
        ("SELECT ", "NOT ", ""),
        ("SELECT ", "- ", ""),
        ("SELECT ", "INTERVAL ", ""),
        ("SELECT ", "1 + ", ""),
        ("SELECT ", "1 BETWEEN ", " AND 1"),
        ("SELECT ", "DISTINCT ", ""),
        ("SELECT ", "true AND ", ""),
        ("", "SELECT 1 UNION ALL ", ""),
        ("", "(", ")"),
    ],
)
@pytest.mark.parametrize("times", [5, MAX_DEPTH, MAX_DEPTH + 1, 300, 2000])
def test_nesting_ends_in_a_verdict_and_soon(before: str, middle: str, after: str, times: int) -> None:
    core = "runs" if before.endswith("FROM ") else "SELECT 1" if before == "" else "1"
    rule = verdict(before + middle * times + core + after * times)
    assert rule in ("passes", "depth", "length", "syntax", "construct")
    if times > MAX_DEPTH and ("(" in middle or "[" in middle or "CASE" in middle):
        assert rule in ("depth", "length")
    # What never ends is refused as well, and does not take the parser's time.
    assert verdict(before + middle * times) in (*RULES, "passes")


@pytest.mark.parametrize("word", ["DATE", "INT", "DECIMAL", "VARCHAR", "TIMESTAMP", "ENUM", "ROW", "JSON", "IF"])
@pytest.mark.parametrize("before", ["SELECT ", "SELECT x::", "SELECT 1 FROM "])
def test_words_that_may_be_types_take_the_parser_no_time_beyond_their_number(before: str, word: str) -> None:
    """sqlglot reads each twice as often as the one around it: 23 deep takes it minutes."""
    sql = before + f"{word}(" * (MAX_DEPTH - 1) + "1" + ")" * (MAX_DEPTH - 1)
    steps, advance = 0, DuckDB.Parser._advance

    def counted(parser: DuckDB.Parser, times: int = 1) -> None:
        nonlocal steps
        steps += 1
        advance(parser, times)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(DuckDB.Parser, "_advance", counted)
        assert verdict(sql) in ("depth", "syntax", "construct", "function", "table")
    assert steps < 10_000


def test_what_is_refused_is_not_shown_to_the_terminal(caplog: pytest.LogCaptureFixture) -> None:
    assert verdict("WITH x AS (GRANT a) SELECT * FROM x") != "passes"
    assert not caplog.records


def test_the_verdict_does_not_depend_on_the_callers_stack() -> None:
    sql = "SELECT " + "lower(" * MAX_DEPTH + "'x'" + ")" * MAX_DEPTH

    def deeper(frames: int) -> str:
        return deeper(frames - 1) if frames else verdict(sql)

    assert verdict(sql) == "passes"
    assert deeper(sys.getrecursionlimit() // 4) == "passes"


def test_allowed_functions_exist_read_only_their_arguments_and_are_not_random() -> None:
    kinds: dict[str, set[tuple[str, str | None, bool | None]]] = {}
    with duckdb.connect() as connection:
        for name, kind, stability, effects in connection.execute(
            "SELECT lower(function_name), function_type, stability, has_side_effects FROM duckdb_functions()"
        ).fetchall():
            kinds.setdefault(name, set()).add((kind, stability, effects))
    grammar = {"coalesce", "current_timestamp", "extract", "grouping", "ifnull", "percentile_cont"}
    grammar |= {"percentile_disc", "try"}
    assert {name for name in FUNCTIONS if name not in kinds} == grammar
    for name in FUNCTIONS & set(kinds):
        for kind, stability, effects in kinds[name]:
            assert kind in ("scalar", "aggregate", "window", "macro"), name
            assert stability in (None, "CONSISTENT", "CONSISTENT_WITHIN_QUERY"), name
            assert not effects, name
    # A keyword that is also a table function would open a door that the list of functions keeps shut.
    assert not [name for name in KEYWORDS if any(kind in ("table", "pragma") for kind, *_ in kinds.get(name, ()))]


@pytest.mark.parametrize(
    ("sql", "rule"),
    [
        ('SELECT * FROM VALUES "table"', "syntax"),
        ("SELECT * FROM (VALUES (1), (2)) AS r(n)", "passes"),
        ("SELECT * FROM VALUES (1) AS r(n)", "passes"),
    ],
)
def test_values_are_rows_in_parentheses(sql: str, rule: str) -> None:
    """Without them it is a table's name to DuckDB, and rows to sqlglot."""
    assert verdict(sql) == rule


# Pieces from which the fuzz makes text that is almost SQL.
PIECES = st.sampled_from(
    [
        *"""
    SELECT FROM WHERE WITH AS ( ) , ; * "table" "Name" races name 'x' 1 = AND OR NOT IN JOIN ON GROUP BY
    ORDER LIMIT UNION ALL VALUES read_text repeat lower count ( ) pg_tables c DISTINCT CASE WHEN THEN
    END CAST INT [ ] :: . -- /* */ ' " $$ $1 ? -> := { } INTO RECURSIVE LATERAL OVER PARTITION INTERVAL
    DATE EXISTS unnest range main. PIVOT TABLESAMPLE COLUMNS COPY DROP SET PRAGMA
    """.split(),
        "\n",
        "\0",
        "\u00a0",
        "\ud800",
        "e'",
        "\r",
        "é",
    ]
)
ALMOST_SQL = st.lists(PIECES, max_size=25).map(" ".join) | st.lists(PIECES, max_size=12).map("".join)


@given(st.text() | st.text(alphabet="()[]'\"-/*;.$ eE\n\r\0\\aA1") | ALMOST_SQL)
@example("SELECT '" + "\\" * 9 + "'")
@settings(max_examples=600, deadline=None)
def test_any_text_gets_a_verdict(text: str) -> None:
    assert verdict(text) in {"passes", *RULES}
    assert verdict(text, allow_sql) == verdict(text)


@given(
    ALMOST_SQL
    | ALMOST_SQL.map('SELECT "Name" FROM "table" WHERE '.__add__)
    | ALMOST_SQL.map("SELECT ".__add__)
    | ALMOST_SQL.map("SELECT * FROM ".__add__)
)
@settings(max_examples=300, deadline=None)
def test_what_passes_is_one_select_over_the_given_tables_to_duckdb_too(text: str) -> None:
    if verdict(text) != "passes":
        return
    with duckdb.connect() as connection:
        try:
            statements = connection.extract_statements(text)
        except duckdb.Error:
            return
        assert [statement.type for statement in statements] == [duckdb.StatementType.SELECT]
        try:
            names = connection.get_table_names(text)
        except duckdb.Error:
            return
        assert {name.lower() for name in names} <= set(SCHEMA) | {"c"}
