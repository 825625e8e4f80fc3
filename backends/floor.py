"""The floor: the training step fused by hand, so near to what one core can do as we can get.

How much of a framework's time is the framework? This backend answers: it computes the same numbers
with nothing in between (`floor_kernels`), compiled by numba at the first call. Seeds are trained
one after the other, which keeps each in the cache, or side by side where there are more threads.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np

from backends import floor_kernels
from harness.errors import Unavailable
from harness.model import Model
from harness.protocol import Array, Params


@dataclass
class State:
    """R networks: parameters and Adam's moments, each [R, flat], and the number of steps taken."""

    flat_RP: Array
    mean_RP: Array
    square_RP: Array
    steps: int = 0


class FloorBackend:
    """Trains one network or many; each ends bit for bit as it would have ended alone."""

    def __init__(self, model: Model, device: str) -> None:
        if device != "cpu":
            raise Unavailable("backend `floor` runs on the CPU only.")
        model.require("floor", cell=("rnn",), layers=(1,))
        self.model = model
        self.parallel = numba.get_num_threads() > 1

    def init(self, params: Params) -> State:
        """Start one training."""
        return self.init_many({name: value[None] for name, value in params.items()})

    def train(self, state: State, x_ETB: Array, y_ETB: Array) -> tuple[State, Array]:
        """Take one optimiser step per epoch."""
        state, losses_ER = self.train_many(state, x_ETB[:, None], y_ETB[:, None])
        return state, losses_ER[:, 0]

    def predict(self, state: State, x_TN: Array) -> Array:
        """Return the outputs for every step fed."""
        return self.predict_many(state, x_TN[None])[0]

    def params(self, state: State) -> Params:
        """Return a copy of the parameters."""
        return {name: value[0] for name, value in self.params_many(state).items()}

    def init_many(self, params: Params) -> State:
        """Lay out the parameters of each network in one flat vector; the moments start at zero."""
        seeds, size = len(params["b_2"]), floor_kernels.size(self.model.hidden)
        flat_RP: Array = np.zeros((seeds, size), self.model.dtype)
        for r in range(seeds):
            for name, view in self._views(flat_RP[r]).items():
                view[:] = params[name][r]
        return State(flat_RP, np.zeros_like(flat_RP), np.zeros_like(flat_RP))

    def train_many(self, state: State, x_ERTB: Array, y_ERTB: Array) -> tuple[State, Array]:
        """Train each network for the whole chunk before the next."""
        losses_ER = self._kernels(x_ERTB.shape[-1]).train(
            state.flat_RP,
            state.mean_RP,
            state.square_RP,
            state.steps,
            self.model.learning_rate,
            self.model.optimiser == "adam",
            self.model.hidden,
            np.ascontiguousarray(x_ERTB),
            np.ascontiguousarray(y_ERTB),
        )
        state.steps += len(losses_ER)
        return state, losses_ER

    def predict_many(self, state: State, x_RTN: Array) -> Array:
        """Return the outputs of each network for every step fed."""
        kernels = self._kernels(x_RTN.shape[-1])
        return kernels.predict(state.flat_RP, self.model.hidden, np.ascontiguousarray(x_RTN))

    def params_many(self, state: State) -> Params:
        """Return a copy of the parameters of each network."""
        each = [self._views(flat) for flat in state.flat_RP.copy()]
        return {name: np.stack([views[name] for views in each]) for name in self.model.shapes}

    def _kernels(self, paths: int) -> floor_kernels.Kernels:
        lanes = floor_kernels.width(self.model.dtype, paths)
        return floor_kernels.kernels(self.model.dtype, self.model.activation, lanes, self.parallel)

    def _views(self, flat: Array) -> dict[str, Array]:
        hidden = self.model.hidden
        A, h0, W_1, b_1, W_2, b_2 = floor_kernels.parts(flat, hidden)
        return {
            "h0": h0[:hidden],
            "W_xh": A[:hidden, 1:2],
            "W_hh": A[:hidden, 2:],
            "b_h": A[:hidden, 0],
            "W_1": W_1,
            "b_1": b_1,
            "W_2": W_2[None],
            "b_2": b_2,
        }
