"""Looks at a training with the instruments that there are, and puts together what they saw."""

from __future__ import annotations

from collections.abc import Callable

from harness.profiling import jax_programs, python_calls, torch_operators
from harness.profiling.explained import Explain, explained
from harness.profiling.process import count, set_apart
from harness.profiling.seen import Seen, Train
from harness.trial.profile import Profile

_COUNTED_S, _FEWEST, _MOST = 0.5, 3, 30
"""Calls without a profiler: for so long, but so many at least and at most."""


def profile(
    train: Train,
    epochs: int,
    explain: Explain | None = None,
    prepare: Callable[[], None] = lambda: None,
    *,
    on_gpu: bool = False,
) -> Profile:
    """Return where the time of a call goes that trains so many epochs.

    `explain` is asked for what the backend itself knows of a call. `prepare` makes the data of a
    call, as before each timed one: that leaves the caches to a call as they are there.
    """
    prepare()
    calls = max(_FEWEST, min(_MOST, int(_COUNTED_S / max(train(), 1e-6))))
    counted = count(train, epochs, calls, prepare)
    seen = _seen(train, epochs, counted.epoch_s)
    apart = dict(counted.seconds)
    if on_gpu:  # While the process waits, the device may compute: that is what profilers saw.
        del apart["waiting"]
    seconds, counts = set_apart(seen.seconds, apart), {**counted.counts, **seen.counts}
    if explain:
        own_seconds, own_counts = explained(train, epochs, explain)
        seconds = set_apart(seconds, own_seconds)
        counts |= own_counts
    return Profile(
        source=seen.source,
        epoch_s=counted.epoch_s,
        profiled_s=seen.profiled_s,
        seconds=seconds,
        counts=counts,
        costs=dict(seen.costs),
        calls=seen.calls,
    )


def _seen(train: Train, epochs: int, epoch_s: float) -> Seen:
    """Return what the profiler of the framework saw, if there is one, and Python's own."""
    python = python_calls.calls(train, epochs, epoch_s)
    seen = torch_operators.look(train, epochs, epoch_s, python.predicts)
    seen = seen or jax_programs.look(train, epochs, epoch_s)
    if seen:
        return python.added_to(seen, epoch_s)
    return python_calls.look(train, epochs, epoch_s, python)
