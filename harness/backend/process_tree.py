"""A process and its descendants, as Linux describes them; other systems show the process alone."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path


def family(pid: int) -> list[int]:
    """Return the number of a process, then those of all its descendants."""
    found = [pid]
    for one in found:  # It grows while it is read.
        with suppress(OSError):
            for children in Path(f"/proc/{one}/task").glob("*/children"):
                with suppress(OSError):
                    found += map(int, children.read_bytes().split())
    return found


def kill(pids: Iterable[int]) -> None:
    """Kill each process that has not ended."""
    for pid in pids:
        with suppress(OSError):
            os.kill(pid, signal.SIGKILL)


def cpu_s(pids: Iterable[int]) -> float:
    """Return the processor time of processes, with that of their children that have ended."""
    seconds = 0.0
    for pid in pids:
        # The clock of another process, as `clock_getcpuclockid` of Linux makes it.
        with suppress(OSError):
            seconds += time.clock_gettime((~pid << 3) | 2)
        with suppress(OSError):
            # After the name in brackets; the fields 16 and 17 of proc(5), `cutime` and `cstime`.
            fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
            seconds += (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")
    return seconds


def status(pid: int, name: str) -> list[str]:
    """Return the first word of that name in the status of each thread: `State`, `VmHWM` (kB)."""
    values = []
    for file in Path(f"/proc/{pid}/task").glob("*/status"):
        with suppress(OSError):
            values += re.findall(rf"(?m)^{name}:\s+(\w+)", file.read_text("utf-8", "replace"))
    return values
