"""A training that takes turns with another one, in a process of its own: a side of a gate's pair.

The messages are a protocol between two versions of this code, so they must not change. The first
one is ("ready", {task, sources, versions}): the task with its defaults, the files of all modules
that are not installed and of a backend's own process, and the versions of what is loaded. Then each
line of text is a command:

    N          train N epochs; answered by ("turn", {wall_s, losses}), losses of the first seed
    restart    start anew from the initial parameters; answered by ("restarted", null)
    evaluate   predict the held-out paths; answered by ("evaluated", {step_mse})
"""

from __future__ import annotations

import sys
from typing import IO

from harness.backend import registry
from harness.measure import machine
from harness.measure.trial import Emit, Find, Training
from harness.trial.jobs import TurnsJob


def worker_source(backend: str) -> str:
    """Return the name among the `sources` that stands for the program of a backend."""
    return f"worker of {backend}"


def serve(job: TurnsJob, commands: IO[str], emit: Emit, find: Find = registry.importer) -> None:
    """Execute each line of `commands` until they end. Raises what the backend raises."""
    training = Training(job, emit, find)
    files = {name: getattr(module, "__file__", None) for name, module in sys.modules.items()}
    greeting = training.greeting
    files[worker_source(job.backend)] = greeting.source
    emit(
        "ready",
        {
            "task": job.task.model_dump(mode="json"),
            "sources": {name: f for name, f in files.items() if f and not machine.installed(f)},
            "versions": {**machine.loaded_versions(), **greeting.versions},
        },
    )
    for line in commands:
        match line.strip():
            case "restart":
                training.restart()
                emit("restarted", None)
            case "evaluate":
                emit("evaluated", {"step_mse": training.step_mse()[0].tolist()})
            case epochs:
                losses_ER, chunk = training.chunk(int(epochs))
                losses = losses_ER[:, 0].astype(float).tolist()
                emit("turn", {"wall_s": chunk.wall_s, "losses": losses})
