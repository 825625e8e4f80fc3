"""Where jobs run: in this machine's processes, or on the nodes of a Ray cluster."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Protocol

from harness.errors import UnknownName
from harness.jobs import Event, Job

NAMES = ("ray", "inline")


class Dispatcher(Protocol):
    """Runs batches of jobs and streams their events back."""

    def has_gpu(self) -> bool:
        """Say whether any node has a GPU to offer."""

    def run(self, batches: Sequence[Sequence[Job]]) -> Generator[Event, None, None]:
        """Run the jobs; those of a batch in order, one after the other, on one node.

        A node runs nothing beside a batch with an exclusive job. Each job yields `Started`, any
        `Progress`, and an outcome. Closing the iterator ends what is still running.
        """

    def close(self) -> None:
        """Give back whatever was started."""


def dispatcher(name: str, address: str | None = None) -> Dispatcher:
    """Return the dispatcher `name`; `address` is that of a Ray cluster to join."""
    if name == "inline":
        from harness.dispatch.inline import InlineDispatcher

        return InlineDispatcher()
    if name == "ray":
        from harness.dispatch.ray_cluster import RayDispatcher

        return RayDispatcher(address)
    raise UnknownName("dispatch", name, NAMES)
