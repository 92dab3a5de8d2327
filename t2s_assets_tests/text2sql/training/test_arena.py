"""What a pass keeps lies in memory that the next pass takes again."""

from __future__ import annotations

import pytest
import torch

from t2s_assets.text2sql.training import arena
from t2s_assets.text2sql.training.arena import Arena, empty, kept, taking_from


def places(shapes: list[tuple[int, ...]], taken_from: Arena) -> list[int]:
    with taking_from(taken_from):
        return [empty(shape, torch.bfloat16).data_ptr() for shape in shapes]


def test_each_block_starts_over() -> None:
    shapes = [(3, 5), (7,), (2, 2, 2)]
    mine = Arena()
    first = places(shapes, mine)
    assert first == places(shapes, mine)
    assert len(set(first)) == 3
    assert all(place % 64 == 0 for place in first)


def test_tensors_of_a_block_do_not_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arena, "_CHUNK_BYTES", 2**12)
    mine, sizes = Arena(), [100, 900, 3000, 1, 70, 2000]  # of 4 bytes: more than one chunk, one larger than a chunk
    for numbers in (range(6), range(6, 0, -1)):  # other sizes in the next block
        with taking_from(mine):
            tensors = [kept(torch.full((size,), float(n))) for size, n in zip(sizes, numbers)]
        sizes.reverse()
        for tensor, n in zip(tensors, numbers):
            assert torch.equal(tensor, torch.full(tensor.shape, float(n)))


def test_a_copy_is_contiguous_and_of_the_type_asked_for() -> None:
    x = torch.arange(12.0).view(3, 4)
    with taking_from(Arena()):
        copied = kept(x.t(), torch.bfloat16)
    assert copied.is_contiguous() and copied.dtype == torch.bfloat16 and torch.equal(copied.float(), x.t())


def test_outside_a_block_tensors_are_torchs_own() -> None:
    mine = Arena()
    (place,) = places([(4,)], mine)
    outside = empty((4,), torch.bfloat16)
    assert outside.data_ptr() != place and outside.untyped_storage().nbytes() == 8
