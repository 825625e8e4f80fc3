"""A paired measurement: two versions train in turns on one core, so disturbances hit both.

A pair is two fresh processes that train a few milliseconds at a time, in random order. Each turn of
one is compared with the same turn of the other, so whatever changes more slowly than that
(frequency, temperature, neighbours) cancels out. What does not cancel out is how fast a process
happens to be from its start to its end, some 0.7 % either way, for instance by where its memory
lies. Only more pairs average that out. So a pair gives one value, and the pairs are the sample.
The same holds for accuracy: each pair has a seed of its own.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from math import ceil, isfinite, log
from statistics import median
from typing import Any, NoReturn

from scipy.stats import trim_mean

from harness.errors import HarnessError
from harness.measure import machine
from harness.measure.process import Tree, Worker
from harness.trial.jobs import TurnsJob

# Long against what a call costs, short against what disturbs it.
TURN_S = 0.003
# The number of turns. There are fewer if either side would train for more than `TRAIN_S` seconds,
# or for more epochs than the task has.
TURNS = 200
TRAIN_S = 1.5
_FEWEST_TURNS = 20
# The share of the turns that is left out at either end, since a neighbour's bursts hit single
# turns. A slowdown of more than one turn in twenty is still seen.
_TRIM = 0.05
_PADDING = 4096


class SideFailed(HarnessError):
    """One side of a pair could not train."""

    def __init__(self, side: Side, reason: str) -> None:
        super().__init__(f"{side.name}: {reason}.")
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
    first: SideResult
    second: SideResult
    finished: bool
    """Whether both trained to the end of the task; else they only took their turns."""

    @property
    def same_numbers(self) -> bool:
        """Whether losses and errors of both sides are equal to the bit."""
        first, second = self.first, self.second
        return (first.losses, first.step_mse) == (second.losses, second.step_mse)


def measure_pair(
    first: Side,
    second: Side,
    rng: random.Random,
    epochs_per_turn: Sequence[int] = (),
    finish: bool = True,
) -> Pair:
    """Let two sides train in turns, then to the end of the task. Raises `SideFailed`.

    `epochs_per_turn` are those of an earlier pair of the same arm; without them, they are found by
    trying. Without `finish`, both stop after their turns if their losses were the same.
    """
    with ExitStack() as stack:
        # Both start at once, on all cores: nothing is timed yet.
        started = {
            side.name: stack.enter_context(_SideProcess(side, rng))
            for side in rng.sample((first, second), 2)
        }
        both = (started[first.name], started[second.name])
        for process in both:
            process.wait_until_ready()
        for process in both:
            process.pin(machine.usable_cores()[-first.job.threads :])
        for process, size in zip(both, epochs_per_turn or _turn_sizes(both), strict=True):
            process.turn_epochs = size
            process.train(size)  # Compiles, and is thrown away.
            process.restart()
        _take_turns(both, rng)
        scored = [process for process in both if process.side.scored]
        finish = finish or both[0].losses != both[1].losses
        if finish:
            _train_to_the_end(scored)
        for process in scored:
            process.evaluate()
        ratios = [log(b / a) for a, b in zip(both[0].epoch_s, both[1].epoch_s, strict=True)]
        return Pair(
            log_ratio=float(trim_mean(ratios, _TRIM)),
            first=both[0].result(),
            second=both[1].result(),
            finished=finish,
        )


def train_alone(side: Side, rng: random.Random) -> None:
    """Train one side to the end of the task, untimed. Raises `SideFailed` if it cannot."""
    with _SideProcess(side, rng) as process:
        process.wait_until_ready()
        _train_to_the_end([process])
        process.evaluate()


def _turn_sizes(both: Sequence[_SideProcess]) -> tuple[int, int]:
    """Return the epochs in a turn of each side; the same for both if the backend is the same."""
    fastest = []
    for process in both:
        process.train(1)
        fastest.append(min(process.train(1)["wall_s"] for _ in range(5)))
    if both[0].side.job.backend == both[1].side.job.backend:
        fastest = [min(fastest)] * 2
    longest = max(1, both[0].side.job.task.epochs // _FEWEST_TURNS)
    return min(longest, ceil(TURN_S / fastest[0])), min(longest, ceil(TURN_S / fastest[1]))


def _take_turns(both: Sequence[_SideProcess], rng: random.Random) -> None:
    for turn in range(TURNS):
        long_enough = any(
            process.epoch + process.turn_epochs > process.side.job.task.epochs
            or sum(process.epoch_s) * process.turn_epochs > TRAIN_S
            for process in both
        )
        if turn >= _FEWEST_TURNS and long_enough:
            return
        for process in rng.sample(both, 2):
            process.take_turn()


def _train_to_the_end(processes: Sequence[_SideProcess]) -> None:
    """Train to the end of the task, all at once: nothing is timed any more."""
    task = processes[0].side.job.task
    for process in processes:
        process.pin(machine.usable_cores())
        if process.epoch > task.epochs:
            process.restart()
            process.losses.clear()
    while busy := [process for process in processes if process.epoch < task.epochs]:
        for process in busy:
            process.begin(min(task.chunk_epochs(), task.epochs - process.epoch))
        for process in busy:
            process.losses += process.end()["losses"]


class _SideProcess(Worker):
    """The process of a side; every method raises `SideFailed` if the process does."""

    def __init__(self, side: Side, rng: random.Random) -> None:
        # The size of the environment shifts the stack, and with it the speed (Mytkowicz et al.,
        # 2009). A random size makes that part of the noise, not a bias towards one side.
        padding = "x" * rng.randrange(_PADDING)
        super().__init__(side.job, tree=side.tree, HARNESS_PADDING=padding)
        self.side = side
        self.turn_epochs = 0
        self.epoch = 0
        self.epoch_s: list[float] = []
        """Seconds per epoch in each turn."""
        self.losses: list[float] = []
        self._begun = 0
        self._step_mse: list[float] = []
        self._about: dict[str, Any] = {}
        self._messages = self.messages()

    def wait_until_ready(self) -> None:
        """Wait until the process can train."""
        self._about = self._next("ready")
        if "task" not in self._about:
            self._fail("it is from before the gate")

    def train(self, epochs: int) -> dict[str, Any]:
        """Train; return `wall_s` and `losses`."""
        self.begin(epochs)
        return self.end()

    def begin(self, epochs: int) -> None:
        """Let the process begin to train."""
        self._begun = epochs
        self.say(f"{epochs}")

    def end(self) -> dict[str, Any]:
        """Wait until the process has trained; return `wall_s` and `losses`."""
        turn: dict[str, Any] = self._next("turn")
        self.epoch += self._begun
        if not all(map(isfinite, turn["losses"])):
            self._fail(f"a loss is not finite by epoch {self.epoch}")
        return turn

    def take_turn(self) -> None:
        """Train for a turn, on the clock."""
        turn = self.train(self.turn_epochs)
        self.epoch_s.append(turn["wall_s"] / self.turn_epochs)
        self.losses += turn["losses"]

    def restart(self) -> None:
        """Go back to the initial parameters."""
        self.say("restart")
        self._next("restarted")
        self.epoch = 0

    def evaluate(self) -> None:
        """Predict the held-out paths."""
        self.say("evaluate")
        self._step_mse = self._next("evaluated")["step_mse"]
        if not all(map(isfinite, self._step_mse)):
            self._fail(f"a prediction is not finite after epoch {self.epoch}")

    def result(self) -> SideResult:
        """Return how it trained."""
        return SideResult(
            epoch_s=median(self.epoch_s),
            losses=tuple(self.losses),
            step_mse=tuple(self._step_mse),
            epochs=self.epoch,
            epochs_per_turn=self.turn_epochs,
            task=self._about["task"],
            sources=self._about["sources"],
            versions=self._about["versions"],
        )

    def _fail(self, reason: str) -> NoReturn:
        raise SideFailed(self.side, reason)

    def _next(self, wanted: str) -> Any:
        """Return the next message of that kind."""
        phase = "starting"
        for kind, value in self._messages:
            match kind:
                case "phase":
                    phase = value
                case "refused":
                    self._fail(value.rstrip("."))
                case "failed":
                    self._fail(f"{value[0].rstrip('.')} ({phase})")
                case "timeout":
                    self._fail(f"still running after {self.side.job.timeout_s:g} s")
                case "exit":
                    last = (value[1].splitlines() or [""])[-1]
                    self._fail(f"{value[0]} ({phase}) {last}".strip().rstrip("."))
            if kind == wanted:
                return value
        raise AssertionError("the messages end with one of the above")
