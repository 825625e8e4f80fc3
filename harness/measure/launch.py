"""Runs a job in a process on this node, for any dispatcher.

Whatever the process does (raise, exit, hang, be killed), the caller gets an outcome.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

from harness.measure import machine
from harness.measure.outcome import Messages
from harness.measure.process import Worker
from harness.trial.events import Event, Progress, Refused, Started
from harness.trial.jobs import Job, TrialJob


@dataclass
class Host:
    """The node that jobs run on."""

    node: str = field(default_factory=machine.node_name)
    """Its name in the tables."""
    stop: threading.Event = field(default_factory=threading.Event)
    """When set, jobs end without an outcome."""


def execute(job: Job, host: Host) -> Iterator[Event]:
    """Run a job in a process; yield `Started`, any `Progress`, and its outcome last.

    Closing the iterator kills the process.
    """
    yield Started(job=job)
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

    messages = Messages(job, host.node, cores)
    with Worker(job, cores) as worker:
        for kind, value in worker.messages(host.stop):
            messages.add(kind, value)
            if kind == "point" and isinstance(job, TrialJob):
                yield Progress(job=job, point=messages.points[-1])
    if not host.stop.is_set():
        yield messages.outcome()
