"""A process and its descendants, as Linux describes them; other systems show the process alone."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path


def family(pid: int) -> list[int]:
    """Return the number of a process, then those of all its descendants."""
    found = [pid]
    for one in found:  # It grows while it is read.
        with suppress(OSError):
            for children in Path(f"/proc/{one}/task").glob("*/children"):
                with suppress(OSError):
                    found += map(int, children.read_text().split())
    return found


def cpu_times(pid: int) -> dict[int, float]:
    """Return the processor time of a process and of each descendant, over all their threads."""
    times = {}
    for one in family(pid):
        # The clock of another process, as `clock_getcpuclockid` of Linux makes it.
        with suppress(OSError):
            times[one] = time.clock_gettime((~one << 3) | 2)
    return times


def used_s(before: Mapping[int, float], after: Mapping[int, float]) -> float:
    """Return the processor time between two readings; a new process has used all that it has."""
    return sum(seconds - before.get(pid, 0.0) for pid, seconds in after.items())
