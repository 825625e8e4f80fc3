"""Does the harness add anything to what it measures?

Trains the default task as a trial of the harness and as a bare script, in turn, each in a fresh
process on the same core, and prints the ratio of their training times with its 95 % interval.

    python benchmarks/fidelity.py [ROUNDS]
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from harness import machine
from harness.jobs import TrialJob
from harness.launch import execute
from harness.record import Record
from harness.summary import geometric_mean
from harness.task import Task

HERE = Path(__file__).parent


def harness_seconds(backend: str, seed: int) -> float:
    """Return the `train_s` of a trial."""
    job = TrialJob(
        task=Task(),
        backend=backend,
        device="cpu",
        threads=1,
        exclusive=True,
        run="fidelity",
        trial="trial",
        block=seed,
        seed=seed,
    )
    *_, record = execute(job)
    assert isinstance(record, Record), record
    assert record.status == "ok", record.error
    return record.points[-1].train_s


def bare_seconds(backend: str) -> float:
    """Return the training time of the bare script."""
    core = machine.usable_cores()[-1]
    done = subprocess.run(
        [sys.executable, HERE / f"bare_{backend}.py"],
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        env=os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "NPROC": "1"},
    )
    return float(done.stdout)


def main() -> None:
    """Print the table."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    print(f"backend  harness s  bare s  ratio (geometric mean of {rounds} pairs) [95 %]")
    for backend in ("torch", "jax"):
        pairs = []
        for number in range(rounds):
            # In turn, and every other time the other way round, against drift.
            if number % 2:
                bare = bare_seconds(backend)
                pairs.append((harness_seconds(backend, number), bare))
            else:
                pairs.append((harness_seconds(backend, number), bare_seconds(backend)))
        harness, bare_all = np.array(pairs).T
        ratio, low, high = geometric_mean(harness / bare_all)
        print(
            f"{backend:<7}  {np.median(harness):9.2f}  {np.median(bare_all):6.2f}  "
            f"{ratio:.3f} [{low:.3f}, {high:.3f}]  min/min {harness.min() / bare_all.min():.3f}"
        )


if __name__ == "__main__":
    main()
