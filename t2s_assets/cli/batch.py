"""`t2s batch`: a file of questions to a file of answers, in order, resumable, with failures line by line."""

from __future__ import annotations

import csv
import fcntl
import io
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from t2s_assets.text2sql.answers import Answer
from t2s_assets.text2sql.config import DecodingConfig
from t2s_assets.text2sql.errors import DataError, T2SError
from t2s_assets.text2sql.evaluation.guidance import uses_table_content
from t2s_assets.text2sql.inference import Text2SQL
from t2s_assets.text2sql.progress_line import progress_line
from t2s_assets.text2sql.storage import content_hash, file_hash, replacing_file
from t2s_assets.text2sql.tables.sources import Source, UserDatabase, UserTable, from_ddl, from_json
from t2s_assets.text2sql.tables.table_files import is_table_of_folder
from t2s_assets.text2sql.text_encoding import encoding_of_file

# Questions decoded together and written at once: a killed run loses at most these.
CHUNK = 64

_FIELDS = (
    *("line", "id", "question", "table", "sql", "valid", "problem", "sequence_probability"),
    *("probability", "abstained", "withheld_sql", "text_in_any_case", "uses_table_content"),
    *("notes", "result", "error", "model", "settings", "data"),
)
# A result of many rows, or a schema of many tables, is one cell.
csv.field_size_limit(2**31 - 1)

_TIMES = ("prefill_ms", "decode_ms", "total_ms", "forward_passes", "tokens")


@dataclass(frozen=True)
class Line:
    """One question of the input; `problem` says why it is none."""

    number: int
    record: dict[str, Any]
    problem: str | None = None

    @property
    def question(self) -> str:
        """As typed; empty where the line has none."""
        question = self.record.get("question")
        return question if isinstance(question, str) else ""


class Batch:
    """One batch job. `source` and `table` serve lines that bring no schema of their own; an answer less likely to be
    right than `min_confidence` is withheld."""

    def __init__(
        self,
        questions: Path,
        answers: Path,
        source: Source | None,
        table: str | None,
        *,
        run: bool = False,
        min_confidence: float = 0.0,
    ) -> None:
        self.questions, self.answers, self.source, self.table = questions, answers, source, table
        self.run, self.min_confidence = run, min_confidence
        self.total = 0
        self._tables: dict[str, UserTable | UserDatabase] = {}
        # Made once: it is long for a database of many tables, and every answer has its hash.
        self._described: dict[tuple[type, str], str] = {}

    def check(self, *, force: bool) -> None:
        """Count the questions. Raises DataError for what can be known before a model is loaded."""
        for path in (self.questions, self.answers):
            if path.suffix.lower() not in (".jsonl", ".csv"):
                raise DataError(f"{path}: .jsonl or .csv is wanted")
        if not self.questions.is_file():
            raise DataError(f"--in: {self.questions}: no such file")
        if self.answers.exists() and self.answers.samefile(self.questions):
            raise DataError(f"--out: {self.answers} is the file of questions; give another")
        if not self.answers.parent.is_dir():
            raise DataError(f"--out: there is no folder {self.answers.parent}")
        if self.source is not None and self.table is not None:
            self.source.table(self.table)
        self.total = sum(1 for _ in self.lines())
        if not force and not list(self.done()) and self._holds_something_else():
            raise DataError(
                f"--out: {self.answers} is there and holds no answers; give another, or --force to replace it"
            )

    def _holds_something_else(self) -> bool:
        """Whether the output exists and is neither empty nor the beginning of answers."""
        if not self.answers.exists():
            return False
        with self.answers.open("rb") as f:
            head = f.read(8)
        return not (b"line,id," if _is_csv(self.answers) else b'{"line":').startswith(head)

    def lines(self) -> Iterator[Line]:
        """The questions. Raises DataError where the file as a whole is unreadable."""
        try:
            with self.questions.open(encoding=encoding_of_file(self.questions), newline="") as f:
                yield from _csv_lines(f, self.questions) if _is_csv(self.questions) else _json_lines(f)
        except UnicodeDecodeError as e:
            raise DataError(f"{self.questions}: neither UTF-8 nor UTF-16 with its mark ({e}); convert it") from e

    def done(self) -> Iterator[dict[str, Any]]:
        """The answers that are there, in order, less a last one cut short.

        Raises DataError when they are not answers to the first questions of the input.
        """
        if not self.answers.exists():
            return
        lines = self.lines()
        for row in _written(self.answers):
            line = next(lines, None)
            if line is None:
                raise DataError(
                    f"{self.answers} holds more answers than {self.questions} has questions ({self.total:,}); give "
                    "another --out, or --force to answer these alone"
                )
            if str(row.get("line")) != str(line.number) or (row.get("question") or "") != line.question:
                raise DataError(
                    f"{self.answers} holds answers to other questions: line {line.number} of {self.questions} is "
                    f"{line.question!r}, there it is {row.get('question')!r}; give another --out, or --force"
                )
            yield row

    def work(self, model: Text2SQL, *, force: bool) -> None:
        """Answer what is not answered, and say how it went.

        Raises T2SError where another batch is writing these answers.
        """
        with ExitStack() as held:
            self._hold(self.answers, held)
            self._work(model, held, force=force)

    def _hold(self, path: Path, held: ExitStack) -> None:
        """Keep other batches from a file of the answers until `held` ends; the system does where the process dies."""
        opened = os.open(path, os.O_RDONLY | os.O_CREAT, 0o666)
        held.callback(os.close, opened)
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise T2SError(
                f"--out: another t2s batch is writing {self.answers}; wait for it or stop it, or give another file"
            ) from None

    def _work(self, model: Text2SQL, held: ExitStack, *, force: bool) -> None:
        kept = [] if force else list(self.done())
        others = {r.get("model") for r in kept} - {model.adapter.version}
        if others:
            raise DataError(
                f"{self.answers} holds answers of another model ({', '.join(map(str, others))}, not "
                f"{model.adapter.version}); give another --out, or --force to start anew"
            )
        for row, line in zip(kept, self.lines()):
            if row.get("settings") != self._settings(line, model):
                raise DataError(
                    f"{self.answers}: the answer to line {line.number} was made with another table or schema, --run, "
                    "--min-confidence or decoding; give these again, another --out, or --force to start anew"
                )
        kept = self._of_these_rows(kept, model)
        with replacing_file(self.answers) as fresh:
            fresh.write_text(self._header() + "".join(map(self._row, kept)), encoding="utf-8", newline="")
            self._hold(fresh, held)  # before it takes the place of the file that is held
        progress = _Progress(self.total, len(kept))
        counts = Counter(kind for row in kept for kind in _kinds(row))
        waiting = islice(self.lines(), len(kept), None)
        with self.answers.open("a", encoding="utf-8", newline="") as out:
            while chunk := list(islice(waiting, CHUNK)):
                rows = self._answers(model, chunk)
                out.write("".join(map(self._row, rows)))
                out.flush()
                counts.update(kind for row in rows for kind in _kinds(row))
                progress.add(len(rows))
        progress.end()
        before = f" ({len(kept):,} were there already)" if kept else ""
        answered = self.total - counts["failed"] - counts["withheld"]
        partial = f"; {counts['partial']:,} ran on a part of a long table" if counts["partial"] else ""
        print(
            f"{self.total:,} questions{before}: {answered:,} answered, {counts['invalid']:,} of them with SQL that is "
            f"not valid; {counts['withheld']:,} without an answer; {counts['failed']:,} failed{partial}; see "
            f"{self.answers}",
            file=sys.stderr,
        )

    def _of_these_rows(self, kept: list[dict[str, Any]], model: Text2SQL) -> list[dict[str, Any]]:
        """Those of the answers that come before the first one that hangs on other rows than there are now."""
        for at, (row, line) in enumerate(zip(kept, self.lines())):
            if (row.get("data") or None) != self._data(line, model):
                print(
                    f"{self.source.where if self.source else self.questions}: its rows are not those of the answer to "
                    f"line {line.number}; the {len(kept) - at:,} answers from there on are asked again",
                    file=sys.stderr,
                )
                return kept[:at]
        return kept

    def _answers(self, model: Text2SQL, chunk: list[Line]) -> list[dict[str, Any]]:
        found: dict[int, Answer | T2SError] = {}
        asked: dict[int, tuple[str, UserTable | UserDatabase]] = {}
        for line in chunk:
            try:
                asked[line.number] = (line.question, self._table_of(line, many=model.answers_over_many))
            except T2SError as e:
                found[line.number] = e
        answers = model.ask_many(list(asked.values()), run=self.run, min_confidence=self.min_confidence)
        found |= dict(zip(asked, answers))
        return [self._record(line, found[line.number], model) for line in chunk]

    def _settings(self, line: Line, model: Text2SQL) -> str:
        """A hash of what the answer to a line hangs on besides its question and the model."""
        about, name = line.record.get("schema") or None, line.record.get("table") or None
        if about is None and self.source is not None:
            try:
                about = self.source.where, self._description(self._table_of(line, many=model.answers_over_many))
            except T2SError as e:
                about = str(e)
        return content_hash(about, name, self.run, self.min_confidence, _decoding(model).model_dump(mode="json"))

    def _data(self, line: Line, model: Text2SQL) -> str | None:
        """A hash of the files whose rows an answer hangs on; None where it hangs on none, or its line brings them."""
        reads = self.run or model.adapter.format.uses_table_content or uses_table_content(_decoding(model))
        return self._fingerprint if reads and self.source is not None and not line.record.get("schema") else None

    @cached_property
    def _fingerprint(self) -> str | None:
        """A hash of the content of the source's files; None where it is no file."""
        if self.source is None or not os.path.exists(self.source.where):
            return None
        path = Path(self.source.where)
        logs = (path.with_name(path.name + ending) for ending in (".wal", "-wal"))  # what a database has yet to take in
        files = filter(is_table_of_folder, path.iterdir()) if path.is_dir() else [path, *filter(Path.is_file, logs)]
        return content_hash([[file.name, file_hash(file)] for file in sorted(files)])

    def _description(self, table: UserTable | UserDatabase) -> str:
        key = type(table), table.name
        if key not in self._described:
            self._described[key] = table.create_table(typed=False)
        return self._described[key]

    def _table_of(self, line: Line, *, many: bool) -> UserTable | UserDatabase:
        if line.problem is not None:
            raise DataError(line.problem)
        record, where = line.record, f"line {line.number}"
        name = record.get("table") or None
        if name is not None and not isinstance(name, str):
            raise DataError(f"{where}: table: a name is wanted; got {name!r}")
        given = record.get("schema") or None
        if given is not None:
            return _own_source(given, f"{where}: schema").asked(name, many=many)
        if self.source is None:
            raise DataError(f"{where}: it brings no schema, and none of --ddl, --schema, --db was given")
        name = name or self.table
        key = name or ""
        if key not in self._tables:
            self._tables[key] = self.source.asked(name, many=many)
        return self._tables[key]

    def _record(self, line: Line, answer: Answer | T2SError, model: Text2SQL) -> dict[str, Any]:
        row: dict[str, Any] = {"line": line.number}
        if "id" in line.record:
            row["id"] = line.record["id"]
        if isinstance(answer, T2SError):
            row |= {"question": line.question, "error": str(answer)}
        else:
            row |= {k: v for k, v in answer.as_dict().items() if k not in _TIMES} | {"question": line.question}
        data = self._data(line, model)
        made = {"model": model.adapter.version, "settings": self._settings(line, model)}
        return row | made | ({"data": data} if data is not None else {})

    def _header(self) -> str:
        return ",".join(_FIELDS) + "\r\n" if _is_csv(self.answers) else ""

    def _row(self, row: dict[str, Any]) -> str:
        if not _is_csv(self.answers):
            return json.dumps(row, ensure_ascii=False) + "\n"
        out = io.StringIO()
        cells = [row.get(f) for f in _FIELDS]
        csv.writer(out).writerow(
            json.dumps(c, ensure_ascii=False) if isinstance(c, (dict, list, bool)) else c for c in cells
        )
        return out.getvalue()


def _is_csv(path: Path) -> bool:
    return path.suffix.lower() == ".csv"


def _decoding(model: Text2SQL) -> DecodingConfig:
    return model.adapter.experiment.decoding


def _kinds(row: dict[str, Any]) -> Iterator[str]:
    """What the summary counts of an answer, as it was made or as it was read from a file."""
    if row.get("error"):
        yield "failed"
    elif row.get("abstained"):
        yield "withheld"
    elif row.get("valid") in (False, "false"):
        yield "invalid"
    if _is_partial(row.get("result")):
        yield "partial"


def _is_partial(result: Any) -> bool:
    # In a CSV it is JSON, in which cells have their quotes escaped.
    if isinstance(result, str):
        return '"partial": true' in result
    return isinstance(result, dict) and bool(result.get("partial"))


def _json_lines(f: Any) -> Iterator[Line]:
    for number, text in enumerate(f, 1):
        if not text.strip():
            continue
        try:
            record = json.loads(text)
            json.dumps(record, ensure_ascii=False).encode()
        except (ValueError, RecursionError) as e:  # half a surrogate pair, which no file can hold, among them
            yield Line(number, {}, f"line {number}: not JSON ({e})")
            continue
        if not isinstance(record, dict) or not isinstance(record.get("question"), str):
            kept = record if isinstance(record, dict) else {}
            yield Line(number, kept, f'line {number}: {{"question": TEXT, ...}} is wanted')
            continue
        yield Line(number, record)


def _csv_lines(f: Any, path: Path) -> Iterator[Line]:
    reader = csv.DictReader(f)
    if "question" not in (reader.fieldnames or ()):
        raise DataError(f"{path}: a column named question is wanted in the header line; got {reader.fieldnames}")
    try:
        for number, record in enumerate(reader, 1):
            problem = None if record.get("question") else f"line {number}: the question is empty"
            if surplus := record.pop(None, None):
                problem = (
                    f"line {number}: {len(surplus)} more cells than the header has; put a question with commas in it "
                    "in double quotes"
                )
            yield Line(number, record, problem)
    except csv.Error as e:
        raise DataError(f"{path}: not CSV ({e})") from e


def _written(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of an answers file, less a last one cut short; none of a file of something else.

    Raises DataError for what is no answer among answers.
    """
    for number, row in enumerate(_csv_rows(path) if _is_csv(path) else _json_rows(path), 1):
        if row is None:
            if number > 1:
                raise DataError(
                    f"{path}: row {number} is no answer; mend or remove it and what follows, or --force to start anew"
                )
            return
        yield row


def _json_rows(path: Path) -> Iterator[dict[str, Any] | None]:
    with path.open(encoding="utf-8", errors="replace", newline="") as f:
        for text in f:
            if not text.endswith("\n"):
                return
            try:
                row = json.loads(text)
            except (ValueError, RecursionError):
                row = None
            yield row if isinstance(row, dict) else None


def _csv_rows(path: Path) -> Iterator[dict[str, Any] | None]:
    with path.open(encoding="utf-8", errors="replace", newline="") as f:
        content = f.read()
    reader = csv.DictReader(io.StringIO(content[: content.rfind("\n") + 1], newline=""), strict=True)
    try:
        for row in reader:
            whole = None not in row and None not in row.values()
            yield {k: v for k, v in row.items() if v != "" or k == "question"} if whole else None
    except csv.Error as e:
        if "unexpected end" not in str(e):
            yield None


def _own_source(given: Any, where: str) -> Source:
    if isinstance(given, str):
        text = given.strip()
        if not text.startswith(("{", "[")):
            return from_ddl(text, where=where)
        try:
            given = json.loads(text)
        except (ValueError, RecursionError) as e:
            raise DataError(f"{where}: not JSON ({e})") from e
    return from_json(given, where=where)


class _Progress:
    """A count on standard error: in place on a terminal, a line every ten seconds elsewhere."""

    def __init__(self, total: int, done: int) -> None:
        self.total, self.done, self.before = total, done, done
        self.terminal = sys.stderr.isatty()
        self.started = self.shown = time.monotonic()
        if self.terminal and done < total:
            print(f"{done:,} of {total:,}", end="", file=sys.stderr, flush=True)

    def add(self, count: int) -> None:
        """`count` more are done."""
        self.done += count
        now = time.monotonic()
        if not self.terminal and now - self.shown < 10:
            return
        self.shown = now
        line = progress_line(self.done, self.total, now - self.started, self.before)
        if self.terminal:
            print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)
        else:
            print(line, file=sys.stderr, flush=True)

    def end(self) -> None:
        """Leave the line."""
        if self.terminal and self.done > self.before:
            print(file=sys.stderr)
