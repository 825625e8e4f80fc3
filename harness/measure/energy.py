"""What a training takes in energy: running totals of the counters that the hardware keeps.

Of a trial on the CPU, it is that of the processor packages of the node (RAPL, which Intel and AMD
processors share under one tree): cores, caches and memory controller, idle cores and the work of
all other processes included, memory modules mostly not. So it means something only for a trial
that has the node to itself. Of a trial on a GPU, it is that of this one GPU with its memory (NVML),
without the processor that feeds it.

RAPL counts every millisecond; NVML's counter moves about every 100 ms, so what takes less than some
seconds on a GPU is known roughly.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

Meter: TypeAlias = Callable[[], float | None]
"""Returns the energy so far, in joules from an arbitrary start; None where that is not known. A
reading takes from ten microseconds to a few milliseconds, so not while a clock runs."""

POWERCAP = Path("/sys/class/powercap")


def meter(device: str, root: Path = POWERCAP) -> Meter:
    """Return the meter of a device: "cpu", or "gpu" for the GPU that this process sees.

    `root` is where the system shows the counters of the processor. Never raises: without a counter,
    or without the right to read it, the meter returns None.
    """
    return _nvml() if device == "gpu" else Rapl(root)


class Rapl:
    """The energy of all processor packages of this node, since the first call.

    Counters start over (every quarter of an hour or more, at full power); a turn is noticed if
    there is not a second one before the next call. They are as good as none if one is missing.
    """

    def __init__(self, root: Path = POWERCAP) -> None:
        self._packages: list[Path] = []
        with suppress(OSError):
            self._packages = [folder for folder in sorted(root.iterdir()) if _whole(folder)]
        self._last: list[int] | None = None
        self._total_uj = 0

    def __call__(self) -> float | None:
        """Return the joules so far."""
        try:
            counts = [_number(folder / "energy_uj") for folder in self._packages]
            ranges = [_number(folder / "max_energy_range_uj") for folder in self._packages]
        except (OSError, ValueError):
            return None
        for now, before, turn in zip(counts, self._last or counts, ranges, strict=True):
            self._total_uj += now - before + (turn if now < before else 0)
        self._last = counts
        return self._total_uj / 1e6 if counts else None


def _whole(folder: Path) -> bool:
    """Whether a domain is a package; others are parts of one, or the platform that holds it."""
    if not re.fullmatch(r"intel-rapl:\d+", folder.name):
        return False
    try:
        return (folder / "name").read_text().startswith("package")
    except OSError:
        return False


def _number(path: Path) -> int:
    return int(path.read_text())


def _unknown() -> None:
    return None


def _nvml() -> Meter:
    """Return the meter of the GPU that this process sees."""
    try:
        import pynvml
    except ImportError:
        return _unknown
    try:
        pynvml.nvmlInit()
        handle = _visible(pynvml)
    except pynvml.NVMLError:
        return _unknown

    def joules() -> float | None:
        try:
            return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1000
        except pynvml.NVMLError:
            return None

    return _unknown if handle is None else joules


def _visible(nvml: Any) -> Any:
    """Return the handle of the first GPU in `CUDA_VISIBLE_DEVICES`: an index, or a UUID's start.

    None if it is a slice (MIG), for the counter is that of the whole GPU, or if it cannot be told
    which one it is.
    """
    name = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0].strip()
    handles = [nvml.nvmlDeviceGetHandleByIndex(n) for n in range(nvml.nvmlDeviceGetCount())]
    if name.isdecimal():
        # CUDA counts the fastest GPU first, NVML by the slot, unless CUDA is told to.
        alike = len({nvml.nvmlDeviceGetName(handle) for handle in handles}) == 1
        if not alike and os.environ.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID":
            return None
        found = handles[int(name) : int(name) + 1]
    else:
        found = [h for h in handles if name and nvml.nvmlDeviceGetUUID(h).startswith(name)]
    return found[0] if len(found) == 1 and not _sliced(nvml, found[0]) else None


def _sliced(nvml: Any, handle: Any) -> bool:
    with suppress(nvml.NVMLError):  # Most GPUs cannot be sliced.
        return bool(nvml.nvmlDeviceGetMigMode(handle)[0])
    return False
