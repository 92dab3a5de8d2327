"""Dagster's pages in a real browser: the lineage, an adapter's materialization, the report."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from t2s_assets_tests.instance import DATASET, EXPERIMENT, Instance

pytestmark = pytest.mark.browser

# No network but the server's, no GPU, no profile: what a container has.
_FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
_SECONDS = 90


@pytest.fixture
def page(chromium: str, instance: Instance, webserver: str) -> Iterator[Any]:
    """An empty tab. The group is materialized, and the server runs."""
    from playwright.sync_api import sync_playwright

    assert instance.made.returncode == 0
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=_FLAGS)
        tab = browser.new_page(viewport={"width": 1500, "height": 900})
        tab.set_default_timeout(_SECONDS * 1000)
        yield tab
        browser.close()


def see(page: Any, *texts: str) -> None:
    for text in texts:
        page.get_by_text(text).first.wait_for(state="visible")


def test_the_lineage_shows_the_groups_assets(page: Any, webserver: str, tmp_path: Path) -> None:
    page.goto(f"{webserver}/locations/t2s_assets/asset-groups/{DATASET}/lineage")
    see(page, "tables", "questions", "sql", "prompts", "adapter", "predictions", "report", "champion")
    picture = tmp_path / "lineage.png"
    page.screenshot(path=str(picture))
    assert picture.stat().st_size > 10_000


def materialization(page: Any, webserver: str, asset: str) -> None:
    """Open the page of an experiment's materialization and wait for its metadata."""
    page.goto(f"{webserver}/assets/{DATASET}/{asset}?view=partitions&partition={EXPERIMENT}")
    see(page, "Latest materialization", "Metadata")


def shown_images(page: Any) -> list[str]:
    """The alternative texts of the pictures that really have pixels."""
    script = "[...document.querySelectorAll('img')].filter(i => i.naturalWidth > 100).map(i => i.alt)"
    return page.evaluate(script)


def test_an_adapters_materialization_shows_its_metrics_and_loss_curve(page: Any, webserver: str) -> None:
    materialization(page, webserver, "adapter")
    see(page, "validation_loss", "tokens_a_second", "peak_memory_gb", "trainable_share", "adapter_mb", "git_commit")
    page.get_by_text("[Show Markdown]").first.click()
    page.get_by_alt_text("loss").wait_for(state="visible")
    assert shown_images(page) == ["loss"]


def test_the_report_is_read_in_its_materialization(page: Any, webserver: str) -> None:
    materialization(page, webserver, "report")
    page.get_by_text("[Show Markdown]").first.click()
    see(page, "By category", "Worst failures", "untrained base")
    assert {"accuracy by category", "latency", "loss"} <= set(shown_images(page))


def test_the_checks_say_what_they_check(page: Any, webserver: str) -> None:
    page.goto(f"{webserver}/assets/{DATASET}/report?view=checks")
    see(page, "em_target", "ex_target", "latency_target", "EM on the test questions is over the dataset's target.")
