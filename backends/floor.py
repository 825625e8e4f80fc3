"""The floor: the training step fused by hand, about as fast as one core allows.

It shows how much of a framework's time is the framework: it computes the same numbers with nothing
in between (`floor_kernels`), compiled by numba at the first call. Seeds are trained one after the
other, which keeps each in the cache, or side by side where there are more threads.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numba
import numpy as np

from backends import floor_layout
from backends.floor_kernels import Kernels, kernels
from backends.floor_layout import Work
from backends.many_seeds import ByManySeeds
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


class FloorBackend(ByManySeeds[State]):
    """Trains many networks; each ends as it would have ended alone, to the bit."""

    def __init__(self, model: Model, device: str) -> None:
        if device != "cpu":
            raise Unavailable("backend `floor` runs on the CPU only.")
        model.require("floor", cell=("rnn",), layers=(1,), gradient=("exact",))
        self.model = model
        self.threads = numba.get_num_threads()
        self._work = cache(Work.make)

    def init_many(self, params: Params) -> State:
        """Lay out the parameters of each network in one table; the moments start at zero."""
        hidden = self.model.hidden
        rows, columns = floor_layout.A + floor_layout.even(hidden), hidden + 2
        params_R: Array = np.zeros((len(params["b_2"]), rows, columns), self.model.dtype)
        state = State(params_R, np.zeros_like(params_R), np.zeros_like(params_R))
        for r, table in enumerate(state.params_R):
            for name, view in floor_layout.named(table, hidden).items():
                view[:] = params[name][r]
        return state

    def train_many(self, state: State, x_ERTB: Array, y_ERTB: Array) -> tuple[State, Array]:
        """Train each network for the whole chunk before the next."""
        losses_ER = np.empty(y_ERTB.shape[:2], self.model.dtype)
        compiled, work = self._compiled(x_ERTB.shape[2:])
        compiled.train(
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
        compiled, work = self._compiled(x_RTN.shape[1:])
        compiled.predict(state.params_R, np.ascontiguousarray(x_RTN), output_RTN, work)
        return output_RTN

    def params_many(self, state: State) -> Params:
        """Return a copy of the parameters of each network."""
        tables = [floor_layout.named(table, self.model.hidden) for table in state.params_R]
        return {name: np.stack([table[name] for table in tables]) for name in self.model.shapes}

    def _compiled(self, shape: tuple[int, ...]) -> tuple[Kernels, Work]:
        """Return the kernels and their memory for inputs [T+1, B]."""
        fed, paths = shape
        dtype, hidden, threads = self.model.dtype, self.model.hidden, self.threads
        lanes = floor_layout.width(dtype, paths)
        compiled = kernels(dtype, self.model.activation, lanes, threads > 1)
        return compiled, self._work(threads, fed - 1, hidden, dtype, lanes)
