"""The state of a run while it goes on: trials done, results so far, time left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import NamedTuple, TypeAlias

from harness.task.task import Task
from harness.trial.epoch_time import train_s
from harness.trial.events import Certificate, Event, Planned, Progress, Refused, Started
from harness.trial.jobs import Job, ParityJob, TrialJob
from harness.trial.record import CurvePoint, Record

Key: TypeAlias = tuple[Task, str, str]
"""Task, backend and device: trials with the same key should take equally long."""


class Figures(NamedTuple):
    """The results of a group of trials so far."""

    failed: int
    diverged: int
    train_s: float | None
    """Median over the trials that ended ok, per seed."""
    mse: float | None
    """Mean over the seeds that ended ok."""
    wall_s: float | None
    """Mean over the trials that ended ok; if there are none, over all that ended."""


@dataclass
class Running:
    """A trial that is being measured; times are those of the reporter's clock, in seconds."""

    job: TrialJob
    started: float
    points: list[CurvePoint] = field(default_factory=list)
    first: float = 0.0
    """When the first point came."""
    last: float = 0.0
    """When the last point came."""

    def add(self, point: CurvePoint, now: float) -> None:
        """Add a point of its curve."""
        self.first = self.first if self.points else now
        self.last = now
        self.points.append(point)

    def left_s(self, now: float, usual_s: float | None = None) -> float | None:
        """Return the time left, from its pace between points or from the usual time of a trial.

        None if neither is known.
        """
        if len(self.points) > 1 and self.points[-1].epoch > self.points[0].epoch:
            done, last = self.points[-1].epoch - self.points[0].epoch, self.points[-1].epoch
            to_go = (self.last - self.first) / done * (self.job.task.epochs - last)
            return max(0.0, to_go - (now - self.last))
        return None if usual_s is None else max(0.0, usual_s - (now - self.started))


@dataclass
class Group:
    """The trials of one backend on one device at one task."""

    backend: str
    device: str
    point: str = ""
    """The values of the swept fields: `hidden=64, cell=gru`."""
    many: bool = False
    """Whether seeds are trained at once."""
    names: set[str] = field(default_factory=set)
    """The names of all its trials, also of those that have not begun."""
    _ended: dict[str, tuple[str, float, float | None]] = field(default_factory=dict)
    _sums: dict[int, tuple[float, int]] = field(default_factory=dict)
    _mses: list[float] = field(default_factory=list)
    _figures: Figures | None = None

    @property
    def finished(self) -> int:
        """How many of its trials have ended, whatever their status."""
        return len(self._ended)

    @property
    def figures(self) -> Figures:
        """The results so far."""
        if self._figures is None:
            count = Counter(status for status, _, _ in self._ended.values())
            times = [train_s for _, _, train_s in self._ended.values() if train_s is not None]
            walls = [wall_s for status, wall_s, _ in self._ended.values() if status == "ok"]
            walls = walls or [wall_s for _, wall_s, _ in self._ended.values()]
            self._figures = Figures(
                failed=count["failed"] + count["timeout"],
                diverged=count["diverged"],
                train_s=median(times) if times else None,
                mse=fmean(self._mses) if self._mses else None,
                wall_s=fmean(walls) if walls else None,
            )
        return self._figures

    @property
    def curve(self) -> list[tuple[int, float]]:
        """Epochs, and the error at each: the mean over the seeds that ended ok."""
        return [(epoch, total / seeds) for epoch, (total, seeds) in sorted(self._sums.items())]

    def expect(self, job: TrialJob) -> None:
        """Add a trial that is planned."""
        self.names.add(job.trial)
        self.point = job.point.removesuffix(", ")
        self.many |= bool(job.seeds)

    def has_ended(self, trial: str) -> bool:
        """Whether a trial has ended; it may be running again."""
        return trial in self._ended

    def end(self, record: Record) -> None:
        """Add the record of a trial; it replaces an earlier one of the same trial."""
        if record.trial not in self._ended:
            # A repeated trial has the same curve.
            for seed in record.by_seed():
                if seed.status == "ok" and seed.points:
                    self._add_curve(seed.points)
        ok = record.status == "ok" and record.points
        all_s = train_s(record) if ok else None
        self.names.add(record.trial)
        self._ended[record.trial] = (
            record.status,
            record.wall_s,
            None if all_s is None else all_s / record.at_once,
        )
        self._figures = None

    def _add_curve(self, points: tuple[CurvePoint, ...]) -> None:
        self._mses.append(points[-1].eval_mse)
        for point in points:
            total, seeds = self._sums.get(point.epoch, (0.0, 0))
            self._sums[point.epoch] = (total + point.eval_mse, seeds + 1)


def _block(one: Running) -> object:
    """Return what the trials that are measured together have in common."""
    job = one.job
    return (job.block, job.device) if job.exclusive else job.trial


class Tally:
    """Counts the events of a run; each comes with its time on the clock."""

    def __init__(self) -> None:
        self.total = 0
        self.began = 0.0
        """When the trials were planned."""
        self.pilot = False
        """Whether more trials will come than are planned so far."""
        self.running: dict[str, Running] = {}
        """The trials that run, by name, in the order in which they began."""
        self.checks: dict[ParityJob, float] = {}
        """The parity checks that run, and when each began."""
        self.task: Task | None = None
        """The task of the trial that began last."""
        self.groups: dict[Key, Group] = {}
        self.curves = 0
        """Grows whenever a curve changes."""
        self._before = 0
        self._ended: set[str] = set()
        self._most_at_once = 0
        self._deadline: float | None = None

    @property
    def number(self) -> int:
        """How many trials have ended, each counted once."""
        return self._before + len(self._ended)

    def begin(self, trials: int, total: int) -> None:
        """`trials` of the `total` are about to run; the others have ended already."""
        self._before, self.total = total - trials, total

    def add(self, event: Event, now: float) -> None:
        """Count an event."""
        match event:
            case Planned():
                self._plan(event, now)
            case Started(job=TrialJob() as job):
                self.running[job.trial] = Running(job, now)
                self.task = job.task
                self._group(job).expect(job)
                self._most_at_once = max(
                    self._most_at_once, len(set(map(_block, self.running.values())))
                )
                self.curves += 1
            case Started(job=ParityJob() as job):
                self.checks.setdefault(job, now)  # It runs on every node.
            case Progress(job=job, point=point):
                if job.trial in self.running:
                    self.running[job.trial].add(point, now)
                    self.curves += 1
            case Record():
                self.running.pop(event.trial, None)
                # A lost trial runs again.
                if event.status != "lost":
                    self._ended.add(event.trial)
                    self._group(event).end(event)
                self.curves += 1
            case Certificate() | Refused():
                self._drop(event)

    def of_task(self) -> Iterator[Group]:
        """Yield the groups of the task whose trial began last; without a sweep there is one."""
        task = self.task or next((task for task, _, _ in self.groups), None)
        return (group for (of, _, _), group in self.groups.items() if of == task)

    def left_s(self, now: float) -> float | None:
        """Return how long the planned trials will take.

        Assumes that a trial takes as long as the others of its group, that the trials of a block
        take turns, and that as many blocks run at once as the most so far. None while a group has
        trials to come and none has shown how long it takes.
        """
        if sum(len(group.names) for group in self.groups.values()) < self.total:
            return None
        lefts = {name: self.running_left_s(one, now) for name, one in self.running.items()}
        known = [left for left in lefts.values() if left is not None]
        begun = Counter(
            self._key(one.job)
            for name, one in self.running.items()
            if not self._group(one.job).has_ended(name)
        )
        blocks: dict[object, float] = {}
        for name, one in self.running.items():
            blocks[_block(one)] = max(blocks.get(_block(one), 0.0), lefts[name] or 0.0)
        work = sum(blocks.values())
        for key, group in self.groups.items():
            waiting = len(group.names) - group.finished - begun[key]
            if waiting:
                usual_s = self._usual_s(key, now)
                if usual_s is None:
                    return None
                work += waiting * usual_s
        if len(known) < len(lefts):
            return None
        left = max([work / max(1, self._most_at_once), *known])
        return left if self._deadline is None else min(left, max(0.0, self._deadline - now))

    def running_left_s(self, one: Running, now: float) -> float | None:
        """Return the time that a running trial has left; None if it is unknown."""
        return one.left_s(now, self._group(one.job).figures.wall_s)

    def _usual_s(self, key: Key, now: float) -> float | None:
        """Return how long a trial of a group takes, from those that ended or else that run."""
        if (wall_s := self.groups[key].figures.wall_s) is not None:
            return wall_s
        running = [one for one in self.running.values() if self._key(one.job) == key]
        projected = [
            now - one.started + left for one in running if (left := one.left_s(now)) is not None
        ]
        return fmean(projected) if projected else None

    def _plan(self, planned: Planned, now: float) -> None:
        for record in planned.ended:
            # After a pilot the run is planned again; the trials of the pilot are known.
            if not self._group(record).has_ended(record.trial):
                self._group(record).end(record)
        for job in planned.jobs:
            self._group(job).expect(job)
        self.began = self.began or now
        self.pilot = planned.pilot
        if planned.budget_s is not None:
            self._deadline = now + planned.budget_s
        self.curves += 1

    def _drop(self, outcome: Certificate | Refused) -> None:
        if isinstance(outcome, Refused):
            self._forget(outcome.job)
            return
        arm = (outcome.backend, outcome.device)
        for job in [job for job in self.checks if (job.backend, job.device) == arm]:
            self._forget(job)

    def _forget(self, job: Job) -> None:
        if isinstance(job, TrialJob):
            self.running.pop(job.trial, None)
        else:
            self.checks.pop(job, None)

    def _group(self, of: TrialJob | Record) -> Group:
        key = self._key(of)
        if key not in self.groups:
            self.groups[key] = Group(of.backend, of.device)
        return self.groups[key]

    def _key(self, of: TrialJob | Record) -> Key:
        return of.task, of.backend, of.device
