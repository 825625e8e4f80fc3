"""What XLA's compiled programs do in a training: kernels, their calls, copies, compilations.

Which programs run, and how often, is in a trace of JAX's profiler; what a program executes is in
its text (`harness.profiling.hlo`). A trace costs ten times as much as a small kernel, so the
times are those of calls without it; the trace says how the kernels share theirs.
"""

from __future__ import annotations

import os
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias

from harness.profiling import hlo
from harness.profiling.jax_empty import Empty, low
from harness.profiling.jax_trace import Trace, available, gaps_s, trace
from harness.profiling.seen import Seen, Train
from harness.trial.profile import Call, Stretch

_HOST_S, _AGAIN_S = 0.1, 1.0
_TRACE_S, _LONGEST_S = 0.045, 10.0
"""How long a trace may last: an event costs half a microsecond, and five more to read."""
_LONGEST_READING_S = 1e-3
_CALLS = 20

_Program: TypeAlias = tuple[str, object]


def look(train: Train, epochs: int, epoch_s: float) -> Seen | None:
    """Return what is seen of the compiled programs that `train` runs; None if it runs none."""
    if not available():
        return None
    host = _Host(*map(min, zip(*_hosts(train), strict=True)))
    # All kernels of an epoch should be in it.
    longest_s = _TRACE_S + min(1.0, 2 * epoch_s) + 2 * host.compilation_s
    traced = trace(train, longest_s)
    if not traced.runs and not traced.whole:
        longest_s = _LONGEST_S
        traced = trace(train, longest_s)
    if not traced.runs:
        return None
    empty = Empty()
    # The first trace left memory to the allocator, so that kernels wait for no page faults now.
    again = trace(train if epoch_s * epochs < _AGAIN_S else _nothing, longest_s, empty.run)
    again.runs[:] = empty.compare(again.runs)
    return _Account(epochs, epoch_s * epochs, host, again if again.runs else traced, empty).seen()


def _nothing(_: int | None = None, /) -> float:
    return 0.0


class _Host(NamedTuple):
    """A call without a trace, as the processor and JAX's own clocks see it."""

    caller_s: float
    """Processor time of the thread that calls `train`."""
    unclocked_s: float
    """What `train` takes to read its own clocks, and perhaps waits for a processor."""
    waiting_s: float
    """In which no thread of the process ran."""
    compilation_s: float
    compilations: float


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
    start_s, caller_s, process_s = time.perf_counter(), time.thread_time(), time.process_time()
    try:
        call_s = train()
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    caller_s, process_s = time.thread_time() - caller_s, time.process_time() - process_s
    unclocked_s = max(0.0, time.perf_counter() - start_s - call_s)
    return _Host(caller_s, unclocked_s, max(0.0, call_s - process_s), _union(spans), compilations)


def _union(spans: Iterable[tuple[float, float]]) -> float:
    """Return for how long there is at least one of the spans."""
    total, until = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total


@dataclass
class _Part:
    """All executions of a kernel in a call of `train`."""

    kernel: hlo.Kernel
    count: float
    call_s: float
    """What was traced of a call beyond that of an empty kernel: the gap, and an empty product."""
    work_s: float
    """What was traced beyond that."""
    took_s: float = 0.0
    """Without a trace."""


@dataclass(frozen=True)
class _Account:
    """Divides the time of a call among what was seen."""

    epochs: int
    call_s: float
    host: _Host
    traced: Trace
    empty: Empty

    def seen(self) -> Seen:
        """Return all of it, per epoch."""
        seconds = self._seconds()
        dearest = sorted(self._parts, key=lambda part: -part.took_s)[:_CALLS]
        return Seen(
            source="XLA",
            profiled_s=self.traced.window_s / self._share / self.epochs,
            seconds={name: s / self.epochs for name, s in seconds.items() if s > 0},
            counts={name: n / self.epochs for name, n in self._counts().items()},
            costs=self._costs(),
            calls=tuple(
                Call(
                    name=part.kernel.name,
                    count=part.count / self.epochs,
                    seconds=part.took_s / self.epochs,
                    where=part.kernel.where,
                )
                for part in dearest
            ),
        )

    def _costs(self) -> dict[str, float]:
        empty = self.empty
        products = {f"empty_call:{name}": s + empty.seconds for name, s in empty.library_s.items()}
        return {"empty_call": empty.seconds, "profiler_call": empty.profiler_s, **products}

    def _seconds(self) -> dict[Stretch, float]:
        """Return the stretches of a call, and set what each part took."""
        found = defaultdict(float, self._outside())
        each_s = self._empty_s
        left_s = self.call_s - sum(found.values()) - each_s * sum(p.count for p in self._parts)
        share = left_s / (sum(p.count * (p.call_s + p.work_s) for p in self._parts) or 1)
        for part in self._parts:
            calls_s = part.count * (each_s + share * part.call_s)
            work_s = part.count * share * part.work_s
            part.took_s = calls_s + work_s
            if part.kernel.optimiser:
                found["optimiser"] += calls_s + work_s
            else:
                found["calls"] += calls_s
                found["copies" if part.kernel.moves else "kernels"] += work_s
        found["other"] += self.call_s - sum(found.values())
        return found

    @property
    def _on_device(self) -> bool:
        return any(run.on_device for run in self.traced.runs)

    @property
    def _empty_s(self) -> float:
        """What an empty kernel takes; on a device, gaps in the trace are all that calls cost."""
        return 0.0 if self._on_device else self.empty.seconds

    def _outside(self) -> dict[Stretch, float]:
        """Return the stretches of a call in which no program runs."""
        host, runs = self.host, self.traced.runs
        # What is done once in a call is done at its beginning, where the trace is.
        share = self._share if max(self._traced_runs.values()) > 1 else 1.0
        between_s = (self.traced.window_s - _union(run.span for run in runs)) / share
        clocks_s = min(host.unclocked_s, _LONGEST_READING_S)
        busy_s = max(0.0, host.caller_s - clocks_s - host.compilation_s)
        if any(run.inline or run.on_device for run in runs) or len(os.sched_getaffinity(0)) > 1:
            # The thread that calls may be busy while programs run.
            busy_s = min(busy_s, between_s)
        copies_s = min(busy_s, self.traced.transfers_s / share)
        idle_s = max(0.0, between_s - busy_s - host.compilation_s)
        found: dict[Stretch, float] = {
            "python": busy_s - copies_s,
            "compilation": host.compilation_s,
            "copies": copies_s,
            # Without a device, `harness.profiling.process` tells it from waiting for a processor.
            "waiting": min(host.waiting_s, idle_s) * self._on_device,
        }
        most_s = self.call_s - self._empty_s * sum(part.count for part in self._parts)
        scale = min(1.0, max(0.0, most_s) / (sum(found.values()) or 1))
        return {name: seconds * scale for name, seconds in found.items()}

    def _counts(self) -> dict[str, float]:
        """Return the counts of a call."""
        found: dict[str, float] = defaultdict(float)
        found["programs"] = sum(self._runs.values())
        found["compilations"] = self.host.compilations
        for part in self._parts:
            found["kernels"] += part.count
            found["bytes"] += part.count * part.kernel.bytes
            found["multiply_adds"] += part.count * part.kernel.multiply_adds
            found["float64"] += part.count * part.kernel.float64
            # What is copied is read and written.
            found["copied_bytes"] += part.count * part.kernel.bytes / 2 * part.kernel.moves
        for key, program in self._programs.items():
            for trips, turns in program.trips.items():
                found[f"trips:{trips}"] += turns * self._runs[key]
        return found

    @cached_property
    def _traced_runs(self) -> Counter[_Program]:
        return Counter(run.program for run in self.traced.runs)

    @cached_property
    def _runs(self) -> Counter[_Program]:
        """How often each program runs in a call: once, or some times in an epoch."""
        numbers = self._traced_runs
        if self.traced.whole:
            return numbers
        repeated = [number for number in numbers.values() if number > 1]
        rates = {
            key: round((n - 0.5) / (min(repeated) - 0.5)) for key, n in numbers.items() if n > 1
        }
        return Counter({key: rates.get(key, 0) * self.epochs or 1 for key in numbers})

    @cached_property
    def _share(self) -> float:
        """The share of the call that was traced."""
        if self.traced.whole:
            return 1.0
        executed = sum(map(len, self._executed.values()))
        kernels = sum(
            self._runs[key] * sum(kernel.count for kernel in program.kernels)
            for key, program in self._programs.items()
        )
        return min(1.0, executed / kernels)

    @cached_property
    def _executed(self) -> dict[tuple[_Program, str], list[tuple[float, float]]]:
        """The gap before each execution of a kernel, and how long it took."""
        found = defaultdict(list)
        for run in self.traced.runs:
            containers = self._programs[run.program].containers
            kernels = [one for one in run.executed if one.name not in containers]
            for one, gap_s in zip(kernels, gaps_s(kernels), strict=True):
                found[run.program, one.name].append((gap_s, one.end_s - one.start_s))
        return found

    @cached_property
    def _parts(self) -> list[_Part]:
        found = []
        for key, program in self._programs.items():
            for kernel in program.kernels:
                executed = self._executed.get((key, kernel.name), [])
                whole = self.traced.whole
                count = len(executed) if whole else kernel.count * self._runs[key]
                gap_s = low([gap_s for gap_s, _ in executed]) - self.empty.gap_s
                took_s = max(0.0, low([took_s for _, took_s in executed]) - self.empty.traced_s)
                library_s = min(took_s, self.empty.library_s.get(kernel.library, 0.0))
                call_s = max(0.0, gap_s) + library_s
                found.append(_Part(kernel, count, call_s, took_s - library_s))
        return found

    @cached_property
    def _programs(self) -> dict[_Program, hlo.Program]:
        """The texts of the programs that ran; made up from the trace where one is gone."""
        from jax.extend.backend import get_backend

        texts, wanted = {}, {name for name, _ in self._traced_runs}
        for executable in get_backend().live_executables():
            for module in (m for m in executable.hlo_modules() if m.name in wanted):
                number = hlo.module_id(module.as_serialized_hlo_module_proto())
                texts[module.name, number] = module.to_string
        found = {}
        for key, runs in self._traced_runs.items():
            names = Counter(
                one.name for run in self.traced.runs if run.program == key for one in run.executed
            )
            found[key] = hlo.program(texts[key]()) if key in texts else _made_up(names, runs)
        return found


def _made_up(names: Mapping[str, int], runs: int) -> hlo.Program:
    containers = {name for name in names if name.startswith(("while", "call", "conditional"))}
    unknown: dict[str, Any] = {"opcode": "", "bytes": 0, "multiply_adds": 0, "float64": False}
    unknown |= {"moves": False, "where": "", "optimiser": False, "library": ""}
    kernels = [
        hlo.Kernel(name=name, count=n / runs, **unknown)
        for name, n in names.items()
        if name not in containers
    ]
    return hlo.Program("", tuple(kernels), {}, frozenset(containers))
