"""Attention over the rows of a step: written out and by PyTorch's kernel it is each row's own."""

from __future__ import annotations

import pytest
import torch

from t2s_assets.text2sql.decoding import steps
from t2s_assets.text2sql.decoding.steps import Span, attend, plan


@pytest.mark.parametrize("scores", [steps._SCORES, 0], ids=["written out", "kernel"])
@pytest.mark.parametrize(
    "spans",
    [
        [Span(0, 5, 1)],
        [Span(0, 5, 1), Span(1, 0, 3), Span(2, 17, 1)],
        [Span(3, 2, 1), Span(0, 0, 30), Span(1, 4, 25), Span(2, 31, 2), Span(5, 1, 9)],
    ],
)
def test_each_row_attends_to_its_own_past(monkeypatch: pytest.MonkeyPatch, scores: int, spans: list[Span]) -> None:
    monkeypatch.setattr(steps, "_SCORES", scores)
    torch.manual_seed(3)
    keys, values = torch.randn(2, 6, 2, 64, 8)
    total = sum(span.count for span in spans)
    queries = torch.randn(total, 6, 8)
    found = attend(plan(spans, [total - 1], 3, torch.device("cpu")), queries, keys, values, 0.3)
    at = 0
    for span in spans:
        for position in range(span.start, span.start + span.count):
            past = slice(0, position + 1)
            for head in range(6):
                k, v = keys[span.slot, head // 3, past], values[span.slot, head // 3, past]
                expected = torch.softmax(k @ queries[at, head] * 0.3, 0) @ v
                torch.testing.assert_close(found[at, head], expected)
            at += 1
