"""TRL's SFTTrainer with a schedule that keeps to a wall-clock budget, a loss without
waste, and checkpoints that are whole."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers.trainer_utils import rotate_checkpoints
from trl import SFTConfig, SFTTrainer

from t2s_assets.text2sql import checkpoints
from t2s_assets.text2sql.base_models import Placement
from t2s_assets.text2sql.config import TrainingConfig
from t2s_assets.text2sql.cost import PAD_TO, PASS_TOKENS, rows_a_pass
from t2s_assets.text2sql.prompts import IGNORED
from t2s_assets.text2sql.selection import CHOICE
from t2s_assets.text2sql.sharding import sharding_arguments
from t2s_assets.text2sql.storage import write_json


class Clock:
    """Seconds trained, over all the sessions of one training; kept beside the checkpoints with the run's plan.

    The plan holds `max_steps`, what a clock decided on the way (`rates`: the learning rate's factor of each step,
    `stopped_by_budget_at`), and is what a replay follows in the place of its clock.
    """

    def __init__(self, path: Path, *, replay: dict[str, Any] | None = None) -> None:
        self.path = path
        self.plan: dict[str, Any] = json.loads(path.read_text()) if path.exists() else dict(replay or {})
        self.replay = replay
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds trained until now."""
        return self.plan.get("seconds", 0.0) + time.monotonic() - self._started

    def schedule(self, steps: int, planned: int) -> dict[str, Any]:
        """What the clock decided in a training of `steps` steps: all that another one needs to do the same.

        `rates` is empty where no clock had a part in the learning rate.
        """
        if self.replay is not None:
            return self.replay
        decided = {n: self.plan.get(n) for n in ("stopped_by_budget_at", "scored_questions")}
        recorded = self.plan.get("rates", {})
        rates = [recorded[str(step)] for step in range(steps)] if recorded else []
        return {"max_steps": planned, "steps": steps, **decided, "rates": rates}

    def save(self) -> None:
        """Write the plan with the seconds until now."""
        self.plan["seconds"] = self.seconds
        self._started = time.monotonic()
        write_json(self.path, self.plan)


class BudgetTrainer(SFTTrainer):
    """SFTTrainer whose learning rate follows the share of the run that is done.

    The share is steps over planned steps. With a wall-clock budget it is also at least seconds over budget: on a
    machine that turns out slower than planned, the cosine still ends at zero when the budget does.
    """

    def __init__(
        self,
        *args: Any,
        clock: Clock,
        budget_seconds: float | None,
        warmup: float,
        figures: Callable[[Any, float], dict[str, float]] | None = None,
        **kwargs: Any,
    ) -> None:
        """`figures` measures the model, given its validation loss, at each evaluation; they become `eval_<name>`."""
        self.clock = clock
        self.budget_seconds = budget_seconds
        self.warmup = warmup
        self.figures = figures
        self._wanted: torch.Tensor | None = None
        super().__init__(*args, **kwargs)
        head = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        head.get_output_embeddings().register_forward_pre_hook(self._only_wanted)

    def _only_wanted(self, head: Any, hidden: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor] | None:
        return None if self._wanted is None else (hidden[0][self._wanted],)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Mean negative log-likelihood of the labelled tokens.

        Without Triton, TRL's own loss scores every position of the prompt too, tile by tile, which took several times
        as long as the rest of a step on a CPU. There, logits are made only for tokens that have a label.
        """
        labels = inputs["labels"]
        if labels.device.type == "cuda" and "position_ids" not in inputs:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        wanted = torch.zeros_like(labels, dtype=torch.bool)
        wanted[:, :-1] = labels[:, 1:] != IGNORED
        rest = {k: v for k, v in inputs.items() if k != "labels"}
        self._wanted = wanted
        try:
            outputs = model(**rest, use_cache=False)
        finally:
            self._wanted = None
        targets = labels[:, 1:][wanted[:, :-1]]
        total = torch.nn.functional.cross_entropy(outputs.logits.float(), targets, reduction="sum")
        if num_items_in_batch is None:
            loss = total / wanted.sum().clamp(min=1)
        else:
            # The count is over all ranks and accumulation steps, and DDP averages gradients over ranks.
            loss = total / num_items_in_batch
            if self.args.average_tokens_across_devices:
                loss = loss * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """One batch, forward and backward; on a CPU in passes of at most PASS_TOKENS tokens or one example."""
        ids = inputs["input_ids"]
        whole = ids.device.type != "cpu" or num_items_in_batch is None
        rows = ids.shape[0] if whole else rows_a_pass(*ids.shape, PASS_TOKENS)
        if rows == ids.shape[0]:
            return super().training_step(model, inputs, num_items_in_batch)
        parts = [{k: v[at : at + rows] for k, v in inputs.items()} for at in range(0, ids.shape[0], rows)]
        with self.accelerator.no_sync(model):
            losses = [super(BudgetTrainer, self).training_step(model, part, num_items_in_batch) for part in parts[:-1]]
        losses.append(super().training_step(model, parts[-1], num_items_in_batch))
        return torch.stack(losses).sum()

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """The loss on the validation sample, and what `figures` finds."""
        output = super().evaluation_loop(*args, **kwargs)
        if self.figures is not None:
            found = self.figures(self.model, output.metrics["eval_loss"])
            output.metrics.update({f"eval_{name}": value for name, value in found.items()})
        return output

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """A checkpoint that counts only when it is whole; older ones go after that.

        Raises:
            StorageError: it cannot be written.
        """
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        folder = Path(self.args.output_dir)
        written = folder / f"checkpoint-{self.state.global_step}"
        try:
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                checkpoints.seal(written)
        except Exception as e:  # safetensors, torch and the system each have errors of their own for a full disk
            if failure := checkpoints.write_failure(e, folder):
                shutil.rmtree(written, ignore_errors=True)
                raise failure from e
            raise
        finally:
            self.args.save_total_limit = limit
        if self.args.should_save:
            best = self.state.best_model_checkpoint
            rotate_checkpoints(
                output_dir=str(folder), save_total_limit=limit, best_model_checkpoint=best, use_mtime=True
            )

    def share_done(self, step: int, planned: int) -> float:
        """How much of the run is over, 0 to 1."""
        share = step / max(1, planned)
        if self.budget_seconds is not None:
            share = max(share, self.clock.seconds / self.budget_seconds)
        return min(1.0, share)

    def _rank_zeros(self, value: float) -> float:
        """Rank 0's value on every rank: clocks differ, and ranks of other learning rates would drift apart."""
        if self.budget_seconds is None or not torch.distributed.is_initialized():
            return value
        shared = torch.tensor(value, dtype=torch.float64, device=self.args.device)
        torch.distributed.broadcast(shared, src=0)
        return shared.item()

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Linear warm-up over `warmup` of the run, then half a cosine to zero."""

        recorded = self.clock.plan.setdefault("rates", {})
        asked: dict[int, float] = {}  # each group of parameters asks, and all are to have the same rate

        def rate(step: int) -> float:
            if self.clock.replay is not None and (rates := self.clock.replay["rates"]):
                return rates[min(step, len(rates) - 1)]
            if step not in asked:
                asked[step] = self._rank_zeros(computed(step))
                if self.budget_seconds is not None and not (step == 0 and recorded):
                    recorded[str(step)] = asked[step]  # a resumed run's scheduler is new, and asks for step 0 again
            return asked[step]

        def computed(step: int) -> float:
            if step < self.warmup * num_training_steps:
                return (step + 1) / (self.warmup * num_training_steps + 1)
            share = (self.share_done(step, num_training_steps) - self.warmup) / max(1e-9, 1 - self.warmup)
            return 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, share))))

        self.lr_scheduler = LambdaLR(optimizer or self.optimizer, rate)
        return self.lr_scheduler


def _sampling(config: TrainingConfig) -> str:
    if config.questions_a_table > 1:
        return "sequential"  # the training set is in its order already
    return "group_by_length" if config.group_by_length and not config.packing else "random"


def arguments(
    config: TrainingConfig, placement: Placement, checkpoints: Path, *, max_steps: int, max_length: int
) -> SFTConfig:
    """TRL's arguments for an experiment."""
    return SFTConfig(
        output_dir=str(checkpoints),
        max_steps=max_steps,
        per_device_train_batch_size=config.batch_size,
        per_device_eval_batch_size=config.batch_size,
        gradient_accumulation_steps=config.gradient_accumulation,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        optim="paged_adamw_8bit" if placement.device == "cuda" and placement.quantization == "nf4" else "adamw_torch",
        max_length=max_length,
        # Examples come tokenised and labelled; only packing has something left to do.
        dataset_kwargs=None if config.packing else {"skip_prepare_dataset": True},
        packing=config.packing,
        eval_packing=False,
        pad_to_multiple_of=None if config.packing else PAD_TO,
        train_sampling_strategy=_sampling(config),
        remove_unused_columns=config.questions_a_table == 1,
        length_column_name="length",
        gradient_checkpointing=config.gradient_checkpointing,
        seed=config.seed,
        data_seed=config.seed,
        eval_strategy="steps",
        eval_steps=config.eval_steps,
        save_strategy="steps",
        save_steps=config.save_steps,
        save_total_limit=config.keep_checkpoints,
        load_best_model_at_end=config.best != "last",
        metric_for_best_model="eval_loss" if config.best in ("loss", "last") else CHOICE,
        greater_is_better=config.best not in ("loss", "last"),
        logging_steps=10,
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        report_to=[],
        bf16=placement.dtype == "bfloat16",
        fp16=placement.dtype == "float16",
        use_cpu=placement.device == "cpu",
        dataloader_pin_memory=placement.device == "cuda",
        ddp_find_unused_parameters=False,
        **sharding_arguments(config),
    )
