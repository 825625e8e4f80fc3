"""Where the level of a series of values changes: steps in time order, with few false ones.

A segment is split where the means before and after differ most, by the CUSUM statistic

    max over k of |sum of the first k centred values| / sqrt(k (n - k) / n) / spread,

if more than chance does that: its p-value is the share of random orders of the same values that
have a larger one. If the order says nothing, all orders are equally likely, whatever the values'
distribution; so the p-value holds for outliers and skew, too. Values far out are pulled in first,
since they would hide steps. Then both parts are split in the same way (binary segmentation).

The spread is that of a mean of neighbours: from the differences between values one and two places
apart, which a step hardly touches, however large. So other steps in the segment do not hide one,
and if each value is a little like the one before it (a machine that drifts), the spread is larger.

Of `tests` series, a segment that is the result of d splits is held to `false_alarms / tests / 2^d`.
Of the segments that are tested and hold no step, none is part of another but by a false alarm; so
their shares add up to at most one (Kraft), and so do their chances of a false alarm to at most
`false_alarms`: that any step is stated where there is none, in all series together.

Sources: Page (1954) for the statistic; von Neumann (1941) for a spread from differences; Besag &
Clifford (1991) for the sequential p-value, which is valid however early it stops; Bai (1997) for
placing each step anew between its neighbours; Siegmund (1988) for where else it may be.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.backend.protocol import Array
from harness.stats import estimates
from harness.stats.estimates import Estimate

FALSE_ALARMS = 0.05
FEWEST = 8
"""Series with fewer values are not tested: hardly an order of so few is rare enough."""
LEAST = 3
"""Values on either side of a step: one or two that are out of line are no new level."""
_REACH = 3.0
"""How far out a value may be, in robust standard deviations, before it is pulled in."""
_FAR = 4.0
"""How many times their median a difference counts at most."""
_MOST_ALIKE = 0.6
"""The largest correlation with the value before that is believed: beyond it, nothing is a step."""
_EXCEEDED = 10
"""So many orders as extreme as the one observed, and the search for more ends."""
_MOST_WORK = 5e7
"""Most values to be put in order for a p-value: a few seconds."""
_BATCH = 250_000
"""Values that are put in order at a time: few enough for the cache."""
_SEED = 20_151_021
# P(likelihood ratio of the true position <= x) is about (1 - exp(-x / 2))^2 (Siegmund).
_LIKELY = float(-2 * np.log(1 - np.sqrt(estimates.CONFIDENCE)))


@dataclass(frozen=True)
class Step:
    """A change of level."""

    at: int
    """Index of the first value after it."""
    earliest: int
    latest: int
    """`at` is in between with 95 % confidence, if the step is one."""
    change: Estimate
    """Mean after it less mean before it, each as far as the next step."""
    p: float
    """Corrected for the number of tests."""


def find_steps(
    values: Array, tests: int = 1, false_alarms: float = FALSE_ALARMS, margin: float = 0.0
) -> list[Step]:
    """Return the steps in a series of values [n], in their order.

    `tests` is how many series are searched in all; `false_alarms` the probability that any step is
    found in any of them if there is none. Steps smaller than `margin` are left out. The same values
    give the same steps, and so do their multiples.
    """
    values = np.asarray(values, dtype=float)
    if len(values) < FEWEST:
        return []
    found = _split(values, 0, tests, false_alarms)
    placed = _place(values, sorted(found))
    p_values = dict(zip(placed, (found[at] for at in sorted(found)), strict=True))
    while placed:
        changes = [_change(values, *ends) for ends in _neighbours(values, placed)]
        sizes = [abs(change.value) for change in changes]
        smallest = int(np.argmin(sizes))
        if sizes[smallest] >= margin:
            spans = [_likely(values, *ends) for ends in _neighbours(values, placed)]
            return [
                Step(at, *span, change, p_values[at])
                for at, span, change in zip(placed, spans, changes, strict=True)
            ]
        del placed[smallest]
    return []


def levels(values: Array, steps: Sequence[Step]) -> Array:
    """Return the mean of the segment that each value is in [n], as the steps' changes have it."""
    values = np.asarray(values, dtype=float)
    cuts = [step.at for step in steps]
    return _each_segment(np.mean, _pulled_in(values, cuts), cuts)


def _split(values: Array, start: int, tests: float, false_alarms: float) -> dict[int, float]:
    """Return where a segment, whose first value has the index `start`, has steps, and their p."""
    if len(values) < 2 * LEAST:
        return {}
    scores = _scores(values)
    p = tests * _p_value(scores, false_alarms / tests) if scores.any() else 1.0
    if p > false_alarms:
        return {}
    at = _strongest(scores)
    return {
        start + at: p,
        **_split(values[:at], start, 2 * tests, false_alarms),
        **_split(values[at:], start + at, 2 * tests, false_alarms),
    }


def _scores(values: Array) -> Array:
    """Return the values less their mean, those far out pulled in."""
    centred = values - np.median(values)
    distance = np.abs(centred)
    # More than half of them may be equal.
    scale = np.median(distance) / 0.6745 or distance.mean()
    pulled = np.clip(centred, -_REACH * scale, _REACH * scale)
    scores: Array = pulled - pulled.mean()
    return scores


def _contrast(scores: Array) -> Array:
    """Return the statistic for each place of a step, of many orders at once: [m, n] to [m, k]."""
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


def _p_value(scores: Array, level: float) -> float:
    """Return the share of orders as extreme as this one [n], as exactly as `level` asks for."""
    n = len(scores)
    # What differs by rounding is equal.
    threshold = _statistic(scores[np.newaxis])[0] * (1 - 1e-9)
    most = int(min(np.ceil(_EXCEEDED / level), _MOST_WORK / n))
    rng, exceeded, done, size = np.random.default_rng(_SEED), 0, 0, 2 * _EXCEEDED
    while done < most:
        size = min(size, most - done)
        orders = rng.permuted(np.broadcast_to(scores, (size, n)), axis=1)
        counts = exceeded + (_statistic(orders) >= threshold).cumsum()
        if counts[-1] >= _EXCEEDED:
            return _EXCEEDED / (done + int(counts.searchsorted(_EXCEEDED)) + 1)
        exceeded, done = int(counts[-1]), done + size
        size = max(min(2 * size, _BATCH // n), 1)
    return (exceeded + 1) / (done + 1)


def _place(values: Array, found: list[int]) -> list[int]:
    """Move each step to where it is strongest between its neighbours."""
    placed = list(found)
    for number in range(len(placed)):
        start, _, stop = _neighbours(values, placed)[number]
        placed[number] = start + _strongest(_scores(values[start:stop]))
    return placed


def _neighbours(values: Array, steps: list[int]) -> list[tuple[int, int, int]]:
    """Return each step between the one before it, or the start, and the one after it."""
    edges = [0, *steps, len(values)]
    return list(zip(edges, edges[1:], edges[2:], strict=False))


def _likely(values: Array, start: int, at: int, stop: int) -> tuple[int, int]:
    """Return the earliest and the latest place that a step may well have."""
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
    """Pull in what is far out of its segment, as measured by what all are off theirs."""
    centre = _each_segment(np.median, values, cuts)
    reach = _REACH * float(np.median(np.abs(values - centre))) / 0.6745 if len(values) else 0.0
    return np.clip(values, centre - reach, centre + reach) if reach else values


def _each_segment(statistic: Callable[[Array], Any], values: Array, cuts: list[int]) -> Array:
    """Return for each value the statistic of its segment."""
    parts = np.split(values, cuts)
    filled = [np.full(len(part), statistic(part)) for part in parts if len(part)]
    return np.concatenate(filled) if filled else values
