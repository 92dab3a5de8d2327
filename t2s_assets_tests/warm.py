"""`python` with the model libraries imported: a new interpreter takes 10 s to import them, which is not what the tests
of a command's end are about."""

from __future__ import annotations

import multiprocessing.context
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from typing import IO

import pytest

_PRELOADED = ["t2s_assets.text2sql.training.progress", "t2s_assets.text2sql.training.trainer", "t2s_assets.cli"]
_PRELOADED += ["t2s_assets.text2sql.decoding", "t2s_assets.text2sql.evaluation", "matplotlib.figure"]
# Libraries read these when they are imported; commands set them before.
_SILENT = {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
_context = multiprocessing.get_context("forkserver")


def warm_context() -> multiprocessing.context.ForkServerContext:
    """What makes processes that have imported the libraries."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in _SILENT.items():
            patch.setenv(name, value)
        _context.set_forkserver_preload(_PRELOADED)
        forkserver.ensure_running()
    return _context


class WarmPython:
    """A process that does what `python` does with these arguments: a script's path, or `-m` and a module, and more.

    It is a fork of one that has imported libraries and done nothing else, so it has no thread and no state of a test.
    In its environment as the system shows it, in /proc, are none of the variables that it is given; in that of the
    processes which it starts they are.
    """

    def __init__(
        self, arguments: Sequence[str], *, environment: Mapping[str, str] | None = None, stderr: int | None = None
    ) -> None:
        """`environment` is all of it, this process' where there is none. `stderr` as in `subprocess.Popen`: PIPE for
        one of its own, STDOUT, which is what it does too where nothing is said."""
        context = warm_context()
        out, told = context.Pipe(duplex=False)
        errors, told_errors = context.Pipe(duplex=False) if stderr == subprocess.PIPE else (None, None)
        variables = dict(os.environ if environment is None else environment)
        self._process = context.Process(target=_begin, args=(list(arguments), variables, told, told_errors))
        self._process.start()
        self.stdout: IO[str] = _reading(out, told)
        self.stderr: IO[str] | None = _reading(errors, told_errors) if errors and told_errors else None

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self, seconds: float) -> int:
        """The status that it ends with. Raises TimeoutError, and kills it, when that takes longer."""
        self._process.join(seconds)
        if self._process.exitcode is None:
            self._process.kill()
            raise TimeoutError(f"process {self.pid} has not ended after {seconds:.0f} s")
        return self._process.exitcode


def _reading(reader: Connection, writer: Connection) -> IO[str]:
    """What comes out of a pipe, whose other end is the child's alone."""
    writer.close()
    return os.fdopen(os.dup(reader.fileno()), encoding="utf-8")


def _begin(arguments: list[str], environment: dict[str, str], out: Connection, errors: Connection | None) -> None:
    import torch

    os.dup2(out.fileno(), 1)
    os.dup2((errors or out).fileno(), 2)
    for open_end in filter(None, (out, errors)):
        open_end.close()
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(int(environment.get("OMP_NUM_THREADS", 0)) or torch.get_num_threads())
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        sys.path.insert(0, os.path.dirname(arguments[0]))
        runpy.run_path(arguments[0], run_name="__main__")
