"""What PyTorch's profiler records: its raw events, and the tree that they form.

`torch.profiler.profile.events()` takes 65 us for an event. The raw ones take 3 us: 0.4 to 0.8 while
they are recorded, the rest when the recording ends.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import cache
from types import CodeType, FrameType
from typing import Any, Literal, NamedTuple, TypeAlias

Kind: TypeAlias = Literal["work", "copy", "composite", "view", "python", "call"]
"""work: an operator with code for the processor; copy: one that only moves or converts what it gets
composite: an operator made of others, or that works if it calls no other
view: an operator that touches no element: a view, memory that is not filled, a number read
python: a part of the program with a name, such as an optimiser's step
call: what autograd does between operators, launches of kernels, and all else"""

# Neither fills nor reads memory, though the schema does not say so.
_UNFILLED = ("aten::empty", "aten::new_empty", "aten::resize_", "aten::set_", "aten::broadcast_")
_COPIES = {"aten::copy_", "aten::cat", "aten::_foreach_copy_"}


class Event(NamedTuple):
    """An operator, or what else was recorded on the side of the processor."""

    start_ns: int
    end_ns: int
    name: str
    thread: int
    graph: bool
    """Whether autograd recorded it, or plays it back."""


class Node:
    """An event in the tree of those that ran inside each other on a thread."""

    __slots__ = ("calls_work", "children", "children_ns", "computes", "event", "kind", "parent")

    def __init__(self, event: Event, parent: Node | None) -> None:
        self.event, self.parent, self.kind = event, parent, kind(event.name)
        self.children, self.children_ns = 0, 0
        self.calls_work = False
        """Whether something inside of it works."""
        self.computes = False
        """Whether something inside of it does more than to move elements."""

    @property
    def is_operator(self) -> bool:
        """Whether it is an operator at all."""
        return self.kind not in ("python", "call")

    @property
    def copies(self) -> bool:
        """Whether the program lets it move elements: not as a part of some computation.

        Known after the walk. The gradient's copies are part of a computation, too.
        """
        around = self.parent
        while around and around.kind != "python":
            if around.computes or around.kind in ("work", "call"):
                return False
            around = around.parent
        return self.kind == "copy"

    @property
    def works(self) -> bool:
        """Whether this operator itself touches elements."""
        return self.kind in ("work", "copy") or (self.kind == "composite" and not self.calls_work)


def record(
    train: Callable[[], float], *, arguments: bool = False, predicts: Collection[CodeType] = ()
) -> tuple[Sequence[Any], float, float]:
    """Return the raw events of a call of `train`, what it returned, and how long it took.

    `arguments` adds the shapes and types of the operators' arguments, and events of the memory that
    they allocate. They are dear, and the times of such a recording mean nothing. Calls of the
    functions `predicts` become events.
    """
    import torch
    from torch.autograd.profiler import profile

    # Otherwise the profiler writes two lines to the standard error for each recording.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    device = "cuda" if torch.cuda.is_initialized() else None
    with (
        _silent() if arguments else nullcontext(),
        profile(
            use_device=device, use_kineto=True, record_shapes=arguments, profile_memory=arguments
        ) as recorded,
        _marked(predicts),
    ):
        start = time.perf_counter()
        seconds = train()
        wall_s = time.perf_counter() - start
    return recorded.kineto_results.events(), seconds, wall_s


@contextmanager
def _marked(functions: Collection[CodeType]) -> Iterator[None]:
    """Let calls of these functions be events called `PREDICTION`."""
    from torch.autograd.profiler import record_function

    marks: list[record_function] = []

    def hear(frame: FrameType, event: str, _: object) -> None:
        if frame.f_code not in functions:
            return
        if event == "call":
            marks.append(record_function(PREDICTION))
            marks[-1].__enter__()
        elif event == "return" and marks:
            marks.pop().__exit__(None, None, None)

    before = sys.getprofile()
    if functions:
        sys.setprofile(hear)
    try:
        yield
    finally:
        if functions:
            sys.setprofile(before)


@contextmanager
def _silent() -> Iterator[None]:
    """Drop the standard error: PyTorch warns there of memory that is older than the recording."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def compilations() -> list[float]:
    """Return the seconds of each compilation by `torch.compile` so far."""
    dynamo = sys.modules.get("torch._dynamo.utils")
    return list(dynamo.compilation_time_metrics.get("_compile.compile_inner", ())) if dynamo else []


def host_events(raw: Iterable[Any]) -> list[Event]:
    """Return what ran on the side of the processor."""
    from torch._C._autograd import DeviceType

    return [
        Event(start, start + e.duration_ns(), e.name(), e.start_thread_id(), e.sequence_nr() >= 0)
        for e in raw
        if e.device_type() == DeviceType.CPU and (start := e.start_ns())
    ]


def walk(events: Iterable[Event], leave: Callable[[Node], None]) -> None:
    """Call `leave` with each event, children first."""
    stack: list[Node] = []

    def close() -> None:
        node = stack.pop()
        leave(node)
        if parent := node.parent:
            parent.children += 1
            parent.children_ns += node.event.end_ns - node.event.start_ns
            parent.calls_work = parent.calls_work or node.calls_work or node.works
            parent.computes = parent.computes or node.computes or node.kind == "work"

    for event in sorted(events, key=lambda e: (e.thread, e.start_ns, -e.end_ns)):
        while stack and (
            event.thread != stack[-1].event.thread or event.start_ns >= stack[-1].event.end_ns
        ):
            close()
        stack.append(Node(event, stack[-1] if stack else None))
    while stack:
        close()


@cache
def kind(name: str) -> Kind:
    """Return what an event of this name is, by the schema of the operator."""
    import torch

    if name in _COPIES:
        return "copy"
    if name.startswith("## Call CompiledFxGraph"):
        return "work"
    if "#" in name or name.startswith(("ProfilerStep", PREDICTION)):
        return "python"
    if "::" not in name or name.startswith(("autograd::", "torch::autograd::")):
        return "call"
    schemas = torch._C._jit_get_schemas_for_operator(name.partition(": ")[0])
    if not schemas:
        return "call"
    if name.startswith(_UNFILLED):
        return "view"
    returns = schemas[0].returns
    computed = [r for r in returns if "Tensor" in str(r.type) and _written(r.alias_info)]
    if returns and not computed:
        return "view"
    return "work" if any(map(_has_code, schemas)) else "composite"


def _written(alias: Any) -> bool:
    return alias is None or alias.is_write


def _has_code(schema: Any) -> bool:
    """Return whether this overload has code for the processor; what has also has it for GPUs."""
    import torch

    name = f"{schema.name}.{schema.overload_name}".rstrip(".")
    # Overloads that only TorchScript has are unknown to the dispatcher.
    with suppress(RuntimeError):
        return torch._C._dispatch_has_kernel_for_dispatch_key(name, "CPU")
    return False


PREDICTION = "harness::predict"
"""Marks a call of the backend's own `predict`."""
