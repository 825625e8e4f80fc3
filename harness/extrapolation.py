"""How many epochs a training would take to reach an error: a rough guess, with its interval.

Over the last half of its curve an error falls roughly as a power of the number of epochs. How far
that law leads astray was measured (`benchmarks/diagnosis.py`): the interval is as wide as it takes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harness.protocol import Array

_LEAST_POINTS = 5
_FALLING = -0.3
"""The power at which an error has to fall, at least, to be falling at all."""
_FARTHEST = 100.0
"""Times the epochs trained so far; what lies beyond is not worth a number."""


@dataclass(frozen=True)
class Forecast:
    """When the typical seed (geometric mean) reaches the target."""

    slope: float
    """d log error / d log epoch, over the last half of the curve."""
    epochs: float
    """All epochs from the start; infinite if `beyond`."""
    low: float
    high: float
    beyond: bool
    """It takes more than `low` epochs; nothing more can be said."""

    def next_try(self, curve_points: int) -> int:
        """Return a number of epochs to train for, fit to be cut into the points of a curve."""
        per_point = (self.low if self.beyond else self.epochs) / curve_points
        unit: int = 10 ** max(0, len(str(int(per_point))) - 2)
        return int(np.ceil(per_point / unit)) * unit * curve_points


def forecast(epochs_K: Array, mse_SK: Array, target: float) -> Forecast | None:
    """Extrapolate the curves of some seeds [S, K] to an error.

    None if it is reached already, if the error no longer falls, or if there is too little to go by.
    """
    mse_SK = mse_SK[(np.isfinite(mse_SK) & (mse_SK > 0)).all(axis=1)]
    late_K = epochs_K >= epochs_K[-1] / 2 if len(epochs_K) else np.zeros(0, bool)
    if not len(mse_SK) or late_K.sum() < _LEAST_POINTS:
        return None
    x_K, y_K = np.log(epochs_K[late_K]), np.log(mse_SK[:, late_K]).mean(axis=0)
    slope, intercept = np.polyfit(x_K, y_K, 1)
    end = float(np.log(epochs_K[-1]))
    if y_K[-3:].mean() <= np.log(target) or slope > _FALLING:
        return None
    more = (slope * end + intercept - np.log(target)) / -slope  # log of the factor
    return _with_interval(float(slope), float(epochs_K[-1]), max(float(more), 0.0))


def _with_interval(slope: float, epochs: float, more: float) -> Forecast:
    low, high = 0.8 * more - 0.2, 1.5 * more + 0.7
    if np.exp(more) > _FARTHEST:
        return Forecast(slope, np.inf, epochs * min(np.exp(low), _FARTHEST), np.inf, beyond=True)
    return Forecast(
        slope,
        epochs * float(np.exp(more)),
        epochs * float(np.exp(max(low, 0.0))),
        epochs * float(np.exp(high)),
        beyond=False,
    )
