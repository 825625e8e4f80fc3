"""The median of a sample by the sign test: it assumes nothing about how the values are spread.

For values of which a few are very far away, by chance and to either side, so that a mean is lost in
its own error. The price: with n values, no p-value is below 2^-n.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import binom

from harness.backend.protocol import Array
from harness.stats.estimates import CONFIDENCE


@dataclass(frozen=True)
class Median:
    """The median of a sample [n], with the tests of `harness.stats.estimates.Estimate`."""

    sample: Array

    @property
    def value(self) -> float:
        """The median; NaN of nothing."""
        return float(np.median(self.sample)) if len(self.sample) else float("nan")

    @property
    def n(self) -> int:
        """How many independent values it rests on."""
        return len(self.sample)

    def interval(self, confidence: float = CONFIDENCE) -> tuple[float, float]:
        """Return the two-sided interval, from one value of the sample to another; NaN if none."""
        tail = (1 - confidence) / 2
        # The largest number of values that may be left out at either end.
        out = int(binom.ppf(tail, self.n, 0.5)) if self.n else 0
        while out >= 0 and binom.cdf(out, self.n, 0.5) > tail:
            out -= 1
        if out < 0:
            return float("nan"), float("nan")
        ordered = np.sort(self.sample)
        return float(ordered[out]), float(ordered[-1 - out])

    def p_above(self, bound: float = 0.0) -> float:
        """Return the one-sided p-value; a small one shows that the truth lies above `bound`."""
        return float(binom.sf((self.sample > bound).sum() - 1, self.n, 0.5))

    def p_below(self, bound: float = 0.0) -> float:
        """Return the one-sided p-value; a small one shows that the truth lies below `bound`."""
        return float(binom.sf((self.sample < bound).sum() - 1, self.n, 0.5))
