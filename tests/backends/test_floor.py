"""The backend `floor`: the numbers of the reference, and many seeds as each alone.

Each activation, precision and width of vectors is compiled apart, which takes seconds. So the fast
tests have wide vectors in float64 and narrow ones in float32.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import pytest

from backends.floor import FloorBackend
from backends.reference import ReferenceBackend
from harness.backend.model import Model
from harness.backend.protocol import Array, TrainsManySeeds
from harness.errors import Unavailable
from harness.measure import parity
from harness.task.task import Task

SEEDS, EPOCHS = 3, 4


def drawn(model: Model, steps: int, batch: int) -> tuple[Mapping[str, Array], Array, Array]:
    """Return parameters, inputs and targets of `SEEDS` seeds."""
    rng = np.random.default_rng(1)

    def draw(*shape: int) -> Array:
        return rng.standard_normal(shape).astype(model.dtype)

    params = {
        name: draw(SEEDS, *shape) / np.sqrt(shape[-1]).astype(model.dtype)
        for name, shape in model.shapes.items()
    }
    x_ERTB = draw(EPOCHS, SEEDS, steps + 1, batch)
    return params, x_ERTB, draw(EPOCHS, SEEDS, steps, batch) + 5


def alone(values: Mapping[str, Array], seed: int) -> dict[str, Array]:
    return {name: value[seed] for name, value in values.items()}


def test_the_floor_is_at_parity_in_float64() -> None:
    checks = list(islice(parity.compare(FloorBackend, "cpu", Task(), SEEDS), 8))
    assert {(check.dtype, check.at_once) for check in checks} == {
        ("float64", 1),
        ("float64", SEEDS),
    }
    assert {check.quantity for check in checks} == {"outputs", "gradient", "losses", "trajectory"}
    assert all(check.error is not None and check.error < check.tolerance for check in checks)


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_the_floor_is_at_parity(activation: Any) -> None:
    checks = list(parity.compare(FloorBackend, "cpu", Task(activation=activation), SEEDS))
    assert {check.dtype for check in checks} == {"float32", "float64"}
    assert all(check.error is not None and check.error < check.tolerance for check in checks)


def sizes() -> Iterator[Any]:
    """Yield hidden units, batch, steps and precision."""
    for dtype in ("float32", "float64"):
        for hidden, batch, steps in (
            *((1, 32, 10), (64, 32, 5), (3, 77, 30), (10, 32, 1)),
            *((10, 1, 10), (10, 5, 1), (7, 4, 17)),
        ):
            slow = [pytest.mark.slow] if (dtype == "float32") == (batch >= 32) else []
            yield pytest.param(hidden, batch, steps, dtype, marks=slow)


@pytest.mark.parametrize(("hidden", "batch", "steps", "dtype"), list(sizes()))
def test_any_size_gives_the_numbers_of_the_reference(
    hidden: int, batch: int, steps: int, dtype: Any
) -> None:
    model = Model(hidden=hidden, dtype=dtype, optimiser="sgd", learning_rate=1e-3)
    params, x_ERTB, y_ERTB = drawn(model, steps, batch)
    floor, reference = FloorBackend(model, "cpu"), ReferenceBackend(model, "cpu")
    got, want = floor.init(alone(params, 0)), reference.init(alone(params, 0))
    rtol = parity.TOLERANCE[model.dtype]
    for part in (slice(0, 3), slice(3, EPOCHS)):
        got, losses_E = floor.train(got, x_ERTB[part, 0], y_ERTB[part, 0])
        want, expected_E = reference.train(want, x_ERTB[part, 0], y_ERTB[part, 0])
        np.testing.assert_allclose(losses_E, expected_E, rtol, rtol / 10)
    for name, value in floor.params(got).items():
        assert value.dtype == dtype
        np.testing.assert_allclose(value, reference.params(want)[name], rtol, rtol / 10)
    x_TN = x_ERTB[-1, 0]
    np.testing.assert_allclose(
        floor.predict(got, x_TN), reference.predict(want, x_TN), rtol, atol=1e-4
    )


@pytest.mark.parametrize("threads", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("diverging", [False, True])
def test_many_seeds_end_bit_for_bit_as_each_alone(threads: int, diverging: bool) -> None:
    model = Model(hidden=7, dtype="float64")
    params, x_ERTB, y_ERTB = drawn(model, 12, 40)
    if diverging:
        params["W_2"][1] = 1e300
    floor = FloorBackend(model, "cpu")
    assert isinstance(floor, TrainsManySeeds)
    many = FloorBackend(model, "cpu")
    many.threads = threads
    state, losses_ER = many.train_many(many.init_many(params), x_ERTB, y_ERTB)
    assert np.isfinite(losses_ER[:, [0, 2]]).all()
    assert np.isfinite(losses_ER[:, 1]).all() != diverging
    for seed in range(SEEDS):
        one, losses_E = floor.train(
            floor.init(alone(params, seed)), x_ERTB[:, seed], y_ERTB[:, seed]
        )
        np.testing.assert_array_equal(losses_E, losses_ER[:, seed])
        for name, value in floor.params(one).items():
            np.testing.assert_array_equal(value, many.params_many(state)[name][seed])
        np.testing.assert_array_equal(
            floor.predict(one, x_ERTB[0, seed]), many.predict_many(state, x_ERTB[0])[seed]
        )


def test_tanh_is_as_exact_as_its_precision() -> None:
    tolerated: dict[parity.DType, int] = {"float32": 4, "float64": 8}
    for dtype, ulps in tolerated.items():
        model = Model(hidden=1, dtype=dtype)
        x_N = np.concatenate([np.linspace(-25, 25, 5001), np.geomspace(1e-8, 1, 999)])
        # Few paths are narrow vectors; the steps do not depend on each other here.
        x_TN = x_N.reshape((-1, 8) if dtype == "float32" else (1, -1)).astype(dtype)
        params = {name: np.zeros(shape, dtype) for name, shape in model.shapes.items()}
        params["W_xh"][:] = params["W_1"][0] = params["W_2"][:] = 1
        floor = FloorBackend(model, "cpu")
        got = floor.predict(floor.init(params), x_TN)
        want = np.tanh(x_TN.astype(np.float64))
        assert np.max(np.abs(got - want) / np.abs(want).clip(1e-300)) < ulps * np.finfo(dtype).eps


def test_what_it_does_not_do_is_refused_in_a_sentence() -> None:
    with pytest.raises(Unavailable, match="runs on the CPU only"):
        FloorBackend(Model(), "gpu")
    with pytest.raises(Unavailable, match="does not train a network with `cell` = gru"):
        FloorBackend(replace(Model(), cell="gru"), "cpu")
    with pytest.raises(Unavailable, match="does not train a network with `layers` = 2"):
        FloorBackend(replace(Model(), layers=2), "cpu")
    with pytest.raises(Unavailable, match="`gradient` = stateful-broadcast; it does with exact"):
        FloorBackend(replace(Model(), gradient="stateful-broadcast"), "cpu")
