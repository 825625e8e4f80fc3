"""Exact mean squared errors, per time step, of predictors that need no training.

The path is a zero-mean Gaussian AR(1) process whose first value has the variance `s_0`, which is 0
in the task. So `Var x_t = s_t` with `s_t = rho^(2t) s_0 + (1 - rho^(2t)) / (1 - rho^2)`,
`Cov(x_t, x_{t-1}) = rho s_{t-1}`, and by Isserlis' theorem `Cov(x_t^2, x_{t-1}^2) = 2 rho^2
s_{t-1}^2`. Everything below follows from these; the tests hold each against Monte Carlo.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harness.backend.protocol import Array
from harness.task.task import Task


@dataclass(frozen=True)
class Yardsticks:
    """Mean squared errors at t = 1..T, each an array [T]."""

    variance: Array
    """The best constant: the variance of the target."""
    memoryless: Array
    """The best predictor that sees x_t only, E[y_t | x_t]."""
    wrong_sign: Array
    """`x_t^2 - w x_{t-1}^2`, learned perfectly."""


def yardsticks(task: Task, start: float = 0.0) -> Yardsticks:
    """Return the yardsticks of `task`; they do not depend on `train_sign`.

    `start` is the variance of x_0, which is 0 in the task.
    """
    t = np.arange(task.n_steps + 1)
    w, rho2 = task.lag_weight, task.rho**2
    all_s = rho2**t * start + (1 - rho2**t) / (1 - rho2)
    s, lag = all_s[1:], all_s[:-1]  # s_t and s_{t-1}
    # Given x_t, x_{t-1} is normal with mean m = rho lag/s x_t and variance v, and
    # Var(x_{t-1}^2 | x_t) = 2 v^2 + 4 v m^2; E x_t^2 = s.
    v = lag / s
    return Yardsticks(
        variance=2 * s**2 + 2 * w**2 * lag**2 + 4 * w * rho2 * lag**2,
        memoryless=w**2 * (2 * v**2 + 4 * v * rho2 * lag**2 / s),
        wrong_sign=12 * w**2 * lag**2,
    )
