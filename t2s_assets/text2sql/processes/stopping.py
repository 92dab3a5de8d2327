"""A rank and those around it: which one it is, SIGTERM from a scheduler, Ctrl-C, a launcher that is gone."""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from t2s_assets.text2sql.errors import T2SError

LAUNCHER = "T2S_LAUNCHER"
"""In a rank's environment: the processes that wait for the end of all ranks, with commas between their ids."""

_CHECK_SECONDS = 2.0
# Signals so soon after one are that one again: a terminal or a scheduler may tell a rank, and torchrun passes it on.
_ONE_SIGNAL_SECONDS = 1.0
_ANEW_SECONDS = 0.02


def is_main() -> bool:
    """Whether this process is rank 0, the one that speaks and writes."""
    return int(os.environ.get("RANK", 0)) == 0


class Stopped(T2SError):
    """A training or an evaluation was told to stop, and did; what it had is kept."""


class BrokenOff(KeyboardInterrupt):
    """What runs now was told to end, by the first signal, so that there is time for what has to come after it."""


class StopSignal:
    """Whether this process was told to stop: by SIGTERM, SIGINT or the end of a launcher, and what that does when.

    While `steps` run, it becomes the `reason` that training reads after each of them, and a second signal raises
    KeyboardInterrupt. At other times nobody would read it, and there is nothing to keep: KeyboardInterrupt at once.

    Schedulers send SIGTERM. SIGINT comes from Ctrl-C and from a run that is terminated in Dagster, through torchrun.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self.at_once = False
        """Whether KeyboardInterrupt was raised, which some libraries' imports turn into an error of their own."""
        self._steps = self._breakable = False
        self._left: str | None = None
        self._last = -math.inf
        self._lost: type[BaseException] | None = None
        self._anew: threading.Timer | None = None

    def install(self) -> None:
        """Catch both signals, and watch launchers where there are some. Only in a process' main thread."""
        self._catch(signal.SIGTERM, signal.SIGINT)
        when_launcher_is_gone(self._left_alone)

    @contextmanager
    def installed(self, *numbers: signal.Signals) -> Iterator[None]:
        """Catch these signals within the block, SIGTERM among them. Only in a process' main thread."""
        before, hook = {number: signal.getsignal(number) for number in numbers}, sys.unraisablehook
        self._catch(*numbers)
        try:
            yield
        finally:
            if self._anew is not None:
                self._anew.cancel()
            sys.unraisablehook = hook
            for number, handler in before.items():
                signal.signal(number, handler)

    def _catch(self, *numbers: signal.Signals) -> None:
        for number in numbers:
            signal.signal(number, self._told)
        sys.unraisablehook = _lost_interrupts(self._told_in_vain, sys.unraisablehook)

    @contextmanager
    def steps(self) -> Iterator[None]:
        """Within the block, training looks at `reason` again and again."""
        self._steps = True
        try:
            yield
        finally:
            self._steps = False

    @contextmanager
    def breakable(self) -> Iterator[None]:
        """Within the block, among steps but longer than one, the first signal raises BrokenOff.

        Raises:
            BrokenOff: at once, where the signal came before.
        """
        self._breakable = True
        try:
            if self.reason is not None:
                raise BrokenOff
            yield
        finally:
            self._breakable = False

    def raise_lost(self) -> None:
        """Raise what came in a destructor a moment ago, and has not been raised again yet."""
        lost, self._lost = self._lost, None
        if lost is not None:
            raise lost

    def _told_in_vain(self, what: type[BaseException]) -> None:
        self._lost = what
        self._anew = _signal_anew(signal.SIGTERM)  # SIGINT may be ignored

    def _told(self, number: int, frame: FrameType | None) -> None:
        lost, self._lost = self._lost, None
        if lost is not None:
            if self._breakable or lost is not BrokenOff:
                raise lost
            return
        now, before = time.monotonic(), self._last
        if now - before < _ONE_SIGNAL_SECONDS:
            return
        self._last = now
        first, self.reason = self.reason is None, self.reason or self._left or signal.Signals(number).name
        if not (first and self._steps):
            self.at_once = True
            raise KeyboardInterrupt
        if self._breakable:
            raise BrokenOff

    def _left_alone(self, launcher: int) -> None:
        if self.reason is None:  # else it is ending, and no second one that is in a hurry
            self._left = f"the end of the process that launched it ({launcher})"
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)


@contextmanager
def stoppable(goes_on: str) -> Iterator[None]:
    """SIGTERM within the block ends it with an error that says what `goes_on`; Ctrl-C stays an interrupt.

    Libraries' errors in place of either are dealt with as in `interrupts_kept`. Where SIGTERM has a handler, as in a
    step of Dagster, that is left to end the block; other threads hear of no signal.

    Raises:
        Stopped: after SIGTERM.
        KeyboardInterrupt: after SIGINT, with the same words.
    """
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    told = StopSignal()
    # A process in the background of a script ignores Ctrl-C.
    interruptible = callable(signal.getsignal(signal.SIGINT))
    with told.installed(signal.SIGTERM, *([signal.SIGINT] if interruptible else [])):
        try:
            yield
            told.raise_lost()
        except (Exception, KeyboardInterrupt) as e:
            if not told.at_once:
                raise
            if told.reason == signal.SIGINT.name:
                raise KeyboardInterrupt(f"stopped by SIGINT; {goes_on}") from e
            raise Stopped(f"stopped by {told.reason}; {goes_on}") from e


@contextmanager
def interrupts_kept() -> Iterator[None]:
    """Where SIGINT came within the block, an error that ends it becomes KeyboardInterrupt again.

    Some libraries' imports turn an interrupt into an error of their own, and that into one that blames a user's files.
    Of blocks in one another, only the innermost knows of the signal: a session goes on after an answer is interrupted.

    Raises:
        KeyboardInterrupt: in place of that error.
    """
    before = signal.getsignal(signal.SIGINT)
    # Other threads hear of no signal; a process in the background of a script ignores it.
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return
    interrupted = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        interrupted = True
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    unraisable, anew = sys.unraisablehook, list[threading.Timer]()
    sys.unraisablehook = _lost_interrupts(lambda _: anew.append(_signal_anew(signal.SIGINT)), unraisable)
    try:
        yield
    except Exception as e:
        if interrupted:
            raise KeyboardInterrupt from e
        raise
    finally:
        for timer in anew:
            timer.cancel()
        sys.unraisablehook = unraisable
        signal.signal(signal.SIGINT, before)


def _lost_interrupts(
    lost: Callable[[type[BaseException]], None], otherwise: Callable[[sys.UnraisableHookArgs], object]
) -> Callable[[sys.UnraisableHookArgs], None]:
    """A hook for what Python prints and forgets: interrupts that come in a destructor or a weak reference's callback.

    Imports run such callbacks by the thousand, so that now and then Ctrl-C ends there while a model is loaded.
    """

    def hook(what: sys.UnraisableHookArgs) -> None:
        if issubclass(what.exc_type, KeyboardInterrupt):
            lost(what.exc_type)
        else:
            otherwise(what)

    return hook


def _signal_anew(number: signal.Signals) -> threading.Timer:
    """Have a signal sent to the main thread once more, when it has left the code that cannot raise."""
    main = threading.main_thread().ident or 0
    timer = threading.Timer(_ANEW_SECONDS, signal.pthread_kill, (main, number))
    timer.daemon = True
    timer.start()
    return timer


def when_launcher_is_gone(act: Callable[[int], None]) -> None:
    """Call `act` with the process id of the first launcher that has ended, from a thread; never where there is none.

    A killed launcher cannot stop its children, and a retry would find them at the same files.
    """
    launchers = [int(pid) for pid in os.environ.get(LAUNCHER, "").split(",") if pid]
    if not launchers:
        return

    def watch() -> None:
        while not (gone := [pid for pid in launchers if not _alive(pid)]):
            time.sleep(_CHECK_SECONDS)
        act(gone[0])

    threading.Thread(target=watch, daemon=True, name="launcher").start()


def _alive(pid: int) -> bool:
    """Whether a process runs. One that has ended, and whose parent has not asked how, does not."""
    import psutil

    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True
