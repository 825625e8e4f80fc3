"""Facts about this machine and process: cores, GPUs, memory, versions, settings."""

from __future__ import annotations

import os
import platform
import re
import resource
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from harness.backend import process_tree

_PACKAGES = ("harness", "ray", "torch", "jax", "jaxlib", "flax", "optax", "numpy", "numba")


def node_name() -> str:
    """Return the name that identifies this machine in the tables."""
    return socket.gethostname()


def usable_cores() -> tuple[int, ...]:
    """Return the numbers of the cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


@contextmanager
def off_cores(cores: tuple[int, ...]) -> Iterator[None]:
    """Keep this thread off these cores, if it may use others."""
    usable = usable_cores()
    others = set(usable) - set(cores)
    if others:
        os.sched_setaffinity(0, others)
    try:
        yield
    finally:
        if others:
            os.sched_setaffinity(0, usable)


def has_gpu() -> bool:
    """Say whether the NVIDIA driver lists a GPU that this process may use."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in {"", "-1"}
    return not hidden and _nvidia_smi("-L").startswith("GPU ")


def _nvidia_smi(*arguments: str) -> str:
    """Return what `nvidia-smi` prints; empty if it fails."""
    with suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(["nvidia-smi", *arguments], capture_output=True, timeout=20)
        if done.returncode == 0:
            return done.stdout.decode(errors="replace")
    return ""


def peak_rss_mb() -> float:
    """Return the most memory that this process has had resident, in MB (10^6 bytes).

    On Linux, added up with that of each child process, and of their children.
    """
    # Not from getrusage if possible: on Linux a process inherits its parent's peak there.
    peaks = [max(map(int, process_tree.status(pid, "VmHWM")), default=0) for pid in family()]
    if peaks[0]:
        return sum(peaks) * 1024 / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


class Counters(NamedTuple):
    """What the system has counted for this process, for its descendants and for its cores."""

    involuntary_switches: int
    """Of this process and of its descendants."""
    steal_s: float | None
    descendants_cpu_s: float
    """The processor time of the descendants, also of those that have ended."""


def counters() -> Counters:
    """Read the counters. Takes some 50 microseconds, more with children, so not on a clock."""
    _, *descendants = family()
    switches = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
    for pid in descendants:
        switches += sum(map(int, process_tree.status(pid, "nonvoluntary_ctxt_switches")))
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = process_tree.cpu_s(descendants) + ended.ru_utime + ended.ru_stime
    return Counters(switches, _steal_s(), cpu_s)


def family() -> list[int]:
    """Return the number of this process, then those of its descendants, on Linux."""
    if sys.platform != "linux":
        return [os.getpid()]
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:  # Most trials have no child, and this is the fastest way to know.
        return [os.getpid()]
    return process_tree.family(os.getpid())


def available_mb() -> float | None:
    """Return the memory that can be had without swapping, in MB (10^6 bytes); None: unknown.

    In a container, no more than what its limit leaves.
    """
    free = []
    with suppress(OSError):
        if found := re.search(r"MemAvailable:\s+(\d+)", Path("/proc/meminfo").read_text("ascii")):
            free.append(int(found[1]) * 1024)
    with suppress(OSError, ValueError):  # No limit reads as `max`.
        limit, used = (Path(f"/sys/fs/cgroup/memory.{name}") for name in ("max", "current"))
        free.append(int(limit.read_bytes()) - int(used.read_bytes()))
    return min(free) / 1e6 if free else None


def available_gpu_mb() -> float | None:
    """Return the free memory of the GPU that this process may use, in MB (10^6 bytes).

    None if it is unknown: there is no driver, or the GPU is a slice of one.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]
    query = ("--query-gpu=memory.free", "--format=csv,noheader,nounits", f"--id={visible}")
    with suppress(ValueError):
        return int(_nvidia_smi(*query)) * 2**20 / 1e6
    return None


def load() -> float | None:
    """Return the system's load average over the last minute."""
    try:
        return os.getloadavg()[0]
    except OSError:
        return None


def core_mhz() -> float | None:
    """Return the mean frequency of the cores that this process may use; None: unknown."""
    with suppress(ValueError):
        khz = [int(value) for value in _cpufreq("scaling_cur_freq")]
        if khz and len(khz) == len(usable_cores()):
            return sum(khz) / len(khz) / 1000
    return None


def governor() -> str | None:
    """Return the frequency governors of the cores that this process may use; None: unknown."""
    return ", ".join(sorted(set(_cpufreq("scaling_governor")))) or None


def _cpufreq(name: str) -> list[str]:
    """Return a value of each core that this process may use, as far as the system has it."""
    values = []
    for core in usable_cores():
        with suppress(OSError):
            path = Path(f"/sys/devices/system/cpu/cpu{core}/cpufreq/{name}")
            values.append(path.read_text("ascii").strip())
    return values


def _steal_s() -> float | None:
    """Return how long the hypervisor has kept the cores of this process; None: unknown."""
    names = {f"cpu{core}" for core in usable_cores()}
    try:
        lines = Path("/proc/stat").read_text("ascii").splitlines()
    except OSError:
        return None
    ticks = [int(fields[8]) for line in lines if (fields := line.split())[0] in names]
    return sum(ticks) / os.sysconf("SC_CLK_TCK")


def cpu_quota() -> float | None:
    """Return the limit on processor time, in cores, of this process's cgroup; None: no limit."""
    for read in (_quota_v2, _quota_v1):
        with suppress(OSError, ValueError):
            return read()
    return None


def _quota_v2() -> float | None:
    groups = os.fsdecode(Path("/proc/self/cgroup").read_bytes())
    group = groups.rpartition("0::")[2].strip().strip("/")
    root = Path("/sys/fs/cgroup")
    limits = []
    # The limits of its parents hold for a group, too.
    for folder in (root / group, *(root / group).parents):
        if folder.is_relative_to(root) and (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text("ascii").split()
            limits += [int(quota) / int(period)] if quota != "max" else []
    if not limits and not (root / "cgroup.controllers").exists():
        raise OSError("no version 2")
    return min(limits, default=None)


def _quota_v1() -> float | None:
    folder = Path("/sys/fs/cgroup/cpu")
    quota = int((folder / "cpu.cfs_quota_us").read_bytes())
    return quota / int((folder / "cpu.cfs_period_us").read_bytes()) if quota > 0 else None


def describe() -> dict[str, str]:
    """Describe the machine: processor, cores, memory, operating system, Python."""
    known = {
        "node": node_name(),
        "cpu": _cpu_model(),
        "cores": str(os.cpu_count()),
        "cpu_quota": None if (quota := cpu_quota()) is None else f"{quota:g}",
        "governor": governor(),
        "memory_gb": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9:.1f}",
        "os": _os_name(),
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
    }
    return {name: value for name, value in known.items() if value is not None}


def describe_gpu() -> dict[str, str]:
    """Return `gpu` and `gpu_driver` of the GPU that this process may use; empty if unknown."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]
    query = ("--query-gpu=name,driver_version", "--format=csv,noheader")
    # nvidia-smi does not know the name of a slice of a GPU: then ask for the first GPU.
    for which in ([f"--id={visible}"], []):
        name, comma, driver = _nvidia_smi(*query, *which).partition("\n")[0].rpartition(",")
        if comma:
            return {"gpu": name.strip(), "gpu_driver": driver.strip()}
    return {}


def describe_process() -> dict[str, str]:
    """Describe this process: cores, priority, loaded packages and thread pools."""
    return {
        "cores_used": ",".join(map(str, usable_cores())),
        **{f"version:{name}": version for name, version in loaded_versions().items()},
        **{f"pool:{name}": pool for name, pool in _thread_pools().items()},
        "nice": str(os.nice(0)),
    }


def _thread_pools() -> dict[str, str]:
    """Return version, build and threads in use of each BLAS and OpenMP library loaded."""
    from threadpoolctl import threadpool_info

    pools: dict[str, list[str]] = {}
    for pool in threadpool_info():
        build = [pool.get(name) for name in ("version", "threading_layer", "architecture")]
        described = " ".join([*filter(None, build), f"threads={pool['num_threads']}"])
        pools.setdefault(pool["prefix"], []).append(described)
    # Packages may bring copies of their own.
    return {name: "; ".join(sorted(copies)) for name, copies in sorted(pools.items())}


def installed(path: str) -> bool:
    """Say whether a file or folder belongs to the installation of this Python.

    The prefix alone does not tell: it may be /usr, with a project in /usr/src.
    """
    place = Path(path)
    return (
        not {"site-packages", "dist-packages"}.isdisjoint(place.parts)
        or any(place.is_relative_to(standard) for standard in _standard_library())
        # The standard library as an archive.
        or place.suffix == ".zip"
    )


@cache
def _standard_library() -> tuple[str, ...]:
    return tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib")})


def loaded_versions() -> dict[str, str]:
    """Return the versions of the packages that this process has imported."""
    versions = {}
    for name in sorted({module.partition(".")[0] for module in sys.modules}):
        try:
            versions[name] = metadata.version(name)
        except (metadata.PackageNotFoundError, ValueError):
            continue  # It is of the standard library, or its distribution has another name.
    return versions


def installed_versions() -> dict[str, str]:
    """Return `version:PACKAGE` of the installed packages that matter to a run."""
    versions = {}
    for name in _PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions[f"version:{name}"] = metadata.version(name)
    return versions


def _cpu_model() -> str:
    with suppress(OSError):
        cores = Path("/proc/cpuinfo").read_text("utf-8", "replace")
        if found := re.search(r"model name\s*:(.*)", cores):
            return found[1].strip()
    return platform.processor() or platform.machine()


def _os_name() -> str:
    with suppress(OSError):
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    return f"{platform.system()} {platform.release()}"
