"""What XLA's compiled programs do in a training: kernels, their calls, copies, compilations.

Which programs run, and how often, is in a trace of JAX's profiler; what a program executes is in
its text (`harness.profiling.hlo`). A trace costs ten times as much as a small kernel, so the
times are those of calls without it; the trace says how the kernels share theirs.
"""

from __future__ import annotations

import os
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from harness.profiling import hlo
from harness.profiling.jax_trace import Run, Trace, durations, trace
from harness.profiling.seen import Seen, Train
from harness.trial.profile import Call, Stretch

_HOST_S = 0.1
_WHOLE_S, _WARM_S, _LONGEST_S = 0.15, 0.04, 10.0
"""How long a trace may last: an event costs half a microsecond, and three more to read."""
_CALLS = 20


def look(train: Train, epochs: int, epoch_s: float) -> Seen | None:
    """Return what is seen of the compiled programs that `train` runs; None if it runs none."""
    if "jax" not in sys.modules:
        return None
    host = min(_hosts(train), key=lambda host: host.caller_s)
    whole = trace(train, _WHOLE_S + 2 * host.compilation_s)
    if not whole.runs and not whole.whole:
        whole = trace(train, _LONGEST_S)
    if not whole.runs:
        return None
    programs = _programs({run.module: set(run.seconds) for run in whole.runs})
    empty = _Empty()
    # The first trace leaves memory to the allocator, so that there are no page faults in this one.
    warm = trace(train, _WARM_S + 2 * host.compilation_s, before=empty.run)
    return _Account(epochs, epoch_s * epochs, host, whole, warm, programs, empty).seen()


@dataclass(frozen=True)
class _Host:
    """A call without a trace, as the processor and JAX's own clocks see it."""

    caller_s: float
    """Processor time of the thread that calls `train`."""
    waiting_s: float
    """In which no thread of the process ran."""
    compilation_s: float
    compilations: int


def _hosts(train: Train) -> Iterator[_Host]:
    """Yield calls, several if they are short."""
    end_s = time.perf_counter() + _HOST_S
    yield _host(train)
    while time.perf_counter() < end_s:
        yield _host(train)


def _host(train: Train) -> _Host:
    spans: list[tuple[float, float]] = []
    compilations = 0

    def listen(event: str, duration_secs: float, **_: str | int) -> None:
        nonlocal compilations
        if event.startswith("/jax/core/compile/"):
            now_s = time.perf_counter()
            spans.append((now_s - duration_secs, now_s))
            compilations += "backend_compile" in event

    import jax.monitoring

    jax.monitoring.register_event_duration_secs_listener(listen)
    caller_s, process_s = time.thread_time(), time.process_time()
    try:
        call_s = train()
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    caller_s, process_s = time.thread_time() - caller_s, time.process_time() - process_s
    return _Host(caller_s, max(0.0, call_s - process_s), _union(spans), compilations)


def _union(spans: Iterable[tuple[float, float]]) -> float:
    """Return for how long there is at least one of the spans."""
    total, until = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total


def _programs(modules: Mapping[str, set[str]]) -> dict[str, hlo.Program]:
    """Return the programs of these names that have the instructions that were executed."""
    from jax.extend.backend import get_backend

    found = {}
    for executable in get_backend().live_executables():
        for module in executable.hlo_modules():
            if module.name in modules and module.name not in found:
                program = hlo.program(module.to_string())
                names = {kernel.name for kernel in program.kernels} | program.containers
                if modules[module.name] <= names:
                    found[module.name] = program
    return found


class _Empty:
    """A program of kernels that compute next to nothing, and cannot become one.

    Its inner loop turns as often as the text says; the outer one as often as it is told.
    """

    _NUMBERS, _INNER, _TURNS = 6, 250, 40

    def __init__(self) -> None:
        import jax
        import jax.numpy as jnp

        def turn(_: object, carried: Any) -> Any:
            numbers, array = carried
            return [3 * n + place for place, n in enumerate(numbers)], array * 0.5

        def turns(count: Any, carried: Any) -> Any:
            def inner(_: object, carried: Any) -> Any:
                return jax.lax.fori_loop(0, self._INNER, turn, carried)

            return jax.lax.fori_loop(0, count, inner, carried)

        # A loop that carries less than a kilobyte would be compiled into a single kernel.
        start = [jnp.int32(n) for n in range(self._NUMBERS)], jnp.zeros(256, jnp.float32)
        self._start = jax.device_put(start)
        self._program = jax.jit(turns).lower(1, self._start).compile()
        text = hlo.program(self._program.as_text() or "")
        self.module = text.name
        self.kernels = sum(kernel.count for kernel in text.kernels)
        self.seconds = self._seconds()

    def run(self, turns: int = 1) -> float:
        import jax

        start_s = time.perf_counter()
        jax.block_until_ready(self._program(turns, self._start))
        return time.perf_counter() - start_s

    def _seconds(self) -> float:
        """Return the time of a kernel."""
        many, one = (min(self.run(n) for _ in range(15)) for n in (self._TURNS + 1, 1))
        return max(1e-9, (many - one) / self._TURNS / self.kernels)


@dataclass(frozen=True)
class _Part:
    """All executions of a kernel in a call of `train`."""

    kernel: hlo.Kernel
    count: float
    work_s: float
    """Beyond that of empty ones, as traced."""


@dataclass(frozen=True)
class _Account:
    """Divides the time of a call among what was seen."""

    epochs: int
    call_s: float
    host: _Host
    whole: Trace
    warm: Trace
    programs: Mapping[str, hlo.Program]
    empty: _Empty

    def seen(self) -> Seen:
        """Return all of it, per epoch."""
        parts = list(self._parts())
        count = sum(part.count for part in parts)
        seconds = self._outside()
        program_s = self.call_s - sum(seconds.values())
        calls_s = min(program_s, count * self.empty.seconds)
        each_s = calls_s / count
        share = (program_s - calls_s) / (sum(part.work_s for part in parts) or 1)
        took = {id(part): part.count * each_s + part.work_s * share for part in parts}
        seconds |= {"calls": 0.0, "kernels": 0.0, "optimiser": 0.0}
        for part in parts:
            if part.kernel.optimiser:
                seconds["optimiser"] += took[id(part)]
            else:
                seconds["calls"] += part.count * each_s
                seconds["copies" if part.kernel.moves else "kernels"] += part.work_s * share
        first = sorted(parts, key=lambda part: -took[id(part)])[:_CALLS]
        per_run = self.whole.window_s / self._share() / self.epochs
        return Seen(
            source="XLA",
            profiled_s=per_run,
            seconds={name: s / self.epochs for name, s in seconds.items() if s > 0},
            counts={name: n / self.epochs for name, n in self._counts(parts).items()},
            costs={"empty_call": self.empty.seconds, "profiler_call": self._profiler_s()},
            calls=tuple(
                Call(
                    name=part.kernel.name,
                    count=part.count / self.epochs,
                    seconds=took[id(part)] / self.epochs,
                    where=part.kernel.where,
                )
                for part in first
            ),
        )

    def _counts(self, parts: list[_Part]) -> dict[str, float]:
        """Return the counts of a call."""
        runs = self._runs()
        counts: dict[str, float] = defaultdict(float)
        counts["programs"] = sum(runs.values())
        counts["compilations"] = self.host.compilations
        for part in parts:
            counts["kernels"] += part.count
            counts["bytes"] += part.count * part.kernel.bytes
            counts["multiply_adds"] += part.count * part.kernel.multiply_adds
            counts["float64"] += part.count * part.kernel.float64
            # What is copied is read and written.
            counts["copied_bytes"] += part.count * part.kernel.bytes / 2 * part.kernel.moves
        for module, program in self.programs.items():
            for trips, turns in program.trips.items():
                counts[f"trips:{trips}"] += turns * runs[module]
        return dict(counts)

    def _outside(self) -> dict[Stretch, float]:
        """Return the stretches of a call in which no program runs."""
        host, traced = self.host, self.whole
        gaps_s = traced.window_s - _union((run.start_s, run.end_s) for run in traced.runs)
        between_s = gaps_s / self._share()
        busy_s = host.caller_s
        if any(run.inline for run in traced.runs) or len(os.sched_getaffinity(0)) > 1:
            # The caller's thread may also be busy while programs run.
            busy_s = min(busy_s, between_s)
        # XLA compiles in other threads than the caller's.
        busy_s = max(0.0, busy_s - host.compilation_s)
        copies_s = min(busy_s, traced.transfers_s / self._share())
        idle_s = max(0.0, between_s - busy_s - host.compilation_s)
        found: dict[Stretch, float] = {
            "python": busy_s - copies_s,
            "compilation": host.compilation_s,
            "copies": copies_s,
            "waiting": min(host.waiting_s, idle_s),
        }
        least_s = sum(part.count for part in self._parts()) * self.empty.seconds
        scale = min(1.0, max(0.0, self.call_s - least_s) / (sum(found.values()) or 1))
        return {name: seconds * scale for name, seconds in found.items()}

    def _parts(self) -> Iterator[_Part]:
        runs = self._runs()
        counted = durations(self.whole)
        lasting = counted | durations(self.warm)
        for module, number in runs.items():
            program = self.programs.get(module)
            for kernel in program.kernels if program else _unknown(module, counted):
                executed = len(counted.get((module, kernel.name), ()))
                count = executed if self.whole.whole else kernel.count * number
                each_s = _usual(lasting.get((module, kernel.name), [0.0]))
                yield _Part(kernel, count, count * max(0.0, each_s - self._traced_s()))

    def _runs(self) -> Counter[str]:
        """Return how often each program runs in a call."""
        runs = Counter(run.module for run in self.whole.runs)
        if self.whole.whole:
            return runs
        for module, number in runs.items():
            # Once in a call, or as often in each epoch.
            if number > 1:
                rate = number / self._share() / self.epochs
                runs[module] = self.epochs * max(1, round(rate))
        return runs

    def _share(self) -> float:
        """Return the share of the call that was traced."""
        if self.whole.whole:
            return 1.0
        executed = sum(run.executed for run in self.whole.runs)
        undisturbed_s = self.whole.window_s - executed * self._profiler_s()
        return min(1.0, max(undisturbed_s, self.whole.window_s / 20) / self.call_s)

    def _empty_run(self) -> Run:
        return next(run for run in self.warm.runs if run.module == self.empty.module)

    def _profiler_s(self) -> float:
        """Return what a trace adds to a kernel."""
        run = self._empty_run()
        return max(0.0, (run.end_s - run.start_s) / self.empty.kernels - self.empty.seconds)

    def _traced_s(self) -> float:
        """Return how long an empty kernel seems to take."""
        run = self._empty_run()
        return 0.0 if run.on_device else _usual([s for each in run.seconds.values() for s in each])


def _usual(seconds: list[float]) -> float:
    """Return the lower quartile: the rest is disturbances and page faults."""
    return sorted(seconds)[len(seconds) // 4]


def _unknown(module: str, executed: Iterable[tuple[str, str]]) -> list[hlo.Kernel]:
    """Return the kernels of a program that is no longer there."""
    return [
        hlo.Kernel(name, "", 1, 0, 0, float64=False, moves=False, where=module, optimiser=False)
        for home, name in executed
        if home == module and not name.startswith(("while", "call", "conditional"))
    ]
