"""Ray clusters for tests: several real nodes on this machine, each with its own raylet."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psutil

# As an embedded Ray does: see the dispatcher.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_worker_niceness", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

_STORE_BYTES = 80 * 2**20


class LocalCluster:
    """A head without cores, and the nodes that are added to it by name."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self._cluster = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 0,
                "node_name": "head",
                "include_dashboard": False,
                "object_store_memory": _STORE_BYTES,
            },
        )
        self._nodes: dict[str, Any] = {}

    @property
    def address(self) -> str:
        """What `--address` takes."""
        return str(self._cluster.address)

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
            self._cluster.shutdown()  # type: ignore[no-untyped-call]


@contextmanager
def local_cluster(**nodes: dict[str, int]) -> Iterator[LocalCluster]:
    """Yield a cluster with these nodes, for example `a={"cpus": 2}`."""
    cluster = LocalCluster()
    try:
        for name, resources in nodes.items():
            cluster.add(name, **resources)
        yield cluster
    finally:
        cluster.shutdown()
