"""What this machine and process are: cores, GPUs, memory, versions, settings."""

from __future__ import annotations

import os
import platform
import re
import resource
import socket
import subprocess
import sys
import sysconfig
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

# Settings that change the speed or the precision of a framework, recorded with every trial.
_RECORDED = re.compile("OMP_|MKL_|OPENBLAS_|NPROC|NUMBA_|XLA_|JAX_|TORCH|CUDA_|CUBLAS_|NVIDIA_TF32")

_PACKAGES = ("harness", "ray", "torch", "jax", "jaxlib", "flax", "optax", "numpy", "numba")

# How OpenMP, the BLAS libraries, XLA and numba are told their number of threads, by the harness.
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NPROC",
    "NUMBA_NUM_THREADS",
)


def node_name() -> str:
    """Return the name that identifies this machine in the tables."""
    return socket.gethostname()


def usable_cores() -> tuple[int, ...]:
    """Return the numbers of the cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def has_gpu() -> bool:
    """Say whether the NVIDIA driver lists a GPU that this process may see."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in {"", "-1"}:
        return False
    try:
        listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return listing.returncode == 0 and listing.stdout.startswith("GPU ")


def peak_rss_mb() -> float:
    """Return the most memory this process had resident, in MB (10^6 bytes)."""
    # Not getrusage where it can be helped: on Linux a process inherits its parent's peak there.
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def reset_peak_rss() -> None:
    """Forget the peak so far, where the system can (Linux)."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


class Counters(NamedTuple):
    """What the system has counted so far for this process and the cores it may run on."""

    involuntary_switches: int
    steal_s: float | None


def counters() -> Counters:
    """Read the counters; takes some 50 microseconds, so not while a clock runs."""
    return Counters(resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw, _steal_s())


def load() -> float | None:
    """Return the system's load average over the last minute."""
    try:
        return os.getloadavg()[0]
    except OSError:
        return None


def core_mhz() -> float | None:
    """Return the mean frequency of the cores that this process may run on, where it is known."""
    khz = []
    for core in usable_cores():
        path = Path(f"/sys/devices/system/cpu/cpu{core}/cpufreq/scaling_cur_freq")
        try:
            khz.append(int(path.read_text()))
        except (OSError, ValueError):
            return None
    return sum(khz) / len(khz) / 1000


def _steal_s() -> float | None:
    """Return the time that the hypervisor took from the cores of this process."""
    names = {f"cpu{core}" for core in usable_cores()}
    try:
        lines = Path("/proc/stat").read_text().splitlines()
    except OSError:
        return None
    ticks = [int(fields[8]) for line in lines if (fields := line.split())[0] in names]
    return sum(ticks) / os.sysconf("SC_CLK_TCK")


def cpu_quota() -> float | None:
    """Return how many cores' time the control group of this process may use; None: no limit."""
    for read in (_quota_v2, _quota_v1):
        with suppress(OSError, ValueError):
            return read()
    return None


def _quota_v2() -> float | None:
    group = Path("/proc/self/cgroup").read_text().rpartition("0::")[2].strip().strip("/")
    root = Path("/sys/fs/cgroup")
    limits = []
    # A group is held by its parents' limits too.
    for folder in (root / group, *(root / group).parents):
        if folder.is_relative_to(root) and (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
            limits += [int(quota) / int(period)] if quota != "max" else []
    if not limits and not (root / "cgroup.controllers").exists():
        raise OSError("no version 2")
    return min(limits, default=None)


def _quota_v1() -> float | None:
    folder = Path("/sys/fs/cgroup/cpu")
    quota = int((folder / "cpu.cfs_quota_us").read_text())
    return quota / int((folder / "cpu.cfs_period_us").read_text()) if quota > 0 else None


def governor() -> str | None:
    """Return by what rule the frequency of the usable cores is chosen, where the system says it."""
    rules = set()
    for core in usable_cores():
        with suppress(OSError):
            path = Path(f"/sys/devices/system/cpu/cpu{core}/cpufreq/scaling_governor")
            rules.add(path.read_text().strip())
    return ", ".join(sorted(rules)) or None


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
    """Return `gpu` and `gpu_driver` of the GPU that this process may see, if the driver tells."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    # By a name that nvidia-smi does not take (a slice of a GPU), it is asked for the first one.
    for command in ([*query, f"--id={visible}"], query):
        with suppress(OSError, subprocess.TimeoutExpired):
            answer = subprocess.run(command, capture_output=True, text=True, timeout=20)
            name, comma, driver = answer.stdout.partition("\n")[0].rpartition(",")
            if answer.returncode == 0 and comma:
                return {"gpu": name.strip(), "gpu_driver": driver.strip()}
    return {}


def describe_process() -> dict[str, str]:
    """Describe this process: its cores, priority and settings, the packages and pools it loaded."""
    return {
        "cores_used": ",".join(map(str, usable_cores())),
        **{f"version:{name}": version for name, version in loaded_versions().items()},
        **{f"pool:{name}": pool for name, pool in _thread_pools().items()},
        **{f"env:{k}": v for k, v in sorted(os.environ.items()) if _RECORDED.match(k)},
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
    # A package may bring a copy of its own.
    return {name: "; ".join(sorted(copies)) for name, copies in sorted(pools.items())}


def installed(path: str) -> bool:
    """Say whether a file or folder belongs to the installation of Python that runs.

    Not everything below its prefix does: that may be /usr, and a project in /usr/src.
    """
    places = Path(path).parts
    standard = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib")}
    return (
        "site-packages" in places
        or "dist-packages" in places
        or any(Path(path).is_relative_to(place) for place in standard)
        # The standard library as an archive.
        or Path(path).suffix == ".zip"
    )


def loaded_versions() -> dict[str, str]:
    """Return the versions of the packages that this process has imported."""
    versions = {}
    for name in sorted({module.partition(".")[0] for module in sys.modules}):
        try:
            versions[name] = metadata.version(name)
        except (metadata.PackageNotFoundError, ValueError):
            continue  # of the standard library, or named unlike its distribution
    return versions


def installed_versions() -> dict[str, str]:
    """Return `version:PACKAGE` of what can be imported here, as far as it matters to a run."""
    versions = {}
    for name in _PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions[f"version:{name}"] = metadata.version(name)
    return versions


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _os_name() -> str:
    with suppress(OSError):
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    return f"{platform.system()} {platform.release()}"
