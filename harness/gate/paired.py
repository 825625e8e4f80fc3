"""A paired measurement: a block of two versions, which train in turns on one core.

A pair is two fresh processes. Each turn of one is compared with the turn of the other in the same
round, so whatever changes more slowly than that (frequency, temperature, neighbours) cancels out,
and the time that a process waited for the core does not count. What does not cancel out is how fast
a process happens to be from its start to its end, some 0.7 % either way, for instance by where its
memory lies. Only more pairs average that out. So a pair gives one value, and the pairs are the
sample. The same holds for accuracy: each pair has a seed of its own.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from math import ceil, isfinite, log
from statistics import median
from typing import Any

import numpy as np
from scipy.stats import trim_mean

from harness.errors import HarnessError, Unavailable
from harness.measure import machine
from harness.measure.process import JobFailed, Tree
from harness.measure.trainer import Trainer, Turn, at_once
from harness.trial.jobs import TurnsJob
from harness.trial.trajectory import (
    NUDGES,
    Difference,
    Training,
    Values,
    difference,
    unexplained,
)

# Two versions of a backend pay alike for what the other has left in the caches, so turns can be
# short: on a busy machine, a pair of 20 ms turns has twice the noise.
TURN_S = 0.003
# The number of rounds. There are fewer if either side would train for more than `TRAIN_S` seconds,
# or for more epochs than the task has.
ROUNDS = 200
TRAIN_S = 1.5
_FEWEST_ROUNDS = 20
# The share of the turns that is left out at either end, since a neighbour's bursts hit single
# turns. What this hides is judged by the totals (`harness.gate.sequential_test`).
_TRIM = 0.05
_PADDING = 4096
# How many units in the last place a loss may be off because its sums are in another order.
_ROUNDINGS = 16


class SideFailed(HarnessError):
    """One side of a pair could not train."""

    def __init__(self, side: Side, reason: str) -> None:
        super().__init__(f"{side.name}: {reason.rstrip('.')}.")
        self.side = side


@dataclass(frozen=True)
class Side:
    """What trains, in which version of the code."""

    name: str
    """For a sentence: `torch on cpu in the working tree`."""
    job: TurnsJob
    tree: Tree
    scored: bool = True
    """Whether it is evaluated, or only timed."""


@dataclass(frozen=True)
class SideResult:
    """How one side of a pair trained."""

    epoch_s: float
    """The median time of an epoch."""
    losses: tuple[float, ...]
    """One per epoch."""
    step_mse: tuple[float, ...]
    """The error on the held-out paths at t = 1..T, after the last epoch."""
    epochs: int
    """The number of optimiser steps."""
    epochs_per_turn: int
    task: Mapping[str, Any]
    """The task, with the defaults of this version of the code."""
    sources: Mapping[str, str]
    """The file of each module that was not installed."""
    versions: Mapping[str, str]
    """The versions of the packages that were loaded."""


@dataclass(frozen=True)
class Pair:
    """The result of one paired measurement."""

    log_ratio: float
    """The logarithm of the second side's time per epoch over the first's: the mean over the turns,
    without the extremes."""
    log_ratio_of_totals: float
    """The same of the sums over all turns, the extremes included."""
    first: SideResult
    second: SideResult
    finished: bool
    """Whether both trained to the end of the task; else they only took their turns."""
    apart: Difference | None = None
    """Where they first differ by more than rounding explains, if they do; of two versions only."""

    @property
    def same_numbers(self) -> bool:
        """Whether losses and errors of both sides are equal to the bit."""
        first, second = self.first, self.second
        return (first.losses, first.step_mse) == (second.losses, second.step_mse)

    @property
    def differs_by_rounding(self) -> bool:
        """Whether the first losses that differ do so by no more than sums in another order.

        Such differences grow, and some seeds end far apart by chance.
        """
        count = min(len(self.first.losses), len(self.second.losses))
        first, second = (np.array(side.losses[:count]) for side in (self.first, self.second))
        unlike = np.flatnonzero(first != second)
        precision = np.finfo(str(self.second.task.get("dtype", "float32"))).eps
        apart = abs(first[unlike[:1]] - second[unlike[:1]])
        return bool((apart <= _ROUNDINGS * precision * abs(first[unlike[:1]])).all())


def measure_pair(
    first: Side,
    second: Side,
    rng: random.Random,
    epochs_per_turn: Sequence[int] = (),
    finish: bool = True,
) -> Pair:
    """Let two sides train in turns, then to the end of the task.

    `epochs_per_turn` are those of an earlier pair of the same arm; without them, they are found by
    trying. Without `finish`, both stop after their turns if their losses were the same. Raises
    `SideFailed`, or `Unavailable` if the clock is too coarse.
    """
    stop = threading.Event()
    with ExitStack() as stack:
        # Whatever one does before the other is in random order, or it would favour one version.
        started = {
            side.name: stack.enter_context(_SideProcess(side, rng, stop))
            for side in rng.sample((first, second), 2)
        }
        both = (started[first.name], started[second.name])
        # Both start at once, on all cores: nothing is timed yet.
        at_once([process.prepare for process in started.values()], 2, stop)
        cores = machine.usable_cores()[-first.job.threads :]
        for process in started.values():
            process.pin(cores)
        sizes = epochs_per_turn or _turn_sizes(both, rng)
        for process, size in rng.sample(tuple(zip(both, sizes, strict=True)), 2):
            process.turn_epochs = size
            process.train(size)  # Compiles, and is thrown away.
            process.restart()
        with machine.off_cores(cores):
            _take_turns(both, rng)
        scored = [process for process in both if process.side.scored]
        finish = finish or both[0].losses != both[1].losses
        at_once([process.complete for process in scored if finish], 2, stop)
        for process in scored:
            process.score()
        times = _times(both)
        ratios = [log(b / a) for a, b in zip(*times, strict=True)]
        one, other = (process.result() for process in both)
        return Pair(
            log_ratio=float(trim_mean(ratios, _TRIM)),
            log_ratio_of_totals=log(sum(times[1]) / sum(times[0])),
            first=one,
            second=other,
            finished=finish,
            apart=_apart(scored, stop) if finish else None,
        )


def _times(both: Sequence[_SideProcess]) -> list[list[float]]:
    """Return the seconds per epoch of each turn of both. Raises `Unavailable` as above."""
    times = [process.epoch_s(waits=all(p.knows_waits for p in both)) for process in both]
    if min(map(min, times)) <= 0:
        raise Unavailable("a turn took no time: the clock of this machine is too coarse.")
    return times


def _apart(both: Sequence[_SideProcess], stop: threading.Event) -> Difference | None:
    """Return where two versions first differ by more than nudges explain; None: nowhere.

    A version and a yardstick are not compared.
    """
    if len(both) < 2:
        return None
    able = [process for process in both if process.knows_nudges]
    for number in range(1, NUDGES + 1):
        if not (able and unexplained([process.training for process in both])):
            break
        at_once([partial(process.train_nudged, number) for process in able], len(able), stop)
    return difference(*(process.training for process in both))


def train_alone(side: Side, rng: random.Random) -> None:
    """Train one side to the end of the task, untimed. Raises `SideFailed` if it cannot."""
    with _SideProcess(side, rng, threading.Event()) as process:
        process.prepare()
        process.complete()
        process.score()


def _turn_sizes(both: Sequence[_SideProcess], rng: random.Random) -> list[int]:
    """Return the epochs in a turn of each side; the same for both if the backend is the same."""
    fastest = {}
    for process in rng.sample(both, 2):
        process.train(1)
        fastest[process] = min(process.train(1).wall_s for _ in range(5))
    longest = max(1, both[0].side.job.task.epochs // _FEWEST_ROUNDS)
    alike = both[0].side.job.backend == both[1].side.job.backend
    return [
        min(longest, ceil(TURN_S / (min(fastest.values()) if alike else fastest[process])))
        for process in both
    ]


def _take_turns(both: Sequence[_SideProcess], rng: random.Random) -> None:
    for turn in range(ROUNDS):
        long_enough = any(
            process.epoch + process.turn_epochs > process.side.job.task.epochs
            or sum(turn.wall_s for turn in process.turns) > TRAIN_S
            for process in both
        )
        if turn >= _FEWEST_ROUNDS and long_enough:
            return
        for process in rng.sample(both, 2):
            process.take_turn()


class _SideProcess(Trainer):
    """The process of a side; every method raises `SideFailed` if the process does."""

    def __init__(self, side: Side, rng: random.Random, stop: threading.Event) -> None:
        # The size of the environment shifts the stack, and with it the speed (Mytkowicz et al.,
        # 2009). A random size makes that part of the noise, not a bias towards one side.
        padding = "x" * rng.randrange(_PADDING)
        super().__init__(side.job, tree=side.tree, stop=stop, HARNESS_PADDING=padding)
        self.side = side
        self.turn_epochs = 0
        self.epoch = 0
        self.turns: list[Turn] = []
        self.losses: list[float] = []
        """Of the training that counts, one per epoch."""
        self._nudged: list[list[float]] = []
        """The same of each nudged training."""
        self._step_mse: list[float] = []
        self._about: dict[str, Any] = {}

    @property
    def knows_waits(self) -> bool:
        """Whether every turn says how long it waited for the core."""
        return all(turn.chunk.get("waited_s") is not None for turn in self.turns)

    def epoch_s(self, waits: bool) -> list[float]:
        """Return the seconds per epoch of each turn; without the waiting, if `waits` are known."""
        return [
            (turn.wall_s - (turn.chunk["waited_s"] if waits else 0.0)) / self.turn_epochs
            for turn in self.turns
        ]

    def prepare(self) -> None:
        """Wait until the process can train."""
        self._about = self.ready()
        if "task" not in self._about:
            raise SideFailed(self.side, "it is from before the gate")

    def train(self, epochs: int) -> Turn:
        """Train; fail if a loss is not finite."""
        turn = super().train(epochs)
        self.epoch += epochs
        if not np.isfinite(turn.losses_ER).all():
            raise SideFailed(self.side, f"a loss is not finite by epoch {self.epoch}")
        return turn

    def take_turn(self) -> None:
        """Train for a turn, on the clock."""
        turn = self.train(self.turn_epochs)
        self.turns.append(turn)
        self.losses += turn.losses_ER[:, 0].tolist()

    def restart(self, nudge: int = 0) -> None:
        """Go back to the initial parameters."""
        super().restart(nudge)
        self.epoch = 0

    def complete(self) -> None:
        """Train to the end of the task on all cores, off the clock."""
        task = self.side.job.task
        self.pin(machine.usable_cores())
        if self.epoch > task.epochs:
            self.restart()
            self.losses.clear()
        while self.epoch < task.epochs:
            turn = self.train(min(task.chunk_epochs(), task.epochs - self.epoch))
            self.losses += turn.losses_ER[:, 0].tolist()

    @property
    def knows_nudges(self) -> bool:
        """Whether this version can be nudged."""
        return "nudges" in self._about

    @property
    def training(self) -> Training:
        """The mean losses between the points of the curve, also of the nudged trainings."""
        size = self.side.job.task.epochs_per_point

        def at_points(losses: Sequence[float]) -> Values:
            ends = range(size, len(losses) + 1, size)
            return {end: (float(np.mean(losses[end - size : end])),) for end in ends}

        return Training(at_points(self.losses), {}, [at_points(losses) for losses in self._nudged])

    def train_nudged(self, number: int) -> None:
        """Train to the end of the task once more, nudged, off the clock."""
        task, losses = self.side.job.task, list[float]()
        self.restart(number)
        while self.epoch < task.epochs:
            turn = self.train(min(task.chunk_epochs(), task.epochs - self.epoch))
            losses += turn.losses_ER[:, 0].tolist()
        self._nudged.append(losses)

    def score(self) -> None:
        """Predict the held-out paths."""
        self._step_mse = self.evaluate().step_mse_RT[0].tolist()
        if not all(map(isfinite, self._step_mse)):
            raise SideFailed(self.side, f"a prediction is not finite after epoch {self.epoch}")

    def result(self) -> SideResult:
        """Return how it trained."""
        return SideResult(
            epoch_s=median(self.epoch_s(self.knows_waits)),
            losses=tuple(self.losses),
            step_mse=tuple(self._step_mse),
            epochs=self.epoch,
            epochs_per_turn=self.turn_epochs,
            task=self._about["task"],
            sources=self._about.get("sources", {}),
            versions=self._about.get("versions", {}),
        )

    def _answer(self, wanted: str) -> Any:
        try:
            return super()._answer(wanted)
        except JobFailed as error:
            raise SideFailed(self.side, error.during(self.phase)) from error
