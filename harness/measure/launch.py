"""Runs a job in a process on this node, for any dispatcher.

Whatever the process does (raise, exit, hang, be killed), the caller gets an outcome.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field

from harness.measure import machine
from harness.measure.outcome import Messages
from harness.measure.process import Worker, visible_gpu
from harness.trial.events import Event, Progress, Refused, Started
from harness.trial.jobs import Job, TrialJob
from harness.trial.noise import repeats
from harness.trial.record import Record


@dataclass
class Host:
    """A node and its idle worker processes, reused with `isolation="backend"`."""

    node: str = field(default_factory=machine.node_name)
    """Its name in the tables."""
    stop: threading.Event = field(default_factory=threading.Event)
    """When set, jobs end without an outcome."""
    idle: dict[tuple[object, ...], Worker] = field(default_factory=dict)

    def close(self) -> None:
        """End the idle processes."""
        for worker in self.idle.values():
            worker.close()
        self.idle.clear()


def execute(job: Job, host: Host) -> Iterator[Event]:
    """Run a job in a process; yield `Started`, any `Progress`, and its outcome last.

    A trial whose processor was taken away is repeated at once, up to `retry_noisy` times; each
    attempt yields the same kinds of events. Closing the iterator kills the process.
    """
    for attempt in itertools.count(job.attempt if isinstance(job, TrialJob) else 1):
        again = False
        with closing(_attempt(job, attempt, host)) as events:
            for event in events:
                yield event
                again = another_follows(job, event)
        if not again or host.stop.is_set():
            return


def another_follows(job: Job, event: Event) -> bool:
    """Whether an event is the outcome of an attempt after which the job is tried again."""
    if not isinstance(job, TrialJob) or not isinstance(event, Record):
        return False
    return repeats(event, job.attempt - 1 + job.retry_noisy)


def _attempt(job: Job, attempt: int, host: Host) -> Generator[Event, None, None]:
    yield Started(job=job, attempt=attempt)
    available = machine.usable_cores()
    if job.threads > len(available):
        yield Refused(
            job=job,
            node=host.node,
            message=f"`threads` = {job.threads}: node {host.node} has "
            f"{len(available)} cores to run on.",
        )
        return
    pinned = job.exclusive and hasattr(os, "sched_setaffinity")
    cores = available[-job.threads :] if pinned else None

    messages = Messages(job, attempt, host.node, cores)
    with ExitStack() as cleanup:
        worker = _worker(job, cores, host)
        cleanup.push(worker)
        for kind, value in worker.messages(host.stop):
            messages.add(kind, value)
            if kind == "point" and isinstance(job, TrialJob):
                yield Progress(job=job, point=messages.points[-1])
        if worker.reusable and messages.done and messages.fields.get("status") != "failed":
            host.idle[_key(job, cores)] = worker
            cleanup.pop_all()
    if not host.stop.is_set():
        yield messages.outcome()


def _worker(job: Job, cores: tuple[int, ...] | None, host: Host) -> Worker:
    """Return an idle process that can run the job, or a new one."""
    if isinstance(job, TrialJob) and job.isolation == "backend":
        idle = host.idle.pop(_key(job, cores), None)
        if idle is not None:
            if idle.reuse(job):
                return idle
            idle.close()
    return Worker(job, cores)


def _key(job: Job, cores: tuple[int, ...] | None) -> tuple[object, ...]:
    """Return what cannot change after a process has started: trials that share it can reuse one."""
    run = job.run if isinstance(job, TrialJob) else ""
    return (run, job.backend, job.device, visible_gpu(job), job.threads, cores)
