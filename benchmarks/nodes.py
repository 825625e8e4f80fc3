"""How much faster more nodes are, and how long it takes to get over the death of one.

    python -m benchmarks.nodes [--trials N] [--deaths N]

Nodes are raylets of one core each on this machine, so real trials gain only as many nodes as it
has cores. Trials that sleep need no core: their speed-up shows what dispatching itself costs.
Efficiency is the trials' own wall time, added up, over what the nodes had in the meantime.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import tempfile
import time
from datetime import datetime
from pathlib import Path

from benchmarks.helpers.clusters import IMPATIENT, LocalCluster, local_cluster, trial_on
from benchmarks.helpers.commands import ROOT, command, wait_for
from harness import Run

_SMALL = {"n_steps": 20, "batch_size": 8, "eval_paths": 100}
REAL = _SMALL | {"epochs": 2000, "curve_points": 10}
SLEEPS = _SMALL | {"epochs": 100, "curve_points": 50}
LONG = SLEEPS | {"epochs": 600, "curve_points": 300}
SLEEPER = "benchmarks.helpers.slow:Slow"
HEALTH_CHECKS = {
    "Ray's default": {},
    "as `deploy/env.sh` has it": {
        "health_check_period_ms": 3000,
        "health_check_timeout_ms": 5000,
        "health_check_failure_threshold": 3,
    },
    "as the tests have it": IMPATIENT,
}


def begin(
    cluster: LocalCluster, results: Path, backend: str, task: dict[str, int], *given: object
) -> subprocess.Popen[bytes]:
    """Start a run under the id `x`."""
    fields = [word for field in task.items() for word in ("--set", "{}={}".format(*field))]
    where = ("--address", cluster.address, "--results", results, "--run-id", "x")
    return subprocess.Popen(
        command("run", *where, *fields, "--backends", backend, *given),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )


def started(run: Run) -> list[float]:
    """Return when each trial began, in seconds of the system's clock."""
    return [datetime.fromisoformat(record.started_utc).timestamp() for record in run.attempts]


def speed(
    cluster: LocalCluster, backend: str, task: dict[str, int], trials: int
) -> tuple[float, float]:
    """Return the seconds from the first trial's start to the last one's end, and their sum."""
    with tempfile.TemporaryDirectory() as folder:
        driver = begin(cluster, Path(folder), backend, task, "--packed", "--seeds", trials)
        assert driver.wait() == 0
        run = Run("x", folder)
        assert len(run.records) == trials
        ends = [path.stat().st_mtime for path in Path(folder).glob("x/records/*.json")]
        took = max(ends) - min(started(run))
        return took, sum(record.wall_s for record in run.records)


def print_speed_up(trials: int) -> None:
    """Print a row for every kind of trial and number of nodes."""
    print("| trials | nodes | seconds | speed-up | efficiency |\n|---|---|---|---|---|")
    kinds = (("real", "reference", REAL), ("sleeping", SLEEPER, SLEEPS))
    alone: dict[str, float] = {}
    with local_cluster() as cluster:
        for nodes in (1, 2, 3):
            cluster.add(f"node{nodes}")
            for kind, backend, task in kinds:
                took, own = speed(cluster, backend, task, trials)
                alone.setdefault(kind, took)
                print(
                    f"| {trials} {kind} | {nodes} | {took:.1f} | {alone[kind] / took:.2f} | "
                    f"{own / (nodes * took):.0%} |",
                    flush=True,
                )


def recovery(cluster: LocalCluster, silent: bool) -> tuple[float, float]:
    """Take a node away under a trial; return when it was lost, and when it began elsewhere.

    Both in seconds since then; another node is free all the time. A node that is `silent` answers
    no more, but its connections stay: so does a host that has lost its power. Otherwise its
    processes are killed.
    """
    cluster.add("doomed")
    with tempfile.TemporaryDirectory() as folder:
        driver = begin(cluster, Path(folder), SLEEPER, LONG, "--seeds", 1)
        raylet = cluster.raylet("doomed")
        wait_for(lambda: trial_on(raylet))
        cluster.add("spare")
        manifest = Path(folder) / "x" / "manifest.json"
        wait_for(lambda: '"spare"' in manifest.read_text())
        gone = time.time()
        if silent:
            cluster.silence("doomed")
        else:
            cluster.remove("doomed")
        spare = cluster.raylet("spare")
        wait_for(lambda: trial_on(spare), 180)
        began = time.time()  # A process tells its age by another clock.
        (lost,) = Path(folder).glob("x/records/*.json")
        assert Run("x", folder).attempts[0].status == "lost"
        times = lost.stat().st_mtime - gone, began - gone
        driver.kill()
        driver.wait()
    for name in sorted(cluster.names):
        cluster.remove(name)
    return times


def print_recovery(deaths: int) -> None:
    """Print rows for each way in which the head looks after its nodes."""
    print("\n| the head's health check | the node | times | lost, s | begun elsewhere, s |")
    print("|---|---|---|---|---|")
    for name, settings in HEALTH_CHECKS.items():
        with local_cluster(settings) as cluster:
            for silent, how_often in ((False, deaths), (True, 1)):
                times = [recovery(cluster, silent) for _ in range(how_often)]
                cells = (
                    f"{statistics.median(t):.1f} ({min(t):.1f} to {max(t):.1f})"
                    for t in zip(*times, strict=True)
                )
                how = "is silent" if silent else "is killed"
                print(f"| {name} | {how} | {how_often} | " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=18)
    parser.add_argument("--deaths", type=int, default=2)
    given = parser.parse_args()
    print_speed_up(given.trials)
    print_recovery(given.deaths)


if __name__ == "__main__":
    main()
