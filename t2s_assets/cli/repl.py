"""The interactive session: one model, one source of tables, one question after another."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from t2s_assets.cli import show
from t2s_assets.text2sql.errors import T2SError
from t2s_assets.text2sql.inference import Answer, Text2SQL
from t2s_assets.text2sql.sources import Source, UserDatabase, UserTable

HELP = """\
Type a question about the current table. Besides:
  \\tables       the tables there are
  \\table NAME   ask about this one
  \\schema       the current table's columns
  \\run          execute the last SQL and show its rows
  \\help         this
  \\quit         leave (also Ctrl-D); Ctrl-C stops an answer, not the session"""


class Session:
    """What a line of input does. Errors are shown and end nothing."""

    def __init__(
        self, model: Text2SQL, source: Source, table: UserTable | UserDatabase | None, *, run: bool = False
    ) -> None:
        self.model, self.source, self.table, self.always_run = model, source, table, run
        self.last: tuple[Answer, UserTable | UserDatabase] | None = None

    def prompt(self) -> str:
        """What stands before the cursor."""
        return f"{show.visible(self.table.name) if self.table else 'no table'}> "

    def read(self, lines: Iterator[str]) -> None:
        """Handle lines until they end or one says to quit."""
        if self.table is None:
            show.say("several tables; choose one with \\table NAME:")
            show.print_tables(self.source, None)
        for line in lines:
            try:
                if not self.handle(line.strip()):
                    return
            except KeyboardInterrupt:
                show.say("stopped")
            except T2SError as e:
                show.say(f"error: {e}")

    def handle(self, line: str) -> bool:
        """Do what one line says; False ends the session. Raises T2SError."""
        if not line:
            return True
        if not line.startswith("\\"):
            self._ask(line)
            return True
        command, _, argument = line[1:].partition(" ")
        argument = argument.strip()
        match command:
            case "quit" | "q" | "exit":
                return False
            case "tables":
                show.print_tables(self.source, self.table)
            case "table" if argument:
                self.table = self.source.table(argument)
                show.say(f"asking about {self.table.name!r}, {len(self.table.columns)} columns")
            case "table":
                show.say(f"error: \\table needs a name; there are: {', '.join(self.source.names)}")
            case "schema":
                show.print_sql(self._current().create_table())
            case "run":
                self._run()
            case "help":
                print(HELP)
            case _:
                show.say(f"error: no command \\{show.visible(command)}; \\help lists them")
        return True

    def _current(self) -> UserTable | UserDatabase:
        if self.table is None:
            raise T2SError(f"choose a table first with \\table NAME; there are: {', '.join(self.source.names)}")
        return self.table

    def _ask(self, question: str) -> None:
        table = self._current()
        answer = self.model.ask(question, table, run=self.always_run and table.has_rows)
        self.last = (answer, table)
        show.print_answer(answer)

    def _run(self) -> None:
        if self.last is None:
            raise T2SError("nothing to run yet; ask a question first")
        answer, table = self.last
        if not answer.valid:
            raise T2SError(f"the last SQL is not valid: {answer.problem}")
        done = self.model.run([answer], [table])[0]
        if isinstance(done, T2SError):
            raise done
        assert done.outcome is not None
        show.print_outcome(done.outcome, done.rows_copied)


def lines(prompt: Callable[[], str], history: Path) -> Iterator[str]:
    """Lines from the terminal with editing and a history kept in a file, or from standard input without one."""
    if not sys.stdin.isatty():
        for line in sys.stdin:
            print(f"{prompt()}{line.rstrip()}")
            yield line
        return
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import FileHistory

    history.parent.mkdir(parents=True, exist_ok=True)
    terminal: PromptSession[str] = PromptSession(history=FileHistory(str(history)))
    show.say("\\help lists the commands; Ctrl-D leaves")
    while True:
        try:
            yield terminal.prompt(prompt())
        except KeyboardInterrupt:
            continue
        except EOFError:
            return
