"""The checkpoint that becomes the adapter, chosen by right answers; stopping when they get no better."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from t2s_assets.text2sql import training
from t2s_assets.text2sql.config import TrainingConfig
from t2s_assets.text2sql.errors import ConfigError
from t2s_assets.text2sql.prompt_datasets import make_prompts
from t2s_assets.text2sql.storage import read_json
from t2s_assets.text2sql.training.selection import AnswerFigures, questions_within
from t2s_assets_tests.projects import ProjectFiles
from t2s_assets_tests.trainable import add_experiment

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def run(towns: ProjectFiles, tiny_base: Path, request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Trains an experiment with these settings: (manifest, its evaluations, what was said)."""
    count = 0

    def go(*, resume: bool = False, **settings: Any) -> tuple[dict[str, Any], list[dict[str, Any]], list[str]]:
        nonlocal count
        count += not resume
        name = f"s{abs(hash(request.node.name)) % 10**8}-{count}"
        add_experiment(towns, tiny_base, name, **settings)
        make_prompts(towns.project, "towns", name, [].append)
        lines: list[str] = []
        manifest = training.train(towns.project, "towns", name, log=lines.append)
        folder = towns.project.path("towns", "adapter", name)
        history = read_json(folder / "trainer_state.json", made_by="")["log_history"]
        return manifest, [h for h in history if "eval_loss" in h], lines

    return go


def scripted(monkeypatch: pytest.MonkeyPatch, right: list[int]) -> None:
    """Evaluation k finds `right[k]` of six answers right, whatever the model says."""
    calls = iter(right)

    def scored(self: AnswerFigures, model: Any, questions: Any) -> list[dict[str, Any]]:
        count = next(calls)
        return [{"ex": i < count, "em": i < count - 1} for i in range(len(questions))]

    monkeypatch.setattr(AnswerFigures, "_scored", scored)


def test_answers_are_generated_executed_and_scored(run: Callable[..., Any]) -> None:
    manifest, evaluations, lines = run(best="ex", eval_examples=6, max_steps=2)
    (evaluation,) = evaluations
    for figure in ("eval_ex", "eval_em"):
        assert evaluation[figure] * 6 == pytest.approx(round(evaluation[figure] * 6))
    assert evaluation["eval_generating_seconds"] > 0
    assert manifest["validation_ex"] == evaluation["eval_ex"]
    assert [line for line in lines if line.startswith("step 2/2  validation loss") and "EX" in line and "EM" in line]


def test_measuring_answers_does_not_change_what_is_trained(run: Callable[..., Any]) -> None:
    settings = {"eval_examples": 3, "max_steps": 4, "lora": {"rank": 4, "alpha": 8, "dropout": 0.1}}
    by_loss, *_ = run(best="last", **settings)
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patch:
        # The last evaluation is the best, so both end with their last weights.
        real = AnswerFigures._scored

        def rising(self: AnswerFigures, model: Any, questions: Any) -> list[dict[str, Any]]:
            rows = real(self, model, questions)
            self.seen = getattr(self, "seen", 0) + 1  # type: ignore[attr-defined]
            return [{**r, "ex": i < self.seen} for i, r in enumerate(rows)]  # type: ignore[attr-defined]

        patch.setattr(AnswerFigures, "_scored", rising)
        by_answers, *_ = run(best="ex", **settings)
    assert by_answers["chosen_step"] == 4
    assert by_answers["data_version"] == by_loss["data_version"]


def test_the_checkpoint_with_most_right_answers_becomes_the_adapter(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"eval_examples": 6, "max_steps": 8}
    shorter, *_ = run(best="last", warmup_ratio=0.0, **settings)
    scripted(monkeypatch, [1, 5, 2, 3])
    manifest, evaluations, _ = run(best="ex", warmup_ratio=0.0, **settings)
    assert [round(6 * e["eval_ex"]) for e in evaluations] == [1, 5, 2, 3]
    assert (manifest["chosen_step"], manifest["validation_ex"]) == (4, 5 / 6)
    assert manifest["validation_loss"] == round(evaluations[1]["eval_loss"], 5)
    assert manifest["data_version"] != shorter["data_version"]
    scripted(monkeypatch, [5, 1, 2, 3])
    assert run(best="em", warmup_ratio=0.0, **settings)[0]["chosen_step"] == 2


def test_among_equals_the_lower_loss_is_chosen(run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, [2, 2, 2, 2])
    manifest, evaluations, _ = run(best="ex", eval_examples=6, max_steps=8)
    losses = {e["step"]: e["eval_loss"] for e in evaluations}
    assert manifest["chosen_step"] == min(losses, key=lambda step: losses[step])


def test_a_better_checkpoint_is_kept_also_between_regular_ones(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, [4, 1, 1, 1])
    manifest, *_ = run(best="ex", eval_examples=6, max_steps=8, eval_steps=2, save_steps=8, keep_checkpoints=1)
    assert manifest["chosen_step"] == 2


def test_training_stops_when_the_figure_gets_no_better(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"eval_examples": 6, "max_steps": 40, "early_stopping": 2}
    scripted(monkeypatch, [1, 3, 3, 2])
    manifest, _, lines = run(best="ex", **settings)
    assert (manifest["steps"], manifest["stopped_early_at"]) == (8, 8)
    assert "stopped early at step 8 of 40: EX was best 2 evaluations ago" in lines
    assert manifest["chosen_step"] in (4, 6)
    # Steps too small to change a weight: every loss is the first one.
    level, *_ = run(best="loss", learning_rate=1e-30, **settings)
    assert (level["steps"], level["stopped_early_at"]) == (6, 6)


def test_generating_keeps_to_its_share_of_the_budget() -> None:
    assert questions_within(0.2, 1000, evaluations=10, seconds_a_question=0.5, most=256) == 40
    assert questions_within(0.2, 1000, evaluations=10, seconds_a_question=0.01, most=256) == 256
    assert questions_within(0.2, 1000, evaluations=1, seconds_a_question=50, most=4) == 4
    with pytest.raises(ConfigError, match=r"eval_share = 0.2 leaves time for 2 in each of 100 evaluations"):
        questions_within(0.2, 1000, evaluations=100, seconds_a_question=1, most=64)


def test_a_budget_counts_the_generating(run: Callable[..., Any]) -> None:
    manifest, evaluations, lines = run(
        best="ex", max_steps=None, budget_minutes=0.1, eval_examples=4, eval_share=0.5, eval_steps=1000, save_steps=1000
    )
    (told,) = [line for line in lines if line.startswith("plan: ") and "generated answers" in line]
    assert "with 4 generated answers" in told
    assert manifest["minutes"] < 0.25
    assert all("eval_ex" in e for e in evaluations)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"best": "last", "early_stopping": 2}, "best: last has none"),
        ({"eval_share": 0.1}, "eval_share bounds the generating"),
        ({"best": "ex", "eval_share": 0.1}, "within budget_minutes"),
        ({"best": "ex", "eval_steps": 3, "save_steps": 4}, "best: ex compares evaluated checkpoints"),
    ],
)
def test_settings_that_do_nothing_together_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TrainingConfig(epochs=1, **settings)


def test_ranks_share_the_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of two ranks scores its half, and both know the whole: shown with ranks that run one after the other."""
    import torch

    figures = AnswerFigures.__new__(AnswerFigures)
    figures.questions, figures.best = list(range(5)), "ex"  # type: ignore[assignment]
    asked: list[list[int]] = []
    figures._scored = lambda model, qs: asked.append(list(qs)) or [{"ex": q < 3, "em": q < 1} for q in qs]  # type: ignore
    sums: list[Any] = []
    fake = SimpleNamespace(
        is_available=lambda: True,
        is_initialized=lambda: True,
        get_rank=lambda: len(asked),
        get_world_size=lambda: 2,
        get_backend=lambda: "gloo",
        all_reduce=lambda t: sums.append(t.clone()),
    )
    monkeypatch.setattr(torch, "distributed", fake)
    for _ in range(2):
        figures.shares(figures.right(None), 1.0)
    assert asked == [[0, 2, 4], [1, 3]]
    assert (sums[0] + sums[1]).tolist() == [3, 1]
