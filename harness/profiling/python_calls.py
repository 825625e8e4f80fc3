"""Which functions a training calls, and how often: what Python itself can tell of any backend.

`cProfile` sees Python's functions and those written in C, not operators such as `a + b` and not
what compiled code calls. It reads its clock last when a function begins and first when it ends, so
its own cost falls into what the caller takes. It is measured, and taken off there.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from cProfile import Profile as Profiler
from dataclasses import dataclass, replace
from types import CodeType, FrameType
from typing import Any, NamedTuple, TypeAlias

from harness.profiling.seen import Seen, Train
from harness.trial.limits import LONGEST_NAME
from harness.trial.profile import Call, Stretch

_CALLS = 20
_HARNESS = os.path.dirname(os.path.dirname(__file__)) + os.sep
_TRAINS, _PREDICTS = ("train", "train_many"), ("predict", "predict_many")
_COPIES = re.compile(r"'(copy|astype)' of 'numpy|numpy\.(array|ascontiguousarray|copyto)\b")
_FRAMEWORKS = re.compile(r"torch|jaxlib|pjit|xla|numpy.asarray", re.IGNORECASE)
"""Its own profiler says what such a call does; `asarray` waits for the values of one of JAX's."""
_LOOKED_S, _RECORDINGS = 0.2, 3
_EMPTY_CALLS = 2000
_MOST_OPCODES = 1_000_000

Function: TypeAlias = "CodeType | str"
"""One of Python's, or the name of one that is written in C."""


class _Row(NamedTuple):
    """Calls of a function by another one, in an epoch."""

    function: Function
    caller: Function
    times: float
    own_s: float
    """Without the functions that it calls."""
    all_s: float


@dataclass(frozen=True)
class PythonCalls:
    """The calls of an epoch; the profiler's cost is taken off."""

    rows: Sequence[_Row]
    cost_s: float
    """What the profiler adds to each call."""
    profiled_s: float

    @property
    def predicts(self) -> frozenset[CodeType]:
        """The backend's own methods that predict, as far as `train` calls them."""
        return frozenset(row.function for row in self._predictions())  # type: ignore[misc]

    def stretches(self, epoch_s: float) -> dict[Stretch, float]:
        """Return how long an epoch predicts, and copies or converts arrays of NumPy."""
        copies_s = sum(row.own_s for row in self.rows if _COPIES.search(str(row.function)))
        prediction_s = sum(row.all_s for row in self._predictions())
        return {
            "copies": min(epoch_s, copies_s),
            "prediction": min(epoch_s, prediction_s),
        }

    def own_s(self, *, python: bool) -> float:
        """Return the time in functions of Python, or in those written in C."""
        return sum(row.own_s for row in self.rows if isinstance(row.function, str) != python)

    def calls(self) -> list[Call]:
        """Return the calls of all functions, the most expensive first."""
        return [
            Call(name=_name(r.function), count=r.times, seconds=r.own_s, where=_name(r.caller))
            for r in sorted(self.rows, key=lambda row: -row.own_s)
        ]

    def added_to(self, seen: Seen, epoch_s: float) -> Seen:
        """Return what another profiler saw with what only Python knows.

        That is: copies of NumPy, predictions, who calls an operator, and the functions in C that
        belong to no framework.
        """
        found = dict(seen.seconds)
        for name, seconds in self.stretches(epoch_s).items():
            # A copy may be inside of what others saw; a prediction is, if they saw one.
            if name == "copies" or not found.get(name):
                move(found, name, seconds)
        mine = self.calls()
        where = {_bare(c.name): c.where for c in reversed(mine) if c.where}
        of_seen = [
            c.model_copy(update={"where": c.where or where.get(_bare(c.name), "")})
            for c in seen.calls
        ]
        others = [c for c in mine if _builtin(c.name) and not _FRAMEWORKS.search(c.name)]
        together = sorted([*of_seen, *others], key=lambda c: -c.seconds)[:_CALLS]
        counts = {**seen.counts, **self.counts()}
        return replace(seen, seconds=found, counts=counts, calls=tuple(together))

    def counts(self) -> dict[str, float]:
        """Return how often `train` predicts, if it does."""
        predictions = sum(row.times for row in self._predictions())
        return {"predictions": predictions} if predictions else {}

    def _predictions(self) -> Iterator[_Row]:
        """Yield the calls of a backend's own prediction, the outermost alone."""
        for row in self.rows:
            if _is_prediction(row.function) and not _is_prediction(row.caller):
                yield row


def calls(train: Train, epochs: int, epoch_s: float) -> PythonCalls:
    """Return the calls in `train`; an epoch takes `epoch_s` without a profiler."""
    cost_s = _cost_s()
    few = epochs
    if epochs * epoch_s > 2 * _LOOKED_S and can_be_shorter():
        few = max(1, int(_LOOKED_S / epoch_s))
    least: dict[tuple[Function, Function], _Row] = {}
    for _ in range(max(1, min(_RECORDINGS, int(_LOOKED_S / (few * epoch_s))))):
        rows, profiled_s = _recorded(train, few, epoch_s, cost_s)
        for row in rows:
            before = least.get((row.function, row.caller), row)
            least[row.function, row.caller] = min(row, before, key=lambda r: r.own_s)
    return PythonCalls(list(least.values()), cost_s, profiled_s)


def _recorded(train: Train, epochs: int, epoch_s: float, cost_s: float) -> tuple[list[_Row], float]:
    """Return the rows of one call, and what an epoch took of it."""
    profiler = Profiler()
    profiler.runcall(train, epochs)
    entries: list[Any] = profiler.getstats()
    into = {id(e.code): e for e in entries}
    rows = []
    for caller in entries:
        for sub in caller.calls or ():
            whole = into[id(sub.code)]
            inside = sum(s.callcount for s in whole.calls or ()) * sub.callcount / whole.callcount
            own_s = max(0.0, sub.inlinetime - inside * cost_s)
            rows.append(_Row(sub.code, caller.code, sub.callcount, own_s, sub.totaltime))
    # What the harness does around the backend's `train` does not count.
    inner = [row for row in rows if _of_harness(row.caller) and not _of_harness(row.function)]
    trains = [row.all_s for row in inner if _short_name(row.function) in _TRAINS]
    profiled_s = sum(trains) or max(e.totaltime for e in entries)
    # The machine may have been slower, or faster, than when `epoch_s` was measured.
    called = sum(row.times for row in rows)
    scale = epoch_s / max(profiled_s - called * cost_s, profiled_s / 3)
    whole = epoch_s / profiled_s  # With what it calls, and so with the profiler's cost.
    return [
        _Row(r.function, r.caller, r.times / epochs, r.own_s * scale, r.all_s * whole)
        for r in rows
        if not _of_harness(r.function) and (r not in inner or _short_name(r.function) in _TRAINS)
    ], profiled_s / epochs


def can_be_shorter() -> bool:
    """Return whether calls of another length compile nothing, as far as this process can tell."""
    jax, dynamo = map(sys.modules.get, ("jax._src.xla_bridge", "torch._dynamo.utils"))
    uses_jax = jax and getattr(jax, "_backends", True)
    return not uses_jax and not (dynamo and dynamo.compilation_time_metrics)


def look(train: Train, epochs: int, epoch_s: float, python: PythonCalls) -> Seen:
    """Return what Python knows of an epoch: the instrument for backends without a framework.

    The interpreter's own time is the number of its instructions times the time of one; what is left
    are calls into compiled code.
    """
    own_s = python.own_s(python=True)
    executed = _opcodes_of_an_epoch(train, epochs)
    interpreter_s = own_s if executed is None else min(own_s, executed * opcode_s())
    seconds: dict[Stretch, float] = {"other": epoch_s}
    for name, part_s in python.stretches(epoch_s).items():
        move(seconds, name, part_s)
    # What the interpreter does inside of a prediction is the prediction's.
    move(seconds, "python", min(interpreter_s, seconds["other"]))
    return Seen(
        source="cProfile",
        profiled_s=python.profiled_s,
        seconds=seconds,
        counts=python.counts() | ({} if executed is None else {"opcodes": executed}),
        costs={"profiler_call": python.cost_s},
        calls=tuple(python.calls()[:_CALLS]),
    )


def _opcodes_of_an_epoch(train: Train, epochs: int) -> float | None:
    """Return how many instructions the interpreter executes in an epoch; None: far too many."""
    one, two = opcodes(train, 1), opcodes(train, 2)
    if one is None or two is None:
        return None
    return max(0.0, two - one + (2 * one - two) / epochs)


def opcodes(train: Train, epochs: int) -> int | None:
    """Return how many instructions such a call takes."""
    executed = 0

    def step(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal executed
        executed += event == "opcode"
        if executed > _MOST_OPCODES:
            frame.f_trace_opcodes = False
            sys.settrace(None)
            return None
        return step

    def enter(frame: FrameType, _event: str, _: Any) -> Any:
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return step

    before = sys.gettrace()
    sys.settrace(enter)
    try:
        train(epochs)
    finally:
        sys.settrace(before)
    return None if executed > _MOST_OPCODES else executed


def opcode_s() -> float:
    """Return what an instruction of the interpreter takes, in a function that does a bit of all."""
    rows = [[1.0, 2.0], [3.0, 4.0]] * 20

    def mixed(_: int | None = None, /) -> float:
        total, found = 0.0, []
        for first, second in rows:
            total += first * second
            found.append(max(total, first))
        return len(found)

    times = []
    for _ in range(30):
        start = time.perf_counter()
        mixed()
        times.append(time.perf_counter() - start)
    return min(times) / (opcodes(mixed, 1) or 1)


def _cost_s() -> float:
    """Return what the profiler adds to a call."""
    text = ""

    def call() -> float:
        start = time.perf_counter()
        for _ in range(_EMPTY_CALLS):
            text.isdigit()
        return (time.perf_counter() - start) / _EMPTY_CALLS

    plain_s = min(call() for _ in range(3))
    return max(1e-8, min(Profiler().runcall(call) for _ in range(3)) - plain_s)


def move(found: dict[Stretch, float], name: Stretch, seconds: float) -> None:
    """Move seconds into a stretch, out of those that they may be hidden in."""
    for stretch in ("python", "other", "calls", "kernels"):
        taken_s = min(seconds, found.get(stretch, 0.0))
        if taken_s > 0:
            found[stretch] -= taken_s
            found[name] = found.get(name, 0.0) + taken_s
            seconds -= taken_s


def _is_prediction(function: Function) -> bool:
    return _short_name(function) in _PREDICTS and not _of_harness(function)


def _of_harness(function: Function) -> bool:
    return isinstance(function, CodeType) and function.co_filename.startswith(_HARNESS)


def _short_name(function: Function) -> str:
    return function.co_name if isinstance(function, CodeType) else function


def _builtin(name: str) -> bool:
    return name.startswith(("method ", "built-in "))


def _name(function: Function) -> str:
    """Return a name as the one in `Call`."""
    if isinstance(function, str):
        return function.strip("<>").removesuffix(" objects")[:LONGEST_NAME]
    file = os.path.basename(function.co_filename)
    return f"{function.co_qualname} ({file}:{function.co_firstlineno})"[-LONGEST_NAME:]


def _bare(name: str) -> str:
    """Return what Python and PyTorch both call an operator: `aten::detach` is `detach`."""
    if method := re.match(r"method '(\w+)' of", name):
        return method[1]
    return re.split(r"::|\.", name)[-1]
