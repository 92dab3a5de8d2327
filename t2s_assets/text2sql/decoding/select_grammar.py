"""A grammar of DuckDB's SELECT over the tables of one question, for datasets whose SQL is more than the sketch.

It covers joins, aliases, grouping, ordering, sub-queries, CTEs, set operations, CASE, windows and the functions
below, spelled as sqlglot writes DuckDB SQL: one space, keywords in capitals (`dialects.reading.read_sql` brings other
spellings there). Types are followed roughly, so that SUM takes numbers and LIKE takes text, and aggregates stand only
where they may.

A table's name comes from the schema, or is a name after a WITH. A bare column's name comes from the schema; names
that the query itself gives (`AS total`) are allowed where one may be in scope: in GROUP BY, HAVING, QUALIFY and
ORDER BY of a SELECT that has such an alias, and everywhere in a SELECT that reads a derived table or a CTE. A
context-free grammar cannot know which names those are, nor which table an alias stands for: scopes/ does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence

from t2s_assets.text2sql.errors import PromptError
from t2s_assets.text2sql.query import RESERVED_NAMES, identifier, table_identifier
from t2s_assets.text2sql.schema import Column, TableSchema

# What a column of a DuckDB type may be used as: a number, text, a date or a truth value.
_KINDS = {"DATE": "d", "TIMESTAMP": "d", "TIME": "d", "BOOLEAN": "b"}

# What DuckDB reads as a date, a time and a width and scale.
_YEAR = "[0-9]{4}"
_LEAP = "[0-9]{2}(0[48]|[2468][048]|[13579][26])"
_LONG_MONTHS = "(0?[13578]|1[02])-(0?[1-9]|[12][0-9]|3[01])"
_SHORT_MONTHS = "(0?[469]|11)-(0?[1-9]|[12][0-9]|30)|0?2-(0?[1-9]|1[0-9]|2[0-8])"
_DATE = f"({_YEAR}-({_LONG_MONTHS}|{_SHORT_MONTHS})|{_LEAP}-0?2-29)"
CLOCK = r"([01]?[0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9](\.[0-9]{1,6})?)?"
"""What strings spell that compare with times."""

DAYS = f"{_DATE}([ T]{CLOCK})?"
"""What strings spell that compare with dates and timestamps."""

_DECIMALS = "|".join(["(1[0-9]|2[0-9]|3[0-8]), ?[0-9]", *(f"{width}, ?[0-{width}]" for width in range(1, 10))])

# Part of a regular expression that RE2 takes: characters, classes and escapes, perhaps repeated.
_TIMES = r"([*+?]\??|\{[1-9]\})?"
_ESCAPED = r"\\[dDwWsS.()\[\]{}*+?|^$\\-]"
_IN_CLASS = rf"[^\x00-\x1f\x7f'\\\[\]\^-]|''|a-z|A-Z|0-9|{_ESCAPED}"
_ONE = rf"([^\x00-\x1f\x7f'\\()\[\]*+?{{}}|^$]|''|{_ESCAPED}|\[\^?({_IN_CLASS})+-?\])"
_PATTERN = rf"{_ONE}{_TIMES}|[\^$|]|\\b"

LONGEST_BARE, LONGEST_QUOTED = 63, 80
"""How many characters a name may have that a query gives."""

PARTS = "YEAR|QUARTER|MONTH|WEEK|DAY|HOUR|MINUTE|SECOND|DECADE|DOW|ISODOW|DOY|EPOCH"

# Rules of one family of expressions. `@` is the family, `#` the family inside its aggregates, `^` that inside its
# windows, `%` the level of names (s: only the schema's, r: those of the query too).
_EXPRESSIONS = r"""
any@: num@ | text@ | date@ | cond@ | "NULL" ANYAGG@
num@: nterm@ (NUM_OP nterm@)* | datom@ " - " datom@
nterm@: "-"? natom@
natom@: NUMBER | "(" num@ ")" | CASTS any@ " AS " NUM_TYPE ")" | "(" sub% ")" | nfun@ NCOL@ NAGG@
nfun@: NUM_FUNCTION num@ ")" | "ROUND(" num@ (", " INTEGER)? ")" | ("POWER(" | "MOD(" | "POW(") num@ ", " num@ ")"
  | LENGTH_FUNCTION text@ ")" | ("STRPOS(" | "INSTR(") text@ ", " text@ ")" | DATE_FUNCTION date@ ")"
  | "EXTRACT(" (PART | DAY_OF) " FROM " date@ ")" | "DATE_PART('" PART "', " date@ ")"
  | ("DATE_DIFF('" | "DATEDIFF('") PART "', " date@ ", " date@ ")"
  | CHOICES num@ (", " num@)+ ")" | "NULLIF(" num@ ", " num@ ")" | "IF(" cond@ ", " num@ ", " num@ ")"
  | ncase@
text@: tatom@ (" || " (tatom@ | natom@ | datom@))*
tatom@: STRING | "(" text@ ")" | CASTS any@ " AS " TEXT_TYPE ")" | "(" sub% ")" | tfun@ TCOL@ TAGG@
tfun@: TEXT_FUNCTION text@ ")" | ("SUBSTRING(" | "SUBSTR(") text@ ", " num@ (", " num@)? ")"
  | ("LEFT(" | "RIGHT(") text@ ", " num@ ")" | "REPLACE(" text@ ", " text@ ", " text@ ")"
  | "CONCAT(" any@ (", " any@)* ")" | "CONCAT_WS(" STRING (", " any@)+ ")"
  | "SPLIT_PART(" text@ ", " text@ ", " num@ ")"
  | "REGEXP_EXTRACT(" text@ ", " PATTERN (", 0")? ")" | "REGEXP_EXTRACT(" text@ ", " GROUPED ", 1)"
  | "REGEXP_REPLACE(" text@ ", " PATTERN ", " PLAIN_STRING FLAGS? ")"
  | "REGEXP_REPLACE(" text@ ", " GROUPED ", " STRING_1 FLAGS? ")"
  | "STRFTIME(" date@ ", " FORMAT ")" | ("MONTHNAME(" | "DAYNAME(") date@ ")"
  | CHOICES text@ (", " text@)+ ")" | "NULLIF(" text@ ", " text@ ")" | "IF(" cond@ ", " text@ ", " text@ ")"
  | tcase@
date@: datom@ ((" + " | " - ") INTERVAL)*
datom@: NOW | "(" date@ ")" | CASTS any@ " AS " DATE_TYPE ")" | "(" sub% ")" | dfun@ DCOL@ DAGG@
dfun@: "DATE_TRUNC('" PART "', " date@ ")" | "STRPTIME(" text@ ", " READ_FORMAT ")" | "LAST_DAY(" date@ ")"
  | "MAKE_DATE(" num@ ", " num@ ", " num@ ")" | CHOICES date@ (", " date@)+ ")" | dcase@
cond@: conj@ (" OR " conj@)*
conj@: test@ (" AND " test@)*
test@: "NOT "? batom@
batom@: TRUTH | "(" cond@ ")" | ("EXISTS(" | "EXISTS (") sub% ")" | CASTS any@ " AS " "BOOLEAN" ")"
  | num@ COMPARE num@ | text@ COMPARE text@ | date@ COMPARE day@ | CHOICES cond@ (", " cond@)+ ")" | bcase@
  | num@ BETWEEN num@ " AND " num@ | text@ BETWEEN text@ " AND " text@
  | date@ BETWEEN day@ " AND " day@
  | num@ IN (num@ (", " num@)* | sub%) ")" | text@ IN (text@ (", " text@)* | sub%) ")"
  | date@ IN (day@ (", " day@)* | sub%) ")"
  | (natom@ | tatom@ | datom@) IS_NULL | text@ LIKE (text@ | ESCAPED ESCAPE) | text@ " SIMILAR TO " PATTERN
  | TEXT_TEST text@ ", " text@ ")" | PATTERN_TEST text@ ", " PATTERN ")" BCOL@ BAGG@
  | (num@ | text@ | date@) ORDERED ("ANY (" | "ANY(" | "ALL (") sub% ")"
day@: date@ | DAY_STRING
order@: " ORDER BY " key@ (", " key@)*
key@: any@ DIRECTION? NULLS?
over@: " OVER (" ("PARTITION BY " any^ (", " any^)* (order^)? | "ORDER BY " key^ (", " key^)*)? FRAME? ")"
"""

# A CASE whose results are of the kind `K`, which the rule `kinds` gives.
_CASE = r"""
Kcase@: CASE cond@ " THEN " Kthen@ (" WHEN " cond@ " THEN " Kthen@)* Kelse@
  | "CASE " any@ (" WHEN " any@ " THEN " Kthen@)+ Kelse@
Kelse@: (" ELSE " Kthen@)? " END"
Kthen@: kinds@ | "NULL"
"""
_KIND_RULES = {"n": "num", "t": "text", "d": "date", "b": "cond"}

# What aggregates of a level give; their arguments are plain expressions of a row.
_AGGREGATES = r"""
nagg%: ("COUNT(*)" | COUNT DISTINCT? any# ")" | NUM_AGGREGATE DISTINCT? num# ")" | SAME_AGGREGATE num# ")"
  | "SUM(" DISTINCT? cond# ")" | TWO_AGGREGATE num# ", " any# ")"
  | QUANTILE num# ", " FRACTION ")" | "CORR(" num# ", " num# ")" | "COUNT_IF(" cond# ")") filter%?
tagg%: (SAME_AGGREGATE text# ")" | TWO_AGGREGATE text# ", " any# ")"
  | LISTING (DISTINCT any# (", " STRING)? | any# (", " STRING)? order#?) ")") filter%?
dagg%: (SAME_AGGREGATE date# ")" | TWO_AGGREGATE date# ", " any# ")") filter%?
bagg%: ("BOOL_AND(" | "BOOL_OR(" | SAME_AGGREGATE) cond# ")" filter%?
anyagg%: "ARRAY_AGG(" (DISTINCT any# | any# order#?) ")" filter%?
filter%: (" FILTER(WHERE " | " FILTER (WHERE ") cond# ")"
"""

_WINDOWS = r"""
nwin@: RANKING over@ | ("COUNT(*)" | COUNT DISTINCT? any^ ")" | NUM_AGGREGATE num^ ")" | "SUM(" cond^ ")"
  | SAME_AGGREGATE num^ ")") over@
  | (NEIGHBOUR num^ (", " INTEGER (", " NUMBER)?)? | END_VALUE num^) ")" over@
twin@: (SAME_AGGREGATE text^ | NEIGHBOUR text^ (", " INTEGER)? | END_VALUE text^) ")" over@
dwin@: (SAME_AGGREGATE date^ | NEIGHBOUR date^ (", " INTEGER)? | END_VALUE date^) ")" over@
"""

# One level of queries. `$` is the level that GROUP BY, HAVING and ORDER BY have where the SELECT gives names.
_QUERIES = r"""
query%: select% LIMIT? | setop%
sub%: select% LIMIT? | bare% (SET_OPERATION bare%)+ setorder? LIMIT?
setop%: core% (SET_OPERATION core%)+ setorder? LIMIT?
core%: bare% | "(" query% ")"
"""
_SELECTS = r"""
 "SELECT " DISTINCT? ITEMS_win FROM where? (" QUALIFY " cond_win$)? ORDER_win$?
 "SELECT " ITEMS_pure FROM where? (" HAVING " cond_pure$)? ORDER_pure$?
 "SELECT " DISTINCT? ITEMS_agg FROM where? groups$ (" HAVING " cond_have$)? (" QUALIFY " cond_agg$)? ORDER_agg$?
"""

_TERMINALS = rf"""
NUM_OP: " + " | " - " | " * " | " / " | " // " | " % "
NUMBER: /[0-9]{{1,18}}(\.[0-9]{{1,12}})?([eE][+-]?[0-9]{{1,2}})?/
INTEGER: /[0-9]{{1,9}}/
STRING: /'([^'\x00-\x1f\x7f]|'')*'/
CASTS: "CAST(" | "TRY_CAST("
NUM_TYPE: "INT" | "INTEGER" | "BIGINT" | "DOUBLE" | "FLOAT" | "REAL" | /DECIMAL(\(({_DECIMALS})\))?/
TEXT_TYPE: "TEXT" | "VARCHAR"
DATE_TYPE: "DATE" | "TIMESTAMP" | "TIME"
NOW: "CURRENT_DATE" | "CURRENT_TIMESTAMP" | "NOW()" | "TODAY()" | /DATE '{_DATE}'/
DAY_STRING: /'({DAYS}|{CLOCK})'/
INTERVAL: /INTERVAL ('[0-9]{{1,6}}'|[0-9]{{1,6}}) (YEAR|QUARTER|MONTH|WEEK|DAY|HOUR|MINUTE|SECOND)S?/
PART: /{PARTS}|{PARTS.lower()}/
DAY_OF: "DAYOFWEEK" | "DAYOFYEAR"
NUM_FUNCTION: /(ABS|CEIL|CEILING|FLOOR|SQRT|EXP|LN|LOG|LOG10|LOG2|SIGN|CBRT|TRUNC|DEGREES|RADIANS|SIN|COS|TAN)\(/
LENGTH_FUNCTION: /(LENGTH|LEN|STRLEN|ASCII)\(/
DATE_FUNCTION: /(YEAR|QUARTER|MONTH|WEEK(OFYEAR)?|DAY(OFMONTH|OFWEEK|OFYEAR)?|HOUR|MINUTE|SECOND|EPOCH|JULIAN)\(/
CHOICES: "COALESCE(" | "GREATEST(" | "LEAST("
TEXT_FUNCTION: /(LOWER|UPPER|TRIM|LTRIM|RTRIM|REVERSE|STRIP_ACCENTS)\(/
TEXT_TEST: /(STARTS_WITH|ENDS_WITH|CONTAINS|PREFIX|SUFFIX)\(/
PATTERN_TEST: "REGEXP_MATCHES(" | "REGEXP_FULL_MATCH("
PATTERN: /'(\(\?i\))?({_PATTERN}|\((\?:)?({_PATTERN})*\){_TIMES})*'/
GROUPED: /'(\(\?i\))?({_PATTERN})*\(({_PATTERN})*\){_TIMES}({_PATTERN})*'/
PLAIN_STRING: /'([^'\\\x00-\x1f\x7f]|'')*'/
STRING_1: /'([^'\\\x00-\x1f\x7f]|''|\\1)*'/
FLAGS: /, '(g|i|gi|ig)'/
FORMAT: /'([^%'\x00-\x1f\x7f]|''|%[aAwdbBmyYHIpMSfjUWcxX%]|%-[dmyHIMSj])*'/
READ_FORMAT: /'([^%'\x00-\x1f\x7f]|''|%[aAdbBmyYHIpMSf%])*'/
FRACTION: /0(\.[0-9]{{1,12}})?|1/
CASE: "CASE WHEN "
TRUTH: "TRUE" | "FALSE"
ORDERED: " = " | " <> " | " != " | " > " | " < " | " >= " | " <= "
COMPARE: ORDERED | " IS DISTINCT FROM " | " IS NOT DISTINCT FROM "
BETWEEN: " BETWEEN " | " NOT BETWEEN "
IN: " IN (" | " NOT IN ("
LIKE: " LIKE " | " NOT LIKE " | " ILIKE " | " NOT ILIKE "
ESCAPED: /'(([^'\x00-\x1f\x7f]|'')*([^'\x00-\x1f\x7f!\\\/#$^|~@]|''))?'/
ESCAPE: / ESCAPE '[!\\\/#$^|~@]'/
IS_NULL: " IS NULL" | " IS NOT NULL"
IS_TRUTH: " IS TRUE" | " IS FALSE"
DIRECTION: " ASC" | " DESC"
NULLS: " NULLS FIRST" | " NULLS LAST"
FRAME: FRAME_START FRAME_END | / ROWS BETWEEN ([0-9]{{1,4}} PRECEDING|CURRENT ROW) AND [0-9]{{1,4}} FOLLOWING/
FRAME_START: / ROWS BETWEEN [0-9]{{1,4}} PRECEDING/ | / (ROWS|RANGE) BETWEEN (UNBOUNDED PRECEDING|CURRENT ROW)/
FRAME_END: / AND (CURRENT ROW|UNBOUNDED FOLLOWING)/
COUNT: "COUNT(" | "APPROX_COUNT_DISTINCT("
NUM_AGGREGATE: /(SUM|AVG|MEDIAN|STDDEV|STDDEV_POP|STDDEV_SAMP|VARIANCE|VAR_POP|VAR_SAMP)\(/
SAME_AGGREGATE: /(MIN|MAX|MODE|ANY_VALUE|FIRST|LAST)\(/
TWO_AGGREGATE: /(ARG_MAX|ARG_MIN|MAX_BY|MIN_BY)\(/
QUANTILE: "QUANTILE_CONT(" | "QUANTILE_DISC("
LISTING: /(STRING_AGG|LISTAGG|GROUP_CONCAT)\(/
RANKING: /(ROW_NUMBER|RANK|DENSE_RANK|PERCENT_RANK|CUME_DIST)\(\)|NTILE\([1-9][0-9]?\)/
NEIGHBOUR: "LAG(" | "LEAD("
END_VALUE: "FIRST_VALUE(" | "LAST_VALUE("
SET_OPERATION: / (UNION|INTERSECT|EXCEPT)( ALL)? /
LIMIT: / LIMIT [0-9]{{1,9}}( OFFSET [0-9]{{1,9}})?| OFFSET [0-9]{{1,9}}/
DISTINCT: "DISTINCT "
JOIN: /( (INNER|LEFT|LEFT OUTER|RIGHT|RIGHT OUTER|FULL|FULL OUTER))? JOIN /
CROSS: " CROSS JOIN " | ", "
"""

_FAMILIES = {
    # family: (what stands for `^`, aggregates, windows, columns)
    "row": (None, False, False, True),
    "win": ("row", False, True, True),
    "agg": ("agg", True, True, True),
    "pure": ("pure", True, False, False),
    "have": (None, True, False, True),
}


def select_grammar(schemas: Sequence[TableSchema], *, lead: str = "") -> str:
    """The grammar of SELECT statements over `schemas`, in llguidance's dialect of Lark.

    `lead` is text that the tokenizer puts before the first word of any text. Raises PromptError where there is no
    table, or a table has no columns.
    """
    if not schemas or any(not schema.columns for schema in schemas):
        raise PromptError("decoding: a grammar of SELECT needs at least one table, and columns in each")
    lines = [f"start: {json.dumps(lead)} statement" if lead else "start: statement"]
    lines.append('statement: querys | "WITH " firstcte (", " cte)* " " queryr')
    lines.append('firstcte: GIVEN cols? " AS (" (querys | queryr) ")"')
    lines.append('cte: GIVEN cols? " AS (" queryr ")"')
    lines.append('cols: "(" GIVEN (", " GIVEN)* ")"')
    lines.append('order_all: " ORDER BY " "ALL" DIRECTION?')
    lines.append('setorder: " ORDER BY " setkey (", " setkey)*')
    lines.append("setkey: (INTEGER | GIVEN | COLUMN) DIRECTION? NULLS?")
    present = {kind for schema in schemas for column in schema.columns for kind in _kinds(column)}
    for level in "sr":
        for family in _FAMILIES:
            lines += _family(family, level, present)
        lines.append(_AGGREGATES.replace("%", level).replace("#", f"_row{level}"))
        lines.append(_QUERIES.replace("%", level))
        lines += _columns(level, schemas, present)
        lines += _sources(level)
    lines.append(_items())
    lines.append(_TERMINALS)
    lines += _names(schemas, present)
    return "\n".join(line for line in "\n".join(lines).splitlines() if line.strip())


def _kinds(column: Column) -> str:
    """Which of the letters n, t, d and b `column` stands for."""
    return "n" if column.type == "real" else _KINDS.get(column.sql_type, "t")


def _family(family: str, level: str, present: set[str]) -> list[str]:
    """The rules of one family of expressions at one level of names."""
    inner, aggregates, windows, columns = _FAMILIES[family]
    name = f"_{family}{level}"
    rules = _EXPRESSIONS
    if inner is None or not windows:
        rules = rules[: rules.index("over@:")]
    elif windows:
        rules += _WINDOWS
    for kind, kinds in _KIND_RULES.items():
        rules += _CASE.replace("K", kind).replace("kinds", kinds)
        column = f" | {kind}col{level}" if columns and (kind in present or level == "r") else ""
        rules = rules.replace(
            f" {kind.upper()}COL@",
            f"{column} (COMPARE TRUTH | IS_NULL | IS_TRUTH)?" if column and kind == "b" else column,
        )
        parts = [f"{kind}agg{level}"] * aggregates + [f"{kind}win{name}"] * (windows and kind != "b")
        rules = rules.replace(f" {kind.upper()}AGG@", "".join(f" | {part}" for part in parts))
    rules = rules.replace(" ANYAGG@", f" | anyagg{level}" if aggregates else "")
    rules = rules.replace("@", name).replace("%", level)
    return [rules.replace("^", f"_{inner}{level}")]


def _columns(level: str, schemas: Sequence[TableSchema], present: set[str]) -> list[str]:
    """How columns are referred to: bare, after their table's name, after an alias."""
    lines = []
    for kind in "ntdb":
        ways = []
        if kind in present:
            qualifier = "GIVEN" if level == "r" else "NAME"
            ways = [f"{kind.upper()}COLUMN", f'{qualifier} "." {kind.upper()}COLUMN']
            for number, schema in enumerate(schemas):
                if any(kind in _kinds(column) for column in schema.columns):
                    ways.append(f'TABLE_{number} "." {kind.upper()}COLUMN_{number}')
        if level == "r":
            ways += ["GIVEN", 'GIVEN "." GIVEN']
        if ways:
            lines.append(f"{kind}col{level}: {' | '.join(ways)}")
    return lines


def _sources(level: str) -> list[str]:
    """FROM, and the SELECTs that go with each kind of it."""
    lines = [
        f'source{level}: (TABLE{" | GIVEN" if level == "r" else ""}) (" AS " GIVEN)?',
        f'derived{level}: "(" query{level} ")" (" AS " GIVEN)?',
        f'where{level}: " WHERE " cond_row{level}',
        f'groups{level}: " GROUP BY " ("ALL" | group{level} (", " group{level})*)',
        f'group{level}: any_row{level} | "ROLLUP (" any_row{level} (", " any_row{level})* ")"'
        f' | "CUBE (" any_row{level} (", " any_row{level}){{0,5}} ")"',
        f'joined{level}: " ON " cond_row{level} | " USING (" (COLUMN{" | GIVEN" if level == "r" else ""}) ")"',
    ]
    if level == "r":
        lines.append("froms: sources (JOIN sources joineds | CROSS sources)*")
        lines.append("fromr: anysource (JOIN anysource joinedr | CROSS anysource)*")
        lines.append("anysource: sourcer | derivedr")
        # A strict query with a derived table may use that table's names, but no table that is not there.
        before = "sources (JOIN sources joinedr | CROSS sources)*"
        first = f"deriveds | {before} (JOIN deriveds joinedr | CROSS deriveds)"
        lines.append(f"fromd: ({first}) (JOIN mixed joinedr | CROSS mixed)*")
        lines.append("mixed: sources | deriveds")
        forms = [
            _selects("s", "s", "plain_", "froms"),
            _selects("s", "r", "named_", "froms"),
            _selects("r", "r", "some_", "fromd"),
            '"SELECT " plain_pures',
        ]
        relaxed = [_selects("r", "r", "some_", "fromr"), '"SELECT " some_purer']
        for rule, ways in (("selects", forms), ("selectr", relaxed)):
            lines.append(f"{rule}: {' | '.join(ways)}")
            # The parts of a set operation have no order of their own.
            unordered = re.sub(r" [(]order_[a-z]+ [|] order_all[)][?]", "", " | ".join(ways))
            lines.append(f"{rule.replace('select', 'bare')}: {unordered}")
    return lines


def _selects(level: str, later: str, items: str, source: str) -> str:
    """SELECTs at one level of names, whose clauses after WHERE have the level `later`."""
    forms = []
    for form in _SELECTS.strip().splitlines():
        form = re.sub(r"ITEMS_(\w+)", rf"{items}\1{level}", form)
        form = re.sub(r" ORDER_(\w+)[$][?]", r" (order_\1$ | order_all)?", form)
        form = form.replace("FROM", f'" FROM " {source}').replace("where?", f"where{level}?").replace("$", later)
        forms.append(form.strip())
    return " | ".join(forms)


def _items() -> str:
    """Select lists: `plain` without aliases, `named` with at least one, `some` with any number."""
    lines = ['star: "*" | NAME ".*" | TABLE ".*"']
    for family in ("win", "agg", "pure"):
        for level in "sr":
            name = f"{family}{level}"
            one = f"(any_{name} | star)" if family == "win" else f"any_{name}"
            lines.append(f'item_{name}: {one} (" AS " GIVEN)?')
            lines.append(f'some_{name}: item_{name} (", " item_{name})*')
            if level == "s":
                lines.append(f'plain_{name}: {one} (", " {one})*')
                named = f'any_{name} " AS " GIVEN'
                lines.append(f'named_{name}: (item_{name} ", ")* {named} (", " item_{name})*')
    return "\n".join(lines)


def _names(schemas: Sequence[TableSchema], present: set[str]) -> list[str]:
    """Terminals that spell the schema's names, and the names that a query may give."""
    lines = []
    for number, schema in enumerate(schemas):
        lines.append(f"TABLE_{number}: {any_of(spellings(schema.name))}")
        for kind in sorted(present):
            names = [c.name for c in schema.columns if kind in _kinds(c)]
            if names:
                lines.append(f"{kind.upper()}COLUMN_{number}: {any_of(s for n in names for s in spellings(n))}")
    lines.append(f"TABLE: {' | '.join(f'TABLE_{number}' for number in range(len(schemas)))}")
    for kind in sorted(present):
        parts = [
            f"{kind.upper()}COLUMN_{number}"
            for number, schema in enumerate(schemas)
            if any(kind in _kinds(c) for c in schema.columns)
        ]
        lines.append(f"{kind.upper()}COLUMN: {' | '.join(parts)}")
    lines.append(f"COLUMN: {' | '.join(f'{kind.upper()}COLUMN' for kind in sorted(present))}")
    bare = rf"[\p{{L}}_][\p{{L}}\p{{N}}_]{{0,{LONGEST_BARE - 1}}}"
    quoted = rf'"[^"\x00-\x1f\x7f]{{1,{LONGEST_QUOTED}}}"'
    lines.append(f"GIVEN: (/{bare}/ & ~{_no_case(RESERVED_NAMES)}) | /{quoted}/")
    words = [s.name for s in schemas if s.name.isascii() and s.name.isidentifier()]
    lines.append(f"NAME: GIVEN & ~{_no_case(words)} & ~({any_of(identifier(s.name) for s in schemas)})")
    return lines


def _no_case(words: Iterable[str]) -> str:
    """Any of the words, in any case; where there are none, the empty text."""
    return f"/(?i:{'|'.join(sorted({word.lower() for word in words}))})/"


def spellings(name: str) -> list[str]:
    """`name` in SQL: quoted, and bare where DuckDB reads that as the same name."""
    low = name.lower()
    bare = re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) and table_identifier(low) == low
    return [name, identifier(name)] if bare else [identifier(name)]


def any_of(texts: Iterable[str]) -> str:
    """A choice of literal texts, in llguidance's dialect of Lark."""
    return " | ".join(json.dumps(text) for text in dict.fromkeys(texts))
