"""One training, from prompts to the adapter's folder: examples, plan, trainer, and what stands beside the weights."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from t2s_assets.text2sql import adapters, base_models, parity, records
from t2s_assets.text2sql.config import Experiment
from t2s_assets.text2sql.errors import DataError, ModelError, PromptError, T2SError
from t2s_assets.text2sql.plain_text import encode
from t2s_assets.text2sql.prepare import sample
from t2s_assets.text2sql.processes.stopping import Stopped, StopSignal, is_main
from t2s_assets.text2sql.prompt_datasets import load_prompts
from t2s_assets.text2sql.prompts import IGNORED, PromptFormat, encode_example
from t2s_assets.text2sql.storage import (
    Project,
    file_hash,
    read_manifest,
    replacing_folder,
    write_json,
    write_manifest,
)
from t2s_assets.text2sql.training import checkpoints, cost, guards, plan, sharding, shared_schemas
from t2s_assets.text2sql.training.clock import Clock

Log = Callable[[str], None]


class TrainingRun:
    """One training run, on one rank."""

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
        self.replay: dict[str, Any] | None = None
        self.signal = StopSignal()
        self.figures: Any = None
        self.probe: list[dict[str, Any]] = []
        self.commit = records.git_commit()  # of the code that was read when the run began
        self.progress: Any = None

    def train(self, prompts_version: str) -> dict[str, Any]:
        """Train and write the adapter; returns its manifest."""
        from t2s_assets.text2sql.training.progress import check_finite

        self.work.mkdir(parents=True, exist_ok=True)
        checkpoint = checkpoints.last_whole(self.work, self.log if is_main() else lambda line: None)
        trainer, tokenizer, clock = self._prepared(checkpoint)
        total = sum(p.numel() for p in trainer.model.parameters())
        trainable = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
        rows = plan.Rows.of(trainer.train_dataset, self.config.training)
        packed = f" packed in {len(rows.lengths):,} rows" if self.config.training.packing else ""
        self.log(
            f"{rows.examples:,} examples{packed}, {trainer.args.max_steps:,} steps of "
            f"{self._batch():,}; {trainable:,} of {total:,} parameters are trained"
        )
        if checkpoint:
            self.log(f"going on from {checkpoint.name}")
        result = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        check_finite(result.training_loss, trainer.state.global_step)
        steps = trainer.state.global_step
        if self.progress.stopped:
            raise Stopped(f"{self.progress.stopped}; its checkpoint is kept, and the same command goes on from it")
        seconds = trainer.seconds_of_steps
        seen = rows.seen(steps, self.config.training, self.config.ranks)
        new_steps = steps - (checkpoints.step_of(checkpoint) if checkpoint else 0)
        facts = {
            "key": self.key,
            "steps": steps,
            "planned_steps": clock.plan.get("first_steps", trainer.args.max_steps),
            "examples_seen": round(seen * rows.examples_each),
            "epochs": round(seen / len(rows.lengths), 3),
            "train_loss": round((trainer.losses_before + result.training_loss * new_steps) / steps, 5),
            **_chosen(trainer, self.config.training.best),
            "minutes": round(clock.seconds / 60, 2),
            "examples_a_second": round(seen * rows.examples_each / seconds, 2),
            "tokens_a_second": round(seen * rows.tokens_each / seconds, 1),
            "peak_memory_gb": round(
                max(clock.plan.get("peak_memory_gb", 0.0), records.peak_memory_gb(self.placement.device)), 2
            ),
            "planned_memory_gb": round(self.plan_made.memory.gb, 2) if self.plan_made.memory else None,
            "parameters": total,
            "trainable_parameters": trainable,
            "trainable_share": round(trainable / total, 5),
            "world_size": trainer.args.world_size,
            "stopped_early_at": clock.plan.get("stopped_early_at"),
        }
        weights = sharding.whole_adapter(trainer.model)
        if trainer.is_world_process_zero():
            self._save(trainer, weights, tokenizer, facts, prompts_version, clock)
        trainer.accelerator.wait_for_everyone()
        return read_manifest(self.project.path(self.dataset, "adapter", self.experiment), made_by="")

    def plan(self) -> None:
        """Say what it would cost."""
        self._prepared(None, at_least_timed=True)

    def _prepared(self, checkpoint: Path | None, *, at_least_timed: bool = False) -> tuple[Any, Any, Any]:
        """(trainer, tokenizer, clock), after everything that can refuse the run has looked at it."""
        from torch import get_num_threads

        threads = get_num_threads()
        self.log(f"{self.base.folder.name} on {', '.join(self.placement.as_dict().values())}")
        tokenizer = base_models.load_tokenizer(self.base)
        train_set, eval_set, validation = self._examples(tokenizer)
        self.probe = validation
        longest, batch = max(train_set["length"]), None
        if self.config.training.questions_a_table > 1:
            batch, labelled = shared_schemas.largest_row(train_set.to_list(), self.config.training.batch_size)
        else:
            each = [sum(x != IGNORED for x in labels) for labels in train_set["labels"]]
            labelled = max(each)
            if self.config.training.packing:
                longest = self.config.prompt.max_length
                labelled = cost.most_labelled(train_set["length"], each, row=longest)
        targets = self.project.dataset(self.dataset).targets
        # A training that goes on has written its checkpoints, and only replaces them.
        work = self.project.path(self.dataset, "checkpoints", self.experiment) if checkpoint is None else None
        self.plan_made = plan.before_loading(
            self.config,
            plan.shape_in(self.base.folder),
            self.placement,
            longest=longest,
            longest_completion=labelled,
            threads=threads,
            longest_batch=batch,
            work=work,
            targets=targets,
        )
        self.log(self.plan_made.described())
        clock = Clock.of(self.work, checkpoint, replay=self.replay, log=self.log)
        trainer = self._trainer(tokenizer, train_set, eval_set, validation, clock, threads)
        plan.time_it(
            trainer,
            self.config,
            clock,
            self.figures,
            fresh=checkpoint is None and self.replay is None,
            always=at_least_timed,
            work=work,
            targets=targets,
            log=self.log,
        )
        if self.figures is not None and "scored_questions" in clock.plan:
            ids = [q.id for q in self.figures.questions]
            limit, seed = clock.plan["scored_questions"], self.config.training.seed
            self.figures.keep(list(sample(ids, limit, seed=seed, key=str)))
        return trainer, tokenizer, clock

    def _batch(self) -> int:
        t = self.config.training
        return t.batch_size * t.gradient_accumulation * self.config.ranks

    def _examples(self, tokenizer: Any) -> tuple[Any, Any, list[dict[str, Any]]]:
        """The tokenised training set, the seeded validation sample, and that sample's prompts."""
        from datasets import Dataset

        data = load_prompts(self.project, self.dataset, self.experiment)
        max_length = self.config.prompt.max_length
        built, kept = [], {}
        for split in ("train", "validation"):
            rows = data[split].to_list()
            if split == "validation":
                rows = [r for r in rows if r["prompt_tokens"] + r["completion_tokens"] <= max_length]
                limit, seed = self.config.training.eval_examples, self.config.training.seed
                rows = list(sample(rows, limit, seed=seed, key=lambda r: r["id"]))
            if not rows:
                raise self._no_examples(split, data[split])
            prompts = encode(tokenizer, [r["prompt"] for r in rows])
            completions = encode(tokenizer, [r["completion"] for r in rows])
            examples = [encode_example(p, c, tokenizer.eos_token_id) for p, c in zip(prompts, completions)]
            way_out = f"make them again with: t2s prepare {self.dataset}/{self.experiment}"
            problems = guards.example_problems(examples, rows, tokenizer, max_length=max_length)
            guards.refuse(problems, what=f"{split} examples of {self.dataset}/{self.experiment}", way_out=way_out)
            for example in examples:
                example["length"] = len(example["input_ids"])  # type: ignore[assignment]
            if self.config.training.questions_a_table > 1:
                examples = self._with_shared_schemas(examples, [r["table_id"] for r in rows])
            built.append(Dataset.from_list(examples))
            kept[split] = rows
        if guards.tables_apart(self.project, self.dataset):
            guards.refuse(
                guards.split_problems({split: data[split]["table_id"] for split in data}),
                what=f"the prompts of {self.dataset}/{self.experiment}",
                way_out="mend the source's splits and prepare again",
            )
        return built[0], built[1], kept["validation"]

    def _no_examples(self, split: str, prompts: Any) -> T2SError:
        """Why a split has none to train or to choose a checkpoint with; `prompts` are all of its."""
        if not len(prompts):
            return DataError(
                f"{self.dataset}: the {split} split has no examples, training needs some; give some questions split: "
                f"{split}"
            )
        shortest = min(p + c for p, c in zip(prompts["prompt_tokens"], prompts["completion_tokens"]))
        return PromptError(
            f"{self.dataset}/{self.experiment}: every {split} example is longer than prompt.max_length = "
            f"{self.config.prompt.max_length} tokens (the shortest has {shortest}), training needs some; raise it"
        )

    def _with_shared_schemas(self, examples: list[dict[str, Any]], tables: list[str]) -> list[dict[str, Any]]:
        """The examples in the order that lets neighbours share their schema, each with its table's name."""
        training = self.config.training
        places = shared_schemas.order(tables, questions_a_table=training.questions_a_table, seed=training.seed)
        return [{**examples[i], "table": tables[i]} for i in places]

    def _trainer(
        self,
        tokenizer: Any,
        train_set: Any,
        eval_set: Any,
        validation: list[dict[str, Any]],
        clock: Any,
        threads: int,
    ) -> Any:
        from transformers import PrinterCallback

        from t2s_assets.text2sql.decoding.supported import check_model
        from t2s_assets.text2sql.training.pace import Pace
        from t2s_assets.text2sql.training.progress import EarlyStop, Progress
        from t2s_assets.text2sql.training.selection import AnswerFigures
        from t2s_assets.text2sql.training.trainer import BudgetTrainer, arguments, step_arguments

        training, lora = self.config.training, self.config.lora
        budget = training.budget_minutes * 60 if training.budget_minutes and self.replay is None else None
        model = sharding.load_model(self.base, self.placement, training)
        check_model(model)  # one that could not be asked afterwards
        guards.check_context(model.config, max(max(part["length"]) for part in (train_set, eval_set)))
        head = model.get_output_embeddings()  # of which TRL reads the weights alone
        linears = [name for name, m in model.named_modules() if "Linear" in type(m).__name__ and m is not head]
        there = {name.rsplit(".", 1)[-1] for name in linears}
        if missing := sorted(set(lora.targets) - there):
            raise ModelError(f"lora.targets: {missing} are no linear layers of this base; there are {sorted(there)}")
        embeddings = model.get_input_embeddings().weight.shape[0]
        guards.refuse(
            guards.token_problems(tokenizer, embeddings),
            what=f"the tokenizer of {self.base.folder.name}",
            way_out="use the tokenizer that belongs to these weights",
        )
        if training.best in ("ex", "em"):
            prompts = {r["id"]: r["prompt"] for r in validation}
            self.figures = AnswerFigures(self.project, self.dataset, self.config, tokenizer, prompts)
        steps = training.max_steps or clock.plan.get("max_steps")
        args = arguments(
            training, self.placement, self.work, max_steps=steps or 1, max_length=self.config.prompt.max_length
        )
        self.progress = Progress(self.log, clock, budget, self.signal, best=training.best)
        callbacks: list[Any] = [self.progress, _best_in(self.work)]
        if budget is not None:
            callbacks.append(Pace(clock, budget, self.log))
        if training.early_stopping:
            callbacks.append(EarlyStop(training.early_stopping, training.best, self.log, clock.plan))
        trainer = BudgetTrainer(
            model=model,
            args=args,
            processing_class=tokenizer,
            train_dataset=train_set,
            eval_dataset=eval_set,
            callbacks=callbacks,
            clock=clock,
            budget_seconds=budget,
            warmup=training.warmup_ratio,
            figures=self.figures,
            **step_arguments(model, tokenizer, lora, training, self.placement, threads=threads, log=self.log),
        )
        if training.epochs:  # of the trainer's rows, which it packs itself
            steps = plan.Rows.of(trainer.train_dataset, training).steps_an_epoch(training, self.config.ranks)
            trainer.args.max_steps = max(1, round(training.epochs * steps))
        trainer.remove_callback(PrinterCallback)  # Progress says the same, to Dagster too
        if training.packing:
            guards.check_packing(trainer.model, trainer.data_collator, train_set)
        return trainer

    def _save(
        self, trainer: Any, adapter: Any, tokenizer: Any, facts: dict[str, Any], prompts_version: str, clock: Any
    ) -> None:
        from safetensors import safe_open

        from t2s_assets.text2sql.plots import plot_loss

        folder = self.project.path(self.dataset, "adapter", self.experiment)
        with replacing_folder(folder) as fresh:
            model = trainer.accelerator.unwrap_model(trainer.model)
            model.save_pretrained(str(fresh), state_dict=adapter, safe_serialization=True, save_embedding_layers=False)
            with safe_open(str(fresh / adapters.WEIGHTS), "pt") as weights:
                guards.check_adapter_keys(weights.keys())
            tokenizer.save_pretrained(str(fresh))
            (fresh / "README.md").unlink(missing_ok=True)  # peft's card is an empty form
            source = self.project.path(self.dataset, "prompts", self.experiment)
            PromptFormat.load(source).save(fresh)
            parity.save_probe(fresh, self.probe)
            history = trainer.state.log_history
            write_json(fresh / adapters.CURVE, {"log_history": history, "global_step": facts["steps"]})
            facts["adapter_mb"] = round((fresh / adapters.WEIGHTS).stat().st_size / 1e6, 2)
            write_json(
                fresh / adapters.RESOLVED_CONFIG,
                {
                    "address": [self.dataset, self.experiment],
                    "experiment": self.config.resolved(),
                    "base_identity": self.base.identity,
                    "placement": self.placement.as_dict(),
                    "planned_steps": facts["planned_steps"],
                    "prompts_version": prompts_version,
                },
            )
            write_json(fresh / adapters.SCHEDULE, clock.schedule(facts["steps"], trainer.state.max_steps))
            plot_loss(history, fresh / "loss.png")
            facts |= {
                "versions": records.versions(),
                "machine": records.machine(),
                "git_commit": self.commit,
                "prompts_version": prompts_version,
            }
            write_json(fresh / adapters.METRICS, facts)
            write_manifest(fresh, file_hash(fresh / adapters.WEIGHTS, length=16), facts)
        shutil.rmtree(self.work, ignore_errors=True)
        self.log(f"adapter of {facts['adapter_mb']} MB written to {folder}")


def _best_in(folder: Path) -> Any:
    """A callback that has a resumed run find its best checkpoint in `folder`.

    A checkpoint names it with the absolute path of its day. Where storage was moved since, transformers would forget
    it and keep the last weights; where it was copied, it would read, and keep, the one that is elsewhere.
    """
    from transformers import TrainerCallback

    class BestInFolder(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            best = folder / f"checkpoint-{state.best_global_step}"
            if best.is_dir():
                state.best_model_checkpoint = str(best)

    return BestInFolder()


def _chosen(trainer: Any, best: str) -> dict[str, Any]:
    """The validation figures of the checkpoint that became the adapter; None where they were not measured."""
    told = [h for h in trainer.state.log_history if "eval_loss" in h]
    if best != "last" and trainer.state.best_global_step:
        told = [h for h in told if h["step"] == trainer.state.best_global_step]
    entry = told[-1] if told else {}
    loss = entry.get("eval_loss")
    return {
        "validation_loss": None if loss is None else round(loss, 5),
        "validation_ex": entry.get("eval_ex"),
        "validation_em": entry.get("eval_em"),
        "chosen_step": entry.get("step"),
        "generating_minutes": round(
            sum(h.get("eval_generating_seconds", 0.0) for h in trainer.state.log_history) / 60, 2
        ),
    }
