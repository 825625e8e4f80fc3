"""What PyTorch does in a training, operator by operator.

The profiler costs about as much as the cheapest operators. It reads its clock last when an operator
begins and first when it ends, so its own cost falls between operators: into what their caller
takes. It is measured (calls of the training with and without it), and taken off there.
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from math import inf
from types import CodeType
from typing import NamedTuple

from harness.profiling.python_calls import move
from harness.profiling.seen import Seen, Train
from harness.profiling.torch_counts import counts
from harness.profiling.torch_device import PROFILERS_OWN, Device, device, waits
from harness.profiling.torch_events import (
    PREDICTION,
    Event,
    Node,
    compilations,
    host_events,
    record,
    walk,
)
from harness.trial.profile import Call, Stretch

_ENGINE = "autograd::engine::"
_CALLS = 20
_EVENTS = 10_000  # Of one recording: 30 ms of it, and as much for reading it.
_ALL_EVENTS = 60_000
_RECORDINGS = 5
_EMPTY_CALLS = 300
_MOST_COST = 0.8
"""Of the time of a recording, whatever a disturbance makes it look like."""


def look(
    train: Train, epochs: int, epoch_s: float, predicts: Collection[CodeType] = ()
) -> Seen | None:
    """Return what PyTorch did in an epoch; None if it ran no operator.

    epoch_s: what an epoch takes without a profiler; predicts: the functions in which it predicts.
    """
    torch = sys.modules.get("torch")
    if torch is None:
        return None
    # What is compiled for a length may be compiled anew for another one.
    before = compilations()
    shorter = not before
    per_epoch = counts(train, epochs, shorter=shorter)
    if not per_epoch.get("operators"):
        return None
    compiled = compilations()[len(before) :]
    events, grows = per_epoch.pop("events"), per_epoch.pop("grows", 0)
    if grows and events * epochs < _ALL_EVENTS * _RECORDINGS:
        shorter = False
    few = max(1, min(epochs, int(_EVENTS / events))) if shorter else epochs
    empty = _empty_calls()
    times = max(1, min(_RECORDINGS, int(_ALL_EVENTS / (events * few))))
    recorded = _least_disturbed(train, few, times, predicts)
    cost_s = recorded.cost_s(empty.profiler_s)
    parts = Parts(cost_s * 1e9, empty, recorded.device)
    walk(recorded.events, parts.nodes.append)
    parts.add_up()
    found = parts.stretches(recorded.seconds)
    scale = epoch_s / sum(found.values())
    seconds = {name: s * scale for name, s in found.items()}
    if compiled:
        per_epoch["compilations"] = len(compiled) / epochs
        move(seconds, "compilation", sum(compiled) / epochs)
    if recorded.device:
        per_epoch["device_busy_s"] = recorded.device.busy_s * scale
    by_time = sorted(parts.self_ns.items(), key=lambda item: -item[1])[:_CALLS]
    return Seen(
        source="torch.profiler",
        profiled_s=recorded.seconds / few,
        seconds=seconds,
        counts=per_epoch,
        costs={"empty_call": empty.full_s, "profiler_call": cost_s},
        calls=tuple(
            Call(name=name, count=parts.counted[name] / few, seconds=max(0.0, ns / 1e9 * scale))
            for name, ns in by_time
        ),
    )


class _Recorded(NamedTuple):
    events: list[Event]
    device: Device | None
    seconds: float
    plain_s: float
    """What such a call takes without a profiler."""

    def cost_s(self, of_empty_s: float) -> float:
        """Return what the profiler adds to an event: about as much as to an empty operator."""
        found_s = (self.seconds - self.plain_s) / len(self.events)
        found_s = min(max(found_s, 0.8 * of_empty_s), 1.4 * of_empty_s)
        return min(found_s, _MOST_COST * self.seconds / len(self.events))


def _least_disturbed(
    train: Train, epochs: int, times: int, predicts: Collection[CodeType]
) -> _Recorded:
    """Record some calls, each beside one that is not recorded; return the fastest of both."""
    plain_s = inf
    fastest_s = inf
    for _ in range(times):
        plain_s = min(plain_s, train(epochs))
        raw, took_s, wall_s = record(lambda: train(epochs), predicts=predicts)
        if wall_s < fastest_s:
            fastest_s, seconds, events = wall_s, took_s, raw
    return _Recorded(host_events(events), device(events), seconds, plain_s)


@dataclass(frozen=True)
class Empty:
    """What operators cost that have nothing to do: those on one element."""

    full_s: float
    """A call from Python."""
    profiler_s: float
    recorded_ns: dict[tuple[bool, bool], float]
    """What the profiler sees of it; by whether it works in place, and autograd records it."""

    @property
    def binding_s(self) -> float:
        """What the profiler does not see: the way from Python to the operator."""
        return max(0.0, self.full_s - self.recorded_ns[True, False] / 1e9)


def _empty_calls() -> Empty:
    from time import perf_counter

    import torch

    plain, watched = torch.zeros(1), torch.zeros(1, requires_grad=True)

    def call(operator: str, x: torch.Tensor) -> float:
        function = getattr(x, operator)
        start = perf_counter()
        for _ in range(_EMPTY_CALLS):
            function()
        return (perf_counter() - start) / _EMPTY_CALLS

    def recorded(operator: str, x: torch.Tensor) -> tuple[float, float]:
        recordings = [record(lambda: call(operator, x)) for _ in range(3)]
        raw, full_s, _ = min(recordings, key=lambda recording: recording[1])
        durations = sorted(e.duration_ns() for e in raw)
        return durations[len(durations) // 4], full_s

    with torch.inference_mode(False), torch.enable_grad():
        full_s = min(call("neg_", plain) for _ in range(5))
        in_place_ns, with_profiler_s = recorded("neg_", plain)
        out_ns, _ = recorded("neg", plain)
        graph_ns, _ = recorded("neg", watched)
    seen = {(True, False): in_place_ns, (False, False): out_ns}
    seen |= {(True, True): graph_ns, (False, True): graph_ns}
    return Empty(full_s, max(1e-8, with_profiler_s - full_s), seen)


@dataclass
class Parts:
    """Adds up the stretches of a recorded call."""

    cost_ns: float
    empty: Empty
    device: Device | None = None
    nodes: list[Node] = field(default_factory=list)
    """All events, children first."""
    ns: defaultdict[Stretch, float] = field(default_factory=lambda: defaultdict(float))
    self_ns: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    counted: Counter[str] = field(default_factory=Counter)
    outermost: list[Event] = field(default_factory=list)
    from_python: int = 0
    """Operators that Python called, as far as they are no part of another stretch."""

    def add_up(self) -> None:
        """Add each event, less those inside of it, and less what disturbed it."""
        own_ns: defaultdict[str, list[float]] = defaultdict(list)
        for node in self.nodes:
            own_ns[node.event.name].append(self._own_ns(node))
        most_ns = {name: _most(every) for name, every in own_ns.items()}
        for node in self.nodes:
            self._add(node, min(self._own_ns(node), most_ns[node.event.name]))

    def _own_ns(self, node: Node) -> float:
        lasted_ns = node.event.end_ns - node.event.start_ns
        return lasted_ns - node.children_ns - node.children * self.cost_ns

    def _add(self, node: Node, own_ns: float) -> None:
        event = node.event
        if node.parent is None:
            self.outermost.append(event)
        if event.name in PROFILERS_OWN:
            return
        self.self_ns[event.name] += own_ns
        self.counted[event.name] += 1
        if whole := _belongs_to(node):
            self.ns[whole] += own_ns
        elif node.kind == "python":
            self.ns["python"] += own_ns
        elif self.device and waits(event.name):
            self._add_wait(node, own_ns)
        elif node.works and not self.device:
            call_ns = self.empty.recorded_ns[event.name.endswith("_"), event.graph]
            self.ns["calls"] += min(own_ns, call_ns)
            work: Stretch = "copies" if node.copies else "kernels"
            self.ns[work] += max(0.0, own_ns - call_ns)
        else:
            self.ns["calls"] += own_ns
        called = node.parent is None or node.parent.kind == "python"
        self.from_python += called and node.is_operator and not whole

    def _add_wait(self, node: Node, own_ns: float) -> None:
        """Add what the processor waits for: what the device does meanwhile, or nothing."""
        assert self.device
        start_ns, end_ns = node.event[:2]
        kernels_ns, copies_ns = self.device.during(start_ns, end_ns)
        idle_ns = max(0.0, own_ns - kernels_ns - copies_ns)
        self.ns["kernels"] += kernels_ns
        self.ns["copies"] += copies_ns
        self.ns["copies" if "Memcpy" in node.event.name else "waiting"] += idle_ns

    def stretches(self, seconds: float) -> dict[Stretch, float]:
        """Return the seconds of each, of a call that took so many."""
        for kind, gaps_ns in self._gaps().items():
            most_ns = _most(gaps_ns)
            of_engine = all(name.startswith(_ENGINE) for name in kind)
            self.ns["calls" if of_engine else "python"] += sum(min(g, most_ns) for g in gaps_ns)
        first = min(event.start_ns for event in self.outermost)
        last = max(event.end_ns for event in self.outermost)
        self.ns["python"] += max(0.0, seconds * 1e9 - (last - first) - self.cost_ns)
        binding_ns = min(self.ns["python"], self.from_python * self.empty.binding_s * 1e9)
        self.ns["python"] -= binding_ns
        self.ns["calls"] += binding_ns
        found = {name: max(0.0, ns / 1e9) for name, ns in self.ns.items()}
        return found if sum(found.values()) else {"other": seconds}

    def _gaps(self) -> dict[tuple[str, str], list[float]]:
        """Return the times in which no event ran, by the names of those before and after.

        Between nodes of autograd's graph its engine runs, else the interpreter.
        """
        found: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
        events = sorted(self.outermost)
        before = events[0]
        for event in events[1:]:
            gap_ns = event.start_ns - before.end_ns - self.cost_ns
            found[before.name, event.name].append(max(0.0, gap_ns))
            before = max(before, event, key=lambda e: e.end_ns)
        return found


def _most(every_ns: Sequence[float]) -> float:
    """Return what one of several like events takes at most, if nothing disturbs it."""
    number = len(every_ns)
    if number < 2:
        return inf
    return 3 * max(0.0, sorted(every_ns)[number - max(2, number // 10)])


def _belongs_to(node: Node) -> Stretch | None:
    """Return the stretch of which all is a part that this event, or one around it, calls."""
    around: Node | None = node
    while around:
        name = around.event.name
        if name.startswith("Optimizer.step#"):
            return "optimiser"
        if name == PREDICTION:
            return "prediction"
        around = around.parent
    return None
