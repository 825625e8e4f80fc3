"""Does the harness add anything to what it measures?

Trains the default task as a trial of the harness and as a bare script, in turn, each in a fresh
process on the same core, and prints the ratio of their times per chunk with its 95 % interval.

    python -m benchmarks.fidelity [ROUNDS]
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from harness.backend.protocol import Array
from harness.measure import machine
from harness.measure.launch import execute
from harness.measure.trial import Host
from harness.stats import estimates
from harness.task.task import Task
from harness.trial.epoch_time import undisturbed
from harness.trial.events import Event
from harness.trial.jobs import TrialJob
from harness.trial.record import Record

HERE = Path(__file__).parent


def harness_chunks(backend: str, seed: int) -> Array:
    """Return the seconds of each chunk of a trial."""
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
    events: list[Event] = []
    execute([job], Host(), events.append)
    record = events[-1]
    assert isinstance(record, Record), record
    assert record.status == "ok", record.error
    return np.array([chunk.wall_s for chunk in record.chunks if chunk.counted])


def bare_chunks(backend: str) -> Array:
    """Return the seconds of each chunk of the bare script."""
    core = machine.usable_cores()[-1]
    done = subprocess.run(
        [sys.executable, HERE / f"bare_{backend}.py"],
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        env=os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "NPROC": "1"},
    )
    return np.array(done.stdout.split(), dtype=float)


def main() -> None:
    """Print the table."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    print(f"{rounds} pairs; a chunk is 50 epochs; ratios of undisturbed chunks")
    print("backend  harness ms/epoch  bare ms/epoch  ratio [95 %]")
    for backend in ("torch", "jax"):
        pairs = []
        for number in range(rounds):
            # Every other time the other way round, against drift.
            bare = bare_chunks(backend) if number % 2 else None
            harness = harness_chunks(backend, number)
            pairs.append((harness, bare_chunks(backend) if bare is None else bare))
        times = np.array([[undisturbed(h.tolist()), undisturbed(b.tolist())] for h, b in pairs])
        estimate = estimates.mean(np.log(times[:, 0] / times[:, 1]))
        ratio, low, high = np.exp([estimate.value, *estimate.interval()])
        ours, theirs = np.median(times, axis=0) * 1000 / 50
        print(f"{backend:<7}  {ours:16.3f}  {theirs:13.3f}  {ratio:.3f} [{low:.3f}, {high:.3f}]")


if __name__ == "__main__":
    main()
