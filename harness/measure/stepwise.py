"""A training that takes turns with another one, in a process of its own: a side of a gate's pair.

The messages are a protocol between two versions of this code, so they must not change. The first
one is ("ready", {task, sources, versions}): the task with its defaults, the files of all modules
that are not installed, and the versions of the loaded packages. Then each line of text is a
command:

    N          train N epochs; answered by ("turn", {wall_s, losses}), losses of the first seed
    restart    start anew from the initial parameters; answered by ("restarted", null)
    evaluate   predict the held-out paths; answered by ("evaluated", {step_mse})
"""

from __future__ import annotations

import sys
from typing import IO

from harness.measure import machine
from harness.measure.trial import Emit, Training
from harness.trial.jobs import TurnsJob


def serve(job: TurnsJob, commands: IO[str], emit: Emit) -> None:
    """Execute each line of `commands` until they end. Raises what the backend raises."""
    training = Training(job, emit)
    files = {name: getattr(module, "__file__", None) for name, module in sys.modules.items()}
    emit(
        "ready",
        {
            "task": job.task.model_dump(mode="json"),
            "sources": {name: f for name, f in files.items() if f and not machine.installed(f)},
            "versions": machine.loaded_versions(),
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
