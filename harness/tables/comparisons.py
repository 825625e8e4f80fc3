"""The table `comparisons`: each backend compared with the fastest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from math import isnan
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from harness.stats import estimates
from harness.stats.estimates import Estimate
from harness.tables import numbers
from harness.tables.columns import columns
from harness.tables.metrics import METRICS, Metric
from harness.tables.pairs import (
    KIND,
    SIGNIFICANT,
    ArmKey,
    Pairs,
    by_speed,
    names,
    of_arm,
    pair,
    usable,
)
from harness.tables.points import at_point, points
from harness.tables.unlike import not_the_same

# Accuracies nearer than this are called the same. Sums in another order shift them a little, always
# the same way, and enough seeds would show that as a difference.
_EQUAL = 0.01
# The mean of all calls is mentioned if it makes a ratio larger or smaller by more than this.
_DISTURBED = 0.05
COMPARISONS = columns(
    "metric backend device against_backend against_device node_kind kind value low high n of p "
    "p_holm shown words"
)


def compare_arms(trials: pd.DataFrame, pilot: int = 0, swept: Sequence[str] = ()) -> pd.DataFrame:
    """Return a row for each metric and each backend and device, compared with the fastest.

    A sweep over the fields `swept` is compared at each of its points. Times are compared on each
    kind of node (`node_kind`), everything else by seed. Times with other trials beside them are
    not compared.

    - `value`: the ratio to the fastest one's or the difference (`kind`), as the mean over the `n`
      pairs that have the metric, of `of` (see `harness.tables.pairs.usable`). `low` to `high` is
      its 95 % interval from Student's t, for ratios on the logarithm. If the first `pilot` blocks
      chose the number of blocks, only they tell how far a time is known.
    - `p`: the two-sided p-value. `p_holm` is corrected for all pairs of the metric at all points,
      not only for those with the fastest: the same data have chosen which one that is.
    - `shown`: whether there is a difference (`p_holm` below 0.05) that is not mere rounding;
      `words` states it.
    """
    rows: list[dict[str, Any]] = []
    for metric in [metric for metric in METRICS.values() if metric.comparison]:
        found = [
            (point, comparison)
            for point, here in points(usable(trials, metric), swept)
            for comparison in _compare_at_point(here, metric, pilot)
        ]
        corrected = estimates.holm([comparison.p for _, comparison in found])
        rows += [
            point | comparison.row(p_holm, at_point(point))
            for (point, comparison), p_holm in zip(found, corrected, strict=True)
            # Without a lag term there is no skill, and no way to the lag.
            if comparison.with_fastest and (comparison.estimate.n or metric.name == "train_s")
        ]
    return pd.DataFrame(rows, columns=[*swept, *COMPARISONS]).astype(COMPARISONS)


def _compare_at_point(here: pd.DataFrame, metric: Metric, pilot: int) -> Iterator[_Comparison]:
    """Yield the comparisons of all pairs of arms in a metric, where they are comparable."""
    kinds = list(dict.fromkeys(here[KIND]))
    places = {kind: here[here[KIND] == kind] for kind in kinds}
    if metric.kind != "time" and kinds:
        # The fastest is that of the kind of node with most trials.
        largest = max(kinds, key=lambda kind: len(places[kind]))
        places = {largest: here}
    for kind, trials in places.items():
        alike = by_speed(trials[trials[KIND] == kind])
        arms = alike + [arm for arm in by_speed(trials) if arm not in alike]
        fastest, *others = arms or [("", "")]
        pairs = {both: pair(trials, *both, metric) for both in combinations([*others, fastest], 2)}
        if not any(pairs[arm, fastest].of for arm in others) and trials["contended"].any():
            continue
        for (arm, against), both in pairs.items():
            stated = metric.name == "train_s" and against == fastest
            unlike = not_the_same(trials, arm, against) if stated else ""
            yield _Comparison(
                arm=arm,
                against=against,
                kind=kind,
                where=f" on {kind}" * (len(places) > 1),
                pairs=both,
                estimate=both.estimate(pilot),
                with_fastest=against == fastest,
                unlike=unlike,
                caveats=_caveats(trials, both, arm, against) if stated else (),
            )


def _caveats(trials: pd.DataFrame, pairs: Pairs, arm: ArmKey, against: ArmKey) -> tuple[str, ...]:
    """Return what has to be said beside a ratio of training times."""
    if not len(pairs.differences):
        return ()
    found = []
    both = pd.concat([of_arm(trials, arm), of_arm(trials, against)])
    if arm[1] != against[1] or (both["timing"] != "rounds").any():
        found.append("timed one after the other")
    if len(cut := both["cut_to"].dropna()):
        some = "some " * (len(cut) < len(both))
        found.append(f"{some}calls cut to {' or '.join(map(str, sorted(set(cut))))} epochs")
    left = both[(both["status"] != "ok") & (both["rounds"] < both["rounds"].max())]
    if len(left):
        found.append(f"from at least {left['rounds'].min()} common rounds")
    means = pair(trials, arm, against, METRICS["train_mean_s"])
    excess = estimates.mean(means.differences - pairs.differences)
    if excess.p_different() < SIGNIFICANT and abs(excess.value) > np.log1p(_DISTURBED):
        ratio = np.exp(abs(means.estimate(0).value))
        found.append(f"{numbers.ratio(ratio)}x by the mean of all calls, disturbances included")
    return tuple(found)


class _Comparison(NamedTuple):
    """Two arms compared in a metric."""

    arm: ArmKey
    against: ArmKey
    kind: str
    where: str
    """The kind of node as text, if there are several."""
    pairs: Pairs
    estimate: Estimate
    with_fastest: bool
    """The other comparisons count in the correction only."""
    unlike: str
    """Where they did not train the same, if they did not."""
    caveats: tuple[str, ...]

    @property
    def p(self) -> float:
        return self.estimate.p_different()

    def row(self, p_holm: float, at: str) -> dict[str, Any]:
        metric, estimate = self.pairs.metric, self.estimate
        low, high = estimate.interval()
        shown = p_holm < SIGNIFICANT
        return {
            "metric": metric.name,
            "backend": self.arm[0],
            "device": self.arm[1],
            "against_backend": self.against[0],
            "against_device": self.against[1],
            "node_kind": self.kind if metric.kind == "time" else None,
            "kind": metric.compared,
            "value": metric.natural(estimate.value),
            "low": metric.natural(low),
            "high": metric.natural(high),
            "n": estimate.n,
            "of": self.pairs.of,
            "p": self.p,
            "p_holm": p_holm,
            "shown": shown and not self._equal(),
            "words": self._words(shown) + at + self.where,
        }

    def _equal(self) -> bool:
        """Whether two accuracies differ by rounding at most, however regularly."""
        metric, estimate = self.pairs.metric, self.estimate
        if metric.kind != "accuracy":
            return False
        reach = abs(estimate.value) + estimate.half_width()
        return not self.pairs.differences.any() or reach < metric.margin(_EQUAL)

    def _words(self, shown: bool) -> str:
        """State the comparison in a sentence, in the direction in which a ratio is 1 or more."""
        metric, estimate = self.pairs.metric, self.estimate
        training = metric.name == "train_s"
        mine, other = names(self.arm, self.against)
        if not estimate.n:
            return self.unlike or f"no ratio of {mine} to {other}: they share no block on one node"
        if estimate.value < 0:
            mine, other, estimate = other, mine, estimate.negated()
        some = f"; {self.pairs.lacking} seeds got there" if self.pairs.lacking else ""
        value, interval = _value_and_interval(metric, estimate)
        if self._equal():
            how = f" to within {_EQUAL:.0%}" if self.pairs.differences.any() else ""
            return (
                f"{mine} and {other} have the same {metric.label}{how} ({estimate.n} seeds{some})"
            )
        unlike = (f"in some blocks, {self.unlike}",) if self.unlike else ()
        caveats = "".join(f"; {caveat}" for caveat in (*unlike, *self.caveats))
        if not shown:
            what = "" if training else f" in the {metric.label}"
            known = f"{value}{interval}{some}{caveats}"
            return f"no difference{what} shown between {mine} and {other} ({known})"
        if training:
            return f"{other} trains {value} faster than {mine}{interval}{some}{caveats}"
        relation = "that of" if metric.ratio else "above that of"
        return f"the {metric.label} of {mine} is {value} {relation} {other}{interval}{some}"


def _value_and_interval(metric: Metric, estimate: Estimate) -> tuple[str, str]:
    text = numbers.ratio if metric.ratio else "{:.3g}".format
    value = text(metric.natural(estimate.value)) + "x" * metric.ratio
    what = "block" if metric.kind == "time" else "seed"
    low, high = map(metric.natural, estimate.interval())
    if isnan(low):
        return value, numbers.no_interval(estimate.n, what)
    if metric.ratio and numbers.too_wide(low, high):
        few = f"{estimate.n} {what}s are too few for an interval: at least {estimate.n + 1}"
        return value, f", {few}"
    return value, numbers.interval(low, high, text)
