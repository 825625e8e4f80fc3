"""The yardstick of parity: NumPy in float64, back-propagation through time derived by hand.

Slow and plain on purpose. Whatever dtype the model asks for, the arithmetic is float64. Shape
suffixes: E epochs, T time steps (here of the inputs, one more than of the targets), B batch,
N evaluation paths, H hidden units, D head units.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harness.errors import Unavailable
from harness.model import ADAM_BETA1, ADAM_BETA2, ADAM_EPS, Model
from harness.protocol import Array, Params


@dataclass
class State:
    """Parameters, Adam's two moments and the number of steps taken."""

    params: dict[str, Array]
    mean: dict[str, Array]
    square: dict[str, Array]
    step: int = 0


class ReferenceBackend:
    """The network, its gradient and its optimiser, each as a formula."""

    def __init__(self, model: Model, device: str) -> None:
        if device != "cpu":
            raise Unavailable("backend `reference` runs on the CPU only.")
        self.model = model

    def init(self, params: Params) -> State:
        """Copy the parameters to float64; the moments start at zero."""
        exact: dict[str, Array] = {
            name: np.array(value, np.float64) for name, value in params.items()
        }
        zeros: dict[str, Array] = {name: np.zeros_like(value) for name, value in exact.items()}
        return State(exact, mean=zeros, square=dict(zeros))

    def train(self, state: State, x_ETB: Array, y_ETB: Array) -> tuple[State, Array]:
        """Take one optimiser step per epoch."""
        losses = []
        for x_TB, y_TB in zip(x_ETB.astype(np.float64), y_ETB.astype(np.float64), strict=True):
            loss, gradient = self.loss_and_gradient(state.params, x_TB, y_TB)
            self._update(state, gradient)
            losses.append(loss)
        return state, np.array(losses)

    def predict(self, state: State, x_TN: Array) -> Array:
        """Return the outputs for every step fed."""
        return self._forward(state.params, x_TN.astype(np.float64))[2]

    def params(self, state: State) -> Params:
        """Return a copy of the parameters."""
        return {name: value.copy() for name, value in state.params.items()}

    def loss_and_gradient(
        self, params: Params, x_TB: Array, y_TB: Array
    ) -> tuple[float, dict[str, Array]]:
        """Return the mean squared error over the last T outputs and its gradient by parameter.

        Back-propagation through time (Werbos 1990): with `delta_t` the derivative of the loss by
        the argument of tanh at step t,
        `delta_t = (1 - h_t^2) * (d loss/d h_t directly + W_hh^T delta_{t+1})`.
        """
        h_TBH, d_TBD, output_TB = self._forward(params, x_TB)
        residual_TB = output_TB[1:] - y_TB

        g_output_TB = np.zeros_like(output_TB)
        g_output_TB[1:] = 2 * residual_TB / residual_TB.size
        g_d_TBD = g_output_TB[..., None] * params["W_2"][0]
        g_h_TBH = g_d_TBD @ params["W_1"]

        delta_TBH = np.empty_like(h_TBH)
        from_later_BH = np.zeros_like(h_TBH[0])
        for t in reversed(range(len(x_TB))):
            delta_TBH[t] = (1 - h_TBH[t] ** 2) * (g_h_TBH[t] + from_later_BH)
            from_later_BH = delta_TBH[t] @ params["W_hh"]

        before_TBH = np.concatenate([np.broadcast_to(params["h0"], h_TBH[:1].shape), h_TBH[:-1]])
        gradient = {
            "h0": from_later_BH.sum(0),
            "W_xh": np.einsum("tbh,tb->h", delta_TBH, x_TB)[:, None],
            "W_hh": np.einsum("tbh,tbk->hk", delta_TBH, before_TBH, optimize=True),
            "b_h": delta_TBH.sum((0, 1)),
            "W_1": np.einsum("tbd,tbh->dh", g_d_TBD, h_TBH, optimize=True),
            "b_1": g_d_TBD.sum((0, 1)),
            "W_2": np.einsum("tb,tbd->d", g_output_TB, d_TBD)[None],
            "b_2": g_output_TB.sum()[None],
        }
        return float(np.mean(residual_TB**2)), gradient

    def _forward(self, params: Params, x_TB: Array) -> tuple[Array, Array, Array]:
        """Return hidden states [T, B, H], head units [T, B, D] and outputs [T, B]."""
        h_BH = np.broadcast_to(params["h0"], (x_TB.shape[1], self.model.hidden))
        states = []
        for x_B in x_TB:
            h_BH = np.tanh(
                x_B[:, None] * params["W_xh"][:, 0] + h_BH @ params["W_hh"].T + params["b_h"]
            )
            states.append(h_BH)
        h_TBH = np.stack(states)
        d_TBD = h_TBH @ params["W_1"].T + params["b_1"]
        return h_TBH, d_TBD, d_TBD @ params["W_2"][0] + params["b_2"]

    def _update(self, state: State, gradient: Params) -> None:
        """One step of Adam (Kingma and Ba 2015, algorithm 1) or of plain gradient descent."""
        rate = self.model.learning_rate
        state.step += 1
        for name, g in gradient.items():
            if self.model.optimiser == "sgd":
                state.params[name] = state.params[name] - rate * g
                continue
            state.mean[name] = ADAM_BETA1 * state.mean[name] + (1 - ADAM_BETA1) * g
            state.square[name] = ADAM_BETA2 * state.square[name] + (1 - ADAM_BETA2) * g**2
            mean = state.mean[name] / (1 - ADAM_BETA1**state.step)
            square = state.square[name] / (1 - ADAM_BETA2**state.step)
            state.params[name] = state.params[name] - rate * mean / (np.sqrt(square) + ADAM_EPS)
