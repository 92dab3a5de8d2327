"""Which checkpoint becomes the adapter, judged by what users want: right answers on a validation sample."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from t2s_assets.text2sql.config import Experiment
from t2s_assets.text2sql.errors import ConfigError
from t2s_assets.text2sql.gold.protocol import Question
from t2s_assets.text2sql.prepare import gold_of, load_tables, load_usable
from t2s_assets.text2sql.processes import exchange
from t2s_assets.text2sql.storage import Project

CHOICE = "eval_choice"
"""The metric by which checkpoints are compared under `best: ex` and `em`."""

# So little that a lower loss never outweighs one more right answer in a million.
_LOSS_WEIGHT = 1e-8
# Fewer answers than this choose by luck.
FEWEST_QUESTIONS = 8


class AnswerFigures:
    """EX and EM of greedy answers to a seeded sample of validation questions, as the final evaluation scores them.

    Ranks share the questions: at each evaluation each of them answers its own (`right`), and all put together what
    they found (`shares`).
    """

    def __init__(
        self,
        project: Project,
        dataset: str,
        config: Experiment,
        tokenizer: Any,
        prompts: dict[str, str],
    ) -> None:
        """`prompts`: the sampled questions' ids with the model's input for each."""
        self.project, self.dataset, self.config, self.tokenizer = project, dataset, config, tokenizer
        self.prompts, self.best = prompts, config.training.best
        self.questions = [q for q in load_usable(project, dataset, ["validation"]) if q.id in prompts]
        wanted = {q.table_id for q in self.questions}
        self.tables = {n: t for n, t in load_tables(project, dataset, ["validation"]).items() if n in wanted}
        self._decoder: Any = None

    def keep(self, ids: Sequence[str]) -> None:
        """Ask only the questions with these ids."""
        chosen = set(ids)
        self.questions = [q for q in self.questions if q.id in chosen]

    def right(self, model: Any) -> tuple[int, int]:
        """How many of this rank's questions `model` answers right, by EX and by EM. Ranks exchange nothing in it."""
        rank, ranks = exchange.place()
        rows = self._scored(model, self.questions[rank::ranks])
        return sum(r["ex"] for r in rows), sum(r["em"] for r in rows)

    def shares(self, right: tuple[int, int], loss: float) -> dict[str, float]:
        """From all ranks' `right` and the validation loss: `ex` and `em`, shares of all sampled questions (0 to 1; see
        `metrics.summary`), and `choice`, by which checkpoints are compared: `best`'s figure, and among equals the lower
        loss. Called by every rank.
        """
        ex, em = (count / len(self.questions) for count in exchange.summed(*right))
        figures = {"ex": ex, "em": em}
        return figures | {"choice": figures[self.best] - _LOSS_WEIGHT * min(loss, 100.0)}

    def seconds_a_question(self, model: Any, *, timed: int = FEWEST_QUESTIONS) -> float:
        """How long an answer takes, from a few: an upper bound, since a trained model ends its SQL sooner."""
        questions = self.questions[:timed]
        started = time.monotonic()
        self._scored(model, questions)
        return (time.monotonic() - started) / len(questions)

    def _scored(self, model: Any, questions: Sequence[Question]) -> list[dict[str, Any]]:
        from t2s_assets.text2sql.decoding import Decoder
        from t2s_assets.text2sql.evaluation import examination, scoring
        from t2s_assets.text2sql.evaluation.generations import options
        from t2s_assets.text2sql.training.compiled import as_written

        if not questions:
            return []
        was_training = model.training
        model.eval()
        if self._decoder is None:
            self._decoder = Decoder(model, self.tokenizer, options(self.config.decoding))
        self._decoder.forget()  # what it keeps belongs to the weights before
        kind = gold_of(self.project, self.dataset).FORMAT
        requests = [examination.question_request(q, self.tables, self.prompts, kind) for q in questions]
        with as_written():
            answers = {q.id: asdict(c) for q, c in zip(questions, self._decoder.generate(requests))}
        self._decoder.forget()
        rows = scoring.score(self.project, self.dataset, questions, self.tables, answers, lambda line: None)
        model.train(was_training)
        return rows


def questions_within(
    share: float, budget_seconds: float, evaluations: int, seconds_a_question: float, most: int
) -> int:
    """How many answers an evaluation may generate for all of them to take at most `share` of the budget.

    Raises:
        ConfigError: too few to tell checkpoints apart.
    """
    allowed = int(share * budget_seconds / max(1, evaluations) / seconds_a_question)
    if allowed < min(FEWEST_QUESTIONS, most):
        raise ConfigError(
            f"training.best: ex and em need at least {min(FEWEST_QUESTIONS, most)} answers an evaluation; "
            f"training.eval_share = {share} leaves time for {allowed} in each of {evaluations} evaluations, at "
            f"{seconds_a_question:.2f} s an answer. Raise training.eval_steps, eval_share or budget_minutes, or use "
            "best: loss"
        )
    return min(allowed, most)
