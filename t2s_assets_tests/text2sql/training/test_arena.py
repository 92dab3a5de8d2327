"""What a pass keeps lies in memory that the next pass takes again."""

from __future__ import annotations

import pytest
import torch

from t2s_assets.text2sql.training import arena
from t2s_assets.text2sql.training.arena import Arena, Pages


def places(shapes: list[tuple[int, ...]], mine: Arena) -> list[int]:
    mine.begin()
    return [mine.take(shape, torch.bfloat16).data_ptr() for shape in shapes]


def test_each_pass_starts_over() -> None:
    shapes = [(3, 5), (7,), (2, 2, 2)]
    mine = Arena()
    first = places(shapes, mine)
    assert first == places(shapes, mine)
    assert len(set(first)) == 3
    assert all(place % 64 == 0 for place in first)


def test_tensors_of_a_pass_do_not_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arena, "_CHUNK_BYTES", 2**12)
    mine, sizes = Arena(), [100, 900, 3000, 1, 70, 2000]  # of 4 bytes: more than one chunk, one larger than a chunk
    for numbers in (range(6), range(6, 0, -1)):  # other sizes in the next pass
        mine.begin()
        tensors = [mine.take((size,), torch.float32).fill_(n) for size, n in zip(sizes, numbers)]
        sizes.reverse()
        for tensor, n in zip(tensors, numbers):
            assert torch.equal(tensor, torch.full(tensor.shape, float(n)))


def test_tensors_are_contiguous_and_of_the_type_asked_for() -> None:
    taken = Arena().take((3, 4), torch.bfloat16)
    assert taken.is_contiguous() and taken.dtype == torch.bfloat16 and taken.shape == (3, 4)


def test_what_one_arena_releases_another_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arena, "_CHUNK_BYTES", 2**12)
    pages = Pages()
    one, other = Arena(pages), Arena(pages)
    shapes = [(100,)] * 100
    first = places(shapes, one)
    held = pages.bytes
    assert not set(first) & set(places(shapes, other)) and pages.bytes == 2 * held
    for each in (one, other):
        each.release()
    assert len(set(places(shapes * 2, one))) == 200 and pages.bytes == 2 * held


def test_the_end_of_a_chunk_that_stays_empty_is_small() -> None:
    """Tensors of more than half a chunk would leave the rest of each."""
    pages = Pages()
    mine, size = Arena(pages), arena._CHUNK_BYTES // 2 + 64
    for _ in range(64):
        mine.take((size,), torch.uint8)
    assert pages.bytes < 1.3 * 64 * size
