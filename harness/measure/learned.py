"""Looks at predictions for the held-out paths: which windows they beat, what they are made of.

Shape suffixes: T time steps, N or G paths, all or those of a group; P terms, Q them and the
predictions.
"""

from __future__ import annotations

from math import ceil
from typing import Any

import numpy as np

from harness.backend.protocol import Array
from harness.stats import regression
from harness.task.task import Task
from harness.task.yardsticks import best_of_window
from harness.trial.learned import GROUPS, MOST_LAGS, Learned


class Looker:
    """Takes the predictions of one network, some paths after the other."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._windows = _windows(task)
        self._terms = _terms(task)
        self._each = max(2, ceil(task.eval_paths / GROUPS))
        """How many paths a group has."""
        groups = ceil(task.eval_paths / self._each)
        self._squares_GPP = np.zeros((groups, self._terms, self._terms))
        self._products_GP = np.zeros((groups, self._terms))
        self._sums_QT = np.zeros((self._terms + 1, task.n_steps))
        """Of the terms and the predictions, over the paths of the group that is in work."""
        self._gaps: list[Array] = []
        self._seen = 0

    def add(self, x_TN: Array, y_TN: Array, prediction_TN: Array) -> None:
        """Take the paths that follow; x has one step more than y and the predictions.

        Few at a time are in work, so that the memory of a process whose training is yet to be timed
        does not change.
        """
        first, last = self._seen, self._seen + x_TN.shape[1]
        while self._seen < last:
            group = self._seen // self._each
            end = min(last, (group + 1) * self._each)
            part = slice(self._seen - first, end - first)
            x, y, prediction = (
                np.asarray(values[:, part], float) for values in (x_TN, y_TN, prediction_TN)
            )
            self._gaps.append(self._gaps_of(x, y, prediction))
            if self._terms:
                self._add_to(group, x, prediction)
                if end in ((group + 1) * self._each, self._task.eval_paths):
                    self._centre(group, end - group * self._each)
            self._seen = end

    def learned(self) -> Learned:
        """Return what all of them show; of huge predictions, or of one path, it is little."""
        with np.errstate(over="ignore", invalid="ignore"):
            return Learned(paths=self._seen, **self._beaten(), **self._made_of())

    def _beaten(self) -> dict[str, Any]:
        gaps_JN = np.concatenate(self._gaps, axis=1)
        if self._seen < 2:
            return {}
        gaps_J, errors_J = gaps_JN.mean(axis=1), gaps_JN.std(axis=1, ddof=1) / np.sqrt(self._seen)
        if not np.isfinite([gaps_J, errors_J]).all():
            return {}
        numbers = {"gaps": tuple(gaps_J.tolist()), "gap_errors": tuple(errors_J.tolist())}
        return {"windows": self._windows} | numbers

    def _made_of(self) -> dict[str, Any]:
        found = regression.fit(self._squares_GPP, self._products_GP) if self._terms else None
        if found is None or not np.isfinite([found.values, found.errors]).all():
            return {}
        return {
            "coefficients": tuple(found.values.tolist()),
            "coefficient_errors": tuple(found.errors.tolist()),
            "groups": found.groups,
        }

    def _gaps_of(self, x_TG: Array, y_TG: Array, prediction_TG: Array) -> Array:
        """Return by how much the error of each path exceeds that of each window [J, G]."""
        with np.errstate(over="ignore"):
            mse_G = np.mean((prediction_TG - y_TG) ** 2, axis=0)
        best = [best_of_window(self._task, past, x_TG) for past in self._windows]
        gaps_JG = [mse_G - np.mean((best_TG - y_TG) ** 2, axis=0) for best_TG in best]
        return np.array(gaps_JG).reshape(len(self._windows), len(mse_G))

    def _add_to(self, group: int, x_TG: Array, prediction_TG: Array) -> None:
        rows_QTG = np.zeros((self._terms + 1, *prediction_TG.shape))
        for k in range(self._terms):  # What lies before the path is 0.
            rows_QTG[k, k:] = x_TG[1 : len(x_TG) - k] ** 2
        rows_QTG[-1] = prediction_TG
        self._sums_QT += rows_QTG.sum(axis=2)
        rows_QR = rows_QTG.reshape(self._terms + 1, -1)
        self._add_products(group, rows_QR[:-1] @ rows_QR.T)

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


def _windows(task: Task) -> tuple[int, ...]:
    """Return which windows are looked at: all, or as many of a long lag, evenly spread."""
    if not task.lag_weight:
        return ()
    spread = np.linspace(0, task.lag - 1, min(task.lag, MOST_LAGS))
    return tuple(int(past) for past in np.round(spread))


def _terms(task: Task) -> int:
    """Return how many terms are told apart: x_{t-k}^2 at k = 0 ... 2L."""
    longest = min(2 * task.lag, task.n_steps - 1)
    return 1 + longest if task.lag <= MOST_LAGS and task.eval_paths > 1 else 0
