"""The energy of a training, from the counters of the hardware.

On the CPU: all processor packages of the node (RAPL, of Intel and AMD), with cores, caches and
memory controller, and mostly without the memory modules. Idle cores and other processes count, so
it means something only for a trial that has the node to itself. On a GPU: this GPU with its memory
(NVML), without the processor that feeds it.

RAPL's counter moves every millisecond, so the energy of each timed call is known. NVML's moves
every 100 ms, and most calls are shorter: the energy is that of calls in a row, for two seconds. Of
what the counter says then, it lacks up to 100 ms at the end, and has as many too much at the
beginning, when the GPU was as busy: together 5 % at most.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

from harness.measure.clock import Clock

Meter: TypeAlias = Callable[[], float | None]
"""Returns the energy so far, in joules from an arbitrary start; None if unknown. A call takes from
ten microseconds to a few milliseconds, so none while a clock runs."""

POWERCAP = Path("/sys/class/powercap")

COUNTED_S, WARM_S = 2.0, 0.2
"""How long calls in a row are counted, and how long they go on before."""


def between(before: float | None, after: float | None) -> float | None:
    """Return the joules between two readings; None if one of them is unknown."""
    return None if before is None or after is None else after - before


def of_calls_in_a_row(call: Callable[[], object], joules: Meter, clock: Clock) -> float | None:
    """Return the joules of a call, the mean of as many as `COUNTED_S` has room for.

    None, and no call is made, if there is no counter.
    """
    if joules() is None:
        return None

    def calls(seconds: float) -> int:
        start, number = clock(), 0
        while clock() - start < seconds:
            call()
            number += 1
        return number

    calls(WARM_S)
    before, number = joules(), calls(COUNTED_S)
    total = between(before, joules())
    return None if total is None else total / number


def meter(device: str, root: Path = POWERCAP) -> Meter:
    """Return the meter of "cpu", or of "gpu": the GPU that this process may use.

    `root` is where the system shows the counters of the processor. Never raises: the meter returns
    None if there is no counter, or no right to read it.
    """
    return _nvml() if device == "gpu" else Rapl(root)


class Rapl:
    """The energy of all processor packages of this node, since the first call.

    Counters wrap around, at full power after a quarter of an hour or more; one wrap between two
    calls is corrected. If a counter of one package is missing, the total is unknown.
    """

    def __init__(self, root: Path = POWERCAP) -> None:
        self._packages: list[Path] = []
        with suppress(OSError):
            self._packages = [folder for folder in sorted(root.iterdir()) if _is_package(folder)]
        self._last: list[int] | None = None
        self._total_uj = 0

    def __call__(self) -> float | None:
        """Return the joules so far."""
        try:
            counts = [int((folder / "energy_uj").read_bytes()) for folder in self._packages]
            ranges = [int((f / "max_energy_range_uj").read_bytes()) for f in self._packages]
        except (OSError, ValueError):
            return None
        for now, before, wrap in zip(counts, self._last or counts, ranges, strict=True):
            self._total_uj += now - before + (wrap if now < before else 0)
        self._last = counts
        return self._total_uj / 1e6 if counts else None


def _is_package(folder: Path) -> bool:
    """Whether a domain is a package, and not a part of one or the whole platform."""
    with suppress(OSError):
        named = re.fullmatch(r"intel-rapl:\d+", folder.name)
        return bool(named) and (folder / "name").read_bytes().startswith(b"package")
    return False


def _nvml() -> Meter:
    """Return the meter of the GPU that this process may use."""
    try:
        import pynvml
    except ImportError:
        return lambda: None
    handle = None
    with suppress(pynvml.NVMLError):
        pynvml.nvmlInit()
        handle = _visible(pynvml)

    def joules() -> float | None:
        with suppress(pynvml.NVMLError):
            return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1000
        return None

    return joules if handle is not None else lambda: None


def _visible(nvml: Any) -> Any:
    """Return the handle of the first GPU in `CUDA_VISIBLE_DEVICES`: an index, or a UUID's start.

    None if that is ambiguous, or if it is a slice (MIG): the counter is that of the whole GPU.
    """
    name = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0].strip()
    handles = [nvml.nvmlDeviceGetHandleByIndex(n) for n in range(nvml.nvmlDeviceGetCount())]
    if name.isdecimal():  # By the slot, as CUDA counts, too: see `harness.measure.process`.
        found = handles[int(name) : int(name) + 1]
    else:
        found = [h for h in handles if name and nvml.nvmlDeviceGetUUID(h).startswith(name)]
    return found[0] if len(found) == 1 and not _sliced(nvml, found[0]) else None


def _sliced(nvml: Any, handle: Any) -> bool:
    with suppress(nvml.NVMLError):  # Most GPUs cannot be sliced.
        return bool(nvml.nvmlDeviceGetMigMode(handle)[0])
    return False
