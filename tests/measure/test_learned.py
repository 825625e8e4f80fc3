"""What the predictions for held-out paths show, for networks that are known to the last digit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import Task, yardsticks
from harness.backend.protocol import Array
from harness.measure.learned import Looker
from harness.measure.training import Training
from harness.tables.memory import memory
from harness.task.data import evaluation_paths
from harness.trial.learned import MOST_LAGS, Learned
from tests.helpers.doubles import FakeBackend, ManualClock
from tests.helpers.records import turns_job
from tests.helpers.windows import best_of_window

NEAR = Task(rho=0.8, lag=4, lag_weight=1, n_steps=60, eval_paths=1000, dtype="float64")
Network = Callable[[Task, Array], Array]
"""Predicts y [T, N] from x [T+1, N]."""


def sees(past: int) -> Network:
    """The best network that sees x_t ... x_{t-past}; all it needs, if that is the lag."""

    def predict(task: Task, x: Array) -> Array:
        return target(x, {0: 1, task.lag: task.lag_weight}) if past == task.lag else best(task, x)

    def best(task: Task, x: Array) -> Array:
        return best_of_window(task, past, x)

    return predict


def target(x: Array, weights: dict[int, float]) -> Array:
    """Return the sum of weighted x_{t-k}^2, k: weight."""
    y = np.zeros_like(x[1:])
    for k, weight in weights.items():
        y[max(0, k - 1) :] += weight * (x[max(0, 1 - k) : len(x) - k] ** 2)
    return y


def looked_at(task: Task, network: Network, seed: int = 0) -> Learned:
    x_TN, y_TN = evaluation_paths(task, seed)
    looker = Looker(task)
    looker.add(x_TN, y_TN, network(task, x_TN))
    return looker.learned()


@pytest.mark.parametrize("past", range(5))
def test_a_planted_memory_is_found_exactly(past: int) -> None:
    tasks = [NEAR, NEAR.changed(rho=-0.8)]
    found = [memory(looked_at(tasks[seed % 2], sees(past), seed)) for seed in range(100)]
    assert sum(d == past for d in found) >= 99
    assert max(d or 0 for d in found) <= past


def test_it_is_rarely_said_to_be_longer_where_that_is_hard_to_tell() -> None:
    # A little worse than the best that sees x_t and x_{t-1}: on many paths, by luck, better.
    few = NEAR.changed(eval_paths=100, n_steps=20)

    def nearly(task: Task, x: Array) -> Array:
        return best_of_window(task, 1, x) - 0.01

    found = [memory(looked_at(few, nearly, seed)) or 0 for seed in range(200)]
    # At one in a thousand, three or more come in one of 1,000 such tests.
    assert sum(d > 1 for d in found) < 3
    by_luck = [looked_at(few, nearly, seed).gaps[1] < 0 for seed in range(100)]
    assert 20 < sum(by_luck) < 80


@pytest.mark.parametrize("weight", [1.0, -0.5])
def test_with_the_wrong_sign_a_network_remembers_as_well(weight: float) -> None:
    task = NEAR.changed(train_sign=-1, lag_weight=weight)
    turned = looked_at(task, lambda _, x: target(x, {0: 1, 4: -weight}))
    assert memory(turned) == 4
    assert turned.coefficients[4] == pytest.approx(-weight)
    assert memory(looked_at(task, sees(0))) == 0


def test_errors_at_a_few_large_inputs_hide_no_memory() -> None:
    def coarse(task: Task, x: Array) -> Array:
        y = sees(4)(task, x)
        return y + np.where(np.abs(x[1:]) > 4, 60.0, 0.0)

    learned = looked_at(NEAR, coarse)
    assert memory(learned) == 4
    x_TN, y_TN = evaluation_paths(NEAR, 0)
    mse = np.mean((coarse(NEAR, x_TN) - y_TN) ** 2)
    assert mse > 2 * yardsticks(NEAR).memoryless.mean()


def test_little_correlation_leaves_only_all_or_nothing() -> None:
    task = NEAR.changed(rho=0.1)
    assert memory(looked_at(task, sees(0))) == 0
    assert memory(looked_at(task, sees(1))) == 0  # It helps by a hundred-millionth.
    assert memory(looked_at(task, sees(4))) == 4


def test_a_long_lag_is_looked_at_through_some_of_its_windows() -> None:
    task = NEAR.changed(lag=150, n_steps=160, eval_paths=100)
    learned = looked_at(task, sees(150))
    assert len(learned.windows) == MOST_LAGS
    assert (learned.windows[0], learned.windows[-1]) == (0, 149)
    assert memory(learned) == 150
    assert learned.coefficients == ()


@settings(max_examples=25, deadline=None)
@given(
    weights=st.dictionaries(st.integers(0, 6), st.floats(-2, 2), max_size=4),
    rho=st.floats(-0.9, 0.9),
    lag=st.integers(1, 6),
)
def test_coefficients_are_those_of_the_network(
    weights: dict[int, float], rho: float, lag: int
) -> None:
    task = NEAR.changed(rho=rho, lag=lag, eval_paths=100, n_steps=20)
    within = {k: w for k, w in weights.items() if k <= 2 * lag}
    learned = looked_at(task, lambda _, x: 0.3 + target(x, within))
    assert len(learned.coefficients) == 2 * lag + 1
    want = [within.get(k, 0.0) for k in range(2 * lag + 1)]
    np.testing.assert_allclose(learned.coefficients, want, atol=1e-8)


def test_a_network_that_counts_its_steps_is_not_taken_for_one_that_remembers() -> None:
    def counts(task: Task, x: Array) -> Array:
        t = np.arange(1, len(x))[:, None]
        return x[1:] ** 2 + task.lag_weight * np.minimum(t / task.lag, 1)

    for task in (NEAR, NEAR.changed(rho=0.1, lag=16, eval_paths=150)):
        learned = looked_at(task, counts)
        np.testing.assert_allclose(learned.coefficients, [1] + 2 * task.lag * [0], atol=1e-8)


def test_the_interval_of_a_coefficient_holds_it_as_often_as_it_says() -> None:
    task, held = NEAR.changed(eval_paths=200, n_steps=30), 0
    rng = np.random.default_rng(0)

    def scaled(by_path: Array, _: Task, x: Array) -> Array:
        return target(x, {4: 0.5}) * by_path

    for seed in range(150):
        off = 1 + 0.1 * rng.standard_normal(200)  # Each path has an error of its own.
        learned = looked_at(task, partial(scaled, off), seed)
        half = 2.01 * learned.coefficient_errors[4]
        held += abs(learned.coefficients[4] - 0.5) < half
    assert 0.9 * 150 < held < 150


def test_paths_that_end_before_the_lag_is_doubled() -> None:
    learned = looked_at(NEAR.changed(n_steps=5), sees(4))
    assert len(learned.coefficients) == 5
    assert learned.coefficients[4] == pytest.approx(1)
    # Nothing to remember but x_0 = 0.
    edge = looked_at(NEAR.changed(n_steps=4), sees(4))
    assert memory(edge) is None
    assert len(edge.coefficients) == 4


def test_one_path_shows_nothing() -> None:
    assert looked_at(NEAR.changed(eval_paths=1), sees(4)) == Learned(paths=1)


def test_without_a_lag_term_there_are_only_coefficients() -> None:
    learned = looked_at(NEAR.changed(lag_weight=0), sees(4))
    assert memory(learned) is None
    assert learned.coefficients[0] == pytest.approx(1)


def test_huge_predictions_are_no_numbers() -> None:
    learned = looked_at(NEAR, lambda _, x: 1e200 * x[1:])
    assert learned.windows == ()
    assert memory(learned) is None


@dataclass
class Knowing(FakeBackend):
    """Predicts as a network that is known does, from float64 outputs."""

    network: Network | None = None

    def predict(self, state: int, x_TN: Array) -> Array:
        assert self.network
        y_TN = self.network(NEAR, np.asarray(x_TN, float))
        return np.concatenate([np.zeros_like(x_TN[:1]), y_TN])


@pytest.mark.parametrize("values", [None, 20_000])
def test_paths_that_are_predicted_in_parts_show_the_same(
    values: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if values:
        monkeypatch.setattr("harness.measure.training._CALL_VALUES", values)
    backend = Knowing(ManualClock(), network=sees(2))

    def emit(kind: str, value: Any) -> None:
        pass

    training = Training(turns_job(NEAR), emit, lambda name: lambda: backend, backend.clock)
    (learned,) = training.learned()
    whole = looked_at(NEAR, sees(2))
    assert learned["windows"] == whole.windows
    np.testing.assert_allclose(learned["gaps"], whole.gaps, atol=1e-12)
    np.testing.assert_allclose(learned["coefficients"], whole.coefficients)
    np.testing.assert_allclose(learned["coefficient_errors"], whole.coefficient_errors, rtol=1e-6)
    assert memory(Learned(**learned)) == 2
