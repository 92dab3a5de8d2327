"""What a read of a user's table may take. Views, generated columns and dictionaries hide endless work in small files;
it ends as an error that says what to do, not as a process that hangs or is killed."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any

import duckdb
import pyarrow as pa

from t2s_assets.text2sql.errors import DataError

MAX_SECONDS = 60.0
"""For opening a table, and for copying its rows: those that are copied take a few seconds."""

MAX_BYTES = 2_000_000_000
"""Of what is copied of a table: 20 KB in each of 100,000 rows. One Arrow column of texts holds no more than 2^31."""

DUCKDB_LIMITS = {"memory_limit": "4GB", "max_temp_directory_size": "10GB"}
"""What DuckDB works out a view in: what is copied, twice; and what it may put on the disk beside the file."""

_INTERRUPT_EVERY = 0.1
"""Seconds: an interrupt that comes between two statements stops neither."""


class Reading:
    """One read of a user's table. `what` names the file and the table in errors."""

    def __init__(self, what: str) -> None:
        self.what = what
        self._ends = time.monotonic() + MAX_SECONDS
        self._seconds, self._left = MAX_SECONDS, MAX_BYTES

    @contextmanager
    def on(self, connection: duckdb.DuckDBPyConnection | sqlite3.Connection) -> Iterator[None]:
        """Stops what `connection` does when the time is over.

        SQLite's progress handler would have the same end, but Python drops a Ctrl-C that arrives in it.

        Raises:
            DataError: the read took too long or too much memory; other errors pass.
        """
        done = Event()

        def watch() -> None:
            wait = max(0.0, self._ends - time.monotonic())
            while not done.wait(wait):
                connection.interrupt()
                wait = _INTERRUPT_EVERY

        watching = Thread(target=watch, name="read limit", daemon=True)
        watching.start()
        try:
            yield
        except (MemoryError, duckdb.OutOfMemoryException) as e:
            raise self._too_much_memory() from e
        except (duckdb.Error, sqlite3.Error) as e:
            if time.monotonic() >= self._ends and "interrupt" in str(e).lower():
                raise DataError(
                    f"{self.what} takes over {self._seconds:g} seconds to read; if it is a view, store its rows as a "
                    "table, or give a view of fewer columns or rows"
                ) from e
            if "string or blob too big" in str(e):
                raise self._too_large() from e
            raise
        finally:
            done.set()
            watching.join()

    def count(self, size: int) -> None:
        """Adds bytes to those copied. Raises DataError where they are too many."""
        self.check(size)
        self._left -= size

    def check(self, size: int) -> None:
        """Raises DataError where so many bytes more are too many."""
        if size > self._left:
            raise self._too_large()

    def arrow(self, relation: duckdb.DuckDBPyRelation, *, enough: Callable[[int, int], bool] | None = None) -> pa.Table:
        """All rows of a relation, while they are not too large; no more after `enough` of how many and their bytes."""
        batches: list[pa.RecordBatch] = []
        count = size = 0
        try:
            reader = relation.to_arrow_reader(2048)  # DuckDB works in as many rows at a time
            for batch in reader:
                self.count(batch.nbytes)
                batches.append(batch)
                count, size = count + batch.num_rows, size + batch.nbytes
                if enough is not None and enough(count, size):
                    break
        except OSError as e:  # what DuckDB raises once rows have come reaches Arrow as this
            if "Out of Memory" in str(e):
                raise self._too_much_memory() from e
            if "Arrow Appender: The maximum total" in str(e):
                raise self._too_large() from e
            raise duckdb.Error(str(e)) from e
        return pa.Table.from_batches(batches, reader.schema).combine_chunks()

    def rows(self, connection: sqlite3.Connection, sql: str) -> Iterator[tuple[Any, ...]]:
        """The rows of a query to SQLite, while they are not too large."""
        connection.text_factory = self._text
        cursor = connection.execute(sql)
        # No single row is over the limit: its blobs are counted only when it is here.
        most = MAX_BYTES // max(1, len(cursor.description or ()))
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, min(most, 2**31 - 1))
        for row in cursor:
            if bytes in map(type, row):
                self.count(sum(len(cell) for cell in row if isinstance(cell, bytes)))
            yield row

    def _text(self, data: bytes) -> str:
        self._left -= len(data)
        if self._left < 0:
            raise self._too_large()
        return data.decode("utf-8", "replace")

    def _too_large(self) -> DataError:
        return DataError(
            f"{self.what} is too large: up to {MAX_BYTES / 1e9:g} GB of a table are copied; give a table or a view of "
            "fewer columns, or of shorter cells"
        )

    def _too_much_memory(self) -> DataError:
        return DataError(
            f"{self.what} takes too much memory to read ({DUCKDB_LIMITS['memory_limit']} at the most); give a table "
            "or a view of fewer columns, or of shorter cells; if it is a view, store its rows as a table"
        )
