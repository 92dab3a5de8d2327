"""An adapter merged into its base: kept on disk, in the compute type, and only if it answers as before."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from t2s_assets.text2sql import adapters, merged, parity
from t2s_assets.text2sql.base_models import Placement
from t2s_assets.text2sql.config import DecodingConfig
from t2s_assets.text2sql.decoding import packed
from t2s_assets.text2sql.decoding.packed import packed_from
from t2s_assets.text2sql.storage import write_json
from t2s_assets_tests.projects import ProjectFiles
from t2s_assets_tests.serving import save_adapter
from t2s_assets_tests.trainable import add_towns

CPU = Placement("cpu", "float32", "sdpa", "none")
NF4 = Placement("cpu", "float32", "sdpa", "nf4")
PROBE = [
    {"prompt": f"towns(Town text, Size real)\nQuestion: {q}\nSQL:\n", "completion": f'SELECT "{c}" FROM t'}
    for q, c in [("which town?", "Town"), ("how large is Bern?", "Size"), ("name them", "Town")]
]

Served = tuple[ProjectFiles, adapters.Adapter]


@pytest.fixture
def served(project_files: ProjectFiles, tiny_base: Path) -> Served:
    files = add_towns(project_files, tiny_base)
    folder = save_adapter(files.project, "towns", "tiny")
    write_json(folder / parity.PROBE, PROBE)
    return files, adapters.open_adapter(folder, made_by="")


@pytest.fixture(autouse=True)
def weights_as_merged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before they are laid out for decoding, so that they can be looked at."""
    monkeypatch.setattr(merged, "with_weights", lambda model, decoding: model)
    monkeypatch.setattr(packed, "packed_from", lambda *_: None)


def ready(served: Served, placement: Placement) -> Any:
    files, adapter = served
    model, _ = merged.load_ready(adapter, files.project, placement, DecodingConfig())
    return model


def logits_of(model: Any, tokenizer: Any) -> torch.Tensor:
    """In training mode (nothing here has dropout): in another, bitsandbytes may round 4-bit products to bfloat16."""
    ids = torch.tensor([tokenizer(PROBE[0]["prompt"]).input_ids])
    with torch.no_grad():
        return model.train()(input_ids=ids, use_cache=False).logits


@pytest.mark.parametrize("placement", [CPU, NF4], ids=["float32", "nf4"])
def test_merged_weights_answer_as_the_adapter_beside_its_base(served: Served, placement: Placement) -> None:
    files, adapter = served
    beside, tokenizer = adapters.load_unmerged(adapter, files.project, placement)
    model, _ = adapters.load_tuned(adapter, files.project, placement)
    assert {type(m).__name__ for m in model.modules() if "Linear" in type(m).__name__} == {"Linear"}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    torch.testing.assert_close(logits_of(model, tokenizer), logits_of(beside, tokenizer), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("placement", [CPU, NF4], ids=["float32", "nf4"])
def test_the_merge_is_checked_once_and_kept(
    served: Served, placement: Placement, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first = ready(served, placement)
    (kept,) = served[0].project.cache("merged").glob("*/manifest.json")
    assert '"refused": null' in kept.read_text() and re.search(r'"parity": "0 of \d+ likeliest', kept.read_text())
    assert not [r for r in caplog.records if r.name.startswith("t2s_assets")]

    def again(*_: object) -> None:
        raise AssertionError("merged again")

    monkeypatch.setattr(adapters, "load_tuned", again)
    second = ready(served, placement)
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_merge_that_changes_answers_is_refused_and_said(
    served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    files, adapter = served
    merge = adapters.load_tuned
    merges = []

    def broken(*given: Any) -> tuple[Any, Any]:
        model, tokenizer = merge(*given)
        merges.append(model)
        with torch.no_grad():
            model.lm_head.weight.copy_(model.lm_head.weight.roll(1, dims=0))  # each token's logit is another's
        return model, tokenizer

    monkeypatch.setattr(adapters, "load_tuned", broken)
    for _ in range(2):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            model = ready(served, CPU)
        assert "not merged" in caplog.text and "likeliest tokens differ (at most 2% may)" in caplog.text
        beside, tokenizer = adapters.load_unmerged(adapter, files.project, CPU)
        assert torch.equal(logits_of(model, tokenizer), logits_of(beside, tokenizer))
    assert len(merges) == 1  # the verdict is kept too


def test_what_is_kept_and_what_is_refused() -> None:
    before = parity.Said([[1] * 50, [2] * 50], 0.5)
    assert parity.compare(before, parity.Said([[1] * 50, [2] * 48 + [3] * 2], 0.51)).kept
    assert not parity.compare(before, parity.Said([[1] * 50, [2] * 47 + [3] * 3], 0.51)).kept
    assert not parity.compare(before, parity.Said(before.tokens, 0.53)).kept
    little = parity.Said([[1], [2]], 1.70)  # of a model that has learnt little
    assert parity.compare(little, parity.Said([[1], [2]], 1.73)).kept
    assert not parity.compare(little, parity.Said([[1], [2]], 1.74)).kept


def test_without_a_probe_the_missing_check_is_said(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    (served[1].folder / parity.PROBE).unlink()
    with caplog.at_level(logging.WARNING):
        ready(served, CPU)
    assert "whether merging changes its answers is not checked" in caplog.text


def truncate(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


@pytest.mark.parametrize(
    "harm",
    [
        truncate,
        lambda folder: (folder / "model.safetensors").unlink(),
        lambda folder: (folder / "config.json").write_text("{"),
        lambda folder: (folder / "manifest.json").write_text("{"),
    ],
    ids=["short weights", "no weights", "config", "manifest"],
)
@pytest.mark.parametrize("laid_out", [True, False])
def test_a_kept_copy_that_cannot_be_read_is_told_and_made_anew(
    served: Served,
    harm: Callable[[Path], None],
    laid_out: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    if laid_out:
        monkeypatch.setattr(packed, "packed_from", packed_from)
    ready(served, CPU)
    (folder,) = served[0].project.cache("merged").iterdir()
    before = (folder / "model.safetensors").read_bytes()
    harm(folder)
    assert ready(served, CPU) is not None
    (told,) = [r.getMessage() for r in caplog.records if r.name.startswith("t2s_assets")]
    assert told.startswith(f"the merged weights kept in {folder} cannot be read") and told.endswith("merging anew")
    assert (folder / "model.safetensors").read_bytes() == before
    caplog.clear()
    ready(served, CPU)
    assert not [r for r in caplog.records if r.name.startswith("t2s_assets")]


def test_weights_that_cannot_be_written_are_used_and_not_kept(
    served: Served, small_files: None, caplog: pytest.LogCaptureFixture
) -> None:
    files, adapter = served
    model = ready(served, CPU)
    beside, tokenizer = adapters.load_unmerged(adapter, files.project, CPU)
    torch.testing.assert_close(logits_of(model, tokenizer), logits_of(beside, tokenizer), rtol=1e-3, atol=1e-3)
    assert "are not kept in" in caplog.text and "the next start is slower" in caplog.text
    assert not list(files.project.cache("merged").iterdir())
