"""Runs jobs on the nodes of a Ray cluster; the one module that imports Ray.

A Ray worker never trains: it starts the same process as the inline dispatcher does and passes its
events on, so the numbers do not depend on who dispatched.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

# An embedded Ray reads these when it starts. No usage statistics are sent; trials run at the same
# priority as without Ray (its workers are `nice` by default); Ray leaves the devices to us.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_worker_niceness", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from harness.errors import Unavailable
from harness.jobs import Certificate, Event, Job, Progress, Refused, Started
from harness.launch import execute, lost
from harness.record import Point, Record

# Events are a few kilobytes and are read at once; Ray's own default takes a third of the memory.
_OBJECT_STORE_BYTES = 100 * 2**20


@ray.remote(num_returns="streaming", max_retries=0)
def _execute_batch(batch: Sequence[Job]) -> Iterator[Event]:
    for job in batch:
        yield from execute(job)


class RayDispatcher:
    """Joins the cluster at `address` (or RAY_ADDRESS), or starts a local Ray of its own.

    Raises `Unavailable` if there is no such cluster.
    """

    def __init__(self, address: str | None = None) -> None:
        address = address or os.environ.get("RAY_ADDRESS")
        self._owned = not ray.is_initialized()
        if not self._owned:
            return
        embedded = {"include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES}
        try:
            ray.init(
                address=address or "local",
                logging_level="error",
                log_to_driver=False,
                **({} if address else embedded),
            )
        except (OSError, RuntimeError, ValueError, RayError) as error:
            reason = str(error).partition("\n")[0]
            raise Unavailable(f"Ray at `{address or 'local'}` cannot be used: {reason}") from error

    def has_gpu(self) -> bool:
        """Say whether a node of the cluster has a GPU."""
        return ray.cluster_resources().get("GPU", 0) >= 1

    def run(self, batches: Sequence[Sequence[Job]]) -> Iterator[Event]:
        """Run the batches as Ray tasks; an exclusive one claims every core of a node."""
        waiting = deque(batches)
        running: dict[Any, _Running] = {}
        try:
            while waiting or running:
                yield from _start(waiting, running)
                ready, _ = ray.wait(list(running), timeout=1.0) if running else ([], [])
                for stream in ready:
                    yield from _receive(stream, running, waiting)
        finally:
            for stream in running:
                ray.cancel(stream, force=True)

    def close(self) -> None:
        """Stop the local Ray, or leave the cluster."""
        if self._owned:
            ray.shutdown()


@dataclass
class _Running:
    """A batch on its way: the node it was sent to, and the jobs without an outcome yet."""

    node: dict[str, Any] | None
    jobs: deque[Job]
    points: list[Point] = field(default_factory=list)


def _start(waiting: deque[Sequence[Job]], running: dict[Any, _Running]) -> Iterator[Event]:
    """Send off every waiting batch for which there is room; refuse those that no node can take."""
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    for batch in list(waiting):
        gpus = int(any(job.device == "gpu" for job in batch))
        able = [node for node in nodes if node["Resources"].get("GPU", 0) >= gpus]
        if not able:
            for job in batch:
                yield Refused(job=job, message=f"{job.label}: no node of the cluster has a GPU.")
            waiting.remove(batch)
            continue
        if not any(job.exclusive for job in batch):
            options = {"num_cpus": max(job.threads for job in batch), "num_gpus": gpus}
            node = None
        else:
            busy = {r.node["NodeID"] for r in running.values() if r.node}
            node = next((node for node in able if node["NodeID"] not in busy), None)
            if node is None:
                continue
            options = {
                "num_cpus": node["Resources"]["CPU"],
                "num_gpus": gpus,
                "scheduling_strategy": NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
            }
        stream = _execute_batch.options(**options).remote(list(batch))
        running[stream] = _Running(node, deque(batch))
        waiting.remove(batch)


def _receive(
    stream: Any, running: dict[Any, _Running], waiting: deque[Sequence[Job]]
) -> Iterator[Event]:
    """Yield the next event of a stream; if its worker is lost, account for the jobs it had."""
    batch = running[stream]
    try:
        event: Event = ray.get(next(stream))
    except StopIteration:
        del running[stream]
        return
    except RayError as error:
        del running[stream]
        node = batch.node["NodeManagerHostname"] if batch.node else "unknown"
        reason = f"its Ray worker was lost: {type(error).__name__}"
        yield lost(batch.jobs.popleft(), node, reason, batch.points)
        if batch.jobs:
            waiting.appendleft(list(batch.jobs))
        return
    if isinstance(event, Started):
        batch.points.clear()
    elif isinstance(event, Progress):
        batch.points.append(event.point)
    elif isinstance(event, Record | Certificate | Refused):
        batch.jobs.popleft()
    yield event
