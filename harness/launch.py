"""Starts the process of a job, reads its events, and turns them into a record or a certificate.

Whatever the process does (raise, exit, hang, be killed), the caller gets an outcome. This runs on
the node that does the work, whoever dispatched the job there.
"""

from __future__ import annotations

import itertools
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import IO, Any

from harness import machine
from harness.clock import now, timestamp
from harness.jobs import Certificate, Check, Event, Job, Progress, Refused, Started, TrialJob
from harness.noise import repeats
from harness.record import Chunk, Point, Record

_POLL_S = 0.5
_TAIL_BYTES = 4000


def execute(job: Job, stop: threading.Event | None = None) -> Iterator[Event]:
    """Run a job in a fresh process; yield `Started`, any `Progress`, and its outcome last.

    The outcome is a `Record`, a `Certificate` or `Refused`. There is none if `stop` is set in the
    meantime. A trial that was noisy is repeated at once, as often as its job says; each attempt
    yields the same again. Closing the iterator kills the process.
    """
    for attempt in itertools.count(1):
        again = False
        for event in _attempt(job, attempt, stop):
            yield event
            again = another_follows(job, event)
        if not again or (stop is not None and stop.is_set()):
            return


def another_follows(job: Job, event: Event) -> bool:
    """Whether an event is the outcome of an attempt after which the job is tried again."""
    return (
        isinstance(job, TrialJob) and isinstance(event, Record) and repeats(event, job.retry_noisy)
    )


def _attempt(job: Job, attempt: int, stop: threading.Event | None) -> Iterator[Event]:
    yield Started(job=job, attempt=attempt)
    available = machine.usable_cores()
    if job.threads > len(available):
        yield Refused(
            job=job,
            message=f"`threads` = {job.threads}: node {machine.node_name()} has "
            f"{len(available)} cores to run on.",
        )
        return
    pinned = job.exclusive and hasattr(os, "sched_setaffinity")
    cores = available[-job.threads :] if pinned else None

    account, started = _Account(job, cores, attempt=attempt), now()
    for kind, value in _messages(job, cores, stop):
        account.add(kind, value)
        if kind == "point" and isinstance(job, TrialJob):
            yield Progress(job=job, point=account.points[-1])
    account.wall_s = now() - started
    if stop is None or not stop.is_set():
        yield account.outcome()


def lost(job: Job, attempt: int, node: str, reason: str, points: list[Point]) -> Event:
    """Return the outcome of a job whose node was lost, with what it had reported until then."""
    account = _Account(
        job, cores=None, attempt=attempt, node=node, phase="training", points=list(points)
    )
    account.add("failed", (reason, ""))
    return account.outcome()


@dataclass
class _Account:
    """What is known of a job so far."""

    job: Job
    cores: tuple[int, ...] | None
    attempt: int
    node: str = field(default_factory=machine.node_name)
    started_utc: str = field(default_factory=timestamp)
    wall_s: float = 0.0
    phase: str = "starting"
    fields: dict[str, Any] = field(default_factory=dict)
    chunks: list[Chunk] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    refused: str | None = None
    done: bool = False

    def add(self, kind: str, value: Any) -> None:
        """Take a message of the process."""
        match kind:
            case "phase":
                self.phase = value
            case "fields":
                self.fields |= value
            case "chunk":
                self.chunks.append(Chunk.model_validate(value))
            case "point":
                self.points.append(Point.model_validate(value))
            case "check":
                self.checks.append(Check.model_validate(value))
            case "refused":
                self.refused = value
            case "done":
                self.done = True
            case "failed":
                error, details = value
                self._fail("failed", error, details)
            case "timeout":
                self._fail("timeout", f"still running after {self.job.timeout_s:g} s", value)
            case "exit":
                returncode, output = value
                if not self.done:
                    self._fail("failed", _describe_exit(returncode), output)

    def _fail(self, status: str, error: str, details: str) -> None:
        after = f" after epoch {self.points[-1].epoch}" if self.points else ""
        self.fields |= {
            "status": status,
            "error": f"{error} ({self.phase}{after})",
            "details": details or None,
        }

    def outcome(self) -> Event:
        """Return the record, the certificate or the refusal."""
        job = self.job
        if not isinstance(job, TrialJob):
            if self.refused:
                return Refused(job=job, message=self.refused)
            return Certificate(
                backend=job.backend,
                device=job.device,
                node=self.node,
                checks=tuple(self.checks),
                error=self.fields.get("error"),
            )
        if self.refused:
            self._fail("failed", self.refused, "")
        return Record(
            run=job.run,
            trial=job.trial,
            block=job.block,
            backend=job.backend,
            device=job.device,
            seed=job.seed,
            task=job.task,
            node=self.node,
            started_utc=self.started_utc,
            wall_s=self.wall_s,
            threads=job.threads,
            cores=self.cores,
            contended=not job.exclusive,
            attempt=self.attempt,
            chunks=tuple(self.chunks),
            points=tuple(self.points),
            **self.fields,
        )


def _messages(
    job: Job, cores: tuple[int, ...] | None, stop: threading.Event | None
) -> Iterator[tuple[str, Any]]:
    """Start the process of a job and yield its messages, then ("exit", (returncode, output)).

    If its time is up, it is killed and ("timeout", output) comes last; if `stop` is set or the
    iterator closed, it is killed and nothing more comes.
    """
    request = json.dumps({"job": job.model_dump(mode="json"), "cores": cores})
    deadline = None if job.timeout_s is None else now() + job.timeout_s
    reader, writer = os.pipe()
    with (
        tempfile.TemporaryFile() as output,
        os.fdopen(reader, "rb", buffering=0) as events,
        _process([str(writer), request], job, output, writer) as process,
    ):
        os.close(writer)
        buffer = b""
        while stop is None or not stop.is_set():
            wait_s = _POLL_S if deadline is None else min(_POLL_S, deadline - now())
            if wait_s <= 0:
                yield "timeout", _tail(output)
                return
            # First a look whether it is gone: all that it wrote is readable then. A process of its
            # own that outlives it may hold the other end of the pipe open.
            gone = process.poll() is not None
            if not select.select([events], [], [], 0 if gone else wait_s)[0]:
                if gone:
                    break
                continue
            received = events.read(65536)
            if not received:
                break
            *lines, buffer = (buffer + received).split(b"\n")
            for line in lines:
                kind, value = json.loads(line)
                yield kind, value
        else:
            return
        try:
            returncode = process.wait(_POLL_S)
        except subprocess.TimeoutExpired:
            returncode = None  # It closed its end and lives on.
        yield "exit", (returncode, _tail(output))


@contextmanager
def _process(
    arguments: list[str], job: Job, output: IO[bytes], writer: int
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a worker in a session of its own; whatever is left of it is killed in the end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "harness.worker", *arguments],
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=subprocess.STDOUT,
        pass_fds=[writer],
        env=_environment(job),
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdin.close()  # type: ignore[union-attr]


def _describe_exit(returncode: int | None) -> str:
    if returncode is None:
        return "the process stopped reporting before it was done"
    if returncode < 0:
        return f"killed by {signal.Signals(-returncode).name}"
    return f"the process ended by itself with exit code {returncode}"


def _tail(output: IO[bytes]) -> str:
    """Return the last lines that the process printed."""
    size = output.seek(0, os.SEEK_END)
    output.seek(max(0, size - _TAIL_BYTES))
    return output.read().decode(errors="replace").strip()


def _environment(job: Job) -> dict[str, str]:
    """Return the environment of the process: set before any framework is loaded."""
    gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]
    return os.environ | {
        **dict.fromkeys(machine.THREAD_VARIABLES, str(job.threads)),
        "CUDA_VISIBLE_DEVICES": gpu if job.device == "gpu" else "",
        # Full float32 products and repeatable sums in every CUDA library.
        "NVIDIA_TF32_OVERRIDE": "0",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        # Memory is taken when needed, so that its peak means something.
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        # What the caller can import, the process can; its own installation it finds by itself.
        "PYTHONPATH": os.pathsep.join(
            path for path in sys.path if path and not path.startswith((sys.prefix, sys.base_prefix))
        ),
    }
