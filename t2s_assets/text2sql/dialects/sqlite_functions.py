"""SQLite's functions and operators that DuckDB has not, or has with another meaning."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from sqlglot import exp

from t2s_assets.text2sql.dialects.sqlite_columns import Holds, always, base_of
from t2s_assets.text2sql.dialects.sqlite_values import cast_to, matches
from t2s_assets.text2sql.dialects.value_types import DialectError
from t2s_assets.text2sql.schema import TableSchema

_REFUSED = {
    "printf": "writes numbers as text, which DuckDB does in another way",
    "format": "writes numbers as text, which DuckDB does in another way",
    "hex": "writes bytes, of which DuckDB has other ones",
    "typeof": "tells SQLite's types, which are not those of DuckDB",
    "random": "is random, so that its result is another one each time",
    "changes": "tells about the session",
    "last_insert_rowid": "tells about the session",
}


def write_functions(tree: exp.Query) -> None:
    """Functions and operators of other names. Raises DialectError for those of which DuckDB has none."""
    for node in list(tree.find_all(exp.Anonymous, exp.Glob, exp.Func)):
        if isinstance(node, exp.Glob):
            node.replace(_like_of_glob(node))
            continue
        if isinstance(node, exp.Round) and isinstance(node.args.get("decimals"), exp.Neg):
            node.set("decimals", None)  # fewer than none are none, where DuckDB rounds to tens
            continue
        name = (node.name if isinstance(node, exp.Anonymous) else node.sql_name()).lower()
        if name in _REFUSED:
            raise DialectError(f"{name}() {_REFUSED[name]}")
        if name == "total" and len(node.expressions) == 1:
            zero = exp.Literal.number("0.0")
            node.replace(exp.Coalesce(this=exp.Sum(this=node.expressions[0]), expressions=[zero]))


def _like_of_glob(node: exp.Glob) -> exp.Expression:
    """GLOB minds the case, as LIKE of DuckDB does."""
    pattern = node.expression
    if not pattern.is_string or "[" in pattern.name:
        raise DialectError(
            f"GLOB of a class of characters, or of no text, has no DuckDB counterpart: {node.sql('sqlite')}"
        )
    kept = re.sub(r"([\\%_])", r"\\\1", pattern.name)
    like = exp.Like(this=node.this, expression=exp.Literal.string(kept.replace("*", "%").replace("?", "_")))
    like.meta[_MINDS_CASE] = True
    return like if kept == pattern.name else exp.Escape(this=like, expression=exp.Literal.string("\\"))


_MINDS_CASE = "t2s_minds_case"


def write_likes(tree: exp.Query) -> None:
    """LIKE of SQLite ignores the case."""
    for like in [node for node in tree.find_all(exp.Like) if type(node) is exp.Like]:
        if not like.meta_get(_MINDS_CASE):
            like.replace(exp.ILike(**like.args))


# Dates -----------------------------------------------------------------------------------------------------

_POINTS = frozenset({"date", "datetime", "time", "julianday", "unixepoch", "strftime"})
_FORMATS = {"date": "%Y-%m-%d", "datetime": "%Y-%m-%d %H:%M:%S", "time": "%H:%M:%S"}
_WRITTEN_ALIKE = re.compile(r"(%[YmdHMSjwW%]|[^%])*")
_POINT = r"[1-9]\d{3}-\d{2}-\d{2}([ T]([01]\d|2[0-3]):\d{2}(:\d{2}(\.\d{1,3})?)?)?"
_READ_BY_SQLITE = r"(?is)\s*([-+]?\d{4}-\d{2}-\d{2}.*|\d{2}:\d{2}.*|now.*|[-+]?[\d.]+(e[-+]?\d+)?\s*)"


def write_points_in_time(tree: exp.Query, schemas: Sequence[TableSchema], holds: Holds) -> None:
    """SQLite's functions of dates: those of the clock are refused, and those that change a date on the way.

    They return text, as which SQLite keeps its dates.
    """
    tables = list(tree.find_all(exp.Table))
    named = {t.name.lower() for t in tables}
    typed = any(c.sql_type in ("DATE", "TIMESTAMP") for s in schemas if s.name.lower() in named for c in s.columns)
    calls = [(node, *_call(node)) for node in tree.find_all(exp.Anonymous, exp.Date, exp.TimeToStr)]
    calls = [call for call in calls if call[1] in _POINTS]
    if any(_is_now(arguments) for _, _, arguments in calls):
        raise DialectError("reads the clock, so that its result is another one on a later day")
    # What a function is given is written first.
    for node, name, _ in reversed(calls):
        arguments = _call(node)[1]
        if len(arguments) != 1:
            raise DialectError(f"sqlglot cannot translate {node.sql('sqlite')}")
        if name == "date" and typed:
            continue
        node.replace(_of_point(node, name, _point(arguments[0], schemas, holds)))


def _of_point(node: exp.Expression, name: str, point: exp.Expression) -> exp.Expression:
    """What a function of dates makes of a point in time."""
    if name == "julianday":  # its days begin at noon, those of DuckDB at midnight
        days = exp.Anonymous(this="JULIAN", expressions=[point])
        return exp.Paren(this=exp.Sub(this=days, expression=exp.Literal.number("0.5")))
    written = _FORMATS.get(name) or (node.args["format"].name if isinstance(node, exp.TimeToStr) else "")
    if name == "unixepoch" or written == "%s":
        seconds = cast_to(exp.Floor(this=exp.Anonymous(this="EPOCH", expressions=[point])), "BIGINT")
        return seconds if name == "unixepoch" else cast_to(seconds, "TEXT")
    if not written or not _WRITTEN_ALIKE.fullmatch(written):
        raise DialectError(f"sqlglot cannot translate {node.sql('sqlite')}")
    return exp.TimeToStr(this=point, format=exp.Literal.string(written))


def _point(text: exp.Expression, schemas: Sequence[TableSchema], holds: Holds) -> exp.Expression:
    """A text as a point in time, which is NULL where SQLite reads none in it."""
    if _is_temporal(text, schemas):
        return cast_to(text, "TIMESTAMP")
    if isinstance(text, exp.TimeToStr) and text.args["format"].name in _FORMATS.values():
        return cast_to(text, "TIMESTAMP")
    if always(text, _is_point, schemas, holds):
        return cast_to(text, "TIMESTAMP")
    if always(text, _is_point_or_none, schemas, holds):
        return exp.TryCast(this=text, to=exp.DataType.build("TIMESTAMP"))
    raise DialectError(
        f"reads dates in {text.sql('sqlite')}, and not all of its texts are dates as 2024-01-31 or 2024-01-31 10:20:30 "
        "to both SQLite and DuckDB, or to neither"
    )


def _is_temporal(node: exp.Expression, schemas: Sequence[TableSchema]) -> bool:
    base = base_of(node, schemas) if isinstance(node, exp.Column) else None
    return base is not None and base[1].sql_type in ("DATE", "TIMESTAMP")


def _is_point(text: str) -> str:
    return f"{_matches_text(_POINT)(text)} AND TRY_CAST({text} AS TIMESTAMP) IS NOT NULL"


def _is_point_or_none(text: str) -> str:
    none = f"NOT {_matches_text(_READ_BY_SQLITE)(text)} AND TRY_CAST({text} AS TIMESTAMP) IS NULL"
    return f"({_is_point(text)}) OR ({none})"


def _matches_text(pattern: str) -> Callable[[str], str]:
    return lambda text: matches(pattern)(f"CAST({text} AS VARCHAR)")


def _call(node: exp.Expression) -> tuple[str, list[exp.Expression]]:
    """The name of a function of dates, and its arguments without a format."""
    if isinstance(node, exp.Anonymous):
        name = node.name.lower()
        return name, node.expressions[1:] if name == "strftime" else node.expressions
    if isinstance(node, exp.TimeToStr):
        point = node.this
        return "strftime", [point.this if isinstance(point, exp.TsOrDsToTimestamp) else point]
    return "date", [part for part in (node.this, node.args.get("zone"), *node.expressions) if part is not None]


def _is_now(arguments: Sequence[exp.Expression]) -> bool:
    if not arguments:
        return True
    first = arguments[0]
    return isinstance(first, exp.CurrentTimestamp) or (first.is_string and first.name.lower() == "now")
