"""What ranks tell each other between steps; one process by itself has nothing to exchange."""

from __future__ import annotations

from t2s_assets.text2sql.errors import T2SError


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


class Alone(T2SError):
    """Another rank is gone, or cannot be reached."""


def left_alone(error: Exception) -> Alone | None:
    """`error` as `Alone`, where it comes of an exchange with other ranks; None where it does not.

    NCCL and the meeting itself have errors of their own; gloo has RuntimeError, with its name in the text.
    """
    import torch

    if not (_together() and torch.distributed.get_world_size() > 1):
        return None
    if not isinstance(error, torch.distributed.DistError) and "gloo" not in str(error):
        return None
    return Alone(
        f"another rank is gone, whose own messages say why, or cannot be reached ({type(error).__name__}: "
        f"{' '.join(str(error).split())}); the same command goes on from the last checkpoint"
    )


def _together() -> bool:
    import torch

    return torch.distributed.is_available() and torch.distributed.is_initialized()
