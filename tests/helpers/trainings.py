"""Runs whose trials are carried out in this process, where everything is compiled once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import Run, Task
from harness.measure import trial
from harness.store.manifest import Manifest
from harness.store.run_writer import RunWriter
from harness.trial.arms import Arm
from harness.trial.events import Certificate
from harness.trial.jobs import TrialJob
from harness.trial.plan import Plan
from harness.trial.record import Record


def measure(job: TrialJob) -> Record:
    """Carry out a trial."""
    taken: dict[str, Any] = {"chunk": [], "point": [], "shares": [], "phase": None}
    fields: dict[str, Any] = {}

    def emit(kind: str, value: Any) -> None:
        if kind == "fields":
            fields.update(value)
        elif isinstance(taken.get(kind), list):
            taken[kind].append(value)

    try:
        trial.run(job, emit)
    except RuntimeError as error:
        fields |= {"status": "failed", "error": f"RuntimeError: {error}"}
    own = ("run", "trial", "block", "backend", "device", "seed", "task", "threads")
    return Record(
        **{name: getattr(job, name) for name in own},
        node="here",
        started_utc="now",
        wall_s=1.0,
        contended=False,
        chunks=tuple(taken["chunk"]),
        points=tuple(taken["point"]),
        **fields,
    )


def run(
    folder: Path,
    task: Task,
    backends: Sequence[str] = ("floor",),
    seeds: Sequence[int] = (0,),
    sweep: Mapping[str, Any] | None = None,
    parity: Sequence[Certificate] = (),
) -> Run:
    plan = Plan(
        run="r",
        task=task,
        sweep=dict(sweep or {}),
        arms=tuple(Arm(backend=name, device="cpu") for name in backends),
        seeds=tuple(seeds),
    )
    manifest = Manifest(started_utc="now", plan=plan, environment={}, parity=tuple(parity))
    with RunWriter.create(folder, manifest) as writer:
        for block in plan.blocks():
            for job in block:
                writer.add(measure(job))
    return Run("r", folder)
