"""All clocks of the harness; durations are in seconds, from `time.perf_counter`."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import pairwise
from typing import TypeAlias

Clock: TypeAlias = Callable[[], float]
"""Returns seconds from an arbitrary start; tests pass one of their own."""

now: Clock = time.perf_counter

cpu_time: Clock = time.process_time
"""The processor time of this process, summed over its threads."""


def resolution(reads: int = 1000) -> float:
    """Return the smallest difference, in seconds, between two readings of the clock."""
    times = [now() for _ in range(reads)]
    steps = [later - earlier for earlier, later in pairwise(times) if later > earlier]
    return min(steps, default=float("inf"))


class Stopwatch:
    """Adds up the time spent in its `with` blocks, in `seconds`."""

    def __init__(self) -> None:
        self._start = 0.0
        self.seconds = 0.0

    def __enter__(self) -> Stopwatch:
        self._start = now()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds += now() - self._start


def timestamp() -> str:
    """Return the current date and time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
