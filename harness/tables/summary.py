"""What the tables add up to: a row per backend and device, comparisons, seeds side by side.

Times are compared inside blocks only: the ratio of two backends is formed where both trained on
the same seed on the same node, and only then averaged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations, product
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pandas as pd

from harness.backend.protocol import Array
from harness.stats import estimates
from harness.stats.estimates import Estimate
from harness.tables.metrics import METRICS, Metric
from harness.tables.numbers import ratio as ratio_text

ArmKey: TypeAlias = tuple[str, str]
"""A backend and a device."""

ARM = ["backend", "device"]
FLOOR: ArmKey = ("floor", "cpu")
"""What each backend's time is held against: about as fast as a core of the machine can be."""
KIND = "node_kind"
SIGNIFICANT = 0.05
# Accuracies nearer than this are called the same: sums in another order shift them a little, and
# always the same way, which with enough seeds would be a difference that is shown.
_EQUAL = 0.01
_SPREAD = ["final_mse", "r2", "lag_skill"]
_MEDIAN = [
    "epochs_per_s",
    "train_s",
    "train_at_once_s",
    "first_call_s",
    "import_s",
    "setup_s",
    "eval_s",
    "wall_s",
    "epochs_to_lag",
    "seconds_to_lag",
    "peak_rss_mb",
    "energy_j",
]
_COMPARED = ("train_s", "final_mse", "lag_skill", "epochs_to_lag", "seconds_to_lag")
COMPARISONS = {
    "metric": "string",
    "backend": "string",
    "device": "string",
    "against_backend": "string",
    "against_device": "string",
    "node_kind": "string",
    "kind": "string",
    "value": "float64",
    "low": "float64",
    "high": "float64",
    "n": "int64",
    "of": "int64",
    "p": "float64",
    "p_holm": "float64",
    "shown": "bool",
    "words": "string",
}


def points(
    table: pd.DataFrame, swept: Sequence[str]
) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """Yield each point of a sweep and its rows; without swept fields, all rows at once.

    Numbers come in their own order, names in that in which they are in the table.
    """
    if not swept or table.empty:
        yield {}, table
        return
    groups: dict[tuple[Any, ...], pd.DataFrame] = dict(list(table.groupby(list(swept), sort=False)))
    columns = [list(dict.fromkeys(values)) for values in zip(*groups, strict=True)]
    orders = [v if any(isinstance(name, str) for name in v) else sorted(v) for v in columns]
    for point in product(*orders):
        if point not in groups:
            continue
        yield dict(zip(swept, point, strict=True)), groups[point].reset_index(drop=True)


def at_each_point(
    table: pd.DataFrame, swept: Sequence[str], build: Callable[[pd.DataFrame], pd.DataFrame]
) -> pd.DataFrame:
    """Build a table of the rows at each point of a sweep; the swept fields come first."""
    built = []
    for point, there in points(table, swept):
        part = build(there)
        for position, (name, value) in enumerate(point.items()):
            part.insert(position, name, value)
        built.append(part)
    return pd.concat(built, ignore_index=True) if built[1:] else built[0]


def summarise(trials: pd.DataFrame, pilot: int = 0, swept: Sequence[str] = ()) -> pd.DataFrame:
    """Return a row per backend and device on each kind of node, the fastest first.

    Of a sweep over the fields `swept`, there are such rows for each of its points.
    Nothing is averaged over nodes of unlike kinds (see `harness.measure.fingerprint`).
    Only trials with status "ok" count; `seeds` says how many those are, of how many `trials`.
    `final_mse`, `r2` and `lag_skill` are means over seeds with their standard deviation `_sd`;
    `final_mse_geo` is the geometric mean. `final_mse_low` to `final_mse_high` is the 95 % interval
    of the geometric mean, `lag_skill_low` to `lag_skill_high` that of the mean. Times, rates and
    the way to the lag are medians over the seeds that have them, `lag_seeds` of which got there.
    `time_ratio` is the training time over that of the fastest there, `time_ratio_low` to
    `time_ratio_high` its 95 % interval: see `compare_arms`, also for `pilot`. Missing is what
    needs two seeds where there is one, and ratios of contended times. `noisy` counts the trials
    among `seeds` that were disturbed (see `harness.trial.noise`). `floor_ratio`, `floor_ratio_low`
    and `floor_ratio_high` are the same for the time over that of `FLOOR`, where that was measured,
    with one thread each: the floor is that of a core.
    """
    return at_each_point(trials, swept, lambda there: _summarise(there, pilot))


def _summarise(trials: pd.DataFrame, pilot: int) -> pd.DataFrame:
    ok = trials[trials["status"] == "ok"]
    rows = []
    for (*arm, kind), group in trials.groupby([*ARM, KIND], sort=False):
        mine = of_arm(ok[ok[KIND] == kind], arm)
        row: dict[str, Any] = dict(zip(ARM, arm, strict=True)) | {KIND: kind}
        row |= {"seeds": len(mine), "trials": len(group)}
        for name in _SPREAD:
            row[name], row[f"{name}_sd"] = mine[name].mean(), mine[name].std()
        row |= _interval("final_mse", mine) | _interval("lag_skill", mine)
        row |= {name: mine[name].astype("float64").median() for name in _MEDIAN}
        row["lag_seeds"] = int(mine["epochs_to_lag"].notna().sum())
        row["at_once"] = int(group["at_once"].max())
        row["contended"] = bool(group["contended"].any())
        row["noisy"] = int(mine["noisy"].sum())
        rows.append(row)
    if not rows:
        return pd.DataFrame()
    summary = pd.DataFrame(rows).sort_values(
        [KIND, "epochs_per_s"], ascending=[True, False], ignore_index=True, kind="stable"
    )
    ratios = []
    for kind, group in summary.groupby(KIND, sort=False):
        arms: list[ArmKey] = [(str(b), str(device)) for b, device in group[ARM].to_numpy()]
        there = ok[ok[KIND] == kind]
        ratios += [
            _time_ratio("time_ratio", there, arm, arms[0], pilot)
            | _time_ratio("floor_ratio", there[there["threads"] == 1], arm, FLOOR, pilot)
            | {"fastest": arm == arms[0]}
            for arm in arms
        ]
    return summary.join(pd.DataFrame(ratios))


def of_arm(trials: pd.DataFrame, arm: Any) -> pd.DataFrame:
    """Return the trials of a backend on a device."""
    return trials[(trials[ARM] == list(arm)).all(axis=1)]


def _interval(name: str, trials: pd.DataFrame) -> dict[str, float]:
    metric = METRICS[name]
    values = metric.values(trials)
    estimate = estimates.mean(values[~np.isnan(values)])
    low, high = map(metric.natural, estimate.interval())
    centre = {f"{name}_geo": metric.natural(estimate.value)} if metric.ratio else {}
    return centre | {f"{name}_low": low, f"{name}_high": high}


def _time_ratio(
    name: str, ok: pd.DataFrame, arm: ArmKey, against: ArmKey, pilot: int
) -> dict[str, float]:
    metric = METRICS["train_s"]
    estimate = pair(ok, arm, against, metric).estimate(pilot)
    ratio, low, high = map(metric.natural, (estimate.value, *estimate.interval()))
    return {name: ratio, f"{name}_low": low, f"{name}_high": high}


class Pairs(NamedTuple):
    """What two arms have in common in a metric, in the order of the blocks."""

    metric: Metric
    differences: Array
    """On the scale that is compared [n]: logarithms of ratios, mostly."""
    blocks: Array
    """The block of each [n]."""
    of: int
    """How many pairs ended ok, those without a value of the metric included."""
    lacking: str = ""
    """How many of how many seeds have a value, if not all of them: "3 of 5"."""

    def pilot(self, blocks: int) -> int:
        """Return how many of the pairs are in the first `blocks` blocks, if those chose `n`."""
        return int((self.blocks < blocks).sum()) if self.metric.sized else 0

    def estimate(self, pilot_blocks: int) -> Estimate:
        """Estimate the mean difference; a failed trial of the pilot makes the pilot smaller."""
        return estimates.mean(self.differences, self.pilot(pilot_blocks))


def pair(trials: pd.DataFrame, arm: ArmKey, against: ArmKey, metric: Metric) -> Pairs:
    """Pair the trials of two arms: times inside blocks on one node, anything else by seed.

    Trials that did not end ok are left out, and those of which the metric says nothing; for a
    time, also those with other trials beside them. Of a time, a block of several seeds (somebody
    trained them at once) is one pair: the mean over its seeds.
    """
    usable, keys = trials[trials["status"] == "ok"], ["seed", "block"]
    if metric.kind == "time":
        usable, keys = usable[~usable["contended"]], ["seed", "block", "node"]
    mine, theirs = (
        side[keys].assign(value=metric.values(side))
        for side in (of_arm(usable, arm), of_arm(usable, against))
    )
    both = mine.merge(theirs, on=keys, suffixes=("", "_against")).sort_values("block")
    both["difference"] = both["value"] - both["value_against"]
    have = int(both["difference"].notna().sum())
    lacking = f"{have} of {len(both)}" if have < len(both) else ""
    if metric.kind == "time":
        both = both.groupby("block", as_index=False)[["difference"]].mean()
    differences = both["difference"].to_numpy(dtype=float)
    there = ~np.isnan(differences)
    return Pairs(metric, differences[there], both["block"].to_numpy()[there], len(both), lacking)


def by_speed(trials: pd.DataFrame) -> list[ArmKey]:
    """Return the backends and devices of which a trial ended ok, the fastest (median) first."""
    ok = trials[trials["status"] == "ok"]
    speed = ok.groupby(ARM, sort=False)["epochs_per_s"].median()
    ordered = speed.sort_values(ascending=False, kind="stable")
    return [(backend, device) for backend, device in ordered.index]


def compare_arms(trials: pd.DataFrame, pilot: int = 0, swept: Sequence[str] = ()) -> pd.DataFrame:
    """Return a row for each metric and each backend and device, against the fastest.

    Times are compared on each kind of node by itself, named in `node_kind`; all else by seed. Of a
    sweep over the fields `swept`, each point is compared by itself. `value` is the ratio to the
    fastest one's or, of `lag_skill`, the difference (`kind` says which): the mean over the `n`
    pairs that have it, of the `of` that ended ok. `low` to `high` is its own 95 % interval from
    Student's t (of ratios on the logarithms), `p` its two-sided p-value and `p_holm` the same
    corrected for all pairs there are in that metric, at all points, not only for those with the
    fastest: the data that are tested have chosen which one that is. `words` states a difference
    where `p_holm` is below 0.05. If the number of blocks was chosen by the first `pilot` of them,
    only those tell how far a time is known. Times are not compared if other trials ran beside
    them. `shown` says whether a difference is stated: it is, unless it is one of rounding.
    """
    ok = trials[trials["status"] == "ok"]
    rows: list[dict[str, Any]] = []
    for name in _COMPARED:
        found = [
            (point, where, comparison)
            for point, there in points(ok, swept)
            for where, comparison in _compare_at_point(there, METRICS[name], pilot)
        ]
        p_values = [comparison.estimate.p_different() for *_, comparison in found]
        rows += [
            point | _comparison(comparison, p_holm, _at(point) + where)
            for (point, where, comparison), p_holm in zip(
                found, estimates.holm(p_values), strict=True
            )
            # Without a lag term, nobody has a skill or gets there.
            if comparison.stated and (comparison.estimate.n or name == "train_s")
        ]
    return pd.DataFrame(rows, columns=[*swept, *COMPARISONS]).astype(COMPARISONS)


def _compare_at_point(
    ok: pd.DataFrame, metric: Metric, pilot: int
) -> Iterator[tuple[str, _Compared]]:
    """Yield the comparisons of all pairs in a metric, and where they hold if that is to be said."""
    kinds = list(dict.fromkeys(ok[KIND]))
    places = {kind: ok[ok[KIND] == kind] for kind in kinds}
    if metric.kind != "time" and kinds:
        # The fastest is that of the kind of node with most trials.
        largest = max(kinds, key=lambda kind: len(places[kind]))
        places = {largest: ok}
    for kind, there in places.items():
        for comparison in _against_fastest(there, metric, kind, pilot):
            yield f" on {kind}" * (len(places) > 1), comparison


def _at(point: Mapping[str, Any]) -> str:
    """Say at which point of a sweep: ` at hidden = 64, cell = gru`."""
    said = ", ".join(f"{name} = {value}" for name, value in point.items())
    return f" at {said}" if said else ""


class _Compared(NamedTuple):
    arm: ArmKey
    against: ArmKey
    kind: str
    both: Pairs
    estimate: Estimate
    stated: bool
    """Whether it is one with the fastest; the others count in the correction only."""


def _against_fastest(ok: pd.DataFrame, metric: Metric, kind: str, pilot: int) -> list[_Compared]:
    """Compare all pairs of arms in a metric, where their trials are comparable."""
    there = ok[ok[KIND] == kind]
    arms = by_speed(there) + [arm for arm in by_speed(ok) if arm not in by_speed(there)]
    fastest, *others = arms or [("", "")]
    pairs = {both: pair(ok, *both, metric) for both in combinations([*others, fastest], 2)}
    stated = [(arm, fastest) for arm in others]
    if not any(pairs[both].of for both in stated) and ok["contended"].any():
        return []
    return [
        _Compared(*both, kind, found, found.estimate(pilot), both in stated)
        for both, found in pairs.items()
    ]


def _comparison(compared: _Compared, p_holm: float, where: str) -> dict[str, Any]:
    arm, against, kind, both, estimate, _ = compared
    natural = both.metric.natural
    low, high = estimate.interval()
    one_device = arm[1] == against[1]
    mine, other = (name if one_device else f"{name} on {dev}" for name, dev in (arm, against))
    shown = p_holm < SIGNIFICANT
    return {
        "metric": both.metric.name,
        "backend": arm[0],
        "device": arm[1],
        "against_backend": against[0],
        "against_device": against[1],
        "node_kind": kind if both.metric.kind == "time" else None,
        "kind": "ratio" if both.metric.ratio else "difference",
        "value": natural(estimate.value),
        "low": natural(low),
        "high": natural(high),
        "n": estimate.n,
        "of": both.of,
        "p": estimate.p_different(),
        "p_holm": p_holm,
        "shown": shown and not _equal(both.metric, both, estimate),
        "words": _words(mine, other, both, estimate, shown) + where,
    }


def _words(mine: str, other: str, both: Pairs, estimate: Estimate, shown: bool) -> str:
    """Say in a sentence what a comparison shows; turned round so that a ratio is 1 or more."""
    metric, training = both.metric, both.metric.name == "train_s"
    if not estimate.n:
        return f"no ratio of {mine} to {other}: they share no block on one node"
    if estimate.value < 0:
        mine, other, estimate = other, mine, estimate.negated()
    some = f"; {both.lacking} seeds got there" if both.lacking else ""
    value, interval = _figures(metric, estimate)
    if _equal(metric, both, estimate):
        how = f" to within {_EQUAL:.0%}" if both.differences.any() else ""
        return f"{mine} and {other} have the same {metric.title}{how} ({estimate.n} seeds{some})"
    if not shown:
        what = "" if training else f" in the {metric.title}"
        return f"no difference{what} shown between {mine} and {other} ({value}{interval}{some})"
    if training:  # Whose time is longer is the slower one.
        return f"{other} is {value} faster than {mine}{interval}{some}"
    if metric.ratio:
        return f"the {metric.title} of {mine} is {value} that of {other}{interval}{some}"
    return f"the {metric.title} of {mine} is {value} above that of {other}{interval}{some}"


def _equal(metric: Metric, both: Pairs, estimate: Estimate) -> bool:
    """Whether two backends differ in accuracy by rounding at most, however regularly."""
    half, margin = estimate.half_width(), metric.margin(_EQUAL)
    if metric.kind != "accuracy":
        return False
    return not both.differences.any() or abs(estimate.value) + half < margin


def _figures(metric: Metric, estimate: Estimate) -> tuple[str, str]:
    """Return the value and its interval as text."""
    show = ratio_text if metric.ratio else "{:.3g}".format
    low, high = (show(metric.natural(bound)) for bound in estimate.interval())
    value = show(metric.natural(estimate.value)) + "x" * metric.ratio
    if estimate.n < 2:
        return value, f", one {'block' if metric.kind == 'time' else 'seed'}: no interval"
    return value, f" [{low}, {high}]"


def steps_by_arm(steps: pd.DataFrame, swept: Sequence[str] = ()) -> pd.DataFrame:
    """Return a row per time step: the MSE of each backend, averaged over seeds, and yardsticks."""
    return at_each_point(steps, swept, _steps_by_arm)


def _steps_by_arm(steps: pd.DataFrame) -> pd.DataFrame:
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


def curves_by_arm(
    curves: pd.DataFrame, one_kind: bool = True, swept: Sequence[str] = ()
) -> pd.DataFrame:
    """Return a row per evaluation: loss, MSE and training time of each backend, over seeds.

    The time is left out unless all trials ran on `one_kind` of node.
    """
    return at_each_point(curves, swept, lambda there: _curves_by_arm(there, one_kind))


def _curves_by_arm(curves: pd.DataFrame, one_kind: bool) -> pd.DataFrame:
    parts = [
        _side_by_side(curves, "epoch", "train_loss", " loss"),
        _side_by_side(curves, "epoch", "eval_mse", " mse"),
    ]
    if one_kind:
        parts.append(_side_by_side(curves, "epoch", "train_s", " s"))
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
