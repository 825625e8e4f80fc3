"""Where a straight line that is known from a sample of lines passes zero, with an interval.

That is Fieller's interval (1954) for the ratio of two means, offset and slope, of paired values.
"""

from __future__ import annotations

from math import inf, nan, sqrt
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

from harness.backend.protocol import Array
from harness.stats import estimates
from harness.stats.estimates import CONFIDENCE


class Crossing(NamedTuple):
    """The x at which a line passes zero: 0 if it is past it from the start, infinite if never."""

    at: float
    low: float
    high: float
    """The ends of the interval; NaN if it rests on one line, or their spread is not known."""
    rising: bool
    """Whether the line is above zero from there on, or below."""
    shown: bool
    """Whether the line is shown to differ from zero at x = 0 or for large x."""


def crossing(offsets: Array, slopes: Array, pilot: int = 0) -> Crossing:
    """Return where the mean of the lines `offset + slope * x` [n] passes zero at x >= 0.

    The interval is all x at which Student's t does not tell the mean from zero. If the spread of
    the first `pilot` lines chose their number n, only their spread counts, as in `estimates.mean`.

    If the slope is shown not to be zero, it tells in which direction the line passes; if only the
    offset is, that does, and the interval has no upper end. If neither is, nothing is known; nor
    if all lines are equal, as by a clock that ticks.
    """
    lines = np.stack([slopes, offsets])
    slope, offset = map(float, lines.mean(axis=1))
    at = max(0.0, -offset / slope) if slope else inf
    rising = slope > 0 or (not slope and offset < 0)
    n = lines.shape[1]
    if n < 2:
        return Crossing(at, nan, nan, rising, shown=False)
    if not any(estimates.mean(line, pilot).standard_error for line in lines):
        return Crossing(at, nan, nan, rising, shown=False)
    spread = lines[:, :pilot] if 1 < pilot < n else lines
    t = stdtrit(spread.shape[1] - 1, (1 + CONFIDENCE) / 2)
    # The mean is not told from zero where a * x^2 + 2 * b * x + c <= 0.
    means = np.array([slope, offset])
    (a, b), (_, c) = (np.outer(means, means) - t**2 * np.cov(spread) / n).tolist()
    root = sqrt(max(0.0, b * b - a * c))
    if a > 0:
        low, high = (-b - root) / a, (-b + root) / a
        return Crossing(at, max(0.0, low), max(0.0, high), rising, shown=True)
    if c > 0:
        # The larger zero; the second form is exact where the first one would lose digits.
        low = c / (root - b) if b < 0 else (b + root) / -a if a else inf
        return Crossing(at or inf, low, inf, offset < 0, shown=True)
    return Crossing(at, 0.0, inf, rising, shown=False)
