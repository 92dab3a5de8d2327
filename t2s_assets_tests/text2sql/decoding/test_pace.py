"""Threads of forward passes beside other processes: fewer after a pass that waited, all of them once cores are free."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch

from t2s_assets.text2sql.config import DecodingConfig
from t2s_assets.text2sql.decoding import Decoder, DecodingOptions
from t2s_assets.text2sql.decoding import pace as paces
from t2s_assets.text2sql.decoding.pace import Pace
from t2s_assets.text2sql.decoding.packed import PackedModel, packed
from t2s_assets.text2sql.evaluation.generations import options
from t2s_assets_tests.tiny import random_requests, tiny_model


class Machine:
    """A clock whose passes take `seconds` and get a core for all of them while they have at most `free` threads.

    It counts the threads itself: four real ones, on fewer cores and beside other tests, would stand in each other's
    way for minutes.
    """

    def __init__(self) -> None:
        self.now = self.worked = 0.0
        self.free = 99
        self.threads = 4

    def get_num_threads(self) -> int:
        return self.threads

    def set_num_threads(self, threads: int) -> None:
        self.threads = threads

    def monotonic(self) -> float:
        return self.now

    def thread_time(self) -> float:
        return self.worked

    def work(self, seconds: float = 0.1) -> int:
        """One pass; how many threads it had."""
        self.now += seconds
        self.worked += seconds * (1.0 if self.threads <= self.free else 0.6)
        return self.threads


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine()
    monkeypatch.setattr(paces, "time", machine)
    monkeypatch.setattr(paces, "torch", machine)
    return machine


def passes(pace: Pace, machine: Machine, number: int) -> list[int]:
    found = []
    for _ in range(number):
        with pace:
            found.append(machine.work())
        assert machine.threads == 4
    return found


def test_idle_cores_keep_all_threads(machine: Machine) -> None:
    assert passes(Pace(), machine, 50) == [4] * 50


def test_a_pass_that_waited_halves_the_threads_down_to_one(machine: Machine) -> None:
    machine.free = 0
    assert passes(Pace(), machine, 40) == [4, 2] + [1] * 38


def test_what_gets_a_core_is_kept_and_more_is_tried_ever_more_rarely(machine: Machine) -> None:
    machine.free = 2
    found = passes(Pace(), machine, 1_000)
    tries = [at for at, threads in enumerate(found) if threads == 4]
    assert set(found) == {2, 4}
    gaps = [after - before for before, after in pairwise(tries)]
    assert gaps[0] < 5 and gaps == sorted(gaps) and 160 <= gaps[-1] <= 162


def test_all_threads_are_back_once_cores_are_free(machine: Machine) -> None:
    pace = Pace()
    machine.free = 0
    assert passes(pace, machine, 3)[-1] == 1
    machine.free = 99
    found = passes(pace, machine, 200)
    assert found == sorted(found) and found[-1] == 4
    machine.free = 0
    passes(pace, machine, 3)
    machine.free = 99
    assert passes(pace, machine, 20)[-1] == 4, "what was in vain once is tried soon after a while without waiting"


def test_a_number_of_threads_that_is_set_meanwhile_holds(machine: Machine) -> None:
    pace = Pace()
    machine.free = 1
    assert passes(pace, machine, 3)[-1] == 1
    machine.threads = 2
    with pace:
        assert machine.work() == 2
    assert machine.threads == 2


def test_threads_are_given_back_after_an_error(machine: Machine) -> None:
    pace = Pace()
    machine.free = 0
    passes(pace, machine, 3)
    with pytest.raises(ZeroDivisionError), pace:
        1 / 0  # noqa: B018
    assert machine.threads == 4


@pytest.fixture(scope="module")
def quick(tokenizer: Any) -> PackedModel:
    if not torch.backends.mkldnn.is_available():
        pytest.skip("PyTorch has no oneDNN here")
    return packed(tiny_model(len(tokenizer) + 24))


@pytest.mark.parametrize("waited_for", [True, False])
def test_answers_that_are_waited_for_give_way_and_those_that_are_kept_do_not(
    quick: PackedModel, tokenizer: Any, machine: Machine, monkeypatch: pytest.MonkeyPatch, waited_for: bool
) -> None:
    asked = random_requests(10, tables=2, seed=3)
    want = [c.text for c in Decoder(quick, tokenizer, options(DecodingConfig())).generate(asked)]
    machine.free, logits, threads = 0, PackedModel.logits, []

    def timed(*given: Any) -> torch.Tensor:
        threads.append(machine.work())
        return logits(*given)

    monkeypatch.setattr(PackedModel, "logits", timed)
    decoder = Decoder(quick, tokenizer, options(DecodingConfig(), waited_for=waited_for))
    assert [c.text for c in decoder.generate(asked)] == want
    assert len(threads) > 4
    assert threads == ([4, 2] + [1] * (len(threads) - 2) if waited_for else [4] * len(threads))
    assert machine.threads == 4


def test_batches_side_by_side_have_no_pace(
    quick: PackedModel, tokenizer: Any, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, enter = [], Pace.__enter__

    def counted(pace: Pace) -> None:
        entered.append(pace)
        enter(pace)

    monkeypatch.setattr(Pace, "__enter__", counted)
    settings = DecodingOptions(max_new_tokens=4, fewer_threads_when_busy=True)
    decoder, before = Decoder(quick, tokenizer, settings), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        decoder.generate(random_requests(60, tables=2, seed=3))
        assert not entered
        decoder.generate(random_requests(1, tables=1, seed=3))
        assert entered
    finally:
        torch.set_num_threads(before)


def test_the_real_threads_are_torchs() -> None:
    before, pace = torch.get_num_threads(), Pace()
    pace._most, pace._now, pace._until = before + 1, 1, float("inf")
    torch.set_num_threads(before + 1)
    try:
        with pace:
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)
