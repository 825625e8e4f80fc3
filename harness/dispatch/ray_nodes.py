"""Says which nodes a Ray cluster has."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import ray
from ray._private.state import available_resources_per_node
from ray.exceptions import RayError

from harness.dispatch.placement import Node
from harness.dispatch.timeout import within
from harness.errors import ClusterLost
from harness.measure.clock import now

T = TypeVar("T")

REFRESH_S = 0.2
"""How long an answer of the head about its nodes is used."""
HEAD_S = 20.0
"""Timeout of the head; Ray's own is a minute, or none."""


class Nodes:
    """The nodes of the cluster, each under a name of its own."""

    def __init__(self, alone: bool) -> None:
        """`alone`: a local Ray, where nobody else uses any cores."""
        self.lost = False
        """Whether the head has gone, or has given up the node of this process."""
        self._alone = alone
        self._names: dict[str, str] = {}
        self._seen: list[Node] = []
        self._looked = -REFRESH_S

    def look(self, all_of_them: bool = False) -> list[Node]:
        """Return the nodes that are alive and have cores to run on, or all that are alive.

        Raises `ClusterLost` if the head does not answer, or has given up the node of this process.
        """
        if all_of_them or now() - self._looked >= REFRESH_S:
            nodes, free = self.ask(self._look)
            self._check_own(nodes)
            alive = [node for node in nodes if node["Alive"]]
            self._name(alive)
            self._seen = [self._node(node, free.get(node["NodeID"])) for node in alive]
            self._looked = now()
        return [node for node in self._seen if node.cpus or all_of_them]

    def forget(self) -> None:
        """Ask the head again at the next look."""
        self._looked = -REFRESH_S

    def ask(self, question: Callable[[], T]) -> T:
        """Return the answer to a question that only the head can answer. Raises `ClusterLost`."""
        try:
            return within(HEAD_S, question)
        except (RayError, OSError, RuntimeError) as error:
            self.lost = True
            raise ClusterLost(
                f"the head of the Ray cluster does not answer any more ({type(error).__name__})."
            ) from error

    def _look(self) -> tuple[list[dict[str, Any]], dict[str, dict[str, float]]]:
        """Return the nodes, and the free resources of each."""
        return ray.nodes(), {} if self._alone else available_resources_per_node()

    def _check_own(self, nodes: Sequence[Mapping[str, Any]]) -> None:
        """Raise `ClusterLost` if the node of this process is dead: Ray starts nothing for it."""
        own = ray.get_runtime_context().get_node_id()
        for node in nodes:
            if node["NodeID"] == own and not node["Alive"]:
                self.lost = True
                raise ClusterLost(
                    f"Ray on {node['NodeManagerHostname']}, by which this process is in the "
                    "cluster, does not answer any more: the head has given that node up."
                )

    def _node(self, node: Mapping[str, Any], free: Mapping[str, float] | None) -> Node:
        resources = node["Resources"]
        cpus = resources.get("CPU", 0.0)
        taken = 0.0 if free is None else cpus - free.get("CPU", 0.0)
        name = self._names[node["NodeID"]]
        return Node(node["NodeID"], name, cpus, int(resources.get("GPU", 0)), taken)

    def _name(self, alive: Sequence[Mapping[str, Any]]) -> None:
        """Give each node the name that its owner gave it, or that of its host, made unique."""
        ids = [node["NodeID"] for node in alive]
        self._names = {id_: name for id_, name in self._names.items() if id_ in ids}
        for id_, node in zip(ids, alive, strict=True):
            given = node.get("NodeName") or ""
            name = node["NodeManagerHostname"]
            if given not in {"", str(node["NodeManagerAddress"])}:
                name = given
            taken = self._names.values()
            self._names.setdefault(id_, name if name not in taken else f"{name}#{id_[-6:]}")
