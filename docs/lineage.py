"""Take docs/lineage.png, the README's picture, of a group that has been materialized (DAGSTER_HOME, T2S_STORAGE).

    make picture                # or: python docs/lineage.py [--dataset wikisql] [--into docs/lineage.png]

Needs Chromium on the PATH. Only Dagster's web server is started, no daemon, so nothing runs on account of it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
ASSETS = ("tables", "questions", "sql", "prompts", "adapter", "predictions", "report", "champion")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-sync".split()
SIZE = {"width": 2700, "height": 760}
MOST_BYTES = 300_000


def serve(port: int) -> subprocess.Popen[bytes]:
    """Start the web server and return when it answers. Raises RuntimeError when it does not within three minutes."""
    environment = {"DAGSTER_HOME": str(ROOT / "storage/dagster"), "PYTHONWARNINGS": "ignore", **os.environ}
    command = [sys.executable, "-m", "dagster_webserver", "-w", "workspace.yaml", "-h", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, cwd=ROOT, env=environment)
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    until = time.monotonic() + 180
    while time.monotonic() < until and server.poll() is None:
        try:
            direct.open(f"http://127.0.0.1:{port}/server_info", timeout=5).close()
            return server
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    server.terminate()
    raise RuntimeError("Dagster's web server did not answer; its messages are above")


def take(page: Any, address: str, dataset: str, into: Path) -> None:
    """The lineage, without the menu at the left, once all assets are shown and say how they stand."""
    page.goto(f"{address}/locations/t2s_assets/asset-groups/{dataset}/lineage")
    for asset in ASSETS:
        page.get_by_text(asset, exact=True).first.wait_for(state="visible")
    page.get_by_text("Hide navigation").first.click()
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(3000)  # the graph moves to its place and its nodes ask for their state
    page.screenshot(path=str(into))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="wikisql")
    parser.add_argument("--into", type=Path, default=ROOT / "docs/lineage.png")
    options = parser.parse_args()
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        sys.exit(f"none of {', '.join(BROWSERS)} is on the PATH; install one (apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = serve(port)
    try:
        with sync_playwright() as playwright:
            opened = playwright.chromium.launch(executable_path=browser, args=FLAGS)
            page = opened.new_page(viewport=SIZE)
            page.set_default_timeout(120_000)
            take(page, f"http://127.0.0.1:{port}", options.dataset, options.into)
            opened.close()
    finally:
        server.terminate()
        server.wait(timeout=60)
    size = options.into.stat().st_size
    print(f"{options.into}: {size / 1000:.0f} KB")
    if size > MOST_BYTES:
        sys.exit(f"{options.into} is over {MOST_BYTES // 1000} KB: make SIZE smaller")


if __name__ == "__main__":
    main()
