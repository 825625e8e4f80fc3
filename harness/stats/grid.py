"""Values that move in steps, such as times by a clock that ticks every 15.6 ms."""

from __future__ import annotations

from collections.abc import Iterable
from math import remainder, sqrt

import numpy as np

from harness.backend.protocol import Array

UNIFORM = 1 / sqrt(12)
"""The standard deviation of rounding to a grid, in steps."""
_ROUNDING = 1e-15


def common_step(values: Iterable[float], noise: float = 0.0) -> float:
    """Return the largest step of which all values (above 0) are multiples, each within `noise`.

    It is negligible for values on no grid, the value itself if all are equal, and 0 of nothing. The
    method is Euclid's, with a bound of the error.
    """
    step, error, unlike = 0.0, 0.0, list(dict.fromkeys(values))
    for value in unlike:
        step, error = _common(value, noise + _ROUNDING * value, step, error)
    if noise and step:
        # With noise the bound soon is so large that a step is found where there is none.
        largest = max(unlike)
        step = largest / round(largest / step)
        if any(abs(remainder(value, step)) > 3 * noise for value in unlike):
            return 0.0
    return step


def smallest_step(values: Array, noise: float) -> float:
    """Return the smallest distance above `noise` between neighbouring values [n] (above 0).

    It is at least the step of the grid on which they lie, each within `noise`. It is the largest
    value if all are equal within `noise`: they do not tell a coarse grid from a fine one.
    """
    gaps = np.diff(np.sort(values))
    if gaps.sum() <= noise:
        return float(values.max())
    steps = gaps[gaps > noise]
    return float(steps.min()) if steps.size else noise


def _common(a: float, a_error: float, b: float, b_error: float) -> tuple[float, float]:
    """Return the largest common divisor of two values known within an error, and its error."""
    if b > a:
        a, a_error, b, b_error = b, b_error, a, a_error
    while b > max(a_error, b_error):
        # `remainder` takes away the nearest multiple, which may be more than `a`.
        a, a_error, b, b_error = b, b_error, abs(remainder(a, b)), a_error + round(a / b) * b_error
    return a, a_error
