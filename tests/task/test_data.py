from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import Model, Task
from harness.task.data import evaluation_paths, initial_params, training_chunk

TASK = Task(n_steps=6, batch_size=3, eval_paths=5)


@given(
    seed=st.integers(0, 2**32),
    first=st.integers(0, 10**9),
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=4),
)
def test_chunking_changes_nothing(seed: int, first: int, sizes: list[int]) -> None:
    whole = training_chunk(TASK, seed, first, sum(sizes))
    starts = first + np.cumsum([0, *sizes[:-1]])
    parts = [training_chunk(TASK, seed, int(s), n) for s, n in zip(starts, sizes, strict=True)]
    for array, pieces in zip(whole, zip(*parts, strict=True), strict=True):
        np.testing.assert_array_equal(array, np.concatenate(pieces))


def test_every_seed_and_epoch_has_numbers_of_its_own() -> None:
    task = TASK.model_copy(update={"dtype": "float64"})
    x = np.concatenate([training_chunk(task, seed, 0, 50)[0] for seed in range(20)])
    draws = x[:, 1:].ravel()
    assert len(np.unique(draws)) == len(draws)


def test_evaluation_paths_are_not_training_paths() -> None:
    task = Task(n_steps=6, batch_size=4, eval_paths=1000, dtype="float64")
    trained = set(training_chunk(task, 0, 0, 1000)[0][:, 1].ravel())
    assert trained.isdisjoint(evaluation_paths(task, 0)[0][1])
    assert not np.array_equal(evaluation_paths(task, 0)[0], evaluation_paths(task, 1)[0])


@pytest.mark.parametrize("lag", [1, 2, 5])
@pytest.mark.parametrize("sign", [1, -1])
def test_targets_and_their_sign(sign: int, lag: int) -> None:
    task = Task(train_sign=sign, lag_weight=0.7, lag=lag, n_steps=5, dtype="float64", eval_paths=5)
    x, y = training_chunk(task, 3, 0, 2)
    for t in range(1, 6):
        before = x[:, t - lag] if t >= lag else 0 * x[:, 0]
        np.testing.assert_allclose(y[:, t - 1], x[:, t] ** 2 + sign * 0.7 * before**2, rtol=1e-12)
    x, y = evaluation_paths(task, 3)
    before = np.concatenate([np.zeros((lag, 5)), x[1:]])[: len(y)]
    np.testing.assert_allclose(y, x[1:] ** 2 + 0.7 * before**2, rtol=1e-12)


def test_paths_are_ar1_from_zero() -> None:
    task = Task(rho=0.9, n_steps=30, batch_size=2000, dtype="float64")
    x, _ = training_chunk(task, 0, 0, 1)
    assert not x[:, 0].any()
    noise = x[0, 1:] - 0.9 * x[0, :-1]
    assert noise.mean() == pytest.approx(0, abs=0.02)
    assert noise.std() == pytest.approx(1, abs=0.02)
    assert np.corrcoef(noise[1:].ravel(), noise[:-1].ravel())[0, 1] == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_shapes_and_types(dtype: str) -> None:
    task = TASK.model_copy(update={"dtype": dtype})
    x, y = training_chunk(task, 0, 0, 7)
    assert (x.shape, y.shape, str(x.dtype), str(y.dtype)) == ((7, 7, 3), (7, 6, 3), dtype, dtype)
    x, y = evaluation_paths(task, 0)
    assert (x.shape, y.shape, str(x.dtype), str(y.dtype)) == ((7, 5), (6, 5), dtype, "float64")


def test_initial_parameters_are_glorot_uniform() -> None:
    params = initial_params(Model(), seed=0)
    assert sum(value.size for value in params.values()) == 371
    for name, value in params.items():
        if not name.startswith("W_"):
            assert not value.any()
            continue
        bound = np.sqrt(6 / sum(value.shape))
        assert np.abs(value).max() <= bound
        assert np.abs(value).max() > 0.7 * bound
    wide = initial_params(Model(hidden=200), seed=0)["W_hh"]
    assert wide.std() == pytest.approx(np.sqrt(6 / 400 / 3), rel=0.02)


def test_initial_parameters_differ_between_seeds_only() -> None:
    first, again, other = (initial_params(Model(), seed)["W_hh"] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
