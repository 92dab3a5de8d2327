"""TRL's SFTTrainer with a schedule that keeps to a wall-clock budget, and the callbacks around it."""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer

from t2s_assets.text2sql.base_models import Placement
from t2s_assets.text2sql.config import TrainingConfig
from t2s_assets.text2sql.errors import T2SError
from t2s_assets.text2sql.storage import write_json

Log = Callable[[str], None]

# Few distinct widths let the kernels of a CPU and the allocator be reused from batch to batch.
_PAD_TO = 16
# Part of the budget kept for the slower steps that a short measurement misses.
_RESERVE = 0.03


class NotFinite(T2SError):
    """The loss became NaN or infinite."""


def check_finite(loss: float, step: int) -> None:
    """Raises NotFinite when `loss` is no number to go on with."""
    if not math.isfinite(loss):
        raise NotFinite(
            f"the loss is {loss} at step {step}; lower training.learning_rate, or use hardware.dtype: float32. "
            "The last good adapter was left as it is"
        )


class Clock:
    """Seconds trained, over all the sessions of one training; kept beside the checkpoints."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.plan: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds trained until now."""
        return self.plan.get("seconds", 0.0) + time.monotonic() - self._started

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

    def __init__(self, *args: Any, clock: Clock, budget_seconds: float | None, warmup: float, **kwargs: Any) -> None:
        self.clock = clock
        self.budget_seconds = budget_seconds
        self.warmup = warmup
        super().__init__(*args, **kwargs)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Mean negative log-likelihood of the labelled tokens.

        Without Triton, TRL's own loss scores every position of the prompt too, tile by tile, which took several times
        as long as the rest of a step on a CPU. There, logits are made only at positions where some row has a label.
        """
        labels = inputs["labels"]
        if labels.device.type == "cuda":
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        wanted = labels[:, 1:] != -100
        places = wanted.any(dim=0).nonzero().flatten()
        rest = {k: v for k, v in inputs.items() if k != "labels"}
        outputs = model(**rest, use_cache=False, logits_to_keep=places)
        targets = labels[:, 1:][:, places]
        total = torch.nn.functional.cross_entropy(
            outputs.logits.float().flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="sum"
        )
        if num_items_in_batch is None:
            loss = total / wanted.sum().clamp(min=1)
        else:
            # The count is over all ranks and accumulation steps, and DDP averages gradients over ranks.
            loss = total / num_items_in_batch
            if self.args.average_tokens_across_devices:
                loss = loss * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def share_done(self, step: int, planned: int) -> float:
        """How much of the run is over, 0 to 1."""
        share = step / max(1, planned)
        if self.budget_seconds is not None:
            share = max(share, self.clock.seconds / self.budget_seconds)
        return min(1.0, share)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Linear warm-up over `warmup` of the run, then half a cosine to zero."""

        def rate(step: int) -> float:
            if step < self.warmup * num_training_steps:
                return (step + 1) / (self.warmup * num_training_steps + 1)
            share = (self.share_done(step, num_training_steps) - self.warmup) / max(1e-9, 1 - self.warmup)
            return 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, share))))

        self.lr_scheduler = LambdaLR(optimizer or self.optimizer, rate)
        return self.lr_scheduler


class Progress(TrainerCallback):
    """Says how training goes, stops it at its budget or when its loss is not finite, keeps the clock."""

    def __init__(self, log: Log, clock: Clock, budget_seconds: float | None) -> None:
        self.log = log
        self.clock = clock
        self.budget_seconds = budget_seconds
        self._first: tuple[int, float] | None = None

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.budget_seconds is not None and self.clock.seconds >= self.budget_seconds:
            if not control.should_training_stop and state.global_step < state.max_steps:
                self.log(
                    f"budget used up at step {state.global_step} of {state.max_steps}: the machine was slower than "
                    "planned; the learning rate was lowered in time"
                )
                self.clock.plan["stopped_by_budget_at"] = state.global_step
                control.should_evaluate = control.should_save = control.should_training_stop = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self.clock.save()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any) -> None:
        check_finite(logs.get("loss", logs.get("eval_loss", 0.0)), state.global_step)
        if "eval_loss" in logs:
            self.log(f"step {state.global_step}/{state.max_steps}  validation loss {logs['eval_loss']:.4f}")
        elif "loss" in logs:
            self.log(
                f"step {state.global_step}/{state.max_steps}  loss {logs['loss']:.4f}  "
                f"grad {logs.get('grad_norm', float('nan')):.2f}  lr {logs['learning_rate']:.2e}  {self._left(state)}"
            )

    def _left(self, state: Any) -> str:
        now = time.monotonic()
        if self._first is None:
            self._first = state.global_step, now
            return ""
        steps, seconds = state.global_step - self._first[0], now - self._first[1]
        left = seconds / max(1, steps) * (state.max_steps - state.global_step)
        if self.budget_seconds is not None:
            left = min(left, self.budget_seconds - self.clock.seconds)
        return f"{left / 60:.1f} min left"


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
        pad_to_multiple_of=None if config.packing else _PAD_TO,
        train_sampling_strategy="group_by_length" if config.group_by_length and not config.packing else "random",
        length_column_name="length",
        gradient_checkpointing=config.gradient_checkpointing,
        seed=config.seed,
        data_seed=config.seed,
        eval_strategy="steps",
        eval_steps=config.eval_steps,
        save_strategy="steps",
        save_steps=config.save_steps,
        save_total_limit=config.keep_checkpoints,
        load_best_model_at_end=config.best == "loss",
        metric_for_best_model="eval_loss",
        logging_steps=10,
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        report_to=[],
        bf16=placement.dtype == "bfloat16",
        fp16=placement.dtype == "float16",
        use_cpu=placement.device == "cpu",
        dataloader_pin_memory=placement.device == "cuda",
        ddp_find_unused_parameters=False,
    )


def plan_steps(trainer: SFTTrainer, lengths: list[int], config: TrainingConfig, *, timed: int = 6) -> dict[str, float]:
    """How many optimizer steps fit `config.budget_minutes`, from `timed` real forward and backward passes.

    The batches are drawn from the training set with their usual padding. Weights, optimizer and random state are
    as before afterwards. Returns `max_steps` and the seconds that a step and an evaluation were found to take.
    """
    assert config.budget_minutes is not None
    states = random.getstate(), torch.get_rng_state()
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    model, seconds = trainer.model, []
    model.train()
    for i in range(timed + 2):
        # Spread over the lengths: one batch of neighbours at each of `timed` evenly spaced places.
        at = max(0, min(len(order) - config.batch_size, int((i % timed + 0.5) / timed * len(order))))
        rows = [trainer.train_dataset[j] for j in order[at : at + config.batch_size]]
        batch = trainer._prepare_inputs(trainer.data_collator(rows))
        started = time.perf_counter()
        trainer.compute_loss(model, batch).backward()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
        model.zero_grad(set_to_none=True)
    trainer._metrics["train"].clear()
    trainer._total_train_tokens = 0
    random.setstate(states[0])
    torch.set_rng_state(states[1])
    step = sum(seconds[2:]) / timed * config.gradient_accumulation
    # A forward pass is about a third of a training step.
    evaluation = config.eval_examples / config.batch_size * step / config.gradient_accumulation / 3
    each = step + evaluation / config.eval_steps
    steps = max(1, int(config.budget_minutes * 60 * (1 - _RESERVE) / each))
    return {"max_steps": steps, "seconds_a_step": round(step, 4), "seconds_an_evaluation": round(evaluation, 2)}
