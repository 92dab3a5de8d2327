"""What people should know before they trust an answer: cells that became NULL, what is compared as text and is none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pyarrow as pa
import pyarrow.compute as pc
from sqlglot import exp

from t2s_assets.text2sql.execution import RefusedSQL, check_sql
from t2s_assets.text2sql.query import identifier
from t2s_assets.text2sql.sql.names import folded
from t2s_assets.text2sql.tables.text_columns import MISSING, NUMBER, count_of, matches
from t2s_assets.text2sql.tables.user_tables import Cells, Content, UserTable, shortened
from t2s_assets.text2sql.tables.written_values import WRITTEN, spells, unlike

_SIGN, _CURRENCY = "[-+\u2212]?", "[$€£¥₹₽₩₺₪฿]?"
_WHOLE = r"(0|[1-9]\d{0,2}([,.'’ \x{A0}\x{202F}]\d{3})+|[1-9]\d*)"
_LIKE = {
    "numbers": rf"\(?{_SIGN}\s*{_CURRENCY}\s*{_SIGN}({_WHOLE}([.,]\d*)?|[.,]\d+)([eE][-+]?\d+)?\s*[%‰]?{_CURRENCY}\)?",
    "dates": "|".join(rf"\d{{1,2}}{sign}\d{{1,2}}{sign}(\d\d|\d{{4}})" for sign in ("/", r"\.", "-")),
}
"""What cells of a text column spell to people, though not to DuckDB."""
_ORDERING = (exp.Min, exp.Max, exp.Sum, exp.Avg, exp.Ordered, exp.GT, exp.GTE, exp.LT, exp.LTE, exp.Between)


def notes(sql: str, tables: Mapping[str, UserTable], *, typed: bool, ran: bool) -> tuple[str, ...]:
    """A line for each column that `sql`, over `tables` by their names in it, uses so that people should know.

    Rows that lie in a database are looked at only where the query `ran` on a copy of them.
    """
    try:
        tree = check_sql(sql, None)
    except RefusedSQL:
        return ()
    found: dict[str, None] = {}
    for table, position, ordered in _uses(tree, tables):
        found |= dict.fromkeys([table.remark] if table.remark else [])
        if (content := table.looked_at(typed=typed, ran=ran)) is not None:
            found |= dict.fromkeys(_of_column(table, content, position, ordered=ordered))
    for table in () if typed else tables.values():
        if (content := table.looked_at(typed=False, ran=ran)) is not None:
            found |= dict.fromkeys(_of_values(tree, table, content))
    return tuple(found)


def _uses(tree: exp.Expression, tables: Mapping[str, UserTable]) -> Iterator[tuple[UserTable, int, bool]]:
    """The columns that a query names, as (table, position, whether it depends on their order or their sum)."""
    sources = {folded(t.alias_or_name): folded(t.name) for t in tree.find_all(exp.Table)}
    every = any(select.is_star for select in tree.find_all(exp.Select))
    named = [(folded(c.name), sources.get(folded(c.table)), bool(c.table), _ordered(c)) for c in _columns(tree)]
    for name, table in tables.items():
        if folded(name) not in sources.values():
            continue
        for position, column in enumerate(table.columns):
            mine = [o for n, s, q, o in named if n == folded(column.name) and (not q or s == folded(name))]
            if mine or every:
                yield table, position, any(mine)


def _columns(tree: exp.Expression) -> Iterator[exp.Column]:
    return (c for c in tree.find_all(exp.Column) if not isinstance(c.this, exp.Star))


def _ordered(column: exp.Column) -> bool:
    """Whether its values are put in order or added up as they are. Beside a number DuckDB reads text as one."""
    around = column.parent
    while isinstance(around, (exp.Paren, exp.Distinct)):
        around = around.parent
    return isinstance(around, _ORDERING) and not any(
        isinstance(node, exp.Literal) and not node.is_string for node in around.iter_expressions()
    )


def _of_column(table: UserTable, content: Content, position: int, *, ordered: bool) -> Iterator[str]:
    name = identifier(table.header[position])
    if cells := content.made_null.get(position):
        kind = "numbers" if table.columns[position].type == "real" else "dates"
        yield _of_nulls(name, kind, cells)
    if remark := content.remarks.get(position):
        yield remark
    if ordered and (original := content.sorts_otherwise.get(position)):
        yield (
            f"column {name} is {shortened(original)} in your data, which sorts it as such; here it is text and "
            "compared letter by letter"
        )
    elif ordered and content.types[position] == "VARCHAR":
        yield from _of_text(name, content.data.column(position))


def _of_values(tree: exp.Expression, table: UserTable, content: Content) -> Iterator[str]:
    """A line for each date, time or truth value that is written otherwise than the cells that it is compared with."""
    written = {folded(c.name): i for i, c in enumerate(table.columns) if c.sql_type in WRITTEN}
    for test in tree.find_all(exp.Predicate) if written else ():
        sides = [test.args.get("this"), test.args.get("expression")]
        for column, value in (sides, sides[::-1]):
            if not (isinstance(column, exp.Column) and isinstance(value, exp.Literal) and value.is_string):
                continue
            if (position := written.get(folded(column.name))) is None:
                continue
            kept = table.columns[position].sql_type
            if content.types[position] != "VARCHAR" or not spells(value.name, kept):
                continue
            if (cell := unlike(value.name, kept, content.data.column(position))) is not None:
                yield (
                    f"column {identifier(table.header[position])} holds {WRITTEN[kept][0]} written as "
                    f"{shortened(repr(cell))}, compared letter by letter here with {shortened(repr(value.name))}; a "
                    "database may find other rows, so ask with a value written as the cells are"
                )


def _of_nulls(name: str, kind: str, cells: Cells) -> str:
    count = "1 other cell counts" if cells.count == 1 else f"{cells.count:,} other cells count"
    first = "" if cells.count == 1 else "the first "
    return f"column {name} holds {kind}; {count} as NULL, {first}{shortened(repr(cells.first))} in row {cells.row:,}"


def _of_text(name: str, column: pa.ChunkedArray) -> Iterator[str]:
    """A line where at least half of a text column's cells spell numbers, or dates."""
    cells = pc.utf8_trim_whitespace(column)
    some = pc.and_not(pc.not_equal(cells, ""), pc.is_in(pc.utf8_lower(cells), value_set=pa.array(MISSING)))
    count = count_of(some)
    for kind, pattern in _LIKE.items():
        like = count_of(pc.and_(some, matches(cells, pattern)))
        if like and 2 * like >= count:
            first = pc.index(pc.and_not(some, matches(cells, NUMBER)), True).as_py()
            odd = "" if first < 0 else f" because of {shortened(repr(column[first].as_py()))} in row {first + 1:,}"
            share = f"{like:,} of {count:,} cells are {kind}"
            yield f"column {name} is text{odd} ({share}), so it is compared letter by letter"
            return
