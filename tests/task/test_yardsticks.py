"""Each yardstick against Monte Carlo, from paths that these tests simulate themselves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import Task, yardsticks
from harness.backend.protocol import Array

PATHS, STEPS = 400_000, 4
TASKS = [Task(rho=r, lag_weight=w, n_steps=STEPS) for r, w in [(0.1, 0.1), (0.8, 1.0), (-0.5, -2)]]


def simulate(task: Task) -> tuple[Array, Array, Array]:
    """Return x_t, x_{t-1} and y_t, each [T, paths]."""
    rng = np.random.default_rng(1)
    x = np.zeros((STEPS + 1, PATHS))
    for t in range(1, STEPS + 1):
        x[t] = task.rho * x[t - 1] + rng.standard_normal(PATHS)
    now, before = x[1:], x[:-1]
    return now, before, now**2 + task.lag_weight * before**2


@pytest.mark.parametrize("task", TASKS, ids=lambda t: f"rho={t.rho},w={t.lag_weight}")
def test_variance(task: Task) -> None:
    _, _, y = simulate(task)
    np.testing.assert_allclose(yardsticks(task).variance, y.var(axis=1), rtol=0.03)


@pytest.mark.parametrize("task", TASKS, ids=lambda t: f"rho={t.rho},w={t.lag_weight}")
def test_wrong_sign(task: Task) -> None:
    now, before, y = simulate(task)
    mse = np.mean((now**2 - task.lag_weight * before**2 - y) ** 2, axis=1)
    np.testing.assert_allclose(yardsticks(task).wrong_sign, mse, rtol=0.05)


@pytest.mark.parametrize("task", TASKS, ids=lambda t: f"rho={t.rho},w={t.lag_weight}")
def test_memoryless_is_the_best_that_can_be_said_from_the_present(task: Task) -> None:
    # The conditional mean of y_t is a polynomial of second degree in x_t: least squares finds it.
    now, _, y = simulate(task)
    for t in range(STEPS):
        fit = np.polynomial.Polynomial.fit(now[t], y[t], deg=2)
        mse = np.mean((fit(now[t]) - y[t]) ** 2)
        assert yardsticks(task).memoryless[t] == pytest.approx(mse, rel=0.04, abs=1e-9)


@given(rho=st.floats(-0.99, 0.99), lag_weight=st.floats(-10, 10), n_steps=st.integers(1, 50))
def test_what_always_holds(rho: float, lag_weight: float, n_steps: int) -> None:
    exact = yardsticks(Task(rho=rho, lag_weight=lag_weight, n_steps=n_steps))
    for values in vars(exact).values():
        assert values.shape == (n_steps,)
        assert np.isfinite(values).all()
    # Looking at x_t never hurts, and at t = 1 there is no lag term to be missed or mistaken.
    assert (exact.memoryless <= exact.variance * (1 + 1e-12)).all()
    assert exact.memoryless[0] == exact.wrong_sign[0] == 0
    assert exact.variance[0] == pytest.approx(2)


def test_the_figure_of_the_posted_question() -> None:
    assert yardsticks(Task()).wrong_sign[-1] == pytest.approx(0.1224, abs=1e-4)


def test_without_a_lag_there_is_nothing_to_remember() -> None:
    exact = yardsticks(Task(lag_weight=0))
    assert not exact.memoryless.any()
    assert not exact.wrong_sign.any()


def test_a_path_that_begins_as_it_goes_on_has_the_same_yardsticks_throughout() -> None:
    task = Task(rho=0.6, lag_weight=0.5, n_steps=60)
    for begun, long in zip(
        vars(yardsticks(task, start=1 / (1 - 0.36))).values(),
        vars(yardsticks(task)).values(),
        strict=True,
    ):
        np.testing.assert_allclose(begun, long[-1])
