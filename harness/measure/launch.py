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
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Self

from harness.measure import machine
from harness.measure.clock import now, timestamp
from harness.trial.events import Certificate, Check, Event, Progress, Refused, Started
from harness.trial.jobs import Job, TrialJob, TurnsJob
from harness.trial.noise import repeats
from harness.trial.record import Chunk, CurvePoint, Record, Share

_POLL_S = 0.5
_TAIL_BYTES = 4000


@dataclass(frozen=True)
class Tree:
    """A version of the code: what a process imports first, and where it starts."""

    cwd: Path
    paths: tuple[str, ...]

    @classmethod
    def here(cls) -> Tree:
        """Return what this process can import; its installation a process finds by itself."""
        return cls(Path.cwd(), tuple(p for p in sys.path if p and not machine.installed(p)))


@dataclass
class Place:
    """Where jobs are run: a node, and the processes kept there for trials that share one."""

    node: str = field(default_factory=machine.node_name)
    """Its name in the tables."""
    idle: dict[tuple[object, ...], Worker] = field(default_factory=dict)

    def close(self) -> None:
        """End the processes that wait for a trial."""
        for worker in self.idle.values():
            worker.close()
        self.idle.clear()


def execute(job: Job, place: Place, stop: threading.Event | None = None) -> Iterator[Event]:
    """Run a job in a process; yield `Started`, any `Progress`, and its outcome last.

    The outcome is a `Record`, a `Certificate` or `Refused`. There is none if `stop` is set in the
    meantime. A trial whose processor was taken away is repeated at once, as often as its job
    says; each attempt yields the same again. Closing the iterator kills the process.
    """
    first = job.attempt if isinstance(job, TrialJob) else 1
    for attempt in itertools.count(first):
        again = False
        with closing(_attempt(job, attempt, place, stop)) as events:
            for event in events:
                yield event
                again = another_follows(job, event)
        if not again or (stop is not None and stop.is_set()):
            return


def another_follows(job: Job, event: Event) -> bool:
    """Whether an event is the outcome of an attempt after which the job is tried again."""
    if not isinstance(job, TrialJob) or not isinstance(event, Record):
        return False
    return repeats(event, job.attempt - 1 + job.retry_noisy)


def _attempt(
    job: Job, attempt: int, place: Place, stop: threading.Event | None
) -> Generator[Event, None, None]:
    yield Started(job=job, attempt=attempt)
    available = machine.usable_cores()
    if job.threads > len(available):
        yield Refused(
            job=job,
            node=place.node,
            message=f"`threads` = {job.threads}: node {place.node} has "
            f"{len(available)} cores to run on.",
        )
        return
    pinned = job.exclusive and hasattr(os, "sched_setaffinity")
    cores = available[-job.threads :] if pinned else None

    account, started = _Account(job, cores, attempt, place.node), now()
    with ExitStack() as cleanup:
        worker = _worker(job, cores, place)
        cleanup.push(worker)
        for kind, value in worker.messages(stop):
            account.add(kind, value)
            if kind == "point" and isinstance(job, TrialJob):
                yield Progress(job=job, point=account.points[-1])
        if worker.serves and account.done and account.fields.get("status") != "failed":
            place.idle[_sharing(job, cores)] = worker
            cleanup.pop_all()
    account.wall_s = now() - started
    if stop is None or not stop.is_set():
        yield account.outcome()


def _worker(job: Job, cores: tuple[int, ...] | None, place: Place) -> Worker:
    """Return the process for a job: one that waits for a trial of its kind, or a fresh one."""
    if isinstance(job, TrialJob) and job.isolation == "backend":
        waiting = place.idle.pop(_sharing(job, cores), None)
        if waiting is not None and waiting.take(job):
            return waiting
    return Worker(job, cores)


def _sharing(job: Job, cores: tuple[int, ...] | None) -> tuple[object, ...]:
    """Return what is settled when a process starts: trials alike in it can share one."""
    run = job.run if isinstance(job, TrialJob) else ""
    return (run, job.backend, job.device, _visible_gpu(job), job.threads, cores)


@dataclass(frozen=True)
class Loss:
    """What is known of a trial whose node, or Ray worker, went away."""

    attempt: int
    node: str
    reason: str
    started_utc: str = field(default_factory=timestamp)
    wall_s: float = 0.0
    points: tuple[CurvePoint, ...] = ()


def lost(job: TrialJob, loss: Loss) -> Event:
    """Return the outcome of a trial that was lost, with what it had reported until then."""
    phase = "training" if loss.points else "starting"
    account = _Account(job, None, loss.attempt, loss.node, loss.started_utc, phase=phase)
    account.points.extend(loss.points)
    account.wall_s = loss.wall_s
    account.fail("lost", loss.reason, "")
    return account.outcome()


@dataclass
class _Account:
    """What is known of a job so far."""

    job: Job
    cores: tuple[int, ...] | None
    attempt: int
    node: str
    started_utc: str = field(default_factory=timestamp)
    wall_s: float = 0.0
    phase: str = "starting"
    fields: dict[str, Any] = field(default_factory=dict)
    chunks: list[Chunk] = field(default_factory=list)
    points: list[CurvePoint] = field(default_factory=list)
    shares: list[Share] = field(default_factory=list)
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
                self.chunks.append(Chunk(**value))
            case "point":
                self.points.append(CurvePoint(**value))
            case "shares":
                self.shares = [Share.model_validate(share) for share in value]
            case "check":
                self.checks.append(Check.model_validate(value))
            case "refused":
                self.refused = value
            case "done":
                self.done = True
            case "failed":
                error, details = value
                self.fail("failed", error, details)
            case "timeout":
                self.fail("timeout", f"still running after {self.job.timeout_s:g} s", value)
            case "exit":
                how, output = value
                if not self.done:
                    self.fail("failed", how, output)

    def fail(self, status: str, error: str, details: str) -> None:
        """Take down what went wrong, and when."""
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
                return Refused(job=job, message=self.refused, node=self.node)
            return Certificate(
                backend=job.backend,
                device=job.device,
                node=self.node,
                checks=tuple(self.checks),
                versions=self.fields.get("versions", {}),
                error=self.fields.get("error"),
            )
        if self.refused:
            self.fail("failed", self.refused, "")
        return Record(
            run=job.run,
            trial=job.trial,
            block=job.block,
            backend=job.backend,
            device=job.device,
            seed=job.seed,
            seeds=job.seeds,
            task=job.task,
            node=self.node,
            started_utc=self.started_utc,
            wall_s=self.wall_s,
            threads=job.threads,
            cores=self.cores,
            contended=not job.exclusive,
            attempt=self.attempt,
            go=job.go,
            isolation=job.isolation,
            chunks=tuple(self.chunks),
            points=tuple(self.points),
            shares=tuple(self.shares),
            **self.fields,
        )


class Worker:
    """The process of a job, in a session of its own; what is left of it is killed in the end.

    One that `serves` can be given another trial after the first.
    """

    def __init__(
        self,
        job: Job | TurnsJob,
        cores: tuple[int, ...] | None = None,
        tree: Tree | None = None,
        **environment: str,
    ) -> None:
        tree = tree or Tree.here()
        fields = job.model_dump(mode="json")
        if isinstance(job, TurnsJob):
            # Another version of the code may lack a field, and has the right to its own defaults.
            fields["task"] = job.task.model_dump(mode="json", exclude_unset=True)
        request = json.dumps({"job": fields, "cores": cores})
        reader, writer = os.pipe()
        self.serves = isinstance(job, TrialJob) and job.isolation == "backend"
        self._set_deadline(job)
        self._events = os.fdopen(reader, "rb", buffering=0)
        self._output = tempfile.TemporaryFile()  # noqa: SIM115, closed with the worker
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "harness.worker", str(writer), request],
                cwd=tree.cwd,
                stdin=subprocess.PIPE,
                stdout=self._output,
                stderr=subprocess.STDOUT,
                pass_fds=[writer],
                env=_environment(job, tree) | environment,
                start_new_session=True,
            )
        finally:
            os.close(writer)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill the process and what it started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._stdin.close()
        self._events.close()
        self._output.close()

    def take(self, job: TrialJob) -> bool:
        """Give the process another trial; return whether it was there to take it."""
        if self._process.poll() is not None:
            return False
        self._output.seek(0)
        self._output.truncate()
        self._set_deadline(job)
        self.say(json.dumps(job.model_dump(mode="json")))
        return True

    def _set_deadline(self, job: Job | TurnsJob) -> None:
        self._deadline = None if job.timeout_s is None else now() + job.timeout_s

    def messages(self, stop: threading.Event | None = None) -> Iterator[tuple[str, Any]]:
        """Yield what the process says, then ("exit", (returncode, output)).

        If its time is up, ("timeout", output) comes last; if `stop` is set, nothing more comes.
        Of a process that serves, ("done", None) comes last: it waits for the next trial.
        """
        buffer = b""
        while stop is None or not stop.is_set():
            wait_s = _POLL_S if self._deadline is None else min(_POLL_S, self._deadline - now())
            if wait_s <= 0:
                yield "timeout", self._tail()
                return
            # First a look whether it is gone: all that it wrote is readable then. A process of its
            # own that outlives it may hold the other end of the pipe open.
            gone = self._process.poll() is not None
            if not select.select([self._events], [], [], 0 if gone else wait_s)[0]:
                if gone:
                    break
                continue
            received = self._events.read(65536)
            if not received:
                break
            *lines, buffer = (buffer + received).split(b"\n")
            for line in lines:
                kind, value = json.loads(line)
                yield kind, value
                if kind == "done" and self.serves:
                    return
        else:
            return
        try:
            returncode = self._process.wait(_POLL_S)
        except subprocess.TimeoutExpired:
            returncode = None  # It closed its end and lives on.
        yield "exit", (_describe_exit(returncode), self._tail())

    def say(self, line: str) -> None:
        """Send the process a line; one that is gone does not mind."""
        with suppress(BrokenPipeError):
            self._stdin.write(f"{line}\n".encode())
            self._stdin.flush()

    def pin(self, cores: tuple[int, ...]) -> None:
        """Let every thread of the process run on these cores only."""
        for thread in Path(f"/proc/{self._process.pid}/task").glob("*"):
            with suppress(ProcessLookupError):
                os.sched_setaffinity(int(thread.name), cores)

    @property
    def _stdin(self) -> IO[bytes]:
        assert self._process.stdin is not None
        return self._process.stdin

    def _tail(self) -> str:
        """Return the last lines that the process printed."""
        size = self._output.seek(0, os.SEEK_END)
        self._output.seek(max(0, size - _TAIL_BYTES))
        return self._output.read().decode(errors="replace").strip()


def _describe_exit(returncode: int | None) -> str:
    if returncode is None:
        return "the process stopped reporting before it was done"
    if returncode < 0:
        return f"killed by {signal.Signals(-returncode).name}"
    return f"the process ended by itself with exit code {returncode}"


def _visible_gpu(job: Job | TurnsJob) -> str:
    """Return the one GPU that the process of a job sees, the first of those given to us."""
    if job.device != "gpu":
        return ""
    return os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]


def _environment(job: Job | TurnsJob, tree: Tree) -> dict[str, str]:
    """Return the environment of the process: set before any framework is loaded."""
    return os.environ | {
        **dict.fromkeys(machine.THREAD_VARIABLES, str(job.threads)),
        "CUDA_VISIBLE_DEVICES": _visible_gpu(job),
        # Full float32 products and repeatable sums in every CUDA library.
        "NVIDIA_TF32_OVERRIDE": "0",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        # Memory is taken when needed, so that its peak means something.
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "PYTHONPATH": os.pathsep.join(tree.paths),
    }
