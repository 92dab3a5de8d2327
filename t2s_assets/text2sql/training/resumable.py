"""TRL's SFTTrainer that is told to stop and loses nothing: checkpoints that are whole, signals between steps, and an
evaluation that a stop left out made up for."""

from __future__ import annotations

import math
import shutil
import tempfile
import time
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from pathlib import Path
from typing import Any

import torch
from transformers.trainer_utils import rotate_checkpoints
from trl import SFTTrainer

from t2s_assets.text2sql.processes.stopping import BrokenOff
from t2s_assets.text2sql.training import checkpoints
from t2s_assets.text2sql.training.clock import PLAN, Clock
from t2s_assets.text2sql.training.progress import NotFinite, Progress, check_finite
from t2s_assets.text2sql.training.selection import AnswerFigures


class ResumableTrainer(SFTTrainer):
    """SFTTrainer whose run can end at any moment and go on as if it had not."""

    def __init__(
        self,
        *args: Any,
        clock: Clock,
        figures: AnswerFigures | None = None,
        **kwargs: Any,
    ) -> None:
        """`clock` goes into each checkpoint. What `figures` finds at each evaluation becomes `eval_<name>`."""
        self.clock = clock
        self.losses_before: float = clock.plan.get("losses", 0.0)
        self._seconds_before: float = clock.plan.get("seconds_of_steps", 0.0)
        self._started = math.nan
        self.figures = figures
        super().__init__(*args, **kwargs)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As transformers trains; a signal to stop is one for after the step."""
        self._started = time.monotonic()
        with self._progress.signal.steps() if self._progress else nullcontext():
            return super().train(*args, **kwargs)

    @property
    def seconds_of_steps(self) -> float:
        """Seconds of training, its evaluations among them; of a resumed one, with those up to its checkpoint."""
        return self._seconds_before + time.monotonic() - self._started

    @property
    def _progress(self) -> Progress | None:
        return next((c for c in self.callback_handler.callbacks if isinstance(c, Progress)), None)

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """The loss on the validation sample, and what `figures` finds.

        Raises:
            BrokenOff: told to stop; on every rank, at the same place.
        """
        alone = self.accelerator.num_processes == 1
        with self._breakable() if alone else nullcontext():
            output = super().evaluation_loop(*args, **kwargs)
        if self.figures is not None:
            found = self._figures_found(self.figures, output.metrics["eval_loss"])
            output.metrics.update({f"eval_{name}": value for name, value in found.items()})
        return output

    def _breakable(self) -> AbstractContextManager[None]:
        return self._progress.signal.breakable() if self._progress else nullcontext()

    def _leave_if_told(self) -> None:
        """Raises BrokenOff, on every rank, where one was told to stop."""
        if self._progress and self._progress.told_to_stop():
            raise BrokenOff

    def prediction_step(self, *args: Any, **kwargs: Any) -> Any:
        """One batch of an evaluation. Several ranks agree before it whether to go on: where one leaves by itself, it
        leaves the others waiting in an exchange.

        Raises:
            BrokenOff: a rank was told to stop.
        """
        if self.accelerator.num_processes > 1:
            self._leave_if_told()
        return super().prediction_step(*args, **kwargs)

    def _figures_found(self, figures: AnswerFigures, loss: float) -> dict[str, float]:
        """Of the answers that ranks make apart. A rank that was told to stop leaves its own, and waits for those of
        ranks that were not, as where one of several nodes was told alone."""
        started, right = time.monotonic(), (0, 0)
        with suppress(BrokenOff), self._breakable():
            right = figures.right(self.model)
        self._leave_if_told()
        return figures.shares(right, loss) | {"generating_seconds": round(time.monotonic() - started, 2)}

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        """What is due after a step; once told to stop, without the evaluation.

        Launchers kill a rank that does not end within seconds, and the checkpoint would come after the evaluation.
        """
        if self._progress and self._progress.stopped:
            self.control.should_evaluate = False
        if not self.control.should_evaluate:
            super()._maybe_log_save_evaluate(*args, **kwargs)
            return
        with tempfile.TemporaryDirectory(prefix="t2s-") as before:
            self._save_rng_state(before)
            try:
                super()._maybe_log_save_evaluate(*args, **kwargs)
            except BrokenOff:
                self._load_rng_state(before)  # from which the evaluation will draw that is made up for
                self._stop_without_evaluation()
                super()._maybe_log_save_evaluate(*args, **kwargs)

    def _stop_without_evaluation(self) -> None:
        assert self._progress is not None
        self.control.should_evaluate = False
        self._progress.on_step_end(self.args, self.state, self.control)

    def _evaluate_late(self, checkpoint: str, folder: Path, *due: Any) -> str:
        """The evaluation of `checkpoint`'s step, where a stop left it out.

        The checkpoint stays as it is: written again, it could be lost to a full disk or a kill, and all that it lacks
        is the evaluation. The next one has that in its log; without a next one, it is made again.

        `folder` is for random states; `due`: as transformers passes to `_maybe_log_save_evaluate` after the loss and
        the gradient's norm. Returns the folder whose random state the steps begin with.
        """
        state = self.state
        if state.global_step % state.eval_steps != 0 and state.global_step < state.max_steps:
            return checkpoint
        if any("eval_loss" in h and h["step"] == state.global_step for h in state.log_history):
            return checkpoint
        begun, evaluated = folder / "begun", folder / "evaluated"
        begun.mkdir()
        evaluated.mkdir()
        self._save_rng_state(str(begun))  # from which the epoch draws its order
        self._load_rng_state(checkpoint)  # from which the evaluation draws, and after it the steps
        self.control.should_evaluate = True
        try:
            super()._maybe_log_save_evaluate(self._tr_loss, None, *due)
        except BrokenOff:
            self._stop_without_evaluation()
            self.control.should_save = False
        self._save_rng_state(str(evaluated))
        self._load_rng_state(str(begun))
        if state.best_global_step == state.global_step:
            state.best_model_checkpoint = checkpoint  # transformers says so when it writes one
        return str(evaluated)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """A checkpoint that counts only when it is whole; older ones go after that.

        Raises:
            StorageError: it cannot be written.
            NotFinite: loss or weights are not finite, on every rank.
        """
        self._check_finite()
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        folder = Path(self.args.output_dir)
        written = folder / f"checkpoint-{self.state.global_step}"
        try:
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                # transformers forgets the losses of earlier sessions.
                self.clock.plan["losses"] = self.losses_before + self._total_loss_scalar + self._tr_loss.item()
                self.clock.plan["seconds_of_steps"] = self.seconds_of_steps
                self.clock.save(written / PLAN)
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
            # By their steps, not by their times: of a clock that was put back, the newest would count as the oldest.
            rotate_checkpoints(output_dir=str(folder), save_total_limit=limit, best_model_checkpoint=best)

    def _check_finite(self) -> None:
        """See that loss and weights are finite before they are kept: each rerun would go on from there, and end there.

        Raises:
            NotFinite: the loss since it was last told, or a weight of the adapter.
        """
        weights = [_here(p).float().sum() for p in self.model.parameters() if p.requires_grad]
        found = torch.stack([self._tr_loss.float(), torch.stack(weights).sum()])
        loss, weights_sum = self.accelerator.reduce(found, reduction="mean").tolist()
        check_finite(loss, self.state.global_step)
        if not math.isfinite(weights_sum):
            raise NotFinite(
                f"the adapter's weights are no finite numbers after step {self.state.global_step}; lower "
                "training.learning_rate, or use hardware.dtype: float32. The last good adapter was left as it is"
            )

    def _run_epoch(self, **kwargs: Any) -> None:
        """Nothing where a resumed run has all its steps already: transformers would train one more, and then look."""
        checkpoint = kwargs["resume_from_checkpoint"]
        with ExitStack() as held:
            if checkpoint is not None and kwargs["epoch"] == kwargs["epochs_trained"]:
                due = ("model", "trial", "epoch", "ignore_keys_for_eval", "start_time")
                folder = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="t2s-")))
                late = self._evaluate_late(checkpoint, folder, *(kwargs[name] for name in due))
                kwargs["resume_from_checkpoint"] = late  # transformers reads nothing else of it here
            if self.state.global_step >= self.state.max_steps:
                self.control.should_training_stop = True
            if not self.control.should_training_stop:
                super()._run_epoch(**kwargs)


def _here(weight: torch.Tensor) -> torch.Tensor:
    """A weight without its gradient; of one that ranks share out, this rank's part."""
    weight = weight.detach()
    return weight.to_local() if hasattr(weight, "to_local") else weight
