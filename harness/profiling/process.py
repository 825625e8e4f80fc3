"""What a training does to its process, by counters that cost nothing: no profiler is on."""

from __future__ import annotations

import gc
import os
import resource
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple, TypeAlias

from harness.backend import process_tree
from harness.profiling.seen import Train
from harness.trial.epoch_time import undisturbed
from harness.trial.profile import Stretch

Counts = dict[str, float]
_READINGS = 5
_OF_READING = ("system_s", "caller_s", "wall_s")
"""The counters that grow while they are read."""


@dataclass(frozen=True)
class Counted:
    """Numbers are per epoch."""

    epoch_s: float
    """What it takes undisturbed."""
    seconds: Mapping[Stretch, float]
    """Of `collection`, `system` and `waiting`."""
    counts: Mapping[str, float]


def count(
    train: Train, epochs: int, calls: int = 3, prepare: Callable[[], None] = lambda: None
) -> Counted:
    """Count what some calls of `train` do, each training `epochs` epochs, after `prepare`.

    Amounts are medians over the calls; those that only all calls together tell are means.
    """
    seen: list[Counts] = []
    times = []
    with _collections() as collected:
        # Reading the counters takes time, too.
        reading = [_taken(lambda: 0.0, collected)[1] for _ in range(_READINGS)]
        idle_before_s = _core_idle_s()
        for _ in range(calls):
            prepare()
            call_s, took = _taken(train, collected)
            for name in _OF_READING:
                took[name] = max(0.0, took[name] - median(one[name] for one in reading))
            # As for the timed turns: see `harness.measure.run_queue`.
            times.append(call_s - max(0.0, min(took["waited_s"], call_s - _busy_s(took))))
            seen.append(took)
    idle_s = _core_idle_s() - idle_before_s
    counts = {name: max(0.0, median(c[name] for c in seen)) / epochs for name in seen[0]}
    whole = _of_all_calls(seen, idle_s)
    counts |= {name: s / calls / epochs for name, s in whole.items() if name != "waiting_s"}
    seconds: dict[Stretch, float] = {
        "collection": sum(call["collection_s"] for call in seen) / calls / epochs,
        "system": sum(call["system_s"] for call in seen) / calls / epochs,
        "waiting": whole["waiting_s"] / calls / epochs,
    }
    for name in (
        *("wall_s", "descendants_s", "waited_s", "second_s", "workers_s"),
        *("collection_s", "system_s"),
    ):
        del counts[name]
    return Counted(undisturbed(times) / epochs, seconds, counts)


def _taken(train: Callable[[], float], collected: Counts) -> tuple[float, Counts]:
    """Return the seconds of a call, and by how much each counter has grown."""
    before, threads_before = _read() | collected, _threads()
    call_s = train()
    threads, after = _threads(), _read() | collected
    took = {name: after[name] - before[name] for name in after}
    return call_s, took | _of_threads(took, threads_before, threads)


def _of_all_calls(calls: Sequence[Counts], idle_s: float) -> Counts:
    """Return how long nothing ran, and how long threads waited while another of theirs ran.

    idle_s: how long the process's only core had nothing to do; 0 if it has several. That is too
    little if other processes had the core while this one slept. So is what its threads neither ran
    nor waited, if several waited at once. A virtual machine that gets no processor for a moment
    must not look like a sleep: of the latter, the least of any call counts.
    """
    total = {name: sum(call[name] for call in calls) for name in calls[0]}
    least_s = min(call["wall_s"] - _busy_s(call) - call["waited_s"] for call in calls)
    idle_s = max(idle_s, len(calls) * least_s)
    # While another process has the core, all threads wait that could run.
    others_s = max(0.0, total["wall_s"] - _busy_s(total) - idle_s)
    return {
        "waiting_s": min(idle_s, total["wall_s"]),
        # The second cannot have waited for longer than it ran, if the system treats them alike.
        "fought_s": max(0.0, min(total["waited_s"] - others_s, total["second_s"])),
        # A thread that is given work by the caller may have to wait until that is done with it.
        "workers_fought_s": max(0.0, total["workers_s"] - others_s - total["caller_s"]),
    }


def set_apart(
    seconds: Mapping[Stretch, float], apart: Mapping[Stretch, float]
) -> dict[Stretch, float]:
    """Return the stretches that a profiler saw, with those set apart that only counters tell.

    A profiler counts them as part of the stretch in which they happen.
    """
    found = dict(seconds)
    for name, measured_s in apart.items():
        missing_s = measured_s - found.get(name, 0.0)
        # The operating system works where large arrays are touched, all else mostly in Python.
        holders = reversed(_HOLDERS) if name == "system" else _HOLDERS
        for stretch in (one for one in holders if one != name):
            taken_s = min(max(0.0, missing_s), found.get(stretch, 0.0))
            if taken_s:
                found[stretch] -= taken_s
                found[name] = found.get(name, 0.0) + taken_s
                missing_s -= taken_s
    return found


_HOLDERS: tuple[Stretch, ...] = (
    *("python", "other", "prediction", "optimiser", "calls", "copies", "kernels"),
)
"""The stretches that these may be hidden in."""


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


def _core_idle_s() -> float:
    """Return how long the only core that this process may use has had nothing to do so far.

    0 if it may use several, or if the system does not tell.
    """
    with suppress(OSError, AttributeError, ValueError):
        (core,) = os.sched_getaffinity(0)
        with open("/proc/stat", encoding="ascii") as file:
            fields = next((line.split() for line in file if line.startswith(f"cpu{core} ")), [])
        return sum(map(int, fields[4:6])) / os.sysconf("SC_CLK_TCK") if fields else 0.0
    return 0.0


def _of_threads(counts: Mapping[str, float], before: Threads, after: Threads) -> Counts:
    """Return how long the threads waited for a processor, and how long the second busiest ran."""
    # A thread that has ended took its wait with it; of when it ran, only the process knows.
    alive = after.keys() & before.keys()
    ran = [after[name].ran_s - before[name].ran_s for name in alive]
    ran.append(counts["caller_s"] + counts["other_threads_s"] - sum(ran))
    waited = {name: after[name].waited_s - before[name].waited_s for name in alive}
    return {
        "waited_s": sum(waited.values()),
        "workers_s": sum(waited.values()) - waited.get(str(threading.get_native_id()), 0.0),
        "second_s": sorted([0.0, *ran])[-2],
    }


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
