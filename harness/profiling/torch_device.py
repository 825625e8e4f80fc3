"""What a GPU did while PyTorch's profiler recorded, and what the processor waited for meanwhile."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

_COPIES = ("Memcpy", "Memset")
_WAITS = re.compile(r"Synchronize|Memcpy|^Command Buffer Full$")
"""Calls of the driver in which the processor waits for the device, or for a copy."""
PROFILERS_OWN = {"Activity Buffer Request", "Buffer Flush", "Instrumentation", "Resource"}
"""What NVIDIA's profiler does for itself, while the process stands still."""

Spans: TypeAlias = Sequence[tuple[int, int]]
"""Begin and end in ns, in order and without overlap."""


@dataclass(frozen=True)
class Device:
    """When it executed kernels, and when it only copied."""

    kernels: Spans
    copies: Spans

    @property
    def busy_s(self) -> float:
        """How long it did anything."""
        return sum(end - start for start, end in _joined([*self.kernels, *self.copies])) / 1e9

    def during(self, start_ns: int, end_ns: int) -> tuple[int, int]:
        """Return how many ns of a span it executed kernels, and how many it only copied."""
        kernels_ns = _overlap(self.kernels, start_ns, end_ns)
        busy_ns = _overlap(_joined([*self.kernels, *self.copies]), start_ns, end_ns)
        return kernels_ns, busy_ns - kernels_ns


def device(raw: Iterable[Any]) -> Device | None:
    """Return what the device did in a recording; None if there is none."""
    kernels: list[tuple[int, int]] = []
    copies: list[tuple[int, int]] = []
    for e in raw:
        if on_device(e):
            spans = copies if e.name().startswith(_COPIES) else kernels
            spans.append((e.start_ns(), e.start_ns() + e.duration_ns()))
    return Device(_joined(kernels), _joined(copies)) if kernels or copies else None


def on_device(e: Any) -> bool:
    """Return whether a device executed this raw event; marks of the program's parts are none."""
    from torch._C._autograd import DeviceType

    return e.device_type() != DeviceType.CPU and not e.is_user_annotation()


def is_kernel(e: Any) -> bool:
    """Return whether this is a kernel, not a copy."""
    return on_device(e) and not e.name().startswith(_COPIES)


def waits(name: str) -> bool:
    """Return whether this is a call in which the processor waits for the device."""
    return bool(_WAITS.search(name))


def _joined(spans: Spans) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        else:
            found.append((start, end))
    return found


def _overlap(spans: Spans, start: int, end: int) -> int:
    total, place = 0, max(0, bisect_right(spans, (start, 0)) - 1)
    while place < len(spans) and spans[place][0] < end:
        total += max(0, min(end, spans[place][1]) - max(start, spans[place][0]))
        place += 1
    return total
