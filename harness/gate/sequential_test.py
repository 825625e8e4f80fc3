"""The sequential test of one backend: decides after each pair whether to go on.

The gate looks at the pairs after 4, 6, 9, ... of them, and stops as soon as every metric is
decided. Several looks at several backends in several metrics multiply the chance of a false alarm.
So each look gets its share of the false alarms that are allowed (Bonferroni), and the reported
interval holds at all looks together.

Shape suffixes: S seeds (one a pair), T time steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import log1p, sqrt

import numpy as np

from harness.backend.protocol import Array
from harness.gate.paired import Pair
from harness.gate.settings import GateSettings
from harness.gate.verdict import WORST_FIRST, Judgement, Outcome, decide
from harness.stats.estimates import CONFIDENCE, Estimate, holm, mean, mean_of_times, welch
from harness.stats.median import Median
from harness.tables.numbers import percent, ratio
from harness.trial.arms import Arm
from harness.trial.trajectory import Difference

LOOKS = (4, 6, 9, 13, 19, 28)
"""The numbers of pairs after which the gate looks whether it can decide."""
ACCURACY_LOOKS = LOOKS[1:]
"""Fewer seeds say too little about how a training ends."""
# The share of the false alarms that time gets. Accuracy needs few: identical code nearly always
# learns identically to the bit.
_TIME_SHARE = 0.7
_TOTAL_SHARE = 0.1
_ACCURACY = ("final_mse", "mse per step", "lag_skill")
_TIME, _RARE, _TRAINING = "train time", "time in rare calls", "same training"
_SAME = "accuracy"
"""The metric while no number differs."""
_SMALLEST_MSE = 1e-300
WAITING = (_RARE, _SAME, "training", _TRAINING)
"""Metrics that need no advice if they are inconclusive: others decide, or the reason says it."""


class SequentialTest:
    """Compares two versions of one arm; `arms` is how many arms share the false alarms.

    `without_lag` is the MSE of the best predictor without the lag, 0 if there is none to learn.
    `baseline` holds the log ratios of an earlier version to the yardstick, if there is a baseline;
    the pairs then compare this version with the yardstick, too. Without it, they compare the
    versions themselves.
    """

    def __init__(
        self,
        arm: Arm,
        settings: GateSettings,
        arms: int,
        without_lag: float,
        baseline: Array | None = None,
    ) -> None:
        self.arm = arm
        self._settings = settings.for_backend(arm.backend)
        self._arms = arms
        self._without_lag = without_lag
        self._baseline = baseline
        self._log_ratios: list[float] = []
        self._log_excesses: list[float] = []
        """By how much the totals of each pair exceed its `log_ratio`."""
        self._step_mse: list[tuple[Array, Array]] = []
        self._epochs: list[int] = []
        self.identical = True
        """Whether both sides of every pair so far had the same numbers."""
        # With a baseline, the sides of a pair are two backends, which always differ by rounding.
        self._by_rounding = baseline is None
        """Whether the sides of every pair so far differed by rounding at first, or not at all."""
        self._apart: list[Difference] = []
        """Where the versions of each pair that did not train the same first differ."""
        self._decided: dict[str, Judgement] = {}
        self._failure: Judgement | None = None

    @property
    def pairs(self) -> int:
        """The number of pairs so far."""
        return len(self._log_ratios)

    @property
    def undecided(self) -> bool:
        """Whether more pairs may change the outcome; one regression settles it."""
        if self._failure or self.pairs == LOOKS[-1]:
            return False
        outcomes = {j.outcome for j in self.judgements() if j.metric != _TRAINING}
        return "inconclusive" in outcomes and "regression" not in outcomes

    def add(self, pair: Pair, earlier_step_mse: Sequence[float]) -> None:
        """Add a pair, and the error per time step of the earlier version with the same seed.

        The latter is empty if it is not known.
        """
        self._log_ratios.append(pair.log_ratio)
        self._log_excesses.append(pair.log_ratio_of_totals - pair.log_ratio)
        self._by_rounding = self._by_rounding and pair.differs_by_rounding
        self._epochs.append(pair.second.epochs)
        if earlier_step_mse and pair.finished:
            both = np.asarray(earlier_step_mse), np.asarray(pair.second.step_mse)
            self._step_mse.append(both)
        self.identical = self.identical and pair.same_numbers
        self._apart += [pair.apart] if pair.apart else []
        if self.pairs not in LOOKS:
            return
        for judgement in self._look():
            early = judgement.metric in _ACCURACY and self.pairs not in ACCURACY_LOOKS
            # That nothing was shown so far decides nothing about the next pairs.
            early = early or (judgement.metric, judgement.outcome) == (_RARE, "pass")
            if judgement.outcome != "inconclusive" and not early:
                self._decided.setdefault(judgement.metric, judgement)

    def fail(self, reason: str, regression: bool) -> None:
        """End the test: a version cannot train; a regression if only the later one cannot."""
        outcome: Outcome = "regression" if regression else "inconclusive"
        self._failure = self._judgement("training", outcome, reason)

    def progress(self) -> str:
        """Return the state of the test in a line."""
        if self._failure:
            return self._failure.reason
        time = self._look()[0]
        return f"{self.arm}: {self.pairs} pair{'s' * (self.pairs > 1)}, time {time.shown()}"

    def judgements(self) -> list[Judgement]:
        """Return a judgement per metric; what was decided at a look stays decided."""
        if self._failure:
            return [self._failure]
        found = [self._decided.get(j.metric, self._so_far(j)) for j in self._look()]
        return [*found, *self._same_training()]

    def _same_training(self) -> list[Judgement]:
        """Judge whether both versions trained the same; nothing if no pair shows otherwise."""
        if not self._apart:
            return []
        epoch, by = min(self._apart)
        size = f"differ by {percent(by)}" if by < 1 else f"are {ratio(1 + by)}x apart"
        reason = (
            f"In {len(self._apart)} of {self.pairs} pairs the versions did not train the same: "
            f"their losses {size} at epoch {epoch}, more than rounding explains. So the times are "
            "those of two trainings: if that is meant, judge by the accuracy"
        )
        return [self._judgement(_TRAINING, "inconclusive", reason, n=len(self._apart))]

    def _so_far(self, judgement: Judgement) -> Judgement:
        """Return a judgement that no look has settled; rare calls pass as soon as the time does."""
        reason = judgement.reason
        if judgement.metric == _RARE:
            if _TIME in self._decided:
                return judgement
            reason = f"It is decided with the {_TIME}."
        elif judgement.metric == _SAME:
            reason = f"{reason} A verdict takes at least {LOOKS[0]} pairs.".lstrip()
        return judgement.model_copy(update={"outcome": "inconclusive", "reason": reason})

    @property
    def _time(self) -> Estimate:
        """The change of the logarithm of the time per epoch."""
        return self._time_after(self.pairs)

    def _time_after(self, pairs: int) -> Estimate:
        """Return the change of the time; after more pairs, as it would be if they were alike."""
        sample = mean_of_times(np.array(self._log_ratios))
        if pairs > self.pairs > 1:
            error = sample.standard_error * sqrt(self.pairs / pairs)
            sample = replace(sample, standard_error=error, df=pairs - 1, n=pairs)
        return sample if self._baseline is None else welch(mean_of_times(self._baseline), sample)

    @property
    def pairs_to_decide(self) -> int | None:
        """After how many pairs it will probably be decided; None if more are not of much use."""
        if self.pairs < LOOKS[0]:
            return LOOKS[0]
        timed = _TIME in self._decided
        looks = ACCURACY_LOOKS if timed else LOOKS
        for look in looks:
            if look > self.pairs and (
                timed or self._decide_time(self._time_after(look)) != "inconclusive"
            ):
                return look
        return None

    def _look(self) -> list[Judgement]:
        """Return the judgements on the pairs so far."""
        outcome, limit = self._decide_time(self._time), self._settings.max_slowdown
        time = Judgement.of_logarithm(
            f"{self.arm}", _TIME, outcome, self._time, limit, looks=len(LOOKS)
        )
        totals = [] if self._baseline is not None else [self._totals()]
        return [time, *totals, *self._accuracy()]

    def _decide_time(self, change: Estimate) -> Outcome:
        settings, looks = self._settings, len(LOOKS)
        false_alarm = settings.false_alarms * _TIME_SHARE / (self._arms * looks)
        return decide(change, log1p(settings.max_slowdown), false_alarm, settings.misses / looks)

    def _totals(self) -> Judgement:
        """Judge cost that is concentrated in few turns, which the time of a pair leaves out.

        Disturbances are concentrated, too. So it passes unless more than the limit is shown.
        """
        limit, looks = self._settings.max_concentrated_slowdown, len(LOOKS)
        excess = mean(np.array(self._log_excesses))
        false_alarm = self._settings.false_alarms * _TOTAL_SHARE / (self._arms * looks)
        shown = excess.p_above(log1p(limit)) < false_alarm
        return Judgement.of_logarithm(
            f"{self.arm}",
            _RARE,
            "regression" if shown else "pass",
            excess,
            limit,
            looks=looks,
        )

    def _accuracy(self) -> list[Judgement]:
        if not self.pairs:
            return [self._judgement(_SAME, "inconclusive", "")]
        if self.identical:
            others = f", and over {min(self._epochs)} of {self.pairs - 1} more" * (self.pairs > 1)
            reason = (
                f"Losses and errors are identical to the bit over {max(self._epochs)} epochs of "
                f"one seed{others}."
            )
            return [self._judgement(_SAME, "pass", reason)]
        before_ST = np.array([before for before, _ in self._step_mse])
        after_ST = np.array([after for _, after in self._step_mse])
        if len(before_ST) < 2:
            return [self._judgement("final_mse", "inconclusive", "Too few seeds to compare.")]
        judgements = [self._final_mse(before_ST, after_ST), self._worst_step(before_ST, after_ST)]
        skill_S = 1 - before_ST.mean(axis=1) / self._without_lag if self._without_lag else None
        if skill_S is not None and skill_S.mean() > 0:
            loss_S = (after_ST.mean(axis=1) - before_ST.mean(axis=1)) / self._without_lag
            judgements.append(self._lag_skill(skill_S, loss_S))
        return judgements

    def _final_mse(self, before_ST: Array, after_ST: Array) -> Judgement:
        change = self._change(_log(after_ST.mean(axis=1)) - _log(before_ST.mean(axis=1)))
        tolerance = self._settings.max_accuracy_loss
        outcome = decide(change, log1p(tolerance), *self._accuracy_rates)
        looks = len(ACCURACY_LOOKS)
        return Judgement.of_logarithm(
            f"{self.arm}", "final_mse", outcome, change, tolerance, looks=looks
        )

    def _worst_step(self, before_ST: Array, after_ST: Array) -> Judgement:
        """Judge every time step and return the worst: all must pass, one regression is enough."""
        changes = [self._change(column) for column in (_log(after_ST) - _log(before_ST)).T]
        false_alarm, miss = self._accuracy_rates
        tolerance = self._settings.max_step_accuracy_loss
        outcomes = [
            decide(change, log1p(tolerance), false_alarm, miss, p)
            for change, p in zip(changes, holm([c.p_above() for c in changes]), strict=True)
        ]
        worst = min(
            range(len(changes)),
            key=lambda t: (WORST_FIRST.index(outcomes[t]), -changes[t].value),
        )
        return Judgement.of_logarithm(
            f"{self.arm}",
            "mse per step",
            outcomes[worst],
            changes[worst],
            tolerance,
            f"Largest at t = {worst + 1} of {len(changes)}.",
            # Corrected for picking it among all of them.
            looks=len(ACCURACY_LOOKS) * len(changes),
        )

    def _change(self, changes_S: Array) -> Estimate | Median:
        """Estimate the change: the mean, or the median if the versions differ by rounding.

        Then some seeds end far apart by chance, and no mean of few seeds says anything.
        """
        return Median(changes_S) if self._by_rounding else mean(changes_S)

    def _lag_skill(self, skill_S: Array, loss_S: Array) -> Judgement:
        """Judge the loss of `lag_skill` as a difference, since it is a share already."""
        loss, allowed = self._change(loss_S), self._settings.max_lag_skill_loss
        outcome = decide(loss, allowed, *self._accuracy_rates)
        low, high = loss.interval(1 - (1 - CONFIDENCE) / len(ACCURACY_LOOKS))
        reason = (
            f"{skill_S.mean():.3f} became {skill_S.mean() - loss.value:.3f}, a loss of "
            f"{loss.value:.3f} [{low:.3f}, {high:.3f}]; {allowed:g} is allowed."
        )
        return self._judgement("lag_skill", outcome, reason, n=loss.n)

    @property
    def _accuracy_rates(self) -> tuple[float, float]:
        """The false alarms and the misses allowed in one look at one metric of accuracy."""
        looks = len(ACCURACY_LOOKS)
        alarms = self._settings.false_alarms * (1 - _TIME_SHARE - _TOTAL_SHARE)
        return alarms / (self._arms * len(_ACCURACY) * looks), self._settings.misses / looks

    def _judgement(
        self, metric: str, outcome: Outcome, reason: str, n: int | None = None
    ) -> Judgement:
        n = self.pairs if n is None else n
        return Judgement(subject=f"{self.arm}", metric=metric, outcome=outcome, n=n, reason=reason)


def _log(mse: Array) -> Array:
    """Return the logarithm of errors, finite even for a perfect prediction."""
    logs: Array = np.log(np.maximum(mse, _SMALLEST_MSE))
    return logs
