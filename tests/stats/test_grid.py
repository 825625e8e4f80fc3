"""The step of values by a clock that ticks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from harness.stats.grid import common_step, smallest_step


@given(st.floats(1e-9, 1e3), st.lists(st.integers(1, 1000), min_size=1, max_size=20))
def test_the_common_step_is_the_largest(step: float, ticks: list[int]) -> None:
    assert common_step([step * n for n in ticks]) == pytest.approx(step * np.gcd.reduce(ticks))


@given(st.integers(0, 1000), st.floats(1e-3, 1))
def test_values_on_no_grid_have_a_negligible_common_step(seed: int, spread: float) -> None:
    values = np.random.default_rng(seed).normal(10, spread, 20)
    assert common_step(values.tolist()) < 5e-3 * spread


@example(141, [25, 5, 22, 1, 1])
@given(st.integers(0, 1000), st.lists(st.integers(1, 100), min_size=5, max_size=9))
def test_a_step_is_found_and_none_is_made_up_in_noise(seed: int, ticks: list[int]) -> None:
    noise = np.random.default_rng(seed).uniform(-1e-12, 1e-12, len(ticks))
    values = (0.01 * np.array(ticks) + noise).tolist()
    assert common_step(values, 1e-12) == pytest.approx(0.01 * np.gcd.reduce(ticks))
    fine = np.random.default_rng(seed).normal(4e-8, 4e-10, 6)
    assert common_step(fine.tolist(), 2e-14) < 1e-11


def test_nothing_has_no_step() -> None:
    assert common_step([]) == 0


@pytest.mark.parametrize(
    ("values", "step"),
    [([3.0, 3.01, 5.0, 5.02, 7.01], 1.99), ([3.0, 3.01], 3.01), ([3.0], 3.0)],
)
def test_the_smallest_step_is_above_the_noise(values: list[float], step: float) -> None:
    assert smallest_step(np.array(values), 0.05) == pytest.approx(step)


def test_values_that_lie_close_together_have_a_step_within_the_noise() -> None:
    assert smallest_step(np.linspace(1, 2, 1000), 0.05) == 0.05
