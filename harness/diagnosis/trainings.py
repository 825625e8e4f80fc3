"""The trials of one backend at one point of a sweep, and what is to be seen at each of its seeds.

Shape suffixes: S seeds, K evaluations, T time steps. The thresholds have their reasons, and how
often they lead astray, in docs/diagnosis.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from harness.backend.protocol import Array
from harness.task.task import Task
from harness.task.yardsticks import Yardsticks, yardsticks

Which: TypeAlias = npt.NDArray[np.bool_]
"""Of the seeds, those of which something holds [S]."""

# Relative variances of what is averaged: x^4, where the sign is wrong, 105/9 - 1; (x^2 - 1)^2,
# where there is no memory, 60/4 - 1. The larger one is used for both.
FOURTH_MOMENT = 14
# Beyond so many standard deviations of its sampling, an error is another one.
SURE = 4.0
# With fewer evaluations, nobody can say whether a curve has gone flat.
_LEAST_POINTS = 8
_FLAT = 1.1
"""A curve is flat if the medians of its last two quarters differ by less than this factor."""
_CREEP, _STEADY = 0.02, 0.8
"""An error falls steadily if it loses 2 % over half a curve, and some at 4 evaluations in 5."""
_RISEN = 3.0
TARGET_LAG_SKILL = 0.9
TARGET_R2 = 0.999
LEARNED_R2 = 0.99
_NO_CONSTANT = 1.6
"""A network that outputs x_t^2, without the constant, errs by 1.5 times the memoryless one."""

_NO_PAST = 0.75
"""At t = 1 there is no lag term, but a network without memory cannot know that: with the constant
it errs by half the memoryless yardstick, without by nothing."""


@dataclass(frozen=True)
class Case:
    """The trials of a backend on a device at a point of a sweep that ended ok."""

    task: Task
    seeds: tuple[int, ...]
    epochs_K: Array
    seconds_SK: Array | None
    """Steady training until then, of all seeds that were trained at once; None if times are not
    comparable: of unlike nodes, or with other trials beside them."""
    loss_SK: Array
    mse_SK: Array
    step_mse_ST: Array
    not_ok: int = 0
    """How many other trials there were, which did not end ok."""

    @property
    def asked(self) -> int:
        """How many seeds there were to be."""
        return len(self.seeds) + self.not_ok

    @cached_property
    def exact(self) -> Yardsticks:
        """The yardsticks [T]."""
        return yardsticks(self.task)

    @cached_property
    def noise(self) -> float:
        """The relative standard deviation that sampling gives an error averaged over t.

        For errors that go with the square of x, as all yardsticks do; neighbouring steps of a path
        count less than independent ones.
        """
        squares = self.task.rho**4  # Successive x^4 correlate less than that would.
        steps = max(1, self.task.n_steps - 1) * (1 - squares) / (1 + squares)
        return float(np.sqrt(FOURTH_MOMENT / (self.task.eval_paths * max(1.0, steps))))

    @property
    def wrong_on_purpose(self) -> bool:
        """Whether it trains towards something else than it is scored against."""
        return self.task.train_sign < 0 and bool(self.exact.wrong_sign.any())

    @property
    def has_lag(self) -> bool:
        """Whether there is anything to remember."""
        return bool(self.exact.memoryless.any())

    @property
    def final_S(self) -> Array:
        """The error of each seed at the end."""
        mean: Array = self.step_mse_ST.mean(axis=1)
        return mean

    @property
    def later_S(self) -> Array:
        """The error of each seed at the end, averaged over t >= 2."""
        mean: Array = self.step_mse_ST[:, 1:].mean(axis=1)
        return mean

    @property
    def has_curve(self) -> bool:
        """Whether there are evaluations enough to say whether the error still moves."""
        return len(self.epochs_K) >= _LEAST_POINTS

    @cached_property
    def flat_S(self) -> Which:
        """Whether the curve of a seed has gone flat: its last quarter is at the level before it."""
        if not self.has_curve:
            return np.zeros(len(self.seeds), bool)
        share_K = self.epochs_K / self.epochs_K[-1]
        before = np.median(self.mse_SK[:, (share_K > 0.5) & (share_K <= 0.75)], axis=1)
        last = np.median(self.mse_SK[:, share_K > 0.75], axis=1)
        flat: Which = np.maximum(last, before) <= _FLAT * np.minimum(last, before)
        return flat

    @cached_property
    def falling_S(self) -> Which:
        """Whether the error of a seed falls at nearly every evaluation, however slowly.

        Over the last half of the curve; so a training that has hardly begun is told from one that
        is at rest or leaps about.
        """
        if not self.has_curve:
            return np.zeros(len(self.seeds), bool)
        share_K = self.epochs_K / self.epochs_K[-1]
        late_SK = self.mse_SK[:, share_K > 0.5]
        less_S = late_SK[:, -1] < (1 - _CREEP) * late_SK[:, 0]
        falls: Which = less_S & (np.mean(np.diff(late_SK) < 0, axis=1) >= _STEADY)
        return falls

    @cached_property
    def risen_S(self) -> Which:
        """Whether the last quarter of a seed's curve is far above its best."""
        if not self.has_curve:
            return np.zeros(len(self.seeds), bool)
        last_K = self.epochs_K > 0.75 * self.epochs_K[-1]
        best_S = self.mse_SK[:, ~last_K].min(axis=1)
        risen: Which = self.mse_SK[:, last_K].min(axis=1) > _RISEN * best_S
        return risen

    @cached_property
    def memoryless_S(self) -> Which:
        """Whether a seed has come to rest where a network is that sees the present only."""
        if not self.has_lag or self.noise * SURE > 0.2:
            return np.zeros(len(self.seeds), bool)
        level = self.exact.memoryless[1:].mean()
        ratio_S = self.later_S / level
        there: Which = (
            (ratio_S > 1 - SURE * self.noise)
            & (ratio_S < _NO_CONSTANT)
            & (self.step_mse_ST[:, 0] < _NO_PAST * level)
            & self.flat_S
        )
        return there

    @cached_property
    def learned_S(self) -> Which:
        """Whether a seed ended where only what was to be learned can lead."""
        if self.has_lag:
            known: Which = self.final_S < self.exact.memoryless.mean() * (1 - SURE * self.noise)
        else:
            known = self.final_S < (1 - LEARNED_R2) * self.exact.variance.mean()
        return known

    @property
    def typical(self) -> bool:
        """Whether it is a training of the kind that `harness.stats.forecast` was measured with."""
        task = self.task
        return (task.cell, task.activation, task.optimiser) == ("rnn", "tanh", "adam")

    @property
    def target(self) -> float:
        """The error at which a training counts as finished."""
        if self.has_lag:
            return float((1 - TARGET_LAG_SKILL) * self.exact.memoryless.mean())
        return float((1 - TARGET_R2) * self.exact.variance.mean())

    @property
    def target_words(self) -> str:
        """What the target is called."""
        return f"lag_skill {TARGET_LAG_SKILL}" if self.has_lag else f"r2 {TARGET_R2}"

    def named(self, chosen_S: Which) -> str:
        """Name some of the seeds: `seed 3`, `seeds 1, 4, 5 and 9 more`."""
        seeds = [str(seed) for seed, chosen in zip(self.seeds, chosen_S, strict=True) if chosen]
        more = f" and {len(seeds) - 5} more" if len(seeds) > 5 else ""
        return f"seed{'s' * (len(seeds) > 1)} {', '.join(seeds[:5])}{more}"
