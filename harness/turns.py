"""A training that waits for its turn: one side of a duel (see `harness.duel`), in its own process.

The language spoken with whoever gives the turns is small and stays as it is, because the two
sides of a duel may be different versions of this code: an epoch count in a line of text is a turn;
the answer is the message ("turn", {...}).
"""

from __future__ import annotations

import sys
from typing import IO

import harness
from harness import registry
from harness.jobs import TurnsJob
from harness.trial import Emit, Training


def serve(job: TurnsJob, turns: IO[str], emit: Emit) -> None:
    """Train as many epochs as each line of `turns` says, until there are no more lines.

    0 starts the training anew. Backend errors come through.
    """
    training = Training(job, emit)
    emit("ready", {"sources": _sources(job.backend)})
    for line in turns:
        epochs = int(line)
        if not epochs:
            training.restart()
            emit("turn", {})
            continue
        losses_E, chunk = training.chunk(epochs)
        emit("turn", chunk.model_dump() | {"losses": [float(loss) for loss in losses_E]})


def _sources(backend: str) -> dict[str, str | None]:
    """Return the files that the harness and the backend were imported from."""
    module = sys.modules[registry.module_of(backend)]
    return {"harness": harness.__file__, "backend": module.__file__}
