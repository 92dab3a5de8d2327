"""Pages that are free in the heap go back to the system."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

# Every second block is freed: the holes lie between blocks in use, and the heap's end stays where it is.
HOLES = """
import ctypes
from t2s_assets.text2sql.training.heap import give_back

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 2**20

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
blocks = [libc.malloc(2**20) for _ in range(200)]
for block in blocks:
    ctypes.memset(block, 1, 2**20)
for block in blocks[::2]:
    libc.free(block)
before = resident()
give_back()
print(before - resident())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read as Linux tells it")
def test_holes_between_blocks_are_given_back() -> None:
    kept = {"MALLOC_TRIM_THRESHOLD_": "17179869184", "MALLOC_MMAP_THRESHOLD_": "1073741824"}
    done = subprocess.run(
        [sys.executable, "-c", HOLES], env={**os.environ, **kept}, capture_output=True, text=True, check=True
    )
    assert 80 < float(done.stdout) < 120
