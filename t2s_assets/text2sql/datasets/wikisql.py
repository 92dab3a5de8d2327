"""Reader of the official WikiSQL archive layout (Zhong et al. 2017): a tar file or its unpacked folder with
`data/{train,dev,test}.jsonl` (questions) and `data/{train,dev,test}.tables.jsonl` (tables).
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from t2s_assets.text2sql.errors import DataError
from t2s_assets.text2sql.query import Query, SketchError
from t2s_assets.text2sql.schema import Column, TableSchema, column_names

SPLITS = {"train": "train", "dev": "validation", "test": "test"}
"""WikiSQL's file names, and the names of the splits everywhere else."""

# WikiSQL's six files take about 130 MB; an archive that unpacks to this much is no WikiSQL, it is a bomb.
UNPACKED_BYTES = 1 << 30
# tarfile reads headers that extend others (long names, PAX) to memory, whole and without a word. Those of a WikiSQL
# archive take under a kilobyte a member.
HEADER_BYTES = 1 << 16


@dataclass(frozen=True)
class SourceTable:
    """One table as its source gives it; every cell is text, `types` say which columns are numbers."""

    id: str
    split: str
    header: tuple[str, ...]
    types: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def schema(self, name: str) -> TableSchema:
        """The schema under the SQL name `name`, with SQL column names."""
        names = column_names(self.header)
        return TableSchema(name, tuple(Column(n, t) for n, t in zip(names, self.types)))  # type: ignore[arg-type]


@dataclass(frozen=True)
class SourceQuestion:
    """One question: its id (split and line), the table it is about, and the structured query that answers it."""

    id: str
    split: str
    table_id: str
    text: str
    query: Query


@dataclass(frozen=True)
class Source:
    """Everything of one dataset, as read."""

    tables: tuple[SourceTable, ...]
    questions: tuple[SourceQuestion, ...]


def read_wikisql(path: Path, *, log: Callable[[str], None] = lambda line: None) -> Source:
    """Every table and question of the archive or folder at `path`.

    Raises:
        DataError: the archive is missing, damaged or incomplete, or a line breaks the format; the message lists
            the first problems of every file with their line numbers.
    """
    tables: list[SourceTable] = []
    questions: list[SourceQuestion] = []
    problems: list[str] = []
    owner: dict[str, str] = {}
    with _opener(path) as open_member:
        for file_name, split in SPLITS.items():
            split_tables: dict[str, SourceTable] = {}
            for where, record in _records(open_member, f"data/{file_name}.tables.jsonl", problems):
                try:
                    table = parse_table(record, split)
                except (KeyError, TypeError, ValueError) as e:
                    problems.append(f"{where}: {_reason(e)}")
                    continue
                if table.id in owner:
                    problems.append(f"{where}: table {table.id!r} was given before, in {owner[table.id]}")
                    continue
                owner[table.id] = split
                split_tables[table.id] = table
            count = len(questions)
            for where, record in _records(open_member, f"data/{file_name}.jsonl", problems):
                try:
                    questions.append(parse_question(record, split, f"{split}-{where.rsplit(':', 1)[1]}", split_tables))
                except (KeyError, TypeError, ValueError, SketchError) as e:
                    problems.append(f"{where}: {_reason(e)}")
            tables += split_tables.values()
            log(f"{split}: {len(split_tables):,} tables, {len(questions) - count:,} questions")
    if problems:
        shown = "\n".join(f"  {p}" for p in problems[:20])
        rest = f"\n  ... and {len(problems) - 20} more" if len(problems) > 20 else ""
        raise DataError(f"{path}: {len(problems)} broken lines; mend or remove them:\n{shown}{rest}")
    return Source(tuple(tables), tuple(questions))


def _reason(error: Exception) -> str:
    return f"key {error} is missing" if isinstance(error, KeyError) else str(error)


def parse_table(record: Mapping[str, Any], split: str) -> SourceTable:
    """A table from its record. Raises KeyError, TypeError or ValueError where it breaks the format."""
    header, types, rows = record["header"], record["types"], record["rows"]
    if not isinstance(record["id"], str) or not record["id"]:
        raise ValueError(f"id must be a non-empty string; got {record['id']!r}")
    if not isinstance(header, list) or not header or not all(isinstance(h, str) for h in header):
        raise ValueError(f"table {record['id']!r}: header must be a non-empty list of strings; got {header!r}")
    if not isinstance(types, list) or len(types) != len(header) or any(t not in ("text", "real") for t in types):
        raise ValueError(f"table {record['id']!r}: types must be {len(header)} of text or real; got {types!r}")
    if not isinstance(rows, list):
        raise ValueError(f"table {record['id']!r}: rows must be a list of rows; got {rows!r:.100}")
    for i, row in enumerate(rows):
        if not isinstance(row, list) or len(row) != len(header) or any(isinstance(c, (list, dict)) for c in row):
            raise ValueError(f"table {record['id']!r}: row {i} must have {len(header)} cells; got {row!r:.100}")
    cells = tuple(tuple("" if c is None else c if isinstance(c, str) else str(c) for c in row) for row in rows)
    return SourceTable(record["id"], split, tuple(header), tuple(types), cells)


def parse_question(record: Mapping[str, Any], split: str, id: str, tables: Mapping[str, SourceTable]) -> SourceQuestion:
    """A question on one of `tables` from its record. Raises KeyError, TypeError, ValueError or SketchError."""
    text, table_id = record["question"], record["table_id"]
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"question must be a non-empty string; got {text!r}")
    if not isinstance(table_id, str) or table_id not in tables:
        raise ValueError(f"table {table_id!r} is not among the tables of this split")
    query = Query.from_json(record["sql"], width=len(tables[table_id].header))
    return SourceQuestion(id, split, table_id, text.strip(), query)


def _records(
    open_member: Callable[[str], IO[bytes]], member: str, problems: list[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The JSON objects of one file with `file:line`; lines that are none are added to `problems`."""
    number = 0
    try:
        with open_member(member) as stream:
            for number, line in enumerate(stream, 1):
                if not line.strip():
                    continue
                where = f"{member}:{number}"
                try:
                    record = json.loads(line)
                    if b"\\u" in line:  # an escape can spell half a surrogate pair, which no UTF-8 file can hold
                        json.dumps(record, ensure_ascii=False).encode()
                except (ValueError, RecursionError) as e:
                    problems.append(f"{where}: not JSON ({e}); is the line cut short? {line[:60]!r}")
                    continue
                if isinstance(record, dict):
                    yield where, record
                else:
                    problems.append(f"{where}: a JSON object is wanted; got {line[:60]!r}")
    except (tarfile.TarError, EOFError, OSError, ValueError) as e:
        raise DataError(f"{member} cannot be read past line {number}: {e}; the archive is damaged, get it again") from e


_EXTENDING = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)


def _bounded_headers(path: Path) -> type[tarfile.TarInfo]:
    """A TarInfo for one archive, which refuses, unread, extending headers of more than HEADER_BYTES in all."""
    total = 0

    class Bounded(tarfile.TarInfo):
        @classmethod
        def frombuf(cls, buf: bytes, encoding: str, errors: str) -> tarfile.TarInfo:
            nonlocal total
            info = super().frombuf(buf, encoding, errors)
            if info.type in _EXTENDING:
                total += max(info.size, tarfile.BLOCKSIZE)
                if total > HEADER_BYTES:
                    raise DataError(
                        f"{path}: its PAX headers and long names take more than {HEADER_BYTES:,} bytes; WikiSQL's take "
                        "next to nothing, so this is another archive. Unpack it yourself if you trust it"
                    )
            return info

    return Bounded


@contextmanager
def _opener(path: Path) -> Iterator[Callable[[str], IO[bytes]]]:
    """A function that opens `data/...` members, of a folder or of a tar file read in one pass."""
    wanted = [f"data/{name}{kind}.jsonl" for name in SPLITS for kind in (".tables", "")]
    if path.is_dir():
        root = path if (path / "data").is_dir() else path.parent if path.name == "data" else path
        missing = [m for m in wanted if not (root / m).is_file()]
        if missing:
            raise DataError(f"{path}: {', '.join(missing)} not there; a WikiSQL folder holds {', '.join(wanted)}")
        yield lambda member: (root / member).open("rb")
        return
    if not path.is_file():
        raise DataError(f"{path}: no such file or folder; it must be WikiSQL's data.tar.bz2 or its unpacked folder")
    # A compressed tar can only be read forwards, so the six members are taken to memory (about 45 MB) in one pass.
    members: dict[str, bytes] = {}
    unpacked = 0
    try:
        with tarfile.open(path, "r|*", tarinfo=_bounded_headers(path)) as archive:
            for info in archive:
                unpacked += info.size  # passing over a member unpacks it too
                if unpacked > UNPACKED_BYTES:
                    raise DataError(
                        f"{path}: unpacks to more than {UNPACKED_BYTES:,} bytes, {info.name!r} alone to {info.size:,}; "
                        "WikiSQL is far smaller, so this is another archive. Unpack it yourself if you trust it"
                    )
                name = info.name.removeprefix("./")
                if name in wanted and info.isfile():
                    if name in members:
                        raise DataError(f"{path}: {name} is in the archive twice; remove one")
                    stream = archive.extractfile(info)
                    assert stream is not None  # isfile() above
                    members[name] = stream.read()
    except (tarfile.TarError, EOFError, OSError, ValueError) as e:
        raise DataError(f"{path}: not a whole tar archive ({e}); get it again") from e
    missing = [m for m in wanted if m not in members]
    if missing:
        raise DataError(f"{path}: {', '.join(missing)} not in the archive, or it is cut short; get it again")
    yield lambda member: io.BytesIO(members[member])
