"""What this machine and process are: cores, GPUs, memory, versions, settings."""

from __future__ import annotations

import os
import platform
import re
import resource
import socket
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

# Settings that change the speed or the precision of a framework, recorded with every trial.
_RECORDED = re.compile("OMP_|MKL_|OPENBLAS_|NPROC|XLA_|JAX_|TORCH|CUDA_|CUBLAS_|NVIDIA_TF32")


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


def describe() -> dict[str, str]:
    """Describe the machine: processor, cores, memory, operating system, Python."""
    return {
        "node": node_name(),
        "cpu": _cpu_model(),
        "cores": str(len(usable_cores())),
        "memory_gb": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9:.1f}",
        "os": platform.platform(),
        "python": platform.python_version(),
    }


def describe_process() -> dict[str, str]:
    """Describe this process: versions of the packages it loaded, its priority and settings."""
    return {
        **{f"version:{name}": version for name, version in _loaded_versions().items()},
        **{f"env:{k}": v for k, v in sorted(os.environ.items()) if _RECORDED.match(k)},
        "nice": str(os.nice(0)),
    }


def _loaded_versions() -> dict[str, str]:
    versions = {}
    for name in sorted({module.partition(".")[0] for module in sys.modules}):
        try:
            versions[name] = metadata.version(name)
        except (metadata.PackageNotFoundError, ValueError):
            continue  # of the standard library, or named unlike its distribution
    return versions


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
