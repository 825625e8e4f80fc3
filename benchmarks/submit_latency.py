"""How long it takes from `submit` to the first finished trial, on a cluster that is up.

    python -m benchmarks.submit_latency [TIMES]

Starts a head on this machine, submits the same small run so often (three times), and prints seconds
for each of its stages. Only the first one sends the project: the cluster keeps it.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.helpers.head import Head
from harness.measure.clock import now

STAGES = (
    "checks, packing, contact",
    "upload, submission",
    "queue: environment, supervisor",
    "driver start",
    "parity",
    "first trial",
    "rest of the run",
    "fetching the results",
)
FIELDS = {"n_steps": 5, "batch_size": 4, "epochs": 100, "curve_points": 10, "eval_paths": 20}


def wait(happened: Callable[[], object]) -> float:
    """Return the time at which something is seen to have happened."""
    while not happened():
        time.sleep(0.01)
    return now()


def submit(head: Head, run: str, results: Path) -> list[float]:
    """Submit a run of two trials and return how long each stage took."""
    base = [sys.executable, "-m", "harness", "submit", "--address", head.url, "--wait"]
    words = ["run", "--backends", "reference", "--seeds", "2", "--run-id", run]
    for name, value in FIELDS.items():
        words += ["--set", f"{name}={value}"]
    started = now()
    process = subprocess.Popen(
        [*base, "--results", str(results), "--", *words],
        env=head.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr
    process.stderr.readline()  # "sending ..."
    times = [started, now()]

    def log() -> str:
        paths = list((head.home / "r").glob(f"session_2*/logs/job-driver-harness-{run}.log"))
        return paths[0].read_text() if paths else ""

    folder = head.home / "harness-results" / run
    milestones = (
        log,
        lambda: "Running entrypoint" in log(),
        (folder / "manifest.json").exists,
        lambda: "parity:" in log(),
        lambda: "[1/2]" in log(),
        lambda: "\nResults: " in log(),
        lambda: process.poll() is not None,
    )
    times += map(wait, milestones)
    assert process.returncode == 0
    return [after - before for before, after in itertools.pairwise(times)]


def main() -> None:
    """Print the table."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    with Head() as head, tempfile.TemporaryDirectory() as results:
        columns = [submit(head, f"run{n}", Path(results)) for n in range(count)]
    print(f"{'':<31}" + "".join(f"{f'run {n + 1}':>8}" for n in range(count)))
    for stage, row in zip(STAGES, zip(*columns, strict=True), strict=True):
        print(f"{stage:<31}" + "".join(f"{seconds:8.2f}" for seconds in row))
    to_first = [sum(column[:6]) for column in columns]
    print(f"{'submit to first finished trial':<31}" + "".join(f"{t:8.2f}" for t in to_first))


if __name__ == "__main__":
    main()
