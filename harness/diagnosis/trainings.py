"""The trainings of one backend at one point of a sweep, and what the curve of each seed shows.

Shape suffixes: S seeds, K evaluations, T time steps. docs/diagnosis.md has the reasons for the
thresholds, and how often they are wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from harness.backend.protocol import Array
from harness.tables.pairs import ARM
from harness.task.task import Task
from harness.task.yardsticks import Yardsticks, yardsticks
from harness.trial.sweep import SweepPoint

Which: TypeAlias = npt.NDArray[np.bool_]
"""For which seeds something holds [S]."""

FOURTH_MOMENT = 14
"""Relative variance of an error at one step. It is 105/9 - 1 for x^4, the wrong sign, and
60/4 - 1 for (x^2 - 1)^2, no memory; the larger one is used for both."""
SURE = 4.0
"""Two errors differ if they are more than this many standard deviations of sampling apart."""
_LEAST_POINTS = 8
"""With fewer evaluations nobody can say whether a curve is flat."""
_FLAT = 1.1
"""A curve is flat if the medians of its last two quarters differ by less than this factor."""
_CREEP, _STEADY = 0.02, 0.8
"""An error falls steadily if it loses 2 % over half a curve, and some at 4 evaluations in 5."""
_RISEN = 3.0
"""A curve has risen if all of its last quarter is above its best before by this factor."""
TARGET_LAG_SKILL = 0.9
TARGET_R2 = 0.999
LEARNED_R2 = 0.99
_NO_CONSTANT = 1.6
"""A network that outputs x_t^2, without the constant, errs by 1.5 times the memoryless one."""
_NO_PAST = 0.75
"""At t = 1 there is no lag term, but a network without memory cannot know that: with the constant
it errs by half the memoryless yardstick, without it by nothing."""


@dataclass(frozen=True)
class Trainings:
    """The trials of a backend on a device at a point of a sweep that ended ok."""

    task: Task
    seeds: tuple[int, ...]
    epochs_K: Array
    seconds_SK: Array | None
    """Steady training until then, of all seeds that were trained at once; None if times are not
    comparable: on unlike nodes, or with other trials beside them."""
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

        It is that of errors that grow with the square of x, as all yardsticks do. Neighbouring
        steps of a path count less than independent ones.
        """
        squares = self.task.rho**4  # Successive x^4 correlate less than that would.
        steps = max(1, self.task.n_steps - 1) * (1 - squares) / (1 + squares)
        return float(np.sqrt(FOURTH_MOMENT / (self.task.eval_paths * max(1.0, steps))))

    @property
    def wrong_on_purpose(self) -> bool:
        """Whether the target of the training is not what the network is scored against."""
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
        """Whether there are enough evaluations to say whether the error still moves."""
        return len(self.epochs_K) >= _LEAST_POINTS

    @property
    def _none_S(self) -> Which:
        return np.zeros(len(self.seeds), bool)

    def after(self, share: float) -> Which:
        """Return which evaluations come after this share of the training [K]."""
        after: Which = self.epochs_K > share * self.epochs_K[-1]
        return after

    @cached_property
    def flat_S(self) -> Which:
        """Whether the curve of a seed is flat: its last quarter is at the level before it."""
        if not self.has_curve:
            return self._none_S
        before = np.median(self.mse_SK[:, self.after(0.5) & ~self.after(0.75)], axis=1)
        last = np.median(self.mse_SK[:, self.after(0.75)], axis=1)
        flat: Which = np.maximum(last, before) <= _FLAT * np.minimum(last, before)
        return flat

    @cached_property
    def falling_S(self) -> Which:
        """Whether the error of a seed falls at nearly every evaluation, however slowly.

        Over the last half of the curve. This tells a training that has hardly begun from one that
        is at rest or leaps about.
        """
        if not self.has_curve:
            return self._none_S
        late_SK = self.mse_SK[:, self.after(0.5)]
        less_S = late_SK[:, -1] < (1 - _CREEP) * late_SK[:, 0]
        falls: Which = less_S & (np.mean(np.diff(late_SK) < 0, axis=1) >= _STEADY)
        return falls

    @cached_property
    def risen_S(self) -> Which:
        """Whether the last quarter of a seed's curve is far above its best."""
        if not self.has_curve:
            return self._none_S
        last_K = self.after(0.75)
        best_S = self.mse_SK[:, ~last_K].min(axis=1)
        risen: Which = self.mse_SK[:, last_K].min(axis=1) > _RISEN * best_S
        return risen

    @cached_property
    def memoryless_S(self) -> Which:
        """Whether the error of a seed rests at that of a network that sees the present only."""
        if not self.has_lag or self.noise * SURE > 0.2:
            return self._none_S
        level = self.exact.memoryless[1:].mean()
        ratio_S = self.later_S / level
        at_level: Which = (
            (ratio_S > 1 - SURE * self.noise)
            & (ratio_S < _NO_CONSTANT)
            & (self.step_mse_ST[:, 0] < _NO_PAST * level)
            & self.flat_S
        )
        return at_level

    @cached_property
    def learned_S(self) -> Which:
        """Whether a seed ended at an error that shows that it learned the task."""
        if self.has_lag:
            learned: Which = self.final_S < self.exact.memoryless.mean() * (1 - SURE * self.noise)
        else:
            learned = self.final_S < (1 - LEARNED_R2) * self.exact.variance.mean()
        return learned

    @property
    def typical(self) -> bool:
        """Whether `harness.stats.forecast` was measured with trainings of this kind."""
        task = self.task
        return (task.cell, task.activation, task.optimiser) == ("rnn", "tanh", "adam")

    @property
    def target(self) -> float:
        """The error at which a training counts as finished."""
        if self.has_lag:
            return float((1 - TARGET_LAG_SKILL) * self.exact.memoryless.mean())
        return float((1 - TARGET_R2) * self.exact.variance.mean())


def by_arm(
    trials: pd.DataFrame, curves: pd.DataFrame, steps: pd.DataFrame, points: Sequence[SweepPoint]
) -> Iterator[tuple[SweepPoint, str, Trainings]]:
    """Yield the trainings of each backend ("torch on cpu") at each point of a sweep.

    The tables are those of `harness.tables.from_records`. Where no trial ended ok, there are none.
    """
    keys = [*points[0].values, *ARM]
    ok = trials[trials["status"] == "ok"]
    asked = trials.groupby(keys, sort=False).size().to_dict()
    curves_of, steps_of = (
        dict(iter(table.merge(ok[["trial", "seed"]]).groupby(keys, sort=False)))
        for table in (curves, steps)
    )
    for key, mine in ok.groupby(keys, sort=False):
        if key not in curves_of or key not in steps_of:
            continue
        *values, backend, device = key
        point = point_at(points, values)
        not_ok = int(asked[key]) - len(mine)
        found = _trainings(point.task, mine, curves_of[key], steps_of[key], not_ok)
        if found is not None:
            yield point, f"{backend} on {device}", found


def point_at(points: Sequence[SweepPoint], values: Sequence[object]) -> SweepPoint:
    """Return the point of a sweep with these values."""
    return next(point for point in points if list(point.values.values()) == list(values))


def _trainings(
    task: Task, trials: pd.DataFrame, curves: pd.DataFrame, steps: pd.DataFrame, not_ok: int
) -> Trainings | None:
    """Turn the rows of some trials into arrays; None if the trials have not as many rows each."""
    curves = curves.sort_values(["seed", "epoch"], kind="stable")
    steps = steps.sort_values(["seed", "t"], kind="stable")
    trials = trials.sort_values("seed", kind="stable")
    seeds = trials["seed"]
    even = curves.groupby("seed").size().nunique() == 1
    if not even or len(steps) != len(seeds) * task.n_steps:
        return None
    epochs_SK, train_s_SK, loss_SK, mse_SK = (
        curves[name].to_numpy(dtype=float).reshape(len(seeds), -1)
        for name in ("epoch", "train_s", "train_loss", "eval_mse")
    )
    alike = trials["node_kind"].nunique() == 1 and not trials["contended"].any()
    return Trainings(
        task=task,
        seeds=tuple(int(seed) for seed in seeds),
        epochs_K=epochs_SK[0],
        seconds_SK=train_s_SK * trials["at_once"].to_numpy()[:, None] if alike else None,
        loss_SK=loss_SK,
        mse_SK=mse_SK,
        step_mse_ST=steps["mse"].to_numpy(dtype=float).reshape(len(seeds), -1),
        not_ok=not_ok,
    )
