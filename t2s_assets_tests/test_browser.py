"""Dagster's pages in a real browser: the lineage."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from t2s_assets_tests.instance import DATASET, Instance

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
