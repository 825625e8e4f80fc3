"""The median by the sign test: its coverage, whatever the spread, and its p-values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.stats.median import Median

SAMPLES = st.lists(st.floats(-100, 100), min_size=1, max_size=40, unique=True).map(np.array)


@pytest.mark.parametrize("size", [6, 9, 13, 19, 28])
def test_the_interval_holds_the_median_in_95_per_cent(size: int) -> None:
    rng = np.random.default_rng(size)
    held = 0
    for sample in rng.standard_cauchy((2000, size)):
        low, high = Median(sample).interval()
        held += low <= 0 <= high
    assert held >= 0.94 * 2000


@given(SAMPLES)
def test_the_tests_are_those_of_signs(sample: np.ndarray) -> None:
    median = Median(sample)
    low, high = median.interval()
    assert np.isnan(low) or low <= median.value <= high
    assert median.p_above(sample.min() - 1) == pytest.approx(0.5 ** len(sample))
    assert median.p_below(sample.max() + 1) == pytest.approx(0.5 ** len(sample))
    assert median.p_above(0.0) == pytest.approx(Median(-sample).p_below(0.0))


def test_few_values_have_no_interval() -> None:
    assert np.isnan(Median(np.arange(5.0)).interval()).all()
    assert Median(np.arange(6.0)).interval() == (0.0, 5.0)
    assert np.isnan(Median(np.array([])).value)
