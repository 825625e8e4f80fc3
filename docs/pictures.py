"""Make the pictures of the README from real runs: `python docs/pictures.py`, then look at them.

It measures the posted question (10,000 epochs) and the default job, which takes some minutes, and
needs Chromium for the picture of a page. Nothing is drawn by hand.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

IMAGES = Path(__file__).parent / "images"
POSTED = ("--preset", "posted", "--set", "epochs=10000", "--run-id", "posted")
DEFAULT = ("--backends", "torch,jax", "--run-id", "torch-and-jax")


def main() -> None:
    """Measure, and keep the pictures."""
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder)
        for arguments in ((*POSTED, "--backends", "torch,jax"), DEFAULT):
            command = [sys.executable, "-m", "harness", "run", "--results", folder, *arguments]
            subprocess.run(command, check=True, env=os.environ | {"HARNESS_REPORT": "1"})
        first_screen(results / "posted" / "report.html", IMAGES / "posted-report.png")
        for run, plot in (("posted", "steps"), ("torch-and-jax", "convergence-seconds")):
            source = results / run / "plots" / f"{plot}.svg"
            shutil.copy(source, IMAGES / f"{run}-{plot}.svg")


def first_screen(page: Path, picture: Path) -> None:
    """Keep what a reader sees first."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        view = browser.new_page(viewport={"width": 1100, "height": 800}, color_scheme="light")
        view.goto(page.as_uri())
        view.wait_for_load_state("networkidle")
        view.screenshot(path=picture)
        browser.close()


if __name__ == "__main__":
    main()
