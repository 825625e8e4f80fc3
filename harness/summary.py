"""What the tables add up to: a row per backend and device, and seeds averaged side by side.

Times are compared inside blocks only: the ratio of two backends is formed where both trained on
the same seed on the same node, and only then averaged.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from harness.protocol import Array

ARM = ["backend", "device"]
_SPREAD = ["final_mse", "r2", "lag_skill"]
_MEDIAN = [
    "epochs_per_s",
    "train_s",
    "first_call_s",
    "import_s",
    "setup_s",
    "eval_s",
    "wall_s",
    "epochs_to_lag",
    "seconds_to_lag",
    "peak_rss_mb",
]


def summarise(trials: pd.DataFrame) -> pd.DataFrame:
    """Return a row per backend and device, the fastest first.

    Only trials with status "ok" count; `seeds` says how many those are, of how many `trials`.
    `final_mse`, `r2` and `lag_skill` are means over seeds with their standard deviation `_sd`;
    times, rates and the way to the lag are medians over the seeds that have them, `lag_seeds` of
    which got there. `time_ratio` is the training time over that of the fastest, the geometric mean
    of the ratios inside blocks, with the 95 % interval `time_ratio_low` to `time_ratio_high` (from
    Student's t on the logarithms; missing with fewer than two blocks). `noisy` counts the trials
    among `seeds` that were disturbed (see `harness.noise`).
    """
    ok = trials[trials["status"] == "ok"]
    rows = []
    for arm, group in trials.groupby(ARM, sort=False):
        mine = _of_arm(ok, arm)
        row: dict[str, Any] = dict(zip(ARM, arm, strict=True))
        row |= {"seeds": len(mine), "trials": len(group)}
        for name in _SPREAD:
            row[name], row[f"{name}_sd"] = mine[name].mean(), mine[name].std()
        row |= {name: mine[name].astype("float64").median() for name in _MEDIAN}
        row["lag_seeds"] = int(mine["epochs_to_lag"].notna().sum())
        row["contended"] = bool(group["contended"].any())
        row["noisy"] = int(mine["noisy"].sum())
        rows.append(row)
    if not rows:
        return pd.DataFrame()
    summary = pd.DataFrame(rows).sort_values("epochs_per_s", ascending=False, ignore_index=True)
    arms = [_of_arm(ok, tuple(row)) for row in summary[ARM].to_numpy()]
    return summary.join(pd.DataFrame([_time_ratio(arm, fastest=arms[0]) for arm in arms]))


def _of_arm(trials: pd.DataFrame, arm: Any) -> pd.DataFrame:
    return trials[(trials[ARM] == list(arm)).all(axis=1)]


def _time_ratio(trials: pd.DataFrame, fastest: pd.DataFrame) -> dict[str, float]:
    pairs = trials.merge(fastest, on=["block", "node"], suffixes=("", "_fastest"))
    ratio, low, high = geometric_mean(
        (pairs["epochs_per_s_fastest"] / pairs["epochs_per_s"]).to_numpy(dtype=float)
    )
    return {"time_ratio": ratio, "time_ratio_low": low, "time_ratio_high": high}


def geometric_mean(ratios: Array) -> tuple[float, float, float]:
    """Return the geometric mean of positive ratios and its 95 % interval, NaN where undefined."""
    if not len(ratios):
        return float("nan"), float("nan"), float("nan")
    logs = np.log(ratios)
    centre = logs.mean()
    half = float("nan")
    if len(logs) > 1:
        half = stdtrit(len(logs) - 1, 0.975) * logs.std(ddof=1) / np.sqrt(len(logs))
    return float(np.exp(centre)), float(np.exp(centre - half)), float(np.exp(centre + half))


def steps_by_arm(steps: pd.DataFrame) -> pd.DataFrame:
    """Return a row per time step: the MSE of each backend, averaged over seeds, and yardsticks."""
    measured = _side_by_side(steps, "t", "mse")
    yardsticks = steps.groupby("t")[["variance", "memoryless", "wrong_sign"]].first()
    return measured.join(yardsticks).reset_index()


def spread_out(steps: pd.DataFrame, rows: int = 12) -> pd.DataFrame:
    """Return some of the time steps: the first ones, where the lag sets in, then ever fewer."""
    if steps.empty:
        return steps
    last = len(steps)
    chosen = {round(t) for t in np.geomspace(1, last, rows)} | {1, min(2, last), last}
    return steps[steps["t"].isin(chosen)]


def curves_by_arm(curves: pd.DataFrame) -> pd.DataFrame:
    """Return a row per evaluation: loss, MSE and training time of each backend, over seeds."""
    parts = [
        _side_by_side(curves, "epoch", "train_loss", " loss"),
        _side_by_side(curves, "epoch", "eval_mse", " mse"),
        _side_by_side(curves, "epoch", "train_s", " s"),
    ]
    joined = pd.concat(parts, axis=1)
    by_arm = sorted(map(str, joined.columns), key=lambda name: name.rpartition(" ")[0])
    return joined[by_arm].reset_index()


def _side_by_side(table: pd.DataFrame, index: str, values: str, suffix: str = "") -> pd.DataFrame:
    """Average over seeds; a column per backend, its device named where there are several."""
    means = table.groupby([index, *ARM])[values].mean().unstack(ARM)
    means = means.sort_index().sort_index(axis=1)
    one_device = table["device"].nunique() == 1
    arms = means.columns.to_list()
    means.columns = pd.Index([(arm[0] if one_device else " ".join(arm)) + suffix for arm in arms])
    return means
