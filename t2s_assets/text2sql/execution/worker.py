"""The child process in which a query runs. Started by the executor as `python -I -S worker.py CONFIG`.

It imports only the standard library, duckdb and pyarrow, so that a replacement is ready in a fraction of a
second, and is run as a file, not with -m, which would import the package around it (sqlglot and all).

Frames in on stdin: one byte of kind, four of length (big endian), the payload.
  D  a database: four bytes of header length, a JSON header, the tables' Arrow IPC streams one after another
  L  the same, of which few queries will ask: a small table waits until one needs it to be there
  Q  a query: SQL text in UTF-8
  F  a flat query, as the guard calls it: the same, over one table with plain conditions that cannot fail
Frames out on the original stdout: four bytes of length, JSON. The parent trusts none of it.
"""

from __future__ import annotations

import contextlib
import gc
import json
import math
import os
import re
import sys
import time
from collections.abc import Iterator
from typing import Any

if __name__ == "__main__":
    CONFIG = json.loads(sys.argv[1])
    # Without PYTHONPATH and site, which would take a tenth of the start; this is where the two packages are.
    sys.path.extend(path for path in CONFIG["path"] if path not in sys.path)
    # Both do without numpy, whose import would take a third of the start.
    sys.modules["numpy"] = None  # type: ignore[assignment]

import duckdb
import pyarrow as pa
import pyarrow.ipc

# Values of these types, and lists of them, are exact as JSON. All others travel as DuckDB's own text.
PLAIN = frozenset(
    "BOOLEAN TINYINT SMALLINT INTEGER BIGINT HUGEINT UTINYINT USMALLINT UINTEGER UBIGINT UHUGEINT"
    ' FLOAT DOUBLE VARCHAR "NULL" NULL'.split()
)
SOURCE = "__t2s_source__"
# A flat query up to its table.
QUOTED = r'"(?:[^"]|"")+"'
FROM = re.compile(rf'\s*select\s*(?:\w+\s*\(\s*(?:\*|{QUOTED})\s*\)|{QUOTED})\s*from\s*(?=["\w])', re.IGNORECASE)
LISTED = frozenset(("VARCHAR", "DOUBLE", "BIGINT", "BOOLEAN"))
LISTED_CELLS = 2000
# What takes the answers apart goes down as far (wire.py).
MAX_LIST_DEPTH = 32
# Bytes of a table that may wait, so that making it in the time of a query takes none to speak of.
WAITING_BYTES = 2**18
# Lists that the Python client itself gives their type, if they hold a value: each CAST takes time to parse.
TYPED = frozenset(("VARCHAR", "DOUBLE"))

# Made once: json.dumps with any option makes an encoder for each call.
ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False)

# Settings that cannot be changed once external access is off go in when the database opens.
OPEN = {"threads": 1, "async_threads": 0, "temp_directory": ""}
LOCKDOWN = (
    "SET python_enable_replacements = false",
    "SET python_scan_all_frames = false",
    "SET autoinstall_known_extensions = false",
    "SET autoload_known_extensions = false",
    "SET allow_community_extensions = false",
    "SET allow_persistent_secrets = false",
    "SET TimeZone = 'UTC'",
    "SET enable_external_access = false",
    "SET lock_configuration = true",
)


def open_database(memory_mb: int) -> tuple[duckdb.DuckDBPyConnection, duckdb.DuckDBPyConnection]:
    """An in-memory DuckDB that reaches no file, extension or Python object, and whose settings are locked.

    Two connections to it: one to start others from, and one without the optimizer, for loading tables and for flat
    queries. Others keep the optimizer: without it, a comparison that cannot be cast fails where DuckDB would not.
    """
    connection = duckdb.connect(":memory:", config={**OPEN, "memory_limit": f"{memory_mb}MiB"})
    plain = connection.cursor()
    plain.execute("PRAGMA disable_optimizer")
    for statement in LOCKDOWN:
        connection.execute(statement)
    return connection, plain


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


class Tables:
    """The tables that queries are about.

    Making a table takes as long as two or three flat queries. One that waits is not made: flat queries read a subquery
    of its name, whose columns are the very expressions that would make it.
    """

    def __init__(self, plain: duckdb.DuckDBPyConnection) -> None:
        self._plain = plain
        self._made: list[str] = []
        self._relations: list[tuple[str, list[list[str]], pa.Table]] = []
        self._waiting: tuple[list[str], list[str], list[list[Any]]] | None = None

    def take(self, payload: memoryview, *, wait: bool = False) -> None:
        """The tables in `payload` replace those before; with `wait`, a small one waits."""
        size = int.from_bytes(payload[:4], "big")
        start = 4 + size
        self._relations = []
        for relation in json.loads(bytes(payload[4:start])):
            stop = start + relation["bytes"]
            table = pa.ipc.open_stream(pa.py_buffer(payload[start:stop])).read_all()
            start = stop
            self._relations.append((relation["name"], relation["columns"], table))
        self._waiting = None
        if wait and len(payload) <= WAITING_BYTES and len(self._relations) == 1:
            _, columns, table = self._relations[0]
            folded = [column.lower() for column, _ in columns]
            if is_listed(columns, table) and len(set(folded)) == len(folded):
                lists = [column.to_pylist() for column in table.columns]
                self._waiting = (folded, expressions(columns, table), lists)
        if not self._waiting:
            self.make()

    def make(self) -> None:
        """Make what is not made yet."""
        self._waiting = None
        # Names differ in case alone from what DuckDB takes for the same, so all go before the first new one comes.
        keep = {self._relations[0][0]} if len(self._relations) == 1 else set()
        for name in self._made:
            if name not in keep:
                self._plain.execute(f"DROP TABLE {quoted(name)}")
        self._made = []
        for name, columns, table in self._relations:
            create(self._plain, name, columns, table)
            self._made.append(name)
        self._relations = []

    @property
    def waiting(self) -> bool:
        return self._waiting is not None

    def inlined(self, sql: str) -> tuple[str, list[list[Any]]] | None:
        """A flat query on a subquery, called as the waiting table, of the columns that its text may name; and its
        parameters. None where no table waits, or its place in the text is not plain."""
        place = FROM.match(sql)
        if self._waiting is None or place is None:
            return None
        columns, selected, lists = self._waiting
        text = sql.lower()
        used = [i for i, column in enumerate(columns) if column in text] or [0]
        subquery = f"(SELECT {', '.join(selected[i] for i in used)}) AS "
        return sql[: place.end()] + subquery + sql[place.end() :], [lists[i] for i in used]


def is_listed(columns: list[list[str]], table: pa.Table) -> bool:
    """Whether a table can come as parameters: a small one of simple types."""
    kinds = (sql_type.partition(" COLLATE ")[0] for _, sql_type in columns)
    return table.num_rows * len(columns) <= LISTED_CELLS and all(kind in LISTED for kind in kinds)


def expressions(columns: list[list[str]], table: pa.Table) -> list[str]:
    """A column each, from a parameter that is a list if the table is listed, else from the scanned column."""
    listed = is_listed(columns, table)
    made = []
    for (column, sql_type), data in zip(columns, table.columns):
        kind, _, collation = sql_type.partition(" COLLATE ")
        value = f"unnest({parameter(kind, data)})" if listed else f"CAST({quoted(column)} AS {kind})"
        made.append(value + (f" COLLATE {collation}" if collation else "") + f" AS {quoted(column)}")
    return made


def create(plain: duckdb.DuckDBPyConnection, name: str, columns: list[list[str]], table: pa.Table) -> None:
    """Make or replace a table. Listed ones come as parameters: that takes half the time of registering an Arrow table
    and scanning it."""
    statement = f"CREATE OR REPLACE TABLE {quoted(name)} AS SELECT {', '.join(expressions(columns, table))}"
    if is_listed(columns, table):
        plain.execute(statement, [column.to_pylist() for column in table.columns])
        return
    plain.register(SOURCE, table)
    try:
        plain.execute(f"{statement} FROM {SOURCE}")
    finally:
        plain.unregister(SOURCE)


def parameter(kind: str, data: pa.ChunkedArray) -> str:
    """A parameter that is a list of type `kind`."""
    return "?" if kind in TYPED and data.null_count < len(data) else f"CAST(? AS {kind}[])"


def is_plain(sql_type: str) -> bool:
    return sql_type in PLAIN or (sql_type.endswith("[]") and is_plain(sql_type[:-2]))


def finite(value: object) -> object:
    """JSON has no NaN and no infinities: they become {"float": "nan"}."""
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": repr(value)}
    return [finite(item) for item in value] if isinstance(value, (list, tuple)) else value


def result(
    connection: duckdb.DuckDBPyConnection,
    statement: Any,
    config: dict,
    *,
    flat: bool = False,
    parameters: list | None = None,
) -> dict:
    """Run the statement and describe its result: names, types, at most `max_rows` rows.

    A `flat` query can leave nothing behind, so it runs on the connection itself, which may be one without optimizer.
    """
    limit = config["max_rows"] + 1
    with contextlib.nullcontext(connection) if flat else reading(connection) as cursor:
        cursor.execute(statement, parameters)
        columns = [column[0] for column in cursor.description]
        types = [str(column[1]) for column in cursor.description]
        if (deep := max((t.count("[]") for t in types), default=0)) > MAX_LIST_DEPTH:
            raise ValueError(f"a value is of lists nested {deep} deep, over the limit of {MAX_LIST_DEPTH}")
        plain = all(map(is_plain, types))
        rows = cursor.fetchmany(limit) if plain else []
    if not plain and parameters:
        raise ValueError("with parameters, only values that are exact as JSON")
    if not plain:
        # duckdb's Python values lose nanoseconds, months and infinite dates, its text loses nothing.
        casts = (
            f"#{i}" if is_plain(t) else f"hex(#{i})" if t == "BLOB" else f"CAST(#{i} AS VARCHAR)"
            for i, t in enumerate(types, 1)
        )
        with reading(connection) as cursor:
            rows = cursor.sql(statement).project(", ".join(casts)).limit(limit).fetchall()
    truncated = len(rows) == limit
    if truncated:
        rows = rows[:-1]
    too_long = config["max_cell_bytes"]
    for row in rows:
        for cell in row:
            if isinstance(cell, str) and len(cell) > too_long // 4 and len(cell.encode()) > too_long:
                raise ValueError(f"a value is larger than the limit of {too_long} bytes (max_cell_bytes)")
    return {"status": "ok", "columns": columns, "types": types, "rows": rows, "truncated": truncated}


@contextlib.contextmanager
def reading(connection: duckdb.DuckDBPyConnection) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection of its own, in a read-only transaction: DuckDB takes a DELETE in a CTE for a SELECT."""
    cursor = connection.cursor()
    try:
        cursor.execute("BEGIN TRANSACTION READ ONLY")
        yield cursor
    finally:
        cursor.close()


def run(connection: duckdb.DuckDBPyConnection, sql: str, config: dict, **how: Any) -> dict:
    """The outcome of one query."""
    try:
        statements = connection.extract_statements(sql)
        if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
            kinds = ", ".join(statement.type.name for statement in statements) or "nothing"
            return {"status": "refused", "message": f"exactly one SELECT may run, DuckDB reads: {kinds}"}
        return result(connection, statements[0], config, **how)
    except (MemoryError, duckdb.OutOfMemoryException) as error:
        return {"status": "memory", "message": str(error)}
    except (duckdb.FatalException, duckdb.InternalException) as error:
        return {"status": "crashed", "message": str(error)}
    except Exception as error:
        return {"status": "error", "message": str(error)}


def encode(outcome: dict, limit: int) -> bytes:
    """The outcome as a JSON frame, or a frame that says it is larger than `limit` bytes."""
    try:
        text = ENCODER.encode(outcome)
    except ValueError:
        text = ENCODER.encode({**outcome, "rows": finite(outcome["rows"])})
    payload = text.encode()
    if len(payload) > limit:
        problem = f"the result is larger than the limit of {limit} bytes (max_result_bytes)"
        payload = json.dumps({"status": "error", "message": problem, "seconds": outcome["seconds"]}).encode()
    return len(payload).to_bytes(4, "big") + payload


def answer(connection: duckdb.DuckDBPyConnection, sql: str, config: dict, **how: Any) -> tuple[str, bytes]:
    """Run `sql` as `result` does; its status and the frame that tells of it."""
    start = time.perf_counter()
    try:
        outcome = run(connection, sql, config, **how)
        outcome["message"] = outcome.get("message", "")[:2000]
        outcome["seconds"] = time.perf_counter() - start
        return outcome["status"], encode(outcome, config["max_result_bytes"])
    except MemoryError:
        outcome = {"status": "memory", "message": "out of memory", "seconds": time.perf_counter() - start}
        return "memory", encode(outcome, config["max_result_bytes"])


def ask(
    connection: duckdb.DuckDBPyConnection,
    plain: duckdb.DuckDBPyConnection,
    tables: Tables,
    sql: str,
    config: dict,
    *,
    flat: bool,
) -> tuple[str, bytes]:
    """`answer`, on tables that are there; or, for a flat query whose table waits, with the table in the query.

    What goes wrong that way says nothing of the query: then it runs on the table.
    """
    if flat and (inlined := tables.inlined(sql)) is not None:
        text, lists = inlined
        status, frame = answer(plain, text, config, flat=True, parameters=lists)
        if status not in ("error", "refused"):
            return status, frame
    if tables.waiting:
        tables.make()
    return answer(plain if flat else connection, sql, config, flat=flat)


def read_exactly(stream, size: int) -> bytes:
    data = stream.read(size)
    if len(data) != size:
        # The parent is gone or has closed the pipe: there is nobody left to answer.
        os._exit(0)
    return data


def confine(config: dict) -> list[str]:
    """Limit this process; returns the names of the limits in force."""
    import resource

    held = []

    def limit(name: str, value: int) -> None:
        try:
            resource.setrlimit(getattr(resource, name), (value, value))
            held.append(name)
        except (AttributeError, ValueError, OSError):
            pass  # reported by its absence in the hello frame

    if sys.platform == "linux" and config["address_space"]:
        with open("/proc/self/statm") as statm:
            pages = int(statm.read().split()[0])
        limit("RLIMIT_AS", pages * resource.getpagesize() + config["memory_mb"] * 2**20)
    limit("RLIMIT_CORE", 0)
    limit("RLIMIT_FSIZE", 0)
    limit("RLIMIT_NPROC", 0)
    limit("RLIMIT_NOFILE", 0)
    return held


def allow_cpu(seconds: float) -> None:
    """Let this process use `seconds` more CPU time; the kernel ends it (SIGXCPU) about there."""
    import resource

    soft = math.ceil(time.process_time() + seconds) + 1
    now, hard = resource.getrlimit(resource.RLIMIT_CPU)
    soft = soft if hard == resource.RLIM_INFINITY else min(soft, hard)
    if soft != now:
        resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))


def warm_up(connection: duckdb.DuckDBPyConnection, plain: duckdb.DuckDBPyConnection, config: dict) -> None:
    """Take every path once, so that whatever loads a module or file lazily does so before confinement."""
    table = pa.table({"a": ["x", None], "b": [1.5, 2.0]})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    data = sink.getvalue().to_pybytes()
    tables = Tables(plain)
    # A type that is not listed takes the way through Arrow.
    for types in (("VARCHAR", "FLOAT"), ("VARCHAR COLLATE NOCASE", "DOUBLE")):
        header = json.dumps([{"name": "warm up", "columns": [*zip("ab", types)], "bytes": len(data)}]).encode()
        payload = memoryview(len(header).to_bytes(4, "big") + header + data)
        tables.take(payload, wait=True)
        if tables.waiting:
            ask(connection, plain, tables, 'SELECT "b" FROM "warm up" WHERE "a" = \'X\'', config, flat=True)
            tables.make()
    for sql in (
        "SELECT max(b), count(*) FROM \"warm up\" WHERE a = 'X' GROUP BY a ORDER BY 1",
        "SELECT DATE '2020-01-01', TIMESTAMPTZ '2020-01-01 00:00:00+01', 1.5, INTERVAL 1 MONTH, [1]",
        "SELECT 'nan'::DOUBLE",
        "SELECT missing",
        "COPY (SELECT 1) TO 'x'",
    ):
        answer(connection, sql, config)
        answer(plain, sql, config, flat=True)
    tables.take(memoryview(b"\0\0\0\2[]"))


def main() -> None:
    out = os.dup(1)
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 1)  # anything that prints must not speak in the protocol
    os.close(sink)
    stdin = sys.stdin.buffer

    def send(frame: bytes) -> None:
        view = memoryview(frame)
        while view:
            view = view[os.write(out, view) :]

    def say(message: dict) -> None:
        send(encode({"seconds": 0.0, **message}, 1_000_000))

    try:
        connection, plain = open_database(CONFIG["memory_mb"])
        warm_up(connection, plain, CONFIG)
        # What is there now stays; queries make no cycles to speak of, and looking for them takes a tenth of the time.
        gc.freeze()
        gc.set_threshold(100_000)
        say({"status": "ready", "limits": confine(CONFIG), "pid": os.getpid()})
    except Exception as error:
        say({"status": "broken", "message": f"{type(error).__name__}: {error}"})
        return
    tables = Tables(plain)
    while True:
        head = read_exactly(stdin, 5)
        kind, payload = head[:1], read_exactly(stdin, int.from_bytes(head[1:], "big"))
        if kind in (b"D", b"L"):
            try:
                tables.take(memoryview(payload), wait=kind == b"L")
                say({"status": "loaded"})
            except Exception as error:
                say({"status": "broken", "message": f"{type(error).__name__}: {error}"})
                return
        else:
            allow_cpu(CONFIG["seconds"])
            status, frame = ask(connection, plain, tables, payload.decode(), CONFIG, flat=kind == b"F")
            send(frame)
            if status in ("memory", "crashed"):
                return  # what such a failure leaves behind is nobody's to trust


if __name__ == "__main__":
    main()
