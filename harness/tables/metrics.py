"""The metrics: each is declared once, here, and every table, command and export reads this list.

A new metric needs an entry in `_ALL` and, unless it is a field of `Record`, its formula in
`harness.tables.from_records`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    import pandas as pd

    from harness.backend.protocol import Array

Kind: TypeAlias = Literal["time", "accuracy", "memory", "energy"]


@dataclass(frozen=True)
class Metric:
    """A measured quantity: a column of the table `trials`."""

    name: str
    kind: Kind
    label: str
    """What a sentence calls it."""
    compared: Literal["ratio", "difference"] | None = "ratio"
    """How two backends or runs are compared. A value that may be negative has no ratio."""
    higher_is_better: bool = False
    default: bool = False
    """Whether `compare` compares it if no metric is named."""
    needs_lag: bool = False
    """Whether it exists only for a task with a lag term."""
    summary: Literal["mean", "median"] | None = None
    """How the summary averages it over seeds, if it is in there."""
    heading: str = ""
    """Its column in the printed summary; empty if it has none, or one with a format of its own."""
    comparison: Literal["listed", "stated"] | None = None
    """Whether the table `comparisons` has it, and the sentences below the summary state it, too."""
    sized: bool = False
    """Whether it shares the noise by which the number of blocks is chosen (`run --precision`)."""
    tracked: bool = True
    """Whether MLflow gets it as a metric of a trial."""
    per_epoch: bool = False
    """Whether an epoch is compared, so that a training that was cut short stays comparable."""
    on_grid: bool = False
    """Whether it is known only to the distance between two evaluations of a training."""

    @property
    def ratio(self) -> bool:
        """Whether it is compared as a ratio."""
        return self.compared == "ratio"

    def values(self, trials: pd.DataFrame) -> Array:
        """Return the value of each trial [n] on the compared scale; NaN where there is none.

        The scale of a ratio is the logarithm. A time of an epoch holds its `correction_error`, so
        the values are for means over blocks (`harness.trial.machine_state`).
        """
        import numpy as np

        values = trials[self.name].to_numpy(dtype=float, na_value=np.nan)
        if self.per_epoch:
            train_s, epochs_per_s, error = (
                trials[name].to_numpy(dtype=float, na_value=np.nan)
                for name in ("train_s", "epochs_per_s", "correction_error")
            )
            values = values / train_s / epochs_per_s * np.exp(error)
        if self.ratio:
            values = np.log(np.where(values > 0, values, np.nan))
        return np.where(np.isfinite(values), values, np.nan)

    def grid_errors(self, trials: pd.DataFrame) -> Array:
        """Return the standard error [n] that a grid adds to the value of each trial.

        What happened somewhere between two evaluations, a share h of the time so far apart, has an
        even distribution of width h on the scale of a ratio.
        """
        import numpy as np

        if not self.on_grid:
            return np.zeros(len(trials))
        steps, epochs = (
            trials[name].to_numpy(dtype=float, na_value=np.nan)
            for name in ("lag_step", "epochs_to_lag")
        )
        errors: Array = steps / epochs / np.sqrt(12)
        return errors

    def natural(self, value: float) -> float:
        """Return a value on the compared scale as a ratio, or as the difference that it is."""
        import numpy as np

        return float(np.exp(value)) if self.ratio else value

    def margin(self, share: float) -> float:
        """Return a relative margin on the compared scale."""
        import numpy as np

        return float(np.log1p(share)) if self.ratio else share

    def word(self, increase: bool) -> str:
        """Return what an increase or a decrease of the metric is called."""
        if self.kind == "time":
            return "slower" if increase else "faster"
        if self.kind == "accuracy":
            return "better" if increase == self.higher_is_better else "worse"
        return "higher" if increase else "lower"


# MLflow has `train_s` as the end of the curve.
_ALL = (
    Metric("epochs_per_s", "time", "rate", None, True, summary="median", heading="epochs/s"),
    Metric(
        "train_s",
        "time",
        "train time",
        default=True,
        summary="median",
        heading="train s",
        comparison="stated",
        sized=True,
        tracked=False,
        per_epoch=True,
    ),
    Metric("train_mean_s", "time", "mean train time", summary="median", sized=True, per_epoch=True),
    Metric("train_at_once_s", "time", "train time of all seeds", None, summary="median"),
    Metric("start_s", "time", "start-up time", summary="median", heading="start s"),
    Metric("first_call_s", "time", "time of the first call", summary="median"),
    Metric("import_s", "time", "time of the import", summary="median"),
    Metric("setup_s", "time", "time of the set-up", summary="median"),
    Metric("eval_s", "time", "time of evaluation", summary="median"),
    Metric("wall_s", "time", "wall time", summary="median", sized=True),
    Metric("cpu_s", "time", "processor time", None),
    Metric("lost_share", "time", "share of the time lost", None),
    Metric("final_mse", "accuracy", "MSE", default=True, summary="mean", comparison="stated"),
    Metric("r2", "accuracy", "r2", None, True, summary="mean"),
    Metric(
        "lag_skill",
        "accuracy",
        "lag_skill",
        "difference",
        higher_is_better=True,
        default=True,
        needs_lag=True,
        summary="mean",
        comparison="listed",
    ),
    Metric("memory", "accuracy", "memory", None, higher_is_better=True, needs_lag=True),
    Metric(
        "epochs_to_lag",
        "accuracy",
        "number of epochs to the lag",
        needs_lag=True,
        summary="median",
        comparison="listed",
        on_grid=True,
    ),
    Metric(
        "seconds_to_lag",
        "time",
        "training time to the lag",
        needs_lag=True,
        summary="median",
        comparison="stated",
        sized=True,
        on_grid=True,
    ),
    Metric("peak_rss_mb", "memory", "peak memory", summary="median"),
    Metric("peak_gpu_mb", "memory", "peak memory of the GPU", None),
    Metric("energy_j", "energy", "energy", None, summary="median", heading="energy J"),
)
METRICS = {metric.name: metric for metric in _ALL}


def compared_metrics() -> dict[str, Metric]:
    """Return the metrics that `compare` can compare, by name."""
    return {name: metric for name, metric in METRICS.items() if metric.compared}
