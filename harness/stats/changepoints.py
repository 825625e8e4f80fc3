"""Change points: where the level of a series of values changes, with few false alarms.

A segment is split where the means before and after differ most, by the CUSUM statistic

    max over k of |sum of the first k centred values| / sqrt(k (n - k) / n) / spread,

if that is more than chance does. The p-value is the share of random orders of the same values with
a larger statistic. If the order means nothing, all orders are equally likely, whatever the
distribution of the values, so the p-value also holds for outliers and skew. Outliers are pulled in
first, since they would hide change points. Both parts are then split in the same way (binary
segmentation).

Means of unlike numbers of values scatter unlike, so their order does mean something. There the
p-value is the share of random signs of their deviations from the median: each value keeps its
scatter. That holds for noise that is alike above and below.

The spread is that of a mean of neighbours. It comes from the differences between values one and two
places apart, which a change point hardly affects, so one change point does not hide another. If
each value resembles the one before it (a machine that drifts), the spread is larger.

With `tests` series, a segment that d splits have led to is tested at the level
`false_alarms / tests / 2^d`. No tested segment without a change point is part of another one,
except after a false alarm. So the shares of these segments add up to at most one (Kraft), and the
probability of any false alarm in all series together is at most `false_alarms`.

Sources: Page (1954) for the statistic; von Neumann (1941) for a spread from differences; Wu (1986)
for random signs (wild bootstrap); Besag & Clifford (1991) for the sequential p-value, which is
valid however early it stops; Bai (1997) for placing each change point anew between its neighbours;
Siegmund (1988) for where else it may be.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from harness.backend.protocol import Array
from harness.stats import estimates
from harness.stats.estimates import Estimate

Draw: TypeAlias = Callable[[np.random.Generator, Array], Array]
"""From copies of the scores [m, n], draws what they could be without a change point [m, n]."""

FALSE_ALARMS = 0.05
FEWEST = 8
"""Series with fewer values are not tested: so few values have too few orders."""
LEAST = 3
"""Values on either side of a change point: one or two outliers are no new level."""
_REACH = 3.0
"""Outliers are pulled in to so many robust standard deviations."""
_FAR = 4.0
"""A difference counts at most as so many times the median difference."""
_MOST_ALIKE = 0.6
"""Largest correlation with the value before: with more, nothing would be a change point."""
_EXCEEDED = 10
"""The sequential p-value stops after so many draws as extreme as the observed values."""
_MOST_WORK = 5e7
"""Most values to draw for a p-value: a few seconds."""
_BATCH = 250_000
"""Values to draw at a time: few enough for the cache."""
_ALIKE = 1.5
"""Counts within this factor are alike: the means of 2 and of 3 values scatter nearly alike."""
_SEED = 20_151_021
# P(likelihood ratio of the true position <= x) is about (1 - exp(-x / 2))^2 (Siegmund).
_LIKELY = float(-2 * np.log(1 - np.sqrt(estimates.CONFIDENCE)))


@dataclass(frozen=True)
class ChangePoint:
    """A change of level."""

    at: int
    """Index of the first value after it."""
    earliest: int
    latest: int
    """`at` is in between with 95 % confidence, if there is a change point."""
    change: Estimate
    """Mean after it less mean before it, each up to the next change point."""
    p: float
    """Corrected for the number of tests."""


def find_change_points(
    values: Array,
    tests: int = 1,
    false_alarms: float = FALSE_ALARMS,
    margin: float = 0.0,
    counts: Array | None = None,
) -> list[ChangePoint]:
    """Return the change points in a series of values [n], in their order.

    `tests` is how many series are searched in all; `false_alarms` the probability that any is
    found in any of them if there is none. Changes below `margin` are left out. `counts` says how
    many values each is the mean of [n], if not all of equally many. The same values give the same
    change points, and so do their multiples.
    """
    values = np.asarray(values, dtype=float)
    if len(values) < FEWEST:
        return []
    counts = np.ones(len(values)) if counts is None else np.asarray(counts, dtype=float)
    found = _split(values, counts, 0, tests, false_alarms)
    placed = _place(values, sorted(found))
    p_values = dict(zip(placed, (found[at] for at in sorted(found)), strict=True))
    while placed:
        changes = [_change(values, *ends) for ends in _neighbours(values, placed)]
        sizes = [abs(change.value) for change in changes]
        smallest = int(np.argmin(sizes))
        if sizes[smallest] >= margin:
            spans = [_likely(values, *ends) for ends in _neighbours(values, placed)]
            return [
                ChangePoint(at, *span, change, p_values[at])
                for at, span, change in zip(placed, spans, changes, strict=True)
            ]
        del placed[smallest]
    return []


def levels(values: Array, change_points: Sequence[ChangePoint]) -> Array:
    """Return for each value the mean of its segment [n], with outliers pulled in."""
    values = np.asarray(values, dtype=float)
    cuts = [point.at for point in change_points]
    return _each_segment(np.mean, _pulled_in(values, cuts), cuts)


def _split(
    values: Array, counts: Array, start: int, tests: float, false_alarms: float
) -> dict[int, float]:
    """Return the change points of a segment that begins at index `start`, with their p-values."""
    if len(values) < 2 * LEAST:
        return {}
    scores = _scores(values)
    draw = _in_random_order if counts.max() <= _ALIKE * counts.min() else _with_random_signs
    p = tests * _p_value(scores, draw, false_alarms / tests) if scores.any() else 1.0
    if p > false_alarms:
        return {}
    at = _strongest(scores)
    return {
        start + at: p,
        **_split(values[:at], counts[:at], start, 2 * tests, false_alarms),
        **_split(values[at:], counts[at:], start + at, 2 * tests, false_alarms),
    }


def _scores(values: Array) -> Array:
    """Return the centred values, with outliers pulled in."""
    centred = values - np.median(values)
    distance = np.abs(centred)
    # More than half of them may be equal.
    scale = np.median(distance) / 0.6745 or distance.mean()
    pulled = np.clip(centred, -_REACH * scale, _REACH * scale)
    scores: Array = pulled - pulled.mean()
    return scores


def _contrast(scores: Array) -> Array:
    """Return the statistic at each possible change point, for many orders: [m, n] to [m, k]."""
    n = scores.shape[1]
    before = np.arange(LEAST, n - LEAST + 1)
    sums = scores.cumsum(axis=1)[:, LEAST - 1 : n - LEAST]
    contrast: Array = np.abs(sums) / np.sqrt(before * (n - before) / n)
    return contrast


def _strongest(scores: Array) -> int:
    return LEAST + int(_contrast(scores[np.newaxis]).argmax())


def _spread(scores: Array) -> Array:
    """Return the standard deviation of sqrt(n) times a mean of neighbours: [m, n] to [m].

    That of a process in which each value has a correlation r with the one before: differences over
    one and two places have the variances v1 = 2 s^2 (1 - r) and v2 = 2 s^2 (1 - r^2), so that
    r = v2 / v1 - 1, and the variance of the mean is s^2 (1 + r) / (1 - r) / n.
    """
    one = np.abs(np.diff(scores, axis=1))
    two = np.abs(scores[:, 2:] - scores[:, :-2])
    typical = np.median(one, axis=1)
    # If most neighbours are equal, nothing is far, and the others do not drift.
    far = np.where(typical, _FAR * typical, np.inf)
    v1 = (np.minimum(one, far[:, np.newaxis]) ** 2).mean(axis=1)
    far = _FAR * np.median(two, axis=1)
    v2 = (np.minimum(two, far[:, np.newaxis]) ** 2).mean(axis=1)
    r = np.where(typical, np.clip(v2 / v1 - 1, 0, _MOST_ALIKE), 0.0)
    spread: Array = np.sqrt(v1 * (1 + r) / 2) / (1 - r)
    return spread


def _statistic(scores: Array) -> Array:
    statistic: Array = _contrast(scores).max(axis=1) / _spread(scores)
    return statistic


def _in_random_order(rng: np.random.Generator, scores: Array) -> Array:
    """Return the scores of each row in an order of its own: [m, n]."""
    return rng.permuted(scores, axis=1)


def _with_random_signs(rng: np.random.Generator, scores: Array) -> Array:
    """Return the deviations from the median with random signs, centred again: [m, n]."""
    deviations = scores - np.median(scores, axis=1, keepdims=True)
    signed = deviations * (2 * rng.integers(0, 2, scores.shape) - 1)
    centred: Array = signed - signed.mean(axis=1, keepdims=True)
    return centred


def _p_value(scores: Array, draw: Draw, level: float) -> float:
    """Return the share of draws as extreme as these scores [n], exact enough to test at `level`."""
    n = len(scores)
    # What differs by rounding is equal.
    threshold = _statistic(scores[np.newaxis])[0] * (1 - 1e-9)
    most = int(min(np.ceil(_EXCEEDED / level), _MOST_WORK / n))
    rng, exceeded, done, size = np.random.default_rng(_SEED), 0, 0, 2 * _EXCEEDED
    while done < most:
        size = min(size, most - done)
        drawn = draw(rng, np.broadcast_to(scores, (size, n)))
        exceeding = exceeded + (_statistic(drawn) >= threshold).cumsum()
        if exceeding[-1] >= _EXCEEDED:
            return _EXCEEDED / (done + int(exceeding.searchsorted(_EXCEEDED)) + 1)
        exceeded, done = int(exceeding[-1]), done + size
        size = max(min(2 * size, _BATCH // n), 1)
    return (exceeded + 1) / (done + 1)


def _place(values: Array, found: list[int]) -> list[int]:
    """Move each change point to where it is strongest between its neighbours."""
    placed = list(found)
    for number in range(len(placed)):
        start, _, stop = _neighbours(values, placed)[number]
        placed[number] = start + _strongest(_scores(values[start:stop]))
    return placed


def _neighbours(values: Array, points: list[int]) -> list[tuple[int, int, int]]:
    """Return each change point with the one before it, or the start, and the one after it."""
    edges = [0, *points, len(values)]
    return list(zip(edges, edges[1:], edges[2:], strict=False))


def _likely(values: Array, start: int, at: int, stop: int) -> tuple[int, int]:
    """Return the earliest and the latest likely place of a change point."""
    scores = _scores(values[start:stop])
    explained = _contrast(scores[np.newaxis])[0] ** 2
    best = explained[at - start - LEAST]
    left = max(float((scores**2).sum() - best), 0.0) / max(len(scores) - 2, 1)
    likely = np.flatnonzero(best - explained <= _LIKELY * left + 1e-9 * best) + start + LEAST
    return int(min(likely[0], at)), int(max(likely[-1], at))


def _change(values: Array, start: int, at: int, stop: int) -> Estimate:
    pulled = _pulled_in(values[start:stop], [at - start])
    return estimates.difference(pulled[: at - start], pulled[at - start :])


def _pulled_in(values: Array, cuts: list[int]) -> Array:
    """Pull in the outliers of each segment, by the median distance of all values to theirs."""
    centre = _each_segment(np.median, values, cuts)
    reach = _REACH * float(np.median(np.abs(values - centre))) / 0.6745 if len(values) else 0.0
    return np.clip(values, centre - reach, centre + reach) if reach else values


def _each_segment(statistic: Callable[[Array], Any], values: Array, cuts: list[int]) -> Array:
    """Return for each value the statistic of its segment."""
    parts = np.split(values, cuts)
    filled = [np.full(len(part), statistic(part)) for part in parts if len(part)]
    return np.concatenate(filled) if filled else values
