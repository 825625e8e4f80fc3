"""A training that waits for its turn: one side of a pair (`harness.gate.paired`).

The language spoken with whoever gives the turns is small and stays as it is, because the two
sides of a pair may be different versions of this code. The first message is ("ready", {task,
sources, versions}): the task with all its defaults, the files of all modules that are not
installed ones, and the versions of the packages loaded. Then a line of text is a command:

    N          train N epochs; answered by ("turn", {wall_s, losses}), losses of the first seed
    restart    start anew from the initial parameters; answered by ("restarted", null)
    evaluate   predict the held-out paths; answered by ("evaluated", {step_mse})
"""

from __future__ import annotations

import sys
from typing import IO

from harness.measure import machine
from harness.measure.machine import installed
from harness.measure.trial import Emit, Training
from harness.trial.jobs import TurnsJob


def serve(job: TurnsJob, commands: IO[str], emit: Emit) -> None:
    """Do as each line of `commands` says, until there are no more; backend errors come through."""
    training = Training(job, emit)
    emit(
        "ready",
        {
            "task": job.task.model_dump(mode="json"),
            "sources": _sources(),
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


def _sources() -> dict[str, str]:
    """Return the file of each module that was not installed, by its name."""
    files = {name: getattr(module, "__file__", None) for name, module in sys.modules.items()}
    return {name: file for name, file in files.items() if file and not installed(file)}
