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
from collections.abc import Iterator
from itertools import product
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

from harness.task.task import Task
from harness.trial.arms import Arm, Device
from harness.trial.jobs import ParityJob, TrialJob
from harness.trial.record import Isolation
from harness.trial.sweep import SweepPoint, Value, grid


class Block(NamedTuple):
    """The trials that are compared with each other: some seeds at one point of the sweep."""

    number: int
    point: SweepPoint
    seeds: tuple[int, ...]


def seeds_at_once(asked: int | Literal["all"] | None, seeds: int) -> int | None:
    """Return how many of `seeds` seeds are trained at once; None: one by one."""
    at_once = seeds if asked == "all" else min(asked or 1, seeds)
    return at_once if at_once > 1 else None


class Plan(BaseModel):
    """What a run consists of; everything else about its trials follows."""

    model_config = ConfigDict(frozen=True)

    run: str
    task: Task
    sweep: dict[str, tuple[Value, ...]] = {}
    """Task fields and the values that each takes."""
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    at_once: int | None = None
    """How many seeds the arms that can train at once; None: one by one."""
    many: tuple[Arm, ...] = ()
    """The arms that train seeds at once; known after parity."""
    threads: int = 1
    rounds: int = 20
    """How many turns each trial is timed for."""
    packed: bool = False
    timeout_s: float | None = None
    max_retries: int = 2
    """How often a block is repeated whose node or Ray worker went away."""
    precision: float | None = None
    """The wanted relative half-width of every time ratio's interval; None: the seeds are given."""
    budget_s: float | None = None
    """No block begins that is expected to end later than this after the start."""
    pilot: int | None = None
    """How many first blocks decided on the number of blocks; None: not decided yet."""
    budget_spent: bool = False
    """The budget ended the run before it reached the precision."""
    isolation: Isolation = "process"
    """Always `process`, but for runs of older versions."""

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

    @property
    def points(self) -> tuple[SweepPoint, ...]:
        """The points of the sweep."""
        return grid(self.task, self.sweep)

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
        # All points of the first seeds, then all points of the next: an interrupted sweep has
        # trials at each point.
        size = self.at_once if self.at_once and self.many else 1
        parts = [self.seeds[n : n + size] for n in range(0, len(self.seeds), size)]
        for number, (seeds, point) in enumerate(product(parts, self.points)):
            yield Block(number, point, seeds)

    def _trials(self, block: Block) -> Iterator[tuple[Arm, tuple[int, ...]]]:
        """Yield the arm and the seeds of each trial of a block."""
        # Random, so that no backend is always the one that warms or heats the machine, and the
        # same order again when the run is resumed.
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
            rounds=self.rounds,
            timeout_s=self.timeout_s,
        )


def _name(point: SweepPoint, arm: Arm, seeds: tuple[int, ...]) -> str:
    """Return the name of a trial, which can be a file name."""
    parts = [f"{name}{value}" for name, value in point.values.items()]
    parts.append(f"seed{seeds[0]}" if len(seeds) == 1 else f"seeds{seeds[0]}to{seeds[-1]}")
    return "-".join([*parts, _as_file_name(arm.backend), arm.device])


def _as_file_name(backend: str) -> str:
    """Return the name of a backend; of a command its end, and a hash that tells it from others."""
    name = backend.replace(":", ".")
    if re.fullmatch(r"[\w.+-]{1,100}", name):
        return name
    end = re.sub(r"[^\w+-]+", ".", name)[-60:].strip(".")
    return f"{end}.{hashlib.sha256(backend.encode()).hexdigest()[:8]}"
