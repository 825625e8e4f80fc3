"""How long threads waited for a processor: Linux counts it (`schedstat` of each thread).

A thread waits when it could run and something else has its core. That is no work of a backend, so
it is taken off the clock. Sleeping, input and output, and locks are the backend's own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import NamedTuple, TypeAlias

from harness.measure.clock import Clock, cpu_time, now

Waits: TypeAlias = Mapping[str, int]
"""Nanoseconds that each thread has waited so far, by its name under /proc."""

# A reading that takes this much longer than the fastest one was interrupted: the interruption
# would count on one side of the clock only, so both are read anew.
_INTERRUPTED_S = 50e-6
_TRIES = 3


def waits(pids: list[int]) -> Waits:
    """Return how long each thread of the processes has waited; empty where that is unknown."""
    found = {}
    for pid in pids:
        with suppress(OSError):
            for thread in os.listdir(f"/proc/{pid}/task"):
                name = f"/proc/{pid}/task/{thread}/schedstat"
                with suppress(OSError, IndexError, ValueError), open(name, "rb", 0) as file:
                    found[name] = int(file.read().split()[1])
    return found


class Reading(NamedTuple):
    """The clocks of the wall and of the processor, and the counters of the threads.

    What is timed starts `after` the counters of one reading, and ends `before` those of the next.
    """

    before_s: float
    cpu_before_s: float
    waits: Waits
    cpu_after_s: float
    after_s: float


class RunQueue:
    """Reads the clock and the counters together, for the processes that `family` returns."""

    def __init__(self, family: Callable[[], list[int]], clock: Clock = now) -> None:
        self._family, self._clock = family, clock
        self._fastest_s: dict[int, float] = {}
        """The fastest reading of so many threads."""

    def read(self) -> Reading:
        """Read clock, counters, clock; again if something came between."""
        pids = self._family()
        for _ in range(_TRIES):
            before_s, cpu_before_s = self._clock(), cpu_time()
            counted = waits(pids)
            cpu_after_s, after_s = cpu_time(), self._clock()
            took_s, threads = after_s - before_s, len(counted)
            fastest_s = self._fastest_s[threads] = min(took_s, self._fastest_s.get(threads, took_s))
            if took_s <= fastest_s + _INTERRUPTED_S:
                break
        return Reading(before_s, cpu_before_s, counted, cpu_after_s, after_s)


def waited_s(start: Reading, end: Reading, cpu_s: float) -> float | None:
    """Return how long one thread's worth of work waited between two readings; None: unknown.

    Several threads that hand over to each other on one core wait for each other all the time. So
    it is the least of the waits of all threads together, and of the time in which none of them ran
    (`cpu_s` is the processor time in between).
    """
    if not end.waits:
        return None
    total_ns = sum(ns - start.waits.get(name, 0) for name, ns in end.waits.items())
    idle_s = (end.before_s - start.after_s) - cpu_s
    return max(0.0, min(total_ns / 1e9, idle_s))
