"""Two trainings that take turns on one core, so that whatever disturbs the one disturbs the other.

A duel starts two fresh processes, lets each train a few milliseconds at a time, in random order,
and compares turn with turn: what changes slower than that (frequency, temperature, neighbours)
cancels out. What is left is how fast a process happens to be from its start to its end (where its
memory lies, for one), some 0.7 % either way, and only more duels average that. So a duel gives
one number, and duels are the sample. The same holds for accuracy: a duel has a seed of its own.
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
from harness.measure.launch import Tree, Worker
from harness.trial.jobs import TurnsJob

# Long against what a call costs, short against what disturbs it.
TURN_S = 0.003
# So many turns, or fewer if they would train for longer than this on either side, or for more
# epochs than the task has.
TURNS = 200
TRAIN_S = 1.5
_FEWEST_TURNS = 20
# Of the turns, the share that is left out at either end: a neighbour's bursts hit single turns.
# What slows more than one turn in twenty down is seen.
_TRIM = 0.05
_PADDING = 4096


class SideFailed(HarnessError):
    """One side of a duel could not train; `second` says which."""

    def __init__(self, message: str, second: bool) -> None:
        super().__init__(message)
        self.second = second


@dataclass(frozen=True)
class Side:
    """What trains, and in which version of the code."""

    name: str
    """As in a sentence: `torch on cpu in the working tree`."""
    job: TurnsJob
    tree: Tree
    second: bool = False
    scored: bool = True
    """Whether it is evaluated, or only timed."""


@dataclass(frozen=True)
class Outcome:
    """What one side of a duel did."""

    epoch_s: float
    """The median time of an epoch."""
    losses: tuple[float, ...]
    """One per epoch."""
    step_mse: tuple[float, ...]
    """The error on the held-out paths at t = 1..T, in the end."""
    epochs: int
    """The optimiser steps taken by then."""
    epochs_per_turn: int
    task: Mapping[str, Any]
    """What it trained on, with the defaults of its version of the code."""
    sources: Mapping[str, str]
    """The file of each module that was not installed."""
    versions: Mapping[str, str]
    """Of the packages it had loaded."""


@dataclass(frozen=True)
class Duel:
    """The outcome of one duel."""

    log_ratio: float
    """Of the second side's time per epoch over the first's: the mean over turns, the extremes
    left out."""
    first: Outcome
    second: Outcome
    finished: bool
    """Whether both trained to the end of the task, and not only as long as turns were taken."""

    @property
    def same_numbers(self) -> bool:
        """Whether both sides had the same losses and the same errors, to the bit."""
        return (self.first.losses, self.first.step_mse) == (
            self.second.losses,
            self.second.step_mse,
        )


def fight(
    first: Side,
    second: Side,
    rng: random.Random,
    epochs_per_turn: Sequence[int] = (),
    finish: bool = True,
) -> Duel:
    """Let two sides train in turns, then to the end of the task. Raises `SideFailed` if one cannot.

    Without `epochs_per_turn`, those of an earlier duel like it, they are chosen by trying. Without
    `finish`, the rest is saved if the numbers of both are the same as long as turns are taken.
    """
    with ExitStack() as stack:
        sides = (first, second)
        started = {}
        for i in rng.sample((0, 1), 2):
            # Both start at once, on all cores: nothing is timed yet.
            started[i] = stack.enter_context(_Contestant(sides[i], rng))
        both = (started[0], started[1])
        for contestant in both:
            contestant.ready()
        for contestant in both:
            contestant.pin(machine.usable_cores()[-first.job.threads :])
        for contestant, size in zip(both, epochs_per_turn or _turn_sizes(both), strict=True):
            contestant.size = size
            contestant.train(size)  # Compiles, and is thrown away.
            contestant.restart()
        _take_turns(both, rng)
        scored = [contestant for contestant in both if contestant.side.scored]
        finish = finish or both[0].losses != both[1].losses
        if finish:
            _finish(scored)
        for contestant in scored:
            contestant.evaluate()
        ratios = [log(b / a) for a, b in zip(both[0].seconds, both[1].seconds, strict=True)]
        return Duel(
            log_ratio=float(trim_mean(ratios, _TRIM)),
            first=both[0].outcome(),
            second=both[1].outcome(),
            finished=finish,
        )


def train_alone(side: Side, rng: random.Random) -> None:
    """Let one side train to the end, off the clock. Raises `SideFailed` if it cannot."""
    with _Contestant(side, rng) as contestant:
        contestant.ready()
        _finish([contestant])
        contestant.evaluate()


def _turn_sizes(both: Sequence[_Contestant]) -> tuple[int, int]:
    """Return how many epochs make a turn; the same for both if they are the same backend."""
    fastest = []
    for contestant in both:
        contestant.train(1)
        fastest.append(min(contestant.train(1)["wall_s"] for _ in range(5)))
    if both[0].side.job.backend == both[1].side.job.backend:
        fastest = [min(fastest)] * 2
    longest = max(1, both[0].side.job.task.epochs // _FEWEST_TURNS)
    return min(longest, ceil(TURN_S / fastest[0])), min(longest, ceil(TURN_S / fastest[1]))


def _take_turns(both: Sequence[_Contestant], rng: random.Random) -> None:
    for turn in range(TURNS):
        long_enough = any(
            contestant.epoch + contestant.size > contestant.side.job.task.epochs
            or sum(contestant.seconds) * contestant.size > TRAIN_S
            for contestant in both
        )
        if turn >= _FEWEST_TURNS and long_enough:
            return
        for i in rng.sample((0, 1), 2):
            both[i].take_turn()


def _finish(contestants: Sequence[_Contestant]) -> None:
    """Train on to the end of the task, all at once: nothing is timed any more."""
    task = contestants[0].side.job.task
    for contestant in contestants:
        contestant.pin(machine.usable_cores())
        if contestant.epoch > task.epochs:
            contestant.restart()
            contestant.losses.clear()
    while any(contestant.epoch < task.epochs for contestant in contestants):
        for contestant in contestants:
            contestant.begin(min(task.chunk_epochs(), task.epochs - contestant.epoch))
        for contestant in contestants:
            contestant.losses += contestant.end().get("losses", [])


class _Contestant(Worker):
    """The process of a side."""

    def __init__(self, side: Side, rng: random.Random) -> None:
        # The size of the environment shifts the stack, and with it the speed (Mytkowicz et al.,
        # 2009): made random, it is part of the noise rather than a bias towards one side.
        padding = "x" * rng.randrange(_PADDING)
        super().__init__(side.job, tree=side.tree, HARNESS_PADDING=padding)
        self.side = side
        self.size = 0
        self.epoch = 0
        self.seconds: list[float] = []
        """Per epoch, of each turn."""
        self.losses: list[float] = []
        self._step_mse: list[float] = []
        self._about: dict[str, Any] = {}
        self._messages = self.messages()

    def ready(self) -> None:
        """Wait until it can train."""
        self._about = self._next("ready")
        if "task" not in self._about:
            self._fail("it is from before the gate")

    def train(self, epochs: int) -> dict[str, Any]:
        """Let it train; return what that took, and its losses."""
        self.begin(epochs)
        return self.end()

    def begin(self, epochs: int) -> None:
        """Let it begin to train; 0 epochs are none."""
        self._asked = epochs
        if epochs:
            self.say(f"{epochs}")

    def end(self) -> dict[str, Any]:
        """Wait until it has trained what it was told to."""
        if not self._asked:
            return {}
        turn: dict[str, Any] = self._next("turn")
        self.epoch += self._asked
        if not all(map(isfinite, turn["losses"])):
            self._fail(f"a loss is not finite by epoch {self.epoch}")
        return turn

    def take_turn(self) -> None:
        """Let it train for a turn, on the clock."""
        turn = self.train(self.size)
        self.seconds.append(turn["wall_s"] / self.size)
        self.losses += turn["losses"]

    def restart(self) -> None:
        """Let it start anew from its initial parameters."""
        self.say("restart")
        self._next("restarted")
        self.epoch = 0

    def evaluate(self) -> None:
        """Let it predict the held-out paths."""
        self.say("evaluate")
        self._step_mse = self._next("evaluated")["step_mse"]
        if not all(map(isfinite, self._step_mse)):
            self._fail(f"a prediction is not finite after epoch {self.epoch}")

    def outcome(self) -> Outcome:
        """Return what it did."""
        return Outcome(
            epoch_s=median(self.seconds),
            losses=tuple(self.losses),
            step_mse=tuple(self._step_mse),
            epochs=self.epoch,
            epochs_per_turn=self.size,
            task=self._about["task"],
            sources=self._about["sources"],
            versions=self._about["versions"],
        )

    def _fail(self, reason: str) -> NoReturn:
        raise SideFailed(f"{self.side.name}: {reason}.", self.side.second)

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
