"""What other dialects than SQLite mean by functions of dates, where sqlglot writes others for DuckDB."""

from __future__ import annotations

import re

import sqlglot
from sqlglot import exp
from sqlglot.dialects.bigquery import BigQuery
from sqlglot.dialects.hive import Hive
from sqlglot.dialects.mysql import MySQL
from sqlglot.dialects.postgres import Postgres
from sqlglot.dialects.presto import Presto
from sqlglot.dialects.spark2 import Spark2
from sqlglot.dialects.tsql import TSQL
from sqlglot.time import format_time

from t2s_assets.text2sql.dialects.sqlite_values import cast_to
from t2s_assets.text2sql.dialects.value_types import DialectError, is_of, write_around

_ISO_DATE = re.compile(r"\s*\d{4}-\d{1,2}-\d{1,2}\s*")


def write_dates(tree: exp.Query, dialect: str) -> None:
    """Distances, weeks and formats. Raises DialectError for those that DuckDB has not."""
    _write_distances(tree, dialect)
    _write_weeks(tree, dialect)
    _write_formats(tree, dialect)
    for node in list(tree.find_all(exp.MonthsBetween)):
        if isinstance(node.parent, (exp.Binary, exp.Neg)):  # sqlglot writes a sum, and does not enclose it
            write_around(node, lambda months: exp.Paren(this=months))


# Distances -------------------------------------------------------------------------------------------------


def _write_distances(tree: exp.Query, dialect: str) -> None:
    for node in list(tree.find_all(exp.DateDiff, exp.TimestampDiff)):
        if _counts_whole_units(node, dialect):
            unit = exp.Literal.string(node.text("unit").upper())
            ends = [_point_in_time(end) for end in (node.expression, node.this)]
            node.replace(exp.Anonymous(this="DATE_SUB", expressions=[unit, *ends]))
        elif is_of(dialect, TSQL) and node.text("unit").upper() == "WEEK":
            node.set("unit", exp.WeekStart(this=exp.var("SUNDAY")))
            node.set("date_part_boundary", True)  # as sqlglot reads BigQuery, and writes the week's first day


def _counts_whole_units(node: exp.Expression, dialect: str) -> bool:
    """Whether a year is over when its last day is, as in DATE_SUB of DuckDB; with DATE_DIFF, on the next 1 January."""
    if isinstance(node, exp.TimestampDiff):
        return is_of(dialect, MySQL, BigQuery, Spark2)
    if is_of(dialect, Presto):
        return node.args.get("unit") is not None
    # DATEDIFF(a, b) counts days, and sqlglot gives it their unit.
    return is_of(dialect, Spark2) and node.text("unit").upper() not in ("", "DAY")


def _point_in_time(node: exp.Expression) -> exp.Expression:
    if not (isinstance(node, exp.Literal) and node.is_string):
        return node
    return cast_to(node, "DATE" if _ISO_DATE.fullmatch(node.name) else "TIMESTAMP")


# Weeks -----------------------------------------------------------------------------------------------------


def _write_weeks(tree: exp.Query, dialect: str) -> None:
    for node in list(tree.find_all(exp.Week, exp.Extract, exp.Anonymous)):
        if isinstance(node, exp.Anonymous):
            if is_of(dialect, MySQL) and node.name.upper() == "YEARWEEK":
                raise DialectError(f"weeks of {dialect} are not those of DuckDB's YEARWEEK: {node.sql(dialect)}")
        elif isinstance(node, exp.Week):
            if is_of(dialect, MySQL):
                _write_week(node, node.this, node.text("mode"), dialect)
        elif isinstance(node.this, exp.WeekStart) or node.name.upper() in ("WEEK", "WK", "WW", "ISOWEEK"):
            _write_extracted_week(node, dialect)


def _write_extracted_week(node: exp.Extract, dialect: str) -> None:
    if is_of(dialect, TSQL):
        raise DialectError(f"weeks of {dialect} begin on 1 January, those of DuckDB do not: {node.sql(dialect)}")
    if is_of(dialect, MySQL):
        _write_week(node, node.expression, "", dialect)
    elif is_of(dialect, BigQuery):
        day = node.this.name.upper() if isinstance(node.this, exp.WeekStart) else ""
        if node.name.upper() == "ISOWEEK":
            node.set("this", exp.var("WEEK"))
        elif day in ("", "SUNDAY", "MONDAY"):
            node.replace(_formatted_number(node.expression, "%W" if day == "MONDAY" else "%U"))
        else:
            raise DialectError(f"DuckDB has no weeks that begin on another day: {node.sql(dialect)}")


def _write_week(node: exp.Expression, day: exp.Expression, mode: str, dialect: str) -> None:
    """WEEK of MySQL, by its mode: https://dev.mysql.com/doc/refman/8.4/en/date-and-time-functions.html#function_week."""
    if mode in ("", "0"):
        node.replace(_formatted_number(day, "%U"))
    elif mode == "5":
        node.replace(_formatted_number(day, "%W"))
    elif mode == "3":
        node.replace(exp.WeekOfYear(this=day))
    else:
        raise DialectError(f"DuckDB has no weeks of that mode: {node.sql(dialect)}")


def _formatted_number(day: exp.Expression, directive: str) -> exp.Cast:
    return cast_to(exp.TimeToStr(this=day, format=exp.Literal.string(directive)), "BIGINT")


# Formats ---------------------------------------------------------------------------------------------------

_TEMPLATES = {
    "YYYY": "%Y",
    "YY": "%y",
    "MM": "%m",
    "DD": "%d",
    "DDD": "%j",
    "HH24": "%H",
    "HH12": "%I",
    "MI": "%M",
    "SS": "%S",
    "AM": "%p",
    "PM": "%p",
}
"""What to_char has for a part of a date in PostgreSQL, Oracle and Snowflake alike, and DuckDB's strftime for it."""

_TEMPLATES_OF_POSTGRES = {
    "IYYY": "%G",
    "IW": "%V",
    "HH": "%I",
    "MS": "%g",
    "US": "%f",
    "FMMM": "%-m",
    "FMDD": "%-d",
    "FMDDD": "%-j",
    "FMHH24": "%-H",
    "FMHH12": "%-I",
    "FMMI": "%-M",
    "FMSS": "%-S",
}

_NAMES = {"Mon": "%b", "Dy": "%a", "FMMonth": "%B", "FMDay": "%A", "TMMonth": "%B", "TMDay": "%A", "TMMon": "%b"}
"""Names of months and days, which are spelt as the template is; without FM long ones are filled up with blanks."""


def _write_formats(tree: exp.Query, dialect: str) -> None:
    if is_of(dialect, Postgres):
        rules = sqlglot.Dialect.get_or_raise(dialect)
        for node in tree.find_all(exp.TimeToStr):
            mapped = node.args["format"]
            if not mapped.is_string:
                raise DialectError(f"to_char with a format that is no text: {node.sql(dialect)}")
            # As it was before sqlglot took the MM of FMMonth for a month's number.
            given = format_time(mapped.name, rules.INVERSE_TIME_MAPPING, rules.INVERSE_TIME_TRIE) or ""
            written = _strftime_format(given, _TEMPLATES | _TEMPLATES_OF_POSTGRES, _NAMES)
            node.set("format", exp.Literal.string(written))
    elif is_of(dialect, TSQL, Hive):
        for node in tree.find_all(exp.TimeToStr):
            left = re.search(r"[A-Za-z]+", _DIRECTIVE.sub("", node.args["format"].name))
            if left is not None:
                raise DialectError(
                    f"{left.group()!r} in a format of dates has no DuckDB counterpart: {node.sql(dialect)}"
                )
    elif dialect in _TO_CHAR:
        for node in list(tree.find_all(exp.ToChar)):
            given = node.args.get("format")
            if given is not None and given.is_string:
                written = _strftime_format(given.name, _TEMPLATES, _TO_CHAR[dialect])
                node.replace(exp.TimeToStr(this=node.this, format=exp.Literal.string(written)))


_DIRECTIVE = re.compile(r"%-?[A-Za-z](strict)?")  # as sqlglot reads the MM of Spark

_TO_CHAR = {"oracle": {"Mon": "%b", "Dy": "%a"}, "snowflake": {"MON": "%b", "Mon": "%b", "DY": "%a", "MMMM": "%B"}}
"""Dialects whose to_char sqlglot does not read, with their names of months and days."""

_WORD = re.compile(r'"([^"]*)"|([^A-Za-z"]+)|([A-Za-z][A-Za-z0-9]*)|"')


def _strftime_format(given: str, templates: dict[str, str], names: dict[str, str]) -> str:
    """A format of to_char as one of strftime. Raises DialectError for what has no counterpart there."""
    longest_first = sorted([*templates, *names], key=len, reverse=True)
    one = re.compile("|".join(longest_first), re.IGNORECASE)

    def word(found: re.Match[str]) -> str:
        quoted, other, letters = found.groups()
        if re.search(r"\d", other or ""):
            raise DialectError(f"to_char of a number, in the format {given!r}, has no DuckDB counterpart")
        if letters is None:
            return (quoted or other or "").replace("%", "%%")
        written, at = [], 0
        while at < len(letters):
            template = one.match(letters, at)
            text = template.group() if template else ""
            directive = names.get(_spelt(text)) or templates.get(text.upper())
            if directive is None:
                raise DialectError(f"to_char with {letters!r} in its format {given!r} has no DuckDB counterpart")
            written.append(directive)
            at += len(text)
        return "".join(written)

    return _WORD.sub(word, given)


def _spelt(template: str) -> str:
    """A name's template with its FM in capitals, whose case does not matter."""
    return template[:2].upper() + template[2:] if template[:2].upper() in ("FM", "TM") else template
