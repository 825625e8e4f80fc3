"""The reference against finite differences and the formulas of the papers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.reference import ReferenceBackend
from harness import Model
from harness.backend.model import Cell
from harness.backend.protocol import Array


def draw(
    model: Model, seed: int, steps: int = 4, batch: int = 3
) -> tuple[dict[str, Array], Array, Array]:
    rng = np.random.default_rng(seed)
    params: dict[str, Array] = {
        name: rng.standard_normal(shape) * 0.7 for name, shape in model.shapes.items()
    }
    x_TB: Array = rng.standard_normal((steps + 1, batch))
    y_TB: Array = rng.standard_normal((steps, batch))
    return params, x_TB, y_TB


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
@given(seed=st.integers(0, 10**6), hidden=st.integers(1, 4), layers=st.integers(1, 3))
def test_the_gradient_is_that_of_the_loss(cell: Cell, seed: int, hidden: int, layers: int) -> None:
    model = Model(hidden=hidden, dtype="float64", cell=cell, layers=layers)
    backend = ReferenceBackend(model, "cpu")
    params, x_TB, y_TB = draw(model, seed)
    _, gradient = backend.loss_and_gradient(params, x_TB, y_TB)
    step, rng = 1e-6, np.random.default_rng(seed)
    for name, value in params.items():
        # A few elements of each parameter; another example draws others.
        for index in map(tuple, rng.permutation(list(np.ndindex(value.shape)))[:2]):
            losses = []
            for sign in (1, -1):
                moved = value.copy()
                moved[index] += sign * step
                losses.append(backend.loss_and_gradient(params | {name: moved}, x_TB, y_TB)[0])
            difference = (losses[0] - losses[1]) / (2 * step)
            assert gradient[name][index] == pytest.approx(difference, rel=1e-5, abs=1e-7)


def test_the_gradient_of_a_relu_network_is_that_of_the_loss() -> None:
    model = Model(hidden=3, dtype="float64", activation="relu", layers=2)
    backend = ReferenceBackend(model, "cpu")
    # A kink inside the step would spoil the difference quotient: this seed has none.
    params, x_TB, y_TB = draw(model, 5)
    _, gradient = backend.loss_and_gradient(params, x_TB, y_TB)
    for name, value in params.items():
        for index in np.ndindex(value.shape):
            moved = [params | {name: value.copy()} for _ in range(2)]
            for one, sign in zip(moved, (1, -1), strict=True):
                one[name][index] += sign * 1e-6
            more, less = (backend.loss_and_gradient(one, x_TB, y_TB)[0] for one in moved)
            assert gradient[name][index] == pytest.approx((more - less) / 2e-6, rel=1e-5, abs=1e-7)


@given(seed=st.integers(0, 10**6), hidden=st.integers(1, 4), steps=st.integers(1, 6))
def test_the_gradient_of_a_stateful_broadcast(seed: int, hidden: int, steps: int) -> None:
    """The formula of the tanh cell: t upwards, and none for the initial state."""
    model = Model(hidden=hidden, dtype="float64", gradient="stateful-broadcast")
    params, x_TB, y_TB = draw(model, seed, steps)
    _, gradient = ReferenceBackend(model, "cpu").loss_and_gradient(params, x_TB, y_TB)
    head = (params["W_2"] @ params["W_1"])[0]
    offset = params["W_2"] @ params["b_1"] + params["b_2"]
    want = {name: np.zeros_like(value) for name, value in params.items()}
    h_HB = np.repeat(params["h0"][:, None], x_TB.shape[1], axis=1)
    delta_HB = np.zeros_like(h_HB)
    for t, x_B in enumerate(x_TB):
        before_HB = h_HB
        h_HB = np.tanh(params["W_xh"] * x_B + params["W_hh"] @ before_HB + params["b_h"][:, None])
        g_HB = np.zeros_like(h_HB)
        if t:  # The first output is not scored.
            g_HB = np.outer(head, 2 * (head @ h_HB + offset - y_TB[t - 1]) / y_TB.size)
        delta_HB = (g_HB + params["W_hh"].T @ delta_HB) * (1 - h_HB**2)
        want["W_xh"] += delta_HB @ x_B[:, None]
        want["W_hh"] += delta_HB @ before_HB.T
        want["b_h"] += delta_HB.sum(1)
    assert not gradient["h0"].any()
    for name in ("W_xh", "W_hh", "b_h"):
        np.testing.assert_allclose(gradient[name], want[name], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_a_stateful_broadcast_spoils_only_what_goes_through_time(cell: Cell) -> None:
    exact = Model(2, dtype="float64", cell=cell, layers=2)
    broken = replace(exact, gradient="stateful-broadcast")
    sample = draw(exact, 1)
    right, wrong = (
        ReferenceBackend(model, "cpu").loss_and_gradient(*sample) for model in (exact, broken)
    )
    assert right[0] == wrong[0]
    for name, gradient in wrong[1].items():
        if name.startswith(("W_1", "b_1", "W_2", "b_2")):
            np.testing.assert_array_equal(gradient, right[1][name])
        elif name.endswith(("h0", "c0")):
            assert not gradient.any()
        else:
            assert not np.allclose(gradient, right[1][name], rtol=1e-3)


def test_the_loss_is_that_of_the_predictions_after_the_first_step() -> None:
    model = Model(hidden=3, dtype="float64")
    backend = ReferenceBackend(model, "cpu")
    params, x_TB, y_TB = draw(model, 0)
    state = backend.init(params)
    expected = np.mean((backend.predict(state, x_TB)[1:] - y_TB) ** 2)
    _, losses = backend.train(state, x_TB[None], y_TB[None])
    assert losses == pytest.approx([expected])


def test_the_network_is_the_one_that_the_model_describes() -> None:
    model = Model(hidden=2, dtype="float64")
    params, x_TB, _ = draw(model, 0, steps=1, batch=1)
    h = params["h0"]
    for x in x_TB[:, 0]:
        h = np.tanh(params["W_xh"] @ [x] + params["W_hh"] @ h + params["b_h"])
        head = params["W_1"] @ h + params["b_1"]
        output = params["W_2"] @ head + params["b_2"]
    backend = ReferenceBackend(model, "cpu")
    assert backend.predict(backend.init(params), x_TB)[-1] == pytest.approx(output)


def test_the_first_step_of_adam_is_the_learning_rate() -> None:
    # With bias correction, the first step is rate * g / (|g| + eps).
    model = Model(hidden=2, dtype="float64", learning_rate=0.01)
    backend = ReferenceBackend(model, "cpu")
    params, x_TB, y_TB = draw(model, 1)
    _, gradient = backend.loss_and_gradient(params, x_TB, y_TB)
    state, _ = backend.train(backend.init(params), x_TB[None], y_TB[None])
    for name, g in gradient.items():
        expected = params[name] - 0.01 * g / (np.abs(g) + 1e-8)
        np.testing.assert_allclose(backend.params(state)[name], expected, rtol=1e-12)
