"""Ray clusters for tests: several real nodes on this machine, each with its own raylet."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import psutil

from harness import Run

# As an embedded Ray does: see the dispatcher.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_worker_niceness", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
# These clusters ask for no token, so drivers must not do so of their nodes: one that finds the
# token of another cluster in the home folder would, and hear nothing of its own work.
os.environ.setdefault("RAY_AUTH_MODE", "disabled")

_STORE_BYTES = 80 * 2**20
# A silent node is dead after some 10 s; with Ray's defaults it takes over a minute.
IMPATIENT = {
    "health_check_initial_delay_ms": 500,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 2000,
    "health_check_failure_threshold": 4,
}
HEAD = "head"


class LocalCluster:
    """A head without cores, and the nodes that are added to it by name."""

    def __init__(self, health_check: Mapping[str, int] | None = None) -> None:
        from ray.cluster_utils import Cluster

        self._cluster = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 0,
                "node_name": HEAD,
                "include_dashboard": False,
                "object_store_memory": _STORE_BYTES,
                "_system_config": dict(health_check or {}),
            },
        )
        self._nodes: dict[str, Any] = {}

    @property
    def address(self) -> str:
        """What `--address` takes."""
        return str(self._cluster.address)

    @property
    def names(self) -> set[str]:
        """The names of the nodes that were added and not removed."""
        return set(self._nodes)

    def add(self, name: str, cpus: int = 1, gpus: int = 0) -> None:
        """Start a node."""
        self._nodes[name] = self._cluster.add_node(
            wait=True,
            num_cpus=cpus,
            num_gpus=gpus,
            node_name=name,
            object_store_memory=_STORE_BYTES,
        )

    def raylet(self, name: str) -> psutil.Process:
        """Return the raylet of a node."""
        (info,) = self._nodes[name].all_processes["raylet"]
        return psutil.Process(info.process.pid)

    def is_alive(self, name: str) -> bool:
        """Say whether the raylet of a node still runs."""
        try:
            return self.raylet(name).status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def remove(self, name: str) -> None:
        """Take a node away with all that runs on it, as if its plug was pulled."""
        _each(psutil.Process.kill, self._processes(name))
        self._cluster.remove_node(self._nodes.pop(name), allow_graceful=False)

    def kill_head(self) -> None:
        """Kill the head's processes."""
        _each(psutil.Process.kill, self._processes(HEAD))

    def silence(self, name: str, which: str = "") -> list[psutil.Process]:
        """Stop the processes of a node or of the `HEAD`, or those with `which` in their names.

        Its connections stay open: so they do if a host loses its power, or its cable.
        Returns what `wake` takes.
        """
        processes = [process for process in self._processes(name) if which in process.name()]
        _each(psutil.Process.suspend, processes)
        return processes

    def wake(self, processes: Iterable[psutil.Process]) -> None:
        """Let the processes go on that `silence` has stopped, as far as they are still there."""
        _each(psutil.Process.resume, processes)

    def _processes(self, name: str) -> list[psutil.Process]:
        node = self._cluster.head_node if name == HEAD else self._nodes[name]
        assert node is not None
        started = [info.process.pid for infos in node.all_processes.values() for info in infos]
        found: list[psutil.Process] = []
        for pid in started:
            with suppress(psutil.NoSuchProcess):
                process = psutil.Process(pid)
                found += [process, *process.children(recursive=True)]
        return found

    def shutdown(self) -> None:
        """End all nodes."""
        with suppress(psutil.NoSuchProcess):
            self._cluster.shutdown()


@contextmanager
def local_cluster(
    health_check: Mapping[str, int] | None = None, /, **nodes: dict[str, int]
) -> Iterator[LocalCluster]:
    """Yield a cluster with these nodes, for example `a={"cpus": 2}`."""
    cluster = LocalCluster(health_check)
    try:
        for name, resources in nodes.items():
            cluster.add(name, **resources)
        yield cluster
    finally:
        cluster.shutdown()


def _each(do: Callable[[psutil.Process], None], processes: Iterable[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            do(process)


def trials_on(raylet: psutil.Process, *words: str) -> list[psutil.Process]:
    """Return the processes of trials that a raylet's worker started."""
    found = []
    try:
        processes = raylet.children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    for process in processes:
        with suppress(psutil.Error):
            line = " ".join(process.cmdline())
            if "harness.worker" in line and all(word in line for word in ('"turns"', *words)):
                found.append(process)
    return found


def trial_on(raylet: psutil.Process, *words: str) -> psutil.Process | None:
    """Return one of them."""
    return next(iter(trials_on(raylet, *words)), None)


def check_whole(run: Run) -> None:
    """Every trial once, and the trials of a block on one device on one node."""
    plan = run.manifest.plan
    assert len(run.trials) == len(plan.arms) * len(plan.seeds)
    assert run.trials["trial"].is_unique
    assert (run.trials.groupby(["block", "device"])["node"].nunique() == 1).all()
