"""Runs jobs on the nodes of a Ray cluster; the one module that imports Ray.

A Ray worker never trains: it starts the same process as the inline dispatcher does and passes its
events on, so the numbers do not depend on who dispatched.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
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

from harness import machine
from harness.dispatch.inline import InlineDispatcher
from harness.errors import Unavailable
from harness.jobs import Certificate, Event, Job, ParityJob, Progress, Refused, Started
from harness.launch import another_follows, execute, lost
from harness.record import Point, Record

# Events are a few kilobytes and are read at once; Ray's own default takes a third of the memory.
_OBJECT_STORE_BYTES = 100 * 2**20


@ray.remote(num_returns="streaming", max_retries=0)
def _execute_batch(batch: Sequence[Job]) -> Iterator[Event]:
    for job in batch:
        yield from execute(job)


class RayDispatcher:
    """Joins the cluster at `address` (or RAY_ADDRESS), or starts a local Ray of its own.

    A local Ray takes seconds of all cores to start. This machine is its only node, so parity jobs
    run here without it, and it starts once they leave a core free. Raises `Unavailable` if there
    is no cluster at the address.
    """

    def __init__(self, address: str | None = None) -> None:
        address = address or os.environ.get("RAY_ADDRESS")
        # In a notebook, Ray may be running already: it is used and left running.
        self._owned = not ray.is_initialized()
        self._local = self._owned and address is None
        # The processes of a local Ray die with the thread that started them; `close` ends it.
        self._starter = ThreadPoolExecutor(max_workers=1)
        self._started: Future[None] | None = None
        if self._owned and not self._local:
            _connect(address)

    def has_gpu(self) -> bool:
        """Say whether a node has a GPU."""
        return machine.has_gpu() if self._local else _has_gpu(_nodes())

    def run(self, batches: Sequence[Sequence[Job]]) -> Generator[Event, None, None]:
        """Run the batches as Ray tasks; an exclusive one claims every core of a node."""
        if self._local and all(isinstance(job, ParityJob) for batch in batches for job in batch):
            for event in InlineDispatcher().run(batches):
                if isinstance(event, Certificate):
                    self._start()
                yield event
            return
        if self._local:
            self._start().result()
        waiting = deque(batches)
        running: dict[Any, _Running] = {}
        try:
            while waiting or running:
                yield from _send(waiting, running)
                ready, _ = ray.wait(list(running), timeout=1.0) if running else ([], [])
                for stream in ready:
                    yield from _receive(stream, running, waiting)
        finally:
            for stream in running:
                ray.cancel(stream, force=True)

    def close(self) -> None:
        """Stop the local Ray, or leave the cluster."""
        if self._started:
            self._started.exception()  # Wait until it is there before it is stopped.
        if self._owned:
            ray.shutdown()
        self._starter.shutdown()

    def _start(self) -> Future[None]:
        self._started = self._started or self._starter.submit(_connect, None)
        return self._started


def _connect(address: str | None) -> None:
    embedded: dict[str, Any] = {
        "include_dashboard": False,
        "object_store_memory": _OBJECT_STORE_BYTES,
    }
    try:
        ray.init(
            address=address or "local",
            logging_level=logging.ERROR,
            log_to_driver=False,
            **({} if address else embedded),
        )
    except (OSError, RuntimeError, ValueError, RayError) as error:
        reason = str(error).partition("\n")[0]
        raise Unavailable(f"Ray at `{address or 'local'}` cannot be used: {reason}") from error


def _nodes() -> list[dict[str, Any]]:
    """Return the nodes that can run something now."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [node for node in nodes if node["Alive"] and node["Resources"].get("CPU")]


def _has_gpu(nodes: Sequence[dict[str, Any]]) -> bool:
    return any(node["Resources"].get("GPU", 0) >= 1 for node in nodes)


@dataclass
class _Running:
    """A batch on its way: the node it was sent to, and the jobs without an outcome yet."""

    node: dict[str, Any] | None
    jobs: deque[Job]
    attempt: int = 1
    points: list[Point] = field(default_factory=list)


def _send(waiting: deque[Sequence[Job]], running: dict[Any, _Running]) -> Iterator[Event]:
    """Send off every waiting batch for which there is room; refuse those that no node can take."""
    nodes = _nodes()
    for batch in list(waiting):
        gpus = int(any(job.device == "gpu" for job in batch))
        threads = max(job.threads for job in batch)
        able = [
            node
            for node in nodes
            if node["Resources"].get("GPU", 0) >= gpus and node["Resources"]["CPU"] >= threads
        ]
        if not able:
            wanted = f"the {threads} cores of `threads`" + " and a GPU" * gpus
            for job in batch:
                yield Refused(job=job, message=f"{job.label}: no node of the cluster has {wanted}.")
            waiting.remove(batch)
            continue
        if not any(job.exclusive for job in batch):
            options: dict[str, Any] = {"num_cpus": threads, "num_gpus": gpus}
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
        if not batch.jobs:
            return
        cause = str(error).strip().partition("\n")[0]
        reason = f"its Ray worker was lost: {type(error).__name__}: {cause}"
        yield lost(batch.jobs.popleft(), batch.attempt, node, reason, batch.points)
        if batch.jobs:
            waiting.appendleft(list(batch.jobs))
        return
    if isinstance(event, Started):
        batch.attempt = event.attempt
        batch.points.clear()
    elif isinstance(event, Progress):
        batch.points.append(event.point)
    elif isinstance(event, Record | Certificate | Refused):
        if another_follows(batch.jobs[0], event):
            batch.attempt += 1
        else:
            batch.jobs.popleft()
        batch.points.clear()
    yield event
