"""What the harness costs around its trials: the command line, and the whole default job.

    python -m benchmarks.overhead [--job] [--many]

Prints seconds, the best of five calls; with `--job`, also the time of the default job beyond the
sum of its trials' `wall_s`; with `--many`, also that of showing 10,000 short trials.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from harness import Run, Task
from harness.measure.clock import now
from harness.store.manifest import Manifest
from harness.store.run_writer import RunWriter
from harness.trial.arms import Arm
from harness.trial.plan import Plan
from harness.trial.record import Chunk, CurvePoint, Record


def synthetic_run(results: Path, trials: int, task: Task | None = None) -> None:
    """Write a run with so many made-up trials of a task."""
    task = task or Task()
    arms = tuple(Arm(backend=b, device="cpu") for b in ("torch", "jax"))
    plan = Plan(run="big", task=task, arms=arms, seeds=tuple(range(trials // 2)))
    numbers = range(1, task.curve_points + 1)
    points = tuple(
        CurvePoint(epoch=50 * n, train_s=n, train_loss=1, eval_mse=1 / n) for n in numbers
    )
    chunks = tuple(
        Chunk(wall_s=1 + n / 999, cpu_s=1, involuntary_switches=n, load=n / 7, mhz=2000 + n / 3)
        for n in numbers
    )
    environment = {f"version:package-{n}": f"{n}.0" for n in range(30)}
    with RunWriter.create(results, Manifest(started_utc="-", plan=plan, environment={})):
        for job in (job for block in plan.blocks() for job in block):
            shared = job.model_dump(include={"run", "trial", "block", "backend", "device", "seed"})
            record = Record(
                **shared,
                task=plan.task,
                node="-",
                started_utc="-",
                wall_s=1,
                threads=1,
                contended=False,
                status="ok",
                chunks=chunks,
                points=points,
                step_mse=tuple(1 / np.arange(1, task.n_steps + 1)),
                environment=environment,
            )
            # Past the writer, whose care for every single file takes its time.
            path = results / plan.run / "records" / f"{job.trial}.json"
            path.write_text(record.model_dump_json(indent=1))


def seconds(*arguments: object) -> float:
    """Return how long a command takes."""
    start = now()
    command = [sys.executable, "-m", "harness", *map(str, arguments)]
    subprocess.run(command, check=True, capture_output=True)
    return now() - start


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder)
        synthetic_run(results, 1000)
        for arguments in (
            ["--help"],
            ["run", "--help"],
            ["list", "--results", results],
            ["show", "big", "--results", results],
            ["show", "big", "--results", results, "--table", "steps"],
        ):
            best = min(seconds(*arguments) for _ in range(5))
            name = " ".join(str(a) for a in arguments if a not in ("--results", results))
            print(f"{name:<24} {best:6.2f} s")
        if "--many" in sys.argv:
            many = results / "many"
            synthetic_run(many, 10_000, Task(n_steps=5, curve_points=10))
            best = min(seconds("show", "big", "--results", many) for _ in range(5))
            print(f"show 10,000 short trials {best:6.2f} s")
        if "--job" in sys.argv:
            total = seconds("run", "--results", results, "--run-id", "job")
            trials = float(Run("job", results).trials["wall_s"].sum())
            print(
                f"default job {total:.1f} s, trials {trials:.1f} s, beyond {total - trials:.1f} s"
            )


if __name__ == "__main__":
    main()
