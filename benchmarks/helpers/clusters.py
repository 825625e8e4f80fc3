"""Ray clusters for tests: several real nodes on this machine, each with its own raylet."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
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
# For figures: the head waits half a minute for a node that does not answer.
IMPATIENT = {
    "health_check_initial_delay_ms": 500,
    "health_check_period_ms": 500,
    "health_check_failure_threshold": 4,
}


class LocalCluster:
    """A head without cores, and the nodes that are added to it by name."""

    def __init__(self, health_check: Mapping[str, int] | None = None) -> None:
        from ray.cluster_utils import Cluster

        self._cluster = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 0,
                "node_name": "head",
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

    def remove(self, name: str) -> None:
        """Take a node away with all that runs on it, as if its plug was pulled."""
        with suppress(psutil.NoSuchProcess):
            raylet = self.raylet(name)
            for process in [raylet, *raylet.children(recursive=True)]:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
        self._cluster.remove_node(self._nodes.pop(name), allow_graceful=False)

    def kill_head(self) -> None:
        """Kill the head's processes."""
        head = self._cluster.head_node
        assert head is not None
        for infos in head.all_processes.values():
            for info in infos:
                with suppress(psutil.NoSuchProcess):
                    psutil.Process(info.process.pid).kill()

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


def trial_on(raylet: psutil.Process, *words: str) -> psutil.Process | None:
    """Return the process of a trial that a raylet's worker started."""
    for process in raylet.children(recursive=True):
        try:
            line = " ".join(process.cmdline())
        except psutil.Error:
            continue
        if "harness.worker" in line and '"trial"' in line and all(word in line for word in words):
            return process
    return None


def check_whole(run: Run) -> None:
    """Every trial once, and the trials of a block on one device on one node."""
    plan = run.manifest.plan
    assert len(run.trials) == len(plan.arms) * len(plan.seeds)
    assert run.trials["trial"].is_unique
    assert (run.trials.groupby(["block", "device"])["node"].nunique() == 1).all()
