"""Looks at a training with the instruments that there are, and puts together what they saw."""

from __future__ import annotations

from harness.profiling import torch_operators
from harness.profiling.seen import Seen, Train
from harness.trial.profile import Profile

_LOOKS = (torch_operators.look,)
"""What knows a framework comes first; each sees nothing of the others."""
_TRIED_S, _FEWEST, _MOST = 0.5, 3, 30


def profile(train: Train, epochs: int) -> Profile:
    """Return where the time of a call goes that trains so many epochs."""
    times_s: list[float] = []
    while len(times_s) < _FEWEST or (sum(times_s) < _TRIED_S and len(times_s) < _MOST):
        times_s.append(train())
    epoch_s = min(times_s) / epochs
    seen = next((found for look in _LOOKS if (found := look(train, epochs, epoch_s))), None)
    seen = seen or Seen("none", epoch_s, {"other": epoch_s})
    return Profile(
        source=seen.source,
        epoch_s=epoch_s,
        profiled_s=seen.profiled_s,
        seconds=dict(seen.seconds),
        counts=dict(seen.counts),
        costs=dict(seen.costs),
        calls=seen.calls,
    )
