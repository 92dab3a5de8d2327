"""Evaluation in several processes: ranks share the questions, and rank 0 scores what all have answered.

    torchrun --standalone --nproc_per_node=2 -m t2s_assets.text2sql.evaluation DATASET/EXPERIMENT

Ranks take whole blocks of questions, each made as one process makes it, so answers are the same to the bit.
"""

from __future__ import annotations

import argparse
import os
import signal
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any

from t2s_assets.text2sql.config import Experiment, TorchrunLaunch
from t2s_assets.text2sql.errors import T2SError
from t2s_assets.text2sql.processes import exchange, launching
from t2s_assets.text2sql.processes.locking import only_one
from t2s_assets.text2sql.processes.stopping import LAUNCHER, Stopped, is_main, stoppable, when_launcher_is_gone
from t2s_assets.text2sql.storage import Project, read_manifest

Log = Callable[[str], None]

MODULE = "t2s_assets.text2sql.evaluation"
GOES_ON = "whole blocks of answers are kept, and the same command goes on from them"
"""What an evaluation says that was told to stop."""

# Ranks end as far apart as a block takes, and a rank may find nothing left to do.
_LONGEST_WAIT = timedelta(days=1)


def in_this_process(config: Experiment) -> bool:
    """Whether an evaluation needs no processes but the one that asks for it."""
    return config.evaluation.processes == 1 and isinstance(config.launch, TorchrunLaunch)


def command(dataset: str, experiment: str, config: Experiment) -> list[str]:
    """The command line that evaluates an experiment. All its ranks are on one machine, that of a Ray job included."""
    python, processes = launching.interpreter(config), config.evaluation.processes
    return launching.torchrun(python, processes, MODULE, f"{dataset}/{experiment}")


def environment(project: Project, config: Experiment) -> dict[str, str]:
    """What the command needs in its environment."""
    return launching.environment(project, config, config.evaluation.processes)


def run(project: Project, dataset: str, experiment: str, log: Log = print) -> dict[str, Any]:
    """Evaluate here or where the experiment says, and return the manifest of `predictions`.

    Raises:
        T2SError: as `make_predictions`, another process evaluates it, or the processes failed.
        Stopped: told to stop by SIGTERM; the same call goes on where it was.
    """
    config = project.experiment(dataset, experiment)
    if in_this_process(config):
        return alone(project, dataset, experiment, log)
    what = f"evaluation of {dataset}/{experiment}"
    line, variables = command(dataset, experiment, config), environment(project, config)
    launching.run(config, line, variables, what=what, goes_on=GOES_ON)
    return read_manifest(
        project.path(dataset, "predictions", experiment), made_by=f"t2s evaluate {dataset}/{experiment}"
    )


def alone(project: Project, dataset: str, experiment: str, log: Log) -> dict[str, Any]:
    """Evaluate in this process, and return the manifest of `predictions`.

    Raises:
        T2SError: as `make_predictions`, or another process evaluates it.
        Stopped: told to stop by SIGTERM; the same call goes on where it was.
    """
    with stoppable(GOES_ON):  # while libraries are imported, too
        from t2s_assets.text2sql.evaluation.predictions import make_predictions

        with only_evaluation(project, dataset, experiment, log):
            return make_predictions(project, dataset, experiment, log)


def only_evaluation(
    project: Project, dataset: str, experiment: str, log: Log, *, wait_seconds: float = 90
) -> AbstractContextManager[None]:
    """Hold the lock of an experiment's evaluation: two would join and forget each other's answers and scores.

    Raises:
        T2SError: another process holds it still, after a while of waiting.
    """
    lock = project.path(dataset, "predictions") / f".{experiment}.lock"
    return only_one(lock, f"evaluating {dataset}/{experiment}", log, wait_seconds=wait_seconds)


def evaluate(project: Project, dataset: str, experiment: str, log: Log) -> None:
    """One rank's part: answer its share, wait for the others, and on rank 0 score everything."""
    import torch.distributed as dist

    from t2s_assets.text2sql.evaluation.predictions import answer_share, make_predictions

    ranks = int(os.environ.get("WORLD_SIZE", 1))
    with only_evaluation(project, dataset, experiment, log) if is_main() else nullcontext():
        if ranks > 1:
            # A rank that waits for others in an exchange would hear of nothing else.
            before = {n: signal.signal(n, signal.SIG_DFL) for n in (signal.SIGTERM, signal.SIGINT)}
            dist.init_process_group("gloo", timeout=_LONGEST_WAIT)
            log(f"{ranks} ranks share the questions")
            answer_share(project, dataset, experiment, rank=dist.get_rank(), ranks=ranks, wait=dist.barrier, log=log)
            dist.destroy_process_group()
            for number, handler in before.items():
                signal.signal(number, handler)
        if is_main():
            make_predictions(project, dataset, experiment, log)


def _end_at_once(launcher: int) -> None:
    """Answers and scores are on the disk as they are made, and a rank may be waiting for others that will not come."""
    os._exit(1)


def main() -> int:
    """Entry point of every rank. Only rank 0 speaks, to the terminal and to Dagster where that is the parent."""
    parser = argparse.ArgumentParser(prog="t2s evaluate", description="Answer and score one experiment's questions.")
    parser.add_argument("address", metavar="DATASET/EXPERIMENT")
    dataset, _, experiment = parser.parse_args().address.partition("/")
    when_launcher_is_gone(_end_at_once)

    def say(line: str) -> None:
        if is_main():
            print(line, flush=True)

    try:
        with stoppable(GOES_ON):
            if is_main() and "DAGSTER_PIPES_CONTEXT" in os.environ:
                from dagster_pipes import open_dagster_pipes

                with open_dagster_pipes() as pipes:
                    evaluate(Project.find(), dataset, experiment, pipes.log.info)
            else:
                evaluate(Project.find(), dataset, experiment, say)
    except Stopped as e:
        # The launcher tells it once, whether or not there was time for this rank to; of one that was told alone,
        # torchrun tells the status.
        return 128 + signal.SIGTERM if LAUNCHER in os.environ else launching.refused(e)
    except T2SError as e:
        return launching.refused(e)
    except Exception as e:
        if (left := exchange.left_alone(e, GOES_ON)) is None:
            raise
        return launching.refused(left)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return 0
