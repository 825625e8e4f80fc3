"""What the harness costs per trial, and whether that grows with their number.

Runs 1, 100, ... very short trials on a local Ray of three nodes with one core each, as a user
does (`run --packed --address ...` in a process of its own), and prints a row for each number:

    python -m benchmarks.scale [NUMBER ...]

| column | what it is |
|---|---|
| wall s | the driver, from its start to its end |
| first s | until the first record is in the folder: imports, parity, the first process |
| last s | after the last record: the tables |
| trials/s | between the first record and the last |
| own ms | what a trial takes by its own account: set-up, first call, training, evaluation |
| cost ms | core time that a trial takes beyond that: cores / (trials/s) - own; all are busy |
| driver MB | the most memory that the driver ever had |
| before tables MB | the same until the last record |
| half at | when half of the records were there, as a share of the time from first to last |
| show s | `show` of the result |
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from benchmarks.helpers.clusters import LocalCluster, local_cluster
from harness import Run
from harness.measure import machine
from harness.measure.clock import now

NODES = 3
TASK = {"n_steps": 5, "batch_size": 4, "epochs": 4, "curve_points": 2, "eval_paths": 20}
COLUMNS = (
    *("trials", "wall s", "first s", "last s", "trials/s", "own ms", "cost ms"),
    *("before tables MB", "driver MB", "half at", "show s"),
)


class Driver(NamedTuple):
    """A run that has ended, as seen from outside. Times are seconds since its start."""

    wall_s: float
    records_s: list[float]
    """When each record was written."""
    peak_mb: float
    measuring_mb: float
    """Its peak at the time of the last record."""


def drive(cluster: LocalCluster, results: Path, trials: int) -> Driver:
    """Run so many trials under the id `x`, and watch the driver."""
    task = [word for field in TASK.items() for word in ("--set", "{}={}".format(*field))]
    where = ("--address", cluster.address, "--results", str(results), "--run-id", "x")
    how = ("--backends", "reference", "--packed")
    began, began_utc = now(), time.time()
    driver = subprocess.Popen(
        [sys.executable, "-m", "harness", "run", *task, *where, *how, "--seeds", str(trials)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    folder = results / "x" / "records"
    peak_mb = measuring_mb = 0.0
    while driver.poll() is None:
        peak_mb = peak_rss_mb(driver.pid) or peak_mb
        # A look into a folder of thousands of files costs the run something.
        if not folder.is_dir() or folder.stat().st_mtime > time.time() - 1:
            measuring_mb = peak_mb
        time.sleep(0.1)
    wall_s = now() - began
    if driver.returncode:
        sys.exit(f"the run of {trials} trials ended with exit code {driver.returncode}")
    records_s = sorted(path.stat().st_mtime - began_utc for path in folder.glob("*.json"))
    return Driver(wall_s, records_s, peak_mb, measuring_mb)


def peak_rss_mb(pid: int) -> float | None:
    """Return the most memory that a process ever had; None if it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    peak = next((line.split()[1] for line in lines if line.startswith("VmHWM")), None)
    return int(peak) / 1024 if peak else None


def measure(cluster: LocalCluster, trials: int) -> dict[str, str]:
    """Return a row of the table."""
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder)
        done = drive(cluster, results, trials)
        began = now()
        show = [sys.executable, "-m", "harness", "show", "x", "--results", folder]
        subprocess.run(show, check=True, capture_output=True)
        show_s = now() - began
        run = Run("x", results)
        assert len(run.trials) == trials == len(done.records_s)
        assert (run.trials["status"] == "ok").all()
        own = run.trials[["setup_s", "first_call_s", "train_s", "eval_s"]].sum(axis=1).mean()
    first, last = done.records_s[0], done.records_s[-1]
    row = {
        "trials": f"{trials:,}",
        "wall s": f"{done.wall_s:.1f}",
        "first s": f"{first:.1f}",
        "last s": f"{done.wall_s - last:.1f}",
        "own ms": f"{1000 * own:.1f}",
        "before tables MB": f"{done.measuring_mb:.0f}",
        "driver MB": f"{done.peak_mb:.0f}",
        "show s": f"{show_s:.2f}",
    }
    if trials == 1:
        return row
    rate = (trials - 1) / (last - first)
    cores = min(NODES, len(machine.usable_cores()))
    half = (done.records_s[trials // 2] - first) / (last - first)
    return row | {
        "trials/s": f"{rate:.1f}",
        "cost ms": f"{1000 * (cores / rate - own):.1f}",
        "half at": f"{half:.2f}",
    }


def main() -> None:
    """Print the table, a row as soon as it is known."""
    parser = argparse.ArgumentParser()
    parser.add_argument("numbers", nargs="*", type=int, default=[1, 100, 1000])
    given = parser.parse_args()
    os.environ["PYTHONUNBUFFERED"] = "1"
    print("| " + " | ".join(COLUMNS) + " |\n" + "|---" * len(COLUMNS) + "|")
    with local_cluster(**{f"node{n}": {"cpus": 1} for n in range(NODES)}) as cluster:
        for trials in given.numbers:
            row = measure(cluster, trials)
            print("| " + " | ".join(row.get(name, "") for name in COLUMNS) + " |", flush=True)


if __name__ == "__main__":
    main()
