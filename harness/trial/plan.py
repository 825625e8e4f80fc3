"""The plan of a run: which trials there are, in which blocks, in which order.

A block is one seed at one point of the sweep: every backend on every device, with the same data and
initial parameters, on the same node, in random order. Ratios are formed only inside blocks. If
seeds are trained at once, a block has several seeds, and a backend that trains one seed at a time
has a trial for each.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from itertools import cycle, product
from typing import Any, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from harness.errors import InvalidInput
from harness.inputs.bounded_json import Several
from harness.task.task import Task
from harness.trial.arms import Arm, Device
from harness.trial.jobs import ParityJob, TrialJob
from harness.trial.limits import (
    LONGEST_FILE,
    MOST_ARMS,
    MOST_AT_ONCE,
    MOST_TRIALS,
    refuse_unstorable,
)
from harness.trial.record import Count, Isolation, Name, Natural
from harness.trial.sweep import (
    SweepPoint,
    Value,
    count_points,
    every_point,
    shown_count,
    swept_values,
    text_of,
)


class Block(NamedTuple):
    """The trials that are compared with each other: some seeds at one point of the sweep."""

    number: int
    values: Mapping[str, Value]
    """Of the swept fields."""
    seeds: tuple[int, ...]


def seeds_at_once(asked: int | Literal["all"] | None, seeds: int) -> int | None:
    """Return how many of `seeds` seeds are trained at once; None: one by one."""
    at_once = seeds if asked == "all" else min(asked or 1, seeds)
    return at_once if at_once > 1 else None


class Plan(BaseModel):
    """What a run consists of; everything else about its trials follows.

    Raises `InvalidInput` if it has too many trials, which are never made to count them, or if its
    records would be too large.
    """

    model_config = ConfigDict(frozen=True)

    run: Name
    task: Task
    sweep: dict[str, Several[Value]] = {}
    """Task fields and the values that each takes."""
    arms: Several[Arm] = Field(max_length=MOST_ARMS)
    seeds: Several[Natural] = Field(max_length=MOST_TRIALS)
    at_once: int | None = Field(None, ge=1, le=MOST_AT_ONCE)
    """How many seeds the arms that can train at once; None: one by one."""
    many: Several[Arm] = Field((), max_length=MOST_ARMS)
    """The arms that train seeds at once; known after parity."""
    threads: Count = 1
    rounds: Count = 20
    """How many turns each trial is timed for."""
    packed: bool = False
    profile: bool = False
    """Whether profilers look at the trials of the first block at each point of the sweep."""
    timeout_s: float | None = None
    max_retries: Natural = 2
    """How often a block is repeated whose node or Ray worker went away."""
    precision: float | None = None
    """The wanted relative half-width of every time ratio's interval; None: the seeds are given."""
    budget_s: float | None = None
    """No block begins that is expected to end later than this after the start."""
    pilot: Natural | None = None
    """How many first blocks decided on the number of blocks; None: not decided yet."""
    budget_spent: bool = False
    """The budget ended the run before it reached the precision."""
    isolation: Isolation = "process"
    """Always `process`, but for runs of older versions."""

    @field_validator("sweep")
    @classmethod
    def _of_task_fields(cls, value: dict[str, tuple[Value, ...]]) -> dict[str, tuple[Value, ...]]:
        return swept_values(value)

    @field_validator("arms", "seeds")
    @classmethod
    def _distinct(cls, value: tuple[object, ...]) -> tuple[object, ...]:
        if len(set(value)) < len(value):
            raise ValueError("name none of them twice")
        return value

    @model_validator(mode="after")
    def _has_a_size(self) -> Self:
        if self.size > MOST_TRIALS:
            points, seeds, arms = count_points(self.sweep), len(self.seeds), len(self.arms)
            swept = f"{points:,} points of the sweep, " if self.sweep else ""
            raise InvalidInput(
                f"the run would have {shown_count(self.size)} trials ({swept}{seeds:,} seeds, "
                f"{arms:,} backends on devices); at most {MOST_TRIALS:,} are possible."
            )
        if (length := self._longest_name) > LONGEST_FILE:
            raise InvalidInput(
                f"a trial would have a name of {length} bytes, and a file takes {LONGEST_FILE}: "
                "sweep over fewer fields, or give the backend a shorter name."
            )
        self._refuse_unstorable()
        return self

    def refuse_unstorable(self) -> None:
        """Raise `InvalidInput` if its records may be too large to be read.

        A plan of an older version, whose records say less, may be read all the same.
        """
        self._refuse_unstorable(self._largest("lag"))

    def _refuse_unstorable(self, lag: int = 0) -> None:
        refuse_unstorable(
            self._largest("n_steps"),
            min(self._largest("curve_points"), self._largest("epochs")),
            self.rounds,
            min(self.at_once or 1, len(self.seeds)),
            lag,
        )

    @property
    def _longest_name(self) -> int:
        """The bytes of the longest name of a trial, at most."""
        longest = {name: max(map(str, vs), key=len) for name, vs in self.sweep.items()}
        ends = (len(name.encode()) for name in self.arm_names.values())
        seeds = f"seeds{max(self.seeds, default=0)}to{max(self.seeds, default=0)}"
        return len(trial_name(longest, (), "")) + len(seeds) + max(ends, default=0)

    def _largest(self, name: str) -> int:
        """Return the largest value of a field of the task, a whole number."""
        values: Any = self.sweep.get(name) or (getattr(self.task, name),)
        return int(max(values))

    @property
    def settled(self) -> bool:
        """Whether no more seeds will be added."""
        return self.precision is None or self.pilot is not None

    @property
    def backends(self) -> tuple[str, ...]:
        """The backends, each once."""
        return tuple(dict.fromkeys(arm.backend for arm in self.arms))

    @property
    def devices(self) -> tuple[Device, ...]:
        """The devices, each once."""
        return tuple(dict.fromkeys(arm.device for arm in self.arms))

    @cached_property
    def points(self) -> tuple[SweepPoint, ...]:
        """The points of the sweep; `grid` says whether the values of each go together."""
        copy = self.task.model_copy
        return tuple(SweepPoint(v, copy(update=v) if v else self.task) for v in self._values)

    @property
    def tasks(self) -> frozenset[Task]:
        """The tasks of all points."""
        return frozenset(point.task for point in self.points)

    def parity_job(self, arm: Arm) -> ParityJob:
        """Return the job that compares an arm with the reference, on each network of the sweep."""
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
        names = self.arm_names
        for block, point in zip(self._blocks(), cycle(self.points)):
            yield [
                self._job(block, point.task, arm, seeds, names[arm])
                for arm, seeds in self.in_order(block)
            ]

    def trials(self) -> Iterator[str]:
        """Yield the names of all trials in the order in which they run.

        Where the order does not matter, `names` takes a tenth of the time.
        """
        names = self.arm_names
        for block in self._blocks():
            for arm, seeds in self.in_order(block):
                yield trial_name(block.values, seeds, names[arm])

    @property
    def names(self) -> set[str]:
        """The names of all trials."""
        found = set()
        points = [trial_name(values, (), "") for values in self._values]
        for arm, arm_name in self.arm_names.items():
            parts = self.parts if arm in self.many else [(seed,) for seed in self.seeds]
            ends = [trial_name({}, seeds, arm_name) for seeds in parts]
            found |= {point + end for point in points for end in ends}
        return found

    @property
    def size(self) -> int:
        """How many trials there are."""
        seeds = len(self.seeds)
        parts = -(-seeds // self._at_once)
        many = sum(arm in self.many for arm in self.arms)
        return count_points(self.sweep) * (many * parts + (len(self.arms) - many) * seeds)

    def without(self, arm: Arm) -> Plan:
        """Return the plan less an arm."""
        return self.model_copy(update={"arms": tuple(a for a in self.arms if a != arm)})

    @property
    def parts(self) -> list[tuple[int, ...]]:
        """The seeds of each block."""
        return [self.seeds[n : n + self._at_once] for n in range(0, len(self.seeds), self._at_once)]

    @property
    def arm_names(self) -> dict[Arm, str]:
        """What the names of an arm's trials end with."""
        return {arm: f"-{_as_file_name(arm.backend)}-{arm.device}" for arm in self.arms}

    def in_order(self, block: Block) -> Iterator[tuple[Arm, tuple[int, ...]]]:
        """Yield the arm and the seeds of each trial of a block."""
        # Random, so that no backend is always the one that warms or heats the machine, and the
        # same order again when the run is resumed.
        key = " ".join(filter(None, (self.run, str(block.seeds[0]), text_of(block.values))))
        for arm in random.Random(key).sample(self.arms, len(self.arms)):
            if arm in self.many:
                yield arm, block.seeds
            else:
                yield from ((arm, (seed,)) for seed in block.seeds)

    @property
    def _values(self) -> Iterator[dict[str, Value]]:
        """The values of the swept fields at each point."""
        return every_point(self.sweep)

    @property
    def _at_once(self) -> int:
        """How many seeds a block has, but for the last ones."""
        return self.at_once if self.at_once and self.many else 1

    def _blocks(self) -> Iterator[Block]:
        # All points of the first seeds, then all points of the next: an interrupted sweep has
        # trials at each point.
        for number, (seeds, values) in enumerate(product(self.parts, self._values)):
            yield Block(number, values, seeds)

    def _job(
        self, block: Block, task: Task, arm: Arm, seeds: tuple[int, ...], arm_name: str
    ) -> TrialJob:
        point = text_of(block.values)
        return TrialJob(
            run=self.run,
            trial=trial_name(block.values, seeds, arm_name),
            block=block.number,
            seed=seeds[0],
            seeds=seeds if len(seeds) > 1 else (),
            point=f"{point}, " if point else "",
            task=task,
            backend=arm.backend,
            device=arm.device,
            threads=self.threads,
            exclusive=not self.packed,
            rounds=self.rounds,
            profiled=self.profile
            and block.number < count_points(self.sweep)
            and seeds[0] == block.seeds[0],
            timeout_s=self.timeout_s,
        )


def trial_name(values: Mapping[str, Value], seeds: tuple[int, ...], arm: str) -> str:
    """Return the name of a trial, which can be a file name; without `seeds`, its beginning."""
    point = "".join(f"{name}{value}-" for name, value in values.items())
    if not seeds:
        return point
    if len(seeds) == 1:
        return f"{point}seed{seeds[0]}{arm}"
    return f"{point}seeds{seeds[0]}to{seeds[-1]}{arm}"


def _as_file_name(backend: str) -> str:
    """Return the name of a backend; of a command its end, and a hash that tells it from others."""
    name = backend.replace(":", ".")
    if re.fullmatch(r"[\w.+-]+", name) and len(name.encode()) <= 100:
        return name
    end = re.sub(r"[^\w+-]+", ".", name)[-60:].strip(".")
    return f"{end}.{hashlib.sha256(backend.encode()).hexdigest()[:8]}"
