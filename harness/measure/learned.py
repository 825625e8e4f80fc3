"""Looks at predictions for the held-out paths: which windows they beat, what they are made of.

Shape suffixes: T time steps; N paths of a slice; J windows; K past values that are looked at; P
terms, some of those, Q them and the predictions; G groups of paths.
"""

from __future__ import annotations

from functools import lru_cache
from math import ceil
from typing import Any, NamedTuple

import numpy as np

from harness.backend.protocol import Array
from harness.stats import regression
from harness.task.task import Task
from harness.task.yardsticks import seen_from
from harness.trial.learned import GROUPS, MOST_LAGS, NEAR, Learned

_ROWS = 4096
"""So many steps are in work at a time: the memory of a process whose training is yet to be timed
must not change."""
_MOST_BYTES = 2**28
"""The sums of all seeds that are trained at once take no more."""


class Looker:
    """Takes the predictions of one network, some paths after the other."""

    def __init__(self, task: Task, at_once: int = 1) -> None:
        """Get ready for one of so many networks."""
        self._task, self._windows = task, _windows(task)
        self._each = max(2, ceil(task.eval_paths / GROUPS))
        """How many paths a group has."""
        groups, terms = ceil(task.eval_paths / self._each), self._windows.terms
        if at_once * groups * terms**2 * 8 > _MOST_BYTES:
            terms = 0
        self._squares_GPP = np.zeros((groups, terms, terms))
        self._products_GP = np.zeros((groups, terms))
        self._sums_QT = np.zeros((terms + 1, task.n_steps))
        """Of the terms and the predictions, over the paths of the group that is in work."""
        self._powers_3J = np.zeros((3, len(self._windows.past)))
        """Sums over paths of the gaps, of their squares and of their third powers."""
        self._seen = 0

    def add(self, x_TN: Array, y_TN: Array, prediction_TN: Array) -> None:
        """Take the paths that follow; x has one step more than y and the predictions."""
        start, most = self._seen, max(1, _ROWS // len(y_TN))
        while (first := self._seen - start) < x_TN.shape[1]:
            left = self._each - self._seen % self._each  # In this group.
            part = slice(first, first + min(most, left))
            slices = (np.asarray(v[:, part], float) for v in (x_TN, y_TN, prediction_TN))
            with np.errstate(over="ignore", invalid="ignore"):
                self._look(*slices)

    def learned(self) -> Learned:
        """Return what all of them show; of huge predictions, or of one path, it is little."""
        with np.errstate(over="ignore", invalid="ignore"):
            return Learned(paths=self._seen, **self._beaten(), **self._made_of())

    def _look(self, x_TN: Array, y_TN: Array, prediction_TN: Array) -> None:
        group, paths = self._seen // self._each, x_TN.shape[1]
        squares_KTN = _shifted(x_TN**2, self._windows.looked_at)
        gaps_JN = self._gaps(squares_KTN, y_TN, prediction_TN)
        self._powers_3J += [(gaps_JN**power).sum(axis=1) for power in (1, 2, 3)]
        self._seen += paths
        if terms := self._squares_GPP.shape[1]:
            rows_QTN = np.concatenate([squares_KTN[:terms], prediction_TN[None]])
            self._sums_QT += rows_QTN.sum(axis=2)
            rows_QR = rows_QTN.reshape(terms + 1, -1)
            self._add_products(group, rows_QR[:-1] @ rows_QR.T)
            if self._seen % self._each == 0 or self._seen == self._task.eval_paths:
                self._centre(group, self._seen - group * self._each)

    def _centre(self, group: int, paths: int) -> None:
        """Let a group say only how its paths differ at each time step.

        A network can count its first steps, and what it adds at each of them would be taken for
        memory: x_{t-k}^2 is 0 up to t = k.
        """
        self._add_products(group, -self._sums_QT[:-1] @ self._sums_QT.T / paths)
        self._sums_QT[:] = 0

    def _add_products(self, group: int, products_PQ: Array) -> None:
        self._squares_GPP[group] += products_PQ[:, :-1]
        self._products_GP[group] += products_PQ[:, -1]

    def _gaps(self, squares_KTN: Array, y_TN: Array, prediction_TN: Array) -> Array:
        """Return by how much the error of each path exceeds that of each window [J, N].

        Both are against the target of the training: with the other sign of the lag term, a network
        that remembers it is as good. Only steps count whose x_t is no more than `NEAR` standard
        deviations from 0: every window sees x_t, so its best predictor is the best there, too. At
        the few other steps x_t^2 is hard to learn, and that error hides all else.
        """
        sign, w = self._task.train_sign, self._task.lag_weight
        now_TN, (past, looked_at, v_JT, slope_JT) = squares_KTN[0], self._windows[:4]
        target_TN = y_TN if sign > 0 else 2 * now_TN - y_TN
        near_TN = now_TN <= NEAR**2 * self._windows.present_T[:, None]
        error_TN = (prediction_TN - target_TN) ** 2
        gaps_JN = np.empty((len(past), error_TN.shape[1]))
        for j in range(len(past)):
            seen_TN = squares_KTN[looked_at.index(past[j])]
            guessed_TN = v_JT[j][:, None] + slope_JT[j][:, None] ** 2 * seen_TN
            off_TN = sign * w * guessed_TN - (target_TN - now_TN)
            gaps_JN[j] = np.sum(error_TN - off_TN**2, axis=0, where=near_TN)
        return gaps_JN / len(near_TN)

    def _beaten(self) -> dict[str, Any]:
        n = self._seen
        if n < 2:
            return {}
        mean_J, second_J, third_J = self._powers_3J / n
        variance_J = np.maximum(second_J - mean_J**2, 0.0)
        third_J = third_J - 3 * mean_J * second_J + 2 * mean_J**3
        skew_J = np.divide(
            third_J, variance_J**1.5, out=np.zeros_like(mean_J), where=variance_J > 0
        )
        numbers = {
            "gaps": mean_J,
            "gap_errors": np.sqrt(variance_J / (n - 1)),
            "gap_skews": skew_J,
        }
        if not np.isfinite([*numbers.values()]).all():
            return {}
        told = {name: tuple(values.tolist()) for name, values in numbers.items()}
        return {"windows": self._windows.past} | told

    def _made_of(self) -> dict[str, Any]:
        if not self._squares_GPP.size:
            return {}
        found = regression.fit(self._squares_GPP, self._products_GP)
        if found is None or not np.isfinite([found.values, found.errors]).all():
            return {}
        return {
            "coefficients": tuple(found.values.tolist()),
            "coefficient_errors": tuple(found.errors.tolist()),
            "groups": found.groups,
        }


class _Windows(NamedTuple):
    past: tuple[int, ...]
    """How many past values the best predictor of each window sees."""
    looked_at: tuple[int, ...]
    """All k whose x_{t-k} is needed; those of the terms come first."""
    variance_JT: Array
    slope_JT: Array
    """Of x_{t-L}, given what each window sees."""
    present_T: Array
    """The variance of x_t."""
    terms: int
    """How many of them are told apart: x_{t-k}^2 at k = 0 ... 2L; 0: none."""


@lru_cache(maxsize=16)
def _windows(task: Task) -> _Windows:
    """Return what is looked at: all windows, or as many of a long lag, evenly spread."""
    past: tuple[int, ...] = ()
    if task.lag_weight and task.lag < task.n_steps:  # Or there is nothing to remember.
        spread = np.linspace(0, task.lag - 1, min(task.lag, MOST_LAGS))
        past = tuple(int(each) for each in np.round(spread))
    longest = min(2 * task.lag, task.n_steps - 1)
    told_apart = range(1 + longest) if task.lag <= MOST_LAGS and task.eval_paths > 1 else range(0)
    looked_at = tuple(told_apart) or tuple(sorted({0, *past}))
    given = [seen_from(task, each) for each in past]
    return _Windows(
        past,
        looked_at,
        np.array([each.variance for each in given]),
        np.array([each.slope for each in given]),
        seen_from(task, 0).seen,
        len(told_apart),
    )


def _shifted(squares_TN: Array, looked_at: tuple[int, ...]) -> Array:
    """Return x_{t-k}^2 at t = 1..T for each k [K, T, N], 0 before the path begins."""
    steps = len(squares_TN) - 1
    shifted_KTN = np.zeros((len(looked_at), steps, squares_TN.shape[1]))
    for each, k in enumerate(looked_at):
        shifted_KTN[each, k:] = squares_TN[1 : 1 + steps - k]
    return shifted_KTN
