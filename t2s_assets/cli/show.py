"""How answers look: SQL and rows on standard output, figures on standard error."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from t2s_assets.text2sql.answers import Answer
from t2s_assets.text2sql.execution import Outcome
from t2s_assets.text2sql.tables.sources import Source, UserDatabase, UserTable

if TYPE_CHECKING:
    from rich.table import Table

SHOWN_ROWS = 50
_JOINERS = "\u200c\u200d"
"""Zero-width (non-)joiners: parts of words in Persian and Indic scripts, and of emoji. They steer nothing."""


@contextmanager
def waiting(what: str) -> Iterator[Callable[[str], None]]:
    """A spinner on standard error while the block runs, where that is a terminal; the block gets what changes its
    words."""
    if not sys.stderr.isatty():
        yield lambda words: None
        return
    from rich.console import Console

    with Console(stderr=True).status(what) as status:
        yield lambda words: status.update(words)


def say(line: str) -> None:
    """Figures or problems, `visible`, on standard error, after what standard output holds."""
    sys.stdout.flush()
    print(_visible_lines(line), file=sys.stderr, flush=True)


def print_answer(answer: Answer) -> None:
    """The SQL, the result where it was run, and the figures."""
    if answer.valid:
        print_sql(answer.sql)
    elif answer.abstained is not None:
        print(f"-- no answer: {visible(answer.abstained)}")
        if answer.withheld_sql is not None:
            print(f"-- withheld: {visible(answer.withheld_sql)}")
    else:
        print(f"-- not valid: {visible(answer.problem or '')}")
        print(f"-- {visible(answer.sql)}")
    if answer.outcome is not None:
        print_outcome(answer.outcome, answer.rows_copied)
    for note in _notes(answer):
        say(note)
    print_notes(answer)
    latency = answer.latency
    say(
        f"{_sureness(answer)}{answer.tokens} tokens; prefill "
        f"{latency.prefill_ms:.0f} ms, decode {latency.decode_ms:.0f} ms, total {latency.total_ms:.0f} ms"
    )


def _notes(answer: Answer) -> Iterator[str]:
    """What a user of the answer should know."""
    if not answer.valid:
        return
    if answer.text_in_any_case:
        yield "text is compared in any case here; a database that compares to the letter may find other rows"
    if answer.probability is not None and answer.probability < 0.5:
        yield "warning: more likely wrong than right"


def _sureness(answer: Answer) -> str:
    """How likely the answer is right; nothing of an answer that was withheld."""
    if answer.abstained is not None:
        return ""
    sure = f"sequence probability {answer.confidence:.2f} (not calibrated); "
    if answer.probability is not None:
        at_most = "at most " if answer.probability_at_most else ""
        sure = f"right with probability {at_most}{answer.probability:.2f}; "
    return sure + ("cell values were read; " if answer.uses_table_content else "")


def print_sql(sql: str) -> None:
    """SQL: highlighted on a terminal, as it is elsewhere."""
    if not sys.stdout.isatty():
        print(sql)
        return
    from rich.console import Console
    from rich.syntax import Syntax

    Console(soft_wrap=True).print(Syntax(_visible_lines(sql), "sql", background_color="default", word_wrap=True))


def print_outcome(outcome: Outcome, rows_copied: int | None = None) -> None:
    """The rows as a table, or why there are none."""
    if not outcome.ok:
        say(f"did not run ({outcome.status}): {outcome.message}")
        return
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for column in outcome.columns:
        table.add_column(Text(visible(column)), overflow="fold")
    for row in outcome.rows[:SHOWN_ROWS]:
        table.add_row(*(Text(cell_text(cell), style="dim" if cell is None else "") for cell in row))
    print_table(table, width=10_000)
    if rows_copied is not None:
        print(f"-- of the first {_rows(rows_copied)} of the table alone: those behind are neither found nor counted")
    count = _rows(len(outcome.rows))
    if outcome.truncated:
        count = f"the first {count}; there are more"
    if len(outcome.rows) > SHOWN_ROWS:
        count += f", {SHOWN_ROWS} shown"
    say(count)


def print_table(table: Table, *, width: int = 200) -> None:
    """A table as wide as the terminal, or up to `width` characters where there is none."""
    from rich.console import Console

    console = Console()
    (console if console.is_terminal else Console(width=width)).print(table)


def _rows(count: int) -> str:
    return f"{count:,} row{'' if count == 1 else 's'}"


def cell_text(cell: Any) -> str:
    """A cell for people; whole numbers without a point, and lists as DuckDB writes them."""
    if cell is None:
        return "NULL"
    if isinstance(cell, bool):
        return str(cell).lower()
    if isinstance(cell, list):
        return f"[{', '.join(map(cell_text, cell))}]"
    if isinstance(cell, float) and cell.is_integer() and abs(cell) < 1e15:
        return str(int(cell))
    return visible(str(cell))


def visible(text: str) -> str:
    """Text in which control characters show as escapes, so that no cell of a table can steer the terminal."""
    return "".join(
        c
        if c in _JOINERS or unicodedata.category(c) not in ("Cc", "Cf", "Cs")
        else c.encode("unicode_escape", "surrogatepass").decode()
        for c in text
    )


def _visible_lines(text: str) -> str:
    return "\n".join(map(visible, text.split("\n")))


def print_notes(answer: Answer) -> None:
    """What an answer leaves out of the question, and what to know of the cells of its columns."""
    for note in answer.notes:
        say(f"note: {note}")


def print_left_out(about: UserTable | UserDatabase | None) -> None:
    """Which tables of a database cannot be asked about, and why."""
    for why in about.left_out if isinstance(about, UserDatabase) else ():
        say(f"left out: {why}")


def print_tables(source: Source, current: UserTable | UserDatabase | None) -> None:
    """The tables, the current one marked."""
    for name in source.names:
        print(f"{'*' if isinstance(current, UserTable) and name == current.name else ' '} {visible(name)}")
