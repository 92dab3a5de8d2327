"""Checks of what a report says."""

from __future__ import annotations

import pytest

from t2s_assets import checks
from t2s_assets.text2sql.dataset_config import Targets
from t2s_assets.text2sql.reports import report


@pytest.mark.parametrize("met", [True, False])
def test_the_latency_s_target_is_found_whatever_it_is(monkeypatch: pytest.MonkeyPatch, met: bool) -> None:
    monkeypatch.setattr(report, "LATENCY_TARGET_MS", 250.0)
    assert report.latency_target_name() == "p95 < 250 ms"
    content = {"test": {}, "latency": {"total_ms": {"p95": 300.0}}, "targets": {"p95 < 250 ms": met}}
    (found,) = checks.targets(content, Targets())
    assert (found.check_name, found.passed) == ("latency_target", met)
    assert found.metadata["p95_ms"].value == 300.0
    assert found.description == "p95 300 ms a query, to be under 250 ms"


def test_every_result_says_in_words_what_was_found() -> None:
    """Beside its figures, whose names alone do not tell what is wanted of them."""
    wanted = Targets(em=0.6, ex=0.555)
    overall = {"em": {"value": 0.4125, "n": 1200}, "ex": {"value": None, "n": 0}}
    met = dict(zip((report.target_name(name, target) for name, target in wanted.given.items()), (False, None)))
    content = {
        "test": {"overall": overall, "of": 7894},
        "latency": {"total_ms": {}},
        "targets": met | {report.latency_target_name(): None},
    }
    assert not any(found.passed for found in checks.targets(content, wanted))
    assert [found.description for found in checks.targets(content, wanted)] == [
        "EM 41.2 % on 1,200 of 7,894 test questions, to be over 60 %",
        "EX of no question, to be over 55.5 %",
        "p95 of no query, to be under 500 ms",
    ]
    assert checks.adapter_size(19.59, wanted).description == "19.59 MB, to be under 100 MB"
    sound, unsound = checks.examples_sound({}), checks.examples_sound({"empty prompt": 2, "empty completion": 1200})
    assert (sound.passed, sound.description) == (True, "no problem was found")
    assert (unsound.passed, unsound.description) == (False, "empty prompt: 2, empty completion: 1,200")
