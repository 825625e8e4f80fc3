"""Each yardstick against Monte Carlo, from paths that these tests simulate themselves."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import Task, yardsticks
from harness.backend.protocol import Array
from harness.task.yardsticks import window
from tests.helpers.windows import best_of_window

PATHS, LONGEST = 100_000, 10

tasks = st.builds(
    lambda rho, w, steps, lag: Task(
        rho=rho, lag_weight=w, n_steps=steps, lag=min(lag, steps), train_sign=1 if w > 0 else -1
    ),
    rho=st.floats(-0.95, 0.95),
    w=st.floats(-3, 3),
    steps=st.integers(1, LONGEST),
    lag=st.integers(1, LONGEST),
)
windows = tasks.flatmap(lambda task: st.tuples(st.just(task), st.integers(0, task.lag - 1)))


@cache
def noise() -> Array:
    return np.random.default_rng(1).standard_normal((LONGEST, PATHS))


def simulate(task: Task) -> tuple[Array, Array]:
    """Return x_t [T+1, paths], and x_{t-L}^2 at t = 1..T, with zeros before the path begins."""
    x = np.zeros((task.n_steps + 1, PATHS))
    for t in range(1, task.n_steps + 1):
        x[t] = task.rho * x[t - 1] + noise()[t - 1]
    before = np.array([x[max(0, t - task.lag)] ** 2 for t in range(1, task.n_steps + 1)])
    return x, before


def agree(exact: Array, errors: Array) -> None:
    """Check means of squared errors [T, paths] to 6 standard errors of sampling."""
    noise_T = errors.std(axis=1) / np.sqrt(PATHS)
    # The largest of a heavy tail may not be among the paths: then the spread looks small, too.
    assert (np.abs(errors.mean(axis=1) - exact) <= 6 * noise_T + 0.01 * exact + 1e-12).all()


@settings(max_examples=40, deadline=None)
@given(task=tasks)
def test_variance_and_wrong_sign(task: Task) -> None:
    x, before = simulate(task)
    y, w = x[1:] ** 2 + task.lag_weight * before, task.lag_weight
    agree(yardsticks(task).variance, (y - y.mean(axis=1, keepdims=True)) ** 2)
    agree(yardsticks(task).wrong_sign, (2 * w * before) ** 2)


@settings(max_examples=60, deadline=None)
@given(both=windows)
def test_the_best_predictor_of_a_window_has_the_error_of_its_yardstick(
    both: tuple[Task, int],
) -> None:
    task, past = both
    x, before = simulate(task)
    y = x[1:] ** 2 + task.lag_weight * before
    agree(window(task, past), (best_of_window(task, past, x) - y) ** 2)


@settings(max_examples=30, deadline=None)
@given(both=windows)
def test_no_regression_on_a_window_does_better(both: tuple[Task, int]) -> None:
    # The conditional mean of y_t is a polynomial of second degree in what the window holds: least
    # squares on all products of two values finds it.
    task, past = both
    x, before = simulate(task)
    t = task.n_steps
    seen = x[max(1, t - past) : t + 1]
    pairs = [seen[i] * seen[j] for i in range(len(seen)) for j in range(i + 1)]
    design = np.stack([np.ones(PATHS), *pairs], axis=1)
    y = x[t] ** 2 + task.lag_weight * before[t - 1]
    left = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
    mse, exact = np.mean(left**2), window(task, past)[-1]
    sampling = 6 * np.std(left**2) / np.sqrt(PATHS)
    assert abs(mse - exact) <= sampling + 0.01 * exact + 1e-12


@given(both=windows)
def test_what_always_holds(both: tuple[Task, int]) -> None:
    task, past = both
    exact = yardsticks(task)
    for values in vars(exact).values():
        assert values.shape == (task.n_steps,)
        assert np.isfinite(values).all()
    # To see more never hurts; up to t = L there is no lag term to be missed or mistaken.
    assert (window(task, past) <= exact.memoryless * (1 + 1e-12)).all()
    assert (exact.without_lag <= window(task, past) * (1 + 1e-12)).all()
    assert (exact.memoryless <= exact.variance * (1 + 1e-12)).all()
    assert not exact.memoryless[: task.lag].any()
    assert not exact.wrong_sign[: task.lag].any()
    assert exact.variance[0] == pytest.approx(2)


def test_the_figure_of_the_posted_question() -> None:
    assert yardsticks(Task()).wrong_sign[-1] == pytest.approx(0.1224, abs=1e-4)


def test_at_lag_1_a_predictor_without_the_lag_has_no_memory() -> None:
    exact = yardsticks(Task(rho=0.7))
    assert np.array_equal(exact.memoryless, exact.without_lag)


def test_without_a_lag_there_is_nothing_to_remember() -> None:
    exact = yardsticks(Task(lag_weight=0))
    assert not exact.memoryless.any()
    assert not exact.wrong_sign.any()


@pytest.mark.parametrize("lag", [1, 3])
def test_a_path_that_begins_as_it_goes_on_has_the_same_yardsticks_throughout(lag: int) -> None:
    task = Task(rho=0.6, lag_weight=0.5, n_steps=60, lag=lag)
    for begun, long in zip(
        vars(yardsticks(task, start=1 / (1 - 0.36))).values(),
        vars(yardsticks(task)).values(),
        strict=True,
    ):
        np.testing.assert_allclose(begun[lag - 1 :], long[-1])
