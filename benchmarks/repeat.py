"""Does the same command give the same ratio again?

Runs the default job again and again, each in processes of its own, and prints the ratio of each run
with its interval, then how wide the intervals are and how many of them hold the grand median.

    python -m benchmarks.repeat [RUNS] [--busy] [--pause SECONDS] [OPTION OF run ...]

With `--busy`, a process that never sleeps runs on the machine, too. `--pause` spreads the runs over
the time of day.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np

from harness import Run
from harness.measure.clock import now

_RUN = ("-m", "harness", "run", "--backends", "torch,jax", "--quiet")
_LOOP = "while True: pass"


def ratio_of(folder: Path, options: list[str]) -> tuple[float, float, float, float, str]:
    """Run the job; return ratio, low, high, seconds and the sentence."""
    start = now()
    command = [sys.executable, *_RUN, "--results", str(folder), "--run-id", "r", *options]
    subprocess.run(command, check=True, capture_output=True)
    seconds = now() - start
    run = Run("r", folder)
    (row,) = [row for _, row in run.comparisons().iterrows() if row["metric"] == "train_s"]
    return row["value"], row["low"], row["high"], seconds, row["words"]


@contextmanager
def busy_loop() -> Iterator[None]:
    """Let a process run that never sleeps; the system chooses its core."""
    with subprocess.Popen([sys.executable, "-c", _LOOP]) as loop:
        try:
            yield
        finally:
            loop.kill()


def main() -> None:
    """Print a line for each run, and the summary."""
    parser = ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("runs", type=int, nargs="?", default=10)
    parser.add_argument("--busy", action="store_true")
    parser.add_argument("--pause", type=float, default=0.0)
    given, options = parser.parse_known_args()
    rows = []
    with busy_loop() if given.busy else nullcontext():
        for number in range(given.runs):
            time.sleep(given.pause * (number > 0))
            with tempfile.TemporaryDirectory() as folder:
                *row, words = ratio_of(Path(folder), options)
            rows.append(row)
            print(f"{row[3]:6.1f} s  {words}", flush=True)
    value, low, high, seconds = np.array(rows).T
    middle = float(np.median(value))
    widths = np.sqrt(high / low) - 1
    held = int(((low <= middle) & (middle <= high)).sum())
    spread = np.exp(np.log(value).std(ddof=1)) - 1 if len(rows) > 1 else float("nan")
    print(f"grand median {middle:.3f}; ratios differ by {spread:.1%} (standard deviation)")
    print(
        f"half-width: median {np.median(widths):.1%}, from {min(widths):.1%} to {max(widths):.1%}"
    )
    print(
        f"{held} of {len(rows)} intervals hold the grand median; median {np.median(seconds):.1f} s"
    )


if __name__ == "__main__":
    main()
