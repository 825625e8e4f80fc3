"""How far back a trained network provably remembers, and what it learned, lag by lag."""

from __future__ import annotations

from math import sqrt
from typing import Any

import pandas as pd
from scipy.special import stdtr

from harness.task.task import Task
from harness.trial.learned import Learned

MISTAKES = 0.001
"""About how often a trial is said to remember longer than it does."""
_LEVEL = MISTAKES / 2
"""Of each test: the correction leaves a bit of the skewness, up to 1.8 times the level."""
_LARGEST_T = 1e6
"""Beyond it, so that nothing overflows."""
FEWEST_PATHS = 100
"""From so many held-out paths on."""


def memory(learned: Learned | None) -> int | None:
    """Return how many steps back a network provably uses its inputs; None if that is unknown.

    It is the largest d such that the error is below that of the best predictor that sees only
    x_t ... x_{t-d+1}: such an error needs x_{t-d} or something before it. Both errors are taken at
    the same steps, those with a usual x_t, so the luck of the paths is in neither, and against the
    target of the training.

    From the shortest window on, each is tested by Student's t over paths, corrected for skewness
    (Hall 1992), up to the first that is not beaten. That is a closed test: its chance to say too
    much is no larger for many windows (Maurer, Hothorn and Lehmacher 1995).
    """
    if learned is None or not learned.windows or learned.paths < FEWEST_PATHS:
        return None
    d = 0
    for j, past in enumerate(learned.windows):
        if not _below_zero(learned, j):
            break
        d = past + 1
    return d


def _below_zero(learned: Learned, j: int) -> bool:
    gap, error, n = learned.gaps[j], learned.gap_errors[j], learned.paths
    if gap >= 0 or not error:
        return gap < 0
    t = max(gap / error, -_LARGEST_T)
    skew = learned.gap_skews[j] / sqrt(n)
    # Johnson's correction (1978) has the square only, and turns a t far below zero around.
    bent = skew * t / 3
    t = t * (1 + bent + bent * bent / 3) + skew / 6
    return bool(stdtr(n - 1, t) <= _LEVEL)


def lower_median(steps: pd.Series[Any]) -> float:
    """Return the median of numbers of steps; of two in the middle, the lower one."""
    return float(steps.astype(float).quantile(0.5, interpolation="lower"))


def true(task: Task, count: int) -> list[float]:
    """Return the coefficients of x_{t-k}^2 in the target, k = 0 ... count - 1."""
    weights = {0: 1.0, task.lag: task.lag_weight}
    return [weights.get(k, 0.0) for k in range(count)]
