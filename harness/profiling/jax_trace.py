"""A trace of the compiled programs that a call of `train` runs, by JAX's own profiler."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import pairwise
from threading import Event
from typing import Any, NamedTuple

from harness.profiling.seen import Train

_START = "harness: train"
_LONGEST_GAP_S = 20e-6  # A thread that begins a kernel later had waited for a processor.
_TRANSFER = re.compile("H2D|D2H|(To|From)(Host|Literal)|Memcpy")


@dataclass
class Run:
    """One execution of a program, as far as it was traced."""

    program: tuple[str, object]
    """The name of its module, and a number: modules may have the same name."""
    inline: bool
    """Whether the thread that calls `train` executes it."""
    on_device: bool
    executed: list[Executed] = field(default_factory=list)

    @property
    def span(self) -> tuple[float, float]:
        """Return when it began and when it ended."""
        return min(e.start_s for e in self.executed), max(e.end_s for e in self.executed)


class Executed(NamedTuple):
    """An instruction of a program, as it was executed."""

    name: str
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Trace:
    """What a trace shows of a call."""

    runs: list[Run]
    transfers_s: float
    window_s: float
    """How long the trace lasted, but not longer than the call."""
    whole: bool
    """Whether it lasted as long as the call."""


def available() -> bool:
    """Whether JAX is imported, in a version that has what this needs: 0.10, or a little less."""
    known = hasattr(sys.modules.get("jax.monitoring"), "unregister_event_duration_listener")
    return known and find_spec("jaxlib._profiler") is not None


def trace(train: Train, longest_s: float, before: Callable[[], object] = lambda: None) -> Trace:
    """Trace a call, or its beginning; what runs `before` it is traced, too.

    On a device always the whole call: a trace that ends while kernels run can crash the process.
    """
    import jax.profiler
    from jaxlib import _profiler  # type: ignore[attr-defined]

    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    options.host_tracer_level = 1
    options.enable_hlo_proto = False
    ended = Event()
    # `jax.profiler.start_trace` would write files, one of them as JSON: that takes a second.
    session = _profiler.ProfilerSession(options)

    def stop() -> tuple[float, bytes]:
        ended.wait(longest_s if jax.default_backend() == "cpu" else None)
        return time.perf_counter(), session.stop()

    before()
    with ThreadPoolExecutor(1) as pool:
        stopped = pool.submit(stop)
        with jax.profiler.TraceAnnotation(_START):
            start_s = time.perf_counter()
        try:
            train()
        finally:
            end_s = time.perf_counter()
            ended.set()
        stop_s, data = stopped.result()
    runs, transfers_s = _read(data)
    return Trace(runs, transfers_s, min(end_s, stop_s) - start_s, end_s <= stop_s)


def _read(data: bytes) -> tuple[list[Run], float]:
    """Return the runs of programs, and how long transfers took: on the device, if there is one."""
    from jax.profiler import ProfileData

    runs: dict[tuple[Any, ...], Run] = {}
    transfers_s = {True: 0.0, False: 0.0}
    profile = ProfileData.from_serialized_xspace(data)
    for plane in profile.planes:
        on_device = plane.name.startswith("/device:")
        for line in plane.lines:
            if on_device and "Stream" not in line.name:
                continue  # The same events once more.
            executed = []
            kinds: dict[str, bool] = {}
            for event in line.events:
                name = event.name
                if name not in kinds:
                    kinds[name] = any(key == "hlo_op" for key, _ in event.stats)
                if kinds[name]:
                    executed.append(event)
                elif _TRANSFER.search(name):
                    transfers_s[on_device] += event.duration_ns / 1e9
            for key, first, last in _stretches(executed):
                run = runs.setdefault(key, Run(key[:2], _START in kinds, on_device))
                for event in executed[first : last + 1]:
                    start_ns = event.start_ns
                    end_ns = start_ns + event.duration_ns
                    name = _on_device_name(event) if on_device else event.name
                    run.executed.append(Executed(name, start_ns / 1e9, end_ns / 1e9))
    return list(runs.values()), transfers_s[any(run.on_device for run in runs.values())]


def _on_device_name(event: Any) -> str:
    """Return the instruction that a kernel executes, which has a name of its own.

    Of kernels in a CUDA graph, only the graph is known: they keep their own name.
    """
    instruction = str(dict(event.stats).get("hlo_op", event.name))
    return str(event.name) if instruction.startswith("command_buffer") else instruction


def _stretches(executed: list[Any]) -> Iterator[tuple[tuple[Any, ...], int, int]]:
    """Yield each run with its first and last event: a thread executes one after the other.

    To ask an event for its run takes ten times as long as to ask for its duration.
    """

    def run(place: int) -> tuple[Any, ...]:
        stats = dict(executed[place].stats)
        return tuple(stats.get(name) for name in ("hlo_module", "program_id", "run_id"))

    first, end = 0, len(executed)
    while first < end:
        this, low, step = run(first), first, 1
        while low + step < end and run(low + step) == this:
            low, step = low + step, 2 * step
        high = min(end, low + step)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if run(middle) == this else (low, middle)
        yield this, first, low
        first = low + 1


def gaps_s(executed: Iterable[Executed]) -> Iterator[float]:
    """Yield how long each begins after the end of the one before it."""
    yield 0.0
    for before, after in pairwise(executed):
        gap_s = after.start_s - before.end_s
        yield gap_s if 0 < gap_s < _LONGEST_GAP_S else 0.0
