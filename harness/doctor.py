"""Checks this machine before a serious run: what makes times wrong or uncertain.

Each check is a function that returns a `Check`; its status is "unknown" if the system does not say.
At the limits, a difference of a few per cent between two trials becomes possible.
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
from harness.measure import machine, settings
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
# More than half a core's work is another program, less is housekeeping of the system.
_LOAD_LIMIT = 0.5
_STEP_LIMIT_S = 1e-6  # A ten-thousandth of a chunk of 10 ms.
_MEMORY_LIMIT_GB = 2.0  # A trial of the default task takes 0.4, one of a larger task more.
_DISK_LIMIT_GB = 1.0
_PAIRS = 300
_RATIO_LIMIT, _SPREAD_LIMIT = 0.02, 0.05


@dataclass(frozen=True)
class Check:
    """The result of a check, and the advice if it is a warning."""

    check: str
    """Its name."""
    value: str
    status: Literal["ok", "warn", "unknown"]
    advice: str = ""


def examine(results: str | Path) -> list[Check]:
    """Make every check; takes a few seconds, during which the machine should be idle."""
    checks = (governor, turbo, load, cores, quota, variables, steal, clock, memory)
    folder = open_folder(results)
    room = disk(Path(folder.location)) if isinstance(folder, LocalFolder) else store(folder)
    return [*(check() for check in checks), room, *self_test()]


def governor() -> Check:
    """How the frequency of the cores is chosen."""
    rule = machine.governor()
    advice = "the frequency follows the load: `cpupower frequency-set -g performance`"
    return _checked("governor", rule, rule == "performance", advice)


def turbo() -> Check:
    """Whether cores may run above their nominal frequency."""
    for path, off in ((_CPUS / "intel_pstate/no_turbo", "1"), (_CPUS / "cpufreq/boost", "0")):
        with suppress(OSError):
            is_off = path.read_text("ascii").strip() == off
            advice = f"frequency depends on heat and neighbours: write {off} to {path}"
            return _checked("turbo", "off" if is_off else "on", is_off, advice)
    return _checked("turbo", None)


def load() -> Check:
    """Whether other programs run: over the last minute, and now."""
    average = machine.load()
    if average is None:
        return _checked("load", None)
    others = _running_others()
    value = f"{average:.2f} on {os.cpu_count()} cores over a minute, {others} others running now"
    fine = average <= _LOAD_LIMIT and not others
    return _checked("load", value, fine, "another program is running: stop it, or wait (see `top`)")


def cores() -> Check:
    """Whether the usable cores are physical ones, or threads that share one."""
    usable = machine.usable_cores()
    siblings = set()
    for core in usable:
        with suppress(OSError):
            path = _CPUS / f"cpu{core}/topology/thread_siblings_list"
            siblings.add(path.read_text("ascii").strip())
    advice = "two of them share a core: switch SMT off, or leave the siblings idle"
    value = f"{len(usable)} usable of {os.cpu_count()}, {len(siblings)} physical"
    return _checked("cores", value if siblings else None, len(siblings) == len(usable), advice)


def quota() -> Check:
    """Whether a control group halts processes that use too much processor time."""
    limit, usable = machine.cpu_quota(), len(machine.usable_cores())
    value = "none" if limit is None else f"{limit:g} cores' time for {usable} cores"
    advice = (
        "processes that use more are halted for the rest of each period: use whole cores (a cpuset)"
    )
    return _checked("cpu quota", value, limit is None or limit >= usable, advice)


def variables() -> Check:
    """Which variables of the environment change threads or frameworks."""
    meddling = sorted(filter(settings.changes_times, os.environ))
    overridden = [name for name in settings.THREAD_VARIABLES if name in os.environ]
    value = ", ".join(f"{name}={os.environ[name]}" for name in [*meddling, *overridden])
    if meddling:
        advice = f"they change what is measured: unset {', '.join(meddling)}"
        return Check("variables", value, "warn", advice)
    advice = "no effect: every trial gets the number of `--threads`" if overridden else ""
    return Check("variables", value or "none", "ok", advice)


def steal(seconds: float = 1.0) -> Check:
    """How much of the cores' time a hypervisor keeps."""
    before = machine.counters().steal_s
    time.sleep(seconds)
    after = machine.counters().steal_s
    if before is None or after is None:
        return _checked("steal", None)
    share = (after - before) / seconds / len(machine.usable_cores())
    advice = "the host is shared and busy: use a machine, or cores, of your own"
    return _checked("steal", f"{share:.1%} of a second", share <= STEAL_LIMIT, advice)


def clock() -> Check:
    """How fine the clock is."""
    step_s = resolution()
    advice = "too coarse for short chunks: give `curve_points` a smaller number"
    return _checked("clock", f"steps of {step_s * 1e9:.0f} ns", step_s <= _STEP_LIMIT_S, advice)


def memory() -> Check:
    """How much memory is free."""
    free_gb = None
    with suppress(OSError, StopIteration):
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
        line = next(line for line in lines if line.startswith("MemAvailable:"))
        free_gb = int(line.split()[1]) * 1024 / 1e9
    value = None if free_gb is None else f"{free_gb:.1f} GB free"
    return _checked("memory", value, (free_gb or 0) >= _MEMORY_LIMIT_GB, "trials may be killed")


def disk(results: Path) -> Check:
    """How much room there is for results."""
    folder = results.absolute()
    while not os.path.exists(folder):  # Path.exists raises for a folder without permission.
        folder = folder.parent
    if not (os.path.isdir(folder) and os.access(folder, os.W_OK)):
        return Check("disk", str(folder), "warn", "it cannot be written: choose other `--results`")
    free_gb = shutil.disk_usage(folder).free / 1e9
    return _checked("disk", f"{free_gb:.1f} GB free", free_gb >= _DISK_LIMIT_GB, "make room there")


def store(folder: Folder) -> Check:
    """Whether results can be written to a store, and how long that takes."""
    probe, start = f".doctor-{uuid.uuid4().hex}", now()
    try:
        folder.create(probe, b"")
        folder.delete(probe)
    except OSError as error:
        advice = f"{folder.location} cannot be written: {brief(error)}"
        return Check("store", "no file can be written", "warn", advice)
    return _checked("store", f"a file written and removed in {now() - start:.2f} s")


def side_by_side(nodes: Mapping[str, Mapping[str, str]]) -> pd.DataFrame:
    """Return a row for each name that some node describes, and a column for each node."""
    import pandas as pd

    names = dict.fromkeys(name for node in nodes.values() for name in node if name != "node")
    rows = [[name, *(node.get(name) for node in nodes.values())] for name in names]
    return pd.DataFrame(rows, columns=["what", *nodes]).astype("string")


def unlike_nodes(nodes: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Return a sentence for each unusable node, and each package not the same on all others."""
    sentences = [
        f"node {n} cannot be used: {node['error']}" for n, node in nodes.items() if "error" in node
    ]
    usable = {name: node for name, node in nodes.items() if "error" not in node}
    packages = dict.fromkeys(
        n for node in usable.values() for n in node if n.startswith("version:")
    )
    for package in packages:
        where: dict[str, list[str]] = {}
        for name, node in usable.items():
            version = public_version(node.get(package, "missing"))
            where.setdefault(version, []).append(name)
        if len(where) > 1:
            versions = "; ".join(f"{v} on {', '.join(names)}" for v, names in where.items())
            name = package.removeprefix("version:")
            sentences.append(f"{name} is not the same everywhere: {versions}")
    return sentences


def self_test(pairs: int = _PAIRS) -> list[Check]:
    """Time the same work as A and as B in random order on one core: they should not differ.

    The second check is the spread of single timings.
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
        _checked("A/A ratio", f"[{low:.4f}, {high:.4f}]", fine, advice),
        _checked(
            "A/A spread",
            f"1 in 20 is over {spread:.1%} slower",
            bool(spread <= _SPREAD_LIMIT),
            "single timings vary: use more seeds",
        ),
    ]


def _checked(check: str, value: str | None, fine: bool = True, advice: str = "") -> Check:
    if value is None:
        return Check(check, "not told by this system", "unknown")
    return Check(check, value, "ok") if fine else Check(check, value, "warn", advice)


def _running_others(looks: int = 5) -> int:
    """Return how many other processes ran at each of several looks."""
    counts = []
    for _ in range(looks):
        with suppress(OSError):
            running = Path("/proc/loadavg").read_text("ascii").split()[3].partition("/")[0]
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
    """Return the time of a fixed piece of work: some milliseconds on one thread."""
    start = now()
    x = np.linspace(-3, 3, 20_000)
    y = x
    for _ in range(50):
        y = np.tanh(y + x)
    return now() - start
