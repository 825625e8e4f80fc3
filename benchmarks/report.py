"""How long a report takes, how large it is, and when a reader can use it.

    python -m benchmarks.report [--shots FOLDER]

Runs the default job (torch and jax, 3 seeds) and clones its records to a run of 1,000 trials. A row
for each: `report s` is the whole command `python -m harness report`, with its SVG and PNG files;
`page MB` is `report.html` (10^6 bytes); `usable s` is the time from opening the file in headless
Chromium until a click has sorted a table and the first chart is drawn. The best of three each,
since the machine is noisy. `--shots` keeps pictures of the pages, at 360 and 1440 pixels, light and
dark.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.helpers.browser import Seen, chromium
from benchmarks.helpers.runs import cloned
from harness.measure.clock import now


def seconds(*arguments: object) -> float:
    """Return how long a command takes."""
    began = now()
    command = [sys.executable, "-m", "harness", *map(str, arguments)]
    subprocess.run(command, check=True, capture_output=True)
    return now() - began


def usable_s(page: Path) -> float:
    """Return how long after it is opened a page can be used."""
    with chromium() as browser:
        blank = browser.new_page()
        began = now()
        blank.goto(page.as_uri())
        blank.locator("th button").first.click()
        blank.locator("th[aria-sort=ascending]").first.wait_for()
        blank.locator("[data-chart]").first.scroll_into_view_if_needed()
        blank.locator("[data-chart] svg").first.wait_for()
        return now() - began


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shots", type=Path)
    shots = parser.parse_args().shots
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder)
        seconds("run", "--results", results, "--run-id", "default", "--no-report")
        cloned(results / "default", results / "thousand", 500)
        print("run       trials  report s  page MB  usable s")
        for run in ("default", "thousand"):
            took = min(seconds("report", run, "--results", results) for _ in range(3))
            page = results / run / "report.html"
            trials = len(list((results / run / "records").iterdir()))
            usable = min(usable_s(page) for _ in range(3))
            size = page.stat().st_size / 1e6
            print(f"{run:<8}  {trials:6}  {took:8.2f}  {size:7.2f}  {usable:8.2f}")
            if shots:
                keep(page, shots, run)


def keep(page: Path, shots: Path, name: str) -> None:
    """Keep pictures of a page."""
    shots.mkdir(parents=True, exist_ok=True)
    with chromium() as browser:
        for width in (360, 1440):
            for scheme in ("light", "dark"):
                seen = Seen(browser, page, width, scheme)
                seen.draw_all()
                seen.page.screenshot(path=shots / f"{name}-{width}-{scheme}.png", full_page=True)


if __name__ == "__main__":
    main()
