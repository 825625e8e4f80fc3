"""Make the pictures of the documents from real runs: `python scripts/pictures.py`.

It measures the posted question and its mended forms (10,000 epochs, some minutes) and takes the
default job from `results/example`. The picture of the report needs Chromium. Look at the pictures
afterwards.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parent.parent
IMAGES = ROOT / "docs" / "images"
EXAMPLES = ROOT / "results"
POSTED = ("--preset", "posted", "--set", "epochs=10000", "--backends", "jax")
# With each of its two faults, with both, and with none.
MENDED = ("--sweep", "train_sign=-1,1", "--sweep", "gradient=stateful-broadcast,exact")


def main() -> None:
    """Measure and save the pictures."""
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder)
        harness("run", *POSTED, "--results", results, "--run-id", "posted")
        four = ("--run-id", "mended", "--seeds", 16, "--vectorize")
        harness("run", *POSTED, *MENDED, *four, "--results", results)
        harness("report", "example", "--results", EXAMPLES, "--to", results / "example")
        first_screen(results / "posted" / "report.html", IMAGES / "posted-report.png")
        shutil.copy(results / "mended" / "plots" / "steps.svg", IMAGES / "posted-steps.svg")
        source = results / "example" / "plots" / "convergence-seconds.svg"
        shutil.copy(source, IMAGES / "example-convergence-seconds.svg")


def harness(*arguments: object) -> None:
    """Run the harness as a user does."""
    command = [sys.executable, "-m", "harness", *map(str, arguments)]
    subprocess.run(command, check=True, env=os.environ | {"HARNESS_REPORT": "1"})


def first_screen(page: Path, picture: Path) -> None:
    """Save a picture of what a reader sees first."""
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
