"""What can be compared: each metric's values, the scale they are compared on, and its words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from harness.backend.protocol import Array

if TYPE_CHECKING:
    import pandas as pd

Kind: TypeAlias = Literal["time", "accuracy", "memory"]


@dataclass(frozen=True)
class Metric:
    """A column of the trials table that can be compared.

    Ratios are formed on the logarithm; what may be negative is compared as a difference.
    """

    name: str
    kind: Kind
    title: str
    """What a sentence calls it."""
    ratio: bool = True
    higher_is_better: bool = False
    sized: bool = False
    """Whether it shares the noise by which the number of blocks is chosen (`run --precision`)."""

    def values(self, trials: pd.DataFrame) -> Array:
        """Return the value of each trial, on the log scale for a ratio; NaN where there is none."""
        values = trials[self.name].to_numpy(dtype=float, na_value=np.nan)
        if self.name == "train_s":
            # Per epoch, so that a training that was cut short would count as what it is.
            values = 1 / trials["epochs_per_s"].to_numpy(dtype=float, na_value=np.nan)
        if self.ratio:
            # A zero or a negative time is no time: it has no logarithm.
            values = np.log(np.where(values > 0, values, np.nan))
        return np.where(np.isfinite(values), values, np.nan)

    def natural(self, value: float) -> float:
        """Return what a value on the compared scale is on the metric's own: a ratio, mostly."""
        return float(np.exp(value)) if self.ratio else value

    def margin(self, share: float) -> float:
        """Return a relative margin on the scale that is compared; of a difference, the number."""
        return float(np.log1p(share)) if self.ratio else share

    def word(self, increase: bool) -> str:
        """Return what an increase or a decrease of the metric is called."""
        if self.kind == "time":
            return "slower" if increase else "faster"
        if self.kind == "memory":
            return "higher" if increase else "lower"
        return "better" if increase == self.higher_is_better else "worse"


_ALL = (
    Metric("train_s", "time", "train time", sized=True),
    Metric("first_call_s", "time", "time of the first call"),
    Metric("import_s", "time", "time of the import"),
    Metric("setup_s", "time", "time of the set-up"),
    Metric("eval_s", "time", "time of evaluation"),
    Metric("wall_s", "time", "wall time", sized=True),
    Metric("final_mse", "accuracy", "MSE"),
    Metric("lag_skill", "accuracy", "lag_skill", ratio=False, higher_is_better=True),
    Metric("epochs_to_lag", "accuracy", "number of epochs to the lag"),
    Metric("seconds_to_lag", "time", "training time to the lag", sized=True),
    Metric("peak_rss_mb", "memory", "peak memory"),
)
METRICS = {metric.name: metric for metric in _ALL}
