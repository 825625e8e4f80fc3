"""The JAX variants beyond the default network: cells, layers, activations, many seeds at once."""

from __future__ import annotations

from itertools import islice
from typing import Any

import numpy as np
import pytest

from harness import Task
from harness.backend import registry
from harness.backend.protocol import Array, TrainsManySeeds
from harness.errors import Unavailable
from harness.measure import parity
from harness.task.data import initial_params, training_chunk
from tests.helpers.shared import shared

JAX = "jax"
STEP = "jax-step"
TUNED = "jax-tuned"
slow = pytest.mark.slow
SMALL: dict[str, Any] = {"n_steps": 8, "hidden": 6}
BROADCAST: dict[str, Any] = {"gradient": "stateful-broadcast"}


@pytest.mark.parametrize(
    ("name", "at_once", "changes"),
    [
        pytest.param(JAX, 1, {"cell": "gru", "layers": 2}, id="jax-gru-2"),
        pytest.param(JAX, 1, BROADCAST, id="jax-broadcast"),
        pytest.param(STEP, 1, {}, id="step"),
        pytest.param(TUNED, 1, {"activation": "relu"}, id="tuned-relu-1"),
        # Many seeds are compared with each alone below.
        pytest.param(TUNED, 2, {"activation": "relu"}, id="tuned-relu-many", marks=slow),
    ],
)
def test_parity_in_float64(name: str, at_once: int, changes: dict[str, Any]) -> None:
    """The first half of what is slow elsewhere: JAX compiles for seconds in either precision."""
    compared = parity.compare(registry.load(name), "cpu", Task(**SMALL | changes), at_once)
    checks = list(islice(compared, 4 * len({1, at_once})))
    assert {(c.dtype, c.at_once) for c in checks} == {("float64", 1), ("float64", at_once)}
    assert {c.quantity for c in checks} == {"outputs", "gradient", "losses", "trajectory"}
    assert not [str(c) for c in checks if not c.passed]


@slow
@pytest.mark.parametrize(
    ("name", "changes"),
    [
        pytest.param(JAX, {"activation": "relu", "layers": 3}, id="jax-relu-3"),
        # Rounding decided here which way a gradient goes, until samples were chosen for it.
        (JAX, {"activation": "relu", "layers": 2, "hidden": 10}),
        pytest.param(JAX, {"cell": "gru", "layers": 2}, id="jax-gru-2"),
        pytest.param(JAX, {"cell": "lstm", "layers": 2}, id="jax-lstm-2"),
        pytest.param(JAX, BROADCAST, id="jax-broadcast"),
        pytest.param(JAX, BROADCAST | {"cell": "gru"}, id="jax-broadcast-gru"),
        pytest.param(JAX, BROADCAST | {"cell": "lstm", "layers": 2}, id="jax-broadcast-lstm-2"),
        pytest.param(STEP, BROADCAST, id="step-broadcast"),
        pytest.param(STEP, {"cell": "lstm"}, id="step-lstm-1"),
        pytest.param(TUNED, {"activation": "relu"}, id="tuned-relu-1"),
    ],
)
def test_parity_of_every_network(name: str, changes: dict[str, Any]) -> None:
    checks = list(parity.compare(registry.load(name), "cpu", Task(**SMALL | changes)))
    assert {c.dtype for c in checks} == {"float32", "float64"}
    assert not [str(c) for c in checks if not c.passed]


@slow
@pytest.mark.parametrize(
    ("name", "at_once"),
    # Of the last, a group of eight side by side and one left over.
    [(JAX, 2), (STEP, 2), (TUNED, 9)],
)
def test_parity_of_many_seeds(name: str, at_once: int) -> None:
    checks = list(parity.compare(registry.load(name), "cpu", Task(**SMALL), at_once=at_once))
    assert not [str(c) for c in checks if not c.passed]


@pytest.mark.parametrize("seeds", [pytest.param(3, marks=slow), 9, pytest.param(16, marks=slow)])
def test_many_seeds_end_as_each_alone(seeds: int) -> None:
    task = Task(**SMALL, epochs=6, dtype="float64")
    backend = shared(TUNED, task.model)
    losses, params = trained_at_once(backend, task, seeds)
    for seed in range(seeds):
        state = backend.init(initial_params(task.model, seed))
        state, losses_E = backend.train(state, *training_chunk(task, seed, 0, task.epochs))
        np.testing.assert_allclose(losses[:, seed], losses_E, rtol=1e-12)
        for name, value in backend.params(state).items():
            np.testing.assert_allclose(params[name][seed], value, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [(JAX, "float32"), (TUNED, "float64"), pytest.param(TUNED, "float32", marks=slow)],
)
def test_a_seed_that_diverges_leaves_the_others_alone(name: str, dtype: Any) -> None:
    task = Task(**SMALL, epochs=6, dtype=dtype)
    backend = shared(name, task.model)
    losses, params = trained_at_once(backend, task, 9)
    spoilt_losses, spoilt = trained_at_once(backend, task, 9, spoil=2)
    others = [seed for seed in range(9) if seed != 2]
    assert not np.isfinite(spoilt_losses[:, 2]).any()
    np.testing.assert_array_equal(spoilt_losses[:, others], losses[:, others])
    for key, value in params.items():
        np.testing.assert_array_equal(spoilt[key][others], value[others])
        assert np.isfinite(spoilt[key][others]).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_tanh_of_the_tuned_variant_is_that_of_numpy(dtype: str) -> None:
    """Through the protocol: one step of a network that returns its only hidden unit."""
    task = Task(hidden=1, dtype=dtype)
    backend = registry.load(TUNED)(task.model, "cpu")
    params = {name: np.zeros_like(v) for name, v in initial_params(task.model, 0).items()}
    params["W_xh"][:] = 1
    params["W_1"][0, 0] = params["W_2"][0, 0] = 1
    x_TN = np.concatenate([np.linspace(-12, 12, 10_001), [-1e30, -1e-30, 0, 1e-30, 1e30]])
    x_TN = x_TN[None].astype(dtype)
    got = backend.predict(backend.init(params), x_TN)
    np.testing.assert_allclose(got, np.tanh(x_TN), rtol=8 * np.finfo(x_TN.dtype).eps)


@pytest.mark.parametrize("name", [JAX, TUNED])
def test_a_platform_that_counts_no_memory_has_no_peak(name: str) -> None:
    backend: Any = registry.load(name)(Task(**SMALL).model, "cpu")
    assert backend.peak_gpu_mb() is None


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"cell": "gru"}, "`cell` = gru"),
        ({"cell": "lstm"}, "`cell` = lstm"),
        ({"layers": 2}, "`layers` = 2"),
        (BROADCAST, "`gradient` = stateful-broadcast"),
    ],
)
def test_the_tuned_variant_says_what_it_does_not_train(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(Unavailable, match=f"backend `jax-tuned` does not train .* {field}"):
        registry.load(TUNED)(Task(**changes).model, "cpu")


def trained_at_once(
    backend: Any, task: Task, seeds: int, spoil: int | None = None
) -> tuple[Array, dict[str, Array]]:
    """Train so many seeds; the one to spoil starts from weights that are not finite."""
    assert isinstance(backend, TrainsManySeeds)
    starts = [initial_params(task.model, seed) for seed in range(seeds)]
    params = {name: np.stack([start[name] for start in starts]) for name in starts[0]}
    if spoil is not None:
        params["W_hh"][spoil] = np.inf
    chunks = [training_chunk(task, seed, 0, task.epochs) for seed in range(seeds)]
    x_ERTB, y_ERTB = (np.stack(arrays, axis=1) for arrays in zip(*chunks, strict=True))
    state, losses_ER = backend.train_many(backend.init_many(params), x_ERTB, y_ERTB)
    return losses_ER, dict(backend.params_many(state))
