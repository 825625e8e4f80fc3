"""Do right backends train the same by the rule of `harness.trial.trajectory`, and wrong ones not?

Measures blocks of several tasks and seeds, one round each. Prints for each task how many blocks
were so far apart that a nudge had to explain it (`nudged`), how many trials are said not to have
trained the same (`told`), and from which epoch on at the earliest.

    python -m benchmarks.trajectories --seeds 4
    python -m benchmarks.trajectories --seeds 2 --backends torch,tests.helpers.unfaithful:SkipsSome
"""

from __future__ import annotations

import argparse

from harness import Task
from harness.measure.block import measure
from harness.measure.trial import Host
from harness.trial.events import Event
from harness.trial.jobs import TrialJob
from harness.trial.record import Record
from harness.trial.trajectory import apart

TASKS = {
    "default": Task(),
    "no-lag": Task.preset("no-lag"),
    "strong-lag": Task.preset("strong-lag"),
    "posted": Task.preset("posted"),
    "relu": Task(activation="relu"),
    "gru": Task(cell="gru"),
    "lstm": Task(cell="lstm"),
    "sgd, rate 0.01": Task(optimiser="sgd", learning_rate=0.01),
    "rate 0.003": Task(learning_rate=3e-3),
    "rate 0.01": Task(learning_rate=1e-2),
    "rate 0.1": Task(learning_rate=0.1),
    "4 units, 4 paths, rate 0.01": Task(hidden=4, batch_size=4, learning_rate=1e-2),
    "64 units, 500 epochs": Task(hidden=64, epochs=500),
    "float64, rate 0.01": Task(dtype="float64", learning_rate=1e-2),
}


def block(task: Task, backends: list[str], seed: int) -> list[Record]:
    """Measure a block; return the records of the trials that ended ok."""
    fields = {"task": task, "device": "cpu", "threads": 1, "exclusive": True, "run": "r"}
    jobs = [
        TrialJob.model_validate(
            fields | {"backend": name, "trial": name, "block": seed, "seed": seed, "rounds": 1}
        )
        for name in backends
    ]
    events: list[Event] = []
    measure(jobs, Host("here"), events.append)
    return [e for e in events if isinstance(e, Record) and e.status == "ok"]


def main() -> None:
    """Print a line for each task."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--backends", default="floor,torch,torch-tuned,jax,jax-step,jax-tuned")
    parser.add_argument("--tasks", default="")
    given = parser.parse_args()
    names = given.tasks.split(";") if given.tasks else list(TASKS)
    print("| task | blocks | trials | nudged | told | first told at |\n|---|---|---|---|---|---|")
    for name in names:
        blocks = [
            block(TASKS[name], given.backends.split(","), seed) for seed in range(given.seeds)
        ]
        told = [found for records in blocks for found in apart(records) if found]
        nudged = sum(any(record.nudged for record in records) for records in blocks)
        trials = sum(map(len, blocks))
        first = min((found.epoch for found in told), default="-")
        print(
            f"| {name} | {len(blocks)} | {trials} | {nudged} | {len(told)} | {first} |", flush=True
        )


if __name__ == "__main__":
    main()
