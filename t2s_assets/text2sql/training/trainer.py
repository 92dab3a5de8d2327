"""The trainer, and what it is made with: a schedule that keeps to a wall-clock budget, and steps without waste."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from torch.optim.lr_scheduler import LambdaLR
from trl import SFTConfig

from t2s_assets.text2sql.base_models import Placement
from t2s_assets.text2sql.config import LoraSettings, TrainingConfig
from t2s_assets.text2sql.prompts import IGNORED
from t2s_assets.text2sql.training import fused
from t2s_assets.text2sql.training.clock import warm_then_cosine
from t2s_assets.text2sql.training.compiled import compile_layers
from t2s_assets.text2sql.training.cost import PAD_TO, PASS_TOKENS, fused_pass_tokens, rows_a_pass, why_not_fused
from t2s_assets.text2sql.training.flat_batches import FlatBatches
from t2s_assets.text2sql.training.fused import Fused
from t2s_assets.text2sql.training.heap import give_back
from t2s_assets.text2sql.training.lanes import Lanes
from t2s_assets.text2sql.training.resumable import ResumableTrainer
from t2s_assets.text2sql.training.selection import CHOICE
from t2s_assets.text2sql.training.sharding import sharding_arguments
from t2s_assets.text2sql.training.shared_schemas import SharedSchemas

# Batches between two of `heap.give_back` where layers are transformers' own: what grows in between is bounded, and
# faulting it in again took 2 % of their time.
_GIVE_BACK_AFTER = 16


class BudgetTrainer(ResumableTrainer):
    """A trainer whose learning rate follows the share of the run that is done.

    The share is steps over planned steps. With a wall-clock budget the plan changes as the run goes, and `Pace` keeps
    the share: on a machine that turns out faster or slower, the cosine still ends at zero when the budget does.
    """

    def __init__(
        self,
        *args: Any,
        budget_seconds: float | None,
        warmup: float,
        compiled: bool = False,
        **kwargs: Any,
    ) -> None:
        """`args` and `kwargs` are `ResumableTrainer`'s. `compiled`: layers are, when they first run.

        Where `data_collator` is a `FlatBatches`, layers run as `fused` writes them, on as many threads as it shares
        batches out to; see `step_arguments`.
        """
        self.budget_seconds = budget_seconds
        self.warmup = warmup
        self._wanted: torch.Tensor | None = None
        self._batches = 0
        super().__init__(*args, **kwargs)
        # TRL makes a 4-bit base's adapter bfloat16, in which small updates are rounded away and whose gradients a
        # float16 run cannot unscale; PEFT makes it float32 again when a checkpoint is read.
        for p in self.model.parameters():
            if p.requires_grad and p.dtype != torch.float32:
                p.data = p.data.float()
        base = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        base.get_output_embeddings().register_forward_pre_hook(self._only_wanted)
        if compiled:
            compile_layers(base)
        batches = self.data_collator
        self._lanes = Lanes(Fused(base), batches.threads) if isinstance(batches, FlatBatches) else None

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Where the model is; with shared schemas, the mask is made there."""
        inputs = super()._prepare_inputs(inputs)
        return self.data_collator.with_mask(inputs) if isinstance(self.data_collator, SharedSchemas) else inputs

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
        if self._lanes is not None:
            total = self._lanes.run(inputs["rounds"], backward=False)
            loss = self._mean(total, (labels != IGNORED).sum(), num_items_in_batch)
            return (loss, {"loss": loss}) if return_outputs else loss
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
        loss = self._mean(total, wanted.sum(), num_items_in_batch)
        return (loss, outputs) if return_outputs else loss

    def _mean(self, total: torch.Tensor, labelled: torch.Tensor, num_items_in_batch: Any) -> torch.Tensor:
        # Without labels the loss is 0; 0 / 0 would end in the whole adapter.
        if num_items_in_batch is None:
            return total / labelled.clamp(min=1)
        # The count is over all ranks and accumulation steps, and DDP averages gradients over ranks.
        loss = total / torch.as_tensor(num_items_in_batch).clamp(min=1)
        return loss * self.accelerator.num_processes if self.args.average_tokens_across_devices else loss

    def as_in_training(self) -> AbstractContextManager[Any]:
        """What training begins with, for steps that are timed before it: recomputed activations, and autocast."""
        if self._lanes is not None:
            return nullcontext()
        if self.args.gradient_checkpointing:
            self.model.gradient_checkpointing_enable(self.args.gradient_checkpointing_kwargs)
        return self.accelerator.autocast()

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """One batch, forward and backward; on a CPU in passes of at most PASS_TOKENS tokens or one example."""
        if self._lanes is not None:
            return self._fused_step(self._lanes, model, inputs, num_items_in_batch)
        if inputs["labels"].device.type == "cpu":
            if self._batches % _GIVE_BACK_AFTER == 0:
                give_back()
            self._batches += 1
        ids = inputs["input_ids"]
        whole = ids.device.type != "cpu" or num_items_in_batch is None
        rows = ids.shape[0] if whole else rows_a_pass(*ids.shape, PASS_TOKENS)
        if rows == ids.shape[0]:
            return super().training_step(model, inputs, num_items_in_batch)
        parts = [{k: v[at : at + rows] for k, v in inputs.items()} for at in range(0, ids.shape[0], rows)]
        return self._in_parts(model, parts, num_items_in_batch)

    def _fused_step(
        self, lanes: Lanes, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch: Any
    ) -> torch.Tensor:
        """What `training_step` does, by `fused`: the gradients do not come from autograd, so DDP would not see them."""
        model.train()
        inputs = self._prepare_inputs(inputs)
        total = lanes.run(inputs["rounds"], backward=True)
        factor = self._mean(torch.ones(()), (inputs["labels"] != IGNORED).sum(), num_items_in_batch)
        if num_items_in_batch is None:
            factor = factor / self.current_gradient_accumulation_steps
        lanes.spread(float(factor))
        if self.accelerator.num_processes > 1 and self.accelerator.sync_gradients:
            parameters = [p for p in model.parameters() if p.requires_grad]
            mean = self.accelerator.reduce(torch.cat([p.grad.flatten() for p in parameters]), reduction="mean")
            for p, part in zip(parameters, mean.split([p.numel() for p in parameters])):
                p.grad.copy_(part.view(p.shape))
        return total * factor

    def _in_parts(self, model: Any, parts: list[dict[str, Any]], num_items_in_batch: Any) -> torch.Tensor:
        with self.accelerator.no_sync(model):
            losses = [super(BudgetTrainer, self).training_step(model, part, num_items_in_batch) for part in parts[:-1]]
        losses.append(super().training_step(model, parts[-1], num_items_in_batch))
        return torch.stack(losses).sum()

    def set_initial_training_values(self, args: Any, dataloader: Any) -> tuple[Any, ...]:
        """As transformers counts them; with a budget without an end of epochs, since more steps may come to fit."""
        epochs, *rest = super().set_initial_training_values(args, dataloader)
        return (epochs if self.budget_seconds is None else sys.maxsize, *rest)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Linear warm-up over `warmup` of the run, then half a cosine to zero."""
        plan, replay = self.clock.plan, self.clock.replay
        rates = plan.setdefault("rates", [])

        def rate(step: int) -> float:
            if replay is not None and replay["rates"]:
                return replay["rates"][min(step, len(replay["rates"]) - 1)]
            if self.budget_seconds is None:
                return warm_then_cosine(step, num_training_steps, self.warmup)
            # Each group of parameters asks, and a resumed run's new scheduler asks for step 0 again.
            if step == len(rates):
                rates.append(warm_then_cosine(plan["share"] * plan["max_steps"], plan["max_steps"], self.warmup))
            return rates[step]

        self.lr_scheduler = LambdaLR(optimizer or self.optimizer, rate)
        return self.lr_scheduler


def step_arguments(
    model: Any,
    tokenizer: Any,
    lora: LoraSettings,
    training: TrainingConfig,
    placement: Placement,
    *,
    threads: int,
    log: Callable[[str], None],
) -> dict[str, Any]:
    """The arguments of `BudgetTrainer` that decide how it computes a step of `model`: its adapter and its batches.

    `threads`: on a CPU, those that torch has. Where layers could run fused there, and do not, `log` is told why.
    """
    share, batches = training.questions_a_table > 1, None
    why_not = why_not_fused(lora, training, placement) or fused.why_not(model)
    if why_not is None:
        batches = FlatBatches(
            pad_token=tokenizer.eos_token_id, share=share, pass_tokens=fused_pass_tokens(placement), threads=threads
        )
    elif share:
        batches = SharedSchemas(pad_token=tokenizer.eos_token_id, dtype=model.dtype)
    if why_not is not None and placement.device == "cpu":
        log(f"training runs several times slower than it could on this CPU: {why_not}")
    adapter = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(lora.targets),
        task_type="CAUSAL_LM",
    )
    return {"peft_config": adapter, "data_collator": batches, "compiled": training.compile}


def _sampling(config: TrainingConfig) -> str:
    if config.questions_a_table > 1:
        return "sequential"  # the training set is in its order already
    return "group_by_length" if config.group_by_length and not config.packing else "random"


def arguments(
    config: TrainingConfig, placement: Placement, checkpoints: Path, *, max_steps: int, max_length: int
) -> SFTConfig:
    """TRL's arguments for an experiment."""
    in_4_bits = placement.device == "cuda" and placement.quantization == "nf4"
    return SFTConfig(
        output_dir=str(checkpoints),
        max_steps=max_steps,
        per_device_train_batch_size=config.batch_size,
        per_device_eval_batch_size=config.batch_size,
        gradient_accumulation_steps=config.gradient_accumulation,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        optim="paged_adamw_8bit" if in_4_bits else "adamw_torch_fused",
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
