"""The floor: the training step fused by hand, so near to what one core can do as we can get.

How much of a framework's time is the framework? This backend answers: it computes the same numbers
with nothing in between (`floor_kernels`), compiled by numba at the first call. Seeds are trained
one after the other, which keeps each in the cache, or side by side where there are more threads.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numba
import numpy as np

from backends import floor_kernels
from harness.backend.model import Model
from harness.backend.protocol import Array, Params
from harness.errors import Unavailable


@dataclass
class State:
    """R networks: parameters and Adam's moments, each R tables, and the number of steps taken."""

    params_R: Array
    mean_R: Array
    square_R: Array
    steps: int = 0


class FloorBackend:
    """Trains one network or many; each ends bit for bit as it would have ended alone."""

    def __init__(self, model: Model, device: str) -> None:
        if device != "cpu":
            raise Unavailable("backend `floor` runs on the CPU only.")
        model.require("floor", cell=("rnn",), layers=(1,))
        self.model = model
        self.threads = numba.get_num_threads()
        self._work = cache(floor_kernels.Work.make)

    def init(self, params: Params) -> State:
        """Start one training."""
        return self.init_many({name: value[None] for name, value in params.items()})

    def train(self, state: State, x_ETB: Array, y_ETB: Array) -> tuple[State, Array]:
        """Take one optimiser step per epoch."""
        state, losses_ER = self.train_many(state, x_ETB[:, None], y_ETB[:, None])
        return state, losses_ER[:, 0]

    def predict(self, state: State, x_TN: Array) -> Array:
        """Return the outputs for every step fed."""
        output_TN: Array = self.predict_many(state, x_TN[None])[0]
        return output_TN

    def params(self, state: State) -> Params:
        """Return a copy of the parameters."""
        return {name: value[0] for name, value in self.params_many(state).items()}

    def init_many(self, params: Params) -> State:
        """Lay out the parameters of each network in one table; the moments start at zero."""
        hidden = self.model.hidden
        rows, columns = floor_kernels.A + floor_kernels.even(hidden), hidden + 2
        params_R: Array = np.zeros((len(params["b_2"]), rows, columns), self.model.dtype)
        state = State(params_R, np.zeros_like(params_R), np.zeros_like(params_R))
        for r, table in enumerate(state.params_R):
            for name, view in floor_kernels.named(table, hidden).items():
                view[:] = params[name][r]
        return state

    def train_many(self, state: State, x_ERTB: Array, y_ERTB: Array) -> tuple[State, Array]:
        """Train each network for the whole chunk before the next."""
        losses_ER = np.empty(y_ERTB.shape[:2], self.model.dtype)
        train, _, work = self._compiled(x_ERTB.shape[2:])
        train(
            state.params_R,
            state.mean_R,
            state.square_R,
            state.steps,
            self.model.learning_rate,
            self.model.optimiser == "adam",
            np.ascontiguousarray(x_ERTB),
            np.ascontiguousarray(y_ERTB),
            losses_ER,
            work,
        )
        state.steps += len(losses_ER)
        return state, losses_ER

    def predict_many(self, state: State, x_RTN: Array) -> Array:
        """Return the outputs of each network for every step fed."""
        output_RTN = np.empty_like(x_RTN, order="C")
        _, predict, work = self._compiled(x_RTN.shape[1:])
        predict(state.params_R, np.ascontiguousarray(x_RTN), output_RTN, work)
        return output_RTN

    def params_many(self, state: State) -> Params:
        """Return a copy of the parameters of each network."""
        tables = [floor_kernels.named(table, self.model.hidden) for table in state.params_R]
        return {name: np.stack([table[name] for table in tables]) for name in self.model.shapes}

    def _compiled(self, shape: tuple[int, ...]) -> tuple[Any, Any, floor_kernels.Work]:
        """Return `train`, `predict` and their work space for inputs [T+1, B]."""
        fed, paths = shape
        dtype, hidden, threads = self.model.dtype, self.model.hidden, self.threads
        lanes = floor_kernels.width(dtype, paths)
        kernels = floor_kernels.kernels(dtype, self.model.activation, lanes, threads > 1)
        return (*kernels, self._work(threads, fed - 1, hidden, dtype, lanes))
