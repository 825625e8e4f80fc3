"""Rounds of duels between two versions of every backend, until all is decided or time is up.

One fresh pair of processes after another (`harness.gate.paired`), every undecided backend once a
round, in random order; `harness.gate.sequential_test` says when a backend is decided.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from harness.backend.protocol import Array
from harness.gate.paired import Duel, Side, SideFailed, fight, train_alone
from harness.gate.sequential_test import Contest
from harness.gate.settings import GateSettings
from harness.gate.verdict import Finding, Verdict
from harness.measure import machine
from harness.measure.clock import now
from harness.measure.launch import Tree
from harness.runs.session import Settings, Site, certify
from harness.task.task import Task
from harness.task.yardsticks import yardsticks
from harness.trial.arms import Arm
from harness.trial.jobs import TurnsJob

Say: TypeAlias = Callable[[str], None]
"""Told how far it is."""
Sides: TypeAlias = Callable[[Arm, int], tuple[Side, Side]]
"""The sides of an arm's duel with a seed."""
Before: TypeAlias = Callable[[Arm, int, Duel], Sequence[float]]
"""The error per time step of the earlier version, for an arm's duel with a seed."""

# Whoever hangs, hangs the gate no longer than it may last, or this if that is longer.
_SHORTEST_TIMEOUT_S = 120.0
# In cores: from there on, somebody else is at work on the core of the duels, more often than not.
_QUIET_LOAD = 0.5


@dataclass
class Tournament:
    """The arms that are compared, those that pass parity, their duels, and what was found."""

    task: Task
    settings: GateSettings
    say: Say

    def __post_init__(self) -> None:
        self.findings: list[Finding] = []
        self.left_out: list[Arm] = []
        """Arms that are not available here, where nobody asked for them by name."""
        self.sizes: dict[Arm, tuple[int, int]] = {}
        """The epochs per turn of either side."""
        self.notes: list[str] = []
        self._started = now()
        self._rng = random.Random()
        load = machine.load()
        if load is not None and load > _QUIET_LOAD * len(machine.usable_cores()):
            self.note(f"The machine was busy when the gate began (load {load:.1f}).")

    @property
    def _timeout_s(self) -> float:
        return max(self.settings.budget_s, _SHORTEST_TIMEOUT_S)

    def note(self, *notes: str) -> None:
        """Tell the reader something."""
        self.notes += [note for note in notes if note not in self.notes]

    def find(self, arm: Arm, metric: str, reason: str) -> None:
        """Find that an arm does not work any more."""
        self.findings.append(
            Finding(subject=f"{arm}", metric=metric, outcome="regression", reason=reason)
        )

    def arms(self) -> tuple[Arm, ...]:
        """Return what is to be compared."""
        return self.settings.arms(machine.has_gpu())

    def certified_arms(self) -> list[Arm]:
        """Hold every arm against the reference; one that fails is a finding, and is not timed."""
        self.say("holding the backends against the reference")
        settings = Settings(
            backends=self.settings.backends,
            devices=self.settings.devices,
            timeout_s=self._timeout_s,
        )
        certificates = {
            Arm.model_validate(c.model_dump(include={"backend", "device"})): c
            for c in certify(self.task, settings, Site(dispatch="inline"))
        }
        self.left_out = [arm for arm in self.arms() if arm not in certificates]
        self.note(*(f"Left out, because it is not available here: {a}." for a in self.left_out))
        for arm, certificate in certificates.items():
            if not certificate.passed:
                self.find(arm, "parity", certificate.reason.rstrip(".") + ".")
        return [arm for arm, certificate in certificates.items() if certificate.passed]

    def contest(self, arm: Arm, earlier: Array | None = None) -> Contest:
        """Open the contest of an arm."""
        memoryless = float(np.mean(yardsticks(self.task).memoryless))
        return Contest(arm, self.settings, len(self.arms()), memoryless, earlier)

    def job(self, arm: Arm, seed: int) -> TurnsJob:
        """Return what one side of a duel does."""
        return TurnsJob(
            task=self.task,
            backend=arm.backend,
            device=arm.device,
            threads=1,
            exclusive=True,
            seed=seed,
            timeout_s=self._timeout_s,
        )

    def against_yardstick(self, name: str, arm: Arm, seed: int) -> tuple[Side, Side]:
        """Return the sides of a duel with the yardstick."""
        here, yardstick = Tree.here(), Arm(backend=name, device="cpu")
        return (
            Side(f"the yardstick {yardstick}", self.job(yardstick, seed), here, scored=False),
            Side(f"{arm}", self.job(arm, seed), here, second=True),
        )

    def shuffled(self, arms: Sequence[Arm]) -> list[Arm]:
        """Return the arms in random order."""
        return self._rng.sample(arms, len(arms))

    def duel(self, arm: Arm, sides: tuple[Side, Side], finish: bool = True) -> Duel:
        """Fight a duel, with turns as long as in the first one of the arm."""
        duel = fight(*sides, self._rng, self.sizes.get(arm, ()), finish)
        self.sizes[arm] = (duel.first.epochs_per_turn, duel.second.epochs_per_turn)
        return duel

    def trains(self, side: Side) -> bool:
        """Say whether a side trains to the end."""
        try:
            train_alone(side, self._rng)
        except SideFailed:
            return False
        return True

    def measure(
        self,
        contests: Sequence[Contest],
        sides: Sides,
        before: Before,
    ) -> None:
        """Fight duels until all is decided or the budget is spent."""
        of_arm = {contest.arm: contest for contest in contests}
        lasted_s = dict.fromkeys(of_arm, 0.0)
        while undecided := [arm for arm, contest in of_arm.items() if contest.open]:
            for arm in self.shuffled(undecided):
                contest, begun = of_arm[arm], now()
                if begun - self._started + lasted_s[arm] > self.settings.budget_s:
                    self.note(f"The budget of {self.settings.budget_s:g} s is spent.")
                    return
                self._fight(contest, sides, before)
                # The first duel trains to the end, the others only where numbers differ.
                whole = contest.pairs == 1 and contest.identical
                lasted_s[arm] = 0.0 if whole else now() - begun
                self.say(contest.progress())

    def _fight(
        self,
        contest: Contest,
        sides: Sides,
        before: Before,
    ) -> None:
        arm, seed = contest.arm, contest.pairs
        both = sides(arm, seed)
        try:
            # A whole training once, to see what only shows late; afterwards where it matters.
            duel = self.duel(arm, both, finish=not seed or not contest.identical)
            contest.add(duel, before(arm, seed, duel))
        except SideFailed as error:
            reason = f"{error}"
            if error.second and not self.trains(both[0]):
                # What befalls both sides befell one of them first, by chance.
                reason += f" {both[0].name} cannot train, either."
            elif error.second and self.trains(both[1]):
                reason += " Alone, it trains to the end."
            contest.fail(reason, regression=error.second and reason == f"{error}")

    def verdict(self, compared: str, contests: Sequence[Contest]) -> Verdict:
        """Return all that was found."""
        found = [finding for contest in contests for finding in contest.findings()]
        return Verdict(
            compared=compared,
            findings=(*self.findings, *found),
            notes=tuple(self.notes),
            seconds=now() - self._started,
        )
