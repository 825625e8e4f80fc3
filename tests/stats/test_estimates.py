"""The statistics, compared with SciPy and with what they promise."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats as scipy_stats
from scipy.stats import binomtest

from harness.stats import estimates

samples = arrays(np.float64, st.integers(3, 30), elements=st.floats(-5, 5)).filter(
    lambda sample: sample.std() > 1e-3
)


@given(samples)
def test_the_mean_agrees_with_scipy(sample: np.ndarray) -> None:
    estimate, theirs = estimates.mean(sample), scipy_stats.ttest_1samp(sample, 0)
    assert estimate.p_different() == pytest.approx(theirs.pvalue, abs=1e-12)
    assert estimate.interval() == pytest.approx(theirs.confidence_interval())
    assert estimate.p_above() == pytest.approx(
        scipy_stats.ttest_1samp(sample, 0, alternative="greater").pvalue, abs=1e-12
    )


@given(samples, samples)
def test_a_difference_agrees_with_welchs_test(before: np.ndarray, after: np.ndarray) -> None:
    estimate = estimates.difference(before, after)
    theirs = scipy_stats.ttest_ind(after, before, equal_var=False)
    assert estimate.p_different() == pytest.approx(theirs.pvalue, abs=1e-12)
    assert estimate.interval() == pytest.approx(theirs.confidence_interval())


@given(samples, st.floats(0, 2))
def test_a_known_variance_is_added_and_takes_no_degrees_of_freedom(
    sample: np.ndarray, known: float
) -> None:
    plain = estimates.mean(sample)
    wider = estimates.welch(estimates.Estimate(0, known, float("inf"), 1), plain)
    assert wider.value == plain.value
    assert wider.standard_error == pytest.approx(np.hypot(plain.standard_error, known))
    assert wider.df >= plain.df * (1 - 1e-9)
    assert np.isfinite(wider.interval()).all()


@given(samples, st.floats(0.01, 3))
def test_equivalence_is_two_one_sided_tests(sample: np.ndarray, margin: float) -> None:
    above = scipy_stats.ttest_1samp(sample, -margin, alternative="greater").pvalue
    below = scipy_stats.ttest_1samp(sample, margin, alternative="less").pvalue
    assert estimates.mean(sample).p_within(margin) == pytest.approx(max(above, below), abs=1e-12)
    # The same as an interval of twice the error inside the margin.
    low, high = estimates.mean(sample).interval(0.90)
    assert (estimates.mean(sample).p_within(margin) < 0.05) == (-margin < low and high < margin)


def test_a_failed_test_for_a_difference_is_no_equivalence() -> None:
    noisy = estimates.mean(np.array([-0.3, 0.25, 0.1, -0.1]))
    assert noisy.p_different() > 0.5
    assert noisy.p_within(0.02) > 0.3


def test_holm_as_in_the_textbook() -> None:
    assert estimates.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert estimates.holm([0.2, float("nan"), 0.3]) == pytest.approx(
        [0.4, float("nan"), 0.4], nan_ok=True
    )
    assert estimates.holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_corrects_upwards_and_keeps_the_order(p: list[float]) -> None:
    corrected = estimates.holm(p)
    assert all(c >= raw for c, raw in zip(corrected, p, strict=True))
    order = np.argsort(p, kind="stable")
    assert (np.diff(np.array(corrected)[order]) >= 0).all()


@pytest.mark.parametrize("size", [0, 1])
def test_too_few_values_show_nothing(size: int) -> None:
    estimate = estimates.mean(np.full(size, 0.5))
    assert np.isnan(estimate.interval()).all()
    assert np.isnan(estimate.p_different())
    assert np.isnan(estimates.difference(np.full(size, 0.5), np.ones(3)).p_different())


@given(st.integers(2, 12), st.floats(1e-6, 5), st.floats(0.1, 0.9))
def test_equal_values_show_no_more_than_their_signs(n: int, value: float, share: float) -> None:
    constant = np.full(n, value) + np.arange(n) * 1e-14 * value  # Up to rounding.
    for estimate in (
        estimates.mean(constant),
        estimates.difference(np.zeros(n), np.full(n + 1, value)),
    ):
        assert estimate.standard_error == 0
        assert estimate.p_above() == estimate.p_above(share * value) == 0.5**n
        assert estimate.p_below(2 * value) == estimate.p_within(2 * value) == 0.5**n
        assert estimate.p_above(2 * value) == 1
        assert estimate.p_different() == 2 * 0.5**n
        # They do not tell how far they scatter, however many there are.
        assert np.isnan(estimate.interval()).all()


@pytest.mark.parametrize("n", [2, 3, 20])
def test_what_is_identical_is_the_same(n: int) -> None:
    for same in (
        estimates.mean(np.zeros(n)),
        estimates.difference(np.ones(n), np.ones(n + 1)),
    ):
        assert (same.p_different(), same.p_within(0.01)) == (1.0, 0.0)
        assert same.interval() == (0.0, 0.0)


@given(samples, st.floats(0, 2))
def test_an_error_that_all_values_share_never_narrows_an_interval(
    sample: np.ndarray, shared: float
) -> None:
    plain, wider = estimates.mean(sample), estimates.mean(sample, shared_error=shared)
    assert (wider.value, wider.df, wider.n) == (plain.value, plain.df, plain.n)
    assert wider.standard_error == pytest.approx(np.hypot(plain.standard_error, shared))
    assert wider.half_width() >= plain.half_width()


@given(
    n=st.integers(2, 8),
    scatter=st.floats(0, 3),
    common=st.floats(0, 3),
    truth=st.floats(0, 2),
)
@settings(max_examples=20)
def test_differences_on_a_grid_are_covered(
    n: int, scatter: float, common: float, truth: float
) -> None:
    """Times on a grid of step 1, the same seed in both arms."""
    rng, hits, repeats = np.random.default_rng(1), 0, 150
    for _ in range(repeats):
        seeds = rng.uniform(0, 1) + common * rng.standard_normal(n)
        later = seeds + truth + scatter * rng.standard_normal(n)
        observed = np.ceil(later) - np.ceil(seeds)
        low, high = estimates.mean(observed, shared_error=np.sqrt(1 / 6)).interval()
        hits += low <= truth <= high
    assert binomtest(hits, repeats, estimates.CONFIDENCE, "less").pvalue > 1e-4


def coverage(repeats: int, pilot: int, spread: float, stop_honestly: bool) -> float:
    """Return how often the interval holds the truth when its size is chosen by a pilot."""
    rng = np.random.default_rng(7)
    hits = 0
    for _ in range(repeats):
        sample = rng.normal(0, spread, pilot)
        size = estimates.stein_size(sample, 0.02)
        sample = np.append(sample, rng.normal(0, spread, size - pilot))
        low, high = estimates.mean(sample, pilot if stop_honestly else 0).interval()
        hits += low <= 0 <= high
    return hits / repeats


def test_a_size_chosen_by_the_spread_does_not_bias_the_interval() -> None:
    assert 0.94 <= coverage(6000, 8, 0.03, stop_honestly=True) <= 0.96
    assert coverage(6000, 8, 0.03, stop_honestly=False) < 0.945


def test_the_interval_is_as_narrow_as_asked() -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        pilot = rng.normal(0, 0.05, 8)
        size = estimates.stein_size(pilot, 0.02)
        sample = np.append(pilot, rng.normal(0, 0.05, size - 8))
        assert estimates.mean(sample, 8).half_width() <= 0.02 * (1 + 1e-9)


def test_of_several_comparisons_some_is_wrong_as_rarely_as_holm_says() -> None:
    """The data choose the arm that the others are compared with, so all pairs count."""
    both = list(combinations(range(6), 2))
    wrong = np.zeros(2)
    for times in np.random.default_rng(4).standard_normal((1500, 6, 8)):
        fastest = np.median(times, axis=1).argmin()
        p = [estimates.mean(times[i] - times[j]).p_different() for i, j in both]
        shown = [pair for pair, arms in enumerate(both) if fastest in arms]
        corrected = estimates.holm(p)
        wrong += (
            min(estimates.holm([p[pair] for pair in shown])) < 0.05,
            min(corrected[pair] for pair in shown) < 0.05,
        )
    of_shown, of_all = wrong / 1500
    assert of_shown > 0.07
    assert of_all < 0.05


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    samples = np.random.default_rng(0).standard_normal((4000, 3))
    hits = [low <= 0 <= high for low, high in (estimates.mean(s).interval() for s in samples)]
    assert np.mean(hits) == pytest.approx(0.95, abs=0.012)


def test_a_difference_of_samples_that_a_pilot_chose_rests_on_the_pilots() -> None:
    rng = np.random.default_rng(3)
    before, after = rng.normal(0, 1, 12), rng.normal(0, 1, 9)
    estimate = estimates.welch(estimates.mean(before, 4), estimates.mean(after, 5))
    errors = before[:4].std(ddof=1) / np.sqrt(12), after[:5].std(ddof=1) / np.sqrt(9)
    assert estimate.standard_error == pytest.approx(np.hypot(*errors))
    assert estimate.value == pytest.approx(after.mean() - before.mean())
