"""The interactive session: one model, one source of tables, one question after another."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from t2s_assets.cli import show
from t2s_assets.text2sql import feedback
from t2s_assets.text2sql.adapters import Adapter
from t2s_assets.text2sql.answers import Answer
from t2s_assets.text2sql.errors import T2SError
from t2s_assets.text2sql.inference import Text2SQL
from t2s_assets.text2sql.processes.stopping import interrupts_kept
from t2s_assets.text2sql.storage import Project
from t2s_assets.text2sql.tables.sources import Source, UserDatabase, UserTable
from t2s_assets.text2sql.tables.wording import in_words
from t2s_assets.text2sql.trained import find_adapter, trained

if TYPE_CHECKING:
    from prompt_toolkit.history import History

HELP = """\
Type a question about the current table. Besides:
  \\tables       the tables there are
  \\table NAME   ask about this one; \\table * about all, where the model can
  \\schema       the current table's columns
  \\run          execute the last SQL and show its rows
  \\explain      say in words what the last SQL does
  \\right        keep that the last answer is right
  \\correct SQL  keep the SQL that would have been; without SQL, edit the last one
  \\models       the trained models there are
  \\model NAME   let this one answer; the ones before stay loaded
  \\help         this
  \\quit         leave (also Ctrl-D); Ctrl-C stops an answer, not the session"""

Load = Callable[[str], Text2SQL]


class Session:
    """What a line of input does. Errors are shown and end nothing."""

    def __init__(
        self,
        model: Text2SQL,
        source: Source,
        table: UserTable | UserDatabase | None,
        *,
        run: bool = False,
        min_confidence: float = 0.0,
        load: Load = Text2SQL.load,
    ) -> None:
        self.model, self.source, self.table, self.load = model, source, table, load
        self.always_run, self.min_confidence = run, min_confidence
        self.loaded = {_weights(model.adapter): model}
        self.last: tuple[Answer, UserTable | UserDatabase, Text2SQL] | None = None
        self.suggestion = ""
        """What the next line starts with, to be edited."""

    def close(self) -> None:
        """End the processes of all models."""
        for model in self.loaded.values():
            model.close()

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
                with interrupts_kept():
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
                many = argument == "*" and self.model.answers_over_many
                self.table = self.source.asked(None if many else argument, many=many)
                show.print_left_out(self.table)
                show.say(f"asking about {self.table.name!r}, {len(self.table.columns)} columns")
            case "table":
                show.say(f"error: \\table needs a name; there are: {', '.join(self.source.names)}")
            case "schema":
                show.print_sql(self._current().create_table())
            case "run":
                self._run()
            case "explain":
                self._explain()
            case "right":
                answer, table, model = self._last()
                file = feedback.record(model, answer, table, self.source.where)
                show.say(f"kept for {answer.question!r} in {file}")
            case "correct":
                self._correct(argument)
            case "models":
                current = _address(self.model.adapter)
                print("\n".join(f"{'*' if n == current else ' '} {n}" for n in trained(Project.find())))
            case "model" if argument:
                self._switch(argument)
            case "model":
                show.say("error: \\model needs a name; \\models lists them")
            case "help":
                print(HELP)
            case _:
                show.say(f"error: no command \\{show.visible(command)}; \\help lists them")
        return True

    def _current(self) -> UserTable | UserDatabase:
        if self.table is None:
            raise T2SError(f"choose a table first with \\table NAME; there are: {', '.join(self.source.names)}")
        return self.table

    def _last(self) -> tuple[Answer, UserTable | UserDatabase, Text2SQL]:
        if self.last is None:
            raise T2SError("no answer yet; ask a question first")
        return self.last

    def _ask(self, question: str) -> None:
        # Feedback after a question without an answer must not go to the question before.
        self.last = None
        table = self._current()
        run = self.always_run and table.has_rows
        answer = self.model.ask(question, table, run=run, min_confidence=self.min_confidence)
        self.last = (answer, table, self.model)
        show.print_answer(answer)

    def _run(self) -> None:
        answer, table, model = self._last()
        if answer.abstained is not None:
            raise T2SError(f"there is no answer to run: {answer.abstained}")
        if not answer.valid:
            raise T2SError(f"the last SQL is not valid: {answer.problem}")
        done = model.run([answer], [table])[0]
        if isinstance(done, T2SError):
            raise done
        assert done.outcome is not None
        show.print_outcome(done.outcome, done.rows_copied)
        show.print_notes(done)

    def _explain(self) -> None:
        answer, table, model = self._last()
        words = in_words(answer.generated, table, model.adapter.format.gold) if answer.valid else None
        show.say(f"in words: {words}" if words else "this query is more than can be put in words here")

    def _correct(self, sql: str) -> None:
        answer, table, model = self._last()
        if not sql:
            self.suggestion = f"\\correct {feedback.given(model, answer, table)}"
            if not sys.stdin.isatty():
                show.say("error: \\correct needs the SQL that is right")
            return
        written, outcome, rows_copied = feedback.corrected(model, sql, table)
        file = feedback.record(model, answer, table, self.source.where, sql=written)
        show.print_sql(written)
        if outcome is not None:
            show.print_outcome(outcome, rows_copied)
        show.say(f"kept for {answer.question!r} in {file}")

    def _switch(self, name: str) -> None:
        adapter = find_adapter(name, Project.find())
        address, weights = _address(adapter), _weights(adapter)
        if weights not in self.loaded:
            with show.waiting(f"loading {address}"):
                self.loaded[weights] = self.load(name)
        self.model = self.loaded[weights]
        if self.model.answers_over_many and self.table is None:
            self.table = self.source.asked(None, many=True)
            show.print_left_out(self.table)
        elif isinstance(self.table, UserDatabase) and not self.model.answers_over_many:
            self.table = self.source.table() if len(self.source.names) == 1 else None
            if self.table is None:
                show.say("this model answers about one table; choose it with \\table NAME")
        show.say(f"{address} answers")


def _weights(adapter: Adapter) -> tuple[Path, str]:
    """What tells an adapter from others, and from itself as it is once it was trained again."""
    return adapter.folder.resolve(), adapter.version


def _address(adapter: Adapter) -> str:
    """DATASET/EXPERIMENT of an adapter in storage, else its folder: a copy of storage has folders of the same names."""
    folder = adapter.folder.resolve()
    dataset, experiment = folder.parent.parent.name, folder.name
    in_storage = Project.find().path(dataset, "adapter", experiment).resolve() == folder
    return f"{dataset}/{experiment}" if in_storage else str(adapter.folder)


def lines(session: Session, history: Path) -> Iterator[str]:
    """Lines from the terminal with editing and a history kept in a file, or from standard input without one."""
    if not sys.stdin.isatty():
        if isinstance(sys.stdin, io.TextIOWrapper):
            sys.stdin.reconfigure(errors="replace")
        for line in sys.stdin:
            print(f"{session.prompt()}{line.rstrip()}")
            yield line
        return
    from prompt_toolkit import PromptSession

    terminal: PromptSession[str] = PromptSession(history=_kept_in(history))
    show.say("\\help lists the commands; Ctrl-D leaves")
    while True:
        try:
            suggestion, session.suggestion = session.suggestion, ""
            yield terminal.prompt(session.prompt(), default=suggestion)
        except KeyboardInterrupt:
            continue
        except EOFError:
            return


def _kept_in(file: Path) -> History:
    """A history of lines in a file, or of this session alone where that is read-only or somebody else's."""
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.open("ab").close()
    except OSError as e:
        show.say(f"what you type is not kept for the next session: {file}: {e.strerror}")
        return InMemoryHistory()
    return FileHistory(str(file))
