"""The evidence on one backend: duel after duel, and what it amounts to at each look.

The gate looks at the pairs so far after 4, 6, 9, ... of them and stops as soon as it knows. Looking
several times, at several backends, in several respects, multiplies the chance of a false alarm; so
each look gets its share of what is allowed (Bonferroni), and the interval it reports holds at all
looks together.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import expm1, isnan, log1p

import numpy as np

from harness.backend.protocol import Array
from harness.gate.paired import Duel
from harness.gate.settings import GateSettings
from harness.gate.verdict import Finding, Outcome, decide, finding
from harness.stats.estimates import CONFIDENCE, Estimate, difference, holm, mean
from harness.trial.arms import Arm

LOOKS = (4, 6, 9, 13, 19, 28)
"""After how many pairs the gate looks whether it knows enough."""
ACCURACY_LOOKS = LOOKS[1:]
"""Fewer seeds say too little about how a training ends."""
# How the false alarms allowed are shared out: as a rule, identical code learns identically to the
# bit, so accuracy needs few of them.
_TIME_SHARE = 0.8
_ACCURACY = ("final_mse", "mse per step", "lag_skill")
_SMALLEST_MSE = 1e-300


class Contest:
    """One backend on one device, a version against an earlier one.

    `earlier` holds the log ratios of time of the earlier version if they were measured before (a
    baseline); without, each duel compares the versions itself.
    """

    def __init__(
        self,
        arm: Arm,
        settings: GateSettings,
        contests: int,
        memoryless: float,
        earlier: Array | None = None,
    ) -> None:
        self.arm = arm
        self._settings = settings.for_backend(arm.backend)
        self._contests = contests
        self._memoryless = memoryless
        self._earlier = earlier
        self._log_ratios: list[float] = []
        self._step_mse: list[tuple[Array, Array]] = []
        self._epochs: list[int] = []
        self.identical = True
        """Whether all duels so far had the same numbers on both sides."""
        self._found: dict[str, Finding] = {}
        self._failure: Finding | None = None

    @property
    def pairs(self) -> int:
        """How many duels there were."""
        return len(self._log_ratios)

    @property
    def open(self) -> bool:
        """Whether more duels would tell more; one regression is enough."""
        if self._failure or self.pairs == LOOKS[-1]:
            return False
        outcomes = {found.outcome for found in self.findings()}
        return "inconclusive" in outcomes and "regression" not in outcomes

    def add(self, duel: Duel, before: Sequence[float]) -> None:
        """Take the outcome of a duel, and the error per time step of the earlier version.

        The latter is empty if that is not known for the seed of the duel.
        """
        self._log_ratios.append(duel.log_ratio)
        self._epochs.append(duel.second.epochs)
        if before and duel.finished:
            self._step_mse.append((np.asarray(before), np.asarray(duel.second.step_mse)))
        self.identical = self.identical and duel.same_numbers
        if self.pairs not in LOOKS:
            return
        for found in self._look():
            early = found.metric in _ACCURACY and self.pairs not in ACCURACY_LOOKS
            if found.outcome != "inconclusive" and not early:
                self._found.setdefault(found.metric, found)

    def fail(self, reason: str, regression: bool) -> None:
        """Take it that a version cannot train; a regression if the earlier one could."""
        outcome: Outcome = "regression" if regression else "inconclusive"
        self._failure = self._finding("training", outcome, reason)

    def progress(self) -> str:
        """Say in a line how it stands."""
        if self._failure:
            return self._failure.reason
        told = f"{self.arm}: {self.pairs} pair{'s' * (self.pairs > 1)}, time "
        told += f"{expm1(self.time.value):+.1%}"
        low, high = map(expm1, self.time.interval())
        return told if isnan(low) else f"{told} [{low:+.1%}, {high:+.1%}]"

    def findings(self) -> list[Finding]:
        """Return what is known in each respect: what was decided at a look stays."""
        if self._failure:
            return [self._failure]
        return [
            self._found.get(f.metric, f.model_copy(update={"outcome": "inconclusive"}))
            for f in self._look()
        ]

    @property
    def time(self) -> Estimate:
        """The change of the logarithm of the time per epoch."""
        sample = np.array(self._log_ratios)
        return mean(sample) if self._earlier is None else difference(self._earlier, sample)

    def _look(self) -> list[Finding]:
        settings = self._settings
        false_alarm = settings.false_alarms * _TIME_SHARE / (self._contests * len(LOOKS))
        tolerance, miss = settings.max_slowdown, settings.misses / len(LOOKS)
        outcome = decide(self.time, log1p(tolerance), false_alarm, miss)
        return [
            finding(f"{self.arm}", "train time", outcome, self.time, tolerance, looks=len(LOOKS)),
            *self._accuracy(),
        ]

    def _accuracy(self) -> list[Finding]:
        if not self.pairs:
            return [self._finding("accuracy", "inconclusive", "")]
        if self.identical:
            others = f", and over {min(self._epochs)} of {self.pairs - 1} more" * (self.pairs > 1)
            reason = (
                f"Losses and errors are identical to the bit over {max(self._epochs)} epochs of "
                f"one seed{others}."
            )
            return [self._finding("accuracy", "pass", reason)]
        before_ST = np.array([before for before, _ in self._step_mse])
        after_ST = np.array([after for _, after in self._step_mse])
        if len(before_ST) < 2:
            return [self._finding("final_mse", "inconclusive", "Too few seeds to compare.")]
        found = [self._final_mse(before_ST, after_ST), self._worst_step(before_ST, after_ST)]
        skill_S = 1 - before_ST.mean(axis=1) / self._memoryless if self._memoryless else None
        if skill_S is not None and skill_S.mean() > 0:
            loss_S = (after_ST.mean(axis=1) - before_ST.mean(axis=1)) / self._memoryless
            found.append(self._lag_skill(skill_S, loss_S))
        return found

    def _final_mse(self, before_ST: Array, after_ST: Array) -> Finding:
        change = mean(_log(after_ST.mean(axis=1)) - _log(before_ST.mean(axis=1)))
        tolerance = self._settings.max_accuracy_loss
        outcome = decide(change, log1p(tolerance), *self._accuracy_rates)
        return finding(
            f"{self.arm}", "final_mse", outcome, change, tolerance, looks=len(ACCURACY_LOOKS)
        )

    def _worst_step(self, before_ST: Array, after_ST: Array) -> Finding:
        """Judge every time step: a regression at one is one; all must pass."""
        changes = [mean(column) for column in (_log(after_ST) - _log(before_ST)).T]
        false_alarm, miss = self._accuracy_rates
        tolerance = self._settings.max_step_accuracy_loss
        corrected = holm([change.p_above() for change in changes])
        outcomes = [
            decide(change, log1p(tolerance), false_alarm, miss, p)
            for change, p in zip(changes, corrected, strict=True)
        ]
        rank = ("regression", "inconclusive", "pass")
        worst = min(range(len(changes)), key=lambda t: (rank.index(outcomes[t]), -changes[t].value))
        return finding(
            f"{self.arm}",
            "mse per step",
            outcomes[worst],
            changes[worst],
            tolerance,
            f"Largest at t = {worst + 1} of {len(changes)}.",
            # It was picked among all of them.
            looks=len(ACCURACY_LOOKS) * len(changes),
        )

    def _lag_skill(self, skill_S: Array, loss_S: Array) -> Finding:
        """Judge the loss of `lag_skill`, a difference: it is a share already."""
        loss, allowed = mean(loss_S), self._settings.max_lag_skill_loss
        outcome = decide(loss, allowed, *self._accuracy_rates)
        low, high = loss.interval(1 - (1 - CONFIDENCE) / len(ACCURACY_LOOKS))
        return self._finding(
            "lag_skill",
            outcome,
            f"{skill_S.mean():.3f} became {skill_S.mean() - loss.value:.3f}, a loss of "
            f"{loss.value:.3f} [{low:.3f}, {high:.3f}]; {allowed:g} is allowed.",
            n=loss.n,
        )

    @property
    def _accuracy_rates(self) -> tuple[float, float]:
        """The false alarms and the misses that one look at one metric may have."""
        looks = len(ACCURACY_LOOKS)
        alarms = self._settings.false_alarms * (1 - _TIME_SHARE)
        return (
            alarms / (self._contests * len(_ACCURACY) * looks),
            self._settings.misses / looks,
        )

    def _finding(self, metric: str, outcome: Outcome, reason: str, n: int | None = None) -> Finding:
        return Finding(
            subject=f"{self.arm}",
            metric=metric,
            outcome=outcome,
            n=self.pairs if n is None else n,
            reason=reason,
        )


def _log(mse: Array) -> Array:
    """Return the logarithm of errors; that of a perfect prediction is finite, too."""
    logs: Array = np.log(np.maximum(mse, _SMALLEST_MSE))
    return logs
