"""Where a line passes zero: exact lines, limits, and how often the interval holds the truth."""

from __future__ import annotations

from math import inf, isinf, isnan, nan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.stats import estimates
from harness.stats.crossing import Crossing, crossing

values = st.floats(-100, 100).map(lambda value: round(value, 3))
samples = st.lists(st.tuples(values, values), min_size=2, max_size=8)


def of(lines: list[tuple[float, float]], pilot: int = 0) -> Crossing:
    offsets, slopes = np.array(lines, dtype=float).T
    return crossing(offsets, slopes, pilot)


@given(
    at=st.floats(0.1, 1e5),
    slope=st.floats(1e-6, 10),
    sign=st.sampled_from([-1, 1]),
    scale=st.lists(st.floats(0.5, 2), min_size=2, max_size=5),
)
def test_lines_that_pass_at_one_place_pass_there(
    at: float, slope: float, sign: int, scale: list[float]
) -> None:
    # A busy machine makes all times of a block longer: the place stays.
    lines = [(-sign * slope * at * factor, sign * slope * factor) for factor in scale]
    found = of(lines)
    assert found.at == pytest.approx(at)
    assert found.rising == (sign > 0)
    if found.shown and not isinf(found.high):
        assert found.low == pytest.approx(at, rel=1e-4)
        assert found.high == pytest.approx(at, rel=1e-4)


@given(samples)
def test_the_interval_is_where_students_t_tells_nothing(lines: list[tuple[float, float]]) -> None:
    offsets, slopes = np.array(lines).T
    found = of(lines)
    if isnan(found.low):
        assert np.ptp(lines, axis=0) == pytest.approx(0, abs=1e-9)
        return
    assert 0 <= found.low <= found.at * (1 + 1e-9)
    assert found.at <= found.high * (1 + 1e-9)
    if not found.shown:
        assert (found.low, found.high) == (0, inf)
        return
    for x in {0.0, 1.0, found.low / 2, found.high / 2, found.low * 1.5, found.high * 1.5} - {inf}:
        mean = estimates.mean(offsets + slopes * x)
        low, high = mean.interval()
        near = min(abs(x - end) for end in (found.low, found.high)) < 1e-6 * (1 + x)
        if isnan(x) or near or min(abs(low), abs(high)) < 1e-6:
            continue
        assert (low <= 0 <= high) == (found.low <= x <= found.high)
        if not low <= 0 <= high:
            assert (mean.value > 0) == (found.rising == (x > found.high))


@given(samples, st.floats(0.01, 100))
def test_it_turns_with_the_sign_and_stretches_with_the_unit(
    lines: list[tuple[float, float]], unit: float
) -> None:
    found = of(lines)
    turned = of([(-offset, -slope) for offset, slope in lines])
    assert turned[:3] == pytest.approx(found[:3], nan_ok=True)
    assert turned.shown == found.shown
    if found.shown and np.mean(lines, axis=0).all():
        assert turned.rising != found.rising
    doubled = of([(2 * offset, slope) for offset, slope in lines])
    if doubled.shown and found.shown and not isinf(found.high):
        assert doubled.at == pytest.approx(2 * found.at)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        # The slope is shown: at, low and high are finite; 0 is from the start.
        ([(5.0, 1.0), (6.0, 1.1), (5.5, 0.9)], (0, 0, 0, True, True)),
        ([(-50.0, 10.0), (-50.5, 10.1)], (5, 5, 5, True, True)),
        ([(50.0, -10.0), (50.5, -10.1)], (5, 5, 5, False, True)),
        # Only the offset is: it stays as it is, perhaps for ever.
        ([(5.0, 1.0), (5.0, -1.0), (5.0, 0.3)], (inf, 5 / 2.4211, inf, False, True)),
        ([(50.0, 0.0), (50.5, 0.0)], (inf, inf, inf, False, True)),
        # Neither is.
        ([(5.0, 1.0), (-5.0, -1.0), (1.0, 0.5)], (0, 0, inf, True, False)),
        # Lines that are all equal do not tell how far they scatter.
        ([(-5.0, 1.0), (-5.0, 1.0)], (5, nan, nan, True, False)),
        ([(0.0, 0.0)] * 8, (inf, nan, nan, False, False)),
    ],
)
def test_what_is_known(
    lines: list[tuple[float, float]], expected: tuple[float, float, float, bool, bool]
) -> None:
    assert of(lines) == pytest.approx(expected, rel=1e-3, nan_ok=True)


def test_one_line_has_no_interval() -> None:
    found = of([(-4.0, 2.0)])
    assert (found.at, found.rising, found.shown) == (2, True, False)
    assert isnan(found.low)
    assert isnan(found.high)


def test_only_the_spread_of_the_pilot_counts() -> None:
    pilot = [(-10.0, 1.0), (-12.0, 1.1), (-11.0, 1.05)]
    calm, wild = ([(-11.0, 1.05 + d), (-11.0, 1.05 - d)] for d in (0.0, 0.5))
    assert of(pilot + calm, pilot=3) == pytest.approx(of(pilot + wild, pilot=3))
    assert of(pilot + calm).high < of(pilot + wild).high


@pytest.mark.parametrize(("slope", "least_shown"), [(1.0, 1.0), (0.25, 0.4)])
def test_the_interval_holds_the_truth_as_often_as_it_says(slope: float, least_shown: float) -> None:
    draw, truth, held, shown = np.random.default_rng(1), 10.0, 0, 0
    for _ in range(2000):
        offsets = draw.normal(-truth * slope, 0.5, 5)
        slopes = draw.normal(slope, 0.15, 5) + 0.2 * (offsets + truth * slope)
        found = crossing(offsets, slopes)
        shown += found.shown
        held += found.low <= truth <= found.high and (found.rising or not found.shown)
    assert shown >= 2000 * least_shown
    # A share of 2,000 is within three standard deviations, 1.5 %; what clips it adds to it.
    assert held / 2000 >= 0.935
    if slope == 1.0:
        assert held / 2000 <= 0.965
