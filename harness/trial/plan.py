"""The plan of a run: which trials there are, in which blocks, in which order.

A block is one seed of one task: every backend on every device, with the same data and initial
parameters, on the same node, one after the other in random order. Ratios are formed inside blocks
only. Where seeds are trained at once, a block is as many seeds as are, and a backend that trains
them one by one has as many trials in it. A sweep is a grid over fields of the task; each of its
points has blocks of its own.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Literal, NamedTuple, TypeAlias

from pydantic import BaseModel, ConfigDict

from harness.errors import InvalidInput, UnknownName
from harness.task.task import Task
from harness.trial.jobs import ParityJob, TrialJob
from harness.trial.record import Isolation

Device: TypeAlias = Literal["cpu", "gpu"]
Value: TypeAlias = int | float | str
"""Of a field of a task."""


class Arm(BaseModel):
    """A backend on a device: one of the things compared."""

    model_config = ConfigDict(frozen=True)

    backend: str
    device: Device

    def __str__(self) -> str:
        return f"{self.backend} on {self.device}"


class Point(NamedTuple):
    """A point of a sweep; without a sweep there is one, without any values."""

    values: Mapping[str, Value]
    task: Task

    def __str__(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self.values.items())


class Block(NamedTuple):
    """What is compared with each other: the trials of some seeds at one point."""

    number: int
    point: Point
    seeds: tuple[int, ...]


def grid(task: Task, sweep: Mapping[str, Sequence[object]]) -> tuple[Point, ...]:
    """Return the points of a sweep over fields of a task, the last field changing fastest.

    Raises `InvalidInput` with a sentence for each field that there is not and each value that is
    not allowed.
    """
    problems: dict[str, None] = {}
    for name, values in sweep.items():
        if name not in Task.model_fields:
            problems[str(UnknownName("task field", name, Task.model_fields, " (`sweep`)"))] = None
        if not values or len({str(value) for value in values}) < len(values):
            problems[f"`sweep` {name}: name at least one value, and none of them twice."] = None
    points = []
    for values in [] if problems else product(*sweep.values()):
        changes = dict(zip(sweep, values, strict=True))
        try:
            changed = task.changed(**changes)
        except InvalidInput as error:
            problems |= dict.fromkeys(error.problems)
        else:
            # As the task has read them: the command line sends text.
            points.append(Point({name: getattr(changed, name) for name in sweep}, changed))
    if not problems and len({point.task for point in points}) < len(points):
        problems["`sweep`: two of the values are the same number; name each once."] = None
    if problems:
        raise InvalidInput(*problems)
    return tuple(points)


def swept_values(task: Task, sweep: Mapping[str, Sequence[object]]) -> dict[str, tuple[Value, ...]]:
    """Return the values of each swept field as the task has read them. Raises as `grid` does."""
    points = grid(task, sweep)
    return {name: tuple(dict.fromkeys(point.values[name] for point in points)) for name in sweep}


def seeds_at_once(asked: int | Literal["all"] | None, seeds: int) -> int | None:
    """Return how many of so many seeds are trained at once, if any are."""
    at_once = seeds if asked == "all" else min(asked or 1, seeds)
    return at_once if at_once > 1 else None


class Plan(BaseModel):
    """What a run consists of; everything else about its trials follows."""

    model_config = ConfigDict(frozen=True)

    run: str
    task: Task
    sweep: dict[str, tuple[Value, ...]] = {}
    """Fields of the task and the values that each takes, in turn with those of the others."""
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    at_once: int | None = None
    """How many seeds are to be trained at once, by the arms that can; None: all come one by one."""
    many: tuple[Arm, ...] = ()
    """The arms that train seeds at once; known when they have passed parity."""
    threads: int = 1
    packed: bool = False
    timeout_s: float | None = None
    retry_noisy: int = 0
    isolation: Isolation = "process"
    max_retries: int = 2
    """How often a block is repeated whose node, or Ray worker, went away."""
    precision: float | None = None
    """To within which share every time ratio is to be known; None: the seeds are as given."""
    budget_s: float | None = None
    """No block begins that would end later than this after the start, as far as is known."""
    pilot: int | None = None
    """How many of the first blocks decided how many there are; None as long as they have not."""
    budget_spent: bool = False
    """The budget ended the run before the precision was reached for."""

    @property
    def settled(self) -> bool:
        """Whether the seeds are all there will be."""
        return self.precision is None or self.pilot is not None

    @property
    def backends(self) -> tuple[str, ...]:
        """The backends, each once."""
        return tuple(dict.fromkeys(arm.backend for arm in self.arms))

    @property
    def devices(self) -> tuple[Device, ...]:
        """The devices, each once."""
        return tuple(dict.fromkeys(arm.device for arm in self.arms))

    @property
    def points(self) -> tuple[Point, ...]:
        """The points of the sweep."""
        return grid(self.task, self.sweep)

    @property
    def tasks(self) -> frozenset[Task]:
        """The tasks of all points."""
        return frozenset(point.task for point in self.points)

    def parity_job(self, arm: Arm) -> ParityJob:
        """Return the job that holds an arm against the reference, with each network there is."""
        first, *others = {point.task.model: point.task for point in self.points}.values()
        return ParityJob(
            task=first,
            others=tuple(others),
            at_once=self.at_once or 1,
            backend=arm.backend,
            device=arm.device,
            threads=self.threads,
            exclusive=False,
            timeout_s=self.timeout_s,
        )

    def blocks(self) -> Iterator[list[TrialJob]]:
        """Yield the trials of each block in the order in which they run."""
        for block in self._blocks():
            yield [self._job(block, arm, seeds) for arm, seeds in self._trials(block)]

    def trials(self) -> Iterator[str]:
        """Yield the names of all trials in the order in which they run."""
        for block in self._blocks():
            yield from (_name(block.point, arm, seeds) for arm, seeds in self._trials(block))

    @property
    def size(self) -> int:
        """How many trials there are."""
        return sum(1 for _ in self.trials())

    def without(self, arm: Arm) -> Plan:
        """Return the plan less an arm."""
        return self.model_copy(update={"arms": tuple(a for a in self.arms if a != arm)})

    def _blocks(self) -> Iterator[Block]:
        # All points of the first seeds, then all of the next: a sweep that is interrupted has
        # something of each.
        size = self.at_once if self.at_once and self.many else 1
        groups = [self.seeds[n : n + size] for n in range(0, len(self.seeds), size)]
        for number, (seeds, point) in enumerate(product(groups, self.points)):
            yield Block(number, point, seeds)

    def _trials(self, block: Block) -> Iterator[tuple[Arm, tuple[int, ...]]]:
        """Yield the arm and the seeds of each trial of a block."""
        # Random, so that no backend is always the one that warms or heats the machine, and the
        # same again when the run is resumed.
        key = " ".join(filter(None, (self.run, str(block.seeds[0]), str(block.point))))
        for arm in random.Random(key).sample(self.arms, len(self.arms)):
            if arm in self.many and len(block.seeds) > 1:
                yield arm, block.seeds
            else:
                yield from ((arm, (seed,)) for seed in block.seeds)

    def _job(self, block: Block, arm: Arm, seeds: tuple[int, ...]) -> TrialJob:
        return TrialJob(
            run=self.run,
            trial=_name(block.point, arm, seeds),
            block=block.number,
            seed=seeds[0],
            seeds=seeds if len(seeds) > 1 else (),
            point=f"{block.point}, " if block.point.values else "",
            task=block.point.task,
            backend=arm.backend,
            device=arm.device,
            threads=self.threads,
            exclusive=not self.packed,
            timeout_s=self.timeout_s,
            retry_noisy=self.retry_noisy,
            isolation=self.isolation,
        )


def _name(point: Point, arm: Arm, seeds: tuple[int, ...]) -> str:
    """Return the name of a trial, fit to be a file name."""
    of = [f"{name}{value}" for name, value in point.values.items()]
    of.append(f"seed{seeds[0]}" if len(seeds) == 1 else f"seeds{seeds[0]}to{seeds[-1]}")
    return "-".join([*of, re.sub(r"[:/\\]", ".", arm.backend), arm.device])
