"""What the command `profile` asks of a run: as little as it takes to see where the time goes."""

from __future__ import annotations

from dataclasses import replace

from harness.runs.request import RunRequest
from harness.runs.settings import Settings
from harness.task.task import Task

_CALLS, _ROUNDS = 4, 6


def short(request: RunRequest) -> RunRequest:
    """Return a request for one seed with profiles, and for few calls, each as long as asked for.

    How many epochs a call trains changes what it costs, so that stays as it is in a run of the
    task.
    """
    task = request.task or Task()
    epochs = task.chunk_epochs()
    calls = min(_CALLS, task.epochs // epochs)
    task = task.changed(epochs=calls * epochs, curve_points=calls)
    given = request.settings.model_dump(exclude_unset=True)
    settings = Settings(**given | {"seeds": 1, "rounds": _ROUNDS, "profile": True})
    return replace(request, task=task, settings=settings)
