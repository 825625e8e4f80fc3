"""Exact mean squared errors, per time step, of predictors that need no training.

The path is a zero-mean Gaussian AR(1) process whose first value has the variance `s_0`, which is 0
in the task. So `Var x_t = s_t` with `s_t = rho^(2t) s_0 + (1 - rho^(2t)) / (1 - rho^2)`, and 0
before t = 0. With k steps between two values, `Cov(x_t, x_{t-k}) = rho^k s_{t-k}`, and by Isserlis'
theorem `Cov(x_t^2, x_{t-k}^2) = 2 rho^(2k) s_{t-k}^2`. Everything below follows from these; the
tests hold each against Monte Carlo. L is the lag of the task, w its weight.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from harness.backend.protocol import Array
from harness.task.task import Task


@dataclass(frozen=True)
class Yardsticks:
    """Mean squared errors at t = 1..T, each an array [T]."""

    variance: Array
    """The best constant: the variance of the target."""
    memoryless: Array
    """The best predictor that sees x_t only, E[y_t | x_t]: `window(task, 0)`."""
    without_lag: Array
    """The best predictor that sees x_t ... x_{t-L+1} only: `window(task, L - 1)`."""
    wrong_sign: Array
    """`x_t^2 - w x_{t-L}^2`, learned perfectly."""


def hardly_differ(first: Array, second: Array) -> bool:
    """Return whether two yardsticks are the same to a reader, as both without the lag at lag 1."""
    return np.allclose(first, second, rtol=0.01, atol=0)


def yardsticks(task: Task, start: float = 0.0) -> Yardsticks:
    """Return the yardsticks of `task`; they do not depend on `train_sign`.

    `start` is the variance of x_0, which is 0 in the task.
    """
    w, s, lag = task.lag_weight, _variances(task, 0, start), _variances(task, task.lag, start)
    return Yardsticks(
        variance=2 * s**2 + 2 * w**2 * lag**2 + 4 * w * task.rho ** (2 * task.lag) * lag**2,
        memoryless=window(task, 0, start),
        without_lag=window(task, task.lag - 1, start),
        wrong_sign=12 * w**2 * lag**2,
    )


def window(task: Task, past: int, start: float = 0.0) -> Array:
    """Return the MSE [T] of the best predictor that sees x_t ... x_{t-past} and nothing before.

    `past` is 0 ... L - 1. Of what it sees, x_{t-L} depends on x_{t-past} alone (the Markov
    property). Given that, x_{t-L} is normal with a mean m and a variance v, and
    `Var(x_{t-L}^2 | x_{t-past}) = 2 v^2 + 4 v m^2`.
    """
    v, slope, seen = seen_from(task, past, start)
    return task.lag_weight**2 * (2 * v**2 + 4 * v * slope**2 * seen)


class Given(NamedTuple):
    """x_{t-L} given x_{t-past}, at t = 1..T: normal, its mean is `slope * x_{t-past}`."""

    variance: Array
    slope: Array
    seen: Array
    """The variance of x_{t-past}."""


def seen_from(task: Task, past: int, start: float = 0.0) -> Given:
    """Return what x_{t-past} tells of x_{t-L}."""
    steps, rho2 = task.lag - past, task.rho**2
    lag, seen = _variances(task, task.lag, start), _variances(task, past, start)
    share = np.divide(lag, seen, out=np.zeros_like(lag), where=seen > 0)
    # s_{t-L} - rho^(2 steps) s_{t-L}^2 / s_{t-past}, where s_{t-past} is rho^(2 steps) s_{t-L} and
    # the noise that was added since.
    noise = (1 - rho2**steps) / (1 - rho2)
    return Given(noise * share, task.rho**steps * share, seen)


def _variances(task: Task, before: int, start: float) -> Array:
    """Return the variance of x_{t-before} at t = 1..T; 0 before the path begins."""
    t = np.arange(1, task.n_steps + 1) - before
    rho2 = task.rho**2
    s: Array = rho2 ** np.maximum(t, 0) * start + (1 - rho2 ** np.maximum(t, 0)) / (1 - rho2)
    return np.where(t < 0, 0.0, s)
