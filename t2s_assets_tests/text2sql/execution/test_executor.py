from __future__ import annotations

import dataclasses
import datetime as dt
import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from t2s_assets.text2sql.errors import ExecutionError
from t2s_assets.text2sql.execution import Database, Job, Limits, Outcome, Relation, SqlExecutor, process, wire
from t2s_assets.text2sql.execution.executor import BACKLOG
from t2s_assets.text2sql.execution.guard import allow_sql
from t2s_assets.text2sql.execution.jobs import ipc_bytes
from t2s_assets.text2sql.execution.worker import Tables, ask, open_database
from t2s_assets_tests.text2sql.execution.conftest import TABLE, benign, hostile
from t2s_assets_tests.text2sql.execution.test_guard import ALMOST_SQL

TIGHT = Limits(seconds=0.5, memory_mb=96, max_rows=1000, max_cell_bytes=200_000, max_result_bytes=2_000_000)
NAMES = (("Anna",), ("Bo",), ("Göran",), ("O'Hara",), (None,))


@pytest.fixture(scope="module")
def executor() -> Iterator[SqlExecutor]:
    with SqlExecutor(workers=2, limits=Limits(seconds=10.0)) as executor:
        yield executor


@pytest.fixture(scope="module")
def unguarded() -> Iterator[SqlExecutor]:
    with SqlExecutor(workers=1, limits=TIGHT, _guard=False) as executor:
        yield executor


def control(number: int) -> str:
    """A query with a known result, whose text is new each time, so that it is not answered from another."""
    return f'SELECT "Name", {number} FROM "table" ORDER BY "Name" NULLS LAST'


# Right results --------------------------------------------------------------------------------------------


def test_analysts_queries_give_what_duckdb_gives(executor: SqlExecutor, database: Database) -> None:
    sources = {relation.name: relation.data for relation in database.relations}
    outcomes = executor.run([Job(database, sql) for sql in benign()])
    assert len(outcomes) > 80
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        for relation in database.relations:
            source = sources[relation.name]
            connection.register("source", source)
            columns = ", ".join(f'"{name}" {sql_type}' for name, sql_type in relation.columns)
            connection.execute(f'CREATE TABLE "{relation.name}" ({columns})')
            connection.execute(f'INSERT INTO "{relation.name}" SELECT * FROM source')
        for sql, outcome in zip(benign(), outcomes):
            expected = connection.execute(sql)
            names = tuple(column[0] for column in expected.description)
            types = tuple(str(column[1]) for column in expected.description)
            rows = expected.fetchall()
            assert outcome.status == "ok", (sql, outcome.message)
            assert (outcome.columns, len(outcome.rows)) == (names, len(rows)), sql
            for i, sql_type in enumerate(types):
                mine, theirs = [row[i] for row in outcome.rows], [row[i] for row in rows]
                if sql_type in ("INTERVAL", "TIMESTAMP WITH TIME ZONE"):
                    assert all(isinstance(value, str) for value in mine), sql  # DuckDB's text: see docs
                else:
                    assert mine == theirs, (sql, sql_type)


def test_values_are_exact(executor: SqlExecutor) -> None:
    def value(sql: str) -> object:
        outcome = executor.run_one(Database("nothing", ()), f"SELECT {sql}")
        assert outcome.status == "ok", (sql, outcome.message)
        return outcome.rows[0][0]

    exact = {
        "1": 1,
        "TRUE": True,
        "NULL": None,
        "170141183460469231731687303715884105727::HUGEINT": 2**127 - 1,
        "0.1::DOUBLE + 0.2::DOUBLE": 0.1 + 0.2,
        "5e-324::DOUBLE": 5e-324,
        "0.1::FLOAT": 0.10000000149011612,
        "1.10": Decimal("1.10"),
        "-12345678901234567890.123456789": Decimal("-12345678901234567890.123456789"),
        "'a''b\n\u2028\U0001f600'": "a'b\n\u2028\U0001f600",
        "''": "",
        "DATE '2024-02-29'": dt.date(2024, 2, 29),
        "TIME '01:02:03.000004'": dt.time(1, 2, 3, 4),
        "TIME '01:02:03.5'": dt.time(1, 2, 3, 500_000),
        "TIMESTAMP '2024-02-29 23:59:59.1'": dt.datetime(2024, 2, 29, 23, 59, 59, 100_000),
        "[1, NULL, 3]": [1, None, 3],
        "[[0.5::DOUBLE], []]": [[0.5], []],
        # No Python value is equal to these: they come as DuckDB writes them.
        "'infinity'::DATE": "infinity",
        "DATE '12000-01-01'": "12000-01-01",
        "INTERVAL '14 months 3 days'": "1 year 2 months 3 days",
        "'2024-01-01 00:00:00.123456789'::TIMESTAMP_NS": "2024-01-01 00:00:00.123456789",
        "TIMESTAMPTZ '2024-01-01 02:00:00+02'": "2024-01-01 00:00:00+00",
        "[DATE '2024-01-01']": "[2024-01-01]",
    }
    for sql, expected in exact.items():
        got = value(sql)
        assert got == expected and type(got) is type(expected), sql
    assert math.isnan(value("'nan'::DOUBLE"))  # type: ignore[arg-type]
    assert [value("'inf'::DOUBLE"), value("'-inf'::FLOAT")] == [math.inf, -math.inf]
    assert math.isnan(value("['nan'::DOUBLE]")[0])  # type: ignore[index]
    assert math.copysign(1, value("-0.0::DOUBLE")) == -1  # type: ignore[arg-type]


def test_cells_come_back_as_they_went_in(executor: SqlExecutor) -> None:
    columns = [
        *[("i", "BIGINT"), ("f", "DOUBLE"), ("s", "VARCHAR"), ("d", "DATE"), ("t", "TIMESTAMP")],
        *[
            ("n", "DECIMAL(18, 4)"),
            ("b", "BOOLEAN"),
            ("x", "BLOB"),
            ("clock", "TIME"),
            ('a "b"; c', "TINYINT"),
        ],
    ]
    rows = [
        (
            -(2**63),
            -0.0,
            "",
            dt.date(1, 1, 1),
            dt.datetime(1970, 1, 1),
            Decimal("0.0001"),
            True,
            b"\0\xff",
            None,
            1,
        ),
        (
            2**63 - 1,
            1e308,
            "é\n\0x",
            None,
            None,
            Decimal("-9.9000"),
            False,
            b"",
            dt.time(23, 59, 59, 1),
            -128,
        ),
        (
            None,
            math.inf,
            "\U0001f600" * 50,
            dt.date(9999, 12, 31),
            dt.datetime.max,
            None,
            None,
            None,
            None,
            None,
        ),
    ]
    database = Database.of(Relation.from_rows("every kind", columns, rows))
    outcome = executor.run_one(database, 'SELECT * FROM "every kind"')
    assert outcome.message == ""
    assert outcome.rows == tuple(rows)
    assert outcome.columns == tuple(name for name, _ in columns)
    assert outcome.types[5:7] == ("DECIMAL(18,4)", "BOOLEAN")


def test_collation_of_a_column_is_kept(executor: SqlExecutor, database: Database) -> None:
    outcome = executor.run_one(database, 'SELECT "Name" FROM "table" WHERE "Name" = \'ANNA\'')
    assert outcome.rows == (("Anna",),)


def test_unknown_column_is_an_error_that_names_it(executor: SqlExecutor, database: Database) -> None:
    outcome = executor.run_one(database, 'SELECT "Nmae" FROM "table"')
    assert (outcome.status, outcome.rows) == ("error", ())
    assert '"Nmae" not found' in outcome.message and '"Name"' in outcome.message


def test_outcomes_keep_the_jobs_order_across_databases(executor: SqlExecutor) -> None:
    databases = [Database.of(Relation.from_rows("t", [("v", "INTEGER")], [(number,)])) for number in range(6)]
    numbers = [(7 * i) % 6 for i in range(200)]
    jobs = [Job(databases[n], f"SELECT v, {i} FROM t") for i, n in enumerate(numbers)]
    calls: list[tuple[int, int]] = []
    outcomes = executor.run(jobs, progress=lambda done, total: calls.append((done, total)))
    assert [outcome.rows for outcome in outcomes] == [((n, i),) for i, n in enumerate(numbers)]
    assert calls == [(done, 200) for done in range(1, 201)]
    assert executor.run([]) == []


def test_same_query_on_the_same_database_runs_once(executor: SqlExecutor, database: Database) -> None:
    first, again = executor.run([Job(database, control(0))] * 2)
    assert first is again and first.rows[0] == ("Anna", 0)


def test_threads_may_share_an_executor(executor: SqlExecutor, database: Database) -> None:
    got: dict[int, Outcome] = {}

    def ask(number: int) -> None:
        got[number] = executor.run_one(database, f"SELECT {number}")

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {number: outcome.rows for number, outcome in got.items()} == {n: ((n,),) for n in range(8)}


# Limits ---------------------------------------------------------------------------------------------------


def test_hostile_queries_are_refused_or_stopped(database: Database, tmp_path: Path) -> None:
    outcomes, slowest = run_hostile(database, [sql for _, sql in hostile()], tmp_path, guard=True)
    assert slowest < TIGHT.seconds + 1.5
    for (rule, sql), outcome in zip(hostile(), outcomes):
        if rule == "limits":
            assert outcome.status in ("timeout", "memory", "error") or outcome.truncated, (sql, outcome)
        else:
            assert outcome.status == "refused" and f"({rule})" in outcome.message, (sql, outcome)


def test_hostile_queries_do_no_harm_behind_the_guard(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("T2S_CANARY", "tweet-tweet")
    queries = [sql for rule, sql in hostile() if rule != "limits"]
    outcomes, slowest = run_hostile(database, queries, tmp_path, guard=False)
    assert slowest < TIGHT.seconds + 1.5
    for sql, outcome in zip(queries, outcomes):
        # DuckDB's errors quote the query, which has no such word; a result would have brought it.
        assert "tweet-tweet" not in repr(outcome), sql
    statuses = {outcome.status for outcome in outcomes}
    assert {"ok", "refused", "error", "timeout", "memory"} <= statuses


def run_hostile(database: Database, queries: list[str], folder: Path, *, guard: bool) -> tuple[list[Outcome], float]:
    """Outcomes of the queries, each followed by one with a known result, and the seconds of the slowest."""
    canary = folder / "canary.csv"
    canary.write_text("tweet-tweet\n")
    before = sorted(os.listdir(folder))
    jobs = []
    for number, sql in enumerate(queries):
        jobs.append(Job(database, sql.replace("{canary}", str(canary)).replace("{out}", str(folder))))
        jobs.append(Job(database, control(number)))
    with SqlExecutor(workers=2, limits=TIGHT, _guard=guard) as executor:
        outcomes = executor.run(jobs)
        assert os.listdir(executor._folders[0]) == []
    for number, outcome in enumerate(outcomes[1::2]):
        expected = tuple((name, number) for (name,) in NAMES)
        assert outcome.rows == expected, (jobs[2 * number].sql, outcome)
    assert sorted(os.listdir(folder)) == before
    assert canary.read_text() == "tweet-tweet\n"
    return outcomes[::2], max(outcome.seconds for outcome in outcomes)


def test_timeout_stops_one_query_and_costs_no_other(database: Database) -> None:
    slow = "SELECT count(*) FROM big a, big b, big c, big d"
    jobs = [Job(database, sql) for sql in (control(1), slow, control(2), slow + " ", control(3))]
    start = time.monotonic()
    with SqlExecutor(workers=1, limits=TIGHT) as executor:
        statuses = [outcome.status for outcome in executor.run(jobs)]
    assert statuses == ["ok", "timeout", "ok", "timeout", "ok"]
    assert 2 * TIGHT.seconds < time.monotonic() - start < 2 * TIGHT.seconds + 10


@pytest.mark.parametrize("address_space", [True, False], ids=["rlimit", "resident memory watched"])
def test_memory_is_limited_with_and_without_the_rlimit(database: Database, address_space: bool) -> None:
    limits = Limits(seconds=20.0, memory_mb=200)
    with SqlExecutor(workers=1, limits=limits, _guard=False, _address_space=address_space) as executor:
        assert ("RLIMIT_AS" in executor.protections()) == address_space
        outcome = executor.run_one(database, "SELECT length(repeat('x', 4000000000))")
        assert outcome.status == "memory", outcome
        assert executor.run_one(database, control(4)).status == "ok"


def test_result_sizes_are_limited(unguarded: SqlExecutor, database: Database) -> None:
    exactly = unguarded.run_one(database, "SELECT range FROM range(1000)")
    assert (exactly.truncated, len(exactly.rows)) == (False, 1000)
    more = unguarded.run_one(database, "SELECT range FROM range(1001)")
    assert (more.truncated, len(more.rows), more.rows[-1]) == (True, 1000, (999,))
    dates = unguarded.run_one(database, "SELECT DATE '2024-01-01' + range::INT AS d FROM range(5000) ORDER BY d")
    assert (dates.truncated, len(dates.rows)) == (True, 1000)
    for cell, status in (("repeat('é', 100000)", "ok"), ("repeat('é', 100001)", "error")):
        outcome = unguarded.run_one(database, f"SELECT {cell}")
        assert outcome.status == status, cell
    assert "max_cell_bytes" in outcome.message
    whole = unguarded.run_one(database, "SELECT repeat('x', 5000) FROM range(1000)")
    assert (whole.status, "max_result_bytes" in whole.message) == ("error", True)


def test_a_worker_that_is_killed_is_replaced_and_its_query_tried_again(database: Database) -> None:
    with SqlExecutor(workers=1, limits=Limits(seconds=20.0)) as executor:
        assert executor.run_one(database, control(5)).status == "ok"
        victim = executor._workers[0].process.pid
        killer = threading.Timer(0.3, os.kill, (victim, signal.SIGKILL))
        killer.start()
        jobs = [Job(database, sql) for sql in ("SELECT count(*) FROM big a, big b, runs c", control(6))]
        slow = Job(database, "SELECT sum(length(a.s || b.s)) FROM big a, big b")
        outcomes = executor.run([*jobs, slow])
        killer.join()
        assert [outcome.status for outcome in outcomes] == ["ok", "ok", "ok"]
        assert outcomes[2].rows == ((2000 * 2000 * 360,),)
        executor.run_one(database, control(7))
        assert executor._workers[0].process.pid != victim


def test_a_query_that_kills_its_worker_twice_is_charged_alone(database: Database) -> None:
    with SqlExecutor(workers=1, limits=Limits(seconds=30.0)) as executor:
        stop = threading.Event()

        def kill_whatever_is_slow() -> None:
            while not stop.wait(0.05):
                for worker in list(executor._workers):
                    if worker.ready and worker.pending and time.monotonic() - worker.since > 0.4:
                        os.kill(worker.process.pid, signal.SIGKILL)

        killer = threading.Thread(target=kill_whatever_is_slow)
        killer.start()
        try:
            slow = "SELECT count(*) FROM big a, big b, big c, big d"
            outcomes = executor.run([Job(database, sql) for sql in (control(8), slow, control(9))])
        finally:
            stop.set()
            killer.join()
    assert [outcome.status for outcome in outcomes] == ["ok", "crashed", "ok"]
    assert "SIGKILL" in outcomes[1].message


def test_lists_are_limited_in_depth_and_cost_no_worker(executor: SqlExecutor, database: Database) -> None:
    def nested(levels: int) -> str:
        parts = ", ".join(f"c{i} AS (SELECT [x] AS x FROM c{i - 1})" for i in range(1, levels + 1))
        return f"WITH c0 AS (SELECT 1 AS x), {parts} SELECT x FROM c{levels}"

    assert executor.run_one(database, nested(32)).ok
    outcome = executor.run_one(database, nested(33))
    assert (outcome.status, "lists nested 33 deep" in outcome.message) == ("error", True)


def test_cpu_time_is_limited_even_if_the_parent_is_not_looking(database: Database) -> None:
    with SqlExecutor(workers=1, limits=TIGHT, _guard=False) as executor:
        executor.protections()
        worker = executor._workers[0]
        worker.send_database(database)
        worker.send_query(0, b"SELECT count(*) FROM big a, big b, big c, big d")
        while worker.outbox:
            time.sleep(0.05)
            worker.flush()
        assert worker.process.wait(timeout=60) == -signal.SIGXCPU


# The child process ----------------------------------------------------------------------------------------


def test_a_worker_has_no_files_environment_or_group_of_its_parent(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("T2S_TEST_SECRET", "tweet-tweet")
    with open(__file__) as inherited, SqlExecutor(workers=1, limits=TIGHT) as executor:
        os.set_inheritable(inherited.fileno(), True)
        executor.run_one(database, control(10))
        pid = executor._workers[0].process.pid
        assert os.getpgid(pid) == os.getsid(pid) == pid != os.getpgid(0)
        assert {"RLIMIT_FSIZE", "RLIMIT_NOFILE", "RLIMIT_CORE"} <= set(executor.protections())
        if sys.platform != "linux":
            return  # what follows looks into /proc
        environment = Path(f"/proc/{pid}/environ").read_bytes()
        targets = [os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()]
        limits = {
            line[:25].strip(): line[25:].split()[0] for line in Path(f"/proc/{pid}/limits").read_text().splitlines()[1:]
        }
        assert os.readlink(f"/proc/{pid}/cwd") == executor._folders[0]
    assert b"tweet" not in environment and b"PATH=" not in environment
    assert {target.partition(":")[0] for target in targets} <= {"pipe", "/dev/null"}
    for name in ("Max file size", "Max core file size", "Max processes", "Max open files"):
        assert limits[name] == "0", name
    assert limits["Max address space"].isdigit() and limits["Max cpu time"].isdigit()


def test_statements_that_the_guard_would_refuse_meet_a_second_check(unguarded: SqlExecutor, database: Database) -> None:
    for sql in (
        "CREATE TABLE x AS SELECT 1",
        "SELECT 1; SELECT 2",
        "SET threads = 8",
        "PRAGMA database_list",
        "",
    ):
        outcome = unguarded.run_one(database, sql)
        assert outcome.status == "refused" and "exactly one SELECT" in outcome.message, sql
    delete = 'WITH d AS (DELETE FROM "table" RETURNING *) SELECT * FROM d'
    assert "read-only" in unguarded.run_one(database, delete).message
    assert len(unguarded.run_one(database, control(11)).rows) == len(NAMES)


@pytest.mark.parametrize(
    "sql",
    [
        *["SELECT * FROM read_text('{file}')", "SELECT * FROM '{file}'", "SELECT * FROM glob('{folder}/*')"],
        *["COPY (SELECT 1) TO '{folder}/x.csv'", "EXPORT DATABASE '{folder}/x'", "ATTACH '{folder}/x.db'"],
        *["LOAD httpfs", "INSTALL httpfs", "SELECT * FROM 'https://example.com/x.csv'"],
        *[
            "SET enable_external_access = true",
            "SET memory_limit = '100GB'",
            "SET lock_configuration = false",
        ],
        *["RESET memory_limit", "SET temp_directory = '{folder}'", "SELECT * FROM python_object"],
    ],
)
def test_duckdb_is_locked_down_even_without_the_process_around_it(sql: str, tmp_path: Path) -> None:
    python_object = TABLE.data  # noqa: F841 (a replacement scan would find it)
    file = tmp_path / "canary.csv"
    file.write_text("tweet-tweet")
    for connection in open_database(100):
        with connection, pytest.raises(duckdb.Error):
            connection.execute(sql.format(file=file, folder=tmp_path)).fetchall()
    assert os.listdir(tmp_path) == ["canary.csv"]


FLAT = st.builds(
    lambda selected, tests: f'SELECT {selected} FROM "t"' + (" WHERE " + " AND ".join(tests) if tests else ""),
    st.sampled_from(
        ['"a"', '"b"', *(f'{f}("{c}")' for f in ("max", "MIN", "count", "sum", "avg") for c in "ab"), '"nope"', '"t"']
    ),
    st.lists(
        st.builds(
            lambda column, operator, value: f'"{column}" {operator} {value}',
            st.sampled_from(["a", "b", "A", "t"]),
            st.sampled_from(["=", ">", "<", ">=", "<>"]),
            st.sampled_from(["'x'", "'ÅSA'", "''", "1", "-2.5", "'1'", "'1,000'", "9007199254740993", "1e3", "'nan'"]),
        ),
        max_size=3,
    ),
)


@settings(max_examples=150)
@given(FLAT)
def test_a_flat_query_gives_the_same_on_its_own_connection(executor: SqlExecutor, sql: str) -> None:
    """The way without an optimizer and a transaction, against the way that other queries go."""
    rows = [("x", 1.0), ("X", None), ("åsa", -2.5), ("", 1e3), (None, 0.1), ("1", 9007199254740992.0)]
    relation = Relation.from_rows("t", [("a", "VARCHAR COLLATE NOCASE"), ("b", "DOUBLE")], rows)
    database = Database.of(relation)
    event("flat" if allow_sql(sql, {"t": dict(relation.columns)}) else "not flat")
    flat, other = executor.run([Job(database, sql), Job(database, f"WITH nothing AS (SELECT 1) {sql}")])
    assert (flat.status, flat.types, flat.rows) == (other.status, other.types, other.rows)


@pytest.mark.parametrize("count", [0, 5, 5000])
def test_small_and_large_tables_hold_the_same(executor: SqlExecutor, count: int) -> None:
    """Small tables come as parameters, large ones and those of other types through Arrow."""
    kinds = [("s", "VARCHAR COLLATE NOCASE"), ("d", "DOUBLE"), ("i", "BIGINT"), ("o", "BOOLEAN")]
    cells = [("a\0ü'\"", -0.0, 2**62, True), (None, math.inf, None, False), ("", None, -5, None)]
    rows = [cells[i % 3] for i in range(count)]
    sql = 'SELECT * FROM "t"'
    listed = Database.of(Relation.from_rows("t", kinds, rows))
    scanned = Database.of(Relation.from_rows("t", [*kinds, ("x", "DATE")], [(*row, None) for row in rows]))
    first, second = executor.run([Job(listed, sql), Job(scanned, 'SELECT s, d, i, o FROM "t"')])
    assert first.types == second.types == ("VARCHAR", "DOUBLE", "BIGINT", "BOOLEAN")
    assert list(map(repr, first.rows)) == list(map(repr, second.rows)) == list(map(repr, rows))


def test_a_flat_query_gives_the_same_while_its_table_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = [
        ("s", "VARCHAR COLLATE NOCASE"),
        ("Ünd", "DOUBLE"),
        ("t", "BIGINT"),
        ('a "b"', "BOOLEAN"),
        ("n", "VARCHAR"),
    ]
    rows = [("x", -0.0, 2**62, True, None), ("X", math.nan, None, False, None), (None, 0.1, -5, None, None)]
    full = Relation.from_rows("t", kinds, [*rows, *rows])
    relations = [full, Relation.from_rows("t", kinds, []), Relation.from_rows("From", kinds, rows)]
    queries = [
        *(
            f'SELECT "{c}" FROM t WHERE "s" = \'X\''
            for c in ("s", "ünd", "Ünd", "ÜND", "t", 'a ""b""', "N", "no", "rowid")
        ),
        *(f'SELECT {g}("{c}") FROM "t"' for g in ("max", "SUM", "avg", "count") for c in ("s", "Ünd", "t", "no")),
        *("SELECT count(*) FROM t", 'select"s"from"t"where"Ünd">-1;', '-- a comment\nSELECT "s" FROM t', "SELECT *"),
        *('SELECT /* FROM t */ "s" FROM t', 'SELECT "s" FROM t WHERE "Ünd" = \'x\'', 'SELECT "s" FROM t, t AS u'),
        'SELECT "s" FROM t WHERE "n" = \') FROM t\' AND "Ünd" < 1',
    ]
    found = []
    for few in (0, 1_000):
        monkeypatch.setattr("t2s_assets.text2sql.execution.executor.FEW", few)
        with SqlExecutor(workers=1) as executor:
            # Each on a database of its own, and all on one after another.
            jobs = [Job(Database(f"{i}", (full,)), sql) for i, sql in enumerate(queries)]
            jobs += [Job(Database.of(relation), sql) for relation in relations for sql in queries]
            found.append([dataclasses.replace(outcome, seconds=0.0) for outcome in executor.run(jobs)])
    made, waited = found
    assert {"ok", "error", "refused"} == {outcome.status for outcome in made}
    assert list(map(repr, waited)) == list(map(repr, made))


def test_a_small_table_waits_until_a_query_needs_it() -> None:
    connection, plain = open_database(256)
    config = vars(Limits())

    def taken(*relations: Relation) -> Tables:
        streams = [ipc_bytes(r.data).to_pybytes() for r in relations]
        named = [{"name": r.name, "columns": r.columns, "bytes": len(s)} for r, s in zip(relations, streams)]
        header = json.dumps(named).encode()
        tables = Tables(plain)
        tables.take(memoryview(len(header).to_bytes(4, "big") + header + b"".join(streams)), wait=True)
        return tables

    small = Relation.from_rows("t", [("a", "DOUBLE")], [(1.0,)])
    tables = taken(small)
    assert tables.waiting
    for sql in ('SELECT "a" FROM t', 'SELECT max("A") FROM "T" WHERE "a" > 0'):
        status, frame = ask(connection, plain, tables, sql, config, flat=True)
        assert (status, json.loads(frame[4:])["rows"], tables.waiting) == ("ok", [[1.0]], True)
    assert ask(connection, plain, tables, "SELECT a + 1 FROM t", config, flat=False)[0] == "ok"
    assert not tables.waiting
    other = Relation.from_rows("u", [("a", "DOUBLE")], [(1.0,)])
    dated = Relation.from_rows("t", [("a", "DATE")], [])
    long = Relation.from_rows("t", [("a", "DOUBLE")], [(1.0,)] * 5_000)
    wide = Relation.from_rows("t", [("a", "VARCHAR")], [("x" * 1_000_000,)])
    for relations in ((small, other), (dated,), (long,), (wide,)):
        assert not taken(*relations).waiting


def deep(levels: int) -> list[Any]:
    """A list in a list in a list."""
    found: list[Any] = []
    for _ in range(levels):
        found = [found]
    return found


def test_a_worker_is_not_believed() -> None:
    limits = Limits(max_rows=2)
    good = {"status": "ok", "seconds": 0.5, "columns": ["a"], "types": ["BIGINT"], "rows": [[1], [2]]}
    assert wire.outcome(good, limits).rows == ((1,), (2,))
    for wrong in (
        *({"status": "fine"}, {"status": None}, {"seconds": "1"}, {"columns": "a"}, {"columns": [1]}),
        *({"types": []}, {"rows": [[1]] * 3}, {"rows": [[1, 2]]}, {"rows": {}}, {"rows": ["a"]}),
        *({"rows": [[{"float": "x"}]]}, {"rows": [[{"a": 1}]]}, {"types": ["BLOB"], "rows": [["zz"]]}),
        *({"types": ["DECIMAL(3,1)"], "rows": [[text]]} for text in ("x", "NaN", "1e999999", "1" * 39)),
        *({"rows": [[deep(900)]]}, {"rows": [[deep(99_999)]]}, {"seconds": deep(99_999)}),
    ):
        with pytest.raises(wire.ProtocolError):
            wire.outcome({**good, **wrong}, limits)
    for frame in (
        b"\xff\xff\xff\xff",
        *(
            len(text).to_bytes(4, "big") + text
            for text in (b"[]", b"{}", b"{", b"\xff", b'{"status": "\\ud800"}', b"NaN", b"[" * 99_999)
        ),
        *(
            len(text).to_bytes(4, "big") + text
            for text in (
                b'{"status": "ok", "rows": [[' + b"9" * 400 + b"]]}",
                b'{"status": "ok", "rows": [[-' + str(2**128).encode() + b"]]}",
                b'{"status": "ok\\ud800", "rows": ' + b"[" * 900 + b"]" * 900 + b"}",
            )
        ),
        (lambda text: len(text).to_bytes(4, "big") + text)(b'{"status": "ok", "seconds": ' + b"1" * 9_999 + b"}"),
    ):
        with pytest.raises(wire.ProtocolError):
            wire.take_frame(bytearray(frame), limits)
    assert wire.take_frame(bytearray(b"\0\0\0\x20{"), limits) is None


def test_integers_of_128_bits_are_believed() -> None:
    for number in (2**128 - 1, -(2**127)):
        message = wire.parsed(json.dumps({"status": "ok", "rows": [[number]]}).encode())
        assert message["rows"] == [[number]]


@pytest.mark.parametrize(
    "hello", [{"status": "ready", "limits": 7}, {"status": "ready", "limits": [[7]]}, {"status": "broken"}]
)
def test_a_hello_that_is_none_is_charged_to_the_hello(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hello: dict[str, Any]
) -> None:
    text = json.dumps(hello).encode()
    script = f"import sys\nsys.stdout.buffer.write({len(text).to_bytes(4, 'big') + text!r})\nsys.stdout.flush()\n"
    (tmp_path / "worker.py").write_text(script + "sys.stdin.read()\n")
    monkeypatch.setattr(process, "WORKER", tmp_path / "worker.py")
    with SqlExecutor(workers=1) as executor, pytest.raises(ExecutionError, match="a SQL worker does not start"):
        executor.run_one(database, "SELECT 1")


def test_what_did_not_load_in_time_is_told_with_the_time_it_had(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "START_SECONDS", 0.0)
    monkeypatch.setattr(process, "GRACE_SECONDS", 0.001)
    with SqlExecutor(workers=1, limits=Limits(seconds=5.0)) as executor:
        with pytest.raises(ExecutionError, match="does not start: took more than 0 s"):
            executor.run_one(database, "SELECT 1")


def test_closing_ends_the_workers_and_removes_their_folder(database: Database) -> None:
    executor = SqlExecutor(workers=2)
    executor.run([Job(database, control(n)) for n in range(200)])
    processes = [worker.process for worker in executor._workers]
    folder = executor._folders[0]
    executor.close()
    executor.close()
    assert processes and all(process.poll() is not None for process in processes)
    assert not os.path.exists(folder)
    with pytest.raises(ExecutionError, match="closed"):
        executor.run_one(database, "SELECT 1")
    with pytest.raises(ExecutionError, match="closed"):
        executor.start(1)


def test_workers_start_early_for_what_keeps_them_busy(database: Database) -> None:
    with SqlExecutor(workers=2) as executor:
        for queries, started in ((0, 0), (1, 1), (1_000, 2), (5, 2)):
            executor.start(queries)
            assert len(executor._workers) == started
        first = executor._workers[0].process.pid
        assert executor.run_one(database, "SELECT 1").rows == ((1,),)
        assert executor._workers[0].process.pid == first


def test_workers_do_not_outlive_an_executor_that_nobody_closed(database: Database) -> None:
    executor = SqlExecutor(workers=1)
    executor.run_one(database, "SELECT 1")
    process = executor._workers[0].process
    del executor
    assert process.wait(timeout=10) is not None


def answered_in_a_child(executor: SqlExecutor, database: Database, numbers: range) -> int:
    """Fork a child that asks the executor for each number; it exits with status 0 if it was given all of them."""
    pid = os.fork()
    if pid:
        return pid
    signal.alarm(60)
    status = 1
    try:
        right = all(executor.run_one(database, f"SELECT {n}").rows == ((n,),) for n in numbers)
        executor.close()
        status = 0 if right else 2
    finally:
        os._exit(status)


def test_a_forked_child_has_workers_of_its_own(database: Database) -> None:
    with SqlExecutor(workers=1) as executor:
        assert executor.run_one(database, "SELECT 1").ok
        pid = executor._workers[0].process.pid
        with executor._lock:  # as where another thread of the parent is in the midst of a run
            child = answered_in_a_child(executor, database, range(1000, 1100))
        assert [executor.run_one(database, f"SELECT {n}").rows for n in range(100)] == [((n,),) for n in range(100)]
        assert os.waitpid(child, 0)[1] == 0
        assert executor._workers[0].process.pid == pid  # the child's closing ended none of the parent's
        os.kill(pid, signal.SIGKILL)
        assert executor.run_one(database, "SELECT 2").ok  # nor took it the folder in which a new one starts
    child = answered_in_a_child(executor, database, range(1))
    assert os.waitpid(child, 0)[1] == 1 << 8  # what was closed stays closed


def test_an_interrupted_run_does_not_answer_into_the_next(database: Database) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with SqlExecutor(workers=1) as executor:
        with pytest.raises(KeyboardInterrupt):
            executor.run([Job(database, control(n)) for n in range(20)], progress=interrupt)
        assert executor.run_one(database, control(99)).rows[0] == ("Anna", 99)


def test_large_tables_are_not_all_copied_before_a_worker_takes_them() -> None:
    tables = [Relation.from_rows("t", [("v", "VARCHAR")], [(f"{n}" + "x" * 2_000_000,)] * 3) for n in range(8)]
    jobs = [Job(Database.of(table), "SELECT length(max(v)) FROM t") for table in tables]
    waiting = []
    with SqlExecutor(workers=1) as executor:
        look = lambda *_: waiting.append(sum(worker.backlog for worker in executor._workers))  # noqa: E731
        outcomes = executor.run(jobs, progress=look)
    assert [outcome.rows for outcome in outcomes] == [((2_000_001,),)] * len(jobs)
    assert max(waiting) < BACKLOG + 2 * tables[0].data.nbytes < sum(table.data.nbytes for table in tables)


# Our own mistakes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("memory_mb", [64, 200])  # too little for the rows as they come, and for the table of them
def test_a_database_that_does_not_fit_is_our_error_not_the_querys(executor: SqlExecutor, memory_mb: int) -> None:
    rows = [(f"{n}" + "x" * 2000,) for n in range(60_000)]
    database = Database.of(Relation.from_rows("t", [("v", "VARCHAR")], rows))
    with SqlExecutor(workers=1, limits=Limits(memory_mb=memory_mb)) as small:
        with pytest.raises(ExecutionError) as raised:
            small.run_one(database, "SELECT 1")
    told = str(raised.value)
    assert told.startswith(f"the tables ['t'] (121 MB) cannot be loaded within memory_mb={memory_mb} and 60 s: ")
    assert told.endswith("; give tables or views of fewer columns, of fewer rows, or of shorter cells")
    assert "\n" not in told and "SET " not in told
    assert executor.run_one(database, "SELECT count(*) FROM t").rows == ((60_000,),)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Relation.from_rows("t", [], []), "no columns"),
        (lambda: Relation.from_rows("t", [("a", "DOUBLE")], [("x",)]), "column 'a': a cell is not a DOUBLE"),
        (lambda: Relation.from_rows("t", [("a", "INTEGER")], [(1, 2)]), "row 1: 2 cells for 1 columns"),
        (lambda: Relation.from_rows("t", [("a", "INT); DROP TABLE x; --")], []), "is not a DuckDB type"),
        (lambda: Relation("t", (("b", "DOUBLE"),), TABLE.data), "the same names in the same order"),
        (lambda: Database.of(TABLE, TABLE), "two tables share a name"),
        (lambda: Limits(seconds=0), "limit seconds: must be above 0, got 0"),
        (lambda: SqlExecutor(workers=0), "workers: must be 1 or more, got 0"),
    ],
)
def test_mistakes_are_named(make, message: str) -> None:
    with pytest.raises(ExecutionError, match=message.replace("(", r"\(").replace(")", r"\)")):
        make()


def test_a_key_tells_contents_apart() -> None:
    def key(name: str, sql_type: str, cell: object) -> str:
        return Database.of(Relation.from_rows(name, [("a", sql_type)], [(cell,)])).key

    keys = [key("t", "DOUBLE", 1.0), key("u", "DOUBLE", 1.0), key("t", "DOUBLE", 2.0), key("t", "FLOAT", 1.0)]
    assert len(set(keys)) == 4 and keys[0] == key("t", "DOUBLE", 1.0)


# Fuzz -----------------------------------------------------------------------------------------------------


@given(st.lists(ALMOST_SQL.map("SELECT ".__add__), min_size=12, max_size=12))
@settings(max_examples=12, deadline=None)
def test_almost_sql_disturbs_nothing(unguarded: SqlExecutor, database: Database, texts: list[str]) -> None:
    jobs = [job for n, sql in enumerate(texts) for job in (Job(database, sql), Job(database, control(n)))]
    outcomes = unguarded.run(jobs)
    for number, outcome in enumerate(outcomes[1::2]):
        assert outcome.rows == tuple((name, number) for (name,) in NAMES)
