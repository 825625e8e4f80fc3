"""Tells a person how a run is going: live bars on a terminal, plain lines anywhere else."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from harness import jobs
from harness.jobs import Certificate, Event, Job, Notice, Refused, Started, TrialJob
from harness.noise import noise
from harness.record import Record

_LINES_PER_TRIAL = 4


def reporter(console: Console) -> Lines | Bars:
    """Return the reporter that suits the console."""
    return Bars(console) if console.is_terminal else Lines(console)


class Lines:
    """A line for everything that happens, four for a training."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._number = 0
        self._total = 0
        self._ended: set[str] = set()
        self._labels: dict[str, str] = {}

    def begin(self, trials: int, total: int) -> None:
        """Say how much there is to do."""
        self._number, self._total = total - trials, total
        if trials < total:
            self._say(f"{total - trials} of {total} trials are finished already")

    def grow(self, total: int) -> None:
        """Count up to more trials than at first."""
        self._total = total

    def event(self, event: Event) -> None:
        """Print what happened."""
        match event:
            case Started(job=TrialJob() as job):
                self._labels[job.trial] = job.label
            case jobs.Progress(job=job, point=point):
                every = job.task.epochs // _LINES_PER_TRIAL
                if every and point.epoch % every < job.task.epochs_per_point < job.task.epochs:
                    self._say(
                        f"{job.label}: epoch {point.epoch}/{job.task.epochs}, "
                        f"loss {point.train_loss:.3g}, mse {point.eval_mse:.3g}"
                    )
            case Certificate():
                self._say(describe_certificate(event))
            case Record(status="lost"):
                self._say(self._describe(event))
            case Record():
                # A trial that is repeated was counted when it first ended.
                self._number += event.trial not in self._ended
                self._ended.add(event.trial)
                self._say(f"[{self._number}/{self._total}] {self._describe(event)}")
            case Notice():
                self._say(event.message)

    def note(self, message: str) -> None:
        """Print a message."""
        self._say(message)

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def _describe(self, record: Record) -> str:
        return describe_record(record, self._labels.get(record.trial, record.trial))

    def _say(self, message: str) -> None:
        self._console.print(message, highlight=False, markup=False, soft_wrap=True)


class Bars(Lines):
    """A bar for all trials and one for each that is running; outcomes scroll by above them."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[news]}"),
            console=console,
            transient=True,
        )
        self._all: TaskID | None = None
        self._running: dict[Job, TaskID] = {}

    def begin(self, trials: int, total: int) -> None:
        """Show the bar of all trials."""
        super().begin(trials, total)
        self._all = self._bars.add_task("trials", total=total, completed=total - trials, news="")

    def grow(self, total: int) -> None:
        """Make the bar of all trials longer."""
        super().grow(total)
        if self._all is not None:
            self._bars.update(self._all, total=total)

    def event(self, event: Event) -> None:
        """Move the bars."""
        match event:
            case Started(job=job):
                super().event(event)
                epochs = job.task.epochs if isinstance(job, TrialJob) else None
                what = "starting" if epochs else "parity"
                if job not in self._running:  # Parity runs on every node.
                    self._running[job] = self._bars.add_task(job.label, total=epochs, news=what)
            case jobs.Progress(job=job, point=point):
                news = f"loss {point.train_loss:.3g}  mse {point.eval_mse:.3g}"
                self._bars.update(self._running[job], completed=point.epoch, news=news)
            case Certificate() | Record() | Refused():
                self._finish(event)
                super().event(event)
            case Notice():
                super().event(event)

    def __enter__(self) -> Bars:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def _finish(self, outcome: Certificate | Record | Refused) -> None:
        ended = [job for job in self._running if _belongs(job, outcome)]
        for job in ended:
            self._bars.remove_task(self._running.pop(job))
        if not isinstance(outcome, Record) or outcome.status == "lost" or self._all is None:
            return
        if outcome.trial not in self._ended:
            self._bars.advance(self._all)


def _belongs(job: Job, outcome: Certificate | Record | Refused) -> bool:
    if isinstance(outcome, Refused):
        return job == outcome.job
    if isinstance(job, TrialJob):
        return isinstance(outcome, Record) and job.trial == outcome.trial
    return (job.backend, job.device) == (outcome.backend, outcome.device)


def describe_certificate(certificate: Certificate) -> str:
    """Say in a line whether a backend passed parity, and what is wrong if it did not."""
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
    """Say in a line how a trial ended."""
    again = f", attempt {record.attempt}" if record.attempt > 1 else ""
    name = f"{label}{again}: {record.status}"
    failed = sum(share.status != "ok" for share in record.shares)
    if failed and record.status == "ok":
        name += f" but for {failed} that diverged"
    last = record.points[-1] if record.points else None
    figures = f", mse {last.eval_mse:.3g}, training {last.train_s:.2f} s" if last else ""
    error = f": {record.error}" if record.error else ""
    reasons = ", ".join(noise(record) or [])
    disturbed = f"; noisy: {reasons}" if reasons else ""
    return f"{name}{figures}, {record.wall_s:.1f} s in all{error}{disturbed}"
