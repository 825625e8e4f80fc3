"""The statistics of differences: estimates with intervals, corrected p-values, equivalence.

Times and errors are compared as ratios, so samples are logarithms of ratios. A ratio and its
inverse then count alike. The values of a sample are independent by design: each is of a block or a
pair of fresh processes, never of repetitions in one process.

All tests are Student's t. The samples are too small for the bootstrap (its intervals are too narrow
below about 20 values) and for ranks (no p-value is below 2^-n). Only values that are all equal, but
not zero, are judged by their signs: they do not tell how far they scatter. Sources:
Welch (1947) for two independent samples; Holm (1979) for many comparisons; Schuirmann (1987), two
one-sided tests, for equivalence; Stein (1945) for an interval of a width chosen beforehand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import stdtr, stdtrit

from harness.backend.protocol import Array

CONFIDENCE = 0.95
_ROUNDING = 1e-12
"""A relative spread below this is rounding."""


@dataclass(frozen=True)
class Estimate:
    """A mean or a difference of means, with its standard error and degrees of freedom `df`.

    They are NaN and 0 if the sample was too small.
    """

    value: float
    standard_error: float
    df: float
    n: int
    """How many independent values it rests on; for two samples, the smaller number."""

    def negated(self) -> Estimate:
        """Return the same estimate with the opposite sign."""
        return Estimate(-self.value, self.standard_error, self.df, self.n)

    def half_width(self, confidence: float = CONFIDENCE) -> float:
        """Return half the width of the two-sided interval; NaN if the spread is not known."""
        if not self.df or self._constant:
            return float("nan")
        return float(stdtrit(self.df, (1 + confidence) / 2)) * self.standard_error

    def interval(self, confidence: float = CONFIDENCE) -> tuple[float, float]:
        """Return the two-sided interval."""
        half = self.half_width(confidence)
        return self.value - half, self.value + half

    def p_above(self, bound: float = 0.0) -> float:
        """Return the one-sided p-value; a small one shows that the truth lies above `bound`."""
        if not self.df:
            return float("nan")
        if not self.standard_error:
            return (0.5**self.n if self._constant else 0.0) if self.value > bound else 1.0
        return float(stdtr(self.df, (bound - self.value) / self.standard_error))

    @property
    def _constant(self) -> bool:
        """Whether all values are equal and not zero; equal to zero means that nothing differs."""
        return not self.standard_error and bool(self.value)

    def p_below(self, bound: float = 0.0) -> float:
        """Return the one-sided p-value; a small one shows that the truth lies below `bound`."""
        return self.negated().p_above(-bound)

    def p_different(self) -> float:
        """Return the two-sided p-value; a small one shows that the truth is not zero."""
        return min(2 * min(self.p_above(), self.p_below()), 1.0)

    def p_within(self, margin: float) -> float:
        """Return a p-value; a small one shows the truth to lie within +-`margin` (Schuirmann)."""
        return max(self.p_above(-margin), self.p_below(margin))


def mean(sample: Array, pilot: int = 0, shared_error: float = 0.0) -> Estimate:
    """Estimate the mean of a sample [n].

    If the spread of the first `pilot` values chose the size n, the interval uses only their spread
    (Stein). With the spread of all values it would lose its coverage.

    `shared_error` is a standard error that all values may have in common, so that more of them do
    not make it smaller: values on a grid of step h are rounded by h/sqrt(12) each, and all alike
    where they lie close together.
    """
    n = len(sample)
    if n < 2:
        return Estimate(float(sample.mean()) if n else float("nan"), float("nan"), 0, n)
    chosen = sample[:pilot] if 1 < pilot < n else sample
    spread = float(chosen.std(ddof=1))
    if spread <= _ROUNDING * np.abs(sample).max():
        spread = 0.0
    return Estimate(
        float(sample.mean()), float(np.hypot(spread / np.sqrt(n), shared_error)), len(chosen) - 1, n
    )


def mean_of_times(sample: Array, pilot: int = 0, shared_error: float = 0.0) -> Estimate:
    """Estimate the mean of times, as `mean` does.

    Times that are all equal are those of a clock that ticks, by unknown steps. Then there is no
    standard error.
    """
    found = mean(sample, pilot, shared_error)
    return found if found.standard_error else replace(found, standard_error=float("nan"), df=0)


def stein_size(pilot: Array, half_width: float, confidence: float = CONFIDENCE) -> int:
    """Return how many values, with those of the pilot, an interval of this half width needs."""
    t = float(stdtrit(len(pilot) - 1, (1 + confidence) / 2))
    return max(len(pilot), int(np.ceil((t * pilot.std(ddof=1) / half_width) ** 2)))


def difference(before: Array, after: Array) -> Estimate:
    """Estimate mean(after) - mean(before) of two independent samples (Welch)."""
    return welch(mean(before), mean(after))


def welch(before: Estimate, after: Estimate) -> Estimate:
    """Return the difference after - before of two independent estimates (Welch).

    One whose standard error is known, not estimated, has infinite degrees of freedom.
    """
    variances = np.array([before.standard_error**2, after.standard_error**2])
    value, n = after.value - before.value, min(before.n, after.n)
    if not (before.df and after.df):
        return Estimate(value, float("nan"), 0, n)
    total = variances.sum()
    weights = (variances**2 / np.array([before.df, after.df])).sum()
    df = float(total**2 / weights) if weights else before.df + after.df
    return Estimate(value, float(np.sqrt(total)), df, n)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values corrected for their number (Holm); NaN ones do not count."""
    p = np.asarray(p_values, dtype=float)
    order = [i for i in np.argsort(p, kind="stable") if not np.isnan(p[i])]
    corrected = np.full(len(p), np.nan)
    largest = 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p[i]))
        corrected[i] = largest
    return corrected.tolist()
