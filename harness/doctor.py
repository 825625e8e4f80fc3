"""Looks at this machine before a serious run: what there makes times wrong or uncertain.

Each check is a function that returns a `Reading`; what the system does not tell is "unknown". The
limits are those at which a difference of some per cent between two trials comes into reach.
"""

from __future__ import annotations

import os
import random
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from harness.backend.protocol import Array
from harness.errors import brief
from harness.measure import machine
from harness.measure.clock import now, resolution
from harness.measure.fingerprint import public_version
from harness.stats.estimates import mean
from harness.store.files import LocalFolder
from harness.store.remote import Folder
from harness.store.results_folder import open_folder
from harness.trial.noise import STEAL_LIMIT

if TYPE_CHECKING:
    import pandas as pd

_CPUS = Path("/sys/devices/system/cpu")
# They bind threads to cores, or change what a framework does, behind the harness's back.
_MEDDLING = (
    *("GOMP_CPU_AFFINITY", "KMP_AFFINITY", "OMP_PROC_BIND", "OMP_PLACES", "OMP_DYNAMIC"),
    *("XLA_FLAGS", "JAX_DISABLE_JIT", "CUDA_LAUNCH_BLOCKING", "PYTHONDEVMODE"),
)
# More than half a core's work is somebody at work, less is the machine's housekeeping.
_LOAD_LIMIT = 0.5
_STEP_LIMIT_S = 1e-6  # Of a chunk of some 10 ms, a ten-thousandth.
_MEMORY_LIMIT_GB = 2.0  # A trial of the default task takes 0.4, one of a larger task more.
_DISK_LIMIT_GB = 1.0
_PAIRS = 300
_RATIO_LIMIT, _SPREAD_LIMIT = 0.02, 0.05


@dataclass(frozen=True)
class Reading:
    """What a check found, and what to do about it if that is not as it should be."""

    check: str
    value: str
    status: Literal["ok", "warn", "unknown"]
    advice: str = ""


def examine(results: str | Path) -> list[Reading]:
    """Make every check; takes a few seconds, in which the machine should do nothing else."""
    checks = (governor, turbo, load, cores, quota, variables, steal, clock, memory)
    folder = open_folder(results)
    room = disk(Path(folder.location)) if isinstance(folder, LocalFolder) else store(folder)
    return [*(check() for check in checks), room, *self_test()]


def governor() -> Reading:
    """By what rule the frequency of the cores is chosen."""
    rule = machine.governor()
    advice = "the frequency follows the load: `cpupower frequency-set -g performance`"
    return _judge("governor", rule, rule == "performance", advice)


def turbo() -> Reading:
    """Whether cores may run above their nominal frequency."""
    for path, off in ((_CPUS / "intel_pstate/no_turbo", "1"), (_CPUS / "cpufreq/boost", "0")):
        with suppress(OSError):
            is_off = path.read_text().strip() == off
            advice = f"frequency depends on heat and neighbours: write {off} to {path}"
            return _judge("turbo", "off" if is_off else "on", is_off, advice)
    return _judge("turbo", None)


def load() -> Reading:
    """Whether others are at work: over the last minute, and now."""
    average = machine.load()
    if average is None:
        return _judge("load", None)
    others = _running_others()
    value = f"{average:.2f} on {os.cpu_count()} cores over a minute, {others} others running now"
    fine = average <= _LOAD_LIMIT and not others
    return _judge("load", value, fine, "something else is at work: stop it, or wait (see `top`)")


def cores() -> Reading:
    """Whether the usable cores are cores, or threads of cores that share one."""
    usable = machine.usable_cores()
    siblings = set()
    for core in usable:
        with suppress(OSError):
            path = _CPUS / f"cpu{core}/topology/thread_siblings_list"
            siblings.add(path.read_text().strip())
    advice = "two of them share a core: switch SMT off, or leave the siblings idle"
    value = f"{len(usable)} usable of {os.cpu_count()}, {len(siblings)} physical"
    return _judge("cores", value if siblings else None, len(siblings) == len(usable), advice)


def quota() -> Reading:
    """Whether a control group halts processes that use too much."""
    limit, usable = machine.cpu_quota(), len(machine.usable_cores())
    value = "none" if limit is None else f"{limit:g} cores' time for {usable} cores"
    advice = "whoever uses more is halted for the rest of each period: use whole cores (a cpuset)"
    return _judge("cpu quota", value, limit is None or limit >= usable, advice)


def variables() -> Reading:
    """Which settings of threads and frameworks are in the environment."""
    meddling = [name for name in _MEDDLING if name in os.environ]
    overridden = [name for name in machine.THREAD_VARIABLES if name in os.environ]
    value = ", ".join(f"{name}={os.environ[name]}" for name in [*meddling, *overridden])
    if meddling:
        advice = f"they change what is measured: unset {', '.join(meddling)}"
        return Reading("variables", value, "warn", advice)
    advice = "without effect: every trial gets the number of `--threads`" if overridden else ""
    return Reading("variables", value or "none", "ok", advice)


def steal(seconds: float = 1.0) -> Reading:
    """How much of the cores' time a hypervisor keeps."""
    before = machine.counters().steal_s
    time.sleep(seconds)
    after = machine.counters().steal_s
    if before is None or after is None:
        return _judge("steal", None)
    share = (after - before) / seconds / len(machine.usable_cores())
    advice = "the host is shared and busy: use a machine, or cores, of your own"
    return _judge("steal", f"{share:.1%} of a second", share <= STEAL_LIMIT, advice)


def clock() -> Reading:
    """How fine the clock is."""
    step_s = resolution()
    advice = "too coarse for short chunks: give `curve_points` a smaller number"
    return _judge("clock", f"steps of {step_s * 1e9:.0f} ns", step_s <= _STEP_LIMIT_S, advice)


def memory() -> Reading:
    """How much memory is free."""
    free_gb = None
    with suppress(OSError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        line = next(line for line in lines if line.startswith("MemAvailable:"))
        free_gb = int(line.split()[1]) * 1024 / 1e9
    value = None if free_gb is None else f"{free_gb:.1f} GB free"
    return _judge("memory", value, (free_gb or 0) >= _MEMORY_LIMIT_GB, "trials may be killed")


def disk(results: Path) -> Reading:
    """How much room there is for results."""
    folder = results.absolute()
    while not os.path.exists(folder):  # Unlike Path.exists, it bears a folder closed to us.
        folder = folder.parent
    if not (os.path.isdir(folder) and os.access(folder, os.W_OK)):
        return Reading(
            "disk", str(folder), "warn", "it cannot be written: choose other `--results`"
        )
    free_gb = shutil.disk_usage(folder).free / 1e9
    return _judge("disk", f"{free_gb:.1f} GB free", free_gb >= _DISK_LIMIT_GB, "make room there")


def store(folder: Folder) -> Reading:
    """Whether results can be written to a store, and how long that takes."""
    probe, start = f".doctor-{uuid.uuid4().hex}", now()
    try:
        folder.create(probe, b"")
        folder.delete(probe)
    except OSError as error:
        advice = f"{folder.location} cannot be written: {brief(error)}"
        return Reading("store", "no file can be written", "warn", advice)
    return _judge("store", f"a file written and removed in {now() - start:.2f} s")


def side_by_side(nodes: Mapping[str, Mapping[str, str]]) -> pd.DataFrame:
    """Return a row for everything that is known of some node, and a column for each node."""
    import pandas as pd

    names = dict.fromkeys(name for node in nodes.values() for name in node if name != "node")
    rows = [[name, *(node.get(name) for node in nodes.values())] for name in names]
    return pd.DataFrame(rows, columns=["what", *nodes]).astype("string")


def unlike_nodes(nodes: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Say which packages nodes have in unlike versions, or lack; and which could not be asked."""
    said = [
        f"node {n} cannot be used: {node['error']}" for n, node in nodes.items() if "error" in node
    ]
    asked = {name: node for name, node in nodes.items() if "error" not in node}
    packages = dict.fromkeys(n for node in asked.values() for n in node if n.startswith("version:"))
    for package in packages:
        where: dict[str, list[str]] = {}
        for name, node in asked.items():
            version = public_version(node.get(package, "missing"))
            where.setdefault(version, []).append(name)
        if len(where) > 1:
            told = "; ".join(f"{version} on {', '.join(names)}" for version, names in where.items())
            said.append(f"{package.removeprefix('version:')} is not the same everywhere: {told}")
    return said


def self_test(pairs: int = _PAIRS) -> list[Reading]:
    """Time the same work as A and as B, in random order: they should not differ.

    On one core, as trials are. The second reading is the spread of single timings.
    """
    with _on_one_core():
        _work_s()  # Wake the core up.
        order = [random.sample((0, 1), 2) for _ in range(pairs)]
        logs: Array = np.empty((pairs, 2))
        for pair, both in enumerate(order):
            for side in both:
                logs[pair, side] = np.log(_work_s())
    low, high = np.exp(mean(logs[:, 1] - logs[:, 0]).interval())
    usual, slow = np.quantile(np.exp(logs), (0.5, 0.95))
    spread = slow / usual - 1
    fine = max(high, 1 / low) <= 1 + _RATIO_LIMIT
    advice = f"differences below {max(high, 1 / low) - 1:.1%} are lost in noise: quiet the machine"
    return [
        _judge("A/A ratio", f"[{low:.4f}, {high:.4f}]", fine, advice),
        _judge(
            "A/A spread",
            f"1 in 20 is over {spread:.1%} slower",
            bool(spread <= _SPREAD_LIMIT),
            "single timings vary: use more seeds",
        ),
    ]


def _judge(check: str, value: str | None, fine: bool = True, advice: str = "") -> Reading:
    if value is None:
        return Reading(check, "not told by this system", "unknown")
    return Reading(check, value, "ok") if fine else Reading(check, value, "warn", advice)


def _running_others(looks: int = 5) -> int:
    """Return how many processes other than this one ran at every one of several looks."""
    counts = []
    for _ in range(looks):
        with suppress(OSError):
            running = Path("/proc/loadavg").read_text().split()[3].partition("/")[0]
            counts.append(int(running) - 1)
        time.sleep(0.05)
    return max(0, min(counts, default=0))


@contextmanager
def _on_one_core() -> Iterator[None]:
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    usable = machine.usable_cores()
    os.sched_setaffinity(0, usable[-1:])
    try:
        yield
    finally:
        os.sched_setaffinity(0, usable)


def _work_s() -> float:
    """Return how long a fixed piece of work took, some milliseconds on one thread."""
    start = now()
    x = np.linspace(-3, 3, 20_000)
    y = x
    for _ in range(50):
        y = np.tanh(y + x)
    return now() - start
