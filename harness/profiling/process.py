"""What a training does to its process, by counters that cost nothing: no profiler is on."""

from __future__ import annotations

import gc
import os
import resource
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple, TypeAlias

from harness.backend import process_tree
from harness.profiling.seen import Train
from harness.trial.profile import Stretch

Counts = dict[str, float]


@dataclass(frozen=True)
class Counted:
    """Numbers are per epoch."""

    epoch_s: float
    """The least that it took in any call."""
    seconds: Mapping[Stretch, float]
    """Of `collection`, `system` and `waiting`."""
    counts: Mapping[str, float]


def count(train: Train, epochs: int, calls: int = 3) -> Counted:
    """Count what some calls of `train` do, each training `epochs` epochs.

    Amounts are medians over the calls. The waiting is the least in any call, so that a virtual
    machine that gets no processor for a moment does not look like a sleep.
    """
    seen: list[Counts] = []
    times = []
    with _collections() as collected:
        for _ in range(calls):
            before, threads_before = _read() | collected, _threads()
            times.append(train())
            threads, after = _threads(), _read() | collected
            took = {name: after[name] - before[name] for name in after}
            # A thread that has ended took its wait with it.
            took["waited_s"] = sum(
                threads[n].waited_s - threads_before[n].waited_s
                for n in threads.keys() & threads_before.keys()
            )
            seen.append(took | {"fought_s": _fought_s(took, threads_before, threads)})
    counts = {name: max(0.0, median(c[name] for c in seen)) / epochs for name in seen[0]}
    waiting_s = max(0.0, min(map(_idle_s, seen))) / epochs
    seconds: dict[Stretch, float] = {
        "collection": counts.pop("collection_s"),
        "system": counts.pop("system_s"),
        "waiting": waiting_s,
    }
    for name in ("wall_s", "descendants_s", "waited_s"):
        del counts[name]
    return Counted(min(times) / epochs, seconds, counts)


def set_apart(seconds: Mapping[Stretch, float], counted: Counted) -> dict[Stretch, float]:
    """Return the stretches that a profiler saw, with those that only counters tell.

    A profiler counts them as part of the stretch in which they happen: mostly of Python.
    """
    found = dict(seconds)
    for name, measured_s in counted.seconds.items():
        missing_s = measured_s - found.get(name, 0.0)
        for stretch in (one for one in _HOLDERS if one != name):
            taken_s = min(max(0.0, missing_s), found.get(stretch, 0.0))
            if taken_s:
                found[stretch] -= taken_s
                found[name] = found.get(name, 0.0) + taken_s
                missing_s -= taken_s
    return found


_HOLDERS: tuple[Stretch, ...] = (
    *("other", "python", "copies", "kernels", "calls", "prediction", "optimiser"),
)
"""The stretches that these may be hidden in, the most likely first."""


def _read() -> Counts:
    """Read the counters of this process, of its thread that calls this, and of its descendants."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    caller_s = time.thread_time()
    return {
        "page_faults": usage.ru_minflt,
        "switches": usage.ru_nvcsw,
        "system_s": usage.ru_stime,
        "caller_s": caller_s,
        "other_threads_s": time.process_time() - caller_s,
        "descendants_s": process_tree.cpu_s(process_tree.family(os.getpid())[1:]),
        "wall_s": time.perf_counter(),
    }


def _idle_s(counts: Mapping[str, float]) -> float:
    """Return how long nothing of the process was computing, or waiting for a processor."""
    return counts["wall_s"] - _busy_s(counts) - counts["waited_s"]


def _fought_s(counts: Mapping[str, float], before: Threads, after: Threads) -> float:
    """Return how long threads waited for a processor that another thread of the process had.

    That needs two that are busy: the second cannot have waited for longer than it ran, if the
    system treats them alike. While another process has the processor, all of them wait.
    """
    waited_s = counts["waited_s"] - max(0.0, counts["wall_s"] - _busy_s(counts))
    ran = [after[name].ran_s - before[name].ran_s for name in after.keys() & before.keys()]
    # Of threads that began or ended meanwhile, only the process knows.
    ran.append(counts["caller_s"] + counts["other_threads_s"] - sum(ran))
    return max(0.0, min(waited_s, sorted([0.0, *ran])[-2]))


def _busy_s(counts: Mapping[str, float]) -> float:
    return counts["caller_s"] + counts["other_threads_s"] + counts["descendants_s"]


class _Thread(NamedTuple):
    """How long a thread has run, and waited for a processor."""

    ran_s: float
    waited_s: float


Threads: TypeAlias = Mapping[str, _Thread]


def _threads() -> Threads:
    """Return the threads of this process, by number; none where the system does not tell."""
    found = {}
    with suppress(OSError):
        for number in os.listdir("/proc/self/task"):
            name = f"/proc/self/task/{number}/schedstat"
            with suppress(OSError, IndexError, ValueError), open(name, "rb", 0) as file:
                ran_ns, waited_ns, *_ = map(int, file.read().split())
                found[number] = _Thread(ran_ns / 1e9, waited_ns / 1e9)
    return found


@contextmanager
def _collections() -> Iterator[Counts]:
    """Count the runs of Python's garbage collector, and their seconds."""
    found: Counts = {"collections": 0.0, "collection_s": 0.0}
    started = 0.0

    def hear(phase: str, _: Mapping[str, int]) -> None:
        nonlocal started
        if phase == "start":
            started = time.perf_counter()
        else:
            found["collections"] += 1
            found["collection_s"] += time.perf_counter() - started

    gc.callbacks.append(hear)
    try:
        yield found
    finally:
        gc.callbacks.remove(hear)
