"""The trainer: which settings reach it, and its batches, losses, gradients and rates."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from t2s_assets.text2sql import base_models
from t2s_assets.text2sql.config import LoraSettings, TrainingConfig

pytestmark = pytest.mark.usefixtures("one_thread")


# ------------------------------------------------------------------------------------------- reaching the trainer

REACHES: dict[str, tuple[Any, str, Any]] = {
    "batch_size": (3, "per_device_train_batch_size", 3),
    "gradient_accumulation": (5, "gradient_accumulation_steps", 5),
    "learning_rate": (0.002, "learning_rate", 0.002),
    "weight_decay": (0.1, "weight_decay", 0.1),
    "max_grad_norm": (0.5, "max_grad_norm", 0.5),
    "packing": (True, "packing", True),
    "group_by_length": (False, "train_sampling_strategy", "random"),
    "gradient_checkpointing": (True, "gradient_checkpointing", True),
    "seed": (3, "seed", 3),
    "eval_steps": (50, "eval_steps", 50),
    "save_steps": (400, "save_steps", 400),
    "keep_checkpoints": (7, "save_total_limit", 7),
    "best": ("last", "load_best_model_at_end", False),
}
# These change the run around the arguments, and the file named trains with each.
ELSEWHERE = {"epochs", "max_steps", "budget_minutes", "processes", "eval_examples"} | {  # test_training.py
    "warmup_ratio",  # test_pace.py
    "sharding",  # test_ranks.py
    "compile",  # test_compiled.py
    "early_stopping",  # test_selection.py
    "eval_share",
    "questions_a_table",  # test_shared_schemas.py
}


def test_every_setting_is_accounted_for() -> None:
    assert set(TrainingConfig.model_fields) == set(REACHES) | ELSEWHERE


@pytest.mark.parametrize("field", REACHES)
def test_a_setting_reaches_the_trainer(tmp_path: Path, field: str) -> None:
    from t2s_assets.text2sql.training.trainer import arguments

    value, attribute, wanted = REACHES[field]
    placement = base_models.Placement("cpu", "float32", "sdpa", "none")

    def made(**settings: Any) -> Any:
        config = TrainingConfig(max_steps=9, **settings)
        return getattr(arguments(config, placement, tmp_path, max_steps=9, max_length=99), attribute)

    assert made(**{field: value}) == wanted
    assert made() != wanted


def test_run_and_machine_reach_the_trainer(tmp_path: Path) -> None:
    from t2s_assets.text2sql.training.trainer import arguments

    placement = base_models.Placement("cpu", "bfloat16", "sdpa", "none")
    args = arguments(TrainingConfig(epochs=1), placement, tmp_path, max_steps=9, max_length=99)
    assert (args.max_steps, args.max_length, args.output_dir) == (9, 99, str(tmp_path))
    assert (args.bf16, args.fp16, args.use_cpu) == (True, False, True)
    assert (args.per_device_eval_batch_size, args.data_seed, args.report_to) == (16, 17, [])


# --------------------------------------------------------------------------------------------- inside the trainer


@pytest.fixture(scope="module")
def trainer_of(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Callable[..., Any]:
    """Builds the trainer on made-up examples of lengths 20 to 100, as training builds it on real ones."""
    import torch
    from datasets import Dataset

    from t2s_assets.text2sql.training.clock import Clock
    from t2s_assets.text2sql.training.trainer import BudgetTrainer, arguments, step_arguments

    folder = tmp_path_factory.mktemp("trainer")
    base = base_models.BaseModel(tiny_base, "", {})

    def build(*, warmup: float = 0.1, adapter: str = "", dtype: str = "float32", **settings: Any) -> BudgetTrainer:
        """With `adapter`, "fused" or not, a LoRA adapter with random matrices; the same ones each time."""
        placement = base_models.Placement("cpu", dtype, "sdpa", "none")
        lengths = [20 + 7 * i % 81 for i in range(512)]
        rows = []
        for i, n in enumerate(lengths):
            ids = [5 + (i + 3 * j * j) % 90 for j in range(n)]
            rows.append({"input_ids": ids, "labels": [-100] * (n - 6) + [7, 8, 9, 10, 11, 0], "length": n})
        config = TrainingConfig(max_steps=8, batch_size=8, **settings)
        model, tokenizer = base_models.load_model(base, placement), base_models.load_tokenizer(base)
        how: dict[str, Any] = {}
        if adapter:
            lora = LoraSettings(rank=4, alpha=8)
            how = step_arguments(model, tokenizer, lora, config, placement, threads=1, log=[].append)
        if adapter != "fused":
            how["data_collator"] = None
        trainer = BudgetTrainer(
            model=model,
            args=arguments(config, placement, folder, max_steps=8, max_length=256),
            processing_class=tokenizer,
            train_dataset=Dataset.from_list(rows),
            eval_dataset=Dataset.from_list(rows[:4]),
            clock=Clock(folder / "plan.json"),
            budget_seconds=None,
            warmup=warmup,
            **how,
        )
        draw = torch.Generator().manual_seed(5)
        for name, p in trainer.model.named_parameters():
            if "lora_" in name:
                p.data = torch.randn(p.shape, generator=draw) * 0.1
        return trainer

    return build


def padding(trainer: Any) -> tuple[int, set[int]]:
    """Padded positions of one epoch, and the widths of its batches."""
    batches = list(trainer.get_train_dataloader())
    pads = sum(int((b["attention_mask"] == 0).sum()) for b in batches)
    return pads, {b["input_ids"].shape[1] for b in batches}


def test_batches_of_like_length_pad_less_and_have_few_widths(trainer_of: Callable[..., Any]) -> None:
    grouped, widths = padding(trainer_of(group_by_length=True))
    mixed, mixed_widths = padding(trainer_of(group_by_length=False))
    assert grouped < 0.6 * mixed
    assert all(w % 16 == 0 for w in widths | mixed_widths)


def test_the_loss_is_that_of_the_labelled_tokens(trainer_of: Callable[..., Any]) -> None:
    """Against the model's own loss, which makes logits for every position."""
    import torch

    trainer = trainer_of()
    batch = next(iter(trainer.get_train_dataloader()))
    with torch.inference_mode():
        ours = trainer.compute_loss(trainer.model, batch).item()
        theirs = trainer.model(**{k: v for k, v in batch.items() if k != "length"}).loss.item()
    assert ours == pytest.approx(theirs, rel=1e-5)


def test_a_wide_batch_in_passes_has_the_gradient_of_the_whole(
    trainer_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from t2s_assets.text2sql.training import trainer as trainers

    found = []
    for limit in (10**6, 300):
        monkeypatch.setattr(trainers, "PASS_TOKENS", limit)
        trainer = trainer_of(group_by_length=False)
        batch = next(iter(trainer.get_train_dataloader()))
        widths: list[int] = []
        trainer.model.register_forward_pre_hook(
            lambda m, a, k, w=widths: w.append(k["input_ids"].numel()), with_kwargs=True
        )
        loss = trainer.training_step(trainer.model, batch, (batch["labels"] != -100).sum())
        grads = torch.cat([p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None])
        found.append((loss.item(), grads, widths))
    (loss, grads, widths), (parts_loss, parts_grads, parts_widths) = found
    assert len(widths) == 1 and len(parts_widths) > 1 and max(parts_widths) <= 300
    assert parts_loss == pytest.approx(loss, rel=1e-5)
    assert torch.allclose(grads, parts_grads, rtol=1e-3, atol=1e-5)


def test_timed_steps_are_those_of_training(trainer_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """With the autocast and the recomputed activations that transformers and accelerate set up as training begins."""
    import torch

    from t2s_assets.text2sql.training import trainer as trainers
    from t2s_assets.text2sql.training.timing import timed_step

    monkeypatch.setattr(trainers, "PASS_TOKENS", 10**6)
    config = TrainingConfig(max_steps=8, batch_size=8, gradient_checkpointing=True)
    trainer = trainer_of(adapter="plain", dtype="bfloat16", gradient_checkpointing=True)
    seen: list[list[bool]] = []
    layer = trainer.model.get_base_model().model.layers[0].mlp

    def look(module: Any, inputs: Any) -> None:
        if module.training:
            seen[-1].append(torch.is_autocast_enabled("cpu"))

    layer.register_forward_pre_hook(look)
    trainer.training_step = lambda *a, step=trainer.training_step: (seen.append([]), step(*a))[1]
    timed_step(trainer, trainer.train_dataset["length"], config, timed=1)
    assert len(seen) == 3
    trainer.train()
    assert len(seen) == 3 + 8 and all(step == [True, True] for step in seen)


def gradients(trainer: Any) -> dict[str, Any]:
    found = {n: p.grad.clone() for n, p in trainer.model.named_parameters() if p.grad is not None}
    trainer.model.zero_grad(set_to_none=True)
    return found


@pytest.mark.parametrize("counted", [True, False], ids=["labels of the whole step counted", "of a batch"])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_fused_steps_leave_the_gradients_of_plain_ones(
    trainer_of: Callable[..., Any], accumulation: int, counted: bool
) -> None:
    """Not only their direction: gradients are clipped at a norm, and accumulated batches weigh as they should."""
    import torch

    found = []
    for way in ("plain", "fused"):
        trainer = trainer_of(adapter=way, gradient_accumulation=accumulation)
        assert (trainer._lanes is not None) == (way == "fused")
        trainer.current_gradient_accumulation_steps = accumulation
        rows = [trainer.train_dataset[i] for i in range(4 * accumulation)]
        labelled = torch.tensor(sum(x != -100 for row in rows for x in row["labels"])) if counted else None
        losses = []
        for at in range(0, len(rows), 4):
            batch = trainer.data_collator(rows[at : at + 4])
            losses.append(trainer.training_step(trainer.model, batch, labelled).item())
        found.append((losses, gradients(trainer)))
    (losses, wanted), (ours, got) = found
    assert ours == pytest.approx(losses, rel=1e-5)
    assert got.keys() == wanted.keys() and len(got) == 28
    for name, gradient in wanted.items():
        assert gradient.abs().max() > 1e-4
        torch.testing.assert_close(got[name], gradient, rtol=1e-3, atol=1e-3 * gradient.abs().max().item(), msg=name)


@pytest.mark.parametrize("way", ["plain", "fused"])
@pytest.mark.parametrize("counted", [True, False])
def test_a_batch_without_labels_changes_nothing(trainer_of: Callable[..., Any], way: str, counted: bool) -> None:
    import torch

    trainer = trainer_of(adapter=way)
    rows = [trainer.train_dataset[i] | {"labels": [-100] * trainer.train_dataset[i]["length"]} for i in range(2)]
    batch = trainer.data_collator(rows)
    trainer.current_gradient_accumulation_steps = 1
    loss = trainer.training_step(trainer.model, batch, torch.tensor(0) if counted else None)
    assert loss.item() == 0 and not any(g.any() for g in gradients(trainer).values())


def test_ranks_exchange_gradients_once_in_an_accumulated_step(
    trainer_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rank 0 of two, whose other rank has no gradients."""
    trainer = trainer_of(adapter="fused", gradient_accumulation=2)
    rows = [trainer.train_dataset[i] for i in range(8)]
    batches = [trainer.data_collator(rows[:4]), trainer.data_collator(rows[4:])]
    for batch in batches:
        trainer.training_step(trainer.model, batch, 48)
    wanted = gradients(trainer)
    sent: list[int] = []

    def reduce(gradient: Any, reduction: str) -> Any:
        assert reduction == "mean"
        sent.append(gradient.numel())
        return gradient / 2

    monkeypatch.setattr(type(trainer.accelerator), "num_processes", 2)
    monkeypatch.setattr(trainer.accelerator, "reduce", reduce)
    for batch, last in zip(batches, (False, True)):
        trainer.accelerator.gradient_state._set_sync_gradients(last)
        trainer.training_step(trainer.model, batch, 48)
    assert sent == [sum(g.numel() for g in wanted.values())]
    for name, gradient in gradients(trainer).items():
        # The loss is of two ranks' labels, so that the mean over ranks is their sum.
        assert gradient.equal(wanted[name]), name


def test_the_rate_warms_up_and_falls_to_zero(trainer_of: Callable[..., Any]) -> None:
    trainer = trainer_of(warmup=0.1)
    trainer.create_optimizer()
    rate = trainer.create_scheduler(100, trainer.optimizer).lr_lambdas[0]
    rates = [rate(step) for step in range(101)]
    assert rates[:11] == sorted(rates[:11])
    assert max(rates) == rates[10] == pytest.approx(1)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[0] < 0.1 and rates[100] == pytest.approx(0, abs=1e-9)
    assert rates[55] == pytest.approx(0.5, abs=0.01)
