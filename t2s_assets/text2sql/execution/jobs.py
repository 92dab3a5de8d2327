"""What goes into the executor and what comes out of it: plain data that nothing changes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import pyarrow as pa

from t2s_assets.text2sql.errors import ExecutionError
from t2s_assets.text2sql.sql.names import folded

Status = Literal["ok", "refused", "error", "timeout", "memory", "crashed"]

# Types are written into DDL, so they are letters, digits and the few signs that types need.
_TYPE = re.compile(r"[A-Za-z][A-Za-z0-9_ ]*(\(\s*\d+\s*(,\s*\d+\s*)?\))?( COLLATE [A-Za-z_.]+)?(\[\])?")
_DECIMAL = re.compile(r"(?:DECIMAL|NUMERIC)\s*\(\s*(\d+)\s*(?:,\s*(\d+)\s*)?\)")
_ARROW_TYPES = {
    "VARCHAR": pa.string(),
    "TEXT": pa.string(),
    "DOUBLE": pa.float64(),
    "FLOAT": pa.float32(),
    "REAL": pa.float32(),
    "BIGINT": pa.int64(),
    "INTEGER": pa.int32(),
    "SMALLINT": pa.int16(),
    "TINYINT": pa.int8(),
    "BOOLEAN": pa.bool_(),
    "DATE": pa.date32(),
    "TIME": pa.time64("us"),
    "TIMESTAMP": pa.timestamp("us"),
    "BLOB": pa.binary(),
}


def _arrow_type(sql_type: str) -> pa.DataType | None:
    """Arrow's counterpart of a DuckDB type; None leaves the choice to Arrow, and DuckDB casts on loading."""
    name = sql_type.upper().split(" COLLATE ")[0].strip()
    if match := _DECIMAL.fullmatch(name):
        return pa.decimal128(int(match[1]), int(match[2] or 0))
    return _ARROW_TYPES.get(name)


@dataclass(frozen=True)
class Relation:
    """One table handed to a query.

    `columns` are (column name, DuckDB type) in order; a type may carry a collation, as
    `VARCHAR COLLATE NOCASE`. `data` has the same columns, by position and name.
    """

    name: str
    columns: tuple[tuple[str, str], ...]
    data: pa.Table

    def __post_init__(self) -> None:
        names = [name for name, _ in self.columns]
        if not names:
            raise ExecutionError(f"table {self.name!r} has no columns: DuckDB tables need at least one")
        if names != self.data.column_names:
            raise ExecutionError(
                f"table {self.name!r}: its data has the columns {self.data.column_names}, its declaration"
                f" {names}: give both the same names in the same order"
            )
        for name, sql_type in self.columns:
            if not _TYPE.fullmatch(sql_type):
                raise ExecutionError(
                    f"table {self.name!r}, column {name!r}: {sql_type!r} is not a DuckDB type such as"
                    " VARCHAR, DOUBLE, DECIMAL(18, 3) or VARCHAR COLLATE NOCASE"
                )

    @classmethod
    def from_rows(cls, name: str, columns: Iterable[tuple[str, str]], rows: Iterable[Sequence[Any]]) -> Relation:
        """Build the relation from Python rows; each cell must suit its column's type, or be None."""
        columns = tuple((str(column), str(sql_type)) for column, sql_type in columns)
        rows = [tuple(row) for row in rows]
        for number, row in enumerate(rows, 1):
            if len(row) != len(columns):
                raise ExecutionError(f"table {name!r}, row {number}: {len(row)} cells for {len(columns)} columns")
        arrays = []
        for (column, sql_type), cells in zip(columns, zip(*rows) if rows else [()] * len(columns)):
            try:
                arrays.append(pa.array(cells, type=_arrow_type(sql_type)))
            except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
                raise ExecutionError(
                    f"table {name!r}, column {column!r}: a cell is not a {sql_type}: {error}"
                ) from error
        return cls(name, columns, pa.Table.from_arrays(arrays, names=[column for column, _ in columns]))


class Database:
    """The tables that one query may read.

    `key` names the content: a worker that holds a database of the same key does not load it again, so two
    databases with one key must be equal. `Database.of` derives the key from the content. `relations` may be a
    function, which makes the tables when a query first needs them: where its result is known, none does.

    Raises ExecutionError, once the tables are there, where two of them share a name.
    """

    def __init__(self, key: str, relations: tuple[Relation, ...] | Callable[[], tuple[Relation, ...]]) -> None:
        self.key = key
        self._make = relations
        if not callable(relations):
            self.relations  # noqa: B018  tables that are there are checked now

    @cached_property
    def relations(self) -> tuple[Relation, ...]:
        relations = self._make() if callable(self._make) else self._make
        names = [folded(relation.name) for relation in relations]
        if len(set(names)) != len(names):
            raise ExecutionError(
                f"database {self.key!r}: two tables share a name (ignoring case) among {names}: rename one"
            )
        return relations

    @property
    def size(self) -> int:
        """Bytes of the tables."""
        return sum(relation.data.nbytes for relation in self.relations)

    @classmethod
    def of(cls, *relations: Relation) -> Database:
        """A database whose key is a BLAKE2b hash of its tables."""
        digest = hashlib.blake2b(digest_size=16)
        for relation in relations:
            digest.update(repr((relation.name, relation.columns, relation.data.num_rows)).encode())
            digest.update(ipc_bytes(relation.data))
        return cls(digest.hexdigest(), relations)


def ipc_bytes(table: pa.Table) -> pa.Buffer:
    """The table as an Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


@dataclass(frozen=True)
class Limits:
    """What one query may use.

    seconds: wall clock, from the moment that the worker may start on it to its whole answer.
    memory_mb: address space (on macOS resident memory) beyond what an idle worker takes, in MiB.
    max_rows: rows beyond it are not fetched, and the outcome says `truncated`.
    max_cell_bytes, max_result_bytes: a larger value, or a larger result, is an `error`: values are never cut.
    """

    seconds: float = 2.0
    memory_mb: int = 512
    max_rows: int = 10_000
    max_cell_bytes: int = 1_000_000
    max_result_bytes: int = 16_000_000

    def __post_init__(self) -> None:
        for field, value in vars(self).items():
            if not value > 0:
                raise ExecutionError(f"limit {field}: must be above 0, got {value!r}")


@dataclass(frozen=True)
class Job:
    """One query on one database."""

    database: Database
    sql: str


@dataclass(frozen=True)
class Outcome:
    """How one query ended.

    ok: `columns`, `types` (DuckDB's names) and `rows` hold the result.
    refused: the guard did not let it through. error: DuckDB did not run it (unknown column, bad cast, ...).
    timeout, memory: a limit stopped it. crashed: the worker died of it.
    All but `ok` have a `message` and no rows. `seconds` is its wall clock in the worker.
    """

    status: Status
    columns: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    rows: tuple[tuple[Any, ...], ...] = ()
    message: str = ""
    seconds: float = 0.0
    truncated: bool = False

    @property
    def ok(self) -> bool:
        return self.status == "ok"
