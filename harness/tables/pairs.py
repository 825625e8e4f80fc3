"""Pairs of trials of two backends: times in one block on one node, anything else by seed."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pandas as pd

from harness.backend.protocol import Array
from harness.stats import estimates
from harness.stats.estimates import Estimate
from harness.tables.metrics import Metric
from harness.trial.epoch_time import FEWEST_ROUNDS

ArmKey: TypeAlias = tuple[str, str]
"""A backend and a device."""

ARM = ["backend", "device"]
KIND = "node_kind"
SIGNIFICANT = 0.05


class Pairs(NamedTuple):
    """The values of a metric that two arms have in common, in the order of the blocks."""

    metric: Metric
    differences: Array
    """On the compared scale [n]: the logarithm of a ratio, mostly."""
    blocks: Array
    """The block of each [n]."""
    grid_error: float
    """The standard error of a difference, as both values lie on a grid; 0 if they do not."""
    of: int
    """How many pairs there are, including those without a value of the metric."""
    lacking: str = ""
    """How many of the seeds have a value, if not all do: "3 of 5"."""

    def pilot(self, blocks: int) -> int:
        """Return how many of the pairs are in the first `blocks` blocks, if those chose `n`."""
        return int((self.blocks < blocks).sum()) if self.metric.sized else 0

    def estimate(self, pilot_blocks: int) -> Estimate:
        """Estimate the mean difference; a failed trial of the pilot makes the pilot smaller."""
        mean = estimates.mean_of_times if self.metric.kind == "time" else estimates.mean
        return mean(self.differences, self.pilot(pilot_blocks), self.grid_error)


def usable(trials: pd.DataFrame, metric: Metric) -> pd.DataFrame:
    """Return the trials that are compared in a metric: those that ended ok.

    How long an epoch takes is also known of those that took enough rounds with the others before
    they diverged or ran out of time.
    """
    known = trials["status"] == "ok"
    if metric.per_epoch:
        left = trials["status"].isin(["diverged", "timeout"]) & trials["epochs_per_s"].notna()
        known |= left & (trials["timing"] == "rounds") & (trials["rounds"] >= FEWEST_ROUNDS)
    return trials[known]


def pair(trials: pd.DataFrame, arm: ArmKey, against: ArmKey, metric: Metric) -> Pairs:
    """Pair the trials of two arms, all `usable`, that have a value of the metric.

    A time is left out if other trials were beside it, or if it is of another training
    (`harness.tables.unlike`). Seeds that were trained at once in a block are
    one measurement of a time: their mean is one pair.
    """
    keys = ["seed", "block"]
    if metric.kind == "time":
        trials = trials[~trials["contended"] & trials["epochs_per_s"].notna()]
        keys = ["seed", "block", "node"]
    mine, theirs = (
        side[keys].assign(value=metric.values(side), grid=metric.grid_errors(side))
        for side in (of_arm(trials, arm), of_arm(trials, against))
    )
    both = mine.merge(theirs, on=keys, suffixes=("", "_against")).sort_values("block")
    both["difference"] = both["value"] - both["value_against"]
    both["grid"] = both["grid"] ** 2 + both["grid_against"] ** 2
    have = int(both["difference"].notna().sum())
    lacking = f"{have} of {len(both)}" if have < len(both) else ""
    if metric.kind == "time":
        both = both.groupby("block", as_index=False)[["difference", "grid"]].mean()
    differences = both["difference"].to_numpy(dtype=float)
    known = ~np.isnan(differences)
    return Pairs(
        metric=metric,
        differences=differences[known],
        blocks=both["block"].to_numpy()[known],
        grid_error=float(np.sqrt(both["grid"][known].mean())) if known.any() else 0.0,
        of=len(both),
        lacking=lacking,
    )


def of_arm(trials: pd.DataFrame, arm: Any) -> pd.DataFrame:
    """Return the trials of a backend on a device."""
    backend, device = arm
    its: pd.Series[bool] = (trials["backend"] == backend) & (trials["device"] == device)
    return trials[its]


def names(arm: ArmKey, against: ArmKey) -> tuple[str, str]:
    """Return what a sentence calls two arms; with their devices if these differ."""
    if arm[1] == against[1]:
        return arm[0], against[0]
    return " on ".join(arm), " on ".join(against)


def by_speed(trials: pd.DataFrame) -> list[ArmKey]:
    """Return the arms, the fastest (median) first; at the end those of which no trial ended ok."""
    arms = trials.assign(ok=trials["status"] == "ok").groupby(ARM, sort=False)
    ranks = arms.agg({"ok": "max", "epochs_per_s": "median"})
    ordered = ranks.sort_values(["ok", "epochs_per_s"], ascending=False, kind="stable")
    return [(backend, device) for backend, device in ordered.index]
