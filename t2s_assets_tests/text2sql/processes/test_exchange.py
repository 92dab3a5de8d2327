"""Which errors say that another rank is gone, and which are bugs that keep their traceback."""

from __future__ import annotations

import pytest
import torch

from t2s_assets.text2sql.processes.exchange import left_alone

CLOSED = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:47005."
CALLED_WRONGLY = (
    "[enforce fail at /pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:446] op.preamble.length <= op.nbytes. 8 vs 4"
)


@pytest.fixture(autouse=True)
def ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(CLOSED),
        torch.distributed.DistNetworkError("Connection reset"),
        torch.distributed.DistStoreError("Timed out after 4 seconds waiting for clients. 1/2 clients joined."),
    ],
    ids=["gloo", "network", "before they have met"],
)
def test_a_rank_that_is_left_alone_says_so(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    told = left_alone(error, "the same command goes on")
    assert told is not None and str(told).startswith("another rank is gone, whose own messages say why, or cannot be")
    assert str(error) in str(told) and str(told).endswith("; the same command goes on")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert left_alone(error, "") is None


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(2, "No such file or directory", "/data/gloo/transport/x"),
        RuntimeError("gloom: no such table"),
        RuntimeError(CALLED_WRONGLY),
        ValueError(CLOSED),
        torch.OutOfMemoryError("CUDA out of memory"),
    ],
    ids=["a path", "a name", "gloo called wrongly", "another type", "memory"],
)
def test_a_bug_is_none_of_them(error: Exception) -> None:
    assert left_alone(error, "") is None
