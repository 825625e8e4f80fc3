"""The summary: a row per backend and device."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from harness.stats import estimates
from harness.stats.median import Median
from harness.tables.memory import lower_median
from harness.tables.metrics import METRICS, Metric
from harness.tables.pairs import ARM, KIND, ArmKey, of_arm, pair, usable
from harness.tables.points import at_each_point

FLOOR: ArmKey = ("floor", "cpu")
"""Each backend's time is compared with this one's: about the fastest that a core can be."""


def summarise(trials: pd.DataFrame, pilot: int = 0, swept: Sequence[str] = ()) -> pd.DataFrame:
    """Return a row per backend and device on each kind of node, the fastest first.

    A sweep over the fields `swept` has such rows for each of its points. Nothing is averaged over
    unlike kinds of nodes (see `harness.measure.fingerprint`).

    - `seeds`: how many of the `trials` ended ok; only those count below.
    - `final_mse`, `r2`, `lag_skill`: mean over seeds, `..._sd` the standard deviation.
      `final_mse_geo` is the geometric mean and `final_mse_low`, `final_mse_high` its 95 % interval;
      `lag_skill_low`, `lag_skill_high` are that of the mean.
    - `memory`: the median over seeds (the lower one of two), `memory_low` to `memory_high` its 95 %
      interval by the sign test, which needs six seeds.
    - Times, rates and the way to the lag: medians over the seeds that have them. `lag_seeds` seeds
      got to the lag. For `epochs_per_s` and the ratios, see `harness.tables.pairs.usable`.
    - `time_ratio`, `time_ratio_low`, `time_ratio_high`: the training time as a ratio to that of the
      `fastest`, as in `compare_arms`, which also explains `pilot`. Contended times have no ratio.
    - `floor_ratio`, `floor_ratio_low`, `floor_ratio_high`: the same against `FLOOR`, where that was
      measured, for trials with one thread.
    - `noisy`: how many of the `seeds` were disturbed (see `harness.trial.noise`).

    What needs two seeds is missing where there is one.
    """
    return at_each_point(trials, swept, lambda rows: _summarise(rows, pilot))


def _summarise(trials: pd.DataFrame, pilot: int) -> pd.DataFrame:
    ok = trials[trials["status"] == "ok"]
    timed = usable(trials, METRICS["train_s"])
    rows = []
    for (*arm, kind), group in trials.groupby([*ARM, KIND], sort=False):
        mine = of_arm(ok[ok[KIND] == kind], arm)
        rows.append(
            dict(zip([*ARM, KIND], (*arm, kind), strict=True))
            | {"seeds": len(mine), "trials": len(group)}
            | _averages(mine)
            | {
                "epochs_per_s": of_arm(timed[timed[KIND] == kind], arm)["epochs_per_s"].median(),
                "lag_seeds": int(mine["epochs_to_lag"].notna().sum()),
                "at_once": int(group["at_once"].max()),
                "contended": bool(group["contended"].any()),
                "noisy": int(mine["noisy"].sum()),
            }
        )
    if not rows:
        return pd.DataFrame()
    summary = pd.DataFrame(rows)
    summary = summary.sort_values(
        by=[KIND, "seeds", "epochs_per_s"],
        key=lambda values: values > 0 if values.name == "seeds" else values,
        ascending=[True, False, False],
        ignore_index=True,
        kind="stable",
    )
    ratios = []
    for kind, group in summary.groupby(KIND, sort=False):
        arms: list[ArmKey] = [(str(b), str(device)) for b, device in group[ARM].to_numpy()]
        alike = timed[timed[KIND] == kind]
        ratios += [
            _time_ratio("time_ratio", alike, arm, arms[0], pilot)
            | _time_ratio("floor_ratio", alike[alike["threads"] == 1], arm, FLOOR, pilot)
            | {"fastest": arm == arms[0]}
            for arm in arms
        ]
    return summary.join(pd.DataFrame(ratios))


def _averages(trials: pd.DataFrame) -> dict[str, float]:
    """Return the means of some metrics with spreads and intervals, and the medians of others."""
    means = [metric for metric in METRICS.values() if metric.summary == "mean"]
    medians = [metric.name for metric in METRICS.values() if metric.summary == "median"]
    row: dict[str, float] = {}
    for metric in means:
        values = trials[metric.name]
        row |= {metric.name: values.mean(), f"{metric.name}_sd": values.std()}
    for metric in means:
        row |= _interval(metric, trials) if metric.compared else {}
    memory = trials["memory"].dropna()
    low, high = Median(memory.to_numpy(dtype=float)).interval()
    row |= {"memory": lower_median(memory), "memory_low": low, "memory_high": high}
    return row | {name: trials[name].astype("float64").median() for name in medians}


def _interval(metric: Metric, trials: pd.DataFrame) -> dict[str, float]:
    values = metric.values(trials)
    estimate = estimates.mean(values[~np.isnan(values)])
    low, high = map(metric.natural, estimate.interval())
    centre = {f"{metric.name}_geo": metric.natural(estimate.value)} if metric.ratio else {}
    return centre | {f"{metric.name}_low": low, f"{metric.name}_high": high}


def _time_ratio(
    name: str, timed: pd.DataFrame, arm: ArmKey, against: ArmKey, pilot: int
) -> dict[str, float]:
    metric = METRICS["train_s"]
    estimate = pair(timed, arm, against, metric).estimate(pilot)
    ratio, low, high = map(metric.natural, (estimate.value, *estimate.interval()))
    if arm == against:
        low = high = ratio
    return {name: ratio, f"{name}_low": low, f"{name}_high": high}
