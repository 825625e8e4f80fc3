"""The two dispatchers: `inline` on this machine, and `ray` on the nodes of a cluster."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from harness.dispatch.admission import Admission
from harness.dispatch.token import show_token
from harness.errors import UnknownName
from harness.trial.events import Event
from harness.trial.jobs import ParityJob, TrialJob

if TYPE_CHECKING:
    from harness.dispatch.ray_cluster import RayDispatcher

NAMES = ("ray", "inline")


class Dispatcher(Protocol):
    """Runs jobs and yields their events."""

    def has_gpu(self) -> bool:
        """Say whether any node has a GPU."""

    def certify(self, jobs: Sequence[ParityJob]) -> Generator[Event, None, None]:
        """Run each of the jobs on every node that can take it; outcomes name the node."""

    def run(
        self, batches: Iterable[Sequence[TrialJob]], admission: Admission, max_retries: int = 0
    ) -> Generator[Event, None, None]:
        """Run each batch in order on one node that is admitted.

        A node runs nothing beside a batch with an exclusive job. Each job yields `Started`, any
        `Progress`, and an outcome. A batch that was lost with its node is repeated whole, at most
        `max_retries` times. Closing the iterator ends what is still running.
        """

    def close(self) -> None:
        """Stop, or leave, what was started or joined."""


def dispatcher(
    name: str, address: str | None, runtime_env: Mapping[str, Any], wait_s: float
) -> Dispatcher:
    """Return the dispatcher `name`; the other arguments are those of `RayDispatcher`."""
    if name == "inline":
        from harness.dispatch.local import InlineDispatcher

        return InlineDispatcher()
    if name == "ray":
        return cluster(address, runtime_env, wait_s)
    raise UnknownName("dispatch", name, NAMES)


def cluster(
    address: str | None, runtime_env: Mapping[str, Any] | None = None, wait_s: float = 0.0
) -> RayDispatcher:
    """Join the Ray cluster at an address, or start a local one."""
    show_token()  # Ray reads it when it is imported.
    from harness.dispatch.ray_cluster import RayDispatcher

    return RayDispatcher(address, runtime_env, wait_s)
