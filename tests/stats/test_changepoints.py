"""Steps in series whose truth is known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from harness.backend.protocol import Array
from harness.stats.changepoints import FALSE_ALARMS, FEWEST, LEAST, find_change_points, levels

NOISE: dict[str, Callable[[np.random.Generator, int], Array]] = {
    "normal": lambda rng, n: rng.standard_normal(n),
    "heavy": lambda rng, n: rng.standard_t(1.5, n),
    "skewed": lambda rng, n: np.exp(2 * rng.standard_normal(n)),
    "lopsided": lambda rng, n: rng.exponential(size=n),
    "tied": lambda rng, n: rng.integers(0, 3, n).astype(float),
}


@pytest.mark.parametrize("noise", NOISE)
@pytest.mark.parametrize(("series", "runs"), [(1, 12), (3, 30)])
@pytest.mark.parametrize("histories", [60, pytest.param(3000, marks=pytest.mark.slow)])
def test_a_history_of_noise_rarely_has_a_step(
    noise: str, series: int, runs: int, histories: int
) -> None:
    rng = np.random.default_rng(7)
    false = sum(
        any(find_change_points(NOISE[noise](rng, runs), tests=series) for _ in range(series))
        for _ in range(histories)
    )
    # Not shown to be more often than nominal.
    assert binomtest(false, histories, FALSE_ALARMS, "greater").pvalue > 0.001


@pytest.mark.parametrize("first", [64, 3])
def test_means_of_unlike_numbers_of_blocks_rarely_have_a_step(first: int) -> None:
    counts = np.repeat([first, 67 - first], 30)
    scatter, rng = 1 / np.sqrt(counts), np.random.default_rng(11)
    histories = [scatter * rng.standard_normal(60) for _ in range(150)]
    with_counts, without = (
        sum(bool(find_change_points(values, counts=known)) for values in histories)
        for known in (counts, None)
    )
    assert binomtest(with_counts, len(histories), FALSE_ALARMS, "greater").pvalue > 0.01
    assert binomtest(without, len(histories), FALSE_ALARMS, "greater").pvalue < 0.001
    found = find_change_points(histories[0] + 2.0 * (np.arange(60) >= 40), counts=counts)
    assert [abs(step.at - 40) <= 1 for step in found] == [True]


@given(st.integers(0, 1000), st.integers(1, 64))
def test_equal_numbers_of_blocks_do_not_matter(seed: int, count: int) -> None:
    values = np.random.default_rng(seed).standard_normal(30) + 2.0 * (np.arange(30) >= 15)
    found = find_change_points(values)
    assert found == find_change_points(values, counts=np.full(30, count))


def test_the_rate_is_kept_beside_a_step_that_is_real() -> None:
    rng, histories, false = np.random.default_rng(3), 60, 0
    for _ in range(histories):
        values = rng.standard_normal(60) + np.repeat([0, 20], 30)
        found = [step.at for step in find_change_points(values)]
        assert 30 in found
        false += len(found) > 1
    assert binomtest(false, histories, FALSE_ALARMS, "greater").pvalue > 0.001


@pytest.mark.parametrize("noise", ["normal", "lopsided"])
@pytest.mark.parametrize("at", [8, 20, 33])
def test_a_step_is_found_where_it_is(noise: str, at: int) -> None:
    rng, near, covered = np.random.default_rng(at), 0, 0
    size = 4.0
    for _ in range(40):
        values = NOISE[noise](rng, 40) + size * (np.arange(40) >= at)
        steps = find_change_points(values, tests=4)
        nearest = min(steps, key=lambda step: abs(step.at - at), default=None)
        if nearest and abs(nearest.at - at) <= 2:
            near += 1
            low, high = nearest.change.interval()
            covered += low <= size <= high and nearest.earliest <= nearest.at <= nearest.latest
            assert nearest.p <= FALSE_ALARMS
    assert near >= 32
    assert covered >= 0.8 * near


def test_a_step_among_outliers_is_found_and_an_outlier_is_none() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(0, 1, 60) + 3.0 * (np.arange(60) >= 40)
    values[[5, 23, 50]] += [40, -30, 60]
    (step,) = find_change_points(values)
    assert abs(step.at - 40) <= 1
    assert step.change.value == pytest.approx(3.0, abs=0.8)
    alone = rng.normal(0, 1, 60)
    alone[-2:] += 50  # Two of them, at the end.
    assert find_change_points(alone, tests=10) == []


def test_two_steps_are_found_up_and_down_or_up_and_up() -> None:
    for second in (0.0, 10.0):
        rng, found = np.random.default_rng(5), []
        for _ in range(20):
            values = rng.standard_normal(60) + np.repeat([0.0, 5.0, second], 20)
            found.append([step.at for step in find_change_points(values, tests=4)])
        near = [len(f) == 2 and abs(f[0] - 20) <= 1 and abs(f[1] - 40) <= 1 for f in found]
        assert sum(near) >= 14, found


def test_levels_are_those_between_the_steps() -> None:
    values = np.repeat([1.0, 2.0, 1.5], 15)
    steps = find_change_points(values)
    assert [step.at for step in steps] == [15, 30]
    assert [(step.earliest, step.latest) for step in steps] == [(15, 15), (30, 30)]
    assert [step.change.value for step in steps] == pytest.approx([1.0, -0.5])
    assert levels(values, steps).tolist() == values.tolist()
    assert levels(np.array([3.0, 5.0]), []).tolist() == [4.0, 4.0]
    assert levels(np.array([]), []).tolist() == []


def test_what_is_equal_or_short_has_no_step() -> None:
    assert find_change_points(np.full(50, 2.0)) == []
    assert find_change_points(np.array([])) == []
    assert find_change_points(np.repeat([0.0, 1.0], FEWEST // 2)[1:]) == []


def test_a_step_below_the_margin_is_left_out_and_parts_no_levels() -> None:
    values = np.repeat([0.0, 0.001, 1.0], 20)
    assert [step.at for step in find_change_points(values)] == [20, 40]
    (step,) = find_change_points(values, margin=0.01)
    assert step.at == 40
    assert step.change.value == pytest.approx(0.9995)
    assert find_change_points(values[:40], margin=0.01) == []


def test_what_drifts_has_far_fewer_false_steps_than_the_order_alone_would_say() -> None:
    rng, false = np.random.default_rng(2), 0
    for _ in range(100):
        values = rng.standard_normal(100)
        for t in range(1, 100):
            values[t] += 0.5 * values[t - 1]
        false += bool(find_change_points(values))
    # Half of such histories have one if the spread is that of independent values.
    assert false < 22


@given(
    seed=st.integers(0, 1000),
    shift=st.integers(-8, 8),
    scale=st.sampled_from([0.25, 2.0, 1024.0]),
    n=st.integers(0, 50),
)
def test_units_do_not_matter_nor_which_way_is_up(
    seed: int, shift: int, scale: float, n: int
) -> None:
    rng = np.random.default_rng(seed)
    # Multiples of a power of two, so that nothing is rounded.
    values = np.round(rng.normal(0, 1, n) * 64) / 64 + 3.0 * (np.arange(n) >= n // 2)
    mine = find_change_points(values)
    for factor in (scale, -scale):
        other = find_change_points(factor * values + shift)
        assert [s.at for s in other] == [s.at for s in mine]
        assert [s.p for s in other] == [s.p for s in mine]
        assert [s.change.value for s in other] == pytest.approx(
            [factor * s.change.value for s in mine], abs=1e-9
        )


@given(st.lists(st.sampled_from([0.0, 1.0, 1.0, 5.0, -2.0]), max_size=60), st.integers(1, 100))
def test_steps_are_in_order_apart_and_shown(values: list[float], tests: int) -> None:
    steps = find_change_points(np.array(values), tests=tests)
    edges = [0, *(step.at for step in steps), len(values)]
    assert not steps or min(np.diff(edges)) >= LEAST
    for step in steps:
        assert step.earliest <= step.at <= step.latest
        assert 0 < step.p <= FALSE_ALARMS
    assert len(levels(np.array(values), steps)) == len(values)
