"""A training that waits for its turn: one side of a duel (see `harness.duel`), in its own process.

The language spoken with whoever gives the turns is small and stays as it is, because the two
sides of a duel may be different versions of this code. A line of text is a command:

    N          train N epochs; answered by ("turn", {wall_s, cpu_s, ..., losses})
    restart    start anew from the initial parameters; answered by ("restarted", null)
    evaluate   predict the held-out paths; answered by ("evaluated", {step_mse})
"""

from __future__ import annotations

import sys
from typing import IO

import harness
from harness import registry
from harness.jobs import TurnsJob
from harness.trial import Emit, Training


def serve(job: TurnsJob, commands: IO[str], emit: Emit) -> None:
    """Do as each line of `commands` says, until there are no more; backend errors come through."""
    training = Training(job, emit)
    emit("ready", {"sources": _sources(job.backend)})
    for line in commands:
        match line.strip():
            case "restart":
                training.restart()
                emit("restarted", None)
            case "evaluate":
                emit("evaluated", {"step_mse": training.step_mse().tolist()})
            case epochs:
                losses_E, chunk = training.chunk(int(epochs))
                emit("turn", chunk.model_dump() | {"losses": losses_E.astype(float).tolist()})


def _sources(backend: str) -> dict[str, str | None]:
    """Return the files that the harness and the backend were imported from."""
    module = sys.modules[registry.module_of(backend)]
    return {"harness": harness.__file__, "backend": module.__file__}
