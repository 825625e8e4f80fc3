"""What the rules read: the errors of some trainings or of predictions, and what else is known.

Errors per time step and yardsticks are always known; the curve of the trainings, or the outputs
themselves, are where there are any. Shape suffixes: S seeds (predictions are one), T time steps.
docs/diagnosis.md has the reasons for the thresholds, and how often they are wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, TypeAlias

import numpy as np

from harness.backend.protocol import Array
from harness.diagnosis.curve import Curve
from harness.diagnosis.lag_terms import LagTerms
from harness.diagnosis.outputs import Outputs
from harness.diagnosis.types import Evidence, Id, Rule, Severity, Which
from harness.task.task import Task
from harness.task.yardsticks import Yardsticks

FOURTH_MOMENT = 14
"""Relative variance of an error at one step. It is 105/9 - 1 for x^4, the wrong sign, and
60/4 - 1 for (x^2 - 1)^2, no memory; the larger one is used for both."""
SURE = 4.0
"""Two errors differ if they are more than this many standard deviations of sampling apart."""
TARGET_LAG_SKILL = 0.9
TARGET_R2 = 0.999
LEARNED_R2 = 0.99
FARTHEST_FORECAST = 4
"""At longer lags, trainings rest on the way to the lag for longer than is forecast."""
_NO_CONSTANT = 1.6
"""A network that outputs x_t^2, without the constant, errs by 1.5 times the memoryless one."""
_NO_PAST = 0.75
"""At t <= L there is no lag term, but a network without memory cannot know that: with the constant
it errs by half the memoryless yardstick, without it by nothing."""


class Steps(NamedTuple):
    """Errors per time step that can be compared with each other, against what is followed.

    The target that a network follows has the wrong sign if it was trained towards that.
    """

    mse_ST: Array
    """NaN where it is unknown."""
    noise_T: Array
    """Relative standard deviation by sampling."""


@dataclass(frozen=True)
class Observed:
    """The trials of a backend on a device at a point of a sweep that ended ok, or predictions."""

    task: Task
    seeds: tuple[int, ...]
    """Empty for predictions, which count as one."""
    step_mse_ST: Array
    """The error at each step, against the target of the task."""
    paths_T: Array
    """Over how many paths it is averaged."""
    steps: Steps
    exact: Yardsticks
    """Of the inputs as they are [T]."""
    curve: Curve | None = None
    outputs: Outputs | None = None
    moved_S: Array | None = None
    """How far the training has moved the initial state; None if unknown."""
    lag_terms: tuple[LagTerms | None, ...] = ()
    """What the outputs of each seed contain of the past; None, or empty, if unknown."""
    memory_S: Array | None = None
    """How many steps back each seed provably looks; None if unknown."""
    not_ok: int = 0
    """How many other trials there were, which did not end ok."""

    @property
    def asked(self) -> int:
        """How many seeds there were to be."""
        return len(self.seeds) + self.not_ok

    @cached_property
    def noise(self) -> float:
        """The relative standard deviation that sampling gives an error averaged over t.

        It is that of errors that grow with the square of x, as all yardsticks do. Neighbouring
        steps of a path count less than independent ones.
        """
        squares = self.task.rho**4  # Successive x^4 correlate less than that would.
        steps = max(1, len(self.paths_T) - 1) * (1 - squares) / (1 + squares)
        return float(np.sqrt(FOURTH_MOMENT / (self.paths_T.mean() * max(1.0, steps))))

    @property
    def sign_on_purpose(self) -> bool:
        """Whether the target of the training is not what the network is scored against."""
        return self.task.train_sign < 0 and bool(self.exact.wrong_sign.any())

    @property
    def has_lag(self) -> bool:
        """Whether there is anything to remember."""
        return bool(self.exact.memoryless.any())

    @property
    def final_S(self) -> Array:
        """The error of each seed at the end."""
        mean: Array = np.average(self.step_mse_ST, axis=1, weights=self.paths_T)
        return mean

    @property
    def later_S(self) -> Array:
        """The error of each seed at the end, averaged over the steps with a lag term, t > L."""
        mean: Array = self.step_mse_ST[:, self.task.lag :].mean(axis=1)
        return mean

    @property
    def first_S(self) -> Array:
        """The error of each seed at the end, averaged over the steps without one, t <= L."""
        mean: Array = self.step_mse_ST[:, : self.task.lag].mean(axis=1)
        return mean

    @property
    def all_but_last_easy(self) -> int:
        """How many steps there are before the last one without a lag term: none if the lag is 1."""
        return max(0, int(np.sum(self.exact.wrong_sign == 0)) - 1) if self.has_lag else 0

    def level(self, yardstick: str) -> float:
        """Return the error of a yardstick, averaged over t as errors are."""
        return float(np.average(getattr(self.exact, yardstick), weights=self.paths_T))

    @property
    def yardstick(self) -> str:
        """The name of the yardstick that everything has which does not see the lag."""
        return f"the {'memoryless' if self.task.lag == 1 else 'without-lag'} yardstick"

    @property
    def none_S(self) -> Which:
        """No seed."""
        return np.zeros(len(self.step_mse_ST), bool)

    @property
    def _uses_past_S(self) -> Which:
        """Whether it is known of a seed that it uses earlier values, those of the lag or others."""
        uses_S = self.none_S
        if self.memory_S is not None:
            uses_S = uses_S | (self.memory_S > 0)
        if self.lag_terms:
            nothing = ("none", "unclear")
            uses_S = uses_S | [t is not None and t.verdict not in nothing for t in self.lag_terms]
        return uses_S

    @cached_property
    def memoryless_S(self) -> Which:
        """Whether the error of a seed rests at that of a network that sees the present only."""
        if self.curve is None or not self.has_lag or self.noise * SURE > 0.2:
            return self.none_S
        level = self.exact.memoryless[self.task.lag :].mean()
        ratio_S = self.later_S / level
        at_level: Which = (
            (ratio_S > 1 - SURE * self.noise)
            & (ratio_S < _NO_CONSTANT)
            & (self.first_S < _NO_PAST * level)
            & self.curve.flat_S
        )
        return at_level & ~self._uses_past_S

    @cached_property
    def learned_S(self) -> Which:
        """Whether a seed ended at an error that shows that it learned the task."""
        if self.has_lag:
            learned: Which = self.final_S < self.level("without_lag") * (1 - SURE * self.noise)
        else:
            learned = self.final_S < (1 - LEARNED_R2) * self.level("variance")
        return learned

    @property
    def typical(self) -> bool:
        """Whether `harness.stats.forecast` was measured with trainings of this kind."""
        task = self.task
        usual = (task.cell, task.activation, task.optimiser) == ("rnn", "tanh", "adam")
        return usual and task.lag <= FARTHEST_FORECAST

    @property
    def target(self) -> float:
        """The error at which a training counts as finished."""
        if self.has_lag:
            return (1 - TARGET_LAG_SKILL) * self.level("without_lag")
        return (1 - TARGET_R2) * self.level("variance")


Look: TypeAlias = Callable[[Observed], Evidence | None]


class Entry(NamedTuple):
    """A rule, and how to look whether it applies."""

    rule: Rule
    look: Look


def rule(name: Id, severity: Severity, headline: str) -> Callable[[Look], Entry]:
    """Make a rule of a function that returns the evidence that it applies, or None."""
    return lambda look: Entry(Rule(name, severity, headline), look)
