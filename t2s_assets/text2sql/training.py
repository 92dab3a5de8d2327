"""Trains one experiment's adapter. By hand, under torchrun and under Dagster Pipes it is the same command:

    python -m torch.distributed.run --standalone --nproc_per_node=1 -m t2s_assets.text2sql.training DATASET/EXPERIMENT

A run that was killed goes on from its last checkpoint when the same command is given again; one that has finished
is not repeated until data, base or settings change, or `--force` is given.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from t2s_assets.text2sql import adapters, base_models
from t2s_assets.text2sql.config import Experiment, TrainingConfig
from t2s_assets.text2sql.errors import DataError, ModelError, T2SError
from t2s_assets.text2sql.prepare import sample
from t2s_assets.text2sql.prompts import PromptFormat, encode, encode_example, load_prompts
from t2s_assets.text2sql.storage import (
    MANIFEST,
    Project,
    content_hash,
    file_hash,
    read_manifest,
    replacing_folder,
    write_json,
    write_manifest,
)

Log = Callable[[str], None]

_LIBRARIES = ("torch", "transformers", "peft", "trl", "bitsandbytes", "datasets", "accelerate")


def command(dataset: str, experiment: str, config: TrainingConfig, *, force: bool = False) -> list[str]:
    """The command line that trains an experiment."""
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={config.processes}"]
    line += ["-m", "t2s_assets.text2sql.training", f"{dataset}/{experiment}"]
    return [*line, "--force"] if force else line


def environment(project: Project, config: TrainingConfig) -> dict[str, str]:
    """What the command needs in its environment: the folders, and one thread for each core of a process' share."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {
        "T2S_CONFIGS": str(project.configs),
        "T2S_STORAGE": str(project.storage),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or str(max(1, cores // config.processes)),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        # TRL passes transformers arguments that the same release deprecates; nothing of ours to mend.
        "PYTHONWARNINGS": "ignore::FutureWarning",
        # Batches are freed to the heap and not to the system: faulting the pages in again took a tenth of a step.
        "MALLOC_TRIM_THRESHOLD_": "17179869184",
        "MALLOC_MMAP_THRESHOLD_": "1073741824",
    }


def run(project: Project, dataset: str, experiment: str, *, force: bool = False) -> dict[str, Any]:
    """Train in a child process and return the adapter's manifest. Raises T2SError when the child fails."""
    config = project.experiment(dataset, experiment).training
    line = command(dataset, experiment, config, force=force)
    done = subprocess.run(line, env={**os.environ, **environment(project, config)})
    if done.returncode:
        raise T2SError(
            f"training of {dataset}/{experiment} failed with status {done.returncode}; its messages are above"
        )
    return read_manifest(project.path(dataset, "adapter", experiment), made_by=f"t2s train {dataset}/{experiment}")


def train(project: Project, dataset: str, experiment: str, *, force: bool = False, log: Log = print) -> dict[str, Any]:
    """Train the experiment's adapter in this process (one rank of it) and return the manifest that it leaves.

    Raises:
        T2SError: data, base, hardware or settings do not allow it, or the loss is not finite. An adapter that was
            there before stays.
    """
    config = project.experiment(dataset, experiment)
    prompts_version = read_manifest(
        project.path(dataset, "prompts", experiment), made_by=f"t2s prepare {dataset}/{experiment}"
    )["data_version"]
    base = base_models.fetch(config.base_model, project, log=log)
    placement = base_models.place(config.hardware)
    # Only what was set: a field that a later version adds, with a default that keeps the behaviour, changes no key.
    trained = {n: getattr(config, n).model_dump(exclude_defaults=True) for n in ("lora", "training")}
    key = content_hash(prompts_version, base.identity, placement.as_dict(), trained)
    folder = project.path(dataset, "adapter", experiment)
    if not force and (folder / MANIFEST).exists():
        manifest = read_manifest(folder, made_by="")
        if manifest.get("key") == key:
            log("already trained: data, base and settings are what they were; --force trains again")
            return manifest
    work = project.path(dataset, "checkpoints", experiment) / key
    if force and _is_main():
        shutil.rmtree(work, ignore_errors=True)
    _wait_for_main(placement)
    return _Training(project, dataset, experiment, config, base, placement, key, work, log).run(prompts_version)


def _is_main() -> bool:
    return int(os.environ.get("RANK", 0)) == 0


def _wait_for_main(placement: base_models.Placement) -> None:
    from accelerate import PartialState

    # Told of the device: on a machine with a GPU, ranks on the CPU would otherwise get NCCL and cannot train with it.
    PartialState(cpu=placement.device == "cpu").wait_for_everyone()


class _Training:
    """One training run, from prompts to the adapter's folder."""

    def __init__(
        self,
        project: Project,
        dataset: str,
        experiment: str,
        config: Experiment,
        base: base_models.BaseModel,
        placement: base_models.Placement,
        key: str,
        work: Path,
        log: Log,
    ) -> None:
        self.project, self.dataset, self.experiment = project, dataset, experiment
        self.config, self.base, self.placement = config, base, placement
        self.key, self.work, self.log = key, work, log

    def run(self, prompts_version: str) -> dict[str, Any]:
        from t2s_assets.text2sql.trainer import Clock, check_finite

        self.log(f"{self.base.folder.name} on {', '.join(self.placement.as_dict().values())}")
        self.work.mkdir(parents=True, exist_ok=True)
        tokenizer = base_models.load_tokenizer(self.base)
        train_set, eval_set = self._examples(tokenizer)
        clock = Clock(self.work / "plan.json")
        trainer = self._trainer(tokenizer, train_set, eval_set, clock)
        total = sum(p.numel() for p in trainer.model.parameters())
        trainable = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
        self.log(
            f"{len(train_set):,} examples, {trainer.args.max_steps:,} steps of "
            f"{self._batch():,}; {trainable:,} of {total:,} parameters are trained"
        )
        checkpoint = last_whole_checkpoint(self.work)
        if checkpoint:
            self.log(f"going on from {checkpoint.name}")
        started = time.monotonic()
        result = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        check_finite(result.training_loss, trainer.state.global_step)
        steps = trainer.state.global_step
        examples = steps * self._batch()
        mean_length = sum(train_set["length"]) / len(train_set)
        seconds = time.monotonic() - started
        new_steps = steps - (int(checkpoint.name.split("-")[1]) if checkpoint else 0)
        facts = {
            "key": self.key,
            "steps": steps,
            "planned_steps": trainer.args.max_steps,
            "examples_seen": examples,
            "epochs": round(examples / len(train_set), 3),
            "train_loss": round(result.training_loss, 5),
            "validation_loss": _best_loss(trainer),
            "minutes": round(clock.seconds / 60, 2),
            "examples_a_second": round(new_steps * self._batch() / seconds, 2),
            "tokens_a_second": round(new_steps * self._batch() * mean_length / seconds, 1),
            "peak_memory_gb": round(_peak_memory_gb(self.placement.device), 2),
            "parameters": total,
            "trainable_parameters": trainable,
            "trainable_share": round(trainable / total, 5),
            "world_size": trainer.args.world_size,
            "stopped_by_budget_at": clock.plan.get("stopped_by_budget_at"),
        }
        if trainer.is_world_process_zero():
            self._save(trainer, tokenizer, facts, prompts_version)
        trainer.accelerator.wait_for_everyone()
        return read_manifest(self.project.path(self.dataset, "adapter", self.experiment), made_by="")

    def _batch(self) -> int:
        t = self.config.training
        return t.batch_size * t.gradient_accumulation * t.processes

    def _examples(self, tokenizer: Any) -> tuple[Any, Any]:
        """The tokenised training set and the seeded validation sample."""
        from datasets import Dataset

        data = load_prompts(self.project, self.dataset, self.experiment)
        max_length = self.config.prompt.max_length
        built = []
        for split in ("train", "validation"):
            rows = data[split].to_list()
            if split == "validation":
                rows = [r for r in rows if r["prompt_tokens"] + r["completion_tokens"] <= max_length]
                limit, seed = self.config.training.eval_examples, self.config.training.seed
                rows = list(sample(rows, limit, seed=seed, key=lambda r: r["id"]))
            if not rows:
                raise DataError(f"{self.dataset}: the {split} split has no examples, training needs some")
            prompts = encode(tokenizer, [r["prompt"] for r in rows])
            completions = encode(tokenizer, [r["completion"] for r in rows])
            examples = [encode_example(p, c, tokenizer.eos_token_id) for p, c in zip(prompts, completions)]
            for example in examples:
                example["length"] = len(example["input_ids"])  # type: ignore[assignment]
            built.append(Dataset.from_list(examples))
        return built[0], built[1]

    def _trainer(self, tokenizer: Any, train_set: Any, eval_set: Any, clock: Any) -> Any:
        from peft import LoraConfig
        from transformers import PrinterCallback

        from t2s_assets.text2sql.trainer import BudgetTrainer, Progress, arguments, plan_steps

        training, lora = self.config.training, self.config.lora
        budget = training.budget_minutes * 60 if training.budget_minutes else None
        model = base_models.load_model(self.base, self.placement)
        there = {name.rsplit(".", 1)[-1] for name, m in model.named_modules() if "Linear" in type(m).__name__}
        if missing := sorted(set(lora.targets) - there):
            raise ModelError(f"lora.targets: {missing} are no linear layers of this base; there are {sorted(there)}")
        steps = training.max_steps or (clock.plan.get("max_steps") if budget else None)
        if training.epochs:
            steps = max(1, round(training.epochs * len(train_set) / self._batch()))
        args = arguments(
            training, self.placement, self.work, max_steps=steps or 1, max_length=self.config.prompt.max_length
        )
        trainer = BudgetTrainer(
            model=model,
            args=args,
            processing_class=tokenizer,
            train_dataset=train_set,
            eval_dataset=eval_set,
            peft_config=LoraConfig(
                r=lora.rank,
                lora_alpha=lora.alpha,
                lora_dropout=lora.dropout,
                target_modules=list(lora.targets),
                task_type="CAUSAL_LM",
            ),
            callbacks=[Progress(self.log, clock, budget)],
            clock=clock,
            budget_seconds=budget,
            warmup=training.warmup_ratio,
        )
        trainer.remove_callback(PrinterCallback)  # Progress says the same, to Dagster too
        if steps is None:
            clock.plan |= plan_steps(trainer, train_set["length"], training)
            clock.save()
            trainer.args.max_steps = int(clock.plan["max_steps"])
            self.log(f"planned from {clock.plan['seconds_a_step']:.2f} s a step: {trainer.args.max_steps:,} steps")
        return trainer

    def _save(self, trainer: Any, tokenizer: Any, facts: dict[str, Any], prompts_version: str) -> None:
        from t2s_assets.text2sql.plots import plot_loss

        folder = self.project.path(self.dataset, "adapter", self.experiment)
        with replacing_folder(folder) as fresh:
            trainer.model.save_pretrained(str(fresh), safe_serialization=True, save_embedding_layers=False)
            tokenizer.save_pretrained(str(fresh))
            (fresh / "README.md").unlink(missing_ok=True)  # peft's card is an empty form
            source = self.project.path(self.dataset, "prompts", self.experiment)
            PromptFormat.load(source).save(fresh)
            history = trainer.state.log_history
            write_json(fresh / "trainer_state.json", {"log_history": history, "global_step": facts["steps"]})
            facts["adapter_mb"] = round((fresh / adapters.WEIGHTS).stat().st_size / 1e6, 2)
            write_json(
                fresh / adapters.RESOLVED_CONFIG,
                {
                    "experiment": self.config.model_dump(mode="json", exclude_unset=True),
                    "base_identity": self.base.identity,
                    "placement": self.placement.as_dict(),
                    "planned_steps": facts["planned_steps"],
                    "prompts_version": prompts_version,
                },
            )
            plot_loss(history, fresh / "loss.png")
            facts |= {"versions": _versions(), "git_commit": _git_commit(), "prompts_version": prompts_version}
            write_json(fresh / adapters.METRICS, facts)
            write_manifest(fresh, file_hash(fresh / adapters.WEIGHTS, length=16), facts)
        shutil.rmtree(self.work, ignore_errors=True)
        self.log(f"adapter of {facts['adapter_mb']} MB written to {folder}")


def last_whole_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint under `folder` that has all its parts, or None. Broken ones are passed over.

    The trainer's state is the last file that a checkpoint gets, so one that holds it as JSON was finished.
    """
    found = sorted(folder.glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1]), reverse=True)
    for checkpoint in found:
        try:
            json.loads((checkpoint / "trainer_state.json").read_text())
        except (OSError, ValueError):
            continue
        parts = (adapters.WEIGHTS, "optimizer.pt", "scheduler.pt")
        if all((checkpoint / part).is_file() for part in parts):
            return checkpoint
    return None


def _best_loss(trainer: Any) -> float | None:
    losses = [h["eval_loss"] for h in trainer.state.log_history if "eval_loss" in h]
    if not losses:
        return None
    return round(min(losses) if trainer.args.load_best_model_at_end else losses[-1], 5)


def _peak_memory_gb(device: str) -> float:
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_allocated() / 1e9
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: version(name) for name in _LIBRARIES}}


def _git_commit() -> str | None:
    here = Path(__file__).parent
    done = subprocess.run(["git", "-C", str(here), "rev-parse", "HEAD"], capture_output=True, text=True)
    return done.stdout.strip() or None if done.returncode == 0 else None


def main() -> int:
    """Entry point of every rank. Only rank 0 speaks, to the terminal and to Dagster where that is the parent."""
    parser = argparse.ArgumentParser(prog="t2s train", description="Train one experiment's adapter.")
    parser.add_argument("address", metavar="DATASET/EXPERIMENT")
    parser.add_argument("--force", action="store_true")
    options = parser.parse_args()
    dataset, _, experiment = options.address.partition("/")

    def say(line: str) -> None:
        if _is_main():
            print(line, flush=True)

    try:
        if _is_main() and "DAGSTER_PIPES_CONTEXT" in os.environ:
            from dagster_pipes import open_dagster_pipes

            with open_dagster_pipes() as pipes:
                train(Project.find(), dataset, experiment, force=options.force, log=pipes.log.info)
        else:
            train(Project.find(), dataset, experiment, force=options.force, log=say)
    except T2SError as e:
        say(f"error: {e}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
