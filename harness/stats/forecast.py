"""How many epochs a training would take to reach an error: a rough forecast with its interval.

Sooner or later, the errors of this task fall as the power -1.5 of the number of epochs. This
typical power forecasts better than that of the last part of one curve, which changes on the way.
The width of the interval comes from measured errors of the forecast (`benchmarks/diagnosis.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harness.backend.protocol import Array

POWER = -1.5
"""The typical power; found from trainings of tanh networks by Adam, and good for those only."""
_LEAST_POINTS = 5
_FALLING = -0.3
"""A curve falls if the power over its last half is below this."""
_FARTHEST = 100.0
"""The forecast reaches up to so many times the epochs trained so far."""
_LOW, _HIGH, _MARGIN = 0.6, 1.6, 0.2
"""The interval of the logarithm of the missing factor: relative bounds, and a margin."""


@dataclass(frozen=True)
class Forecast:
    """When the typical seed (geometric mean) reaches the target, counted in all epochs."""

    power: float
    """d log error / d log epoch, over the last half of the curve."""
    epochs: float
    low: float
    high: float
    beyond: bool
    """It takes more than `low` epochs; there is no better forecast."""

    @property
    def next_try(self) -> int:
        """A round number of epochs to train for: two significant digits, rounded up."""
        epochs = self.low if self.beyond else self.epochs
        unit: int = 10 ** max(0, len(str(int(epochs))) - 2)
        return int(np.ceil(epochs / unit)) * unit


def forecast(epochs_K: Array, mse_SK: Array, target: float) -> Forecast | None:
    """Extrapolate the curves of some seeds to an error; epochs [K], errors [S, K].

    None if the target is reached, the error no longer falls, or the curve has too few points.
    """
    mse_SK = mse_SK[(np.isfinite(mse_SK) & (mse_SK > 0)).all(axis=1)]
    late_K = epochs_K >= epochs_K[-1] / 2 if len(epochs_K) else np.zeros(0, bool)
    if not len(mse_SK) or late_K.sum() < _LEAST_POINTS:
        return None
    log_K = np.log(mse_SK[:, late_K]).mean(axis=0)
    power = float(np.polyfit(np.log(epochs_K[late_K]), log_K, 1)[0])
    if log_K[-3:].mean() <= np.log(target) or power > _FALLING:
        return None
    # The logarithm of the factor by which the epochs have to grow.
    more = max(float(log_K[-1] - np.log(target)), 0.0) / -POWER
    epochs, farthest = float(epochs_K[-1]), float(np.log(_FARTHEST))
    low, high = max(_LOW * more - _MARGIN, 0.0), _HIGH * more + _MARGIN
    return Forecast(
        power,
        epochs * float(np.exp(more)),
        epochs * float(np.exp(min(low, farthest))),
        epochs * float(np.exp(high)),
        beyond=more > farthest,
    )
