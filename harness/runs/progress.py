"""Reports how a run is going, in plain lines."""

from __future__ import annotations

from typing import Self

from rich.console import Console

from harness.measure.clock import Clock, now
from harness.runs.tally import Tally
from harness.tables.numbers import duration
from harness.trial.epoch_time import train_s
from harness.trial.events import Certificate, Event, Notice, Progress, Started
from harness.trial.jobs import TrialJob
from harness.trial.noise import noise
from harness.trial.record import Record

_LINES_PER_TRIAL = 4


class Lines:
    """Prints a line for every event, and four for each training."""

    def __init__(self, console: Console, clock: Clock = now) -> None:
        self._console = console
        self._clock = clock
        self._tally = Tally()
        self._labels: dict[str, str] = {}

    def begin(self, trials: int, total: int) -> None:
        """Print how many trials have ended already."""
        self._tally.begin(trials, total)
        if trials < total:
            self._say(f"{total - trials} of {total} trials are finished already")

    def grow(self, total: int) -> None:
        """Set the number of trials that the pilot has decided."""
        self._tally.total = total

    def event(self, event: Event) -> None:
        """Print what happened."""
        self._tally.add(event, self._clock())
        if isinstance(event, Started):
            if isinstance(event.job, TrialJob):
                self._labels[event.job.trial] = event.job.label
        elif line := self._line(event):
            self._say(line)

    def note(self, message: str) -> None:
        """Print a message."""
        self._say(message)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def _line(self, event: Event) -> str:
        """Return the line for an event; empty if it gets none."""
        match event:
            case Progress(job=job, point=point):
                every = job.task.epochs // _LINES_PER_TRIAL
                if every and point.epoch % every < job.task.epochs_per_point < job.task.epochs:
                    return (
                        f"{job.label}: epoch {point.epoch}/{job.task.epochs}, "
                        f"loss {point.train_loss:.3g}, mse {point.eval_mse:.3g}"
                    )
            case Certificate():
                return describe_certificate(event)
            case Record():
                described = describe_record(event, self._labels.get(event.trial, event.trial))
                if event.status == "lost":
                    return described
                return f"[{self._tally.number}/{self._tally.total}] {described}{self._left()}"
            case Notice():
                return event.message
        return ""

    def _left(self) -> str:
        """Return the time left as text; empty as long as it is unknown."""
        left_s = self._tally.left_s(self._clock())
        if left_s is None or self._tally.number >= self._tally.total:
            return ""
        return f"; about {duration(left_s)} left" + " of the pilot" * self._tally.pilot

    def _say(self, message: str) -> None:
        self._console.print(message, highlight=False, markup=False, soft_wrap=True)


class Quiet(Lines):
    """Prints only what went wrong and what the user should know."""

    def begin(self, trials: int, total: int) -> None:
        """Say nothing."""
        self._tally.begin(trials, total)

    def _line(self, event: Event) -> str:
        match event:
            case Notice() | Certificate(passed=False):
                return super()._line(event)
            case Record(status="failed" | "timeout" | "lost"):
                return super()._line(event)
        return ""


def describe_certificate(certificate: Certificate) -> str:
    """Return a line: whether a backend passed parity, and if not, what is wrong."""
    arm = f"parity: {certificate.backend} on {certificate.device} ({certificate.node})"
    if not certificate.passed:
        return f"{arm} FAILED: {certificate.reason}"
    errors: dict[str, float] = {}
    for check in certificate.checks:
        errors[check.dtype] = max(check.error or 0, errors.get(check.dtype, 0))
    figures = [f"{dtype} to {error:.0e}" for dtype, error in errors.items()]
    figures += ["also many seeds at once"] * certificate.many
    return f"{arm} passed ({', '.join(figures)})"


def describe_record(record: Record, label: str) -> str:
    """Return a line: how a trial ended."""
    again = f", attempt {record.attempt}" if record.attempt > 1 else ""
    name = f"{label}{again}: {record.status}"
    failed = sum(share.status != "ok" for share in record.shares)
    if failed and record.status == "ok":
        name += f" but for {failed} that diverged"
    last = record.points[-1] if record.points else None
    figures = f", mse {last.eval_mse:.3g}" if last else ""
    if (seconds := train_s(record)) is not None:
        figures += f", training {seconds:.2f} s"
    error = f": {record.error}" if record.error else ""
    reasons = ", ".join(noise(record) or [])
    disturbed = f"; noisy: {reasons}" if reasons else ""
    return f"{name}{figures}, {record.wall_s:.1f} s in all{error}{disturbed}"
