"""The yardstick of parity: NumPy in float64, back-propagation through time derived by hand.

Slow and plain on purpose. Whatever dtype the model asks for, the arithmetic is float64. Shape
suffixes: E epochs, T time steps (here of the inputs, one more than of the targets), B batch,
N evaluation paths, I inputs of a layer, H hidden units, G gates (stacked, so G * H rows), D head
units.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np

from harness.backend.model import ADAM_BETA1, ADAM_BETA2, ADAM_EPS, Gradient, Model
from harness.backend.protocol import Array, Params
from harness.errors import Unavailable

Carry: TypeAlias = tuple[Array, ...]
"""What a layer hands on from step to step: h, and c of an lstm, each [B, H]."""
Tape: TypeAlias = tuple[Array, ...]
"""What a step keeps for the way back."""


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
        self.cell = _cell(model)

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
        """Return the mean squared error over the last T outputs and its gradient by parameter."""
        layers, d_TBD, output_TB = self._forward(params, x_TB)
        loss, g_output_TB = self._loss(output_TB, y_TB)
        g_d_TBD = g_output_TB[..., None] * params["W_2"][0]
        gradient: dict[str, Array] = {
            "W_1": np.einsum("tbd,tbh->dh", g_d_TBD, layers[-1].h_TBH, optimize=True),
            "b_1": g_d_TBD.sum((0, 1)),
            "W_2": np.einsum("tb,tbd->d", g_output_TB, d_TBD)[None],
            "b_2": g_output_TB.sum()[None],
        }
        return loss, gradient | self._backward(layers, g_d_TBD @ params["W_1"])

    def _loss(self, output_TB: Array, y_TB: Array) -> tuple[float, Array]:
        """Return the loss and its derivative by each output; the first output is not scored."""
        residual_TB = output_TB[1:] - y_TB
        g_output_TB = np.zeros_like(output_TB)
        g_output_TB[1:] = 2 * residual_TB / residual_TB.size
        return float(np.mean(residual_TB**2)), g_output_TB

    def _backward(self, layers: list[Layer], g_h_TBH: Array) -> dict[str, Array]:
        """Return the gradient of all recurrent layers, given that by each h_t of the last."""
        gradient: dict[str, Array] = {}
        for layer in reversed(layers):
            own, g_h_TBH = layer.gradient(self.cell, g_h_TBH, self.model.gradient)
            gradient |= {layer.prefix + name: value for name, value in own.items()}
        return gradient

    def _forward(self, params: Params, x_TB: Array) -> tuple[list[Layer], Array, Array]:
        """Return the recurrent layers, head units [T, B, D] and outputs [T, B]."""
        layers: list[Layer] = []
        inputs_TBI = x_TB[..., None]
        for prefix in self.model.prefixes:
            own = {n.removeprefix(prefix): v for n, v in params.items() if n.startswith(prefix)}
            layers.append(Layer.run(prefix, self.cell, own, inputs_TBI))
            inputs_TBI = layers[-1].h_TBH
        d_TBD = inputs_TBI @ params["W_1"].T + params["b_1"]
        return layers, d_TBD, d_TBD @ params["W_2"][0] + params["b_2"]

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


@dataclass
class Layer:
    """A recurrent layer that has been run over all steps."""

    prefix: str
    params: Params
    """Its own, by their names without the prefix."""
    inputs_TBI: Array
    carries: list[Carry]
    """Before the first step and after each."""
    tapes: list[Tape]

    @classmethod
    def run(cls, prefix: str, cell: _Cell, params: Params, inputs_TBI: Array) -> Layer:
        """Run a layer from its initial state over all inputs."""
        start = [params[name] for name in ("h0", "c0") if name in params]
        carries = [tuple(np.broadcast_to(v, (inputs_TBI.shape[1], v.shape[-1])) for v in start)]
        tapes = []
        for input_BI in inputs_TBI:
            from_input = input_BI @ params["W_xh"].T + params["b_h"]
            from_past = carries[-1][0] @ params["W_hh"].T
            if "b_hn" in params:  # Of the last gate.
                from_past[:, -len(params["b_hn"]) :] += params["b_hn"]
            carry, tape = cell.step(from_input, from_past, carries[-1])
            carries.append(carry)
            tapes.append(tape)
        return cls(prefix, params, inputs_TBI, carries, tapes)

    @property
    def h_TBH(self) -> Array:
        """The state after each step."""
        return np.stack([carry[0] for carry in self.carries[1:]])

    def gradient(
        self, cell: _Cell, g_h_TBH: Array, order: Gradient
    ) -> tuple[dict[str, Array], Array]:
        """Return the gradient by parameter and by input, given that by each h_t.

        Back-propagation through time (Werbos 1990): from the last step to the first, what a step
        passes back through `W_hh` is added to what the loss asks of the step before directly. A
        "stateful-broadcast" goes from the first step to the last instead.
        """
        deltas, pasts = [], []
        none: Carry = tuple(np.zeros_like(value) for value in self.carries[0])
        g_carry, steps = none, list(range(len(self.tapes)))
        if order == "exact":
            steps.reverse()
        for t in steps:
            g_carry = (g_carry[0] + g_h_TBH[t], *g_carry[1:])
            delta, past, kept = cell.back(self.tapes[t], g_carry)
            g_carry = (kept[0] + past @ self.params["W_hh"], *kept[1:])
            deltas.append(delta)
            pasts.append(past)
        if order == "exact":
            deltas.reverse()
            pasts.reverse()
        else:
            g_carry = none  # What the last step returned goes nowhere.
        return self.by_parameter(np.stack(deltas), np.stack(pasts), g_carry)

    def by_parameter(
        self, delta_TBG: Array, past_TBG: Array, g_start: Carry
    ) -> tuple[dict[str, Array], Array]:
        """Return the gradient by parameter and by input, given those that `_Cell.back` returns."""
        before_TBH = np.stack([carry[0] for carry in self.carries[:-1]])
        gradient = {
            "W_xh": np.einsum("tbg,tbi->gi", delta_TBG, self.inputs_TBI, optimize=True),
            "W_hh": np.einsum("tbg,tbh->gh", past_TBG, before_TBH, optimize=True),
            "b_h": delta_TBG.sum((0, 1)),
        }
        names = ("h0", "c0")[: len(g_start)]
        gradient |= {name: g.sum(0) for name, g in zip(names, g_start, strict=True)}
        if "b_hn" in self.params:
            gradient["b_hn"] = past_TBG.sum((0, 1))[-len(self.params["b_hn"]) :]
        return gradient, delta_TBG @ self.params["W_xh"]


class _Cell(Protocol):
    """A step of a recurrent layer, forwards and backwards; formulas: `harness.backend.model`."""

    def step(self, from_input: Array, from_past: Array, carry: Carry, /) -> tuple[Carry, Tape]:
        """Return the carry after a step, given W_xh x + b_h and W_hh h (+ b_hn), [B, G * H]."""

    def back(self, tape: Tape, g_carry: Carry, /) -> tuple[Array, Array, Carry]:
        """Return the derivatives of the loss by what `step` was given.

        By `from_input`, by `from_past`, and by the carry before the step as far as it does not go
        through `W_hh`; `g_carry` is that by the carry after it.
        """


class _Rnn:
    def __init__(self, relu: bool) -> None:
        self.relu = relu

    def step(self, from_input: Array, from_past: Array, _: Carry, /) -> tuple[Carry, Tape]:
        argument = from_input + from_past
        h = np.maximum(argument, 0) if self.relu else np.tanh(argument)
        return (h,), (h,)

    def back(self, tape: Tape, g_carry: Carry, /) -> tuple[Array, Array, Carry]:
        (h,), (g_h,) = tape, g_carry
        delta = g_h * (h > 0) if self.relu else g_h * (1 - h**2)
        return delta, delta, (np.zeros_like(h),)


class _Gru:
    def step(self, from_input: Array, from_past: Array, carry: Carry, /) -> tuple[Carry, Tape]:
        (x_r, x_z, x_n), (h_r, h_z, h_n), (h,) = _gates(from_input, 3), _gates(from_past, 3), carry
        r, z = _logistic(x_r + h_r), _logistic(x_z + h_z)
        n = np.tanh(x_n + r * h_n)
        return ((1 - z) * n + z * h,), (r, z, n, h_n, h)

    def back(self, tape: Tape, g_carry: Carry, /) -> tuple[Array, Array, Carry]:
        (r, z, n, h_n, h), (g_h,) = tape, g_carry
        d_n = g_h * (1 - z) * (1 - n**2)
        d_r = d_n * h_n * r * (1 - r)
        d_z = g_h * (h - n) * z * (1 - z)
        delta, past = (np.concatenate([d_r, d_z, last], axis=1) for last in (d_n, d_n * r))
        return delta, past, (g_h * z,)


class _Lstm:
    def step(self, from_input: Array, from_past: Array, carry: Carry, /) -> tuple[Carry, Tape]:
        i, f, g, o = _gates(from_input + from_past, 4)
        i, f, g, o = _logistic(i), _logistic(f), np.tanh(g), _logistic(o)
        c = f * carry[1] + i * g
        return (o * np.tanh(c), c), (i, f, g, o, carry[1], np.tanh(c))

    def back(self, tape: Tape, g_carry: Carry, /) -> tuple[Array, Array, Carry]:
        (i, f, g, o, c_before, tanh_c), (g_h, g_c) = tape, g_carry
        g_c = g_c + g_h * o * (1 - tanh_c**2)
        d_i, d_f = g_c * g * i * (1 - i), g_c * c_before * f * (1 - f)
        d_g, d_o = g_c * i * (1 - g**2), g_h * tanh_c * o * (1 - o)
        delta = np.concatenate([d_i, d_f, d_g, d_o], axis=1)
        return delta, delta, (np.zeros_like(g_h), g_c * f)


def _cell(model: Model) -> _Cell:
    cells: dict[str, _Cell] = {
        "rnn": _Rnn(model.activation == "relu"),
        "gru": _Gru(),
        "lstm": _Lstm(),
    }
    return cells[model.cell]


def _gates(stacked: Array, number: int) -> list[Array]:
    return np.split(stacked, number, axis=1)


def _logistic(argument: Array) -> Array:
    return (1 + np.tanh(argument / 2)) / 2
