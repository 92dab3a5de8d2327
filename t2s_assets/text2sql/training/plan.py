"""The plan of a training before its clock starts: where it runs, memory, the adapter's size, time.

What cannot fit is refused here with the field to change, rather than an hour later.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from t2s_assets.text2sql.base_models import Placement
from t2s_assets.text2sql.config import Experiment, HubModel, RayLaunch, TrainingConfig
from t2s_assets.text2sql.dataset_config import Targets
from t2s_assets.text2sql.errors import ConfigError, ModelError, StorageError
from t2s_assets.text2sql.storage import read_json
from t2s_assets.text2sql.training import cost
from t2s_assets.text2sql.training.clock import steps_that_fit
from t2s_assets.text2sql.training.cost import Memory, Shape

Log = Callable[[str], None]

# Metal refuses a working set of more than about two thirds of a Mac's memory.
_MPS_SHARE = 0.67
# Of a control group, versions 2 and 1: its limit, what it uses, and what of that in memory.stat are cached files, with
# the groups within it.
_CGROUP = Path("/sys/fs/cgroup")
_CGROUP_FILES = (
    ("memory.max", "memory.current", ("inactive_file", "active_file")),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", ("total_inactive_file", "total_active_file")),
)
# A run of fewer steps is over before a measurement of it would be.
_WORTH_TIMING = 50

# Of the bases of the experiments that ship, from their config.json: a plan then needs no model hub.
KNOWN_SHAPES = {
    "TinyLlama/TinyLlama-1.1B-Chat-v1.0": Shape(32_000, 2048, 5632, 22, 32, 4, 64, tied=False),
    "Qwen/Qwen2.5-Coder-1.5B-Instruct": Shape(151_936, 1536, 8960, 28, 12, 2, 128, tied=True, attention_bias=True),
}


@dataclass
class Plan:
    """What a training will take; `memory` is None for a base whose layers are not counted."""

    placement: Placement
    memory: Memory | None
    available_gb: float | None
    adapter_mb: float | None

    def described(self) -> str:
        """In one line."""
        where = f"{self.placement.device}, {self.placement.dtype}"
        where += ", 4-bit NF4 base" if self.placement.quantization == "nf4" else ""
        if self.memory is None:
            return f"plan: {where}; the base is none of {', '.join(cost.COUNTED)}, so its memory is not told"
        have = f" of {self.available_gb:.1f} GB available" if self.available_gb is not None else ""
        m = self.memory
        parts = f"weights {m.weights / 1e9:.1f}, activations {m.activations / 1e9:.1f}, logits {m.logits / 1e9:.1f}"
        return f"plan: {where}; memory {m.gb:.1f} GB{have} ({parts}); adapter {self.adapter_mb:.1f} MB"


@dataclass(frozen=True)
class Rows:
    """What a trainer's batches are made of: its examples, or with `training.packing` rows of several.

    `lengths`: the tokens of each row; `examples`: how many are in all rows.
    """

    lengths: Sequence[int]
    examples: int

    @classmethod
    def of(cls, train_set: Any, training: TrainingConfig) -> Rows:
        """Those of a trainer's training set, in its order."""
        if not training.packing:
            return cls(train_set["length"], len(train_set))
        packed = list(train_set["seq_lengths"])  # the length of each example of a row
        return cls([sum(row) for row in packed], sum(len(row) for row in packed))

    @property
    def examples_each(self) -> float:
        """Examples of a row, on average."""
        return self.examples / len(self.lengths)

    @property
    def tokens_each(self) -> float:
        """Tokens of a row, on average."""
        return sum(self.lengths) / len(self.lengths)

    def steps_an_epoch(self, training: TrainingConfig, ranks: int) -> int:
        """Steps of the optimiser in which every row is seen once. None goes on into the next epoch, so the last one
        may be of fewer rows than the others."""
        batches = -(-len(self.lengths) // (training.batch_size * ranks))
        return -(-batches // training.gradient_accumulation)

    def seen(self, steps: int, training: TrainingConfig, ranks: int) -> int:
        """Rows that so many steps go through. Of ranks, the rows that one is given twice to be no shorter than another
        do not count."""
        epochs, more = divmod(steps, self.steps_an_epoch(training, ranks))
        return epochs * len(self.lengths) + more * training.batch_size * training.gradient_accumulation * ranks


def shape_in(folder: Path) -> Shape | None:
    """The shape of the base in a folder; None for another family of models."""
    try:
        return Shape.of(read_json(folder / "config.json", made_by="base_model"), where=str(folder / "config.json"))
    except ModelError:
        return None


def shape_without_weights(config: Experiment) -> Shape:
    """The shape of an experiment's base without its weights: a shipped base's, or its config.json from the hub.

    Raises:
        ModelError: neither is to be had.
    """
    source = config.base_model
    if isinstance(source, HubModel):
        if source.repo in KNOWN_SHAPES:
            return KNOWN_SHAPES[source.repo]
        from huggingface_hub import hf_hub_download

        try:
            path = Path(hf_hub_download(source.repo, "config.json", revision=source.revision))
        except Exception as e:  # huggingface_hub raises errors of its own, of its HTTP library and OSError
            raise ModelError(f"base_model: config.json of {source.repo} cannot be had from the hub ({e})") from e
        return Shape.of(read_json(path, made_by="the hub"), where=str(path))
    raise ModelError(
        f"base_model.source: {source.source} is on this machine, but hardware.device is not; to plan for another "
        "machine's device, use source: hub"
    )


def before_loading(
    config: Experiment,
    shape: Shape | None,
    placement: Placement,
    *,
    longest: int,
    longest_completion: int,
    threads: int = 1,
    longest_batch: int | None = None,
    work: Path | None = None,
    available_gb: float | None = None,
    targets: Targets = Targets(),
) -> Plan:
    """The plan from shapes. `available_gb` replaces what this machine has; `work` is where checkpoints will be, None
    where their room needs no look; `threads`: on a CPU, as many as torch has in the process that trains.

    Raises:
        ConfigError: it cannot fit the memory, or the adapter's limit.
        StorageError: the disk cannot hold its checkpoints.
    """
    if shape is None:
        return Plan(placement, None, None, None)
    have = available_gb if available_gb is not None else available_memory_gb(placement.device)

    def need(training: Any) -> Memory:
        whole = cost.memory(
            shape,
            config.lora,
            training,
            placement,
            longest=longest,
            longest_completion=longest_completion,
            threads=threads,
            longest_batch=longest_batch,
        )
        return whole if training.sharding == "none" else cost.sharded(whole, shape, config.ranks)

    plan = Plan(placement, need(config.training), have, cost.adapter_bytes(shape, config.lora) / 1e6)
    _check_adapter(plan.adapter_mb, config, targets)
    # On a CPU and on a Mac, several ranks of a node share the memory.
    ranks = config.training.processes if placement.device != "cuda" else 1
    if have is not None and plan.memory.gb * ranks > have:
        raise ConfigError(_too_large(config, plan, have / ranks, need))
    if work is not None:
        _check_disk(shape.adapter_parameters(config.lora), config, work)
    return plan


def _too_large(config: Experiment, plan: Plan, have: float, need: Callable[[Any], Memory]) -> str:
    assert plan.memory is not None
    training, ways = config.training, []
    smaller = [b for b in range(training.batch_size - 1, 0, -1) if need(_with(training, batch_size=b)).gb <= have]
    if smaller:
        ways.append(f"training.batch_size: {smaller[0]} (with more gradient_accumulation)")
    if not training.gradient_checkpointing and need(_with(training, gradient_checkpointing=True)).gb <= have:
        ways.append("training.gradient_checkpointing: true")
    if plan.placement.quantization == "none" and plan.placement.device == "cuda":
        ways.append("hardware.quantization: nf4")
    if training.sharding == "none" and plan.placement.device == "cuda" and training.processes > 1:
        ways.append("training.sharding: fsdp")
    if plan.placement.dtype == "float32" and plan.placement.device != "cpu":
        ways.append("hardware.dtype: bfloat16")
    return (
        f"{plan.described()}: training.batch_size: {training.batch_size} and prompt.max_length: "
        f"{config.prompt.max_length} do not fit; use {' or '.join(ways) or 'a smaller base_model'}, or a lower "
        "prompt.max_length"
    )


def _with(training: Any, **changes: Any) -> Any:
    return training.model_copy(update=changes)


def _check_adapter(adapter_mb: float, config: Experiment, targets: Targets) -> None:
    if adapter_mb > targets.adapter_mb:
        fits = int(config.lora.rank * targets.adapter_mb / adapter_mb)
        raise ConfigError(
            f"lora.rank: {config.lora.rank} makes an adapter of {adapter_mb:.1f} MB; the limit is "
            f"{targets.adapter_mb:g} MB. Use lora.rank: {fits} or less, or fewer lora.targets, or raise the limit, "
            "targets.adapter_mb in dataset.yaml"
        )


def _check_disk(parameters: int, config: Experiment, work: Path) -> None:
    while not work.exists():
        work = work.parent
    # Weights and Adam's two moments; the best, the kept, and the one being written.
    needed = 12.0 * parameters * (config.training.keep_checkpoints + 2) / 1e9
    free = shutil.disk_usage(work).free / 1e9
    if needed > free:
        raise StorageError(
            f"{work}: checkpoints need {needed:.2f} GB and {free:.2f} GB are free; make room, lower "
            "training.keep_checkpoints, or move the storage folder to another disk and set T2S_STORAGE to it"
        )


def available_memory_gb(device: str) -> float | None:
    """Memory that a training can have here now, 10^9 bytes; None where it is not known."""
    import torch

    if device == "cuda":
        return torch.cuda.mem_get_info()[0] / 1e9 if torch.cuda.is_available() else None
    if device == "mps":
        return torch.mps.recommended_max_memory() / 1e9 if torch.backends.mps.is_available() else None
    import psutil

    left = _left_in_container(_CGROUP)
    have = psutil.virtual_memory().available
    return (have if left is None else min(have, left)) / 1e9


def _left_in_container(cgroup: Path) -> int | None:
    """Bytes of memory under a control group's limit that can be had still; None where it has none.

    As in the memory that Linux calls available, cached files count as free: they are dropped before a limit is hit.
    """
    for limit, used, cached in _CGROUP_FILES:
        if (cgroup / limit).is_file() and (most := (cgroup / limit).read_text().strip()).isdigit():
            lines = ((cgroup / limit).parent / "memory.stat").read_text().splitlines()
            stat = {name: int(count) for name, count in (line.split() for line in lines)}
            held = int((cgroup / used).read_text()) - sum(stat[name] for name in cached)
            return max(0, int(most) - held)
    return None


def for_another_machine(
    config: Experiment, placement: Placement, memory_gb: float, targets: Targets = Targets()
) -> Plan:
    """The plan for a device of `memory_gb` that is not here, from shapes alone. Raises ConfigError as it would there.

    Examples count as long as `prompt.max_length`, and completions as a third of that. Of a Mac's memory, two thirds
    can be used. A CPU there has as many cores as this one, unless the launch says how many.
    """
    have = memory_gb * _MPS_SHARE if placement.device == "mps" else memory_gb
    # Schemas that are shared shorten a batch by as much as the data have of them; none, at worst.
    shared = config.training.questions_a_table > 1
    longest = config.prompt.max_length
    batch = longest * config.training.batch_size if shared else None
    cores = config.launch.cpus if isinstance(config.launch, RayLaunch) else os.cpu_count() or 1
    return before_loading(
        config,
        shape_without_weights(config),
        placement,
        longest=longest,
        longest_completion=(batch or longest) // 3,
        threads=max(1, cores // config.training.processes),
        longest_batch=batch,
        available_gb=have,
        targets=targets,
    )


def placement_elsewhere(config: Experiment) -> Placement:
    """What `hardware` would come to on a machine that has its device: 16 bits on a GPU, as `auto` chooses there.

    Raises ConfigError where it names no device.
    """
    h = config.hardware
    if h.device == "auto":
        raise ConfigError(
            "hardware.device: auto is the device of this machine; to plan for another one, say which it has: cuda, mps "
            "or cpu"
        )
    dtype = h.dtype if h.dtype != "auto" else ("float32" if h.device == "cpu" else "bfloat16")
    return Placement(h.device, dtype, h.attention if h.attention != "auto" else "sdpa", h.quantization)


def time_it(
    trainer: Any,
    config: Experiment,
    clock: Any,
    figures: Any,
    *,
    fresh: bool,
    always: bool,
    work: Path | None,
    targets: Targets,
    log: Log,
) -> None:
    """Time a few steps where that is worth it, put a budget's plan into the clock, and tell both. `work` is where
    checkpoints will be, None where their room needs no look.

    Raises:
        ConfigError: the budget has no room for the generating that `best: ex` or `em` does, or the adapter is over its
            limit.
        StorageError: the disk cannot hold its checkpoints.
    """
    from t2s_assets.text2sql.training.timing import timed_step

    training = config.training
    # Counted in the model, for bases whose layers `cost` does not count: else found only after the training.
    parameters = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    _check_adapter(4 * parameters / 1e6, config, targets)
    if work is not None:
        _check_disk(parameters, config, work)
    if training.sharding == "fsdp":
        log("plan: no steps are timed, the base is sharded when training begins")
        return
    planned = "max_steps" in clock.plan
    if not (fresh or always) or (planned and not always):
        return
    given = None if training.budget_minutes else trainer.args.max_steps
    if given is not None and given < _WORTH_TIMING and not always:
        return
    step = timed_step(trainer, Rows.of(trainer.train_dataset, training).lengths, training)
    # A forward pass is about a third of a training step.
    batches = -(-min(training.eval_examples, len(trainer.eval_dataset)) // (training.batch_size * config.ranks))
    evaluation = batches * step / training.gradient_accumulation / 3
    answer = figures.seconds_a_question(trainer.model) if figures is not None else 0.0
    questions = len(figures.questions) if figures is not None else 0
    if training.budget_minutes:
        from accelerate.utils import broadcast_object_list

        from t2s_assets.text2sql.training.selection import questions_within

        seconds = training.budget_minutes * 60
        if figures is not None:
            rough = max(1, int(seconds * (1 - training.eval_share) / (step + evaluation / training.eval_steps)))
            questions = questions_within(
                training.eval_share, seconds, -(-rough // training.eval_steps), answer, questions
            )
        fit = steps_that_fit(
            0,
            seconds - clock.seconds,
            step=step,
            evaluation=evaluation + questions * answer,
            every=training.eval_steps,
        )
        decided = [max(1, fit), step, questions]
        broadcast_object_list(decided)  # ranks measure apart, and have to agree
        steps, step, questions = decided
        clock.plan |= {"max_steps": steps, "first_steps": steps, "share": 0.0, "scored_questions": questions}
        clock.plan |= {"seconds_a_step": step, "seconds_an_evaluation": evaluation + questions * answer}
        if trainer.is_world_process_zero():
            clock.save()
        trainer.args.max_steps = steps
        log(f"planned from {step:.2f} s a step: {steps:,} steps")
    else:
        steps = trainer.args.max_steps
    evaluations, each = -(-steps // training.eval_steps), evaluation + questions * answer
    in_all = steps * step + evaluations * each
    asked = f" with {questions} generated answers" if questions else ""
    log(
        f"plan: {steps:,} steps of {step:.2f} s, {evaluations} evaluations of {each:.1f} s{asked}: "
        f"{_duration(in_all)}, {100 * (1 - steps * step / in_all):.0f} % of it evaluation"
    )


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
