"""Turns the messages of a job's process into the job's outcome."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeAlias

from harness.measure.clock import now, timestamp
from harness.trial.events import Certificate, Check, Refused
from harness.trial.jobs import Job, TrialJob
from harness.trial.record import Chunk, CurvePoint, Record, Share

Outcome: TypeAlias = Record | Certificate | Refused


@dataclass
class Messages:
    """What the process of a job has reported so far."""

    job: Job
    node: str = ""
    cores: tuple[int, ...] | None = None
    phase: str = "starting"
    fields: dict[str, Any] = field(default_factory=dict)
    """Fields of the record."""
    chunks: list[Chunk] = field(default_factory=list)
    points: list[CurvePoint] = field(default_factory=list)
    shares: list[Share] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    refused: str = ""
    done: bool = False
    started_utc: str = field(default_factory=timestamp)
    _start_s: float = field(default_factory=now)

    def add(self, kind: str, value: Any) -> None:
        """Add a message of `harness.measure.process.Worker`."""
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
                self._fail("failed", *value)
            case "timeout":
                self._fail("timeout", f"still running after {self.job.timeout_s:g} s", value)
            case "exit" if not self.done:
                self._fail("failed", *value)

    def lost(self, node: str, reason: str) -> Outcome:
        """Return the outcome of a job whose node or Ray worker went away."""
        self.node = node
        self.phase = "training" if self.points else "starting"
        self._fail("lost", reason)
        return self.outcome()

    def outcome(self) -> Outcome:
        """Return the record, the certificate or the refusal."""
        job = self.job
        if isinstance(job, TrialJob):
            if self.refused:
                self._fail("failed", self.refused)
            return self._record(job)
        if self.refused:
            return Refused(job=job, message=self.refused, node=self.node)
        return Certificate(
            backend=job.backend,
            device=job.device,
            node=self.node,
            checks=tuple(self.checks),
            versions=self.fields.get("versions", {}),
            error=self.fields.get("error"),
            fault=self.fields.get("fault", ""),
        )

    def _fail(self, status: str, error: str, details: str = "") -> None:
        after = f" after epoch {self.points[-1].epoch}" if self.points else ""
        self.fields |= {
            "status": status,
            "error": f"{error} ({self.phase}{after})",
            "details": details or None,
        }

    def _record(self, job: TrialJob) -> Record:
        shared = Record.model_fields.keys() & TrialJob.model_fields.keys()
        values = {name: getattr(job, name) for name in shared} | {
            "node": self.node,
            "started_utc": self.started_utc,
            "wall_s": now() - self._start_s,
            "cores": self.cores,
            "contended": not job.exclusive,
            "chunks": tuple(self.chunks),
            "points": tuple(self.points),
            "shares": tuple(self.shares),
        }
        return Record(**values | self.fields)
