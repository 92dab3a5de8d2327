"""Interrupts that stay interrupts; StopSignal is tested where it is used, with launching and with training."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator

import pytest

from t2s_assets.text2sql.errors import T2SError
from t2s_assets.text2sql.stopping import interrupts_kept


@pytest.fixture(autouse=True)
def heard() -> Iterator[None]:
    """SIGINT is heard, which a process that a script started in the background would ignore."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def swallowed() -> None:
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


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
