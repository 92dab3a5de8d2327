"""Runs within a budget on a clock of the test's own: each step and each evaluation takes as long as the test says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from t2s_assets.text2sql import training
from t2s_assets.text2sql.prompt_datasets import make_prompts
from t2s_assets.text2sql.storage import read_json
from t2s_assets.text2sql.training.clock import steps_that_fit, warm_then_cosine
from t2s_assets_tests.fake_time import FakeTime
from t2s_assets_tests.projects import ProjectFiles
from t2s_assets_tests.trainable import add_experiment

pytestmark = pytest.mark.usefixtures("one_thread")

BUDGET, EVALUATION = 120.0, 4.0

SPEEDS: dict[str, tuple[float, Callable[[int], float]]] = {
    "as timed": (1.0, lambda n: 1.0),
    "faster than timed": (4.0, lambda n: 1.0),
    "slower than timed": (0.25, lambda n: 1.0),
    "slower from the middle on": (0.5, lambda n: 0.5 if n < 80 else 2.0),
    "faster from the middle on": (2.0, lambda n: 2.0 if n < 25 else 0.5),
}


@pytest.mark.parametrize("speed", SPEEDS)
def test_a_budget_is_used_in_full_and_the_rate_ends_at_zero(
    towns: ProjectFiles, tiny_base: Path, monkeypatch: pytest.MonkeyPatch, speed: str
) -> None:
    name = speed.replace(" ", "-")
    settings = {"eval_steps": 30, "save_steps": 30, "warmup_ratio": 0.1}
    add_experiment(towns, tiny_base, name, max_steps=None, budget_minutes=BUDGET / 60, **settings)
    make_prompts(towns.project, "towns", name, [].append)
    lines: list[str] = []
    timed, step = SPEEDS[speed]
    time = FakeTime(monkeypatch, timed=timed, step=step, evaluation=EVALUATION)
    manifest = training.train(towns.project, "towns", name, log=lines.append)
    used = manifest["minutes"] * 60
    assert 0.95 * BUDGET < used <= 1.02 * BUDGET
    assert manifest["steps"] == time.steps
    told = [line for line in lines if line.startswith("the budget has room for")]
    assert told or speed == "as timed"
    rates = read_json(towns.project.path("towns", "adapter", name) / "schedule.json", made_by="")["rates"]
    top = rates.index(max(rates))
    assert rates[: top + 1] == sorted(rates[: top + 1]) and max(rates) > 0.95
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert rates[-1] < 0.01
    # No cliff either: what is left of the rate is given back over the run.
    assert max(a - b for a, b in zip(rates[top:], rates[top + 1 :])) < 0.1
    history = read_json(towns.project.path("towns", "adapter", name) / "trainer_state.json", made_by="")["log_history"]
    assert [h["step"] for h in history if "eval_loss" in h][-1] == manifest["steps"]


@given(
    done=st.integers(0, 50),
    seconds=st.floats(-5, 300),
    step=st.floats(0.5, 5),
    evaluation=st.floats(0, 20),
    every=st.integers(1, 40),
)
def test_the_steps_that_fit_are_as_many_as_can_be(
    done: int, seconds: float, step: float, evaluation: float, every: int
) -> None:
    def takes(steps: int) -> float:
        between = sum(1 for n in range(done + 1, done + steps) if n % every == 0)
        return steps * step + (between + 1) * evaluation

    fit = steps_that_fit(done, seconds, step=step, evaluation=evaluation, every=every)
    assert fit == 0 or takes(fit) <= seconds + 1e-6
    assert takes(fit + 1) > seconds - 1e-6


def test_the_rate_of_a_given_number_of_steps() -> None:
    assert warm_then_cosine(0, 100, 0.1) == pytest.approx(1 / 11)
    assert warm_then_cosine(10, 100, 0.1) == 1
    assert warm_then_cosine(55, 100, 0.1) == pytest.approx(0.5)
    assert warm_then_cosine(100, 100, 0.1) == pytest.approx(0, abs=1e-9)


def test_a_budget_too_short_for_a_step_takes_one(
    towns: ProjectFiles, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_experiment(towns, tiny_base, "short", max_steps=None, budget_minutes=0.01)
    make_prompts(towns.project, "towns", "short", [].append)
    FakeTime(monkeypatch, timed=5.0, step=lambda n: 5.0, evaluation=1.0)
    manifest = training.train(towns.project, "towns", "short", log=lambda line: None)
    assert manifest["steps"] == 1
    assert manifest["validation_loss"] is not None


def test_timing_takes_a_twentieth_of_a_budget_at_most(
    towns: ProjectFiles, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for the two steps that warm up and one to be timed."""
    steps = {}
    for name, minutes in (("long", 60.0), ("brief", 1e-4)):
        add_experiment(towns, tiny_base, name, max_steps=None, budget_minutes=minutes)
        make_prompts(towns.project, "towns", name, [].append)
        with monkeypatch.context() as patch:
            time = FakeTime(patch, timed=None, step=lambda n: 1.0, evaluation=1.0)
            training.show_plan(towns.project, "towns", name, log=lambda line: None)
        steps[name] = time.steps
    assert steps == {"long": 8, "brief": 3}
