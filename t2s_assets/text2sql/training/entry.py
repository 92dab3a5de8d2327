"""Trains one experiment's adapter. By hand, under torchrun and under Dagster Pipes it is the same module:

    torchrun --standalone --nproc_per_node=1 -m t2s_assets.text2sql.training DATASET/EXPERIMENT

A run that was killed goes on from its last checkpoint when the same command is given again; one that has finished
is not repeated until data, base or settings change, or `--force` is given. SIGTERM and SIGINT end it with a
checkpoint while steps run, and else at once.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from t2s_assets.text2sql import adapters, base_models
from t2s_assets.text2sql.config import Experiment
from t2s_assets.text2sql.errors import T2SError
from t2s_assets.text2sql.processes import exchange, launching
from t2s_assets.text2sql.processes.stopping import Stopped, StopSignal, is_main
from t2s_assets.text2sql.prompt_datasets import check_made_for, prompts_manifest
from t2s_assets.text2sql.storage import (
    MANIFEST,
    Project,
    content_hash,
    find_manifest,
    read_json,
    read_manifest,
    restore_interrupted,
)
from t2s_assets.text2sql.training import checkpoints, same_training
from t2s_assets.text2sql.training.training_run import TrainingRun

Log = Callable[[str], None]


MODULE = "t2s_assets.text2sql.training"
_GOES_ON = "the same command goes on from its last checkpoint, where there is one"


def command(dataset: str, experiment: str, config: Experiment, *options: str, force: bool = False) -> list[str]:
    """The command line that trains an experiment; with several nodes, the part of it on this one."""
    arguments = [f"{dataset}/{experiment}", *options, *(["--force"] if force else [])]
    python, processes = launching.interpreter(config), config.training.processes
    return launching.torchrun(python, processes, MODULE, *arguments, launch=config.launch)


def environment(project: Project, config: Experiment) -> dict[str, str]:
    """What the command needs in its environment."""
    return launching.environment(project, config, config.training.processes)


def run(
    project: Project, dataset: str, experiment: str, *options: str, force: bool = False, **variables: str
) -> dict[str, Any]:
    """Train in child processes and return the adapter's manifest. Raises T2SError when they fail."""
    launch(project, dataset, experiment, *options, force=force, **variables)
    return read_manifest(project.path(dataset, "adapter", experiment), made_by=f"t2s train {dataset}/{experiment}")


def launch(
    project: Project, dataset: str, experiment: str, *options: str, force: bool = False, **variables: str
) -> None:
    """Run the command, with `variables` in its environment. Raises T2SError when it fails."""
    config = project.experiment(dataset, experiment)
    # What every child would fail over is said once, here, and not with the traceback of the child's launcher too.
    prompts_manifest(project, dataset, experiment)
    check_made_for(project, dataset, experiment, config, base_models.fetch(config.base_model, project))
    line = command(dataset, experiment, config, *options, force=force)
    variables = environment(project, config) | variables
    launching.run(config, line, variables, what=f"training of {dataset}/{experiment}", goes_on=_GOES_ON)


def training_key(
    config: Experiment, prompts_version: str, base: base_models.BaseModel, placement: base_models.Placement
) -> str:
    """What names a training: data, base, hardware, and the settings that were given.

    Fields at their defaults are left out, so that a later version's new field changes no key. Of the launch, only
    the number of ranks counts: they share a batch. How SQL is generated counts where that chooses the checkpoint.
    """
    trained: dict[str, Any] = {n: getattr(config, n).model_dump(exclude_defaults=True) for n in ("lora", "training")}
    if config.training.best in ("ex", "em") and (decoding := config.decoding.model_dump(exclude_defaults=True)):
        trained["decoding"] = decoding
    if config.ranks != config.training.processes:
        trained["ranks"] = config.ranks
    return content_hash(prompts_version, base.identity, placement.as_dict(), trained)


def train(
    project: Project,
    dataset: str,
    experiment: str,
    *,
    force: bool = False,
    replay: dict[str, Any] | None = None,
    signal: StopSignal | None = None,
    log: Log = print,
) -> dict[str, Any]:
    """Train the experiment's adapter in this process (one rank of it) and return the manifest that it leaves.

    `replay`, the content of an adapter's `schedule.json`, takes the place of the clock.

    Raises:
        T2SError: data, base, hardware or settings do not allow it, the loss is not finite, or the disk is full. An
            adapter that was there before stays.
        Stopped: told to stop by `signal`; the same call goes on from the checkpoint.
    """
    config = project.experiment(dataset, experiment)
    prompts_version = prompts_manifest(project, dataset, experiment)["data_version"]
    base = base_models.fetch(config.base_model, project, log=log)
    check_made_for(project, dataset, experiment, config, base)
    placement = base_models.place_training(config)
    key = training_key(config, prompts_version, base, placement)
    folder, beside = project.path(dataset, "adapter", experiment), project.path(dataset, "checkpoints", experiment)
    restore_interrupted(folder)
    with _storage_errors(beside), ExitStack() as held:
        if is_main():
            held.enter_context(checkpoints.only_trainer(beside, log))
        work = beside / key
        if is_main() and checkpoints.older(work, folder / MANIFEST) and _trained(folder, key) is not None:
            shutil.rmtree(work, ignore_errors=True)  # of a training that ended, and was killed before it cleared up
        if is_main() and not force:
            if (problem := adapters.damage(folder)) is not None:
                log(f"{folder}: {problem}, so it is trained again")
            if problem is not None or (find_manifest(folder, made_by="") or {}).get("key") != key:
                same_training.take(project, dataset, experiment, key, log)
        _meet(config, placement, log)
        if not force and (manifest := _trained(folder, key)) is not None:
            if is_main():
                stopped = checkpoints.last_whole(work, log)
                forced = "trains again" if stopped is None else f"goes on from {stopped.name} of one that broke off"
                log(f"already trained: data, base and settings are what they were; --force {forced}")
                same_training.bring_up_to_date(folder, config, log)
            return manifest
        run = TrainingRun(project, dataset, experiment, config, base, placement, key, work, log)
        run.replay, run.signal = replay, signal or run.signal
        return run.train(prompts_version)


def _trained(folder: Path, key: str) -> dict[str, Any] | None:
    """The manifest of the adapter in a folder where it is whole and was trained by `key`."""
    manifest = None if adapters.damage(folder) else find_manifest(folder, made_by="")
    return manifest if manifest is not None and manifest.get("key") == key else None


def show_plan(project: Project, dataset: str, experiment: str, *, log: Log = print) -> None:
    """Say what training would cost, from a few timed steps in this process, and train nothing."""
    config = project.experiment(dataset, experiment)
    read_manifest(project.path(dataset, "prompts", experiment), made_by=f"t2s prepare {dataset}/{experiment}")
    base, placement = base_models.fetch(config.base_model, project, log=log), base_models.place_training(config)
    check_made_for(project, dataset, experiment, config, base)
    _meet(config, placement, log)
    with tempfile.TemporaryDirectory(prefix="t2s-plan-") as folder:
        TrainingRun(project, dataset, experiment, config, base, placement, "", Path(folder), log).plan()


@contextmanager
def _storage_errors(folder: Path) -> Iterator[None]:
    """Errors of the system while writing, said so that a user can act on them."""
    try:
        yield
    except T2SError:
        raise
    except Exception as e:
        if failure := checkpoints.write_failure(e, folder):
            raise failure from e
        raise


def _meet(config: Experiment, placement: base_models.Placement, log: Log) -> None:
    """Wait for the other ranks. The only rank of a CPU is none: what a launcher set to make it one is taken back.

    As a rank, its model would be wrapped to talk with others, and a copy of the whole base made to send them. On a
    GPU it stays one, else transformers would split batches over all GPUs of the machine.
    """
    from accelerate import PartialState

    on_cpu = placement.device == "cpu"
    if on_cpu and config.training.sharding == "none" and os.environ.get("WORLD_SIZE") == "1":
        for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
            os.environ.pop(name, None)
    if placement.device == "cuda":
        _nccl_as_the_driver_can(log)
    # Told of the device: on a machine with a GPU, ranks on the CPU would otherwise get NCCL and cannot train with it.
    PartialState(cpu=on_cpu).wait_for_everyone()


def _nccl_as_the_driver_can(log: Log) -> None:
    """Several GPUs of a kind whose driver promises what it cannot do exchange by way of the host's memory.

    accelerate knows which, and refuses them otherwise; its own launcher sets the same. Here and not where ranks are
    launched, which may be a machine without GPUs.
    """
    from accelerate.utils import check_cuda_p2p_ib_support

    if check_cuda_p2p_ib_support():
        return
    unset = [name for name in ("NCCL_P2P_DISABLE", "NCCL_IB_DISABLE") if name not in os.environ]
    os.environ.update(dict.fromkeys(unset, "1"))
    if unset:
        log(
            f"{' and '.join(f'{name}=1' for name in unset)}: these GPUs' driver is too old for direct exchange between "
            "them, which a driver of 550.40.07 or later does faster"
        )


def main() -> int:
    """Entry point of every rank. Only rank 0 speaks, to the terminal and to Dagster where that is the parent."""
    parser = argparse.ArgumentParser(prog="t2s train", description="Train one experiment's adapter.")
    parser.add_argument("address", metavar="DATASET/EXPERIMENT")
    parser.add_argument("--force", action="store_true", help="train even if nothing changed")
    parser.add_argument("--plan", action="store_true", help="say what it would cost, from a few timed steps")
    parser.add_argument("--replay", metavar="FILE", type=Path, help="an adapter's schedule.json, in place of the clock")
    options = parser.parse_args()
    dataset, _, experiment = options.address.partition("/")
    signal = StopSignal()
    signal.install()

    def say(line: str) -> None:
        if is_main():
            print(line, flush=True)

    def work(log: Log) -> None:
        if options.plan:
            show_plan(Project.find(), dataset, experiment, log=log)
            return
        replay = read_json(options.replay, made_by="t2s train") if options.replay else None
        train(Project.find(), dataset, experiment, force=options.force, replay=replay, signal=signal, log=log)

    try:
        if is_main() and "DAGSTER_PIPES_CONTEXT" in os.environ:
            from dagster_pipes import open_dagster_pipes

            with open_dagster_pipes() as pipes:
                work(pipes.log.info)
        else:
            work(say)
    except T2SError as e:
        if not signal.at_once:
            return launching.refused(e)
    except Exception as e:
        if not signal.at_once:
            if (alone := exchange.left_alone(e, _GOES_ON)) is not None:
                return launching.refused(alone)
            raise
    except KeyboardInterrupt:
        pass
    else:
        return 0
    goes_on = "" if options.plan else f"; {_GOES_ON}"
    return launching.refused(Stopped(f"stopped by {signal.reason or 'an interrupt'} at once{goes_on}"))
