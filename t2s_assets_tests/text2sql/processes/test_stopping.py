"""Interrupts that stay interrupts; StopSignal is tested where it is used, with launching and with training."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from t2s_assets.text2sql.errors import T2SError
from t2s_assets.text2sql.processes.stopping import (
    LAUNCHER,
    BrokenOff,
    Stopped,
    StopSignal,
    interrupts_kept,
    stoppable,
    when_launcher_is_gone,
)

pytestmark = pytest.mark.usefixtures("heard")


def swallowed() -> None:
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


class Destroyed:
    """Interrupted where it is destroyed, from where nothing can be raised."""

    def __init__(self, number: signal.Signals = signal.SIGINT) -> None:
        self.number = number

    def __del__(self) -> None:
        signal.raise_signal(self.number)


@pytest.fixture
def stop_signal() -> Iterator[StopSignal]:
    handlers, hook = (
        {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)},
        sys.unraisablehook,
    )
    stop = StopSignal()
    stop.install()
    yield stop
    sys.unraisablehook = hook
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_an_interrupt_in_a_destructor_comes_after_it(capsys: pytest.CaptureFixture[str]) -> None:
    hook = sys.unraisablehook
    with pytest.raises(KeyboardInterrupt), interrupts_kept():
        Destroyed()
        time.sleep(30)
        pytest.fail("nothing came")
    with interrupts_kept():
        Destroyed()  # what has ended before is not interrupted
    time.sleep(0.1)
    assert sys.unraisablehook is hook and not capsys.readouterr().err


def test_what_breaks_off_in_a_destructor_breaks_off_after_it(stop_signal: StopSignal) -> None:
    with stop_signal.steps():
        with pytest.raises(BrokenOff), stop_signal.breakable():
            Destroyed()
            time.sleep(30)
            pytest.fail("nothing came")
        assert stop_signal.reason == "SIGINT" and not stop_signal.at_once


def test_what_would_break_off_does_not_stop_what_comes_next(stop_signal: StopSignal) -> None:
    with stop_signal.steps():
        with stop_signal.breakable():
            Destroyed()
        time.sleep(0.1)
        assert stop_signal.reason == "SIGINT" and not stop_signal.at_once


@pytest.mark.parametrize(("number", "raised"), [(signal.SIGTERM, Stopped), (signal.SIGINT, KeyboardInterrupt)])
def test_what_is_stoppable_is_stopped_by_a_signal_in_the_last_destructor(
    number: signal.Signals, raised: type[BaseException]
) -> None:
    """What a command does next would go on, and hear of nothing before a scheduler kills it."""
    with pytest.raises(raised), stoppable("it goes on"):
        Destroyed(number)


def test_an_error_after_an_interrupt_is_the_interrupt() -> None:
    with pytest.raises(KeyboardInterrupt) as told, interrupts_kept():
        swallowed()
        raise T2SError("no tokenizer can be loaded")
    assert "no tokenizer" in str(told.value.__cause__)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_other_errors_and_ends_are_what_they_are() -> None:
    with pytest.raises(T2SError), interrupts_kept():
        raise T2SError("no adapter")
    with pytest.raises(SystemExit), interrupts_kept():
        swallowed()
        raise SystemExit(2)
    with interrupts_kept():
        swallowed()


def test_only_the_innermost_block_knows_of_an_interrupt() -> None:
    with pytest.raises(T2SError), interrupts_kept():
        with pytest.raises(KeyboardInterrupt), interrupts_kept():
            swallowed()
            raise T2SError("the first")
        raise T2SError("the second")


def test_an_ignored_signal_stays_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with pytest.raises(T2SError), interrupts_kept():
        signal.raise_signal(signal.SIGINT)
        raise T2SError("no adapter")


def test_in_another_thread_it_does_nothing() -> None:
    errors: list[Exception] = []

    def work() -> None:
        try:
            with interrupts_kept():
                raise T2SError("no adapter")
        except Exception as e:
            errors.append(e)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert [str(e) for e in errors] == ["no adapter"]


def test_a_launcher_whose_parent_has_not_asked_how_it_ended_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system keeps its process id until then."""
    told, gone = list[int](), threading.Event()
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    monkeypatch.setenv(LAUNCHER, str(child.pid))
    when_launcher_is_gone(lambda pid: (told.append(pid), gone.set()))
    assert not gone.wait(0.5)
    assert child.stdin is not None
    child.stdin.close()
    assert gone.wait(30) and told == [child.pid]
    child.wait()
