"""Runs a batch of jobs in processes on this node, for any dispatcher.

Whatever a process does (raise, exit, hang, be killed), the caller gets an outcome.
"""

from __future__ import annotations

from collections.abc import Sequence

from harness.measure.block import measure
from harness.measure.process import JobFailed, Worker
from harness.measure.trial import Emit, Host
from harness.trial.events import Certificate, Check, Refused, Started
from harness.trial.jobs import Job, ParityJob, TrialJob


def execute(batch: Sequence[Job], host: Host, emit: Emit) -> None:
    """Run parity jobs one by one, or the trials of a block; emit their events.

    Each job is `Started` and has an outcome at last. Once `host.stop` is set, nothing more follows.
    """
    if trials := [job for job in batch if isinstance(job, TrialJob)]:
        measure(trials, host, emit)
    for job in batch:
        if isinstance(job, ParityJob) and not host.stop.is_set():
            _certify(job, host, emit)


def _certify(job: ParityJob, host: Host, emit: Emit) -> None:
    emit(Started(job=job))
    checks: list[Check] = []
    error = None
    with Worker(job) as worker:
        try:
            for kind, value in worker.answers(host.stop):
                if kind == "check":
                    checks.append(value)
        except JobFailed as failed:
            error = failed
        fields, phase = worker.fields, worker.phase
    if host.stop.is_set():
        return
    if error and error.kind == "refused":
        emit(Refused(job=job, node=host.node, message=f"{error}"))
        return
    emit(
        Certificate(
            backend=job.backend,
            device=job.device,
            node=host.node,
            checks=tuple(checks),
            versions=fields.get("versions", {}),
            peak_rss_mb=fields.get("peak_rss_mb"),
            peak_gpu_mb=fields.get("peak_gpu_mb"),
            error=error.during(phase) if error else None,
            fault=fields.get("fault", ""),
        )
    )
