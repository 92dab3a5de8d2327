"""The allow-list that a query must pass before it reaches a worker.

Three looks at it, each of which names what may pass and refuses the rest:
1. the text, by a small lexer (lexer.py): no dollar quotes, escape strings, parameters, lambdas, odd
   characters or nested comments, that is, nothing that two SQL lexers may read in two ways;
2. every name before an opening parenthesis, quoted or not: only the functions and keywords of functions.py;
3. sqlglot's whole syntax tree: one SELECT, of known kinds of nodes, over the given tables and its own CTEs.

The text that runs is the text that was checked. Columns are not checked: DuckDB's binder reports unknown ones
as an error that a reader understands.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import sqlglot
from sqlglot import exp
from sqlglot.dialects.duckdb import DuckDB
from sqlglot.errors import SqlglotError

from t2s_assets.text2sql.execution.functions import FUNCTIONS, KEYWORDS, SESSION_NAMES
from t2s_assets.text2sql.execution.lexer import RefusedSQL, checked_tokens, folded
from t2s_assets.text2sql.sql.names import folded as ascii_folded
from t2s_assets.text2sql.sql.parsing import parsed


def check_sql(sql: str, schema: Mapping[str, Sequence[str]] | None) -> exp.Expression:
    """The parsed query, if it may run; raises RefusedSQL, and nothing else, if it may not.

    `schema` maps the names of the given tables to their columns. None leaves the tables unchecked, for
    looking at a query whose tables are not known yet; a query checked that way must not be run.
    """
    tokens = checked_tokens(sql)
    called = _called(tokens)
    try:
        statements = parsed(sql)
        if len(statements) != 1 or not isinstance(statements[0], (exp.Query, exp.Values)):
            raise RefusedSQL("statement", sql.strip())
        tree = statements[0]
        _check_rows(tree, tokens)
        _check_tree(tree, schema)
        _check_calls(tree, called)
    except RecursionError:
        raise RefusedSQL("depth", sql.strip()) from None
    except SqlglotError as error:
        raise RefusedSQL("syntax", _first_line(error)) from None
    except RefusedSQL:
        raise
    except Exception as error:
        # sqlglot meets malformed input with KeyError, AttributeError and others; none of it may run.
        raise RefusedSQL("syntax", f"{type(error).__name__}: {error}") from None
    return tree


def allow_sql(sql: str, schema: Mapping[str, Mapping[str, str]]) -> bool:
    """Raise RefusedSQL where `check_sql` does, without making a tree where none is needed.

    That is six times as fast on a query over one table with plain conditions, whose tokens alone show what it is; every
    query of WikiSQL is one. `schema` maps the names of the given tables to their columns with their DuckDB types.
    Returns whether the query is *flat*: such a one, whose conditions also compare text with strings and DOUBLE with
    numbers, so that none of them can fail.
    """
    tokens = checked_tokens(sql)
    shape = _shape(tokens, {ascii_folded(name) for name in schema})
    if _FLAT.fullmatch(shape) is None:
        check_sql(sql, schema)
        return False
    return _compares_like_with_like(tokens, shape, schema)


def _check_rows(tree: exp.Expression, tokens: list[tuple[str, str]]) -> None:
    """sqlglot takes `VALUES` for rows without a parenthesis too; to DuckDB it is then the name of a table."""
    told = sum(a[1].upper() == "VALUES" and b[1] == "(" for a, b in itertools.pairwise(tokens))
    if sum(1 for _ in tree.find_all(exp.Values)) > told:
        raise RefusedSQL("syntax", "VALUES stands before rows in parentheses")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


# A query that needs no tree --------------------------------------------------------------------------------

# SELECT "a" or SELECT max("a"), FROM a given table, and conditions of a column, a comparison and a literal. Columns are
# quoted; the table may be bare.
_FLAT = re.compile(r"S(?:g\([qt*]\)|[qt])F[tb](?:W[qt]o(?:s|-?n)(?:A[qt]o(?:s|-?n))*)?")
_FLAT_WORDS = {
    **{"select": "S", "from": "F", "where": "W", "and": "A"},
    **dict.fromkeys(("max", "min", "count", "sum", "avg"), "g"),
    **dict.fromkeys(("=", ">", "<", ">=", "<=", "<>", "!="), "o"),
    **dict.fromkeys("()*-", ""),
}


def _shape(tokens: list[tuple[str, str]], tables: set[str]) -> str:
    """A letter for each token, for `_FLAT` to match."""
    shape = ""
    for kind, text in tokens:
        if kind == "quoted":
            # Where no column has it, DuckDB reads the name of a session function as a call, quoted or not.
            name = folded(kind, text)
            shape += "?" if name in SESSION_NAMES else "t" if name in tables else "q"
        elif kind in ("string", "number"):
            shape += kind[0]
        elif (known := _FLAT_WORDS.get(ascii_folded(text))) is not None:
            shape += known or text
        elif kind == "word" and ascii_folded(text) in tables and text.upper() not in DuckDB.Tokenizer.KEYWORDS:
            shape += "b"
        else:
            shape += "?"
    return shape


def _compares_like_with_like(
    tokens: list[tuple[str, str]], shape: str, schema: Mapping[str, Mapping[str, str]]
) -> bool:
    """Whether each condition of a query of `_FLAT`'s shape compares a column with a literal that needs no cast that
    could fail."""
    where = shape.find("W")
    if where < 0:
        return True
    table = folded(*tokens[shape.index("F") + 1])
    columns = next(columns for name, columns in schema.items() if ascii_folded(name) == table)
    types = {ascii_folded(name): sql_type for name, sql_type in columns.items()}
    position = where + 1
    while position < len(shape):
        sql_type = types.get(folded(*tokens[position]), "")
        position += 2 if shape[position + 2] != "-" else 3
        if not (sql_type.startswith("VARCHAR") if shape[position] == "s" else sql_type == "DOUBLE"):
            return False
        position += 2
    return True


# Names before a parenthesis ------------------------------------------------------------------------------


def _called(tokens: list[tuple[str, str]]) -> Counter[str]:
    """Names with a parenthesis after them that are neither functions nor keywords, and how often."""
    names: Counter[str] = Counter()
    for (kind, text), after in itertools.pairwise(tokens):
        if after[1] == "(" and kind in ("word", "quoted"):
            name = folded(kind, text)
            if kind == "quoted" or (name not in FUNCTIONS and name not in KEYWORDS):
                names[name] += 1
    return names


def _check_calls(tree: exp.Expression, called: Counter[str]) -> None:
    """Apart from functions and keywords, only a CTE or alias that lists its columns precedes a parenthesis.

    Each of those accounts for one occurrence of its name, so that an alias called like a function does not
    let the function in.
    """
    if called:
        called = called - Counter(
            ascii_folded(alias.name) for alias in tree.find_all(exp.TableAlias) if alias.args.get("columns")
        )
    for name in sorted(called):
        raise RefusedSQL("function", name)


# The tree ------------------------------------------------------------------------------------------------

_NODES = frozenset(
    getattr(exp, name)
    for name in """
    Add Alias Aliases And Any All Array AtTimeZone Between Boolean Bracket CTE Case Cast Coalesce Collate
    Column Cube CurrentDate CurrentTime CurrentTimestamp DPipe DataType DataTypeParam Distinct Div EQ
    Escape Except Exists Fetch Filter From GT GTE Group GroupingSets Having Identifier If IgnoreNulls
    ILike In IntDiv Intersect Interval IntervalSpan Is Join LT LTE Lateral Like Limit LimitOptions Literal
    Localtime Localtimestamp Mod Mul NEQ Neg Not Null NullSafeEQ NullSafeNEQ Offset Or Order Ordered Paren
    Pow Qualify RespectNulls Rollup Select SimilarTo Slice Star Sub Subquery Table TableAlias TryCast
    Tuple Union Values Var Where Window WindowSpec With WithinGroup
    """.split()
)
_TYPES = frozenset(
    getattr(exp.DataType.Type, name)
    for name in """
    ARRAY BIGINT BOOLEAN CHAR DATE DATETIME DECIMAL DOUBLE FLOAT INT INT128 INTERVAL LIST SMALLINT TEXT TIME
    TIMESTAMP TIMESTAMPNTZ TIMESTAMPTZ TIMESTAMP_MS TIMESTAMP_NS TIMESTAMP_S TINYINT UBIGINT UINT USMALLINT
    UTINYINT UUID VARCHAR
    """.split()
)
# Func nodes that come of syntax without a parenthesis, which the look at names does not see.
_BARE_FUNCTIONS = frozenset(DuckDB.Parser.NO_PAREN_FUNCTIONS.values()) | {exp.NextValueFor}


def _check_tree(tree: exp.Expression, schema: Mapping[str, Sequence[str]] | None) -> None:
    tables = None if schema is None else {ascii_folded(name) for name in schema}
    columns = {ascii_folded(column) for names in (schema or {}).values() for column in names}
    for node in tree.walk():
        kind = type(node)
        if kind not in _NODES:
            if kind in _BARE_FUNCTIONS:
                raise RefusedSQL("session", _fragment(node))
            if not isinstance(node, exp.Func):
                raise RefusedSQL("construct", _fragment(node))
        if kind is exp.Column:
            _check_column(node, columns)
        elif kind is exp.Table:
            _check_table(node, tables)
        elif kind is exp.With and node.args.get("recursive"):
            raise RefusedSQL("recursion", _fragment(node))
        elif kind is exp.DataType and node.this not in _TYPES:
            raise RefusedSQL("construct", _fragment(node))
        elif kind is exp.Anonymous and (not isinstance(node.this, str) or ascii_folded(node.this) not in FUNCTIONS):
            raise RefusedSQL("function", node.name)
        elif kind is exp.Lateral and not isinstance(node.this, exp.Subquery):
            raise RefusedSQL("construct", _fragment(node))


def _check_column(node: exp.Column, columns: set[str]) -> None:
    if node.args.get("db") or node.args.get("catalog"):
        raise RefusedSQL("qualified name", _fragment(node))
    name = ascii_folded(node.name)
    if name in SESSION_NAMES and name not in columns:
        raise RefusedSQL("session", node.name)


def _check_table(node: exp.Table, tables: set[str] | None) -> None:
    if not isinstance(node.this, exp.Identifier):
        raise RefusedSQL("table", _fragment(node))
    if node.args.get("db") or node.args.get("catalog"):
        raise RefusedSQL("qualified name", _fragment(node))
    name = ascii_folded(node.name)
    if tables is not None and name not in tables and name not in visible_ctes(node):
        raise RefusedSQL("table", node.name)


def visible_ctes(node: exp.Expression) -> Iterator[str]:
    """The folded names of the CTEs that `node` can read: those of the queries around it, and in a WITH those
    before its own."""
    child, parent = node, node.parent
    while parent is not None:
        if isinstance(parent, exp.With):
            for cte in parent.expressions:
                if cte is child:
                    break
                yield ascii_folded(cte.alias)
        elif not isinstance(child, exp.With) and isinstance(around := parent.args.get("with_"), exp.With):
            yield from (ascii_folded(cte.alias) for cte in around.expressions)
        child, parent = parent, parent.parent


def _fragment(node: exp.Expression) -> str:
    try:
        return node.sql(dialect=DuckDB, unsupported_level=sqlglot.ErrorLevel.IGNORE)
    except Exception:  # the generator refuses trees that the parser makes; the kind of node is enough then
        return type(node).__name__
