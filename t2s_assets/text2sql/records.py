"""What is recorded beside an adapter about the machine and the software that made it."""

from __future__ import annotations

import platform
import re
import resource
import subprocess
from importlib.metadata import version
from pathlib import Path

LIBRARIES = (
    *("torch", "transformers", "peft", "trl", "bitsandbytes", "datasets", "accelerate"),
    *("numba", "llvmlite"),  # what they compile decides how sums of fused layers are rounded
)


def versions() -> dict[str, str]:
    """Python's version and those of the libraries that decide what training computes."""
    return {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}


def machine() -> dict[str, str | int]:
    """What of the machine decides the order in which numbers are summed: equal on two runs, or bits may differ."""
    import torch
    from llvmlite import binding

    gpu = {}
    if torch.cuda.is_available():
        major, minor = torch.cuda.get_device_capability()
        gpu = {"gpu": f"{torch.cuda.get_device_name()}, {major}.{minor}", "cuda": str(torch.version.cuda)}
    return {
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": binding.get_host_cpu_name(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        **gpu,
    }


def git_commit() -> str | None:
    """The commit of this checkout, with `-dirty` where its files differ from it; None where git knows none.

    Installed into the environment of another project, whose repository may be around it, the package has none.
    """
    here = Path(__file__)

    def git(*arguments: str) -> str | None:
        command = ["git", "-C", str(here.parent), *arguments]
        try:
            done = subprocess.run(command, capture_output=True, text=True)
        except OSError:  # not installed
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    if not git("ls-files", "--error-unmatch", here.name):
        return None
    commit = git("rev-parse", "HEAD")
    return f"{commit}-dirty" if commit and git("status", "--porcelain", "--untracked-files=no") else commit


def peak_memory_gb(device: str) -> float:
    """The most memory that this process held so far, 10^9 bytes: allocated on a GPU, resident on a CPU.

    For "mps" what Metal holds for the process now, of which torch keeps no peak: ask again and again and take the
    most. Its buffers are no part of what is resident.
    """
    if device in ("cuda", "mps"):
        import torch

        held = torch.cuda.max_memory_allocated() if device == "cuda" else torch.mps.driver_allocated_memory()
        return held / 1e9
    peak = peak_resident_bytes("self")
    if peak is not None:
        return peak / 1e9
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def peak_resident_bytes(process: int | str) -> int | None:
    """The most resident memory that a living process, by its id or "self", held so far; None where /proc has none.

    Not getrusage's, which begins with what the parent held when it forked the process.
    """
    status = Path(f"/proc/{process}/status")
    return int(re.findall(r"VmHWM:\s*(\d+) kB", status.read_text())[0]) * 1024 if status.exists() else None
