"""Our training against TRL's SFTTrainer at its quickstart defaults: same model, same examples, one run.

    python benchmarks/training.py --experiment wikisql/smollm2-cpu --examples 512 [--json FILE]

Both train LoRA adapters of the same rank on the same linear layers, on the first `--examples` of a seeded sample of
the experiment's prompts (made first if they are not there), each example once, and are then measured alike: mean
negative log-likelihood of the completion tokens (EOS included) of `--validation` questions. Each runs in a process of
its own, so that neither finds the other's memory or warm kernels.

- baseline: `SFTTrainer(model=..., args=SFTConfig(...), train_dataset=..., peft_config=...)` as TRL's quickstart writes
  it: prompt and completion columns, its own padding, loss, float type and optimizer.
- ours: the experiment's settings, as `t2s train` runs them, with its process' environment.

Both take the experiment's batch size and schedule, the same learning rate, and the examples in the same order, so that
only the engine differs and the losses can be held against each other. The rate is 1e-3, since a higher one multiplies
what the baseline's bfloat16 rounds away; `--learning-rate` is another. TRL's own rate of 2e-5 learns next to nothing
from LoRA in so few steps; `--quickstart-rate` leaves the baseline its batch size, rate and schedule.
`questions_a_table` is left out: it would form other batches, and count tokens that are not computed.

TRL's defaults are bfloat16 by autocast over weights of the base's type, and gradient checkpointing, on a CPU too.
`--tuned-baseline` gives it what its user would set first: the number format that ours runs in, and no checkpointing.

What is printed: examples/s and real (unpadded) tokens/s over whole steps, the peak of resident memory, loss curve,
gradient norms, and the share of the matrix-multiplication limit: the rate that plain products of this model's sizes
reach on this machine in the number format that ours trains in. It is measured between all steps of either side, for a
part of their time that is not counted as theirs, since neighbours on the host change it from second to second, that of
AMX threefold. The share is model FLOPs utilisation: all matrix products that the training needs (`Shape.flops`; those
with frozen weights alone beside it) over what the limit would have done in the steps' time. Gradient norms near zero:
nothing was learnt, whatever the speed. Timings mean something on an idle machine.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from t2s_assets.text2sql import base_models, parity, records, training
from t2s_assets.text2sql.config import Experiment
from t2s_assets.text2sql.plain_text import encode
from t2s_assets.text2sql.prepare import sample
from t2s_assets.text2sql.prompt_datasets import load_prompts
from t2s_assets.text2sql.prompts import encode_example
from t2s_assets.text2sql.storage import MANIFEST, Project
from t2s_assets.text2sql.training import cost
from t2s_assets.text2sql.training.plan import shape_in

SIDES = ("baseline", "ours")


def rows_of(project: Project, address: str, config: Experiment, split: str, count: int, seed: int) -> list[Any]:
    """A seeded sample of a split's prompts that fit the experiment's length."""
    data = load_prompts(project, *address.split("/"))[split].to_list()
    fits = [r for r in data if r["prompt_tokens"] + r["completion_tokens"] <= config.prompt.max_length]
    return list(sample(fits, count, seed=seed, key=lambda r: r["id"]))


def shape_of(project: Project, config: Experiment) -> cost.Shape:
    """The shape of the experiment's base, whose products are counted."""
    shape = shape_in(base_models.fetch(config.base_model, project).folder)
    if shape is None:
        sys.exit("the base is none of Llama, Mistral or Qwen2, so the share of the matmul limit cannot be told")
    return shape


class MatmulLimit:
    """FLOP/s of products of `tokens` rows with this model's MLP and attention weights, as torch multiplies them."""

    def __init__(self, shape: cost.Shape, dtype: str, tokens: int) -> None:
        import torch

        kind = getattr(torch, dtype)
        sizes = sorted(set(shape.linears.values()))
        self._pairs = [(torch.randn(tokens, i).to(kind), torch.randn(i, o).to(kind)) for i, o in sizes]
        self._flops = sum(2.0 * a.shape[0] * a.shape[1] * b.shape[1] for a, b in self._pairs)

    def rate(self, seconds: float) -> float:
        """Their mean over at least `seconds`, warm."""
        self._round()
        rounds, started = 0, time.perf_counter()
        while rounds == 0 or time.perf_counter() - started < seconds:
            self._round()
            rounds += 1
        return rounds * self._flops / (time.perf_counter() - started)

    def _round(self) -> None:
        for a, b in self._pairs:
            a @ b


class Stopwatch:
    """The seconds of a training's steps, and the limit's rate in front of each and behind the last.

    A rate takes a tenth of the seconds of the step before it, and 0.2 at least.
    """

    def __init__(self, limit: MatmulLimit) -> None:
        self._limit = limit
        self.seconds: list[float] = []
        self.rates: list[float] = []

    def callback(self) -> Any:
        """What tells a Trainer's steps apart."""
        from transformers import TrainerCallback

        class Steps(TrainerCallback):
            def on_train_begin(self, *_: Any, **__: Any) -> None:
                watch._begin()

            def on_step_end(self, *_: Any, **__: Any) -> None:
                watch.seconds.append(time.perf_counter() - watch._began)
                watch._begin()

        watch = self
        return Steps()

    def _begin(self) -> None:
        self.rates.append(self._limit.rate(max(0.2, 0.1 * (self.seconds[-1] if self.seconds else 0.0))))
        self._began = time.perf_counter()

    def possible_flops(self) -> float:
        """What the limit would have done in the steps' time."""
        around = zip(self.seconds, self.rates, self.rates[1:])
        return sum(seconds * (before + after) / 2 for seconds, before, after in around)


def baseline(project: Project, options: argparse.Namespace, config: Experiment) -> dict[str, Any]:
    """TRL's quickstart on the same examples."""
    from datasets import Dataset
    from peft import LoraConfig
    from torch.optim.lr_scheduler import LambdaLR
    from trl import SFTConfig, SFTTrainer

    from t2s_assets.text2sql.training.clock import warm_then_cosine

    placement = base_models.place_training(config)
    base = base_models.fetch(config.base_model, project)
    tokenizer = base_models.load_tokenizer(base)
    train = rows_of(project, options.experiment, config, "train", options.examples, options.seed)
    kept = [{n: r[n] for n in ("prompt", "completion")} for r in train]
    changes: dict[str, Any] = {}
    if not options.quickstart_rate:
        changes = {
            "per_device_train_batch_size": config.training.batch_size,
            "gradient_accumulation_steps": config.training.gradient_accumulation,
            "learning_rate": config.training.learning_rate,
        }
    if options.tuned_baseline:
        changes |= {
            "bf16": placement.dtype == "bfloat16",
            "gradient_checkpointing": False,
            "model_init_kwargs": {"dtype": placement.dtype},
        }
    args = SFTConfig(
        output_dir=options.folder,
        num_train_epochs=1,
        seed=options.seed,
        train_sampling_strategy="sequential",
        logging_steps=options.logging,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=placement.device == "cpu",
        **changes,
    )
    trainer = SFTTrainer(
        model=str(base.folder),
        args=args,
        processing_class=tokenizer,
        train_dataset=Dataset.from_list(kept),
        peft_config=LoraConfig(
            r=config.lora.rank,
            lora_alpha=config.lora.alpha,
            target_modules=list(config.lora.targets),
            task_type="CAUSAL_LM",
        ),
    )
    if not options.quickstart_rate:

        def same_schedule(num_training_steps: int, optimizer: Any = None) -> Any:
            rate = functools.partial(warm_then_cosine, steps=num_training_steps, warmup=config.training.warmup_ratio)
            trainer.lr_scheduler = LambdaLR(optimizer or trainer.optimizer, rate)
            return trainer.lr_scheduler

        trainer.create_scheduler = same_schedule
    return _measured(trainer, train, config, options, tokenizer, project, placement)


def ours(project: Project, options: argparse.Namespace, config: Experiment) -> dict[str, Any]:
    """The experiment's own training on the same examples: an epoch of them, its clock and checkpoints left out."""
    import torch
    from datasets import Dataset

    from t2s_assets.text2sql.training.clock import Clock
    from t2s_assets.text2sql.training.trainer import BudgetTrainer, arguments, step_arguments

    placement = base_models.place_training(config)
    base = base_models.fetch(config.base_model, project)
    tokenizer = base_models.load_tokenizer(base)
    train = rows_of(project, options.experiment, config, "train", options.examples, options.seed)
    prompts, completions = (encode(tokenizer, [r[n] for r in train]) for n in ("prompt", "completion"))
    examples = [encode_example(p, c, tokenizer.eos_token_id) for p, c in zip(prompts, completions)]
    data = Dataset.from_list([e | {"length": len(e["input_ids"])} for e in examples])
    t = config.training
    steps = max(1, -(-len(data) // (t.batch_size * t.gradient_accumulation)))
    folder = Path(options.folder)
    args = arguments(t, placement, folder, max_steps=steps, max_length=config.prompt.max_length)
    args.eval_strategy = args.save_strategy = "no"
    args.load_best_model_at_end = False
    args.logging_steps = options.logging
    args.train_sampling_strategy = "sequential"
    model = base_models.load_model(base, placement)
    alone = t.model_copy(update={"questions_a_table": 1})
    threads = torch.get_num_threads()
    trainer = BudgetTrainer(
        model=model,
        args=args,
        processing_class=tokenizer,
        train_dataset=data,
        clock=Clock(folder / "plan.json"),
        budget_seconds=None,
        warmup=t.warmup_ratio,
        **step_arguments(model, tokenizer, config.lora, alone, placement, threads=threads, log=print),
    )
    return _measured(trainer, train, config, options, tokenizer, project, placement)


def _measured(
    trainer: Any,
    train: list[Any],
    config: Experiment,
    options: argparse.Namespace,
    tokenizer: Any,
    project: Project,
    placement: base_models.Placement,
) -> dict[str, Any]:
    import torch

    shape = shape_of(project, config)
    watch = Stopwatch(MatmulLimit(shape, placement.dtype, cost.PASS_TOKENS))
    trainer.add_callback(watch.callback())
    trainer.train()
    seconds, possible = sum(watch.seconds), watch.possible_flops()
    peak = records.peak_memory_gb(trainer.args.device.type)
    history = [h for h in trainer.state.log_history if "loss" in h]
    validation = rows_of(project, options.experiment, config, "validation", options.validation, options.seed)
    lengths = [r["prompt_tokens"] + r["completion_tokens"] for r in train]
    labelled = sum(r["completion_tokens"] for r in train)
    return {
        "examples": len(train),
        "seconds": seconds,
        "examples_per_s": len(train) / seconds,
        "tokens_per_s": sum(lengths) / seconds,
        "matmul_share": shape.flops(lengths, labelled, config.lora) / possible,
        "matmul_share_frozen": shape.frozen_flops(sum(lengths), labelled) / possible,
        "matmul_gflops": possible / seconds / 1e9,
        "matmul_gflops_range": [round(rate / 1e9) for rate in (min(watch.rates), max(watch.rates))],
        "steps": trainer.state.global_step,
        "format": _format(trainer),
        "peak_rss_gb": peak,
        "losses": [round(h["loss"], 4) for h in history],
        "grad_norms": [round(float(h["grad_norm"]), 4) for h in history],
        "val_loss": parity.said(trainer.model.eval(), tokenizer, validation).loss,
        "threads": torch.get_num_threads(),
    }


def _format(trainer: Any) -> str:
    """The base's weights, what multiplies them, and whether passes are computed twice."""
    said = str(trainer.model.get_base_model().dtype).removeprefix("torch.")
    if trainer.args.bf16 and said != "bfloat16":
        said += " in bfloat16 autocast"
    return said + (", gradient checkpointing" if trainer.args.gradient_checkpointing else "")


def run_side(project: Project, side: str, options: argparse.Namespace) -> dict[str, Any]:
    """One side in a process of its own; ours gets the environment that `t2s train` gives."""
    config = project.experiment(*options.experiment.split("/"))
    environment = dict(os.environ)
    if side == "ours":
        environment |= training.environment(project, config)
    with tempfile.TemporaryDirectory(prefix="t2s-bench-") as folder:
        out = Path(folder) / "measured.json"
        line = [sys.executable, __file__, *sys.argv[1:], "--side", side, "--folder", folder, "--json", str(out)]
        done = subprocess.run(line, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            sys.exit(f"{side} failed:\n{done.stderr[-3000:]}")
        return json.loads(out.read_text())


def show(side: str, m: dict[str, Any]) -> None:
    """Print one side."""
    low, high = m["matmul_gflops_range"]
    print(
        f"{side:9} {m['examples_per_s']:.2f} examples/s, {m['tokens_per_s']:.0f} tokens/s, {m['steps']} steps, peak "
        f"{m['peak_rss_gb']:.2f} GB, validation loss {m['val_loss']:.4f}, {m['matmul_share']:.1%} of "
        f"{m['matmul_gflops']:.0f} GFLOP/s ({low}-{high}; {m['matmul_share_frozen']:.1%} with frozen weights), "
        f"{m['threads']} threads, {m['format']}"
    )
    print(f"          loss {m['losses']}\n          gradient norm {m['grad_norms']}", flush=True)


def main() -> None:
    """Both sides in turn, and the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiment", default="wikisql/smollm2-cpu", metavar="DATASET/EXPERIMENT")
    parser.add_argument("--examples", type=int, default=512)
    parser.add_argument("--validation", type=int, default=128, help="questions that both are measured on")
    parser.add_argument("--logging", type=int, default=8, help="steps between the losses shown")
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="of both sides")
    parser.add_argument("--quickstart-rate", action="store_true", help="the baseline keeps TRL's batch, rate, schedule")
    parser.add_argument(
        "--tuned-baseline", action="store_true", help="the baseline in our format, nothing computed twice"
    )
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    project = Project.find()
    config = project.experiment(*options.experiment.split("/"))
    rate = {"learning_rate": options.learning_rate}
    config = config.model_copy(update={"training": config.training.model_copy(update=rate)})
    if options.side:
        measured = {"baseline": baseline, "ours": ours}[options.side](project, options, config)
        options.json.write_text(json.dumps(measured))
        return
    if not (project.path(*options.experiment.replace("/", "/prompts/").split("/")) / MANIFEST).exists():
        command = [sys.executable, "-c", "from t2s_assets.cli import main; main()", "prepare", options.experiment]
        subprocess.run(command, check=True)
    shape_of(project, config)  # before hours of a baseline, whose share could not be told
    placement = base_models.place_training(config)
    print(f"{options.experiment} on {placement.device}, {placement.dtype}")
    found = {}
    for side in SIDES:
        found[side] = run_side(project, side, options)
        show(side, found[side])
    mine, theirs = found["ours"], found["baseline"]
    speedup = mine["examples_per_s"] / theirs["examples_per_s"]
    print(f"speed-up {speedup:.2f}, validation loss {mine['val_loss'] / theirs['val_loss'] - 1:+.1%}")
    if options.json:
        result = {
            "examples_per_s": mine["examples_per_s"],
            "speedup": speedup,
            "val_loss": mine["val_loss"],
            "baseline_val_loss": theirs["val_loss"],
            "matmul_share": mine["matmul_share"],
            "matmul_share_frozen": mine["matmul_share_frozen"],
            "peak_rss_gb": mine["peak_rss_gb"],
            "matmul_gflops": mine["matmul_gflops"],
            "ours": mine,
            "baseline": theirs,
            "versions": records.versions(),
        }
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
