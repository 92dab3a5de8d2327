"""The tables that users ask about, from whatever they give: CREATE TABLE text, a JSON schema, a database, a file."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from t2s_assets.text2sql.errors import DataError
from t2s_assets.text2sql.schema import TableSchema
from t2s_assets.text2sql.tables.schema_texts import from_ddl, from_json
from t2s_assets.text2sql.tables.table_files import from_arrow, from_connection, open_file, open_folder
from t2s_assets.text2sql.tables.user_tables import Source, UserDatabase, UserTable, shortened
from t2s_assets.text2sql.text_encoding import encoding_of_file

__all__ = ["Source", "UserDatabase", "UserTable", "as_asked", "as_table", "from_ddl", "from_json", "open_source"]

_CREATES = re.compile(r"\bcreate\s.*\btable\b", re.IGNORECASE | re.DOTALL)


def open_source(*, ddl: str | None = None, schema: str | Path | None = None, db: str | Path | None = None) -> Source:
    """The source of exactly one of: CREATE TABLE text or its file, a JSON schema file, a data file.

    Raises:
        DataError: none or several are given, a file is missing or is not what it should be.
    """
    given = {n: v for n, v in (("--ddl", ddl), ("--schema", schema), ("--db", db)) if v is not None}
    if len(given) != 1:
        got = " and ".join(given) or "none"
        raise DataError(f"what is asked about: give exactly one of --ddl, --schema, --db; got {got}")
    if ddl is not None:
        if _CREATES.search(ddl) or not ddl.strip():
            return from_ddl(ddl)
        return from_ddl(_text_of(Path(ddl), "--ddl", "neither CREATE TABLE text nor a file"), where=ddl)
    if schema is not None:
        path = Path(schema)
        try:
            content = json.loads(_text_of(path, "--schema", "no such file"))
        except ValueError as e:
            raise DataError(f"{path}: not JSON ({e}); docs/cli.md shows what a schema file holds") from e
        return from_json(content, where=str(path))
    path = Path(str(db))
    return open_folder(path) if path.is_dir() else open_file(path)


def _text_of(path: Path, option: str, otherwise: str) -> str:
    try:
        if not path.is_file():
            raise DataError(f"{option}: {otherwise}: {shortened(str(path))!r}")
        return path.read_text(encoding=encoding_of_file(path))
    except UnicodeDecodeError as e:
        raise DataError(
            f"{option}: {shortened(str(path))!r} is neither UTF-8 nor UTF-16 with its mark ({e}); convert it to UTF-8, "
            "for instance by: iconv -f ENCODING -t UTF-8"
        ) from e
    except (OSError, ValueError) as e:  # a very long or NUL-holding "path", no permission
        raise DataError(f"{option}: {shortened(str(path))!r} cannot be read ({e})") from e


def as_asked(given: Any, name: str | None = None, *, many: bool) -> UserTable | UserDatabase:
    """What `as_table` takes, for a model that answers over `many` tables: without a name, all that there are.

    Raises:
        DataError: as `as_table`.
    """
    if isinstance(given, UserDatabase) or not many:
        return given if isinstance(given, UserDatabase) else as_table(given, name)
    source = given if isinstance(given, Source) else _source_of(given)
    return as_table(given, name) if source is None else source.asked(name, many=True)


def _source_of(given: Any) -> Source | None:
    """The source of whatever may hold several tables, None for what is one."""
    if isinstance(given, (Mapping, list)):
        return from_json(given, where="table")
    if isinstance(given, str) and _CREATES.search(given):
        return from_ddl(given, where="table")
    if isinstance(given, duckdb.DuckDBPyConnection):
        return from_connection(given)
    if isinstance(given, (str, Path)):
        suffix = Path(given).suffix.lower()
        if suffix == ".sql":
            return open_source(ddl=str(given))
        return open_source(schema=given) if suffix == ".json" else open_source(db=given)
    return None


def as_table(given: Any, name: str | None = None) -> UserTable:
    """A `UserTable` of what a notebook has at hand.

    That is a UserTable, a Source, CREATE TABLE text, a path to a schema or data file, a JSON schema as a mapping, an
    open DuckDB connection, or anything that exports Arrow: a pandas or polars frame, a pyarrow table. `name` chooses
    among several tables and names a frame.

    Raises:
        DataError: it is none of these, or not readable as one.
    """
    if isinstance(given, UserTable):
        return given
    if isinstance(given, Source):
        return given.table(name)
    if isinstance(given, TableSchema):
        return UserTable.of(given.name, [c.name for c in given.columns], [c.type for c in given.columns], where="table")
    if (source := _source_of(given)) is not None:
        return source.table(name)
    if hasattr(given, "__arrow_c_stream__"):
        return from_arrow(_arrow_of(given), name or "data")
    raise DataError(f"a table, schema, path, data frame or DuckDB connection is wanted; got {type(given).__name__}")


def _periods_as_text(data: pa.Table) -> pa.Table:
    """Pandas' periods and intervals (what `pd.cut` gives) as they are written: Arrow holds the numbers behind them."""
    for position, field in enumerate(data.schema):
        kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        if isinstance(kind, pa.BaseExtensionType) and kind.extension_name.startswith("pandas."):
            cells = data.column(position).combine_chunks()
            coded = isinstance(cells, pa.DictionaryArray)
            texts = _as_pandas_writes(cells.dictionary).take(cells.indices) if coded else _as_pandas_writes(cells)
            data = data.set_column(position, field.name, texts)
    return data


def _as_pandas_writes(cells: pa.Array) -> pa.Array:
    return pa.array(
        [str(c) if there else None for c, there in zip(cells.to_pandas(), cells.is_valid().to_pylist())], pa.string()
    )


def _arrow_of(frame: Any) -> pa.Table:
    """A data frame as Arrow. Raises DataError for a single column, columns of one name, and cells that Arrow lacks."""
    columns = getattr(frame, "columns", None)
    if columns is None and hasattr(frame, "to_frame"):
        raise DataError(f"a data frame is wanted; got one column, a {type(frame).__name__}; give its to_frame()")
    counts = Counter(c for c in (() if columns is None else columns) if isinstance(c, (str, int)))
    if twice := [repr(name) for name, count in counts.items() if count > 1]:
        raise DataError(f"the data frame has several columns called {', '.join(twice)}; rename all but one of each")
    try:
        return _periods_as_text(pa.table(frame))
    except OverflowError as e:
        raise DataError(
            f"the data frame cannot be read ({e}): Arrow's whole numbers have 64 bits; turn larger ones into "
            "decimal.Decimal or text"
        ) from e
    except (pa.ArrowException, TypeError, ValueError) as e:  # columns of mixed types
        raise DataError(f"the data frame cannot be read ({e}); turn that column into text or numbers") from e
