"""Does a process that trials share change what is measured in it?

Trains on the default task, in a process of its own and in one that the trials of a backend share,
in turn, each on the same core; prints the ratio shared/alone of every time with its 95 % interval.

    python -m benchmarks.isolation [ROUNDS] [EPOCHS]

The first trial of a shared process is as one alone, so it is not counted.
"""

from __future__ import annotations

import sys
from contextlib import closing

import numpy as np

from harness.measure.launch import Host, execute
from harness.stats import estimates
from harness.task.task import Task
from harness.trial.jobs import TrialJob
from harness.trial.record import Isolation, Record

BACKENDS = ("torch", "jax", "reference")
TIMES = ("train_s", "first_call_s", "import_s", "setup_s", "eval_s", "wall_s")


def trial(backend: str, epochs: int, seed: int, isolation: Isolation, host: Host) -> Record:
    """Run a trial and return its record."""
    job = TrialJob(
        task=Task(epochs=epochs),
        backend=backend,
        device="cpu",
        threads=1,
        exclusive=True,
        run="isolation",
        trial="trial",
        block=seed,
        seed=seed,
        isolation=isolation,
    )
    *_, record = execute(job, host)
    assert isinstance(record, Record), record
    assert record.status == "ok", record.error
    return record


def seconds(record: Record, name: str) -> float:
    """Return one of the times of a record."""
    value = record.points[-1].train_s if name == "train_s" else getattr(record, name)
    return float(value)


def numbers(record: Record) -> object:
    """Return all that was computed, not rounded."""
    return [(p.epoch, p.train_loss, p.eval_mse) for p in record.points], record.step_mse


def pairs_of(backend: str, rounds: int, epochs: int) -> list[tuple[Record, Record]]:
    """Return trials alone and in a shared process, of the same seeds."""
    pairs = []
    with closing(Host()) as host:
        trial(backend, epochs, 0, "backend", host)
        for seed in range(rounds):
            # Every other time the other way round, against drift.
            order: tuple[Isolation, ...] = ("process", "backend")
            done = {
                isolation: trial(backend, epochs, seed, isolation, host)
                for isolation in (order if seed % 2 else reversed(order))
            }
            assert done["backend"].trials_before == seed + 1
            pairs.append((done["process"], done["backend"]))
    return pairs


def main() -> None:
    """Print the table, a row for each backend and time."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 8
    epochs = int(sys.argv[2]) if len(sys.argv) > 2 else 200
    print(f"{rounds} pairs of trials of {epochs} epochs; medians\n")
    print("| backend | time | alone ms | shared ms | shared/alone [95 %] | same losses |")
    print("|---|---|---|---|---|---|")
    for backend in BACKENDS:
        pairs = pairs_of(backend, rounds, epochs)
        same = sum(numbers(alone) == numbers(shared) for alone, shared in pairs)
        for name in TIMES:
            both = np.array([[seconds(record, name) for record in pair] for pair in pairs])
            estimate = estimates.mean(np.log(both[:, 1] / both[:, 0]))
            ratio, low, high = np.exp([estimate.value, *estimate.interval()])
            alone, shared = 1000 * np.median(both, axis=0)
            print(
                f"| {backend} | {name} | {alone:.2f} | {shared:.2f} | "
                f"{ratio:.3f} [{low:.3f}, {high:.3f}] | {same} of {rounds} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
