"""Reading what a worker sends. A worker ran untrusted SQL, so nothing it says is believed unchecked."""

from __future__ import annotations

import datetime as dt
import json
import math
import re
from decimal import Decimal, InvalidOperation
from typing import Any

from t2s_assets.text2sql.execution.jobs import Limits, Outcome

# A frame may be larger than the result in it by its column names, types and message.
FRAME_OVERHEAD = 1_000_000
_REPORTED = ("ok", "refused", "error", "memory", "crashed")
_DECIMAL = re.compile(r"DECIMAL\(\d+,\d+\)")
# DuckDB's widest integers have 128 bits, its widest decimals 38 digits.
_MAX_INT = 2**128
_MAX_DIGITS = 38
# Of lists in lists; what compares results and writes them goes down as far.
_MAX_DEPTH = 32


class ProtocolError(Exception):
    """A worker's frame is not what a worker of ours sends."""


def frame(kind: bytes, payload: bytes) -> bytes:
    """A frame for a worker's stdin: see worker.py."""
    return kind + len(payload).to_bytes(4, "big") + payload


def take_frame(buffer: bytearray, limits: Limits) -> dict[str, Any] | None:
    """Remove the first whole frame from `buffer` and parse it; None while it is not whole yet."""
    if len(buffer) < 4:
        return None
    size = int.from_bytes(buffer[:4], "big")
    if size > limits.max_result_bytes + FRAME_OVERHEAD:
        raise ProtocolError(f"announces a frame of {size} bytes")
    if len(buffer) < 4 + size:
        return None
    message = parsed(bytes(buffer[4 : 4 + size]))
    del buffer[: 4 + size]
    return message


def parsed(data: bytes) -> dict[str, Any]:
    """An answer as a JSON object with a status. Raises ProtocolError."""
    try:
        message = _DECODER.decode(data.decode())
        # JSON may hold half a surrogate pair as an escape, which no UTF-8 text of DuckDB's can be.
        halved = b"\\ud" in data.lower() and _has_half_pair(message)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"sent no JSON: {error}") from error
    if halved:
        raise ProtocolError("sent half a surrogate pair")
    if not isinstance(message, dict) or not isinstance(message.get("status"), str):
        raise ProtocolError("sent no JSON object with a status")
    return message


def _has_half_pair(message: Any) -> bool:
    try:
        json.dumps(message, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


def _bounded(digits: str) -> int:
    number = int(digits) if len(digits) <= 40 else _MAX_INT
    if abs(number) >= _MAX_INT:
        raise ValueError("an integer beyond 128 bits")
    return number


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


# Made once: json.loads with any option makes a decoder for each call.
_DECODER = json.JSONDecoder(parse_constant=_no_constant, parse_int=_bounded)


def outcome(message: dict[str, Any], limits: Limits) -> Outcome:
    """The outcome that a worker's answer to a query describes. Raises ProtocolError."""
    try:
        return _outcome(message, limits)
    except RecursionError as error:
        raise ProtocolError("sent what is nested too deep") from error


def said(message: dict[str, Any]) -> str:
    """The message to people in an answer. Raises ProtocolError."""
    return _text(message.get("message"))


def _outcome(message: dict[str, Any], limits: Limits) -> Outcome:
    status, seconds = message["status"], message.get("seconds")
    if status not in _REPORTED or not isinstance(seconds, float):
        raise ProtocolError(f"answered a query with status {status!r} and seconds {seconds!r}")
    if status != "ok":
        return Outcome(status, message=said(message), seconds=seconds)
    columns, types = _texts(message.get("columns")), _texts(message.get("types"))
    rows = message.get("rows")
    if len(columns) != len(types) or not isinstance(rows, list) or len(rows) > limits.max_rows:
        raise ProtocolError("sent columns, types and rows that do not fit together")
    types = tuple("NULL" if name == '"NULL"' else name for name in types)
    readers = [_READERS.get(name, _decimal if _DECIMAL.fullmatch(name) else None) for name in types]
    converts = any(readers)
    decoded = []
    for row in rows:
        if not isinstance(row, list) or len(row) != len(columns):
            raise ProtocolError("sent a row of the wrong width")
        cells = [cell if type(cell) in _SCALARS else _cell(cell) for cell in row]
        if converts:
            cells = [reader(cell) if reader and isinstance(cell, str) else cell for reader, cell in zip(readers, cells)]
        decoded.append(tuple(cells))
    return Outcome("ok", columns, types, tuple(decoded), seconds=seconds, truncated=message.get("truncated") is True)


def answer(outcome: Outcome) -> bytes:
    """The answer, as JSON on one line, from which `outcome` makes this outcome of a query that ran."""
    message = {
        **{name: getattr(outcome, name) for name in ("status", "columns", "types", "seconds", "truncated")},
        "rows": [[_written(cell) for cell in row] for row in outcome.rows],
    }
    return json.dumps(message, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def _written(cell: Any) -> Any:
    if isinstance(cell, float) and not math.isfinite(cell):
        return {"float": repr(cell)}
    if isinstance(cell, list):
        return [_written(item) for item in cell]
    if isinstance(cell, bytes):
        return cell.hex()
    if isinstance(cell, Decimal):
        return str(cell)
    return cell.isoformat() if isinstance(cell, (dt.date, dt.time)) else cell


_SCALARS = frozenset((str, int, float, bool, type(None)))


def _cell(cell: Any, depth: int = 0) -> Any:
    if isinstance(cell, list) and depth < _MAX_DEPTH:
        return [item if type(item) in _SCALARS else _cell(item, depth + 1) for item in cell]
    if isinstance(cell, dict) and list(cell) == ["float"] and cell["float"] in ("nan", "inf", "-inf"):
        return float(cell["float"])
    raise ProtocolError("sent a value of no known kind")


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ProtocolError("sent something else than text")
    return value


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ProtocolError("sent something else than a list of names")
    return tuple(map(_text, value))


def _decimal(text: str) -> Decimal:
    try:
        number = Decimal(text)
    except InvalidOperation as error:
        raise ProtocolError("sent a DECIMAL that is none") from error
    if not number.is_finite() or number.adjusted() >= _MAX_DIGITS or len(text) > _MAX_DIGITS + 3:
        raise ProtocolError("sent a DECIMAL that is none")
    return number


def _blob(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError as error:
        raise ProtocolError("sent a BLOB that is not hexadecimal") from error


def _temporal(kind: Any) -> Any:
    """DuckDB's text as `kind`, or the text itself where Python has no such value (infinity, year 12000)."""

    def read(text: str) -> Any:
        # Before Python 3.11, fromisoformat takes fractions of 3 or 6 digits only.
        whole, dot, fraction = text.partition(".")
        try:
            return kind.fromisoformat(whole + dot + fraction.ljust(6, "0") if dot else text)
        except ValueError:
            return text

    return read


_READERS = {
    "DATE": _temporal(dt.date),
    "TIME": _temporal(dt.time),
    "TIMESTAMP": _temporal(dt.datetime),
    "TIMESTAMP_S": _temporal(dt.datetime),
    "TIMESTAMP_MS": _temporal(dt.datetime),
    "BLOB": _blob,
}
