"""Checks of what a report says."""

from __future__ import annotations

import pytest

from t2s_assets import checks
from t2s_assets.text2sql import report
from t2s_assets.text2sql.dataset_config import Targets


@pytest.mark.parametrize("met", [True, False])
def test_the_latency_s_target_is_found_whatever_it_is(monkeypatch: pytest.MonkeyPatch, met: bool) -> None:
    monkeypatch.setattr(report, "LATENCY_TARGET_MS", 250.0)
    assert report.latency_target_name() == "p95 < 250 ms"
    content = {"test": {}, "latency": {"total_ms": {"p95": 300.0}}, "targets": {"p95 < 250 ms": met}}
    (found,) = checks.targets(content, Targets())
    assert (found.check_name, found.passed) == ("latency_target", met)
    assert found.metadata["p95_ms"].value == 300.0
