"""How the ranks of an experiment are started: torchrun here and on further nodes, or one job on a Ray cluster.

Every engine runs the same module with the same arguments; what differs is who starts it.
"""

from __future__ import annotations

import math
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from t2s_assets.text2sql.config import Experiment, RayLaunch, TorchrunLaunch
from t2s_assets.text2sql.errors import ConfigError, T2SError
from t2s_assets.text2sql.processes.stopping import LAUNCHER, Stopped, is_main
from t2s_assets.text2sql.storage import Project

NODE = "T2S_NODE"
"""In the environment of each node of a `static` rendezvous: its number, 0 to nodes - 1."""

REFUSAL = "T2S_REFUSAL"
"""In the environment of a rank that trains or evaluates alone: the file for an error that a user can act on."""

# torchrun kills ranks 30 s after it told them to end.
_GRACE_SECONDS = 40

# Between two questions how a Ray job is, and how many in a row may fail: a head that is started again answers in time.
_RAY_SECONDS, _RAY_TRIES = 5.0, 24


def torchrun(python: str, processes: int, module: str, *arguments: str, launch: Any = None) -> list[str]:
    """The command line that runs `module` in so many processes, together with other nodes where `launch` has some.

    Raises:
        ConfigError: a static rendezvous does not know which node this is.
    """
    line = [python, "-m", "t2s_assets.text2sql.processes.torchrun", *_meeting(launch), f"--nproc_per_node={processes}"]
    return [*line, "-m", module, *arguments]


def _meeting(launch: Any) -> list[str]:
    if not isinstance(launch, TorchrunLaunch) or launch.rendezvous is None:
        return ["--standalone"]
    meeting = launch.rendezvous
    line = [f"--nnodes={launch.nodes}", f"--rdzv_backend={meeting.backend}", f"--rdzv_endpoint={meeting.endpoint}"]
    timeout = "timeout" if meeting.backend == "static" else "join_timeout"
    line += [f"--rdzv_id={meeting.id}", f"--rdzv_conf={timeout}={meeting.timeout_seconds}"]
    if meeting.backend == "static":
        node = os.environ.get(NODE, "")
        if not node.isdigit() or int(node) >= launch.nodes:
            raise ConfigError(
                f"launch.rendezvous.backend: static needs {NODE} in each node's environment, 0 to {launch.nodes - 1} "
                f"and 0 on the endpoint's; got {node!r}. c10d needs none"
            )
        line.append(f"--node_rank={node}")
    return line


def environment(project: Project, config: Experiment, processes: int) -> dict[str, str]:
    """What ranks need in their environment: the folders, and one thread for each core of a process' share."""
    variables = {
        "T2S_CONFIGS": str(project.configs),
        "T2S_STORAGE": str(project.storage),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        # TRL reports each trainer to the hub, from a thread that reads the environment while accelerate sets it. Now
        # and then that ends the process with a segmentation fault, and nobody asked to be reported.
        "HF_HUB_DISABLE_TELEMETRY": "1",
        # TRL passes transformers arguments that the same release deprecates; nothing of ours to mend.
        "PYTHONWARNINGS": "ignore::FutureWarning",
        # Batches are freed to the heap and not to the system: faulting the pages in again took a tenth of a step.
        "MALLOC_TRIM_THRESHOLD_": "17179869184",
        "MALLOC_MMAP_THRESHOLD_": "1073741824",
        # Large pages for the heap: half the page faults. Heaps of other C libraries take no notice.
        "GLIBC_TUNABLES": ":".join(filter(None, [os.environ.get("GLIBC_TUNABLES"), "glibc.malloc.hugetlb=1"])),
        # Kernels are made for each shape of a batch. oneDNN keeps 1,024 of them and torch's layer above it as many with
        # their buffers, most of which never meet their shape again: 0.4 GB more after 16 WikiSQL batches.
        "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "128",
        "LRU_CACHE_CAPACITY": "16",
        # Beside the sources, numba's default, an installation may not be writable.
        "NUMBA_CACHE_DIR": os.environ.get("NUMBA_CACHE_DIR") or str(project.cache("kernels")),
    }
    if isinstance(config.launch, RayLaunch):
        return variables | {"OMP_NUM_THREADS": str(max(1, config.launch.cpus // processes))}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, cores // processes))
    return variables | {"OMP_NUM_THREADS": threads, LAUNCHER: str(os.getpid())}


def run(
    config: Experiment,
    line: list[str],
    variables: dict[str, str],
    *,
    what: str,
    goes_on: str = "the same command starts it again",
) -> None:
    """Run a command line where the experiment wants it, and wait for its end. SIGTERM is passed on to it.

    Raises:
        T2SError: it fails.
        Stopped: SIGTERM ended it; `goes_on` says what the user can do. Where the only rank tells more, that is raised.
    """
    if isinstance(config.launch, RayLaunch):
        _run_on_ray(config.launch, ray_job(config.launch, line, variables), what)
        return
    with refusal(line) as told, _passing_on() as to:
        process = subprocess.Popen(line, env={**os.environ, **variables, **told})
        try:
            to(process)
            status = process.wait()
        except KeyboardInterrupt:
            # The terminal tells torchrun too. Killed now, as `subprocess.run` would, it could not wait for its ranks.
            with suppress(subprocess.TimeoutExpired):
                process.wait(_GRACE_SECONDS)
            raise
        finally:
            _kill(process)
        # A shell's status for a process that a signal ended is torchrun's; Python's is that of one before it has ranks.
        if status in (128 + signal.SIGTERM, -signal.SIGTERM):
            if Path(told.get(REFUSAL, "")).is_file():
                return
            raise Stopped(f"stopped by {signal.SIGTERM.name}; {goes_on}")
        if status:
            raise T2SError(f"{what} failed with status {status}; its messages are above")


@contextmanager
def _passing_on() -> Iterator[Callable[[subprocess.Popen[bytes]], None]]:
    """SIGTERM within the block goes to the process that is given to what the block gets, also where it came before
    there was one. The block waits for that process' end.

    A scheduler may tell the command alone, and its ranks then have as long as torchrun gives them.
    """
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield lambda process: None  # signals are another's there
        return
    process: subprocess.Popen[bytes] | None = None
    told = False

    def tell(number: int, frame: Any) -> None:
        nonlocal told
        told = True
        if process is not None:
            process.send_signal(number)

    def to(started: subprocess.Popen[bytes]) -> None:
        nonlocal process
        process = started
        if told:
            process.terminate()

    signal.signal(signal.SIGTERM, tell)
    try:
        yield to
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a process that has not ended, and all that it started: ranks have sessions of their own, and would stay."""
    import psutil

    if process.poll() is not None:
        return
    with suppress(psutil.NoSuchProcess):
        for started in [*psutil.Process(process.pid).children(recursive=True), process]:
            with suppress(psutil.NoSuchProcess):
                started.kill()
    process.wait()


@contextmanager
def refusal(line: list[str]) -> Iterator[dict[str, str]]:
    """What to add to the environment of `line`, a command line of torchrun, so that a refusal is one error here.

    torchrun shows a failed rank with a traceback of its own, which buries the rank's error. A rank that is alone
    therefore writes that error to a file and ends well. With others around it, it must fail for torchrun to end them.

    Where the block ends with an error of its own (it was interrupted), the rank's is printed.

    Raises:
        T2SError: at the end of the block, the rank's own.
    """
    if "--standalone" not in line or "--nproc_per_node=1" not in line:
        yield {}
        return
    with tempfile.TemporaryDirectory(prefix="t2s-") as folder:
        file = Path(folder) / "refusal"
        try:
            yield {REFUSAL: str(file)}
        except BaseException:
            if file.exists():
                _say(file.read_text(encoding="utf-8"))
            raise
        if file.exists():
            raise T2SError(file.read_text(encoding="utf-8"))


def refused(error: T2SError) -> int:
    """Tell whoever launched this rank of `error`. Returns the status to end with."""
    file = Path(os.environ.get(REFUSAL, ""))
    if REFUSAL in os.environ and file.parent.exists():  # it is not once the launcher was killed
        with suppress(OSError):  # the disk with temporary files may be full; printed, the error is not lost
            file.write_text(str(error), encoding="utf-8")
            return 0
        file.unlink(missing_ok=True)
    if is_main():
        _say(str(error))
    elif not isinstance(error, Stopped):  # ranks stop together, and the main one says so
        _say(f"rank {os.environ['RANK']}: {error}")
    return 1


def _say(error: str) -> None:
    print(f"error: {error}", flush=True)


def ray_job(launch: RayLaunch, line: list[str], variables: dict[str, str]) -> dict[str, Any]:
    """The arguments of Ray's `submit_job` for a command line."""
    job: dict[str, Any] = {
        "entrypoint": shlex.join(line),
        "runtime_env": {"env_vars": dict(variables)},
        "entrypoint_num_cpus": launch.cpus,
        "entrypoint_num_gpus": launch.gpus,
        "entrypoint_resources": dict(launch.resources),
    }
    if launch.memory_gb is not None:
        job["entrypoint_memory"] = math.ceil(launch.memory_gb * 1e9)
    return job


def ray_is_missing(package: str) -> ConfigError:
    """The error where an experiment wants Ray and `package` is not installed."""
    return ConfigError(
        f"launch.engine: ray needs {package}, which is not installed: pip install 't2s-assets[ray]', or remove the "
        "section launch to train on this machine"
    )


def _run_on_ray(launch: RayLaunch, job: dict[str, Any], what: str) -> None:
    """Run a job to its end. However this process stops following it (Ctrl-C, SIGTERM, an error), the job is stopped.

    Raises:
        ConfigError: Ray is not installed.
        T2SError: the cluster does not answer or does not take the job, or the job fails.
    """
    try:
        from ray.job_submission import JobStatus, JobSubmissionClient
    except ImportError as e:
        raise ray_is_missing("ray") from e
    # Its errors are ConnectionError, RuntimeError, and those of the HTTP library and of Ray.
    try:
        client = JobSubmissionClient(launch.address)
    except Exception as e:
        raise T2SError(f"launch.address: no Ray cluster answers at {launch.address} ({e})") from e
    with _terminable():
        try:
            id = client.submit_job(**job)
        except Exception as e:
            raise T2SError(
                f"launch: the Ray cluster at {launch.address} does not take the job ({type(e).__name__}: {e}); see "
                "that it has launch.cpus, gpus, memory_gb and resources"
            ) from e
        try:
            status = _followed(client, id, (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.STOPPED))
        except BaseException:
            with suppress(Exception):  # a cluster that is gone; the error to show is the one before
                client.stop_job(id)
            raise
    if status != JobStatus.SUCCEEDED:
        raise T2SError(f"{what} failed: Ray job {id} is {status.value}; its messages are above")


def _followed(client: Any, id: str, ends: tuple[Any, ...]) -> Any:
    """The one of `ends`, statuses of jobs, that job `id` of a Ray client comes to. Prints its log as long as it comes.

    Raises:
        T2SError: the client cannot say how the job is, again and again.
    """
    import asyncio

    async def told() -> None:
        async for text in client.tail_job_logs(id):
            print(text, end="", flush=True)

    try:
        asyncio.run(told())
    except Exception as e:  # of the HTTP library: a connection for hours, which the job does not need
        print(f"the log of Ray job {id} is lost ({type(e).__name__}: {e}); waiting for its end", flush=True)
    failures = 0
    while True:
        try:
            if (status := client.get_job_status(id)) in ends:
                return status
            failures = 0
        except Exception as e:
            failures += 1
            if failures == _RAY_TRIES:
                raise T2SError(
                    f"launch.address: Ray no longer says how job {id} is ({type(e).__name__}: {e}), so it is stopped "
                    "if that can be; the same command goes on from its last checkpoint"
                ) from e
        time.sleep(_RAY_SECONDS)


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends the block with an exception, so that what it left elsewhere can be cleared up."""
    if threading.current_thread() is not threading.main_thread():  # signals are another's there
        yield
        return

    def end(number: int, frame: Any) -> None:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def interpreter(config: Experiment) -> str:
    """The Python that runs the ranks."""
    return config.launch.python if isinstance(config.launch, RayLaunch) else sys.executable
