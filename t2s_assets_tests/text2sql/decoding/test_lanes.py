"""Batches decoded side by side: the same answers, shared out evenly, and one end for all."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from t2s_assets.text2sql.decoding import Completion, Decoder, DecodingOptions, Request
from t2s_assets.text2sql.decoding import decoder as decoders
from t2s_assets.text2sql.decoding.lane import Lane
from t2s_assets.text2sql.decoding.packed import PackedModel, packed
from t2s_assets.text2sql.decoding.rows import Row
from t2s_assets.text2sql.decoding.sharing import Batch, share_out
from t2s_assets.text2sql.schema import Column, TableSchema
from t2s_assets_tests.tiny import random_requests, request, tiny_model

SCHEMA = TableSchema("t", (Column("Year", "real"), Column("Club", "text")))


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def quick(tokenizer: Any) -> PackedModel:
    if not torch.backends.mkldnn.is_available():
        pytest.skip("PyTorch has no oneDNN here")
    return packed(tiny_model(len(tokenizer) + 24))


def alone(decoder: Decoder, asked: list[Request]) -> list[Completion]:
    """The answers to requests one at a time, on one thread: two would wait for each other at every small product."""
    torch.set_num_threads(1)  # `two_threads` gives back what there were
    return [decoder.generate([one])[0] for one in asked]


@pytest.fixture
def lanes_used(monkeypatch: pytest.MonkeyPatch) -> list[list[Batch]]:
    """What each lane was given, in all calls."""
    used: list[list[Batch]] = []

    def shared(rows: list[Row], lanes: int) -> list[list[Batch]]:
        shares = share_out(rows, lanes)
        used.extend(shares)
        return shares

    monkeypatch.setattr(decoders, "share_out", shared)
    return used


@pytest.mark.parametrize(
    ("count", "tables"),
    [(140, 1), (140, 50), *(pytest.param(500, tables, marks=pytest.mark.slow) for tables in (1, 150))],
)
def test_side_by_side_the_answers_are_those_of_one_at_a_time(
    quick: PackedModel, tokenizer: Any, count: int, tables: int, lanes_used: list[list[Batch]]
) -> None:
    many = random_requests(count, tables=tables, seed=21)
    decoder = Decoder(quick, tokenizer, DecodingOptions(max_new_tokens=40, draft_tokens=8))
    together = decoder.generate(many)
    assert len(lanes_used) == 2
    together, apart = together[::2], alone(decoder, many[::2])
    assert [(c.token_ids, c.finished, c.n_forced) for c in together] == [
        (c.token_ids, c.finished, c.n_forced) for c in apart
    ]
    assert [c.logprob for c in together] == pytest.approx([c.logprob for c in apart], abs=1e-3)


def test_the_same_requests_give_the_same_answers_to_the_bit(quick: PackedModel, tokenizer: Any) -> None:
    many = random_requests(100, tables=3, seed=5)
    draws = [replace(one, draw=number) for one in many[:20] for number in (1, 2, 3)]

    def run() -> list[tuple[str, float, int]]:
        decoder = Decoder(quick, tokenizer, DecodingOptions(max_new_tokens=40, draft_tokens=8))
        return [(c.text, c.logprob, c.forward_passes) for c in decoder.generate([*many, *draws])]

    first = run()
    assert all(run() == first for _ in range(3))


def test_any_select_side_by_side_is_that_of_one_at_a_time(
    quick: PackedModel, tokenizer: Any, lanes_used: list[list[Batch]]
) -> None:
    """All guides come from one grammar and one set of scopes."""
    schemas = (TableSchema("one", (Column("id", "real", "BIGINT"), Column("a", "text"))), SCHEMA)
    asked = [
        Request(f"one(id, a)\nQuestion: what {n}?\nSQL:\n", f"what {n}?", schemas, "select", draw=n) for n in range(48)
    ]
    decoder = Decoder(quick, tokenizer, DecodingOptions(max_new_tokens=30, draft_tokens=64))
    together = decoder.generate(asked)
    assert len(lanes_used) == 2
    assert [c.token_ids for c in together[::4]] == [c.token_ids for c in alone(decoder, asked[::4])]


@pytest.fixture
def threads_of_lanes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many threads each running of a batch had."""
    each: list[int] = []
    real = Lane.run

    def run(self: Lane, *args: Any) -> None:
        each.append(torch.get_num_threads())
        real(self, *args)

    monkeypatch.setattr(Lane, "run", run)
    return each


@pytest.mark.parametrize("count", [decoders._ROWS_A_LANE * 2 - 1, 1])
def test_few_rows_are_decoded_together_on_all_threads(
    quick: PackedModel, tokenizer: Any, count: int, lanes_used: list[list[Batch]], threads_of_lanes: list[int]
) -> None:
    many = [request(SCHEMA, f"what is {n} ?") for n in range(count)]
    Decoder(quick, tokenizer, DecodingOptions(max_new_tokens=8)).generate(many)
    assert len(lanes_used) == 1 and threads_of_lanes == [2]


@pytest.mark.parametrize(("threads", "each"), [(1, [1, 1]), (2, [1, 1]), (3, [1, 2]), (16, [8, 8])])
def test_two_lanes_share_the_threads(
    quick: PackedModel,
    tokenizer: Any,
    threads: int,
    each: list[int],
    lanes_used: list[list[Batch]],
    threads_of_lanes: list[int],
) -> None:
    torch.set_num_threads(threads)
    many = [request(SCHEMA, f"what is {n} ?") for n in range(200)]
    Decoder(quick, tokenizer, DecodingOptions(max_new_tokens=4)).generate(many)
    assert sorted(threads_of_lanes) == each
    assert torch.get_num_threads() == threads


def test_threads_do_not_decide_who_shares_a_batch(
    quick: PackedModel, tokenizer: Any, lanes_used: list[list[Batch]]
) -> None:
    """Ranks and machines have other numbers of them, and the same answers."""
    many = random_requests(100, tables=9, seed=2)
    for threads in (1, 2, 4):
        torch.set_num_threads(threads)
        Decoder(quick, tokenizer, DecodingOptions(max_new_tokens=4)).generate(many)
    batches = [[row.index for batch in share for row in batch.rows] for share in lanes_used]
    assert batches[:2] == batches[2:4] == batches[4:]


def test_transformers_runs_its_models_in_one_lane(model: Any, tokenizer: Any, lanes_used: list[list[Batch]]) -> None:
    Decoder(model, tokenizer, DecodingOptions(max_new_tokens=4)).generate(random_requests(100, tables=9, seed=2))
    assert len(lanes_used) == 1


def test_an_error_in_one_lane_ends_the_others(quick: PackedModel, tokenizer: Any) -> None:
    many = random_requests(400, tables=30, seed=8)
    decoder = Decoder(quick, tokenizer, DecodingOptions(max_new_tokens=40))
    seen: list[int] = []

    def fail_once(index: int, completion: Completion) -> None:
        seen.append(index)
        if len(seen) == 3:
            raise ValueError("the disk is full")

    with pytest.raises(ValueError, match="the disk is full"):
        decoder.generate(many, on_result=fail_once)
    assert len(seen) == 3
    assert torch.get_num_threads() == 2
    assert len(decoder.generate(many[:60])) == 60


def test_ctrl_c_ends_all_lanes(quick: PackedModel, tokenizer: Any) -> None:
    many = random_requests(400, tables=30, seed=8)
    seen: list[int] = []

    def interrupt(index: int, completion: Completion) -> None:
        seen.append(index)
        if len(seen) == 1:
            os.kill(os.getpid(), signal.SIGINT)

    # Started in the background of a script, Python finds SIGINT ignored and leaves it so.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            Decoder(quick, tokenizer, DecodingOptions(max_new_tokens=40)).generate(many, on_result=interrupt)
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(seen) < 200
    assert torch.get_num_threads() == 2


def test_lanes_keep_no_more_of_schemas_than_one(quick: PackedModel, tokenizer: Any) -> None:
    limit = 400_000
    decoder = Decoder(quick, tokenizer, DecodingOptions(max_new_tokens=4, prefix_cache_bytes=limit))

    def kept() -> list[int]:
        return [lane.prefixes.size for lane in decoder._lanes]

    many = random_requests(300, tables=100, seed=4)
    decoder.generate(many[:40])
    assert limit * 3 // 4 < kept()[0] <= limit
    decoder.generate(many)
    assert len(kept()) == 2 and all(limit // 4 < size <= limit // 2 for size in kept())
    before = kept()
    decoder.generate(many[-1:])
    assert kept()[1] == before[1] and kept()[0] <= limit // 2
    decoder.forget()
    assert kept() == [0, 0]


def row(index: int, schema: int, question: int, table: int = 0) -> Row:
    prompt = [table] * schema + [index] * question
    return Row(index, request(SCHEMA, "?"), prompt, shared=schema, limit=40)


def weight(share: list[Batch]) -> int:
    rows = [row for batch in share for row in batch.rows]
    return sum({row.prefix: row.shared for row in rows}.values()) + sum(len(r.prompt) - r.shared + 20 for r in rows)


@pytest.mark.parametrize("lanes", [1, 2, 3, 4])
def test_rows_are_shared_out_evenly_and_tables_stay_together(lanes: int) -> None:
    rows = [row(n, 20 + n % 7, 8 + n % 5, table=n % 31) for n in range(300)]
    shares = share_out(rows, lanes)
    assert len(shares) == lanes
    given = [[r for batch in share for r in batch.rows] for share in shares]
    assert sorted(r.index for share in given for r in share) == list(range(300))
    weights = [weight(share) for share in shares]
    assert max(weights) - min(weights) < sum(weights) / lanes / 10
    assert sum(len({r.prefix for r in share}) for share in given) <= len({r.prefix for r in rows}) + lanes - 1
    for share in given:
        order = [r.prefix for r in share]
        assert sum(a != b for a, b in itertools.pairwise(order)) == len(set(order)) - 1


def test_one_long_prompt_does_not_size_the_cache_of_the_others() -> None:
    rows = [row(0, 900, 20), *(row(n, 30, 9) for n in range(1, 40))]
    (share,) = share_out(rows, 1)
    assert [(batch.capacity, len(batch.rows)) for batch in share] == [(80, 39), (960, 1)]


def test_a_lane_that_would_have_no_row_is_left_out() -> None:
    (share,) = share_out([row(0, 30, 9)], 4)
    assert len(share) == 1
