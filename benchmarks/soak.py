"""A run on three nodes to which something happens every few seconds, and what it lost by that.

    python -m benchmarks.soak [--each N] [--blocks N] [--seed N]

Prints a table of every fault, in the order in which they came, and one by kind. Ends with an
error if a promise is broken: see `benchmarks/helpers/soak.py`.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from pathlib import Path

from benchmarks.helpers.clusters import IMPATIENT, local_cluster
from benchmarks.helpers.soak import KINDS, Fault, Soak
from harness import Run


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--each", type=int, default=5, help="How often each fault is inflicted.")
    parser.add_argument("--blocks", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    kinds = [kind for kind in KINDS for _ in range(given.each)]
    random.Random(given.seed).shuffle(kinds)
    nodes = {name: {"cpus": 1} for name in ("a", "b", "c")}
    with tempfile.TemporaryDirectory() as folder, local_cluster(IMPATIENT, **nodes) as cluster:
        soak = Soak(cluster, Path(folder), given.blocks, given.seed)
        run = soak.go(kinds, pauses_s=(0.3, 2.0))
        print_faults(soak.faults)
        print_kinds(soak.faults, run)
        lost = sum(record.status == "lost" for record in run.attempts)
        print(
            f"\n{len(run.trials)} trials, {len(run.attempts)} records of their attempts, {lost} of "
            f"those of attempts that were cut off. Exit codes of the drivers: {soak.exit_codes}. "
            f"Blocks repeated on nodes to which nothing was done: {len(soak.by_itself)}."
        )
        soak.check(run)
        print("Every record that ever was is there with the same bytes; every trial once in the")
        print("tables; the trials of each block on one node; every failure one that was inflicted.")


def print_faults(faults: list[Fault]) -> None:
    """Print what was done, and when."""
    print("| at s | trials finished | fault | node | then running there | blocks repeated |")
    print("|---|---|---|---|---|---|")
    for fault in faults:
        repeated = ", ".join(map(str, fault.repeated)) or "-"
        cells = (f"{fault.after_s:.1f}", fault.finished, fault.kind, fault.node or "all")
        print("| " + " | ".join(map(str, (*cells, fault.during or "-", repeated))) + " |")


def print_kinds(faults: list[Fault], run: Run) -> None:
    """Print what each kind of fault led to."""
    status = {record.trial: record.status for record in run.records}
    print("\n| fault | times | blocks repeated | rows `failed` | rows `timeout` |")
    print("|---|---|---|---|---|")
    for kind in KINDS:
        mine = [fault for fault in faults if fault.kind == kind]
        befallen = [status.get(trial) for fault in mine for trial in fault.trials]
        repeated = sum(len(fault.repeated) for fault in mine)
        cells = (kind, len(mine), repeated, befallen.count("failed"), befallen.count("timeout"))
        print("| " + " | ".join(map(str, cells)) + " |")


if __name__ == "__main__":
    main()
