"""One table of backends, each held to the protocol and to the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from harness import Task
from harness.backend import registry
from harness.backend.protocol import Array, Backend
from harness.measure import parity
from harness.task.data import initial_params, training_chunk
from tests.helpers.shared import shared

NAMES = [
    "jax",
    "jax-step",
    "jax-tuned",
    "reference",
    "torch",
    "torch-tuned",
]
slow = pytest.mark.slow
# The network of `jax-step` is that of `jax`.
ALIKE = [pytest.param(name, marks=[slow] if name == "jax-step" else []) for name in NAMES]
TASKS = [
    Task(),
    Task(hidden=64, batch_size=5, n_steps=7),
    Task(hidden=1, batch_size=1, n_steps=1),
]
SHORT: dict[str, Any] = {"epochs": 12, "n_steps": 10}


def precisions(*slow_names: str) -> list[Any]:
    """Return names with precisions; JAX compiles for seconds in either."""
    return [
        pytest.param(name, dtype, marks=[slow] if name in slow_names or is_slow else [])
        for name in NAMES
        for dtype in ("float32", "float64")
        for is_slow in ["jax" in name and dtype == "float32"]
    ]


def test_the_table_is_complete() -> None:
    # The floor, what takes minutes to compile and what needs Julia have tests of their own.
    assert {*NAMES, "floor", "flux", "julia", "torch-compile"} == set(registry.installed())


@pytest.mark.parametrize(
    ("name", "task"),
    [
        # JAX compiles for seconds at every size; `test_jax_variants` has `jax-step` in float64.
        pytest.param(name, task, marks=[slow] if is_slow else [])
        for name in NAMES
        for number, task in enumerate(TASKS)
        for is_slow in [name == "jax-step" or (number > 0 and "jax" in name)]
    ],
)
def test_parity(name: str, task: Task) -> None:
    checks = list(parity.compare(registry.load(name), "cpu", task))
    assert {(c.quantity, c.dtype) for c in checks} == {
        (quantity, dtype)
        for quantity in ("outputs", "gradient", "losses", "trajectory")
        for dtype in ("float32", "float64")
    }
    assert not [str(c) for c in checks if not c.passed]


def trained(
    backend: Backend[Any], task: Task, chunk: int, seed: int = 0
) -> tuple[dict[str, Array], Array]:
    state = backend.init(initial_params(task.model, seed))
    losses = []
    for first in range(0, task.epochs, chunk):
        state, losses_E = backend.train(state, *training_chunk(task, seed, first, chunk))
        losses.append(losses_E)
    return dict(backend.params(state)), np.concatenate(losses)


@pytest.mark.parametrize(("name", "dtype"), precisions("jax-step"))
def test_the_same_seed_gives_the_same_losses_bit_for_bit(name: str, dtype: Any) -> None:
    task = Task(**SHORT, dtype=dtype)
    anew = registry.load(name)(task.model, "cpu")
    params, losses = trained(shared(name, task.model), task, chunk=3)
    again, losses_again = trained(anew, task, chunk=3)
    np.testing.assert_array_equal(losses, losses_again)
    for key, value in params.items():
        np.testing.assert_array_equal(value, again[key])
    assert not np.array_equal(losses, trained(anew, task, chunk=3, seed=1)[1])


@pytest.mark.parametrize("optimiser", ["adam", pytest.param("sgd", marks=slow)])
@pytest.mark.parametrize("name", ALIKE)
def test_how_the_epochs_are_cut_into_chunks_does_not_matter(name: str, optimiser: Any) -> None:
    task = Task(**SHORT, optimiser=optimiser, dtype="float64")
    backend = shared(name, task.model)
    _, losses = trained(backend, task, chunk=12)
    _, cut = trained(backend, task, chunk=3)
    np.testing.assert_allclose(losses, cut, rtol=1e-12)


@pytest.mark.parametrize(("name", "dtype"), precisions())
def test_training_and_predicting_leave_what_they_were_given_alone(name: str, dtype: Any) -> None:
    task = Task(**SHORT, dtype=dtype)
    backend = shared(name, task.model)
    params = initial_params(task.model, 0)
    x_ETB, y_ETB = training_chunk(task, 0, 0, 3)
    copies = [array.copy() for array in (*params.values(), x_ETB, y_ETB)]
    state = backend.init(params)
    state, _ = backend.train(state, x_ETB, y_ETB)
    first = backend.predict(state, x_ETB[0])
    np.testing.assert_array_equal(first, backend.predict(state, x_ETB[0]))
    for array, copy in zip((*params.values(), x_ETB, y_ETB), copies, strict=True):
        np.testing.assert_array_equal(array, copy)


@pytest.mark.parametrize("name", ["jax", "torch"])
def test_a_missing_gpu_is_one_clear_line(name: str) -> None:
    from harness.errors import Unavailable
    from harness.measure import machine

    if machine.has_gpu():
        pytest.skip("this machine has a GPU")
    if name == "jax":
        pytest.skip("JAX chooses its platform once per process: tested through the command line")
    with pytest.raises(Unavailable, match=f"backend `{name}`"):
        registry.load(name)(Task().model, "gpu")
