"""What ranks tell each other between steps; one process by itself has nothing to exchange."""

from __future__ import annotations

import os

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


def left_alone(error: Exception, goes_on: str) -> Alone | None:
    """`error` as `Alone`, where it comes of an exchange with other ranks; None where it does not. `goes_on` says what
    the user can do.

    NCCL and the meeting itself have errors of their own. Those of gloo's connections are plain RuntimeErrors that begin
    with the place in its sources; where it is called wrongly, that is an "enforce fail".
    """
    import torch

    if int(os.environ.get("WORLD_SIZE", 1)) < 2 or not torch.distributed.is_available():
        return None
    said = str(error)
    of_gloo = type(error) is RuntimeError and "gloo/transport/" in said and "enforce fail" not in said
    if not of_gloo and not isinstance(error, torch.distributed.DistError):
        return None
    return Alone(
        f"another rank is gone, whose own messages say why, or cannot be reached ({type(error).__name__}: "
        f"{' '.join(said.split())}); {goes_on}"
    )


def _together() -> bool:
    import torch

    return torch.distributed.is_available() and torch.distributed.is_initialized()
