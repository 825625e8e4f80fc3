"""Measures pairs in rounds until every backend is decided or the budget is spent.

A round measures one more pair (`harness.gate.paired`) of every undecided backend, in random order.
`harness.gate.sequential_test` says when a backend is decided.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from typing import TypeAlias

import numpy as np

from harness.backend.protocol import Array
from harness.gate.paired import Pair, Side, SideFailed, measure_pair, train_alone
from harness.gate.sequential_test import LOOKS, WAITING, SequentialTest
from harness.gate.settings import GateSettings
from harness.gate.verdict import Judgement, Verdict
from harness.measure import machine
from harness.measure.clock import now
from harness.runs.settings import Settings, Site
from harness.runs.start import certify
from harness.tables.numbers import exact_duration
from harness.task.task import Task
from harness.task.yardsticks import yardsticks
from harness.trial.arms import Arm
from harness.trial.jobs import TurnsJob

Say: TypeAlias = Callable[[str], None]
"""Shows a line of progress."""
Sides: TypeAlias = Callable[[Arm, int], tuple[Side, Side]]
"""Returns the two sides of an arm's pair, given arm and seed."""
EarlierStepMse: TypeAlias = Callable[[Arm, int, Pair], Sequence[float]]
"""Returns the error per time step of the earlier version, given arm, seed and pair."""

# The timeout of one process is the gate's budget, but at least this.
_SHORTEST_TIMEOUT_S = 120.0
# A guess, where no pair fitted into the budget.
_USUAL_PAIR_S = 10.0
# Load per core. Above it, something else probably runs on the core of the pairs.
_QUIET_LOAD = 0.5


@dataclass
class GateRun:
    """One run of the gate: what it compares, and what it has found so far."""

    task: Task
    settings: GateSettings
    say: Say

    def __post_init__(self) -> None:
        self.judgements: list[Judgement] = []
        self.left_out: list[Arm] = []
        """Arms that are not available here and were not asked for by name."""
        self.turn_sizes: dict[Arm, tuple[int, int]] = {}
        """The epochs per turn of either side."""
        self.notes: list[str] = []
        self.rng = random.Random()
        self._pair_s: dict[Arm, float] = {}
        """How long the last pair of each arm took."""
        self._started = now()
        load = machine.load()
        if load is not None and load > _QUIET_LOAD * len(machine.usable_cores()):
            self.note(f"The machine was busy when the gate began (load {load:.1f}).")

    @property
    def _timeout_s(self) -> float:
        return max(self.settings.budget_s, _SHORTEST_TIMEOUT_S)

    def note(self, *notes: str) -> None:
        """Add notes for the reader, each once."""
        self.notes += [note for note in notes if note not in self.notes]

    def find_regression(self, arm: Arm, metric: str, reason: str) -> None:
        """Judge that an arm no longer works."""
        self.judgements.append(
            Judgement(subject=f"{arm}", metric=metric, outcome="regression", reason=reason)
        )

    def arms(self) -> tuple[Arm, ...]:
        """Return the arms that are to be compared."""
        return self.settings.arms(machine.has_gpu())

    def certified_arms(self) -> list[Arm]:
        """Check every arm against the reference; return those that pass.

        An arm that fails is a regression and is not timed.
        """
        self.say("checking the backends against the reference")
        settings = Settings(
            backends=self.settings.backends,
            devices=self.settings.devices,
            timeout_s=self._timeout_s,
        )
        certificates = {c.arm: c for c in certify(self.task, settings, Site(dispatch="inline"))}
        self.left_out = [arm for arm in self.arms() if arm not in certificates]
        self.note(*(f"Left out, because it is not available here: {a}." for a in self.left_out))
        for arm, certificate in certificates.items():
            if not certificate.passed:
                self.find_regression(arm, "parity", certificate.reason.rstrip(".") + ".")
        return [arm for arm, certificate in certificates.items() if certificate.passed]

    def sequential_test(self, arm: Arm, baseline: Array | None = None) -> SequentialTest:
        """Return the test of an arm; `baseline` holds its log ratios to the yardstick."""
        without_lag = float(np.mean(yardsticks(self.task).without_lag))
        return SequentialTest(arm, self.settings, len(self.arms()), without_lag, baseline)

    def job(self, arm: Arm, seed: int) -> TurnsJob:
        """Return the job of one side of a pair."""
        return TurnsJob(
            task=self.task,
            backend=arm.backend,
            device=arm.device,
            threads=1,
            exclusive=True,
            seed=seed,
            timeout_s=self._timeout_s,
        )

    def measure_pair(self, arm: Arm, sides: tuple[Side, Side], finish: bool = True) -> Pair:
        """Measure a pair, with turns as long as in the first pair of the arm."""
        pair = measure_pair(*sides, self.rng, self.turn_sizes.get(arm, ()), finish)
        self.turn_sizes[arm] = (pair.first.epochs_per_turn, pair.second.epochs_per_turn)
        return pair

    def trains(self, side: Side) -> bool:
        """Try whether a side trains to the end."""
        try:
            train_alone(side, self.rng)
        except SideFailed:
            return False
        return True

    def measure_rounds(
        self, tests: Sequence[SequentialTest], sides: Sides, earlier: EarlierStepMse
    ) -> None:
        """Measure pairs until every test is decided or the budget is spent."""
        lasted_s = {test.arm: 0.0 for test in tests}
        going = list(tests)
        while going := [test for test in going if test.undecided]:
            for test in self.rng.sample(going, len(going)):
                start = now()
                if start - self._started + lasted_s[test.arm] > self.settings.budget_s:
                    # Another arm may have shorter pairs.
                    self.note(f"The budget of {self.settings.budget_s:g} s is spent.")
                    going.remove(test)
                    continue
                self._add_pair(test, sides, earlier)
                self._pair_s[test.arm] = now() - start
                # The first pair trains to the end, later ones only if numbers differ.
                longest = test.pairs == 1 and test.identical
                lasted_s[test.arm] = 0.0 if longest else self._pair_s[test.arm]
                self.say(test.progress())

    def verdict(self, compared: str, tests: Sequence[SequentialTest]) -> Verdict:
        """Return all judgements so far; those that are inconclusive say what to do."""
        judgements = [
            _advised(judgement, self._advice(test, tests))
            for test in tests
            for judgement in test.judgements()
        ]
        return Verdict(
            compared=compared,
            judgements=(*self.judgements, *judgements),
            notes=tuple(self.notes),
            seconds=now() - self._started,
        )

    def _advice(self, test: SequentialTest, tests: Sequence[SequentialTest]) -> str:
        """Return what to do if a test has not decided."""
        wanted = test.pairs_to_decide
        if wanted is None:
            return "measure on a quieter machine, or allow more: more pairs are not enough"
        few = wanted == LOOKS[0]
        why = f"only {test.pairs} of at least {wanted} pairs fitted into the budget" if few else ""
        longer = f"measure longer (`--budget {exact_duration(self._budget_for(tests))}`)"
        return f"{why}: {longer}" if few else f"{longer} or on a quieter machine, or allow more"

    def _budget_for(self, tests: Sequence[SequentialTest]) -> float:
        """Return a round budget, in seconds, in which all tests would probably decide."""
        more_s = sum(
            ((test.pairs_to_decide or test.pairs) - test.pairs)
            * self._pair_s.get(test.arm, _USUAL_PAIR_S)
            for test in tests
            if test.undecided
        )
        # Half as much again: pairs vary, and estimates do.
        needed_s = 1.5 * (now() - self._started + more_s)
        step = 30 if needed_s < 300 else 60
        return step * ceil(max(needed_s, self.settings.budget_s + 1) / step)

    def _add_pair(self, test: SequentialTest, sides: Sides, earlier: EarlierStepMse) -> None:
        """Measure one more pair for a test, or end the test if a side fails."""
        arm, seed = test.arm, test.pairs
        first, second = sides(arm, seed)
        try:
            # The first pair trains to the end, to see what only shows late.
            finish = seed == 0 or not test.identical
            pair = self.measure_pair(arm, (first, second), finish)
            test.add(pair, earlier(arm, seed, pair))
        except SideFailed as error:
            reason, later = f"{error}", error.side is second
            # A failure of both versions hits one of them first, by chance.
            if later and not self.trains(first):
                reason, later = f"{reason} {first.name} cannot train, either.", False
            elif later and self.trains(second):
                reason, later = f"{reason} Alone, it trains to the end.", False
            test.fail(reason, regression=later)


def _advised(judgement: Judgement, advice: str) -> Judgement:
    """Return an inconclusive judgement with the advice, if it has no reason of its own."""
    if judgement.outcome != "inconclusive" or judgement.metric in WAITING:
        return judgement
    reason = f"{judgement.reason.rstrip('.')}; {advice}" if judgement.reason else advice
    return judgement.model_copy(update={"reason": reason})
