"""What ranks tell each other between steps; one process by itself has nothing to exchange."""

from __future__ import annotations


def place() -> tuple[int, int]:
    """(this rank, number of ranks)."""
    import torch

    if not _together():
        return 0, 1
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def summed(*counts: float) -> list[float]:
    """Each count summed over all ranks. Every rank calls it, or one would wait for the others for ever."""
    import torch

    found = torch.tensor(counts, dtype=torch.float64)
    if _together():
        found = found.to("cuda" if torch.distributed.get_backend() == "nccl" else "cpu")
        torch.distributed.all_reduce(found)
    return found.tolist()


def _together() -> bool:
    import torch

    return torch.distributed.is_available() and torch.distributed.is_initialized()
